"""How every figure and page looks: one palette for light and dark, one matplotlib style.

Series are told apart three times over: by colour (after Okabe and Ito, 2008, darkened where a thin
line would be too pale on white), by marker, and from the seventh on by dash. So figures read for
colour-blind eyes and printed in grey.
"""

from dataclasses import dataclass
from typing import Any

LIGHT = {
    "ink": "#1d1c1a",
    "muted": "#6a665f",
    "rule": "#e3dfd8",
    "paper": "#ffffff",
    "ground": "#f8f6f2",
    "series-0": "#0072b2",
    "series-1": "#d55e00",
    "series-2": "#009e73",
    "series-3": "#bb5a93",
    "series-4": "#d99200",
    "series-5": "#56a5d8",
    "met": "#00694c",
    "missed": "#b3361b",
}
DARK = {
    "ink": "#ebe8e2",
    "muted": "#a29d93",
    "rule": "#37383d",
    "paper": "#1d1e22",
    "ground": "#141518",
    "series-0": "#4aa3e0",
    "series-1": "#ff8b4d",
    "series-2": "#35c596",
    "series-3": "#e495c2",
    "series-4": "#f0b73f",
    "series-5": "#9bd2f5",
    "met": "#4fd3a6",
    "missed": "#ff8f75",
}
THEMED = {colour: f"var(--{name})" for name, colour in LIGHT.items()}
"""What each colour of a drawn figure becomes inside the page, where it follows light and dark."""

MATPLOTLIB: Any = {
    "axes.edgecolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": 11.0,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": LIGHT["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.hspace": 0.07,
    "figure.constrained_layout.wspace": 0.05,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the layout is the same everywhere
    "font.size": 11.0,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.8,
    "image.cmap": "viridis",  # even in lightness, and kind to colour-blind eyes
    "legend.fontsize": 11.0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "lines.solid_capstyle": "round",
    "path.simplify": False,  # lines are thinned by lines.thin, which keeps extremes and gaps
    "svg.fonttype": "none",  # text stays text: it can be read out, searched, and follows the page
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": LIGHT["muted"],
    "xtick.labelsize": 10.5,
    "xtick.major.size": 3.5,
    "xtick.major.width": 0.8,
    "xtick.minor.bottom": False,
    "ytick.color": LIGHT["muted"],
    "ytick.labelsize": 10.5,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
}

_COLOURS = tuple(f"series-{i}" for i in range(6))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
_DASHES = ("solid", (0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))
_THEORY = (
    (0, (4, 2.2)),
    (0, (1.2, 1.8)),
    (0, (8, 2, 1.5, 2)),
    (0, (8, 3)),
    (0, (2.5, 1.2)),
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
)
_REFERENCE = ((0, (6, 2, 1.2, 2)), (0, (1.2, 1.8)), (0, (3, 2)), (0, (10, 3)))


def layout(panels: int) -> tuple[int, tuple[float, float]]:
    """Say how many panels stand abreast where there is room, and how large each is, in inches.

    Letters are of one size whatever the number: the more panels abreast, the smaller each.

    Examples:
        >>> layout(4), layout(5)
        ((2, (5.5, 3.4)), (3, (4.0, 2.8)))
    """
    columns = 2 if panels == 4 else max(1, min(panels, 3))
    return columns, (4.0, 2.8) if columns == 3 else (5.5, 3.4)


@dataclass(frozen=True)
class Look:
    """How a series is drawn, wherever its label appears.

    Args:
        colour: a hexadecimal colour of `LIGHT`.
        dash: a matplotlib line style.
        marker: a matplotlib marker, or "" for none.
        width: of the line, in points.
        order: which of its role it is, counted from 0; it staggers the markers of several lines.
    """

    colour: str
    dash: Any
    marker: str
    width: float
    order: int


def look(role: str, order: int) -> Look:
    """Choose the look of the `order`-th series of a role: measured, theory or reference.

    Examples:
        >>> look("measured", 0).dash, look("measured", 6).dash == look("measured", 0).dash
        ('solid', False)
        >>> look("theory", 0).colour == LIGHT["ink"]
        True
    """
    if role == "theory":
        return Look(LIGHT["ink"], _THEORY[order % len(_THEORY)], "", 1.4, order)
    if role == "reference":
        return Look(LIGHT["muted"], _REFERENCE[order % len(_REFERENCE)], "", 1.2, order)
    colour = LIGHT[_COLOURS[order % len(_COLOURS)]]
    dash = _DASHES[order // len(_COLOURS) % len(_DASHES)]
    return Look(colour, dash, _MARKERS[order % len(_MARKERS)], 1.8, order)
