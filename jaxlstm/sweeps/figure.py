"""The figure of a sweep: the score by each key whose values are numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from jaxlstm import runs
from jaxlstm.report.curves import spoken
from jaxlstm.report.figures import Axis, Lines, Panel, Series
from jaxlstm.sweeps.plan import said
from jaxlstm.sweeps.summary import Ranked

MOST_LINES = 6
WIDE = 8.0
"""Values whose largest is so many times their smallest are drawn on a logarithmic axis."""


def write(folder: Path, ranked: Sequence[Ranked]) -> None:
    """Write `figures/settings.json`: a panel for each key, a line for each setting of the others.

    Where the others have many settings, one line has the best of them at each value.
    """
    scored = [one for one in ranked if one.score is not None and one.score.mean is not None]
    keys = list({key: None for one in scored for key in one.setting.values})
    panels = [panel for key in keys if (panel := _panel(key, scored)) is not None]
    if panels:
        figure = Lines(panels, "Score by setting", "Mean over the seeds, with its interval.")
        runs.write_figure(folder, "settings", msgspec.to_builtins(figure))


def _panel(key: str, scored: Sequence[Ranked]) -> Panel | None:
    rows = [one for one in scored if _number(one.setting.values.get(key))]
    values = sorted({float(one.setting.values[key]) for one in rows})
    if len(values) < 2:
        return None
    lines: dict[str, list[Ranked]] = {}
    for one in rows:
        lines.setdefault(_others(one, key), []).append(one)
    if len(lines) > MOST_LINES:
        # They come best first.
        best = {one.setting.values[key]: one for one in reversed(rows)}
        lines = {"best of the others": list(best.values())}
    score = rows[0].score
    means = [mean for one in rows if one.score and (mean := one.score.mean) is not None]
    label = spoken(score.metric) if score else "score"
    series = [_series(key, name, line) for name, line in lines.items()]
    return Panel(Axis(key, _scale(values)), Axis(label, _scale(means)), series)


def _series(key: str, name: str, line: Sequence[Ranked]) -> Series:
    line = sorted(line, key=lambda one: one.setting.values[key])
    x = [float(one.setting.values[key]) for one in line]
    scores = [one.score for one in line if one.score is not None]
    low, high = [score.low for score in scores], [score.high for score in scores]
    banded = any(value is not None for value in low)
    return Series(
        name,
        list(x),
        [score.mean for score in scores],
        low=low if banded else None,
        high=high if banded else None,
    )


def _others(one: Ranked, key: str) -> str:
    rest = [
        f"{name.split('.')[-1]} {said(v)}" for name, v in one.setting.values.items() if name != key
    ]
    return ", ".join(rest) or "all"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scale(values: Sequence[float]) -> Literal["linear", "log"]:
    low, high = min(values), max(values)
    return "log" if low > 0 and high >= WIDE * low else "linear"
