"""Simple recurrent networks: Elman (1990), and IndRNN (2018), whose units see only themselves."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name as named

from jaxlstm.cells import initializers
from jaxlstm.cells.activations import Activation, function_of
from jaxlstm.cells.base import Cell, Split, check_size, described, like, serialized, ungated
from jaxlstm.cells.products import affine, gated_affine


@serialized
class RNNParams(NamedTuple):
    """Weights of a simple RNN: `kernel` [I, H], `recurrent_kernel` [H, H], `bias` [H] or None."""

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None


@serialized
class RNNVariantParams(NamedTuple):
    """Weights of a simple RNN with a second bias, `recurrent_bias` [H], as torch has it."""

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None
    recurrent_bias: Array


@serialized
class RNNCarry(NamedTuple):
    """State of a simple RNN: `hidden` [*batch, H], which is also its output."""

    hidden: Array


@described
def rnn(
    *,
    input_size: int,
    hidden_size: int,
    activation: Activation = "tanh",
    use_bias: bool = True,
    recurrent_bias: bool = False,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    recurrent_init: Callable[..., Array] = initializers.orthogonal(),
    bias_init: Callable[..., Array] = initializers.constant(value=0.0),
    param_dtype: Any = "float32",
    dtype: Any = None,
) -> Cell:
    """A simple recurrent network, h_t = φ(x_t W + h_{t−1} U + b).

    Its output is its state, so the last output equals the last state. Elman (1990), "Finding
    structure in time".

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        activation: φ: "tanh", "relu", "identity", "sigmoid" or a function of an array.
        use_bias: whether there is a bias b.
        recurrent_bias: whether there is a second bias, added to h_{t−1} U. It does nothing that b
            does not: it keeps weights that come from elsewhere as they are.
        kernel_init: initialiser of W [I, H].
        recurrent_init: initialiser of U [H, H]; `initializers.identity()` with "relu" gives the
            IRNN of Le, Jaitly, Hinton (2015).
        bias_init: initialiser of b [H].
        param_dtype: type of the parameters.
        dtype: type of the factors of products, the state and the outputs; that of the parameters
            if None. What lies between is computed in float32 at least.

    Returns:
        A `Cell` with `RNNParams`, or `RNNVariantParams` with a second bias, and `RNNCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size is not positive or the activation is unknown.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.rnn(input_size=8, hidden_size=4)
        >>> params = cell.init(jax.random.key(0))
        >>> out = jl.unroll(cell, params, jnp.ones((32, 10, 8)))
        >>> out.outputs.shape, bool((out.outputs[:, -1] == out.carry.hidden).all())
        ((32, 10, 4), True)
    """
    check_size("input_size", input_size)
    check_size("hidden_size", hidden_size)
    phi = function_of(activation, "activation")

    def init(key: Array) -> RNNParams | RNNVariantParams:
        k_kernel, k_recurrent, k_bias = jax.random.split(key, 3)
        params = RNNParams(
            kernel_init(k_kernel, (input_size, hidden_size), param_dtype),
            recurrent_init(k_recurrent, (hidden_size, hidden_size), param_dtype),
            initializers.bias_blocks(bias_init, k_bias, hidden_size, 1, param_dtype)
            if use_bias
            else None,
        )
        if not recurrent_bias:
            return params
        return RNNVariantParams(*params, jnp.zeros(hidden_size, param_dtype))

    def initial_carry(params: RNNParams, batch_shape: tuple[int, ...] = ()) -> RNNCarry:
        return RNNCarry(jnp.zeros((*batch_shape, hidden_size), dtype or params.kernel.dtype))

    def inputs(params: Any, x: Array) -> Array:
        return affine(x, params.kernel, params.bias, dtype or params.kernel.dtype)

    def states(params: Any, hidden: Any) -> Array:
        compute = dtype or params.kernel.dtype
        more = params.recurrent_bias if recurrent_bias else None
        return gated_affine(hidden, params.recurrent_kernel, 1, compute, more)

    def merge(extra: Any, carry: RNNCarry, net: dict[str, Array]) -> tuple[RNNCarry, Array]:
        new = like(RNNCarry(named(phi(net["z"]), "h")), carry)
        return new, new.hidden

    split = Split(
        inputs=lambda params, x: {"z": inputs(params, x)},
        states=lambda params, carry: {"z": states(params, carry.hidden)},
        merge=merge,
    )
    return Cell(
        init, initial_carry, split.step, (input_size,), gated_step=split.gated_step, split=split
    )


@described
def indrnn(
    *,
    input_size: int,
    hidden_size: int,
    activation: Activation = "relu",
    use_bias: bool = True,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    recurrent_init: Callable[..., Array] = initializers.uniform(limit=1.0),
    bias_init: Callable[..., Array] = initializers.constant(value=0.0),
    param_dtype: Any = "float32",
    dtype: Any = None,
) -> Cell:
    """An independently recurrent network, h_t = φ(x_t W + u ⊙ h_{t−1} + b).

    Each unit sees only its own past, so the state Jacobian is diagonal and its growth over n steps
    is u^n, unit by unit. Li, Li, Cook, Zhu, Gao (2018), "Independently recurrent neural network
    (IndRNN): building a longer and deeper RNN".

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        activation: φ, by name or a function.
        use_bias: whether there is a bias b.
        kernel_init: initialiser of W [I, H].
        recurrent_init: initialiser of u [H].
        bias_init: initialiser of b [H].
        param_dtype: type of the parameters.
        dtype: type of the factors of products, the state and the outputs; that of the parameters
            if None. What lies between is computed in float32 at least.

    Returns:
        A `Cell` with `RNNParams`, whose `recurrent_kernel` is u [H], and `RNNCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size is not positive or the activation is unknown.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.indrnn(input_size=8, hidden_size=4)
        >>> jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((32, 10, 8))).outputs.shape
        (32, 10, 4)
    """
    check_size("input_size", input_size)
    check_size("hidden_size", hidden_size)
    phi = function_of(activation, "activation")

    def init(key: Array) -> RNNParams:
        k_kernel, k_recurrent, k_bias = jax.random.split(key, 3)
        return RNNParams(
            kernel_init(k_kernel, (input_size, hidden_size), param_dtype),
            recurrent_init(k_recurrent, (hidden_size,), param_dtype),
            initializers.bias_blocks(bias_init, k_bias, hidden_size, 1, param_dtype)
            if use_bias
            else None,
        )

    def initial_carry(params: RNNParams, batch_shape: tuple[int, ...] = ()) -> RNNCarry:
        return RNNCarry(jnp.zeros((*batch_shape, hidden_size), dtype or params.kernel.dtype))

    def gated_step(
        params: RNNParams, carry: RNNCarry, x: Array, hidden: Any
    ) -> tuple[RNNCarry, Array]:
        compute = dtype or params.kernel.dtype
        seen = hidden[0] if isinstance(hidden, tuple) else hidden
        z = affine(x, params.kernel, params.bias, compute)
        weight = jnp.broadcast_to(params.recurrent_kernel.astype(compute), seen.shape)
        z = z + weight.astype(z.dtype) * seen.astype(compute).astype(z.dtype)
        new = like(RNNCarry(named(phi(z), "h")), carry)
        return new, new.hidden

    return Cell(init, initial_carry, ungated(gated_step), (input_size,), gated_step=gated_step)
