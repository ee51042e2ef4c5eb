"""Draws a panel of lines: thin seeds and a band behind, the line before them, sparse markers."""

import math

import numpy as np
from matplotlib.axes import Axes

from jaxlstm.report import axes
from jaxlstm.report.figures import Lines, Panel, Series
from jaxlstm.report.style import LIGHT, Look, layout, look

MOST_POINTS = 600  # of a line; the figure's JSON has them all
MOST_SEED_POINTS = 240  # of each thin line behind it
_MARKS = 7  # markers along a long line
# A theory line lies over the measurements, so that one sees both where they agree; bands and seeds
# lie under all lines.
_ORDER = {"measured": 2.4, "theory": 2.6, "reference": 2.2}

Looks = dict[tuple[str, str], Look]


def looks(figure: Lines) -> Looks:
    """Give each (label, role) of a figure its look; the same in all panels."""
    chosen: Looks = {}
    for role in _ORDER:
        series = (s for panel in figure.panels for s in panel.series if s.role == role)
        labels = dict.fromkeys(s.label for s in series)
        chosen |= {(label, role): look(role, i) for i, label in enumerate(labels)}
    return chosen


def draw(ax: Axes, figure: Lines, index: int) -> None:
    """Draw a panel of a figure; its y range is that of all panels with the same y axis."""
    panel = figure.panels[index]
    chosen = looks(figure)
    alone = sum(role == "measured" for _, role in chosen) == 1
    same = [s for p in figure.panels if p.y == panel.y for s in p.series]
    height, width = axes.upright(same, panel.y), axes.across(panel.series, panel.x)
    ax.set(xscale=panel.x.scale, yscale=panel.y.scale)
    if height:
        ax.set_ylim(*height)
    if width:
        ax.set_xlim(*width)
    for i, series in enumerate(panel.series):
        _draw(ax, panel, series, chosen[series.label, series.role], i, alone=alone)
    axes.label(ax, axes.words(panel, layout(len(figure.panels))[1][0]))
    counted = all(
        float(x).is_integer() for series in panel.series for x in series.x if x is not None
    )
    axes.ticks(ax.xaxis, panel.x.scale, ax.get_xlim(), whole=counted)
    axes.ticks(ax.yaxis, panel.y.scale, ax.get_ylim())


def thin(values: np.ndarray, limit: int, positions: np.ndarray | None = None) -> np.ndarray:
    """Choose at most `limit` points of a line that keep its extremes, its ends and its gaps.

    The line is cut into equal stretches of `positions`; each keeps its smallest and its largest
    value, and one gap if it has any.

    Args:
        values: `[N]`, NaN for gaps.
        limit: the most points to keep, at least 5.
        positions: `[N]` places along the drawn axis; where they do not ascend, or are None, the
            index is used.

    Returns:
        Ascending indices into `values`.

    Examples:
        >>> import numpy as np
        >>> line = np.zeros(1000)
        >>> line[345] = 9.0
        >>> kept = thin(line, 100).tolist()
        >>> len(kept) <= 100, 345 in kept, kept[0], kept[-1]
        (True, True, 0, 999)
    """
    count = len(values)
    if count <= limit:
        return np.arange(count)
    if positions is None or not np.all(np.diff(positions) > 0):
        positions = np.arange(count)
    kept = [0, count - 1]
    edges = np.linspace(positions[0], positions[-1], (limit - 2) // 3 + 1)[1:-1]
    for stretch in np.split(np.arange(count), np.searchsorted(positions, edges)):
        real = np.isfinite(values[stretch])
        if real.any():
            here = stretch[real]
            kept += [here[np.argmin(values[here])], here[np.argmax(values[here])]]
        if not real.all():
            kept.append(stretch[np.argmin(real)])
    return np.unique(kept)


def _draw(ax: Axes, panel: Panel, series: Series, chosen: Look, index: int, *, alone: bool) -> None:
    x, y = axes.plottable(series.x, panel.x), axes.plottable(series.y, panel.y)
    at = np.log(x) if panel.x.scale == "log" else x
    if series.low is not None and series.high is not None:
        low, high = np.asarray(series.low, float), np.asarray(series.high, float)
        if panel.y.scale == "log":
            # A band may reach down to zero, which has no place on a log axis: to its floor, then.
            low = np.where(low <= 0, ax.get_ylim()[0], low)
        keep = np.union1d(thin(low, MOST_POINTS // 2, at), thin(high, MOST_POINTS // 2, at))
        area = ax.fill_between(x[keep], low[keep], high[keep], color=chosen.colour, alpha=0.16)
        area.set(gid=f"band-{index}", linewidth=0, zorder=2)
    for values in (axes.plottable(seed, panel.y) for seed in series.seeds):
        keep = thin(values, MOST_SEED_POINTS, at)
        (thread,) = ax.plot(x[keep], values[keep], color=chosen.colour, linewidth=0.7, alpha=0.45)
        thread.set(gid=f"seed-{index}", zorder=2.1)
    keep = thin(y, MOST_POINTS, at)
    (line,) = ax.plot(
        x[keep],
        y[keep],
        color=chosen.colour,
        linestyle=chosen.dash,
        linewidth=chosen.width,
        marker=chosen.marker or "o",
        markevery=_marks(at[keep], y[keep], chosen, alone=alone),
        markeredgecolor=LIGHT["paper"],
        markeredgewidth=0.6,
    )
    line.set(gid=f"series-{index}", zorder=_ORDER[series.role])


def _marks(at: np.ndarray, y: np.ndarray, chosen: Look, *, alone: bool) -> list[int]:
    """Choose the points that carry a marker: a few along a long line, and every lone point."""
    real = np.isfinite(y) & np.isfinite(at)
    indices = np.flatnonzero(real)
    before, after = np.r_[False, real[:-1]], np.r_[real[1:], False]
    lone = np.flatnonzero(real & ~before & ~after)
    if chosen.marker and 0 < len(indices) <= 2 * _MARKS:
        return indices.tolist()
    if not chosen.marker or alone or not len(indices):
        return lone.tolist()
    first, last = at[indices[0]], at[indices[-1]]
    shift = math.modf(0.5 + 0.31 * chosen.order)[0]  # so that no two lines mark the same place
    targets = first + (last - first) * (np.arange(_MARKS) + shift) / _MARKS
    nearest = [indices[np.argmin(np.abs(at[indices] - target))] for target in targets]
    return np.union1d(nearest, lone).astype(int).tolist()
