"""From the records of a training to its figures: what happened to each metric, over all seeds."""

import collections
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from jaxlstm import runs
from jaxlstm.report.figures import Axis, Figure, Lines, Panel, Series
from jaxlstm.wording import number

SPLITS = ("train", "validation", "test")
GRADIENTS = "gradients"  # the split of what was measured of gradients through time
STOP = "stop"  # the split of how many updates each seed made, which is no curve
NORMS = ("gradient_norm", "parameter_norm", "update_norm")
_SHOWN_SEEDS = 5


class Record(msgspec.Struct, frozen=True):
    """A line of `metrics.jsonl`: a step, a split, and for each metric one value per seed."""

    step: int
    split: str
    metrics: dict[str, list[float | None]]


def figures(records: Iterable[Record], baselines: Mapping[str, float]) -> dict[str, Figure]:
    """Derive the figures of a training.

    Metrics whose name has a dot belong together: `gradient_norm.cell.kernel` is the leaf
    `cell.kernel` of `gradient_norm`, and all its leaves share one panel.

    Args:
        records: the lines of `metrics.jsonl`. Of two with the same split and step, the later one
            holds: a resumed training writes some steps again.
        baselines: scores of simple predictors, named `"<predictor> <metric>"`, drawn as lines.

    Returns:
        Figures by name: "scores" (loss and task metrics), "norms", "norms_by_leaf", and "gradients"
        (through time). What was not recorded is left out.
    """
    everything = _collect(records)
    measured = {key: steps for key, steps in everything.items() if key[1] not in (GRADIENTS, STOP)}
    through_time = {key: steps for key, steps in everything.items() if key[1] == GRADIENTS}
    names = sorted({name for name, _ in measured}, key=lambda name: (name != "loss", name))
    plain = [name for name in names if "." not in name]
    found: dict[str, Figure] = {}
    scores = [name for name in plain if name not in NORMS]
    if scores:
        beside = _references(scores, baselines)
        panels = [_panel(name, measured, beside[name]) for name in scores]
        found["scores"] = Lines(panels, "Scores", _caption(measured, scores))
    norms = [name for name in NORMS if name in plain]
    if norms:
        panels = [_panel(name, measured, {}) for name in norms]
        found["norms"] = Lines(
            panels, "Norms of gradient, parameters and update", _caption(measured, norms)
        )
    leaves = [name for name in names if "." in name]
    if leaves:
        found["norms_by_leaf"] = Lines(
            _leaf_panels(leaves, measured, log=True),
            "Parameter by parameter",
            _caption(measured, leaves, lines="A line for each array of parameters."),
        )
    if through_time:
        shares = through_time.pop(("time_share", GRADIENTS), None)
        parts = sorted((name for name, _ in through_time), key=_by_number)
        caption = _caption(through_time, parts, lines="A line for each lag, part or gate.")
        if shares:
            caption += f" Measuring took {100 * _array(shares)[-1, 0]:.2g} % of the time."
        panels = _leaf_panels(parts, through_time, log=False)
        found["gradients"] = Lines(panels, "Gradients through time", caption)
    return found


def compare(trainings: Mapping[str, tuple[str, Iterable[Record]]]) -> Lines | None:
    """Derive one figure of several trainings: the course of a metric in each.

    Args:
        trainings: by name a metric after its set, such as "test mse", and the lines of
            `metrics.jsonl`. Trainings with the same metric share a panel.

    Returns:
        The figure; None where no metric was looked at more than once.
    """
    panels: dict[str, dict[str, dict[int, list[float | None]]]] = {}
    for name, (metric, records) in trainings.items():
        split, _, measured = metric.partition(" ")
        steps = _collect(records).get((measured, split), {})
        if len(steps) > 1:
            panels.setdefault(metric, {})[name] = steps
    made = []
    for metric, courses in panels.items():
        values = np.concatenate([_array(steps).flatten() for steps in courses.values()])
        lines = [_series(name, steps, seeds=True) for name, steps in courses.items()]
        lines = [msgspec.structs.replace(line, seeds=[]) for line in lines]
        made.append(Panel(Axis("updates"), Axis(spoken(metric), _scale(metric, values)), lines))
    caption = "Mean over the seeds; bands from the lowest to the highest."
    return Lines(made, "Learning", caption) if made else None


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Summarise seeds: mean, smallest and largest of those that are finite, NaN where none is.

    Args:
        values: `[steps, seeds]`.

    Returns:
        Mean, low and high, `[steps]` each.

    Examples:
        >>> import numpy as np
        >>> band(np.array([[1.0, 2.0, 6.0], [np.nan, 4.0, 8.0]]))[0].tolist()
        [3.0, 6.0]
    """
    real = np.ma.masked_invalid(values)
    return tuple(  # pyright: ignore[reportReturnType]
        np.ma.filled(summary.astype(float), math.nan)
        for summary in (real.mean(axis=1), real.min(axis=1), real.max(axis=1))
    )


Measured = dict[tuple[str, str], dict[int, list[float | None]]]


def _collect(records: Iterable[Record]) -> Measured:
    """(metric, split) → step → one value per seed."""
    measured: Measured = {}
    for record in records:
        for name, values in record.metrics.items():
            if values:
                measured.setdefault((name, record.split), {})[record.step] = values
    return {key: dict(sorted(steps.items())) for key, steps in measured.items()}


def _splits(name: str, measured: Measured) -> list[str]:
    splits = [split for metric, split in measured if metric == name]
    return sorted(splits, key=lambda s: (SPLITS.index(s) if s in SPLITS else len(SPLITS), s))


def _array(steps: Mapping[int, Sequence[float | None]]) -> np.ndarray:
    seeds = max(len(values) for values in steps.values())
    rows = [[*values, *[None] * (seeds - len(values))] for values in steps.values()]
    return np.array(rows, float).reshape(len(rows), seeds)


def _series(label: str, steps: Mapping[int, Sequence[float | None]], *, seeds: bool) -> Series:
    values = _array(steps)
    mean, low, high = (_json(summary) for summary in band(values))
    x: list[float | None] = list(steps)
    if not seeds or values.shape[1] == 1:
        return Series(label, x, mean)
    each = [_json(seed) for seed in values.T] if values.shape[1] <= _SHOWN_SEEDS else []
    return Series(label, x, mean, low=low, high=high, seeds=each)


def _json(values: np.ndarray) -> list[float | None]:
    return list(map(runs.finite, values.tolist()))


def _references(names: Sequence[str], baselines: Mapping[str, float]) -> dict[str, dict]:
    """The lines of simple predictors, by metric: a label for each, and its value.

    A predictor that stands in several panels has one label, and so one look; elsewhere the label
    says the value too.
    """
    parts = [(*label.rpartition(" ")[::2], value) for label, value in baselines.items()]
    shown = [(predictor, metric, value) for predictor, metric, value in parts if metric in names]
    times = collections.Counter(predictor for predictor, _, _ in shown)
    found: dict[str, dict] = {name: {} for name in names}
    for predictor, metric, value in shown:
        label = predictor if times[predictor] > 1 else f"{predictor} ({number(value)})"
        found[metric][label] = value
    return found


def _panel(name: str, measured: Measured, references: Mapping[str, float]) -> Panel:
    splits = _splits(name, measured)
    series = [_series(split, measured[name, split], seeds=True) for split in splits]
    steps = [x for s in series for x in s.x if x is not None]
    ends = [min(steps) if min(steps) < max(steps) else 0, max(steps)]
    for label, value in references.items():
        series.append(Series(label, list(ends), [value, value], role="reference"))
    values = np.concatenate([_array(measured[name, split]).flatten() for split in splits])
    return Panel(Axis("training step"), Axis(spoken(name), _scale(name, values)), series)


def _leaf_panels(leaves: Sequence[str], measured: Measured, *, log: bool) -> list[Panel]:
    """One panel for each metric and split, one line for each leaf: its mean over the seeds.

    The axis is logarithmic with `log`, and otherwise where that suits the values.
    """
    panels: dict[tuple[str, str], list[Series]] = {}
    values: dict[tuple[str, str], list[np.ndarray]] = {}
    for leaf in leaves:
        metric, _, label = leaf.partition(".")
        for split in _splits(leaf, measured):
            label = label if log else spoken(label)
            series = _series(label, measured[leaf, split], seeds=False)
            panels.setdefault((metric, split), []).append(series)
            values.setdefault((metric, split), []).append(_array(measured[leaf, split]).flatten())
    several = len({split for _, split in panels}) > 1
    found = []
    for (metric, split), series in panels.items():
        scale = "log" if log else _scale(metric, np.concatenate(values[metric, split]))
        axes = Axis("training step"), Axis(spoken(metric), scale)
        found.append(Panel(*axes, series, split if several else ""))
    return found


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort "lag_2" before "lag_16"."""
    words = re.split(r"(\d+)", name)
    return [(int(word), "") if word.isdigit() else (-1, word) for word in words]


def spoken(name: str) -> str:
    """Say a metric's name in words.

    Examples:
        >>> spoken("bits_per_character")
        'bits per character'
    """
    return name.replace("_", " ")


def _scale(name: str, values: np.ndarray) -> Literal["linear", "log"]:
    """Choose a log axis for what is positive and falls over more than a factor of thirty."""
    real = values[np.isfinite(values)]
    if "accuracy" in name or not len(real) or real.min() <= 0:
        return "linear"
    return "log" if real.max() > 30 * real.min() else "linear"


def _caption(measured: Measured, names: Sequence[str], *, lines: str = "") -> str:
    """Say what line, band and thin lines are, and which seeds are not in them.

    `lines` says what several lines are that show means alone.
    """
    parts = {key: steps for key, steps in measured.items() if key[0] in names}
    seeds = max(len(values) for steps in parts.values() for values in steps.values())
    text = [lines] if lines else []
    if seeds > 1:
        band = "; the band reaches from the lowest seed to the highest" if not lines else ""
        threads = ", thin lines are the seeds" if not lines and seeds <= _SHOWN_SEEDS else ""
        text.append(f"Mean over {seeds} seeds{band}{threads}.")
    lost = {
        (step, seed)
        for steps in parts.values()
        for step, values in steps.items()
        for seed, value in enumerate(values)
        if value is None or not math.isfinite(value)
    }
    if lost:
        gone = len({seed for _, seed in lost})
        which = f"{gone} of {seeds} seeds" if seeds > 1 else "values"
        others = "; the mean is over the others" if gone < seeds else ""
        text.append(f"From step {number(min(lost)[0])} on, {which} are not always finite{others}.")
    return " ".join(text)
