"""Config files: TOML to frozen structs and back, and overrides by dotted name."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from jaxlstm.config import refusal, sweeping, tables
from jaxlstm.config.experiment import Experiment
from jaxlstm.config.reproduction import Reproduction
from jaxlstm.config.studies import Study
from jaxlstm.config.sweep import Sweep
from jaxlstm.errors import UserError

Config = Experiment | Study | Reproduction | Sweep
VERSIONS = {"study": "full", "reproduction": "quick"}


def load(
    path: str | Path, overrides: Sequence[tuple[str, str]] = (), *, version: str = ""
) -> Config:
    """Read a config file.

    Args:
        path: a TOML file. A study may have a table `[full]`, keys that a longer version of it
            changes: more seeds, larger networks; a reproduction a table `[quick]`.
        overrides: pairs of a dotted name and a value as a user types it: `("task.length", "200")`.
            A hyphen in a name may stand for an underscore.
        version: "full" or "quick" where that version is meant.

    Returns:
        An `Experiment`, a `Study`, a `Reproduction` or a `Sweep`, as the file's `kind` says.

    Raises:
        UserError: when the file cannot be read, is no TOML, or does not fit.

    Examples:
        >>> load("configs/adding.toml", [("task.lenght", "3")])
        Traceback (most recent call last):
        ...
        jaxlstm.errors.UserError: --task.lenght: no such key; did you mean `length`?
    """
    return loads(tables.read(Path(path)), str(path), overrides, version=version)


def loads(
    text: str,
    source: str = "config",
    overrides: Sequence[tuple[str, str]] = (),
    *,
    version: str = "",
) -> Config:
    """Read a config from TOML text; `source` is what errors call it. Otherwise as `load`.

    Examples:
        >>> loads('name = "new"')
        Traceback (most recent call last):
        ...
        jaxlstm.errors.UserError: config: kind: missing, expected one of "training", "study", \
"reproduction", "sweep"
    """
    return _made(_data(text, source, overrides), source, overrides, version)


def _data(text: str, source: str, overrides: Sequence[tuple[str, str]]) -> dict[str, Any]:
    for name, value in overrides:
        tables.check_text(value, f"--{name}")
    return tables.parse(text, source)


def _made(
    data: dict[str, Any], source: str, overrides: Sequence[tuple[str, str]], version: str = ""
) -> Config:
    if data.get("kind") == "sweep":
        return sweeping.read(data, source, overrides)
    changes = _version(data, source, version)
    names = [_override(data, name, value) for name, value in overrides]
    _share(data, source)
    for training in (data, *_arms(data)):
        _rename(training)

    def refuse(path: refusal.Path, reason: str) -> UserError:
        # What all arms share was copied into each.
        shared = ("shared", *path[2:]) if path[:1] == ("arms",) else path
        if shared in names:
            path = ("seeds",) if shared == ("shared", "seeds") else shared
            return UserError(f"--{refusal.dotted(path)}: {reason}")
        changed = any(path[: len(name)] == name[: len(path)] for name in names)
        table = f"{version}." if _holds(changes, path) else ""
        place = refusal.dotted(path)
        place = f"--{place}" if changed else f"{source}: {table}{place}"
        return UserError(f"{place}: {reason}")

    for path, number in refusal.not_finite(data):
        raise refuse(path, f"expected a finite number, got {number}")
    try:
        return msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise refuse(*refusal.refusal(error, data, Config)) from None


def load_sweep(path: str | Path, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Read the config of a sweep, or make one of the config of a training. Otherwise as `load`.

    Args:
        path: a TOML file.
        overrides: pairs of a dotted name of the training and a value as a user types it. A list
            stands for a run with each of its values; a key that takes a list is swept by a list of
            lists.

    Returns:
        A `Sweep`; what the file says where it is for another command.

    Raises:
        UserError: when the file cannot be read, or one of the settings does not fit.

    Examples:
        >>> sweep = load_sweep("configs/adding.toml", [("model.hidden_size", "[16, 32]")])
        >>> sweep.grid, len(sweep.settings)
        ({'model.hidden_size': (16, 32)}, 2)
    """
    source = str(path)
    data = _data(tables.read(Path(path)), source, overrides)
    if data.get("kind") != "training":
        return _made(data, source, overrides)
    return sweeping.read(sweeping.over(data), source, overrides, training="")


def dumps(config: Config) -> str:
    """Write a config as TOML that `loads` reads as an equal one, defaults written out.

    Examples:
        >>> config = load("configs/adding.toml")
        >>> loads(dumps(config)) == config
        True
    """
    return tomli_w.dumps(_without_none(msgspec.to_builtins(config)))


def _override(data: dict[str, Any], name: str, value: str) -> refusal.Path:
    """Put a value into the data in place, and say where."""
    path = tuple(part.replace("-", "_") for part in name.split("."))
    table: Any = data
    for index, part in enumerate(path[:-1]):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"--{name}: `{'.'.join(path[: index + 1])}` holds no other keys")
    table[path[-1]] = tables.value(value, refusal.type_at(Config, data, path))
    return path


def _without_none(data: Any) -> Any:
    """Leave out what is not set: TOML has no null."""
    if isinstance(data, dict):
        return {key: _without_none(value) for key, value in data.items() if value is not None}
    return [_without_none(value) for value in data] if isinstance(data, list | tuple) else data


def _version(data: dict[str, Any], source: str, wanted: str) -> Any:
    """Take the table of another version out, and where that is meant put its keys in place."""
    kind = data.get("kind")
    table = VERSIONS.get(kind, "") if isinstance(kind, str) else ""
    if wanted and (wanted != table or table not in data):
        raise UserError(f"{source}: {wanted}: missing, there is no such version of this config")
    changes = data.pop(table, {})
    if not isinstance(changes, dict):
        raise UserError(f"{source}: {table}: expected a table of keys to change, got {changes!r}")
    if not wanted:
        return {}
    tables.merge(data, changes)
    return changes


def _share(data: dict[str, Any], source: str) -> None:
    """Give every arm of a reproduction the keys that all have, where it has none of its own."""
    if data.get("kind") != "reproduction":
        return
    shared = data.pop("shared", {})
    if not isinstance(shared, dict):
        raise UserError(f"{source}: shared: expected a table of keys, got {shared!r}")
    same = {key: data[key] for key in ("question", "expected") if key in data}
    for index, arm in enumerate(_arms(data)):
        own = dict(arm)
        arm.clear()
        arm.update({"kind": "training", **same, **copy.deepcopy(shared)})
        if "from" in own:
            tables.merge(arm, tables.elsewhere(own.pop("from"), f"{source}: arms[{index}].from"))
        tables.merge(arm, own)


def _arms(data: dict[str, Any]) -> list[dict[str, Any]]:
    arms = data.get("arms")
    return [arm for arm in arms if isinstance(arm, dict)] if isinstance(arms, list) else []


def _rename(training: dict[str, Any]) -> None:
    """Read what run folders of format versions 1 and 2 say: `devices` was the mesh's one side."""
    train = training.get("train")
    if isinstance(train, dict) and "devices" in train and "mesh" not in train:
        devices = train.pop("devices")
        train["mesh"] = devices if devices == "auto" else {"data": devices}


def _holds(data: Any, path: refusal.Path) -> bool:
    """Whether a nested table has a value at a path, or on the way there."""
    if not path:
        return False
    for part in path:
        if not isinstance(data, dict):
            return True
        if part not in data:
            return False
        data = data[part]
    return True
