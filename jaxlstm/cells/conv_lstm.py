"""Convolutional LSTM: states that are images, series or volumes (Shi 2015)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name as named

from jaxlstm.cells import initializers
from jaxlstm.cells.activations import Activation, function_of
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
from jaxlstm.cells.convolution import Window, convolve
from jaxlstm.cells.lstm import GATES, LSTMCarry
from jaxlstm.cells.products import multiplied


@serialized
class ConvLSTMParams(NamedTuple):
    """Weights of a convolutional LSTM with blocks i, f, g, o of F filters.

    Args:
        kernel: [*kernel_size, C, 4F], on the input.
        recurrent_kernel: [*kernel_size, F, 4F], on the state.
        bias: [4F] or None.
        peephole: [3, *space, F], what i, f and o see of the memory, or None.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None
    peephole: Array | None


@described
def conv_lstm(
    *,
    input_shape: Sequence[int],
    filters: int,
    kernel_size: int | Sequence[int] = 3,
    strides: int | Sequence[int] = 1,
    padding: str = "same",
    dilation_rate: int | Sequence[int] = 1,
    peepholes: bool = False,
    activation: Activation = "tanh",
    recurrent_activation: Activation = "sigmoid",
    use_bias: bool = True,
    forget_bias: float = 1.0,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    recurrent_init: Callable[..., Array] = initializers.orthogonal(),
    bias_init: Callable[..., Array] | None = None,
    param_dtype: Any = "float32",
    dtype: Any = None,
    cell_dtype: Any = None,
) -> Cell:
    """An LSTM whose products are convolutions: inputs and states are images in a video.

    With ∗ a convolution over 1, 2 or 3 dimensions of space,

        i, f, o = σ(x_t ∗ W + h_{t−1} ∗ U + p ⊙ c + b),  g = φ(x_t ∗ W + h_{t−1} ∗ U + b)
        c_t     = f ⊙ c_{t−1} + i ⊙ g
        h_t     = o ⊙ φ(c_t)

    where i and f see c_{t−1} and o sees c_t through the peepholes p, if there are any. Shi, Chen,
    Wang, Yeung, Wong, Woo (2015), "Convolutional LSTM network: a machine learning approach for
    precipitation nowcasting".

    Args:
        input_shape: `(*space, C)`, channels last: (L, C), (height, width, C) or (D, H, W, C).
        filters: F, the channels of the state and of the outputs.
        kernel_size: the window, one int or one for each dimension.
        strides: of the convolution of the input; that of the state always has stride 1.
        padding: "same" or "valid", of the convolution of the input; the state is padded "same".
        dilation_rate: how far apart the input's places of a window are, 1 for neighbours; that of
            the state is never dilated.
        peepholes: whether the gates see the memory, each position by weights of its own.
        activation: φ, by name or a function.
        recurrent_activation: σ, likewise.
        use_bias: whether there is a bias b.
        forget_bias: where the bias of the forget gate starts.
        kernel_init: initialiser of W [*kernel_size, C, 4F].
        recurrent_init: initialiser of each gate's block [*kernel_size, F, F] of U.
        bias_init: initialiser of b [4F]; takes the place of `forget_bias`.
        param_dtype: type of the parameters.
        dtype: type of the factors of products, `hidden` and the outputs; that of the parameters if
            None. Gates are computed in float32 at least.
        cell_dtype: type of the memory; that of the parameters if None.

    Returns:
        A `Cell` with `ConvLSTMParams` and `LSTMCarry` of `[*batch, *space', F]`.

    Raises:
        TypeError: when a size is no int, or `input_shape` no sequence of them.
        ValueError: when a size is not positive, the space has no 1 to 3 dimensions, or nothing is
            left of it.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.conv_lstm(input_shape=(16, 16, 1), filters=4, strides=2)
        >>> video = jnp.ones((2, 5, 16, 16, 1))
        >>> jl.unroll(cell, cell.init(jax.random.key(0)), video).outputs.shape
        (2, 5, 8, 8, 4)
    """
    if not isinstance(input_shape, Sequence):
        raise TypeError(f"`input_shape` must be a sequence of ints, got {input_shape!r}")
    for size in input_shape:
        check_size("input_shape", size)
    check_size("filters", filters)
    dims = len(input_shape) - 1
    if not 1 <= dims <= 3:
        raise ValueError(
            f"`input_shape` must be 1 to 3 dimensions of space and one of channels, got "
            f"{tuple(input_shape)}"
        )
    sizes = _per_dimension("kernel_size", kernel_size, dims)
    stride = _per_dimension("strides", strides, dims)
    dilation = _per_dimension("dilation_rate", dilation_rate, dims)
    check_choice("padding", padding, ("same", "valid"))
    phi = function_of(activation, "activation")
    sigma = function_of(recurrent_activation, "recurrent_activation")
    draw_bias = bias_init or initializers.forget_bias(value=forget_bias)
    *space_in, channels = input_shape
    space = tuple(
        -(-n // s) if padding == "same" else (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(space_in, sizes, stride, dilation, strict=True)
    )
    if min(space) < 1:
        apart = f" with `dilation_rate` {dilation}" if max(dilation) > 1 else ""
        raise ValueError(
            f"`kernel_size` {sizes}{apart} must fit into `input_shape` {tuple(input_shape)}"
        )
    state_shape = (*space, filters)
    width = len(GATES) * filters

    def init(key: Array) -> ConvLSTMParams:
        k_kernel, k_recurrent, k_bias = jax.random.split(key, 3)
        block = (*sizes, filters, filters)
        return ConvLSTMParams(
            kernel_init(k_kernel, (*sizes, channels, width), param_dtype),
            initializers.recurrent_blocks(
                recurrent_init, k_recurrent, block, len(GATES), param_dtype
            ),
            draw_bias(k_bias, (width,), param_dtype) if use_bias else None,
            jnp.zeros((3, *state_shape), param_dtype) if peepholes else None,
        )

    def initial_carry(params: ConvLSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMCarry:
        shape, param = (*batch_shape, *state_shape), params.kernel.dtype
        return LSTMCarry(jnp.zeros(shape, dtype or param), jnp.zeros(shape, cell_dtype or param))

    ones = (1,) * dims
    once, moved = Window(ones, "same", ones), Window(stride, padding, dilation)

    def convolved(x: Array, kernel: Array, window: Window = once) -> Array:
        batch_shape = x.shape[: x.ndim - dims - 1]
        flat = x.reshape(-1, *x.shape[x.ndim - dims - 1 :])
        product = multiplied(functools.partial(convolve, window=window), flat, kernel)
        return product.reshape(*batch_shape, *product.shape[1:])

    def inputs(params: ConvLSTMParams, x: Array) -> Array:
        compute = dtype or params.kernel.dtype
        z = convolved(x.astype(compute), params.kernel.astype(compute), moved)
        if params.bias is None:
            return z
        return z + jnp.broadcast_to(params.bias.astype(z.dtype), z.shape)

    def states(params: ConvLSTMParams, hidden: Any) -> Array:
        """Where `hidden` is a tuple, each gate's block sees its own."""
        compute = dtype or params.kernel.dtype
        kernel = params.recurrent_kernel.astype(compute)
        if not isinstance(hidden, tuple):
            return convolved(hidden.astype(compute), kernel)
        kernels = jnp.split(kernel, len(GATES), axis=-1)
        parts = zip(hidden, kernels, strict=True)
        return jnp.concatenate([convolved(h.astype(compute), k) for h, k in parts], axis=-1)

    def merge(
        peephole: Array | None, carry: LSTMCarry, net: dict[str, Array]
    ) -> tuple[LSTMCarry, Array]:
        z = net["z"]
        kept = wide(carry.cell)
        memory = kept.dtype
        i, f, g, o = jnp.split(z, len(GATES), axis=-1)

        def look(row: int, cell: Array) -> Array:
            if peephole is None:
                return jnp.zeros_like(i)
            weight = peephole[row].astype(z.dtype)
            return jnp.broadcast_to(weight, cell.shape) * cell.astype(z.dtype)

        written = named(sigma(i + look(0, carry.cell)), "i") * named(phi(g), "g")
        opened = named(sigma(f + look(1, carry.cell)), "f").astype(memory)
        cell = opened * kept + written.astype(memory)
        shown = named(phi(cell), "psi").astype(z.dtype)
        hidden = named(sigma(o + look(2, cell)), "o") * shown
        new = like(LSTMCarry(hidden, cell), carry)
        return new, new.hidden

    split = Split(
        inputs=lambda params, x: {"z": inputs(params, x)},
        states=lambda params, carry: {"z": states(params, carry.hidden)},
        merge=merge,
        extra=lambda params: params.peephole,
    )
    return Cell(
        init,
        initial_carry,
        split.step,
        tuple(input_shape),
        gated_step=split.gated_step,
        gates=len(GATES),
        split=split,
    )


def _per_dimension(name: str, value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(values) != dims:
        raise ValueError(
            f"`{name}` must be an int or one for each of {dims} dimensions, got {value}"
        )
    for size in values:
        check_size(name, size)
    return values
