"""What the cells of the guide draw with: figures of `jaxlstm.report`, inside the page.

A figure is data (`jaxlstm.report.figures`), drawn by `jaxlstm.report.draw`; here it only becomes
HTML that a cell displays, in the colours of the page.
"""

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxlstm.report import draw
from jaxlstm.report.figures import Axis, Figure, Grid, Heatmap, HeatmapPanel, Lines, Panel, Ticks
from jaxlstm.report.figures import Series as Series
from jaxlstm.report.inline import inline

_numbers = itertools.count()
Scale = Literal["linear", "log"]


class Page:
    """HTML that a cell shows."""

    def __init__(self, text: str):
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


def line(label: str, x: Any, y: Any, role: Any = "measured") -> Series:
    """A line of a figure; `role` is "measured", "theory" or "reference"."""
    return Series(label, np.asarray(x, float).tolist(), np.asarray(y, float).tolist(), role)


def lines(
    x: str,
    y: str,
    *panels: tuple[str, Sequence[Series]],
    caption: str = "",
    scale: Scale = "linear",
    x_scale: Scale = "linear",
) -> Page:
    """Panels of lines that share the words and scales of their axes."""
    drawn = [
        Panel(Axis(x, x_scale), Axis(y, scale), list(series), title) for title, series in panels
    ]
    return show(Lines(drawn), caption)


def heatmap(
    x: str,
    y: str,
    *panels: tuple[str, Any],
    caption: str = "",
    columns: Sequence[Any] | None = None,
    rows: Sequence[Any] | None = None,
    label: str = "",
    scale: Scale = "linear",
) -> Page:
    """Panels of coloured cells, `values[row][column]`."""
    drawn = []
    for title, values in panels:
        grid = np.asarray(values, float)
        across = list(columns) if columns is not None else list(range(grid.shape[1]))
        up = list(rows) if rows is not None else list(range(grid.shape[0]))
        z = Grid(label, grid.tolist(), scale)
        drawn.append(HeatmapPanel(Ticks(x, across), Ticks(y, up), z, title))
    return show(Heatmap(drawn), caption)


def show(figure: Figure, caption: str = "") -> Page:
    """A figure with its legend and caption."""
    prefix = f"figure-{next(_numbers)}"
    parts = []
    for i, panel in enumerate(figure.panels):
        salt = f"{prefix}-{i}"
        words = ": ".join(filter(None, [caption, panel.title]))
        picture = inline(draw.panel(figure, i, salt), salt, words)
        parts.append(f'<div class="panel">{picture}</div>')
    keys = []
    for i, (label, look) in enumerate(draw.legend(figure)):
        if not label:
            continue
        salt = f"{prefix}-key-{i}"
        swatch = inline(draw.swatch(look, salt), salt, "")
        keys.append(f"<li>{swatch}<span>{html.escape(label)}</span></li>")
    legend = f'<ul class="legend">{"".join(keys)}</ul>' if keys else ""
    said = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    count = min(len(figure.panels), 2)
    return Page(
        f'<figure class="drawing abreast-{count}"><div class="panels">{"".join(parts)}</div>'
        f"{legend}{said}</figure>"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> Page:
    """A table of what was measured; floats are shown with four digits."""

    def cell(value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if isinstance(value, float | np.floating):
            return f"{float(value):.4g}"
        return html.escape(str(value))

    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    said = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return Page(
        f'<div class="table-wrapper"><table class="docutils measured">{said}<thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def text(value: Mapping[str, str] | str) -> Page:
    """Text as a network wrote it."""
    return Page(f'<pre class="written">{html.escape(str(value))}</pre>')
