"""A whole ONNX model around the operators: symbols or features in, a readout at the end."""

from os import PathLike
from typing import Any

import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Params
from jaxlstm.convert import around, files
from jaxlstm.convert.onnx import count_ways, dump

OPSET = 17
# What its recurrent operators take.
TYPES = ("float16", "float32", "float64")


def write(
    path: str | PathLike[str],
    cell: Cell,
    params: Params,
    *,
    embedding: Any = None,
    readout: tuple[Any, Any] | None = None,
    every_step: bool = True,
) -> None:
    """Write a network as a `.onnx` file.

    Its inputs are `inputs`, float [B, T, I], or with an embedding int64 symbols [B, T], and
    `lengths`, int32 [B], the valid steps of each sequence. Its outputs are `outputs` [B, T, …], or
    without `every_step` the last valid one [B, …], and the states of layer k, `hidden_k` and for an
    LSTM `cell_k`, [D, B, H]. What a cell gives at steps that are not valid is zero.

    Args:
        path: the file; replaced in one step when all has been written.
        cell: `lstm`, `gru` or `rnn`, stacked or bidirectional.
        params: its params.
        embedding: [V, I], a vector for each symbol, written in the type of the params; None for
            features.
        readout: the kernel [H, O] and the bias [O] of a linear readout, written in that type too, a
            bias of None as zeros; None for none.
        every_step: whether there is an output for each step; else that of the last layer's state,
            which must be of one direction.

    Raises:
        TypeError: when the embedding or the readout is not floating point.
        ValueError: when ONNX cannot express the cell or its type, or what is around it does not
            fit.
        ModuleNotFoundError: without the package onnx.
    """
    onnx = files.need("onnx", "an ONNX model")
    layers = dump(cell, params)
    ways, inputs = count_ways(layers[-1]), layers[0].arrays["W"].shape[2]
    width = layers[-1].attributes["hidden_size"] * ways
    dtype, embedding, readout = around.check(
        params, (inputs, width), ways, embedding, readout, every_step
    )
    if dtype not in TYPES:
        raise ValueError(f"`params` must be of {', '.join(TYPES)} for ONNX, got {dtype}")
    helper, of_array = onnx.helper, onnx.numpy_helper.from_array
    nodes, stored, states = [], [], []

    def put(name: str, array: Any) -> str:
        stored.append(of_array(np.ascontiguousarray(array), name))
        return name

    def add(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs[0]

    x = "inputs"
    if embedding is not None:
        x = add("Gather", [put("embedding", embedding), x], ["embedded"], axis=0)
    x = add("Transpose", [x], ["time_major"], perm=[1, 0, 2])
    for k, layer in enumerate(layers):
        lstm = layer.op == "LSTM"
        peephole = ["", "", put(f"P_{k}", layer.arrays["P"])] if "P" in layer.arrays else []
        weights = [
            put(f"{name}_{k}", layer.arrays[name]) if name in layer.arrays else ""
            for name in ("W", "R", "B")
        ]
        outputs = [f"Y_{k}", f"hidden_{k}"] + [f"cell_{k}"] * lstm
        y = add(layer.op, [x, *weights, "lengths", *peephole], outputs, **layer.attributes)
        shape = [count_ways(layer), "B", layer.attributes["hidden_size"]]
        states += [(name, shape) for name in outputs[1:]]
        y = add("Transpose", [y], [f"Y_{k}_joined"], perm=[0, 2, 1, 3])
        x = add("Reshape", [y, put(f"shape_{k}", np.array([0, 0, -1]))], [f"Y_{k}_flat"])
    if every_step:
        x = add("Transpose", [x], ["batch_major"], perm=[1, 0, 2])
    else:
        x = add("Squeeze", [f"hidden_{len(layers) - 1}", put("first", np.array([0]))], ["last"])
    if readout is not None:
        kernel, bias = readout
        x = add("MatMul", [x, put("readout_kernel", kernel)], ["product"])
        x = add("Add", [x, put("readout_bias", bias)], ["read"])
        width = kernel.shape[1]
    add("Identity", [x], ["outputs"])

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    whole, symbols = onnx.TensorProto.INT32, onnx.TensorProto.INT64
    if embedding is None:
        given = helper.make_tensor_value_info("inputs", kind, ["B", "T", int(inputs)])
    else:
        given = helper.make_tensor_value_info("inputs", symbols, ["B", "T"])
    lengths = helper.make_tensor_value_info("lengths", whole, ["B"])
    shape = ["B", "T", int(width)] if every_step else ["B", int(width)]
    graph = helper.make_graph(
        nodes,
        "jaxlstm",
        [given, lengths],
        [helper.make_tensor_value_info(n, kind, s) for n, s in [("outputs", shape), *states]],
        stored,
    )
    model = helper.make_model(
        graph, producer_name="jaxlstm", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
    )
    onnx.checker.check_model(model)
    with files.whole(path) as name:
        onnx.save(model, name)
