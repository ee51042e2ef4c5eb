"""The packed weights of `jax.experimental.rnn`, which are cuDNN's.

One flat array: for every layer, and in it for the forward and the backward direction, W_ih [4H, I]
and W_hh [4H, H]; after all of them, in the same order, b_ih [4H] and b_hh [4H]. The blocks are
i, f, g, o.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Params, check_size
from jaxlstm.convert.parts import build, owners, put_together, take_apart, to_numpy

ALLOWED = {"lstm": {"recurrent_bias": (True,)}}


def load(
    weights: Any,
    cell: Cell | None = None,
    *,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    bidirectional: bool = False,
) -> tuple[Cell, Params]:
    """A cell and its params out of packed weights.

    Args:
        weights: the flat array.
        cell: the cell that the weights are for; made to fit if None.
        input_size: I, features of an input.
        hidden_size: H, units of every layer and direction.
        num_layers: how many layers.
        bidirectional: whether each layer has two directions.

    Returns:
        The cell, and params of the type of the weights.

    Raises:
        TypeError: when a size is no int.
        ValueError: when the number of weights is not that of the sizes, or they do not fit the
            cell.

    Examples:
        >>> import numpy as np, jaxlstm as jl
        >>> flat = np.ones(4 * 4 * (3 + 4 + 2), "float32")
        >>> jl.convert.packed.load(flat, input_size=3, hidden_size=4)[0]
        lstm(input_size=3, hidden_size=4, recurrent_bias=True)
    """
    for name, size in (
        ("input_size", input_size),
        ("hidden_size", hidden_size),
        ("num_layers", num_layers),
    ):
        check_size(name, size)
    flat, ways = to_numpy("weights", weights), 2 if bidirectional else 1
    below = [input_size] + [hidden_size * ways] * (num_layers - 1)
    order = [(k, way) for k in range(num_layers) for way in range(ways)]
    width = 4 * hidden_size
    count = sum(width * (below[k] + hidden_size + 2) for k, _ in order)
    if flat.shape != (count,):
        raise ValueError(f"`weights` must have shape [{count}] for these sizes, got {flat.shape}")
    shapes = [s for k, _ in order for s in ((width, below[k]), (width, hidden_size))]
    shapes += [(width,)] * (2 * len(order))
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    arrays = [a.reshape(s) for a, s in zip(np.split(flat, cuts), shapes, strict=True)]
    wanted = owners(cell, [ways] * num_layers)
    layers: list[list[Any]] = [[] for _ in range(num_layers)]
    for index, (k, way) in enumerate(order):
        biases = arrays[2 * (len(order) + index) :]
        parts = {
            "kernel": arrays[2 * index].T,
            "recurrent_kernel": arrays[2 * index + 1].T,
            "bias": biases[0],
            "recurrent_bias": biases[1],
        }
        layers[k].append(build("lstm", parts, wanted[k][way], "jax.experimental.rnn", ALLOWED))
    return put_together(layers, cell)


def dump(cell: Cell, params: Params) -> np.ndarray:
    """The packed weights of a cell.

    Args:
        cell: `lstm`, stacked or bidirectional, of one hidden size and with biases.
        params: its params.

    Returns:
        One flat NumPy array.

    Raises:
        ValueError: when cuDNN cannot express the cell: its message names the option.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> cell = jl.lstm(input_size=3, hidden_size=4)
        >>> jl.convert.packed.dump(cell, cell.init(jax.random.key(0))).shape
        (144,)
    """
    layers = take_apart(cell, params, "jax.experimental.rnn", ALLOWED)
    parts = [part for layer in layers for part in layer]
    sizes = {part.options["hidden_size"] for part in parts}
    if len(sizes) > 1 or len({len(layer) for layer in layers}) > 1:
        raise ValueError(f"`cell` must have one hidden size and one number of directions: {cell!r}")
    kernels, biases = [], []
    for part in parts:
        w = part.weights
        bias, more = w["bias"], w.get("recurrent_bias")
        kernels += [jnp.ravel(w["kernel"].T), jnp.ravel(w["recurrent_kernel"].T)]
        biases += [bias, np.zeros_like(bias) if more is None else more]
    return np.concatenate([np.asarray(array) for array in kernels + biases])
