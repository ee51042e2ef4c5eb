"""Sweeps from plain tables and a command line, every setting held against what a training takes."""

from collections.abc import Sequence
from typing import Any

import msgspec

from jaxlstm.config import refusal, tables
from jaxlstm.config.base import seed_list
from jaxlstm.config.experiment import Experiment
from jaxlstm.config.sweep import MOST, OWN, Sweep, flat, put
from jaxlstm.errors import UserError


def over(training: dict[str, Any]) -> dict[str, Any]:
    """Make the tables of a sweep out of those of a training, with nothing swept yet."""
    own = {key: training[key] for key in ("name", "question", "expected") if key in training}
    if isinstance(own.get("name"), str):
        own["name"] = f"{own['name'][:94]}-sweep"
    shared = {key: value for key, value in training.items() if key not in OWN}
    return {**own, "kind": "sweep", "training": shared}


def read(
    data: dict[str, Any],
    source: str,
    overrides: Sequence[tuple[str, str]],
    *,
    training: str = "training.",
) -> Sweep:
    """Read a sweep.

    Args:
        data: the tables of its file.
        source: what errors call the file.
        overrides: pairs of a dotted name of the training and a value as a user types it; a list
            stands for a run with each of its values.
        training: what stands in the file before a key of the training.

    Returns:
        The sweep, each of whose settings makes a training.

    Raises:
        UserError: when a key or a value does not fit, alone or in one of the settings.
    """
    data, typed = dict(data), set()
    if isinstance(data.get("grid"), dict):
        data["grid"] = flat(data["grid"], lists=True)
        for key, values in data["grid"].items():
            if not isinstance(values, list):
                got = refusal.shown(values)
                raise _refused(source, ("grid", key), f"expected a list of values, got {got}")
    if isinstance(data.get("cases"), list):
        data["cases"] = [
            flat(case, lists=False) if isinstance(case, dict) else case for case in data["cases"]
        ]
    _begin(data, source)
    for name, value in overrides:
        typed.add(_override(data, name, value))
    for path, number in refusal.not_finite(data):
        raise _refused(source, path, f"expected a finite number, got {number}")
    try:
        sweep = msgspec.convert(data, Sweep)
    except msgspec.ValidationError as error:
        raise _refused(source, *refusal.refusal(error, data, Sweep)) from None
    _check(sweep, source, typed, training)
    return sweep


def _refused(source: str, path: refusal.Path, reason: str) -> UserError:
    # The keys of a grid are dotted names themselves.
    inner = (
        f"grid.{path[1]}{refusal.dotted(path[2:])}" if path[:1] == ("grid",) and path[1:] else ""
    )
    place = f"{source}: {inner or refusal.dotted(path)}" if path else source
    return UserError(f"{place}: {reason}")


def _begin(data: dict[str, Any], source: str) -> None:
    """Give `training` the keys of the config that the sweep begins from."""
    own = data.get("training", {})
    if "from" not in data or not isinstance(own, dict):
        return
    path = data.pop("from")
    base = tables.elsewhere(path, f"{source}: from")
    if base.get("kind") != "training":
        raise UserError(f"{source}: from: expected the config of a training, got '{path}'")
    shared = {key: value for key, value in base.items() if key not in OWN}
    tables.merge(shared, own)
    data["training"] = shared


def _override(data: dict[str, Any], name: str, text: str) -> str:
    """Put what a user typed in place: a list of values into the grid, else into the training.

    The name of a key is that in a training, or as the file of the sweep has it.
    """
    dotted = name.replace("-", "_")
    for table in ("grid.", "training."):
        dotted = dotted.removeprefix(table)
    training, grid = data.setdefault("training", {}), data.setdefault("grid", {})
    cases = data.get("cases", [])
    if not isinstance(training, dict) or not isinstance(grid, dict):
        return dotted  # refused for what it is
    if isinstance(cases, list) and any(isinstance(c, dict) and dotted in c for c in cases):
        raise UserError(f"--{name}: the cases of this config give this key")
    table: Any = training
    for index, part in enumerate(way := dotted.split(".")[:-1]):
        table = table.get(part, {})
        if not isinstance(table, dict):
            raise UserError(f"--{name}: `{'.'.join(way[: index + 1])}` holds no other keys")
    wanted = refusal.type_at(Experiment, {"kind": "training", **training}, tuple(dotted.split(".")))
    grid.pop(dotted, None)
    given = tables.value(text, None)
    is_list = isinstance(given, list)
    takes_one = any(
        isinstance(kind, msgspec.inspect.VarTupleType) for kind in refusal.kinds(wanted)
    )
    swept = is_list and (not takes_one or all(isinstance(value, list) for value in given))
    if swept and dotted != "seeds":
        grid[dotted] = given
    else:
        put(training, dotted, tables.value(text, wanted))
    return dotted


def _check(sweep: Sweep, source: str, typed: set[str], training: str) -> None:
    """Make the training of every setting, and refuse the first that is none."""
    count = 0
    for values in sweep.combinations():
        data = sweep.data(values)
        try:
            made = msgspec.convert(data, Experiment)
        except msgspec.ValidationError as error:
            path, reason = refusal.refusal(error, data, Experiment)
            place = _place(sweep, f"{source}: {training}", typed, path)
            raise UserError(f"{place}: {reason}") from None
        count += len(seed_list(made.seeds))
    if count > MOST:
        raise UserError(f"{source}: expected at most {MOST:,} runs, got {count:,}")


def _place(sweep: Sweep, training: str, typed: set[str], path: refusal.Path) -> str:
    """Where a user finds the key that does not fit a training."""
    dotted, source = refusal.dotted(path), training.split(": ")[0]

    def near(name: str) -> bool:
        return f"{dotted}.".startswith(f"{name}.") or f"{name}.".startswith(f"{dotted}.")

    if any(map(near, typed)):
        return f"--{dotted}"
    if any(map(near, sweep.grid)):
        return f"{source}: grid.{dotted}"
    if any(near(name) for case in sweep.cases for name in case):
        return f"{source}: cases: {dotted}"
    return f"{training}{dotted}"
