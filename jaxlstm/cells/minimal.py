"""Minimal LSTM and GRU: gates that do not look at the state, so that time can run in parallel."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name as named

from jaxlstm.cells import initializers
from jaxlstm.cells.base import Cell, Split, check_size, described, like, serialized
from jaxlstm.cells.products import affine


@serialized
class MinimalParams(NamedTuple):
    """Weights of a minimal unit with n blocks of H columns: `kernel` [I, nH], `bias` [nH] or None.

    The blocks are z, n for `min_gru` and i, f, g for `min_lstm`.
    """

    kernel: Array
    bias: Array | None


@serialized
class MinimalCarry(NamedTuple):
    """State of a minimal unit: `hidden` [*batch, H], which is also its output."""

    hidden: Array


@described
def min_gru(
    *,
    input_size: int,
    hidden_size: int,
    use_bias: bool = True,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    bias_init: Callable[..., Array] = initializers.constant(value=0.0),
    param_dtype: Any = "float32",
    dtype: Any = None,
) -> Cell:
    """A minimal GRU: h_t = (1 − z) ⊙ h_{t−1} + z ⊙ n, with z = σ(x_t W_z + b_z), n = x_t W_n + b_n.

    The recurrence is linear and elementwise in h, so `unroll(backend="associative")` runs it in
    O(log T) turns. Feng, Tung, Ahmed, Bengio, Hajimirsadeghi (2024), "Were RNNs all we needed?".

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        use_bias: whether there is a bias.
        kernel_init: initialiser of W [I, 2H], the blocks z and n.
        bias_init: initialiser of b [2H].
        param_dtype: type of the parameters.
        dtype: type of the factors of products, the state and the outputs; that of the parameters
            if None. What lies between is computed in float32 at least.

    Returns:
        A `Cell` with `MinimalParams` and `MinimalCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.min_gru(input_size=8, hidden_size=4)
        >>> params = cell.init(jax.random.key(0))
        >>> inputs = jax.random.normal(jax.random.key(1), (2, 100, 8))
        >>> scan = jl.unroll(cell, params, inputs, backend="scan").outputs
        >>> parallel = jl.unroll(cell, params, inputs, backend="associative").outputs
        >>> bool(jnp.allclose(scan, parallel, atol=1e-5))
        True
    """

    def linear(z: Array, n: Array) -> tuple[Array, Array]:
        z = named(jax.nn.sigmoid(z), "z")
        return 1 - z, z * n

    return _minimal(
        2, linear, input_size, hidden_size, use_bias, kernel_init, bias_init, param_dtype, dtype
    )


@described
def min_lstm(
    *,
    input_size: int,
    hidden_size: int,
    forget_bias: float = 1.0,
    use_bias: bool = True,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    param_dtype: Any = "float32",
    dtype: Any = None,
) -> Cell:
    """A minimal LSTM: h_t = f' ⊙ h_{t−1} + i' ⊙ g, whose gates are shares of one.

        i, f = σ(x_t W + b) in their blocks,  g = x_t W + b in its block
        f' = f / (f + i),  i' = i / (f + i)

    Feng, Tung, Ahmed, Bengio, Hajimirsadeghi (2024), "Were RNNs all we needed?". Linear in h: see
    `min_gru`.

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        forget_bias: where the bias of f starts; those of i and g start at zero.
        use_bias: whether there is a bias.
        kernel_init: initialiser of W [I, 3H], the blocks i, f and g.
        param_dtype: type of the parameters.
        dtype: type of the factors of products, the state and the outputs; that of the parameters
            if None. What lies between is computed in float32 at least.

    Returns:
        A `Cell` with `MinimalParams` and `MinimalCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.min_lstm(input_size=8, hidden_size=4)
        >>> jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((32, 10, 8))).outputs.shape
        (32, 10, 4)
    """

    def linear(i: Array, f: Array, g: Array) -> tuple[Array, Array]:
        # f / (f + i) from the logarithms, so that two closed gates do not divide zero by zero.
        share = named(jax.nn.sigmoid(jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)), "f")
        return share, (1 - share) * g

    def bias_init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return jnp.zeros(shape, dtype).at[hidden_size : 2 * hidden_size].set(forget_bias)

    return _minimal(
        3, linear, input_size, hidden_size, use_bias, kernel_init, bias_init, param_dtype, dtype
    )


def _minimal(
    blocks: int,
    gates: Callable[..., tuple[Array, Array]],
    input_size: int,
    hidden_size: int,
    use_bias: bool,
    kernel_init: Callable[..., Array],
    bias_init: Callable[..., Array],
    param_dtype: Any,
    dtype: Any,
) -> Cell:
    check_size("input_size", input_size)
    check_size("hidden_size", hidden_size)
    width = blocks * hidden_size

    def init(key: Array) -> MinimalParams:
        k_kernel, k_bias = jax.random.split(key)
        bias = bias_init(k_bias, (width,), param_dtype) if use_bias else None
        return MinimalParams(kernel_init(k_kernel, (input_size, width), param_dtype), bias)

    def initial_carry(params: MinimalParams, batch_shape: tuple[int, ...] = ()) -> MinimalCarry:
        return MinimalCarry(jnp.zeros((*batch_shape, hidden_size), dtype or params.kernel.dtype))

    def inputs(params: MinimalParams, x: Array) -> Array:
        return affine(x, params.kernel, params.bias, dtype or params.kernel.dtype)

    def linear(params: MinimalParams, x: Array) -> tuple[Array, Array]:
        return gates(*jnp.split(inputs(params, x), blocks, axis=-1))

    def merge(extra: Any, carry: MinimalCarry, net: dict[str, Array]) -> tuple[MinimalCarry, Array]:
        decay, written = gates(*jnp.split(net["z"], blocks, axis=-1))
        new = like(MinimalCarry(decay * carry.hidden.astype(decay.dtype) + written), carry)
        return new, new.hidden

    split = Split(
        inputs=lambda params, x: {"z": inputs(params, x)},
        states=lambda params, carry: {},
        merge=merge,
    )
    return Cell(init, initial_carry, split.step, (input_size,), linear=linear, split=split)
