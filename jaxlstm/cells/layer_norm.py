"""An LSTM whose sums are normalised at every step (Ba, Kiros, Hinton 2016)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name as named

from jaxlstm.cells import initializers
from jaxlstm.cells.base import Cell, Split, check_size, described, like, serialized, wide
from jaxlstm.cells.lstm import GATES, LSTMCarry
from jaxlstm.cells.products import affine, gated_affine


@serialized
class LayerNormLSTMParams(NamedTuple):
    """Weights of a layer-normalised LSTM.

    Args:
        kernel: [I, 4H], blocks i, f, g, o.
        recurrent_kernel: [H, 4H].
        bias: [4H].
        kernel_scale: [4H], the gain of the normalised product with the input.
        recurrent_scale: [4H], the gain of the normalised product with the state.
        cell_scale: [H], the gain of the normalised memory.
        cell_bias: [H], its shift.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array
    kernel_scale: Array
    recurrent_scale: Array
    cell_scale: Array
    cell_bias: Array


@described
def layer_norm_lstm(
    *,
    input_size: int,
    hidden_size: int,
    epsilon: float = 1e-5,
    forget_bias: float = 1.0,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    recurrent_init: Callable[..., Array] = initializers.orthogonal(),
    bias_init: Callable[..., Array] | None = None,
    param_dtype: Any = "float32",
    dtype: Any = None,
    cell_dtype: Any = None,
) -> Cell:
    """An LSTM with layer normalisation of both products and of the memory that is read.

    With LN(z) = (z − mean z) / √(var z + ε) over the last axis (all 4H sums together),

        i, f, o = σ(α ⊙ LN(x_t W) + β ⊙ LN(h_{t−1} U) + b),  g = tanh(the same)
        c_t     = f ⊙ c_{t−1} + i ⊙ g
        h_t     = o ⊙ tanh(γ ⊙ LN(c_t) + δ)

    Ba, Kiros, Hinton (2016), "Layer normalization", equations 20–22. The memory itself is not
    normalised, only what is read of it, so the carousel is left alone.

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units, at least 2.
        epsilon: ε, added to the variance.
        forget_bias: where the bias of the forget gate starts.
        kernel_init: initialiser of W [I, 4H].
        recurrent_init: initialiser of each gate's block [H, H] of U.
        bias_init: initialiser of b [4H]; takes the place of `forget_bias`.
        param_dtype: type of the parameters.
        dtype: type of the factors of products, `hidden` and the outputs; that of the parameters if
            None. Gates are computed in float32 at least.
        cell_dtype: type of the memory; that of the parameters if None.

    Returns:
        A `Cell` with `LayerNormLSTMParams` and `LSTMCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size or ε is not positive, or there is one unit alone.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.layer_norm_lstm(input_size=8, hidden_size=4)
        >>> jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((32, 10, 8))).outputs.shape
        (32, 10, 4)
    """
    check_size("input_size", input_size)
    check_size("hidden_size", hidden_size)
    if hidden_size < 2:
        raise ValueError(f"`hidden_size` must be at least 2, got {hidden_size}")
    if not epsilon > 0:  # the first h is zero, and so is its variance
        raise ValueError(f"`epsilon` must be positive, got {epsilon}")
    draw_bias = bias_init or initializers.forget_bias(value=forget_bias)
    width = len(GATES) * hidden_size

    def init(key: Array) -> LayerNormLSTMParams:
        k_kernel, k_recurrent, k_bias = jax.random.split(key, 3)
        return LayerNormLSTMParams(
            kernel_init(k_kernel, (input_size, width), param_dtype),
            initializers.recurrent_blocks(
                recurrent_init, k_recurrent, (hidden_size, hidden_size), len(GATES), param_dtype
            ),
            draw_bias(k_bias, (width,), param_dtype),
            jnp.ones(width, param_dtype),
            jnp.ones(width, param_dtype),
            jnp.ones(hidden_size, param_dtype),
            jnp.zeros(hidden_size, param_dtype),
        )

    def initial_carry(params: LayerNormLSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMCarry:
        shape, param = (*batch_shape, hidden_size), params.kernel.dtype
        return LSTMCarry(jnp.zeros(shape, dtype or param), jnp.zeros(shape, cell_dtype or param))

    def norm(z: Array, scale: Array) -> Array:
        centred = z - jnp.mean(z, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        unit = centred * lax.rsqrt(variance + epsilon)
        return unit * jnp.broadcast_to(scale.astype(z.dtype), z.shape)

    def inputs(params: LayerNormLSTMParams, x: Array) -> Array:
        return affine(x, params.kernel, None, dtype or params.kernel.dtype)

    def states(params: LayerNormLSTMParams, hidden: Any) -> Array:
        compute = dtype or params.kernel.dtype
        return gated_affine(hidden, params.recurrent_kernel, len(GATES), compute)

    def merge(params: Any, carry: LSTMCarry, net: Any) -> tuple[LSTMCarry, Array]:
        z = norm(net["x"], params.kernel_scale) + norm(net["h"], params.recurrent_scale)
        z = z + jnp.broadcast_to(params.bias.astype(z.dtype), z.shape)
        kept = wide(carry.cell)
        memory = kept.dtype
        i, f, g, o = jnp.split(z, len(GATES), axis=-1)
        written = named(jax.nn.sigmoid(i), "i") * named(jnp.tanh(g), "g")
        cell = named(jax.nn.sigmoid(f), "f").astype(memory) * kept + written.astype(memory)
        read = norm(cell, params.cell_scale)
        read = jnp.tanh(read + jnp.broadcast_to(params.cell_bias.astype(memory), read.shape))
        hidden = named(jax.nn.sigmoid(o), "o") * named(read, "psi").astype(z.dtype)
        new = like(LSTMCarry(hidden, cell), carry)
        return new, new.hidden

    split = Split(
        inputs=lambda params, x: {"x": inputs(params, x)},
        states=lambda params, carry: {"h": states(params, carry.hidden)},
        merge=merge,
        extra=lambda params: params._replace(kernel=None, recurrent_kernel=None),
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
