"""The runs of a sweep: a folder name and a training for every setting and seed."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from jaxlstm import config
from jaxlstm.config.tables import WHOLE

LONGEST = 90


@dataclass(frozen=True)
class Setting:
    """One combination of values.

    Args:
        label: the values in words: "hidden_size 16, learning_rate 0.01".
        values: by the dotted name of their key.
        runs: the names of its runs.
    """

    label: str
    values: Mapping[str, Any]
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep runs.

    Args:
        settings: in the order of the config.
        trainings: by the name of the run.
    """

    settings: tuple[Setting, ...]
    trainings: Mapping[str, config.Experiment]


def plan(sweep: config.Sweep) -> Plan:
    """Name the runs of a sweep after their settings.

    Examples:
        >>> from jaxlstm import config
        >>> options = [("model.hidden_size", "[16, 32]"), ("seeds", "2")]
        >>> made = plan(config.load_sweep("configs/adding.toml", options))
        >>> list(made.trainings)[:2], made.settings[1].label
        (['hidden_size-16_seed-0', 'hidden_size-16_seed-1'], 'hidden_size 32')
    """
    found = sweep.settings
    keys = {name: None for setting in found for name in setting.values}
    short = {name: _short(name, list(keys)) for name in keys}
    stems = [_stem({short[k]: v for k, v in setting.values.items()}) for setting in found]
    settings, trainings = [], {}
    for setting, stem in zip(found, stems, strict=True):
        if stems.count(stem) > 1:
            stem = f"{stem[:LONGEST]}-{_digest(setting.values)}"
        names = []
        for name, seeds in _seeds(stem, setting.experiment, sweep.seeds_apart).items():
            trainings[name] = msgspec.structs.replace(setting.experiment, name=name, seeds=seeds)
            names.append(name)
        label = ", ".join(f"{short[key]} {said(v)}" for key, v in setting.values.items())
        settings.append(Setting(label or "as configured", setting.values, tuple(names)))
    return Plan(tuple(settings), trainings)


def _seeds(stem: str, experiment: config.Experiment, apart: bool) -> dict[str, tuple[int, ...]]:
    """The seeds of each run of a setting."""
    if not apart:
        return {stem or "run": experiment.seed_list}
    return {f"{stem}_seed-{seed}".lstrip("_"): (seed,) for seed in experiment.seed_list}


def _short(name: str, names: list[str]) -> str:
    """The last part of a dotted name, or as many as tell it from the others."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if sum(f".{other}".endswith(f".{end}") for other in names) == 1:
            return end
    return name


def _stem(values: Mapping[str, Any]) -> str:
    """A file name that says the values, shortened where it is long."""
    # A hyphen in the place of a plus would make 1e-30 of 1e+30.
    said_of = {key: said(value).replace("+", "") for key, value in values.items()}
    words = [re.sub(r"[^A-Za-z0-9._]+", "-", f"{k}-{value}") for k, value in said_of.items()]
    stem = "_".join(words).strip("-._")
    return stem if len(stem) <= LONGEST - 10 else f"{stem[: LONGEST - 20]}-{_digest(values)}"


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(values, order="deterministic")).hexdigest()[:8]


def said(value: Any) -> str:
    """A value in words: of a table its kind, and the keys beside it.

    Examples:
        >>> said(True), said(1e-3), said({"kind": "sgd", "learning_rate": 0.1}), said([1, 2])
        ('true', '0.001', 'sgd learning_rate 0.1', '[1, 2]')
    """
    if isinstance(value, dict):
        head = [str(value[key]) for key in WHOLE if key in value]
        rest = [f"{k} {said(v)}" for k, v in value.items() if k not in WHOLE]
        return " ".join([*head, *rest])
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(said, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
