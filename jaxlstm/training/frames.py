"""The network of a training whose steps are frames: convolutional cells, a readout of 1 × 1."""

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

import jaxlstm as jl
from jaxlstm import config
from jaxlstm.errors import UserError
from jaxlstm.training.model import Model, Params, begun, dtype_of


@dataclass(frozen=True)
class FrameModel(Model):
    """A `Model` whose cell reads and shows images `[…, height, width, channels]`.

    To a task it gives frames row by row, `[…, height · width]`, as it takes them.
    """

    def readout(self, params: Params, outputs: Array) -> Array:
        """From the cell's outputs `[B, T, height, width, F]` to `[B, T, height · width]`."""
        return _flat(super().readout(params, outputs))

    def step(self, params: Params, carry: Any, inputs: Array) -> tuple[Any, Array]:
        """Take one step, streaming: `[B, height · width]` to the same."""
        carry, output = super().step(params, carry, inputs)
        return carry, _flat(output)


def build(spec: config.ConvLSTM, frame: tuple[int, int] | None, *, every_step: bool) -> FrameModel:
    """Build the network that a config describes, for frames of one size.

    Each pixel's output is one linear function of the channels there, the same for every pixel.

    Args:
        spec: the `[model]` table.
        frame: height and width; None where the task's steps are no frames.
        every_step: whether there is an output for every step.

    Returns:
        A `FrameModel`.

    Raises:
        UserError: when the task's steps are no frames.

    Examples:
        >>> import jax.numpy as jnp
        >>> model = build(config.ConvLSTM(filters=4), (5, 6), every_step=True)
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.zeros((2, 7, 30))).shape, params.readout.kernel.shape
        ((2, 7, 30), (4, 1))
    """
    if frame is None:
        raise UserError(
            'model.cell: "conv-lstm" reads frames, expected a task that has them, as moving-digits'
        )
    channels = [1, *[spec.filters] * (spec.layers - 1)]
    layers = tuple(
        jl.conv_lstm(
            input_shape=(*frame, below),
            filters=spec.filters,
            kernel_size=spec.kernel_size,
            peepholes=spec.peepholes,
            forget_bias=spec.forget_bias,
            dtype=dtype_of(spec),
        )
        for below in channels
    )
    cell = layers[0] if len(layers) == 1 else jl.stack(*layers)

    def init(key: Array) -> Params:
        return Params(None, *begun(cell, jax.random.split(key), (spec.filters, 1)))

    def encode(params: Params, inputs: Array) -> Array:
        return inputs.reshape(*inputs.shape[:-1], *frame, 1)

    return FrameModel(cell, init, encode, every_step, layers)


def _flat(images: Array) -> Array:
    return images.reshape(*images.shape[:-3], -1)
