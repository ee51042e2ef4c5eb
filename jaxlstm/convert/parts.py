"""What all neighbours share: the weights of one direction of one layer, by name, in our layout.

A neighbour's module only says where each part lies in its arrays. `build` makes a cell and its
params out of parts, `take_apart` gives the parts of every direction of every layer.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells import Cell, bidirectional, conv_lstm, stack
from jaxlstm.cells.base import Params, check_cell, shapes_of
from jaxlstm.cells.combine import Bidirectional
from jaxlstm.cells.describe import written
from jaxlstm.cells.trees import check_tree
from jaxlstm.convert.options import (
    FACTORIES,
    Allowed,
    arguments_of,
    choices_of,
    options_of,
    part_kind,
    strangers,
)

Array = np.ndarray
BLOCKS = {"lstm": 4, "gru": 3, "rnn": 1}


class Part(NamedTuple):
    """One direction of one layer.

    Args:
        kind: "lstm", "gru", "rnn" or "conv_lstm".
        options: the arguments of the factory, defaults included.
        weights: the parameters by name, NumPy arrays in our layout; None where there is none.
    """

    kind: str
    options: dict[str, Any]
    weights: dict[str, Any]


def to_numpy(name: str, value: Any) -> Array:
    """One of the weights, as NumPy's array."""
    return floating(f"`weights` '{name}'", value)


def floating(label: str, value: Any) -> Array:
    """An array of anybody's, as NumPy's: of jax, torch or a Flax variable, without their import."""
    value = getattr(value, "raw_value", value)
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # which NumPy does not know by itself
            return np.asarray(value.float()).astype(jnp.bfloat16)
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{label} must be floating point, got {array.dtype}")
    return array


def check_mapping(weights: Any) -> None:
    """Refuse what holds no arrays by name."""
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"`weights` must be a mapping of arrays by name, got {type(weights).__name__}"
        )


def fetch(weights: Mapping[str, Any], name: str, shape: Sequence[int | None]) -> Array:
    """One array out of many, of the shape expected; None in the shape stands for any size."""
    if name not in weights:
        raise ValueError(f"`weights` must hold '{name}', got {sorted(map(str, weights))}")
    return shaped(f"`weights` '{name}'", to_numpy(name, weights[name]), shape)


def shaped(label: str, array: Array, shape: Sequence[int | None]) -> Array:
    """The array, where it is of the shape expected; None stands for any size."""
    fits = len(array.shape) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ["any" if size is None else size for size in shape]
        raise ValueError(
            f"{label} must have shape {str(wanted).replace(chr(39), '')}, got {list(array.shape)}"
        )
    return array


def blocks(array: Array, have: str, want: str) -> Array:
    """Put the blocks of the gates into another order, `blocks(kernel, "zrn", "rzn")`."""
    pieces = dict(zip(have, np.split(array, len(have), axis=-1), strict=True))
    return np.concatenate([pieces[gate] for gate in want], axis=-1)


def count_blocks(rows: int, hidden: int, where: str) -> str:
    """The kind of a cell whose kernel has so many rows for so many units."""
    for kind, count in BLOCKS.items():
        if hidden and rows == count * hidden:
            return kind
    raise ValueError(
        f"`weights` {where} must have 4, 3 or 1 blocks of {hidden} units, got {rows} rows"
    )


def build(
    kind: str,
    weights: Mapping[str, Array | None],
    cell: Cell | None,
    neighbour: str,
    allowed: Allowed,
    **said: Any,
) -> tuple[Cell, Params]:
    """A cell and its params out of the parts of one direction.

    Args:
        kind: what the weights are of.
        weights: the parts by name, in our layout.
        cell: the cell they are for, or None to make one that fits.
        neighbour: what the error calls the other side.
        allowed: that of `take_apart`.
        **said: the options that the weights are known to be of. Nothing is known of one that is
            allowed and not said.

    Returns:
        The cell, and its params.

    Raises:
        ValueError: when the cell computes something else, has other shapes, or lacks a place for a
            weight.
    """
    given = {name: array for name, array in weights.items() if array is not None}
    refuse_wide(given.values())
    said = {"use_bias": "bias" in given, **said}
    if cell is None:
        cell = _made(kind, given, said)
    elif part_kind(cell) != kind:
        raise ValueError(f"`cell` must be of kind {kind!r} for these weights, got {cell!r}")
    choices = choices_of(kind, allowed) | {name: (value,) for name, value in said.items()}
    for name, value in strangers(cell, choices):
        wanted = " or ".join(f"`{name}={choice!r}`" for choice in choices[name])
        raise ValueError(
            f"`cell` must have {wanted}, as these weights of {neighbour} do, got {value!r}"
        )
    shapes = shapes_of(cell)
    fields = shapes._fields
    if "recurrent_bias" in given and getattr(shapes, "recurrent_bias", None) is None:
        given["bias"] = given["bias"] + given.pop("recurrent_bias")
    for name in given:
        if name not in fields or getattr(shapes, name) is None:
            raise ValueError(f"`cell` {cell!r} has no place for the weight {name!r}")
    params = type(shapes)(*(_array(given.get(name)) for name in fields))
    check_tree("weights", params, shapes)
    return cell, params


def _array(value: Array | None) -> Any:
    return None if value is None else jnp.asarray(value)


def _made(kind: str, weights: Mapping[str, Array], options: Mapping[str, Any]) -> Cell:
    """A cell that fits the weights."""
    kernel, recurrent = weights["kernel"], weights["recurrent_kernel"]
    options = {"param_dtype": kernel.dtype.name, **options}
    if kind == "conv_lstm":
        if "input_shape" not in options:
            raise ValueError(
                "`input_shape` must be given for a convolutional LSTM: (*space, channels)"
            )
        return conv_lstm(
            filters=recurrent.shape[-2], kernel_size=tuple(kernel.shape[:-2]), **options
        )
    if kind in ("lstm", "rnn") and "recurrent_bias" in weights:
        options["recurrent_bias"] = True
    count = BLOCKS[kind] - bool(options.get("coupled"))
    sizes = {"input_size": kernel.shape[0], "hidden_size": kernel.shape[1] // count}
    if "projection" in weights:
        options["projection_size"] = weights["projection"].shape[1]
    return FACTORIES[kind](**sizes, **options)


def put_together(
    layers: Sequence[Sequence[tuple[Cell, Params]]], cell: Cell | None = None
) -> tuple[Cell, Params]:
    """A stack of layers of one or two directions, as one cell and its params.

    Where the weights are for a cell it is that one, with what it does besides, such as to drop out.
    """
    cells, params = [], []
    for directions in layers:
        each, own = zip(*directions, strict=True)
        two = len(each) == 2
        cells.append(bidirectional(*each) if two else each[0])
        params.append(Bidirectional(*own) if two else own[0])
    if cell is not None:
        structure = jax.tree.structure(shapes_of(cell))
        return cell, structure.unflatten(jax.tree.leaves(params))
    if len(cells) == 1:
        return cells[0], params[0]
    return stack(*cells), tuple(params)


def directions(cell: Cell) -> list[list[Cell]]:
    """The cells of every direction of every layer, from the input upwards."""
    check_cell("cell", cell)
    arguments = arguments_of(cell)
    match part_kind(cell):
        case "stack":
            return [each for layer in arguments["*cells"] for each in directions(layer)]
        case "bidirectional":
            if arguments["merge"] != "concat":
                raise ValueError(f"`merge` must be 'concat', got {arguments['merge']!r}")
            one, two = directions(arguments["forward"]), directions(arguments["backward"])
            if len(one) > 1 or len(two) > 1:
                raise ValueError(f"`cell` must be a stack of bidirectional layers, got {cell!r}")
            return [[one[0][0], two[0][0]]]
        case "dropout" | "recurrent_dropout" | "weight_drop":
            return directions(arguments["cell"])  # they do nothing without a key
        case kind if kind in FACTORIES:
            return [[cell]]
    raise ValueError(
        f"`cell` must be made of {', '.join(FACTORIES)}, stacked or bidirectional, got {cell!r}"
    )


def take_apart(cell: Cell, params: Params, neighbour: str, allowed: Allowed) -> list[list[Part]]:
    """The parts of every direction of every layer.

    Args:
        cell: plain cells, stacked or bidirectional; dropout around them is left out.
        params: its params.
        neighbour: what the error calls the other side.
        allowed: for each kind that the other side has, the options it can express besides the
            defaults, with their values; an empty tuple stands for any value.

    Returns:
        A list of layers, each a list of one or two directions.

    Raises:
        ValueError: when the other side cannot express something, which it names.
    """
    layers = directions(cell)
    check_tree("params", params, shapes_of(cell))
    own = _flat_params(params, layers)
    return [
        [_part(each, p, neighbour, allowed) for each, p in zip(layer, ps, strict=True)]
        for layer, ps in zip(layers, own, strict=True)
    ]


def take_one(cell: Cell, params: Params, neighbour: str, allowed: Allowed) -> Part:
    """The parts of a cell of one layer and one direction; the arguments of `take_apart`."""
    layers = take_apart(cell, params, neighbour, allowed)
    if len(layers) > 1 or len(layers[0]) > 1:
        raise ValueError(f"`cell` must be one layer of one direction for {neighbour}, got {cell!r}")
    return layers[0][0]


def owners(cell: Cell | None, ways: Sequence[int]) -> list[list[Any]]:
    """The cells that weights of so many directions in each layer are for; None where none is given.

    Raises:
        ValueError: when the cell has other layers or directions.
    """
    if cell is None:
        return [[None] * count for count in ways]
    found = directions(cell)
    if len(found) != len(ways):
        raise ValueError(f"`cell` must have {len(ways)} layers, got {len(found)}")
    for k, (layer, count) in enumerate(zip(found, ways, strict=True)):
        if len(layer) != count:
            raise ValueError(f"`cell` must have {count} directions in layer {k}, got {len(layer)}")
    return found


def refuse_wide(arrays: Iterable[Array]) -> None:
    """Refuse float64 where JAX would cut it to float32."""
    wide = any(array.dtype == "float64" for array in arrays)
    if wide and jax.dtypes.canonicalize_dtype("float64") != "float64":
        raise ValueError(
            "`weights` are float64, which JAX keeps only with `jax_enable_x64`: enable it, or "
            "convert them to float32 first"
        )


def _flat_params(params: Params, layers: list[list[Cell]]) -> list[list[Any]]:
    """The params of every direction of every layer."""

    def leaf(node: Any) -> bool:
        return hasattr(node, "recurrent_kernel")

    flat = iter(jax.tree.leaves(params, is_leaf=leaf))
    return [[next(flat) for _ in layer] for layer in layers]


def _part(cell: Cell, params: Any, neighbour: str, allowed: Allowed) -> Part:
    kind = part_kind(cell)
    if kind not in allowed:
        raise ValueError(f"`cell` {cell!r} cannot be expressed by {neighbour}")
    for name, value in strangers(cell, choices_of(kind, allowed)):
        raise ValueError(f"`{name}={written(value)}` of {kind} cannot be expressed by {neighbour}")
    weights = {
        name: None if leaf is None else np.asarray(leaf)
        for name, leaf in zip(params._fields, params, strict=True)
    }
    return Part(kind, options_of(cell), weights)
