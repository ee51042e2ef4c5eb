"""Long short-term memory: Hochreiter & Schmidhuber (1997) with the forget gate of Gers (2000)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells import initializers
from jaxlstm.cells.activations import activation as by_name
from jaxlstm.cells.base import Cell, affine, check_last, check_size, described

GATES = ("i", "f", "g", "o")
"""The order of the four blocks of every LSTM kernel and bias: input, forget, candidate, output."""


class LSTMParams(NamedTuple):
    """Weights of an LSTM: `kernel` [I, 4H], `recurrent_kernel` [H, 4H], `bias` [4H] or None.

    The columns are the gates i, f, g, o, each a block of H.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None


class LSTMCarry(NamedTuple):
    """State of an LSTM: `hidden` h, the output, and `cell` c, the memory, both [*batch, H]."""

    hidden: Array
    cell: Array


@described
def lstm(
    *,
    input_size: int,
    hidden_size: int,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    use_bias: bool = True,
    forget_bias: float = 1.0,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    recurrent_init: Callable[..., Array] = initializers.orthogonal(),
    bias_init: Callable[..., Array] | None = None,
    param_dtype: Any = "float32",
    dtype: Any = None,
    cell_dtype: Any = None,
) -> Cell:
    """An LSTM: a memory c_t that is written, kept and read through gates.

    With σ the recurrent activation and φ the activation,

        i, f, o = σ(x_t W + h_{t−1} U + b)   in their blocks
        g       = φ(x_t W + h_{t−1} U + b)   in its block
        c_t     = f ⊙ c_{t−1} + i ⊙ g
        h_t     = o ⊙ φ(c_t)

    Hochreiter & Schmidhuber (1997), "Long short-term memory"; the forget gate is from Gers,
    Schmidhuber, Cummins (2000), "Learning to forget: continual prediction with LSTM".

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        activation: φ, by name: "tanh", "relu", "identity" or "sigmoid".
        recurrent_activation: σ, by name.
        use_bias: whether there is a bias b.
        forget_bias: where the bias of the forget gate starts. The default of 1 keeps f near 0.73,
            so that the error reaches back from the first update on; with 0 it halves at every step
            (Gers et al. 2000; Jozefowicz, Zaremba, Sutskever 2015).
        kernel_init: initialiser of W [I, 4H].
        recurrent_init: initialiser of each gate's block [H, H] of U. Orthogonal per gate; see
            `jaxlstm.initializers` for the reason and for the way of Keras.
        bias_init: initialiser of the whole bias [4H], such as `initializers.chrono(t_max=…)`; takes
            the place of `forget_bias`.
        param_dtype: type of the parameters.
        dtype: type of the computation, `hidden` and the outputs; that of the parameters if None.
        cell_dtype: type of the memory c; that of the parameters if None, so that a computation in
            bfloat16 still remembers in float32.

    Returns:
        A `Cell` with `LSTMParams` and `LSTMCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size is not positive or an activation is unknown.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstm(input_size=8, hidden_size=4)
        >>> params = cell.init(jax.random.key(0))
        >>> carry = cell.initial_carry(params, (32,))
        >>> carry, output = cell.step(params, carry, jnp.ones((32, 8)))
        >>> output.shape, carry.hidden.shape, carry.cell.shape
        ((32, 4), (32, 4), (32, 4))
    """
    check_size("input_size", input_size)
    check_size("hidden_size", hidden_size)
    phi = by_name(activation, "activation")
    sigma = by_name(recurrent_activation, "recurrent_activation")
    draw_bias = bias_init or initializers.forget_bias(value=forget_bias)

    def init(key: Array) -> LSTMParams:
        k_kernel, k_recurrent, k_bias = jax.random.split(key, 3)
        width = len(GATES) * hidden_size
        return LSTMParams(
            kernel_init(k_kernel, (input_size, width), param_dtype),
            initializers.recurrent_blocks(
                recurrent_init, k_recurrent, hidden_size, len(GATES), param_dtype
            ),
            draw_bias(k_bias, (width,), param_dtype) if use_bias else None,
        )

    def initial_carry(params: LSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMCarry:
        shape = (*batch_shape, hidden_size)
        param = params.kernel.dtype
        return LSTMCarry(jnp.zeros(shape, dtype or param), jnp.zeros(shape, cell_dtype or param))

    def step(params: LSTMParams, carry: LSTMCarry, x: Array) -> tuple[LSTMCarry, Array]:
        check_last("x", x, input_size)
        compute = dtype or params.kernel.dtype
        z = affine(x, params.kernel, params.bias, compute)
        z = z + affine(carry.hidden, params.recurrent_kernel, None, compute)
        i, f, g, o = jnp.split(z, len(GATES), axis=-1)
        memory = carry.cell.dtype
        cell = sigma(f).astype(memory) * carry.cell + (sigma(i) * phi(g)).astype(memory)
        hidden = sigma(o) * phi(cell).astype(compute)
        return LSTMCarry(hidden, cell), hidden

    return Cell(init, initial_carry, step, input_shape=(input_size,))
