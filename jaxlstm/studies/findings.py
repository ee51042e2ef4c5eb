"""What studies find: predictions held against measurements, and series for figures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm import runs
from jaxlstm.training.scores import interval

LAG = "lag T − t (steps)"
"""What an axis of steps back from the end is called."""


@dataclass(frozen=True)
class Prediction:
    """A number that theory gives, and what was measured.

    Args:
        what: the quantity, with its unit.
        predicted: the number, or the bound.
        measured: one value for each seed.
        rule: "within" the tolerance of the prediction, "at most" or "at least" the bound.
        tolerance: for "within": the largest distance of the mean.
        relative: whether the tolerance is a share of the prediction.
    """

    what: str
    predicted: float
    measured: Any
    rule: str = "within"
    tolerance: float = 0.0
    relative: bool = False

    @property
    def holds(self) -> bool:
        """Whether the measurement agrees: the mean for "within", every seed for a bound.

        Nothing holds of no measurement, or of one that is not finite.
        """
        values = np.asarray(self.measured, np.float64)
        if not values.size or not np.isfinite(values).all():
            return False
        if self.rule == "at most":
            return bool((values <= self.predicted).all())
        if self.rule == "at least":
            return bool((values >= self.predicted).all())
        allowed = self.tolerance * (abs(self.predicted) if self.relative else 1.0)
        return abs(values.mean() - self.predicted) <= allowed

    @property
    def expected(self) -> str:
        """The prediction in words, such as "0.0652 ± 0.02"."""
        if self.rule != "within":
            return f"{'≤' if self.rule == 'at most' else '≥'} {self.predicted:.4g}"
        share = f"{self.tolerance:.2g} of it" if self.relative else f"{self.tolerance:.2g}"
        return f"{self.predicted:.4g} ± {share}"


def figure(
    folder: Path,
    stem: str,
    title: str,
    caption: str,
    panels: Sequence[dict[str, Any]],
    *,
    kind: str = "lines",
) -> None:
    """Write a figure of the report: panels of series, as from `panel`, or heat maps."""
    data = {"title": title, "caption": caption, "kind": kind, "panels": list(panels)}
    runs.write_figure(folder, stem, data)


def write(folder: Path, caption: str, found: Sequence[Prediction]) -> list[runs.Score]:
    """Write the table of predictions, and give the summary."""
    rows, scores = [], []
    for prediction in found:
        mean = runs.finite(np.mean(prediction.measured))
        low, high = interval(prediction.measured) or (None, None)
        verdict = "met" if prediction.holds else "missed"
        span = "" if low is None or high is None else f"{low:.4g} … {high:.4g}"
        said = "not finite" if mean is None else f"{mean:.4g}"
        rows.append([prediction.what, prediction.expected, said, span, verdict])
        values = list(map(runs.finite, prediction.measured))
        scores.append(
            runs.Score(prediction.what, values, mean, low, high, prediction.expected, verdict)
        )
    columns = ["quantity", "prediction", "measured", "95 % interval", "verdict"]
    title = "Predictions and measurements"
    runs.write_table(
        folder, "predictions", title=title, caption=caption, columns=columns, rows=rows
    )
    return scores


def measured(label: str, x: Any, logs: Any) -> dict[str, Any]:
    """Make a series of natural logarithms `[seeds, points]`: geometric mean and range."""
    return _band(label, x, logs, _exp)


def plain(label: str, x: Any, values: Any) -> dict[str, Any]:
    """Make a series of numbers `[seeds, points]` for a linear axis: mean and range."""
    return _band(label, x, values, float)


def learning(label: str, losses: Any, each: int) -> dict[str, Any]:
    """Make a series of losses `[seeds, updates]`: the means of so many updates each."""
    whole = losses[:, : losses.shape[1] // each * each].reshape(len(losses), -1, each)
    x = (np.arange(whole.shape[1]) + 1) * each
    return measured(label, x, np.log(whole.mean(axis=2)))


def theory(label: str, x: Any, logs: Any, role: str = "theory") -> dict[str, Any]:
    """Make a series of one curve of natural logarithms."""
    y = [_exp(value) for value in np.asarray(logs, np.float64)]
    return {"label": label, "role": role, "x": [float(value) for value in x], "y": y}


def reference(label: str, x: Any, y: Any, role: str = "reference") -> dict[str, Any]:
    """Make a series of one curve of numbers, to compare the measured ones with."""
    line = {"x": [float(value) for value in x], "y": [float(value) for value in y]}
    return {"label": label, "role": role, **line}


def panel(
    title: str, x: str, y: str, series: Sequence[dict[str, Any]], scale: str = "log"
) -> dict[str, Any]:
    """Make a panel, by default with a logarithmic vertical axis."""
    return {
        "title": title,
        "x": {"label": x, "scale": "linear"},
        "y": {"label": y, "scale": scale},
        "series": list(series),
    }


def slope(logs: Any, first: int, last: int) -> np.ndarray:
    """Least-squares slope of each row of `[seeds, points]` between two points."""
    logs = np.asarray(logs, np.float64)[:, first:last]
    return np.polyfit(np.arange(logs.shape[1]), logs.T, 1)[0]


def _band(label: str, x: Any, values: Any, number: Callable[[float], Any]) -> dict[str, Any]:
    values = np.asarray(values, np.float64)
    found = {"y": values.mean(axis=0), "low": values.min(axis=0), "high": values.max(axis=0)}
    points = {name: [number(value) for value in line] for name, line in found.items()}
    return {"label": label, "role": "measured", "x": [float(value) for value in x], **points}


def _exp(value: float) -> float | None:
    return math.exp(value) if -700 < value < 700 else None
