"""A sweep: one training under many settings, each with every seed."""

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from jaxlstm.config.base import Kind, Name
from jaxlstm.config.experiment import Experiment
from jaxlstm.config.tables import says_kind

MOST = 10_000
"""The most runs of a sweep."""
OWN = ("kind", "name", "question", "expected")
"""What a sweep says for all its trainings."""


class Setting(NamedTuple):
    """One combination of values, and the training that it makes."""

    values: dict[str, Any]
    experiment: Experiment


class Sweep(Kind, frozen=True, kw_only=True, tag="sweep"):
    """One training under many settings: every case with every combination of the grid.

    In the file, `from = "configs/adding.toml"` gives `training` that config's keys where it has
    none of its own, and the keys of `[grid]` and `[[cases]]` may be dotted names or tables.

    Args:
        name: what the folder of the sweep is called after.
        question: what the sweep asks.
        expected: the result and the time to expect, in words.
        training: the keys that all settings share, as in the config of a training; `seeds` too.
        grid: for each key of a training, by its dotted name, the values that it takes in turn.
        cases: values that belong together: each case is combined with the whole grid.
        seeds_apart: give every seed a run of its own; false: a run has all seeds of its setting,
            which compiles once for all of them.

    Examples:
        >>> from jaxlstm import config
        >>> grid = [("model.hidden_size", "[16, 32]"), ("optimizer.learning_rate", "[1e-3, 1e-2]")]
        >>> sweep = config.load_sweep("configs/adding.toml", grid)
        >>> [setting.values["model.hidden_size"] for setting in sweep.settings]
        [16, 16, 32, 32]
    """

    name: Name
    question: str
    expected: str
    training: dict[str, Any]
    grid: dict[str, tuple[Any, ...]] = msgspec.field(default_factory=dict)
    cases: tuple[dict[str, Any], ...] = ()
    seeds_apart: bool = True

    def __post_init__(self) -> None:
        for place, key in (
            *(("grid", key) for key in self.grid),
            *((f"cases[{i}]", key) for i, case in enumerate(self.cases) for key in case),
        ):
            if key in (*OWN, "seeds"):
                raise ValueError(f"expected no `{key}` in {place}: all settings share it")
        for key, values in self.grid.items():
            if not values:
                raise ValueError(f"expected one or more values in grid.{key}, got none")
            if any(value in values[:index] for index, value in enumerate(values)):
                raise ValueError(f"expected different values in grid.{key}, got {list(values)}")
            if any(key in case for case in self.cases):
                raise ValueError(f"expected `{key}` in grid or in cases, got it in both")
        for index, case in enumerate(self.cases):
            if case in self.cases[:index]:
                raise ValueError(f"expected different cases, got number {index + 1} twice")
        count = max(1, len(self.cases)) * math.prod(map(len, self.grid.values()))
        if count > MOST:
            raise ValueError(f"expected at most {MOST:,} settings, got {count:,}")

    def __hash__(self) -> int:
        return hash(msgspec.json.encode(self))

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Give the values of every setting, those of the last key of the grid changing fastest."""
        for case in self.cases or ({},):
            for values in itertools.product(*self.grid.values()):
                yield {**case, **dict(zip(self.grid, values, strict=True))}

    def data(self, values: dict[str, Any]) -> dict[str, Any]:
        """Give the plain keys of the training with these values."""
        data = {"kind": "training", "name": self.name, "question": self.question}
        data |= {"expected": self.expected, **copy.deepcopy(self.training)}
        for name, value in values.items():
            put(data, name, copy.deepcopy(value))
        return data

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every setting with its training, whose name is that of the sweep."""
        return tuple(
            Setting(values, msgspec.convert(self.data(values), Experiment))
            for values in self.combinations()
        )


def put(data: dict[str, Any], name: str, value: Any) -> None:
    """Put a value in place by its dotted name; what stands in the way is replaced by a table."""
    *way, last = name.split(".")
    for part in way:
        if not isinstance(data.get(part), dict):
            data[part] = {}
        data = data[part]
    old = data.get(last)
    if isinstance(value, dict) and isinstance(old, dict) and not says_kind(value):
        value = old | value
    data[last] = value


def flat(table: dict[str, Any], *, lists: bool) -> dict[str, Any]:
    """Give tables within tables as one table of dotted names.

    Args:
        table: the keys.
        lists: whether the values at the ends are lists of values; else a table that says its kind
            is a value too.

    Examples:
        >>> flat({"model": {"hidden_size": 8}, "optimizer": {"kind": "sgd"}}, lists=False)
        {'model.hidden_size': 8, 'optimizer': {'kind': 'sgd'}}
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value and (lists or not says_kind(value)):
            inner = flat(value, lists=lists)
            found |= {f"{key}.{name}": each for name, each in inner.items()}
        else:
            found[key] = value
    return found
