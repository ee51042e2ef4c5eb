"""Weights of `torch.nn.LSTM`, `GRU` and `RNN`, and of `LSTMCell`, `GRUCell` and `RNNCell`.

For layer k, with the suffix `_reverse` for the backward direction:

| torch | shape | ours |
|---|---|---|
| `weight_ih_l{k}` | [nH, I] | `kernel` [I, nH], transposed |
| `weight_hh_l{k}` | [nH, H], or [nH, P] | `recurrent_kernel`, transposed |
| `bias_ih_l{k}`, `bias_hh_l{k}` | [nH] each | `bias`, `recurrent_bias` |
| `weight_hr_l{k}` (`proj_size`) | [P, H] | `projection` [H, P], transposed |

The blocks are i, f, g, o for LSTM and r, z, n for GRU, in the same order as ours. Both biases are
kept, so that a round trip is bit-exact; give a `cell` without `recurrent_bias` to add them up.
The cells of torch are one layer whose names end without `_l{k}`; they are read, not written.
`batch_first` is a matter of the data, not of the weights. torch draws no forget bias: what its
`bias_ih` holds is all there is.
"""

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Params, check_choice
from jaxlstm.convert import files
from jaxlstm.convert.parts import (
    BLOCKS,
    build,
    count_blocks,
    fetch,
    owners,
    put_together,
    take_apart,
)

ALLOWED = {
    "lstm": {"projection_size": (), "recurrent_bias": (True,), "use_bias": (False,)},
    "gru": {"use_bias": (False,)},
    "rnn": {"activation": ("relu",), "recurrent_bias": (True,), "use_bias": (False,)},
}

NAME = re.compile(r"(?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l(\d+)(_reverse)?")
FIRST = re.compile(r"(.*)weight_ih(?:_l0)?")


def load(
    weights: Any, cell: Cell | None = None, *, prefix: str = "", nonlinearity: str | None = None
) -> tuple[Cell, Params]:
    """A cell and its params out of torch's.

    Args:
        weights: a `state_dict`, a module that has one, or the path of a `.safetensors` file, or of
            a `.pt` or `.pth` file (which needs torch, and is read with `weights_only`).
        cell: the cell that the weights are for; made to fit if None.
        prefix: what the names begin with, such as `"encoder.lstm."`.
        nonlinearity: of `nn.RNN`, "tanh" or "relu"; that of the module at the prefix, which arrays
            do not tell, or else that of the cell, or "tanh".

    Returns:
        The cell, and params of the type of the weights.

    Raises:
        TypeError: when `weights` is none of these.
        ValueError: when a weight is missing, has another shape, or does not fit the cell.

    Examples:
        >>> import numpy as np, jaxlstm as jl
        >>> state = {
        ...     "weight_ih_l0": np.ones((16, 3), "float32"), "bias_ih_l0": np.ones(16, "float32"),
        ...     "weight_hh_l0": np.ones((16, 4), "float32"), "bias_hh_l0": np.ones(16, "float32"),
        ... }
        >>> cell, params = jl.convert.torch.load(state)
        >>> cell
        lstm(input_size=3, hidden_size=4, recurrent_bias=True)
        >>> params.recurrent_kernel.shape
        (4, 16)
    """
    with files.named(weights):
        nonlinearity = nonlinearity or _nonlinearity(weights, prefix)
        if nonlinearity is not None:
            check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        state = _state(weights)
        alone = f"{prefix}weight_ih" in state
        if not alone and f"{prefix}weight_ih_l0" not in state:
            others = sorted(match[1] for match in map(FIRST.fullmatch, map(str, state)) if match)
            if others:
                raise ValueError(f"`prefix` must be one of {others}, got {prefix!r}")
        ways = [1] if alone else _ways(state, prefix)
        layers = [
            [
                _direction(state, prefix, "" if alone else f"_l{k}{end}", nonlinearity, own)
                for end, own in zip(("", "_reverse"), each, strict=False)
            ]
            for k, each in enumerate(owners(cell, ways))
        ]
        return put_together(layers, cell)


def dump(cell: Cell, params: Params, *, prefix: str = "") -> dict[str, np.ndarray]:
    """The `state_dict` of torch's module for a cell.

    Args:
        cell: `lstm`, `lstmp`, `gru` or `rnn`, stacked or bidirectional.
        params: its params.
        prefix: what the names shall begin with.

    Returns:
        NumPy arrays by name; `{k: torch.from_numpy(v)}` of it is what `load_state_dict` takes. Of
        bfloat16, which NumPy does not tell torch, `torch.from_numpy(v.view("int16"))` has the bits:
        it is to be followed by `.view(torch.bfloat16)`.

    Raises:
        ValueError: when torch cannot express the cell: its message names the option.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> cell = jl.gru(input_size=3, hidden_size=4)
        >>> state = jl.convert.torch.dump(cell, cell.init(jax.random.key(0)))
        >>> {name: array.shape for name, array in state.items()}  # doctest: +NORMALIZE_WHITESPACE
        {'weight_ih_l0': (12, 3), 'weight_hh_l0': (12, 4), 'bias_ih_l0': (12,),
         'bias_hh_l0': (12,)}
    """
    state: dict[str, np.ndarray] = {}
    layers = take_apart(cell, params, "torch", ALLOWED)
    same = ("hidden_size", "projection_size", "activation", "use_bias")
    first = layers[0][0]
    for k, layer in enumerate(layers):
        for part, end in zip(layer, ("", "_reverse"), strict=False):
            if part.kind != first.kind or len(layer) != len(layers[0]):
                raise ValueError("torch has one kind of cell in all layers and directions")
            for option in same:
                if part.options.get(option) != first.options.get(option):
                    raise ValueError(f"torch has one `{option}` for all layers and directions")
            w = part.weights
            names = {"weight_ih": w["kernel"].T, "weight_hh": w["recurrent_kernel"].T}
            if w["bias"] is not None:
                more = w.get("recurrent_bias")
                names["bias_ih"] = w["bias"]
                names["bias_hh"] = np.zeros_like(w["bias"]) if more is None else more
            if w.get("projection") is not None:
                names["weight_hr"] = w["projection"].T
            state |= {
                f"{prefix}{name}_l{k}{end}": np.array(array, order="C")  # torch wants to write
                for name, array in names.items()
            }
    return state


def _ways(state: Mapping[str, Any], prefix: str) -> list[int]:
    """How many directions each layer has, by whatever names there are of any."""
    names = (str(name) for name in state)
    found = (NAME.fullmatch(n.removeprefix(prefix)) for n in names if n.startswith(prefix))
    ends = {(int(match[1]), bool(match[2])) for match in found if match}
    layers = 1 + max((layer for layer, _ in ends), default=0)
    return [2 if any(reverse for _, reverse in ends) else 1] * layers


def _nonlinearity(weights: Any, prefix: str) -> str | None:
    """What a module says of itself, or of the one within it that the names are of."""
    if prefix and hasattr(weights, "get_submodule"):
        try:
            weights = weights.get_submodule(prefix.removesuffix("."))
        except AttributeError:  # there is none: the names of the weights are what says so
            return None
    return getattr(weights, "nonlinearity", None)


def _state(weights: Any) -> Mapping[str, Any]:
    if isinstance(weights, str | PathLike):
        return files.read_torch(weights)
    if hasattr(weights, "state_dict"):
        return weights.state_dict()
    if isinstance(weights, Mapping):
        return weights
    raise TypeError(
        f"`weights` must be a state_dict, a module or a path, got {type(weights).__name__}"
    )


def _direction(
    state: Mapping[str, Any], prefix: str, end: str, nonlinearity: str | None, cell: Cell | None
) -> tuple[Cell, Params]:
    def get(name: str, *shape: int | None) -> np.ndarray:
        return fetch(state, f"{prefix}{name}{end}", shape)

    rows, inputs = get("weight_ih", None, None).shape
    _, outputs = get("weight_hh", rows, None).shape
    projection = None
    hidden = outputs
    if f"{prefix}weight_hr{end}" in state:
        projection = get("weight_hr", outputs, None)
        hidden = projection.shape[1]
    kind = count_blocks(rows, hidden, f"'{prefix}weight_ih{end}'")
    width = BLOCKS[kind] * hidden
    biased = any(f"{prefix}bias_{side}{end}" in state for side in ("ih", "hh"))
    weights = {
        "kernel": get("weight_ih", width, inputs).T,
        "recurrent_kernel": get("weight_hh", width, outputs).T,
        "bias": get("bias_ih", width) if biased else None,
        "recurrent_bias": get("bias_hh", width) if biased else None,
        "projection": None if projection is None else projection.T,
    }
    said = {"activation": nonlinearity} if kind == "rnn" and nonlinearity else {}
    return build(kind, weights, cell, "torch", ALLOWED, **said)
