"""The options of plain cells, and which of them weights, or those who take them, can have."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxlstm.cells import Cell, conv_lstm, gru, lstm, rnn

FACTORIES: dict[str, Callable[..., Cell]] = {
    "lstm": lstm,
    "gru": gru,
    "rnn": rnn,
    "conv_lstm": conv_lstm,
}
SIZES = ("input_size", "hidden_size", "input_shape", "filters", "kernel_size")
# Arguments that change where training starts or how numbers are stored, not what is computed.
FREE = ("forget_bias", "param_dtype", "dtype", "cell_dtype", "merge")

Allowed = Mapping[str, Mapping[str, Sequence[Any]]]
Choices = Mapping[str, Sequence[Any]]


def part_kind(cell: Cell) -> str:
    """The kind of a plain cell; "lstm" for `lstmp` too."""
    name = cell.description.factory if cell.description else "a cell of your own"
    return "lstm" if name == "lstmp" else name


def arguments_of(cell: Cell) -> dict[str, Any]:
    """What a cell was made with; nothing where it does not say."""
    return dict(cell.description.arguments) if cell.description else {}


def options_of(cell: Cell) -> dict[str, Any]:
    """The arguments of a plain cell, defaults included; ψ is None where it is φ."""
    options = {**_defaults(part_kind(cell)), **arguments_of(cell)}
    if "output_activation" in options and options["output_activation"] == options["activation"]:
        options["output_activation"] = None
    return options


def choices_of(kind: str, allowed: Allowed) -> dict[str, Sequence[Any]]:
    """What each option of a kind may be: its default or a value allowed; empty for any value."""
    choices: dict[str, Sequence[Any]] = {
        name: (default,) for name, default in _defaults(kind).items()
    }
    for name, more in allowed[kind].items():
        choices[name] = (*choices[name], *more) if more else ()
    return choices


def strangers(cell: Cell, choices: Choices) -> Iterator[tuple[str, Any]]:
    """The options of a plain cell that say what is computed and are none of the choices."""
    for name, value in options_of(cell).items():
        free = name in (*SIZES, *FREE) or name.endswith("_init")
        if not free and choices[name] and _once(value) not in map(_once, choices[name]):
            yield name, value


def _defaults(kind: str) -> dict[str, Any]:
    sizes: dict[str, Any] = {"input_size": 1, "hidden_size": 1}
    if kind == "conv_lstm":
        sizes = {"input_shape": (1, 1), "filters": 1}
    return arguments_of(FACTORIES[kind](**sizes))


def _once(value: Any) -> Any:
    """One number for one that is said of every dimension."""
    same = isinstance(value, tuple) and len(set(value)) == 1
    return value[0] if same else value
