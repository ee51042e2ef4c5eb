"""A whole Keras model around the layers: symbols or features in, a readout at the end."""

import io
import json
import zipfile
from os import PathLike
from typing import Any

import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Params
from jaxlstm.convert import around, files
from jaxlstm.convert.keras import ALLOWED, arrays_of
from jaxlstm.convert.keras_files import group_names
from jaxlstm.convert.keras_layers import ACTIVATIONS, KINDS
from jaxlstm.convert.parts import Part, take_apart

NAMES = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
CLASSES = {ours: theirs for theirs, ours in KINDS.items() if ours != "conv_lstm"}


def write(
    path: str | PathLike[str],
    cell: Cell,
    params: Params,
    *,
    embedding: Any = None,
    readout: tuple[Any, Any] | None = None,
    every_step: bool = True,
) -> None:
    """Write a network as a `.keras` file, for `keras.models.load_model`.

    It is a Sequential model of features [B, T, I], which takes a `mask` [B, T] for sequences of
    different lengths, or of symbols [B, T]. Keras hands no mask on from symbols: give it those of
    one length at a time, or call its layers one by one, each with the mask.

    Args:
        path: the file; replaced in one step when all has been written.
        cell: `lstm`, `gru` or `rnn`, stacked or bidirectional.
        params: its params.
        embedding: [V, I], a vector for each symbol, written in the type of the params; None for
            features.
        readout: the kernel [H, O] and the bias [O] of a linear readout, written in that type too, a
            bias of None as zeros; None for none.
        every_step: whether there is an output for each step, or for the last valid one alone, then
            of a cell of one direction.

    Raises:
        TypeError: when the embedding or the readout is not floating point.
        ValueError: when Keras cannot express the cell, or what is around it does not fit.
        ModuleNotFoundError: without the package h5py.
    """
    h5py = files.need("h5py", "a file of Keras")
    # Arrays may be of any activation; a model must name it.
    allowed = {
        kind: {name: choices or tuple(NAMES) for name, choices in ALLOWED[kind].items()}
        for kind in CLASSES
    }
    layers = take_apart(cell, params, "a Keras model", allowed)
    first, last = layers[0][0].weights["kernel"], layers[-1]
    sizes = first.shape[0], sum(part.weights["recurrent_kernel"].shape[0] for part in last)
    dtype, embedding, readout = around.check(
        params, sizes, len(last), embedding, readout, every_step
    )
    configs, arrays = [], {}

    def add(name: str, config: dict[str, Any], groups: dict[str, list[Any]]) -> None:
        unique = group_names([*configs, {"class_name": name}])[-1]
        configs.append(_layer(name, {"name": unique, **config}))
        for group, values in groups.items():
            arrays.update({f"layers/{unique}/{group}/{k}": a for k, a in enumerate(values)})

    if embedding is None:
        shape, kind = [None, None, first.shape[0]], dtype
    else:
        shape, kind = [None, None], "int32"
    configs.append(_layer("InputLayer", {"name": "inputs", "batch_shape": shape, "dtype": kind}))
    if embedding is not None:
        symbols, width = np.shape(embedding)
        config = {"input_dim": symbols, "output_dim": width, "dtype": dtype}
        add("Embedding", config, {"vars": [embedding]})
    for k, layer in enumerate(layers):
        sequences = every_step or k < len(layers) - 1
        one = {**_options(layer[0]), "return_sequences": sequences, "dtype": dtype}
        if len(layer) == 1:
            add(CLASSES[layer[0].kind], one, {"cell/vars": arrays_of(layer[0])})
            continue
        two = {**_options(layer[1]), "return_sequences": sequences, "dtype": dtype}
        config = {
            "merge_mode": "concat",
            "dtype": dtype,
            "layer": _layer(CLASSES[layer[0].kind], {"name": "forward", **one}),
            "backward_layer": _layer(
                CLASSES[layer[1].kind], {"name": "backward", **two, "go_backwards": True}
            ),
        }
        groups = {
            f"{side}_layer/cell/vars": arrays_of(part)
            for side, part in zip(("forward", "backward"), layer, strict=True)
        }
        add("Bidirectional", config, groups)
    if readout is not None:
        config = {"units": np.shape(readout[0])[1], "dtype": dtype}
        add("Dense", config, {"vars": list(readout)})

    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for name, array in arrays.items():
            file[name] = array
            if dtype == "bfloat16":  # which HDF5 has no type for
                file[name].attrs["dtype"] = dtype
    config = _layer("Sequential", {"name": "jaxlstm", "layers": configs}, module="keras")
    with files.whole(path) as name, zipfile.ZipFile(name, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())


def _layer(name: str, config: dict[str, Any], module: str = "keras.layers") -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def _options(part: Part) -> dict[str, Any]:
    options = part.options
    config = {
        "units": options["hidden_size"],
        "activation": NAMES[options["activation"]],
        "use_bias": options["use_bias"],
        # Keras builds a layer before it reads its weights, and draws no QR in half precision.
        "recurrent_initializer": "zeros",
    }
    if part.kind != "rnn":
        config["recurrent_activation"] = NAMES[options["recurrent_activation"]]
    if part.kind == "gru":
        config["reset_after"] = options["reset_after"]
    return config
