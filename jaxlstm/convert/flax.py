"""Weights of the cells of Flax, `flax.nnx` and `flax.linen`.

| cell | nnx | linen | ours |
|---|---|---|---|
| LSTMCell | `ii, if_, ig, io` kernel [I, H]; `hi, hf, hg, ho` kernel [H, H] and bias [H] | the same, `if` | blocks i, f, g, o of `kernel`, `recurrent_kernel`, `bias` |
| OptimizedLSTMCell | `dense_i` kernel [I, 4H]; `dense_h` kernel [H, 4H] and bias [4H] | as LSTMCell | in the order i, f, g, o |
| GRUCell | `dense_i` kernel [I, 3H] and bias [3H]; `dense_h` kernel [H, 3H] | `ir, iz, in` kernel, bias; `hr, hz` kernel; `hn` kernel, bias | r, z, n; the bias of `hn` is a block of `recurrent_bias` |
| SimpleCell | `dense_i` kernel, bias; `dense_h` kernel | `i` kernel, bias; `h` kernel | |

Their carries are the pair (c, h), ours is `LSTMCarry(hidden, cell)`.
"""  # noqa: E501

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.activations import ACTIVATIONS, Activation
from jaxlstm.cells.base import Params, check_choice
from jaxlstm.convert import files
from jaxlstm.convert.parts import (
    Part,
    build,
    check_mapping,
    count_blocks,
    fetch,
    take_one,
    to_numpy,
)

GATES = {"lstm": "ifgo", "gru": "rzn"}
STYLES = ("nnx", "nnx_optimized", "linen")
ALLOWED = {
    "lstm": {"activation": (), "recurrent_activation": ()},
    "gru": {"activation": (), "recurrent_activation": ()},
    "rnn": {"activation": ()},
}


def load(weights: Any, cell: Cell | None = None, **options: Any) -> tuple[Cell, Params]:
    """A cell and its params out of those of a Flax cell, of nnx or linen.

    Args:
        weights: an nnx cell or its `nnx.state(…)`, linen's variables (with or without `"params"`),
            those of Flax's `RNN` around a cell, or any nested mapping of arrays with these names.
        cell: the cell that the weights are for; made to fit if None.
        **options: of the cell that is made: `activation`, `recurrent_activation`; those of the nnx
            cell, which arrays do not tell.

    Returns:
        The cell, and params of the type of the weights.

    Raises:
        TypeError: when `weights` is none of these.
        ValueError: when a weight is missing, has another shape, or does not fit the cell, or the
            nnx cell adds its carry or is read backwards.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> from flax import nnx
        >>> theirs = nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0))
        >>> cell, params = jl.convert.flax.load(nnx.state(theirs))
        >>> cell, bool((params.kernel == theirs.dense_i.kernel[...]).all())
        (lstm(input_size=3, hidden_size=4), True)
    """
    if type(weights).__module__.startswith("flax.nnx") and not isinstance(weights, Mapping):
        nnx = files.need("flax.nnx", "a cell of Flax")
        options = {**_said(weights), **options}
        weights = nnx.state(weights, nnx.Param)
    check_mapping(weights)
    for around in ("params", "cell"):
        if isinstance(weights.get(around), Mapping):
            weights = weights[around]
    flat = flatten(weights)
    if "dense_i.kernel" in flat:
        return _joint(flat, cell, options)
    if "i.kernel" in flat:
        renamed = {"i": "dense_i", "h": "dense_h"}
        parts = {}
        for name, value in flat.items():
            owner, leaf = name.rsplit(".", 1)
            parts[f"{renamed.get(owner, owner)}.{leaf}"] = value
        return _joint(parts, cell, options)
    flat = {name.replace("if_.", "if."): value for name, value in flat.items()}
    kind = "gru" if "ir.kernel" in flat else "lstm"
    return build(kind, _gates(flat, kind), cell, "Flax", ALLOWED, **options)


def dump(cell: Cell, params: Params, style: str = "nnx") -> dict[str, Any]:
    """The parameters of Flax's cell for one of ours, as nested dicts of arrays.

    Args:
        cell: `lstm`, `gru` or `rnn`.
        params: its params.
        style: "nnx" for `nnx.LSTMCell`, `nnx.GRUCell`, `nnx.SimpleCell`, for `nnx.update`;
            "nnx_optimized" for `nnx.OptimizedLSTMCell`; "linen" for those of linen, below
            `"params"`.

    Returns:
        NumPy arrays in nested dicts.

    Raises:
        ValueError: when Flax cannot express the cell: its message names the option.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> cell = jl.rnn(input_size=3, hidden_size=4)
        >>> theirs = jl.convert.flax.dump(cell, cell.init(jax.random.key(0)))
        >>> theirs["dense_i"]["kernel"].shape, sorted(theirs["dense_i"])
        ((3, 4), ['bias', 'kernel'])
    """
    check_choice("style", style, STYLES)
    part = take_one(cell, params, "Flax", ALLOWED)
    if style == "linen":
        return {"params": _split(part, "if") if part.kind != "rnn" else _simple(part, "i", "h")}
    if part.kind == "rnn":
        return _simple(part, "dense_i", "dense_h")
    if part.kind == "gru":
        return _joint_gru(part)
    if style == "nnx_optimized":
        w = part.weights
        return {
            "dense_i": {"kernel": w["kernel"]},
            "dense_h": {"kernel": w["recurrent_kernel"], "bias": w["bias"]},
        }
    return _split(part, "if_")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, the names joined with dots."""
    if not isinstance(tree, Mapping):
        return {prefix.rstrip("."): to_numpy(prefix.rstrip("."), _value(tree))}
    flat = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.")
    return flat


def _said(module: Any) -> dict[str, Any]:
    """What a module of nnx says of itself and its arrays do not."""
    if getattr(module, "reverse", False):
        raise ValueError(
            "`reverse` is no matter of weights: load the cell, and tell it to `unroll`"
        )
    cell = getattr(module, "cell", module)
    if getattr(cell, "residual", False):
        raise ValueError(f"`residual` of {type(cell).__name__} must be False, got True")
    names = {"activation": "activation_fn", "recurrent_activation": "gate_fn"}
    return {
        ours: _our_name(getattr(cell, theirs))
        for ours, theirs in names.items()
        if hasattr(cell, theirs)
    }


def _our_name(function: Activation) -> Activation:
    return next((name for name, ours in ACTIVATIONS.items() if ours is function), function)


def _value(leaf: Any) -> Any:
    return leaf.get_value() if hasattr(leaf, "get_value") else leaf


def _joint(flat: dict[str, Any], cell: Cell | None, options: dict[str, Any]) -> Any:
    inputs, width = fetch(flat, "dense_i.kernel", (None, None)).shape
    recurrent = fetch(flat, "dense_h.kernel", (None, width))
    kind = count_blocks(width, recurrent.shape[0], "'dense_i.kernel'")
    where = "dense_h.bias" if kind == "lstm" else "dense_i.bias"
    weights = {
        "kernel": fetch(flat, "dense_i.kernel", (inputs, width)),
        "recurrent_kernel": recurrent,
        "bias": fetch(flat, where, (width,)) if where in flat else None,
    }
    if kind == "gru" and weights["bias"] is not None:
        weights["recurrent_bias"] = np.zeros_like(weights["bias"])
    return build(kind, weights, cell, "Flax", ALLOWED, **options)


def _gates(flat: dict[str, Any], kind: str) -> dict[str, Any]:
    gates = GATES[kind]

    hidden = fetch(flat, f"h{gates[0]}.kernel", (None, None)).shape[1]
    inputs = fetch(flat, f"i{gates[0]}.kernel", (None, hidden)).shape[0]

    def joined(prefix: str, leaf: str, *shape: int) -> np.ndarray:
        each = [fetch(flat, f"{prefix}{gate}.{leaf}", shape) for gate in gates]
        return np.concatenate(each, axis=-1)

    weights: dict[str, Any] = {
        "kernel": joined("i", "kernel", inputs, hidden),
        "recurrent_kernel": joined("h", "kernel", hidden, hidden),
    }
    if kind == "lstm":
        weights["bias"] = joined("h", "bias", hidden)
        return weights
    weights["bias"] = joined("i", "bias", hidden)
    last = fetch(flat, "hn.bias", (hidden,))
    weights["recurrent_bias"] = np.concatenate([np.zeros_like(last)] * 2 + [last])
    return weights


def _split(part: Part, forget: str) -> dict[str, Any]:
    """Names of their own for every gate: linen's cells, and `nnx.LSTMCell`."""
    w, gates = part.weights, GATES[part.kind]
    tree: dict[str, Any] = {}
    for side, name in (("i", "kernel"), ("h", "recurrent_kernel")):
        for gate, block in zip(gates, np.split(_there(w, name), len(gates), -1), strict=True):
            owner = forget if side + gate == "if" else side + gate
            tree[owner] = {"kernel": block}
    biases = np.split(_there(w, "bias"), len(gates))
    owners = "h" if part.kind == "lstm" else "i"
    for gate, block in zip(gates, biases, strict=True):
        tree[owners + gate]["bias"] = block
    if part.kind == "gru":
        r, z, n = np.split(_there(w, "recurrent_bias"), 3)
        tree["ir"]["bias"] = tree["ir"]["bias"] + r
        tree["iz"]["bias"] = tree["iz"]["bias"] + z
        tree["hn"]["bias"] = n
    return tree


def _joint_gru(part: Part) -> dict[str, Any]:
    w = part.weights
    r, z, n = np.split(_there(w, "recurrent_bias"), 3)
    if n.any():
        raise ValueError("`recurrent_bias` of the candidate cannot be expressed by nnx.GRUCell")
    return {
        "dense_i": {"kernel": w["kernel"], "bias": w["bias"] + np.concatenate([r, z, n])},
        "dense_h": {"kernel": w["recurrent_kernel"]},
    }


def _simple(part: Part, inputs: str, hidden: str) -> dict[str, Any]:
    w = part.weights
    return {
        inputs: {"kernel": w["kernel"], "bias": _there(w, "bias")},
        hidden: {"kernel": w["recurrent_kernel"]},
    }


def _there(weights: dict[str, Any], name: str) -> np.ndarray:
    array = weights[name]
    if array is None:
        raise ValueError(f"`{name}` cannot be left out in Flax, got None")
    return array
