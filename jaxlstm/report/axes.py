"""Axes: their range, their ticks, and their words."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from jaxlstm.report.figures import Axis, HeatmapPanel, Panel, Series
from jaxlstm.report.style import LIGHT
from jaxlstm.wording import number, power

Range = tuple[float, float]


def plottable(values: Iterable[float | None], axis: Axis) -> np.ndarray:
    """Turn JSON numbers into floats; what has no place on the axis becomes NaN, a gap."""
    array = np.asarray(list(values), float)
    bad = ~np.isfinite(array) | (array <= 0 if axis.scale == "log" else False)
    return np.where(bad, math.nan, array)


def across(series: Iterable[Series], axis: Axis) -> Range | None:
    """Find the range of an x axis: all that is drawn. None when there is nothing."""
    ends = _extent([s.x for s in series], axis)
    return _padded(*ends, axis, 0.015) if ends else None


def upright(series: Sequence[Series], axis: Axis) -> Range | None:
    """Find the range of a y axis: measurements, references, and theory within reason.

    A theory line may widen the range to three times what the rest needs, or by two decades on a log
    axis; what runs further, down to 1e-300 perhaps, is cut, or it would press the rest flat.
    """

    def extent(chosen: Iterable[Series]) -> Range | None:
        lists = ((s.y, s.low or [], s.high or [], *s.seeds) for s in chosen)
        return _extent([values for each in lists for values in each], axis)

    everything = extent(series)
    if everything is None:
        return None
    firm = extent(s for s in series if s.role != "theory") or everything
    reach = max(firm[1] - firm[0], 2.0 if axis.scale == "log" else 0.0)
    low, high = max(everything[0], firm[0] - reach), min(everything[1], firm[1] + reach)
    return _padded(low, high, axis, 0.05)


def ticks(side: Any, scale: str, interval: Sequence[float], *, whole: bool = False) -> None:
    """Set few, round ticks on a matplotlib axis that shows `interval`; of counts, whole ones."""
    low, high = (float(end) for end in interval)
    places = _decades(low, high) if scale == "log" else []
    powers = places and high / 1e3 > low and (low < 1e-3 or high > 1e5)
    tiny = 0.0 if scale == "log" else 1e-9 * abs(high - low)

    def write(value: float, _: int | None) -> str:
        if powers:
            return power(round(math.log10(value)))
        # Ticks are round numbers: ten digits write them exactly and hide the rounding of floats.
        return number(0.0 if abs(value) < tiny else value, 10)

    round_steps = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=whole, min_n_ticks=2 - whole)
    side.set_major_locator(FixedLocator(places) if places else round_steps)
    side.set_minor_locator(NullLocator())
    side.set_major_formatter(FuncFormatter(write))


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten, or 1, 2, 5 times them, from low to high; none if fewer than two would be."""
    least, most = math.log10(low), math.log10(high)
    exponents = range(math.floor(least), math.ceil(most) + 1)
    stride = next(n for n in (1, 2, 3, 5, 10, 20, 50, 100) if most - least <= 7 * n)
    multiples = (1, 2, 5) if most - least < 2 else (1,)
    places = [m * 10.0**e for e in exponents if e % stride == 0 for m in multiples]
    places = [place for place in places if low <= place <= high]
    return places if len(places) > 1 else []


class Words(NamedTuple):
    """The words of a panel, broken into lines that fit its width."""

    title: str
    x: str
    y: str

    @property
    def lines(self) -> int:
        """How many lines they take beyond one each."""
        return sum(part.count("\n") for part in self)


def words(panel: Panel | HeatmapPanel, width: float) -> Words:
    """Break the words of a panel that is `width` inches wide."""
    letters = int(width * 10)
    return Words(
        textwrap.fill(panel.title, letters - 6),
        textwrap.fill(panel.x.label, letters),
        textwrap.fill(panel.y.label, letters if panel.title else letters - 6),
    )


def label(ax: Axes, written: Words) -> None:
    """Write the words; the y label lies flat above the axis, to be read without turning the head.

    Without a title the y label takes its place.
    """
    ax.set_xlabel(written.x, loc="right")
    if not written.title:
        ax.set_title(written.y, pad=7)
        return
    ax.annotate(
        written.y,
        (0, 1),
        (0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        color=LIGHT["muted"],
    )
    lines = written.y.count("\n") + bool(written.y)
    ax.set_title(written.title, pad=9 + 15 * lines)


def _extent(lists: Iterable[Sequence[float | None]], axis: Axis) -> Range | None:
    """Smallest and largest plottable value; of their decimal logarithms on a log axis."""
    flat = np.concatenate([plottable(values, axis) for values in lists] or [np.empty(0)])
    flat = flat[np.isfinite(flat)]
    if axis.scale == "log":
        flat = np.log10(flat)
    return (float(flat.min()), float(flat.max())) if len(flat) else None


def _padded(low: float, high: float, axis: Axis, margin: float) -> Range:
    log = axis.scale == "log"
    pad = (high - low) * margin or (0.5 if log else abs(low) * 0.1 or 0.5)
    low, high = low - pad, high + pad
    # The ends of a log axis must be floats that are neither zero nor infinite.
    return (10 ** max(low, -307.0), 10 ** min(high, 307.0)) if log else (low, high)
