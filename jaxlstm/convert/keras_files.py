"""Files of Keras: `.keras`, whose config says what the layers are, and `.weights.h5`."""

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.convert import files

Arrays = list[list[np.ndarray]]
"""The arrays of a layer, for each of its directions."""


def read_config(path: Path) -> Any:
    """What a `.keras` file says of its model."""
    try:
        return json.loads(_member(path, "config.json"))
    except json.JSONDecodeError as error:
        raise ValueError(f"`weights` must be a .keras file ({error})") from None


def read_model(path: Path) -> dict[str, Arrays]:
    """The arrays of the recurrent layers of a `.keras` file, by the names of their groups."""
    return _read_groups(io.BytesIO(_member(path, "model.weights.h5")))


def _member(path: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"`weights` must be a .keras file ({error})") from None


def read_weights(path: Path, kinds: Sequence[str]) -> list[Arrays]:
    """The arrays of the recurrent layers of a `.weights.h5` file, which must be of one class."""
    found = _read_groups(path)
    if not found:
        raise ValueError("`weights` must hold a recurrent layer, got none")
    if len({_number(name)[0] for name in found}) > 1:
        raise ValueError(
            f"`weights` must be of layers of one kind, got {sorted(found)}, whose order the file "
            "does not tell: save a .keras file"
        )
    kind = _number(next(iter(found)))[0]
    if kind not in map(snake, kinds):
        raise ValueError(f"`weights` must be of {', '.join(kinds)}, got the group '{kind}'")
    return list(found.values())


def group_names(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The group of each layer: its class, numbered from the second on."""
    names, seen = [], {}
    for layer in layers:
        base = snake(layer["class_name"])
        seen[base] = seen.get(base, -1) + 1
        names.append(f"{base}_{seen[base]}" if seen[base] else base)
    return names


def snake(name: str) -> str:
    """The name of a class as Keras writes it in files: `conv_lstm2d` for `ConvLSTM2D`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _read_groups(source: Any) -> dict[str, Arrays]:
    h5py = files.need("h5py", "a file of Keras")
    try:
        with h5py.File(source) as file:
            return _groups(file)
    except OSError as error:
        raise ValueError(f"`weights` must be an HDF5 file ({error})") from None


def _groups(file: Any) -> dict[str, Arrays]:
    """The arrays of every recurrent layer of an HDF5 file of Keras, in natural order."""
    if "layers" not in file:
        raise ValueError("`weights` must hold the group 'layers', as `save_weights` writes it")
    found = {}
    for name in sorted(file["layers"], key=_number):
        layer = file["layers"][name]
        if "forward_layer" in layer or "backward_layer" in layer:
            found[name] = [_read(layer, f"{side}_layer/cell") for side in ("forward", "backward")]
        elif "cell" in layer:
            found[name] = [_read(layer, "cell")]
    return found


def _read(layer: Any, cell: str) -> list[np.ndarray]:
    where = f"{cell}/vars"
    if where not in layer:
        raise ValueError(f"`weights` must hold the group '{layer.name[1:]}/{where}', got none")
    values = layer[where]
    if set(values) != {str(index) for index in range(len(values))}:
        raise ValueError(
            f"`weights` '{layer.name[1:]}/{where}' must be numbered from 0, got {sorted(values)}"
        )
    return [_array(values[str(index)]) for index in range(len(values))]


def _array(stored: Any) -> np.ndarray:
    array = np.asarray(stored)
    if stored.attrs.get("dtype") == "bfloat16":  # which HDF5 has no type for
        return array.view(ml_dtypes.bfloat16)
    return array


def _number(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)_?(\d*)", name)
    return (match[1], int(match[2] or 0)) if match else (name, 0)
