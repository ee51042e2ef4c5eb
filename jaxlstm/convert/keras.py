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

import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Params
from jaxlstm.convert import files
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

ACTIVATIONS = {"tanh": "tanh", "sigmoid": "sigmoid", "relu": "relu", "linear": "identity"}
OURS, THEIRS = "rzn", "zrn"
KINDS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "rnn"}
KINDS |= {f"ConvLSTM{dims}D": "conv_lstm" for dims in (1, 2, 3)}
IDLE = ("InputLayer", "Masking", "Dropout", "SpatialDropout1D")
KNOWN = (*KINDS, *IDLE, "Bidirectional")
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
        weights: a layer or model, or its `get_weights()`, the arrays of one layer, of a
            bidirectional one, or a list of such lists for a stack; or the path of a `.keras` file,
            or of a `.weights.h5` file whose recurrent layers are of one kind (both need h5py).
        cell: the cell that the weights are for; made to fit if None.
        **options: of the cell that is made, where the arrays cannot tell: `activation`,
            `recurrent_activation`, and for a convolutional LSTM `input_shape`, `strides`,
            `dilation_rate`, `padding` (Keras' default is "valid", ours "same").

    Returns:
        The cell, and params of the type of the weights.

    Raises:
        TypeError: when `weights` is none of these.
        ValueError: when a weight is missing, has another shape, does not fit the cell, or the layer
            has something that we do not.

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
        layers = _layers(weights)
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
        hint = "" if arrays else ": a layer has none before it is built"
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
    return build(kind, weights, cell, "Keras", ALLOWED, **options)


Found = tuple[list[Any], dict[str, Any]]


def _layers(source: Any) -> list[list[Found]]:
    """The arrays and options of every direction of every layer."""
    if isinstance(source, str | PathLike):
        return _read(Path(source))
    if hasattr(source, "layers") and not hasattr(source, "forward_layer"):
        return _network([(_config(layer), layer.get_weights()) for layer in source.layers])
    if hasattr(source, "get_weights"):
        return _recurrent([_of_config(_config(source), source.get_weights())])
    if not isinstance(source, Sequence) or not source:
        raise TypeError(
            f"`weights` must be a layer, its get_weights(), or a path, got {type(source).__name__}"
        )
    stacked = source if isinstance(source[0], list | tuple) else [source]
    return [_halves(list(arrays), [{}]) for arrays in stacked]


def _halves(arrays: list[Any], options: list[dict[str, Any]]) -> list[Found]:
    """One direction or two, told by the number of arrays."""
    count = len(arrays)
    if count not in (4, 6):
        return [(arrays, options[0])]
    return [(arrays[: count // 2], dict(options[0])), (arrays[count // 2 :], dict(options[-1]))]


def _network(layers: Iterable[tuple[Mapping[str, Any], list[Any]]]) -> list[list[Found]]:
    """The recurrent layers of a model: an embedding or a readout is no part of the cell."""
    return _recurrent(
        [_of_config(layer, arrays) for layer, arrays in layers if layer["class_name"] in KNOWN]
    )


def _recurrent(found: list[list[Found] | None]) -> list[list[Found]]:
    layers = [layer for layer in found if layer is not None]
    if not layers:
        raise ValueError("`weights` must hold a recurrent layer, got none")
    return layers


def _config(layer: Any) -> dict[str, Any]:
    """What a layer says of itself, as a `.keras` file has it."""
    config = dict(layer.get_config())
    if hasattr(layer, "forward_layer"):
        config["layer"] = _config(layer.forward_layer)
        config["backward_layer"] = _config(layer.backward_layer)
        return {"class_name": "Bidirectional", "config": config}
    built = getattr(layer, "get_build_config", dict)() or {}
    return {"class_name": type(layer).__name__, "config": config, "build_config": built}


def _of_config(layer: Mapping[str, Any], arrays: list[Any]) -> list[Found] | None:
    """The arrays and options of one layer; None of a layer that does nothing to the weights."""
    name, config = layer["class_name"], layer["config"]
    if name in IDLE:
        return None
    if name == "Bidirectional":
        if config.get("merge_mode") != "concat":
            raise ValueError(f"`merge_mode` must be 'concat', got {config.get('merge_mode')!r}")
        one = config["layer"]
        two = config.get("backward_layer") or one
        shape = layer.get("build_config", {}).get("input_shape")
        each = [_options({"build_config": {"input_shape": shape}, **half}) for half in (one, two)]
        return _halves(arrays, each)
    return [(arrays, _options(layer, backward=False))]


def _options(layer: Mapping[str, Any], backward: bool = True) -> dict[str, Any]:
    """The options of our cell that one layer of Keras asks for."""
    name, config = layer["class_name"], layer["config"]
    if name not in KINDS:
        raise ValueError(f"`weights` must be of {', '.join(KINDS)} or Bidirectional, got {name}")
    if config.get("go_backwards") and not backward:
        raise ValueError("`go_backwards` is no matter of weights: load the layer without it")
    options = {}
    for argument in ("activation", "recurrent_activation"):
        if argument not in config:
            continue
        theirs = config[argument]
        if theirs not in ACTIVATIONS:
            raise ValueError(
                f"`{argument}` of {name} must be one of {list(ACTIVATIONS)}, got {theirs!r}"
            )
        options[argument] = ACTIVATIONS[theirs]
    if KINDS[name] == "gru":
        options["reset_after"] = config.get("reset_after", True)
    if KINDS[name] == "conv_lstm":
        if config.get("data_format") not in (None, "channels_last"):
            raise ValueError("`data_format` of ConvLSTM must be 'channels_last'")
        shape = layer.get("build_config", {}).get("input_shape")
        if shape and None not in shape[2:]:
            options["input_shape"] = tuple(shape[2:])
        options["padding"] = config.get("padding", "valid")
        for argument in ("strides", "dilation_rate"):
            each = _listed(config.get(argument, 1))
            options[argument] = each[0] if len(set(each)) == 1 else tuple(each)
    return options


def _listed(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _read(path: Path) -> list[list[Found]]:
    """The layers of a `.keras` file in its order, or those of a `.weights.h5` file."""
    if not path.is_file():
        raise FileNotFoundError(path)
    h5py = files.need("h5py", "a file of Keras")
    if path.suffix != ".keras":
        try:
            with h5py.File(path) as file:
                return _recurrent([_halves(arrays, [{}]) for arrays in _groups(file).values()])
        except OSError as error:
            raise ValueError(f"`weights` must be an HDF5 file ({error})") from None
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            data = io.BytesIO(archive.read("model.weights.h5"))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"`weights` must be a .keras file ({error})") from None
    found, seen = [], {}
    with h5py.File(data) as file:
        groups = _groups(file)
        for layer in config["config"]["layers"]:
            base = snake(layer["class_name"])
            count = seen[base] = seen.get(base, -1) + 1
            arrays = groups.get(base if count == 0 else f"{base}_{count}", [])
            found.append((layer, arrays))
    return _network(found)


def snake(name: str) -> str:
    """The name of a class as Keras writes it in files: `conv_lstm2d` for `ConvLSTM2D`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _groups(file: Any) -> dict[str, list[np.ndarray]]:
    """The arrays of every recurrent layer of an HDF5 file of Keras, in natural order."""
    if "layers" not in file:
        raise ValueError("`weights` must hold the group 'layers', as `save_weights` writes it")

    def read(group: Any) -> list[np.ndarray]:
        values = group["vars"]
        return [np.asarray(values[str(index)]) for index in range(len(values))]

    def number(name: str) -> tuple[str, int]:
        match = re.fullmatch(r"(.*?)_?(\d*)", name)
        return (match[1], int(match[2] or 0)) if match else (name, 0)

    found = {}
    for name in sorted(file["layers"], key=number):
        layer = file["layers"][name]
        if "forward_layer" in layer:
            found[name] = read(layer["forward_layer/cell"]) + read(layer["backward_layer/cell"])
        elif "cell" in layer:
            found[name] = read(layer["cell"])
    kinds = {number(name)[0] for name in found}
    if len(kinds) > 1 and isinstance(file.filename, str) and file.filename.endswith(".h5"):
        raise ValueError(
            f"`weights` must be of layers of one kind, got {sorted(found)}, whose order the file "
            "does not tell: save a .keras file"
        )
    return found
