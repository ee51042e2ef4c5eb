"""ONNX' operators LSTM, GRU and RNN, both ways, and whole models for any runtime of ONNX.

With D directions (forward, then backward):

| ONNX | shape | ours |
|---|---|---|
| `W` | [D, nH, I] | `kernel`, transposed |
| `R` | [D, nH, H] | `recurrent_kernel`, transposed |
| `B` | [D, 2nH] | `bias`, then `recurrent_bias` |
| `P` (LSTM) | [D, 3H], i, o, f | `peephole` [3, H], i, f, o |

LSTM has the blocks i, o, f, c, GRU z, r, h. `linear_before_reset=1` is our `reset_after`; with 0
the two biases of GRU are added up. `input_forget=1` sets f = 1 − i where our `coupled` sets
i = 1 − f: the weights change their sign, and ONNX' block f, which then does nothing, is zero. That
holds of sigmoid gates alone, 1 − σ(z) = σ(−z): other gates of that kind are refused.
`layout` and `sequence_lens` are matters of the data. `clip` bounds what goes into the activations,
not the memory as our `cell_clip` does: it is refused, as are `direction="reverse"` alone (say
`reverse=True` to `unroll`) and activations that we do not have.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Params
from jaxlstm.convert import files, onnx_graph
from jaxlstm.convert.parts import (
    BLOCKS,
    Part,
    blocks,
    build,
    fetch,
    owners,
    put_together,
    take_apart,
)

OPERATORS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}
ACTIVATIONS = {"Tanh": "tanh", "Sigmoid": "sigmoid", "Relu": "relu"}
NAMES = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
# For each operator the options that its activations give, in order, with ONNX' defaults.
ROLES = {
    "lstm": {
        "recurrent_activation": "sigmoid",
        "activation": "tanh",
        "output_activation": "tanh",
    },
    "gru": {"recurrent_activation": "sigmoid", "activation": "tanh"},
    "rnn": {"activation": "tanh"},
}
THEIRS = {"lstm": "iofg", "gru": "zrn", "rnn": "n"}
OURS = {"lstm": "ifgo", "gru": "rzn", "rnn": "n"}
_SHOWN = tuple(NAMES)
ALLOWED = {
    "lstm": {
        "activation": _SHOWN,
        "recurrent_activation": _SHOWN,
        "output_activation": (*_SHOWN, None),
        "use_bias": (False,),
        "recurrent_bias": (True,),
        "peepholes": (True,),
        "coupled": (True,),
    },
    "gru": {
        "activation": _SHOWN,
        "recurrent_activation": _SHOWN,
        "use_bias": (False,),
        "reset_after": (False,),
    },
    "rnn": {"activation": _SHOWN, "use_bias": (False,), "recurrent_bias": (True,)},
}


class Node(NamedTuple):
    """One operator: `op` "LSTM", "GRU" or "RNN", its `attributes`, and `arrays` W, R, B, P.

    `initial_h` and `initial_c` may be among the arrays where they are zero.
    """

    op: str
    attributes: Mapping[str, Any]
    arrays: Mapping[str, Any]


def load(weights: Any, cell: Cell | None = None) -> tuple[Cell, Params]:
    """A cell and its params out of ONNX' operators.

    Args:
        weights: a `Node`, a list of them for a stack, an `onnx.ModelProto`, or the path of a
            `.onnx` file, whose recurrent operators are a chain and are stacked in their order
            (needs onnx); an embedding before it and a readout after it are passed over.
        cell: the cell that the weights are for; made to fit if None.

    Returns:
        The cell, and params of the type of the weights.

    Raises:
        TypeError: when `weights` is none of these.
        ValueError: when a weight is missing, has another shape, does not fit the cell, or the
            operator does something that we do not; when a model computes something else before the
            operators or between them, or stores an initial state that is not zero.

    Examples:
        >>> import numpy as np, jaxlstm as jl
        >>> arrays = {"W": np.ones((1, 16, 3), "f"), "R": np.ones((1, 16, 4), "f")}
        >>> jl.convert.onnx.load(jl.convert.onnx.Node("LSTM", {"hidden_size": 4}, arrays))[0]
        lstm(input_size=3, hidden_size=4, use_bias=False)
    """
    with files.named(weights):
        nodes = _nodes(weights)
        wanted = owners(cell, [count_ways(node) for node in nodes])
        return put_together([_layer(n, own) for n, own in zip(nodes, wanted, strict=True)], cell)


def dump(cell: Cell, params: Params) -> list[Node]:
    """The operators for a cell, one for each layer.

    Args:
        cell: `lstm`, `gru` or `rnn`, stacked or bidirectional.
        params: its params.

    Returns:
        A list of `Node`s with NumPy arrays.

    Raises:
        ValueError: when ONNX cannot express the cell: its message names the option.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> cell = jl.lstm(input_size=3, hidden_size=4, peepholes=True)
        >>> [node] = jl.convert.onnx.dump(cell, cell.init(jax.random.key(0)))
        >>> {name: array.shape for name, array in node.arrays.items()}
        {'W': (1, 16, 3), 'R': (1, 16, 4), 'B': (1, 32), 'P': (1, 12)}
    """
    return [_node(layer) for layer in take_apart(cell, params, "ONNX", ALLOWED)]


def count_ways(node: Node) -> int:
    """The number of directions of an operator."""
    direction = node.attributes.get("direction", "forward")
    if direction not in ("forward", "bidirectional"):
        raise ValueError(f"`direction` must be 'forward' or 'bidirectional', got {direction!r}")
    return 2 if direction == "bidirectional" else 1


def _layer(node: Node, cells: list[Any]) -> list[tuple[Cell, Params]]:
    if node.op not in OPERATORS:
        raise ValueError(f"`op` must be one of {list(OPERATORS)}, got {node.op!r}")
    kind, attributes = OPERATORS[node.op], node.attributes
    if attributes.get("clip"):
        raise ValueError(f"`clip` of the activations is not ours, got {attributes['clip']}")
    for name in ("activation_alpha", "activation_beta"):
        if attributes.get(name):
            raise ValueError(f"`{name}` is not ours, got {list(attributes[name])}")
    ways = len(cells)
    arrays = {name: array for name, array in node.arrays.items() if array is not None}
    for name in ("initial_h", "initial_c"):
        if np.any(arrays.pop(name, 0)):
            raise ValueError(f"`{name}` must be zero: give it to `unroll` as the carry instead")
    rows, inputs = fetch(arrays, "W", (ways, None, None)).shape[1:]
    hidden = rows // BLOCKS[kind]
    if attributes.get("hidden_size", hidden) != hidden:
        raise ValueError(
            f"`hidden_size` must be {hidden}, as 'W' of {rows} rows has it, got "
            f"{attributes['hidden_size']}"
        )
    shapes = {
        "W": (ways, BLOCKS[kind] * hidden, inputs),
        "R": (ways, BLOCKS[kind] * hidden, hidden),
        "B": (ways, 2 * BLOCKS[kind] * hidden),
    }
    if kind == "lstm":
        shapes["P"] = (ways, 3 * hidden)
    for name in arrays:
        if name not in shapes:
            raise ValueError(f"`arrays` of {node.op} must be of {list(shapes)}, got {name!r}")
    fetch(arrays, "R", shapes["R"])
    arrays = {name: fetch(arrays, name, shapes[name]) for name in arrays}
    roles = ROLES[kind]
    given = list(attributes.get("activations", [])) or [NAMES[a] for a in roles.values()] * ways
    layer = []
    for way in range(ways):
        names = given[way * len(roles) : (way + 1) * len(roles)]
        unknown = [name for name in names if name not in ACTIVATIONS]
        if unknown or len(given) != ways * len(roles):
            raise ValueError(
                f"`activations` must be {ways * len(roles)} of {list(ACTIVATIONS)}, got {given}"
            )
        options: dict[str, Any] = {
            role: ACTIVATIONS[name] for role, name in zip(roles, names, strict=True)
        }
        if kind == "lstm" and options["output_activation"] == options["activation"]:
            options["output_activation"] = None
        own = {name: array[way] for name, array in arrays.items()}
        weights = _weights(kind, own, attributes, options)
        layer.append(build(kind, weights, cells[way], "ONNX", ALLOWED, **options))
    return layer


def _weights(
    kind: str, own: dict[str, Any], attributes: Mapping[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """The parts of one direction; what they ask of the cell goes into `options`."""
    weights = {"kernel": own["W"].T, "recurrent_kernel": own["R"].T}
    if "B" in own:
        weights["bias"], weights["recurrent_bias"] = np.split(own["B"], 2)
    if kind == "gru":
        options["reset_after"] = bool(attributes.get("linear_before_reset", 0))
        if not options["reset_after"] and "B" in own:
            weights["bias"] = weights["bias"] + weights.pop("recurrent_bias")
    coupled = kind == "lstm" and bool(attributes.get("input_forget", 0))
    if kind == "lstm":
        options |= {"coupled": coupled, "peepholes": "P" in own}
    if coupled:
        _check_coupled(options)
        weights = {name: _first_negated(blocks(a, "iofg", "igo")) for name, a in weights.items()}
    else:
        weights = {name: blocks(a, THEIRS[kind], OURS[kind]) for name, a in weights.items()}
    if kind == "lstm" and "P" in own:
        i, o, f = np.split(own["P"], 3)
        weights["peephole"] = np.stack([f, -i, o] if coupled else [i, f, o])
    return weights


def _check_coupled(options: Mapping[str, Any]) -> None:
    """Refuse gates of which 1 − φ(z) is not φ(−z), as it is of σ."""
    gates = options["recurrent_activation"]
    if gates != "sigmoid":
        raise ValueError(
            f"`recurrent_activation` of coupled gates must be 'sigmoid' in ONNX, got {gates!r}"
        )


def _first_negated(array: np.ndarray) -> np.ndarray:
    first, *rest = np.split(array, 3, axis=-1)
    return np.concatenate([-first, *rest], axis=-1)


def _node(layer: Sequence[Part]) -> Node:
    first = layer[0]
    kind = first.kind
    for option in ("hidden_size", "use_bias", "coupled", "peepholes", "reset_after"):
        if len({part.options.get(option) for part in layer}) > 1 or layer[-1].kind != kind:
            raise ValueError(f"ONNX has one `{option}` for both directions")
    for part in layer:
        if part.options.get("coupled"):
            _check_coupled(part.options)
    each = [_arrays(part) for part in layer]
    arrays = {name: np.stack([one[name] for one in each]) for name in each[0]}
    attributes: dict[str, Any] = {"hidden_size": first.options["hidden_size"]}
    if len(layer) == 2:
        attributes["direction"] = "bidirectional"
    activations = []
    for part in layer:
        chosen = {role: part.options[role] for role in ROLES[kind]}
        if kind == "lstm":
            chosen["output_activation"] = chosen["output_activation"] or chosen["activation"]
        activations += [NAMES[name] for name in chosen.values()]
    attributes["activations"] = activations
    if kind == "gru":
        attributes["linear_before_reset"] = int(first.options["reset_after"])
    if first.options.get("coupled"):
        attributes["input_forget"] = 1
    op = next(name for name, ours in OPERATORS.items() if ours == kind)
    return Node(op, attributes, arrays)


def _arrays(part: Part) -> dict[str, np.ndarray]:
    kind, w = part.kind, part.weights

    def order(array: np.ndarray) -> np.ndarray:
        if not part.options.get("coupled"):
            return blocks(array, OURS[kind], THEIRS[kind])
        i, g, o = np.split(_first_negated(array), 3, axis=-1)
        return np.concatenate([i, o, np.zeros_like(i), g], axis=-1)

    arrays = {"W": order(w["kernel"]).T, "R": order(w["recurrent_kernel"]).T}
    if w["bias"] is not None:
        more = w.get("recurrent_bias")
        more = np.zeros_like(w["bias"]) if more is None else more
        arrays["B"] = np.concatenate([order(w["bias"]), order(more)])
    if w.get("peephole") is not None:
        i, f, o = w["peephole"]
        coupled = part.options["coupled"]
        arrays["P"] = np.concatenate([-f, o, i] if coupled else [i, o, f])
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _nodes(source: Any) -> list[Node]:
    if isinstance(source, Node):
        return [source]
    if isinstance(source, Sequence) and source and all(isinstance(n, Node) for n in source):
        return list(source)
    if isinstance(source, str | PathLike):
        onnx = files.need("onnx", "a file of ONNX")
        try:
            source = onnx.load(source)
        except FileNotFoundError:
            raise
        except Exception as error:  # protobuf has exceptions of its own
            raise ValueError(f"`weights` must be an ONNX model ({error})") from None
    graph = getattr(source, "graph", None)
    if graph is None:
        raise TypeError(
            f"`weights` must be Nodes, an ONNX model or a path, got {type(source).__name__}"
        )
    nodes = [Node(*found) for found in onnx_graph.read(graph, OPERATORS)]
    if not nodes:
        raise ValueError(f"`weights` must hold one of {', '.join(OPERATORS)}, got none")
    return nodes
