"""The sLSTM of xLSTM, and the stabilised exponential gates of both of its cells (Beck 2024)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name as named

from jaxlstm.cells import initializers
from jaxlstm.cells.base import (
    Cell,
    Split,
    check_choice,
    check_size,
    described,
    like,
    serialized,
    wide,
)
from jaxlstm.cells.lstm import GATES, LSTMParams
from jaxlstm.cells.products import affine, gated_affine


@serialized
class SLSTMCarry(NamedTuple):
    """State of an sLSTM, each [*batch, H].

    Args:
        hidden: h, the output.
        cell: c, the memory, in units of exp(stabilizer).
        normalizer: n, the sum of the input gates, in the same units.
        stabilizer: m, the running maximum of the gates' logarithms.
    """

    hidden: Array
    cell: Array
    normalizer: Array
    stabilizer: Array


def exponential_gates(
    log_forget: Array, i: Array, m: Array, empty: Array
) -> tuple[Array, Array, Array]:
    """The gates i' and f' in units of the next stabiliser, and that.

    Where the memory is empty nothing bounds f', which only derivatives see: it is kept finite.
    """
    kept = log_forget + m
    top = jnp.where(empty, i, jnp.maximum(kept, i))
    finite = jnp.log(jnp.finfo(i.dtype).max) / 2
    return jnp.exp(i - top), jnp.exp(jnp.minimum(kept - top, finite)), top


def log_forget_of(name: str) -> Callable[[Array], Array]:
    """The logarithm of a forget gate, by the name of its activation."""
    choices = {"sigmoid": jax.nn.log_sigmoid, "exp": lambda z: z}
    check_choice("forget_activation", name, choices)
    return choices[name]


@described
def slstm(
    *,
    input_size: int,
    hidden_size: int,
    forget_activation: str = "sigmoid",
    forget_bias: float = 1.0,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    recurrent_init: Callable[..., Array] = initializers.orthogonal(),
    bias_init: Callable[..., Array] | None = None,
    param_dtype: Any = "float32",
    dtype: Any = None,
    cell_dtype: Any = None,
) -> Cell:
    """An sLSTM: an LSTM whose input gate is exponential and whose memory is normalised.

    With z = x_t W + h_{t−1} U + b in blocks i, f, g, o and log f = log σ(z_f), or z_f for "exp",

        m_t = max(log f + m_{t−1}, z_i)                      the stabiliser
        i' = exp(z_i − m_t),   f' = exp(log f + m_{t−1} − m_t)
        c_t = f' ⊙ c_{t−1} + i' ⊙ tanh(z_g),   n_t = f' ⊙ n_{t−1} + i'
        h_t = σ(z_o) ⊙ c_t / n_t

    The stabiliser changes no h_t; it keeps the exponentials in range. Where the memory is still
    empty, n_{t−1} = 0, it is z_i, so that n_t is never below 1. Beck et al. (2024), "xLSTM:
    extended long short-term memory", equations 8–17.

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        forget_activation: "sigmoid" or "exp".
        forget_bias: where the bias of the forget gate starts.
        kernel_init: initialiser of W [I, 4H].
        recurrent_init: initialiser of each gate's block [H, H] of U.
        bias_init: initialiser of b [4H]; takes the place of `forget_bias`.
        param_dtype: type of the parameters.
        dtype: type of the factors of products, `hidden` and the outputs; that of the parameters if
            None. Gates are computed in float32 at least.
        cell_dtype: type of c, n and m; that of the parameters if None.

    Returns:
        A `Cell` with `LSTMParams` and `SLSTMCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size is not positive or the forget activation is unknown.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.slstm(input_size=8, hidden_size=4)
        >>> jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((32, 10, 8))).outputs.shape
        (32, 10, 4)
    """
    check_size("input_size", input_size)
    check_size("hidden_size", hidden_size)
    log_forget = log_forget_of(forget_activation)
    draw_bias = bias_init or initializers.forget_bias(value=forget_bias)
    width = len(GATES) * hidden_size

    def init(key: Array) -> LSTMParams:
        k_kernel, k_recurrent, k_bias = jax.random.split(key, 3)
        return LSTMParams(
            kernel_init(k_kernel, (input_size, width), param_dtype),
            initializers.recurrent_blocks(
                recurrent_init, k_recurrent, (hidden_size, hidden_size), len(GATES), param_dtype
            ),
            draw_bias(k_bias, (width,), param_dtype),
        )

    def initial_carry(params: LSTMParams, batch_shape: tuple[int, ...] = ()) -> SLSTMCarry:
        shape, param = (*batch_shape, hidden_size), params.kernel.dtype
        # An array of its own for each, so that all can be donated.
        memory = [jnp.zeros(shape, cell_dtype or param) for _ in range(3)]
        return SLSTMCarry(jnp.zeros(shape, dtype or param), *memory)

    def inputs(params: LSTMParams, x: Array) -> Array:
        return affine(x, params.kernel, params.bias, dtype or params.kernel.dtype)

    def states(params: LSTMParams, hidden: Any) -> Array:
        compute = dtype or params.kernel.dtype
        return gated_affine(hidden, params.recurrent_kernel, len(GATES), compute)

    def merge(extra: Any, carry: SLSTMCarry, net: dict[str, Array]) -> tuple[SLSTMCarry, Array]:
        old, carry = carry, jax.tree.map(wide, carry)
        memory = carry.cell.dtype
        i, f, g, o = jnp.split(net["z"], len(GATES), axis=-1)
        i, g = i.astype(memory), named(jnp.tanh(g), "g").astype(memory)
        forget, empty = log_forget(f.astype(memory)), carry.normalizer == 0
        opened, kept, top = exponential_gates(forget, i, carry.stabilizer, empty)
        opened, kept = named(opened, "i"), named(kept, "f")
        cell = kept * carry.cell + opened * g
        normalizer = kept * carry.normalizer + opened
        shown = named(jax.nn.sigmoid(o), "o") * (cell / normalizer).astype(o.dtype)
        new = like(SLSTMCarry(shown, cell, normalizer, top), old)
        return new, new.hidden

    split = Split(
        inputs=lambda params, x: {"z": inputs(params, x)},
        states=lambda params, carry: {"z": states(params, carry.hidden)},
        merge=merge,
    )
    return Cell(
        init,
        initial_carry,
        split.step,
        (input_size,),
        gated_step=split.gated_step,
        gates=len(GATES),
        split=split,
    )
