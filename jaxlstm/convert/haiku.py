"""Weights of `haiku.LSTM` and `haiku.GRU`.

| Haiku | shape | ours |
|---|---|---|
| LSTM `linear` `w` | [I + H, 4H], blocks i, g, f, o | `kernel` above `recurrent_kernel` |
| LSTM `linear` `b` | [4H]; 1 is added to f at run time | `bias`, the 1 in it |
| GRU `w_i`, `w_h`, `b` | [I, 3H], [H, 3H], [3H], blocks z, r, a | `reset_after=False` |

Haiku's GRU keeps the old state by 1 − z, ours by z: σ(−x) = 1 − σ(x), so the block of z changes its
sign. The 1 of the forget bias is added in, and taken off again: that block alone goes the round way
to one unit in the last place of 1, everything else bit for bit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Params
from jaxlstm.convert.flax import flatten
from jaxlstm.convert.parts import blocks, build, check_mapping, fetch, take_one

ALLOWED = {"lstm": {}, "gru": {"reset_after": (False,)}}


def load(weights: Mapping[str, Any], cell: Cell | None = None) -> tuple[Cell, Params]:
    """A cell and its params out of Haiku's.

    Args:
        weights: what `transform(…).init` gave, such as `{"lstm/linear": {"w": …, "b": …}}`, where
            one module alone can be an `hk.LSTM` or `hk.GRU`, or the inner mapping of that module.
        cell: the cell that the weights are for; made to fit if None.

    Returns:
        The cell, and params of the type of the weights.

    Raises:
        TypeError: when `weights` is no mapping.
        ValueError: when a weight is missing, has another shape, or does not fit the cell, or none
            or several of the modules may be recurrent.

    Examples:
        >>> import numpy as np, jaxlstm as jl
        >>> theirs = {"lstm/linear": {"w": np.ones((7, 16), "f"), "b": np.zeros(16, "f")}}
        >>> cell, params = jl.convert.haiku.load(theirs)
        >>> cell, params.bias[4:8]
        (lstm(input_size=3, hidden_size=4), Array([1., 1., 1., 1.], dtype=float32))
    """
    check_mapping(weights)
    flat = _module(flatten(weights))
    if "w" in flat:
        rows, width = fetch(flat, "w", (None, None)).shape
        hidden = width // 4
        if rows <= hidden or width % 4:
            raise ValueError(f"`weights` 'w' must have shape [I + H, 4H], got {[rows, width]}")
        w = blocks(flat["w"], "igfo", "ifgo")
        bias = blocks(fetch(flat, "b", (width,)), "igfo", "ifgo").copy()
        bias[hidden : 2 * hidden] += 1
        parts = {"kernel": w[:-hidden], "recurrent_kernel": w[-hidden:], "bias": bias}
        return build("lstm", parts, cell, "Haiku", ALLOWED)
    hidden, width = fetch(flat, "w_h", (None, None)).shape
    arrays = {
        "kernel": fetch(flat, "w_i", (None, width)),
        "recurrent_kernel": fetch(flat, "w_h", (hidden, 3 * hidden)),
        "bias": fetch(flat, "b", (width,)),
    }
    parts = {name: _flip(blocks(array, "zrn", "rzn")) for name, array in arrays.items()}
    return build("gru", parts, cell, "Haiku", ALLOWED, reset_after=False)


def dump(cell: Cell, params: Params) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of Haiku's module for a cell.

    Args:
        cell: `lstm`, or `gru` with `reset_after=False`.
        params: its params.

    Returns:
        NumPy arrays as `transform(…).apply` takes them, for a module of the default name.

    Raises:
        ValueError: when Haiku cannot express the cell: its message names the option.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> cell = jl.lstm(input_size=3, hidden_size=4)
        >>> jl.convert.haiku.dump(cell, cell.init(jax.random.key(0)))["lstm/linear"]["w"].shape
        (7, 16)
    """
    part = take_one(cell, params, "Haiku", ALLOWED)
    if part.kind == "gru" and part.options["reset_after"]:
        raise ValueError("`reset_after=True` of gru cannot be expressed by Haiku")
    w = {name: array for name, array in part.weights.items() if array is not None}
    if part.kind == "gru":
        flipped = {name: blocks(_flip(array), "rzn", "zrn") for name, array in w.items()}
        kernels = {"w_i": flipped["kernel"], "w_h": flipped["recurrent_kernel"]}
        return {"gru": {**kernels, "b": flipped["bias"]}}
    hidden = w["recurrent_kernel"].shape[0]
    bias = w["bias"].copy()
    bias[hidden : 2 * hidden] -= 1
    both = np.concatenate([w["kernel"], w["recurrent_kernel"]])
    linear = {"w": blocks(both, "ifgo", "igfo"), "b": blocks(bias, "ifgo", "igfo")}
    return {"lstm/linear": linear}


def _module(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of the one module that is recurrent, by the names of them that it has."""
    modules: dict[str, dict[str, Any]] = {}
    for name, array in flat.items():
        owner, _, leaf = name.rpartition(".")
        modules.setdefault(owner, {})[leaf] = array
    if len(modules) == 1:
        return next(iter(modules.values()))
    found = [name for name, arrays in modules.items() if _is_recurrent(name, arrays)]
    if len(found) != 1:
        raise ValueError(f"`weights` must be of one LSTM or GRU, got {sorted(found or modules)}")
    return modules[found[0]]


def _is_recurrent(name: str, arrays: Mapping[str, Any]) -> bool:
    """Whether a module is a GRU, or the linear part that Haiku's LSTM names so below itself."""
    if not name.endswith("/linear") or np.ndim(arrays.get("w", 0)) != 2:
        return "w_h" in arrays
    rows, width = np.shape(arrays["w"])
    return width % 4 == 0 and rows > width // 4


def _flip(array: np.ndarray) -> np.ndarray:
    """The block of z with its sign changed."""
    r, z, n = np.split(array, 3, axis=-1)
    return np.concatenate([r, -z, n], axis=-1)
