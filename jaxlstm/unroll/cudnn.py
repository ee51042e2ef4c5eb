"""LSTMs by NVIDIA's own kernels, through `jax.experimental.rnn`."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import Cell, Params
from jaxlstm.cells.lstm import LSTMCarry
from jaxlstm.unroll.checks import sequential
from jaxlstm.unroll.rows import Laid, Options, Results

PLAIN = {
    "activation": ("tanh",),
    "recurrent_activation": ("sigmoid",),
    "output_activation": (None, "tanh"),
    "input_gate": (True,),
    "forget_gate": (True,),
    "output_gate": (True,),
    "coupled": (False,),
    "peepholes": (False,),
    "full_gate_recurrence": (False,),
    "cell_clip": (None,),
    "projection_size": (None,),
}
"""What cuDNN computes, of the options of `lstm`."""


def cudnn_steps(cell: Cell, options: Options, params: Params, laid: Laid) -> Results:
    """What `scan_steps` gives; gradients of first order in reverse mode alone, and no `vmap`.

    Raises:
        ValueError: when cuDNN has no such cell, type or option, or JAX does not run on such a GPU;
            the message names which.
    """
    _check(cell, options, params, laid)
    xs, first = laid.xs, laid.first
    length, batch_shape = xs.shape[0], xs.shape[1:-1]
    rows, size = math.prod(batch_shape), first.hidden.shape[-1]
    if not length or not rows:
        return jnp.zeros((length, *first.hidden.shape), xs.dtype), first, None
    inputs = jnp.swapaxes(xs.reshape(length, rows, -1), 0, 1)
    full = jnp.full((rows,), length, jnp.int32)
    lengths = full if laid.lengths is None else laid.lengths.reshape(rows).astype(jnp.int32)
    steps = jnp.arange(length, dtype=jnp.int32)[None]
    valid = (steps < lengths[:, None])[..., None]
    inputs = jnp.where(valid, inputs, 0)
    # The last valid step comes first, and what is padding stays where it is.
    order = jnp.where(valid[..., 0], lengths[:, None] - 1 - steps, steps)[..., None]
    if options.reverse:
        inputs = jnp.take_along_axis(inputs, order, axis=1)
    hidden, memory = (leaf.reshape(1, rows, size) for leaf in first)
    # cuDNN wants at least one step of each row: that of an empty row is dropped below.
    some = jnp.maximum(lengths, 1)
    weights, features = _packed(params, size), inputs.shape[-1]
    outputs, *last = _lstm(inputs, hidden, memory, weights, some, features, size)
    outputs = jnp.where(valid, outputs, 0)
    if options.reverse:
        outputs = jnp.take_along_axis(outputs, order, axis=1)
    empty = (lengths == 0)[None, :, None]
    final = [jnp.where(empty, a, b) for a, b in zip((hidden, memory), last, strict=True)]
    final = [leaf.reshape(*batch_shape, size) for leaf in final]
    outputs = jnp.swapaxes(outputs, 0, 1).reshape(length, *batch_shape, size)
    return outputs, LSTMCarry(*final), None


def _lstm(
    inputs: Array,
    hidden: Array,
    memory: Array,
    weights: Array,
    lengths: Array,
    features: int,
    units: int,
) -> tuple[Array, Array, Array]:
    """One layer in one direction, [B, T, I] to [B, T, H] and two [1, B, H]."""
    from jax.experimental import rnn  # experimental: nobody else is to depend on it

    return rnn.lstm(inputs, hidden, memory, weights, lengths, features, units, 1, 0.0, False)


def _platform() -> str:
    """What JAX runs on: "cuda", "rocm" or another name."""
    device = jax.devices()[0]
    made = device.client.platform_version  # of a plugin "PJRT C API\ncuda 13000"
    return next((name for name in ("cuda", "rocm") if name in made), device.platform)


def _packed(params: Any, size: int) -> Array:
    """The weights as cuDNN has them: both kernels, transposed, then both biases."""
    nothing = jnp.zeros((4 * size,), params.kernel.dtype)
    biases = (params.bias, getattr(params, "recurrent_bias", None))
    parts = [params.kernel.T, params.recurrent_kernel.T]
    parts += [nothing if bias is None else bias for bias in biases]
    return jnp.concatenate([part.reshape(-1) for part in parts])


def _check(cell: Cell, options: Options, params: Params, laid: Laid) -> None:
    """Name the first thing that cuDNN does not do."""

    def refuse(name: str, why: str) -> None:
        raise ValueError(f"`{name}` {why}: `backend` 'cudnn' cannot do it, 'auto' can")

    known = cell.description
    if known is None or known.factory != "lstm":
        refuse("cell", f"must be an lstm, got {cell!r}")
    else:
        for name, value in known.arguments:
            if name in PLAIN and value not in PLAIN[name]:
                refuse(name, f"must be {PLAIN[name][0]!r}, got {value!r}")
    more = {
        "return_carries": options.return_carries,
        "resets": laid.reset is not None,
        "mask": laid.valid is not None and laid.lengths is None,
    }
    for name in (*sequential(options), *(name for name, given in more.items() if given)):
        refuse(name, "is given")
    for leaf in jax.tree.leaves((laid.xs, laid.first, params)):
        if leaf.dtype != jnp.float32:
            refuse("dtype", f"must be float32 throughout, got {leaf.dtype}")
    if _platform() != "cuda":
        raise ValueError(f"`backend` 'cudnn' needs an NVIDIA GPU, JAX runs on {_platform()!r}")
