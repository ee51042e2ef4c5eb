"""Weights of Keras 3: `LSTM`, `GRU`, `SimpleRNN`, `ConvLSTM1D/2D/3D`, `Bidirectional`, stacks.

| Keras, in the order of `get_weights()` | shape | ours |
|---|---|---|
| `kernel` | [I, nH] | `kernel` |
| `recurrent_kernel` | [H, nH] | `recurrent_kernel` |
| `bias` | [nH]; GRU with `reset_after` [2, 3H] | `bias`; GRU `bias`, `recurrent_bias` |

LSTM and ConvLSTM have the blocks i, f, c, o: c is our g, so nothing moves. GRU has z, r, h where we
have r, z, n. A bidirectional layer lists the forward weights, then the backward ones.
`implementation`, `unroll`, `stateful` and what a layer returns are no matter of the weights.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Params
from jaxlstm.convert import files
from jaxlstm.convert.keras_files import group_names, read_config, read_model, read_weights
from jaxlstm.convert.keras_layers import KINDS, arrays_in, config_of, options_of
from jaxlstm.convert.keras_network import name_of, recurrent
from jaxlstm.convert.parts import (
    Part,
    blocks,
    build,
    count_blocks,
    fetch,
    owners,
    put_together,
    take_apart,
    to_numpy,
)

OURS, THEIRS = "rzn", "zrn"
ALLOWED = {
    "lstm": {"activation": (), "recurrent_activation": (), "use_bias": (False,)},
    "gru": {
        "activation": (),
        "recurrent_activation": (),
        "use_bias": (False,),
        "reset_after": (False,),
    },
    "rnn": {"activation": (), "use_bias": (False,)},
    "conv_lstm": {
        "activation": (),
        "recurrent_activation": (),
        "use_bias": (False,),
        "strides": (),
        "padding": (),
        "dilation_rate": (),
    },
}


def load(weights: Any, cell: Cell | None = None, **options: Any) -> tuple[Cell, Params]:
    """A cell and its params out of Keras'.

    Args:
        weights: a layer or model, or the arrays of `get_weights()` of one layer, of a bidirectional
            one, or a list of such lists for a stack; or the path of a `.keras` file, or of a
            `.weights.h5` file whose recurrent layers are of one kind (both need h5py). A model is
            Sequential or functional, its recurrent layers a chain; an embedding before it, a
            readout after it and layers that act in training alone are passed over. A
            `.weights.h5` file holds arrays alone: what else the model computes, it does not tell.
        cell: the cell that the weights are for; made to fit if None.
        **options: of the cell that is made, where the arrays cannot tell: `activation`,
            `recurrent_activation`, `reset_after` of a GRU without biases, and for a convolutional
            LSTM `input_shape`, `strides`, `dilation_rate`, `padding` (Keras' default is "valid",
            ours "same").

    Returns:
        The cell, and params of the type of the weights.

    Raises:
        TypeError: when `weights` is none of these.
        ValueError: when a weight is missing, has another shape, does not fit the cell, or the layer
            has something that we do not; when a model computes something else before its recurrent
            layers, between or beside them; when arrays may be of a stack or of two directions.

    Examples:
        >>> import numpy as np, jaxlstm as jl
        >>> lists = [np.ones((3, 16)), np.ones((4, 16)), np.ones(16)]
        >>> lists = [array.astype("float32") for array in lists]
        >>> jl.convert.keras.load(lists)[0]
        lstm(input_size=3, hidden_size=4)
        >>> jl.convert.keras.load(lists + lists)[0].description.factory
        'bidirectional'
    """
    with files.named(weights):
        layers = _layers(weights, cell)
        wanted = owners(cell, [len(layer) for layer in layers])
        made = [
            [
                _direction(arrays, own, {**found, **options})
                for (arrays, found), own in zip(layer, each, strict=True)
            ]
            for layer, each in zip(layers, wanted, strict=True)
        ]
        return put_together(made, cell)


def dump(cell: Cell, params: Params) -> list[Any]:
    """The `get_weights()` of Keras' layer for a cell.

    Args:
        cell: `lstm`, `gru`, `rnn` or `conv_lstm`, stacked or bidirectional.
        params: its params.

    Returns:
        A list of NumPy arrays, as `set_weights` takes it; for a stack a list of such lists.

    Raises:
        ValueError: when Keras cannot express the cell: its message names the option.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> cell = jl.lstm(input_size=3, hidden_size=4)
        >>> [array.shape for array in jl.convert.keras.dump(cell, cell.init(jax.random.key(0)))]
        [(3, 16), (4, 16), (16,)]
    """
    layers = [
        [array for part in layer for array in arrays_of(part)]
        for layer in take_apart(cell, params, "Keras", ALLOWED)
    ]
    return layers if len(layers) > 1 else layers[0]


def arrays_of(part: Part) -> list[np.ndarray]:
    """The arrays of one direction, in the order of `get_weights()`."""
    w, bias = part.weights, part.weights["bias"]
    arrays = [w["kernel"], w["recurrent_kernel"]]
    if bias is not None:
        more = w.get("recurrent_bias")
        arrays.append(bias if more is None else np.stack([bias, more]))
    if part.kind == "gru":
        arrays = [blocks(array, OURS, THEIRS) for array in arrays if array is not None]
    return [np.asarray(array) for array in arrays]


def _direction(arrays: list[Any], cell: Cell | None, options: dict[str, Any]) -> Any:
    if len(arrays) not in (2, 3):
        hint = ": a stack is a list of lists" if arrays else ": a layer has none before it is built"
        raise ValueError(
            f"`weights` must hold 2 or 3 arrays for a direction, got {len(arrays)}{hint}"
        )
    names = ("kernel", "recurrent_kernel", "bias")
    named: dict[str, Any] = dict(zip(names, arrays, strict=False))
    kernel = to_numpy("kernel", arrays[0])
    if kernel.ndim > 2:
        *window, _, width = kernel.shape
        recurrent = fetch(named, "recurrent_kernel", (*window, None, width))
        weights: dict[str, Any] = {"kernel": kernel, "recurrent_kernel": recurrent}
        if "bias" in named:
            weights["bias"] = fetch(named, "bias", (width,))
        if cell is None:  # the arrays do not tell
            options.setdefault("padding", "valid")
        return build("conv_lstm", weights, cell, "Keras", ALLOWED, **options)
    fetch(named, "kernel", (None, None))
    width = kernel.shape[1]
    recurrent = fetch(named, "recurrent_kernel", (None, width))
    kind = count_blocks(width, recurrent.shape[0], "'kernel'")
    weights = {"kernel": kernel, "recurrent_kernel": recurrent}
    if "bias" in named:
        bias = to_numpy("bias", arrays[2])
        if kind == "gru" and bias.ndim == 2:
            weights["bias"], weights["recurrent_bias"] = fetch(named, "bias", (2, width))
        else:
            weights["bias"] = fetch(named, "bias", (width,))
    if kind == "gru":
        weights = {name: blocks(array, THEIRS, OURS) for name, array in weights.items()}
        if "bias" in weights:
            options.setdefault("reset_after", "recurrent_bias" in weights)
        elif cell is None and "reset_after" not in options:
            raise ValueError("`reset_after` must be given for the arrays of a GRU without biases")
    return build(kind, weights, cell, "Keras", ALLOWED, **options)


Found = tuple[list[Any], dict[str, Any]]


def _layers(source: Any, cell: Cell | None) -> list[list[Found]]:
    """The arrays and options of every direction of every layer."""
    if isinstance(source, str | PathLike):
        return _read(Path(source))
    if hasattr(source, "layers") and not hasattr(source, "forward_layer"):
        arrays = {layer.name: layer for layer in source.layers}
        layers = recurrent(_said(type(source).__name__, source.get_config()))
        return [_found(layer, arrays_in(arrays[name_of(layer)])) for layer in layers]
    if hasattr(source, "get_weights"):
        return [_found(config_of(source), arrays_in(source))]
    if not isinstance(source, Sequence) or not source:
        raise TypeError(
            f"`weights` must be a layer, its get_weights(), or a path, got {type(source).__name__}"
        )
    if isinstance(source[0], list | tuple):
        return [[(half, {}) for half in _halves(list(arrays))] for arrays in source]
    halves = _halves(list(source))
    if cell is None and len(halves) == 2:
        _check_directions(*halves)
    return [[(half, {}) for half in halves]]


def _read(path: Path) -> list[list[Found]]:
    """The layers of a `.keras` file in its order, or those of a `.weights.h5` file."""
    if not path.is_file():
        raise FileNotFoundError(path)
    if path.suffix != ".keras":
        found = read_weights(path, (*KINDS, "Bidirectional"))
        return [[(half, {}) for half in halves] for halves in found]
    config = read_config(path)
    if not isinstance(config, Mapping):
        raise ValueError(f"`weights` must hold the config of a model, got {type(config).__name__}")
    layers = _said(config.get("class_name"), config.get("config"))
    names = {
        name_of(layer): group for layer, group in zip(layers, group_names(layers), strict=True)
    }
    chain, groups = recurrent(layers), read_model(path)
    return [_found(layer, groups.get(names[name_of(layer)])) for layer in chain]


def _said(name: Any, config: Any) -> Sequence[Mapping[str, Any]]:
    """What the config of a model says of its layers: that of a class of one's own says nothing."""
    layers = config.get("layers") if isinstance(config, Mapping) else None
    if not isinstance(layers, Sequence):
        raise ValueError(
            f"`weights` must be of a Sequential or functional model, whose config says how its "
            f"layers are joined, got {name}: give its layer"
        )
    for layer in layers:
        named = isinstance(layer, Mapping) and isinstance(layer.get("config"), Mapping)
        if not named or "class_name" not in layer or "name" not in layer["config"]:
            raise ValueError(f"`weights` must name every layer in its config, got {layer!r}")
    return layers


def _found(layer: Mapping[str, Any], arrays: list[list[Any]] | None) -> list[Found]:
    options = options_of(layer)
    return list(zip(arrays or [[] for _ in options], options, strict=True))


def _halves(arrays: list[Any]) -> list[list[Any]]:
    """One direction or two, told by the number of arrays."""
    half = len(arrays) // 2
    return [arrays[:half], arrays[half:]] if len(arrays) in (4, 6) else [arrays]


def _check_directions(one: list[Any], two: list[Any]) -> None:
    """Refuse what may as well be two layers: the second reads as many features as the first has."""
    if np.shape(two[0])[-2:-1] == np.shape(one[1])[-2:-1]:
        raise ValueError(
            "`weights` may be of two layers or of two directions: give [[…], […]] for a stack, "
            "[[…]] with the arrays of both directions for a bidirectional layer"
        )
