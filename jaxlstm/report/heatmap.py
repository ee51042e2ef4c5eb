"""Draws a panel of coloured cells."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FixedFormatter, FixedLocator

from jaxlstm.report import axes
from jaxlstm.report.figures import Axis, Heatmap, Ticks
from jaxlstm.report.style import LIGHT, layout
from jaxlstm.wording import number

_MOST_WRITTEN = 60  # cells that carry their number
_WIDE = 12  # cells side by side in a figure that leave room for three digits


def draw(ax: Axes, figure: Heatmap, index: int) -> None:
    """Draw a panel of a figure; its colours mean the same in all panels of the same measure."""
    panel = figure.panels[index]
    axis = Axis(panel.z.label, panel.z.scale)

    def cells(rows: list) -> np.ndarray:
        return np.array([axes.plottable(row, axis) for row in rows])

    same = [p.z for p in figure.panels if (p.z.label, p.z.scale) == (panel.z.label, panel.z.scale)]
    real = np.concatenate([cells(z.values).flatten() for z in same])
    real = real[np.isfinite(real)]
    least, most = (real.min(), real.max()) if len(real) else (1.0, 2.0)
    if least == most:
        most = least + (abs(least) or 1.0)
    norm = (LogNorm if axis.scale == "log" else Normalize)(least, most)
    values = cells(panel.z.values)
    picture = ax.imshow(
        np.ma.masked_invalid(values),
        norm=norm,
        origin="lower",
        aspect="auto",
        interpolation="none",  # one pixel a cell: the viewer enlarges it with sharp edges
    )
    ax.set_facecolor(LIGHT["rule"])
    ax.grid(visible=False)
    if values.size <= _MOST_WRITTEN:
        digits = 3 if values.shape[1] * len(figure.panels) <= _WIDE else 2
        for (row, column), value in np.ndenumerate(values):
            ink = LIGHT["muted"]
            if math.isfinite(value):
                red, green, blue, _ = picture.cmap(norm(value))
                # Not the palette's white and black: cells keep their colours in the dark.
                ink = "#fdfdfd" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "#111111"
            ax.text(
                column, row, number(value, digits), color=ink, fontsize=9, ha="center", va="center"
            )
    _names(ax.xaxis, panel.x)
    _names(ax.yaxis, panel.y)
    bar = ax.figure.colorbar(picture, ax=ax, aspect=30, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.set_label(panel.z.label)
    axes.ticks(bar.ax.yaxis, axis.scale, (least, most))
    axes.label(ax, axes.words(panel, layout(len(figure.panels))[1][0]))


def _names(side: Any, ticks: Ticks) -> None:
    every = math.ceil(len(ticks.values) / 8) or 1
    shown = ticks.values[::every]
    side.set_major_locator(FixedLocator([i * every for i in range(len(shown))]))
    side.set_major_formatter(
        FixedFormatter([v if isinstance(v, str) else number(v) for v in shown])
    )
