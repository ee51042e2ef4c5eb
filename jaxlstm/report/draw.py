"""Draws a figure as SVG, with matplotlib.

Nothing global is touched: every drawing starts from matplotlib's own defaults inside an
`rc_context`, whatever the user's settings are, and no window system is asked for. Panels of a
figure whose y axes have the same label and scale share their range, so that the eye can compare.
"""

import io
import math
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from jaxlstm.report import axes, heatmap, lines, style
from jaxlstm.report.figures import Figure, Lines
from jaxlstm.report.style import Look


def whole(figure: Figure, salt: str) -> str:
    """Draw all panels, the title and the legend into one SVG document.

    Args:
        figure: what to draw.
        salt: makes the ids inside the document its own; the same salt gives the same bytes.
    """
    columns, (wide, high) = _layout(figure)
    rows = math.ceil(len(figure.panels) / columns) or 1
    width = max(wide * columns, 7.0)
    looks = legend(figure)
    # matplotlib drops labels that begin with an underscore.
    safe = ["\u200b" * label.startswith("_") + label for label, _ in looks]
    labels = [textwrap.fill(label, int(width * 10)) for label in safe]
    longest = max((len(label) for label in safe), default=0)
    abreast = max(1, min(len(looks), int(width * 72 / (6.4 * longest + 50))))
    broken = sum(label.count("\n") for label in labels)
    title = textwrap.fill(figure.title, int(width * 9))
    height = high * rows + 0.24 * math.ceil(len(looks) / abreast) + 0.2 * broken
    height += 0.25 * (title.count("\n") + bool(title)) + 0.1
    with _drawing(salt):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        for i, ax in enumerate(canvas.subplots(rows, columns, squeeze=False).flatten()):
            if i < len(figure.panels):
                _panel(ax, figure, i)
            else:
                ax.remove()
        if title:
            canvas.suptitle(title, x=0.01, horizontalalignment="left")
        if looks:
            handles = [_handle(look) for _, look in looks]
            place = {"loc": "outside lower center", "ncols": abreast, "handlelength": 2.6}
            canvas.legend(handles, labels, **place)
        return _svg(canvas, "white")


def panel(figure: Figure, index: int, salt: str) -> str:
    """Draw one panel without a legend, on a transparent ground, as an SVG document."""
    with _drawing(salt):
        canvas = Canvas(figsize=_layout(figure)[1], layout="constrained")
        _panel(canvas.add_subplot(), figure, index)
        return _svg(canvas, "none")


def swatch(look: Look, salt: str) -> str:
    """Draw the short line that stands for a look in a legend, as an SVG document."""
    with _drawing(salt):
        canvas = Canvas(figsize=(34 / 72, 12 / 72))
        ax = canvas.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        line = _handle(look)
        line.set_data([0.06, 0.5, 0.94], [0.5, 0.5, 0.5])
        ax.add_line(line)
        return _svg(canvas, "none")


def legend(figure: Figure) -> list[tuple[str, Look]]:
    """List the labels of a figure and their looks: measured first, then theory, then references."""
    looks = lines.looks(figure) if isinstance(figure, Lines) else {}
    return [(label, look) for (label, _), look in looks.items()]


def _layout(figure: Figure) -> tuple[int, tuple[float, float]]:
    """Columns, and the size of a panel: taller by the lines that its words need."""
    columns, (width, height) = style.layout(len(figure.panels))
    broken = max((axes.words(panel, width).lines for panel in figure.panels), default=0)
    return columns, (width, height + 0.22 * broken)


@contextmanager
def _drawing(salt: str) -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Text stays text, so a glyph that DejaVu lacks is found in the reader's own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style.MATPLOTLIB)
        matplotlib.rcParams["svg.hashsalt"] = salt
        yield


def _svg(canvas: Canvas, ground: str) -> str:
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    canvas.savefig(text, format="svg", metadata=nothing, facecolor=ground)
    return text.getvalue()


def _panel(ax: Axes, figure: Figure, index: int) -> None:
    if isinstance(figure, Lines):
        lines.draw(ax, figure, index)
    else:
        heatmap.draw(ax, figure, index)


def _handle(look: Look) -> Line2D:
    return Line2D(
        [],
        [],
        color=look.colour,
        linestyle=look.dash,
        linewidth=look.width,
        marker=look.marker or "None",
        markevery=[1],
    )
