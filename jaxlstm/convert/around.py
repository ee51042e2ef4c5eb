"""What stands around the layers of a whole model: an embedding before, a readout after."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlstm.cells.base import Params
from jaxlstm.convert.parts import Array, floating, shaped


class Around(NamedTuple):
    """Arrays of the type of the params.

    Args:
        dtype: the name of that type.
        embedding: [V, I], or None.
        readout: a kernel [H, O] and a bias [O], or None.
    """

    dtype: str
    embedding: Array | None
    readout: tuple[Array, Array] | None


def check(
    params: Params,
    sizes: tuple[int, int],
    ways: int,
    embedding: Any,
    readout: Any,
    every_step: bool,
) -> Around:
    """What stands around, where it fits the layers.

    Args:
        params: those of the layers.
        sizes: the features that the first reads and the last gives.
        ways: how many directions the last has.
        embedding: a vector for each symbol, or None.
        readout: a kernel, and a bias or None for zeros; or None.
        every_step: whether there is an output for each step.

    Returns:
        The arrays, and their type.

    Raises:
        TypeError: when an array is not floating point.
        ValueError: when a shape does not fit, the params are of several types, or the last output
            alone is asked of two directions, whose last steps are not one step.
    """
    types = sorted({np.asarray(leaf).dtype.name for leaf in jax.tree.leaves(params)})
    if len(types) > 1:
        raise ValueError(f"`params` must be of one type for a whole model, got {types}")
    if ways == 2 and not every_step:
        raise ValueError("`every_step` must be True for a bidirectional cell, got False")
    inputs, outputs = sizes
    if embedding is not None:
        embedding = _array("`embedding`", embedding, (None, inputs), types[0])
    if readout is None:
        return Around(types[0], embedding, None)
    if not isinstance(readout, tuple | list) or len(readout) != 2:
        raise ValueError(
            f"`readout` must be a pair of a kernel and a bias, got {type(readout).__name__}"
        )
    kernel = _array("`readout` 'kernel'", readout[0], (outputs, None), types[0])
    bias = np.zeros(kernel.shape[1]) if readout[1] is None else readout[1]
    bias = _array("`readout` 'bias'", bias, kernel.shape[1:], types[0])
    return Around(types[0], embedding, (kernel, bias))


def _array(label: str, value: Any, shape: tuple[int | None, ...], dtype: str) -> Array:
    return shaped(label, floating(label, value), shape).astype(dtype)
