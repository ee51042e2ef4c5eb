"""Weights of `equinox.nn.LSTMCell` and `GRUCell`.

| Equinox | shape | ours |
|---|---|---|
| `weight_ih` | [nH, I] | `kernel`, transposed |
| `weight_hh` | [nH, H] | `recurrent_kernel`, transposed |
| `bias` | [nH] | `bias` |
| GRU `bias_n` | [H] | the block n of `recurrent_bias`, whose other blocks are zeros |

The blocks are i, f, g, o and r, z, n, as ours.
"""

from typing import Any

import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Params
from jaxlstm.convert.parts import build, check_mapping, count_blocks, fetch, take_one

ALLOWED = {"lstm": {"use_bias": (False,)}, "gru": {"use_bias": (False,)}}


def load(weights: Any, cell: Cell | None = None) -> tuple[Cell, Params]:
    """A cell and its params out of Equinox'.

    Args:
        weights: a cell, or a mapping of its arrays by name.
        cell: the cell that the weights are for; made to fit if None.

    Returns:
        The cell, and params of the type of the weights.

    Raises:
        TypeError: when `weights` is neither.
        ValueError: when a weight is missing, has another shape, or does not fit the cell.

    Examples:
        >>> import numpy as np, jaxlstm as jl
        >>> theirs = {"weight_ih": np.ones((16, 3), "f"), "weight_hh": np.ones((16, 4), "f")}
        >>> jl.convert.equinox.load(theirs)[0]
        lstm(input_size=3, hidden_size=4, use_bias=False)
    """
    names = ("weight_ih", "weight_hh", "bias", "bias_n")
    if hasattr(weights, "weight_ih"):
        weights = {name: getattr(weights, name, None) for name in names}
    check_mapping(weights)
    weights = {name: array for name, array in weights.items() if array is not None}
    rows, hidden = fetch(weights, "weight_hh", (None, None)).shape
    kind = count_blocks(rows, hidden, "'weight_hh'")
    if kind == "rnn":
        raise ValueError("`weights` must be of an LSTM or GRU: Equinox has no simple RNN")
    parts: dict[str, Any] = {
        "kernel": fetch(weights, "weight_ih", (rows, None)).T,
        "recurrent_kernel": fetch(weights, "weight_hh", (rows, hidden)).T,
    }
    biased = "bias" in weights or "bias_n" in weights
    if biased:
        parts["bias"] = fetch(weights, "bias", (rows,))
    if kind == "gru" and biased:
        last = fetch(weights, "bias_n", (hidden,))
        parts["recurrent_bias"] = np.concatenate([np.zeros(2 * hidden, last.dtype), last])
    return build(kind, parts, cell, "Equinox", ALLOWED)


def dump(cell: Cell, params: Params) -> dict[str, np.ndarray]:
    """The arrays of Equinox' cell for one of ours.

    Args:
        cell: `lstm` or `gru`.
        params: its params.

    Returns:
        NumPy arrays by name, for `eqx.tree_at`.

    Raises:
        ValueError: when Equinox cannot express the cell: its message names the option.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> cell = jl.gru(input_size=3, hidden_size=4)
        >>> theirs = jl.convert.equinox.dump(cell, cell.init(jax.random.key(0)))
        >>> {name: array.shape for name, array in theirs.items()}
        {'weight_ih': (12, 3), 'weight_hh': (12, 4), 'bias': (12,), 'bias_n': (4,)}
    """
    part = take_one(cell, params, "Equinox", ALLOWED)
    w = {name: array for name, array in part.weights.items() if array is not None}
    arrays = {"weight_ih": w["kernel"].T, "weight_hh": w["recurrent_kernel"].T}
    if "bias" in w:
        arrays["bias"] = w["bias"]
    if part.kind == "gru" and "bias" in w:
        r, z, n = np.split(w["recurrent_bias"], 3)
        arrays["bias"] = w["bias"] + np.concatenate([r, z, np.zeros_like(n)])
        arrays["bias_n"] = n
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
