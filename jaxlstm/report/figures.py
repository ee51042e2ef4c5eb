"""What a figure is, as data: `figures/NAME.json` of a run folder, read strictly.

A figure is a title, a caption and panels; a panel is two axes and its series (kind "lines"), or a
grid of numbers (kind "heatmap"). Nothing in it says how it is drawn; `draw` knows that. A number
that is null (not a number, or infinite) leaves a gap.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from jaxlstm.errors import UserError

Numbers = list[float | None]


class Axis(msgspec.Struct, frozen=True, omit_defaults=True):
    """An axis of a panel: what it measures, with its unit, and its scale."""

    label: str = ""
    scale: Literal["linear", "log"] = "linear"


class Series(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a panel.

    Args:
        label: what the legend calls it. The same label looks the same in all panels of a figure.
        x: positions, `[N]`.
        y: values, `[N]`; null leaves a gap.
        role: "measured", "theory" (dashed, dark) or "reference" (a baseline, dashed, grey).
        low: lower edge of the band, `[N]`, or null for no band.
        high: upper edge of the band, `[N]`, or null for no band.
        seeds: the lines that `y` is the mean of, one list of `[N]` for each; drawn thin.
    """

    label: str
    x: Numbers
    y: Numbers
    role: Literal["measured", "theory", "reference"] = "measured"
    low: Numbers | None = None
    high: Numbers | None = None
    seeds: list[Numbers] = []

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.label!r} has one of `low` and `high`, expected both")
        for name, values in (("y", self.y), ("low", self.low), ("high", self.high)):
            _same_length(self.label, name, values, self.x)
        for values in self.seeds:
            _same_length(self.label, "seeds", values, self.x)


class Panel(msgspec.Struct, frozen=True, omit_defaults=True):
    """One pair of axes and the lines in it. Without a title the y label stands in its place."""

    x: Axis
    y: Axis
    series: list[Series]
    title: str = ""


class Ticks(msgspec.Struct, frozen=True):
    """A side of a heatmap: what it measures, and the value of each row or column."""

    label: str
    values: list[float | str]


class Grid(msgspec.Struct, frozen=True, omit_defaults=True):
    """The numbers of a heatmap, `values[row][column]`: a row for each y, a column for each x."""

    label: str
    values: list[Numbers]
    scale: Literal["linear", "log"] = "linear"


class HeatmapPanel(msgspec.Struct, frozen=True, omit_defaults=True):
    """One grid of coloured cells."""

    x: Ticks
    y: Ticks
    z: Grid
    title: str = ""

    def __post_init__(self) -> None:
        expected = (len(self.y.values), len(self.x.values))
        got = (len(self.z.values), *sorted({len(row) for row in self.z.values}))
        if got != expected:
            raise ValueError(f"z.values of panel {self.title!r} has shape {got}, not {expected}")


class Lines(msgspec.Struct, frozen=True, tag_field="kind", tag="lines"):
    """A figure of lines."""

    panels: list[Panel]
    title: str = ""
    caption: str = ""


class Heatmap(msgspec.Struct, frozen=True, tag_field="kind", tag="heatmap"):
    """A figure of grids of coloured cells."""

    panels: list[HeatmapPanel]
    title: str = ""
    caption: str = ""


Figure = Lines | Heatmap


def read(path: Path) -> Figure:
    """Read a figure.

    Raises:
        UserError: when the file is no figure; the message names the file and the key.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Figure)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path.parent.name}/{path.name} is no figure: {error}") from None


def _same_length(label: str, name: str, values: Sequence | None, x: Sequence) -> None:
    if values is not None and len(values) != len(x):
        raise ValueError(f"series {label!r} has {len(values)} `{name}` for {len(x)} `x`")
