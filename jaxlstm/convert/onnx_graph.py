"""The recurrent operators of a graph of ONNX, where they are a chain: each reads the one before."""

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from jaxlstm.convert import files
from jaxlstm.convert.parts import to_numpy

WEIGHTS = {"W": 1, "R": 2, "B": 3, "P": 7}
LENGTHS = 4
STATES = {"initial_h": 5, "initial_c": 6}
# What moves numbers about, and computes nothing of them.
IDLE = (
    "Cast",
    "Concat",
    "Dropout",
    "Flatten",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
SIZES = ("Shape", "Size")

Found = tuple[str, dict[str, Any], dict[str, np.ndarray]]


def read(graph: Any, operators: Collection[str]) -> list[Found]:
    """The name, the attributes and the arrays of every recurrent operator, in their order.

    Args:
        graph: an `onnx.GraphProto`.
        operators: the names of those that are recurrent.

    Returns:
        A list with one entry for each.

    Raises:
        ValueError: when a weight is not stored in the graph, the operators are no chain, or
            something is computed before or between them; an embedding before them, and what
            follows the last, are passed over.
    """
    chain = _Graph(graph, operators)
    chain.check()
    return [
        (node.op_type, chain.attributes(node), dict(chain.arrays(node))) for node in chain.nodes
    ]


class _Graph:
    def __init__(self, graph: Any, operators: Collection[str]):
        self.helper = files.need("onnx.helper", "an ONNX model")
        self.to_array = files.need("onnx.numpy_helper", "an ONNX model").to_array
        self.all = list(graph.node)
        self.operators = operators
        self.nodes = [node for node in self.all if node.op_type in operators]
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in self.all for name in node.output}

    def attributes(self, node: Any) -> dict[str, Any]:
        return {a.name: _text(self.helper.get_attribute_value(a)) for a in node.attribute}

    def stored(self, name: str) -> np.ndarray | None:
        """The array of that name: of an initializer or a constant; None where it is computed."""
        if name in self.tensors:
            return self.to_array(self.tensors[name])
        node = self.makers.get(name)
        if node is not None and node.op_type == "Identity":
            return self.stored(node.input[0])
        if node is None or node.op_type != "Constant":
            return None
        [value] = self.attributes(node).values()
        return self.to_array(value) if hasattr(value, "raw_data") else np.asarray(value)

    def arrays(self, node: Any) -> Iterator[tuple[str, np.ndarray]]:
        """The weights of an operator, and of what its initial states are made."""
        for name, index in WEIGHTS.items():
            if given := _input(node, index):
                array = self.stored(given)
                if array is None:
                    raise ValueError(f"`{name}` of {node.op_type} must be stored in the model")
                yield name, to_numpy(name, array)
        for name, index in STATES.items():
            if given := _input(node, index):
                yield name, np.concatenate([np.zeros(0), *self.numbers(given)])

    def numbers(self, name: str) -> Iterator[np.ndarray]:
        """The stored numbers of which an array is computed, its sizes left out."""
        array, node = self.stored(name), self.makers.get(name)
        if array is not None:
            if array.dtype.kind not in "biu":  # those say where, not what
                yield array.ravel()
        elif node is not None and node.op_type in self.operators:
            raise ValueError(f"an initial state of {node.op_type} must not be computed by another")
        elif node is not None and node.op_type == "ConstantOfShape":
            yield from (self.to_array(value).ravel() for value in self.attributes(node).values())
        elif node is not None and node.op_type not in SIZES:
            for given in filter(None, node.input):
                yield from self.numbers(given)

    def sources(self, name: str) -> set[str]:
        """The arrays that one holds, looked for behind what is idle."""
        node = self.makers.get(name)
        if node is None or node.op_type not in IDLE:
            return {name}
        given = node.input if node.op_type == "Concat" else node.input[:1]
        return set().union(*(self.sources(one) for one in given))

    def behind(self, names: list[str]) -> set[str]:
        """The arrays that some are computed of, and they themselves."""
        left, found = list(names), set[str]()
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += self.makers[name].input if name in self.makers else []
        return found

    def check(self) -> None:
        """Refuse what is no chain."""
        read = [self.sources(node.input[0]) for node in self.nodes]
        if not read:
            return
        for name in sorted(read[0]):
            self.check_first(name)
        for (before, node), found in zip(pairwise(self.nodes), read[1:], strict=True):
            for name in sorted(found - {before.output[0]}):
                raise ValueError(
                    f"`weights` must be a chain of operators, got {self.maker(name)} before the "
                    f"{node.op_type} '{node.output[0]}'"
                )
        inner = set().union(*read)
        lengths = self.behind([_input(node, LENGTHS) for node in self.nodes])
        for node in self.all:
            if node.op_type in (*IDLE, *SIZES, *self.operators) or node.output[0] in lengths:
                continue
            for name in filter(None, node.input):
                if inner & self.sources(name):
                    raise ValueError(
                        f"`weights` must be a chain of operators, got {node.op_type} beside it"
                    )

    def check_first(self, name: str) -> None:
        """Refuse what is computed before the chain, but an embedding."""
        node = self.makers.get(name)
        if node is None or node.op_type == "OneHot":
            return
        if node.op_type != "Gather" or self.stored(node.input[0]) is None:
            raise ValueError(
                f"`weights` must have nothing but an embedding before the first operator, got "
                f"{node.op_type}"
            )

    def maker(self, name: str) -> str:
        node = self.makers.get(name)
        return f"'{name}'" if node is None else node.op_type


def _input(node: Any, index: int) -> str:
    return node.input[index] if index < len(node.input) else ""


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_text(item) for item in value] if isinstance(value, list | tuple) else value
