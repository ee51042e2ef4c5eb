"""From a run folder to one self-contained page."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import msgspec
from markupsafe import Markup

from jaxlstm import runs
from jaxlstm.errors import UserError
from jaxlstm.report import curves, draw, figures, style
from jaxlstm.report.inline import inline
from jaxlstm.wording import duration, listed, number, typeset

MOST_CARDS = 6  # scores that get a card each; more of them are counted, and stand in a table

T = TypeVar("T")


class Table(msgspec.Struct, frozen=True):
    """`tables/NAME.json`: a title, a caption, and rows with one cell for each column."""

    title: str
    columns: list[str]
    rows: list[list[str | int | float | bool | None]]
    caption: str = ""


class Sample(msgspec.Struct, frozen=True):
    """A line of `samples.jsonl`: what a model wrote after a prompt."""

    step: int
    text: str
    prompt: str = ""
    seed: int = 0
    temperature: float | None = None


def write(folder: str | Path) -> Path:
    """Make `report.html` of a run folder, and an SVG beside the data of every figure.

    Reads nothing but the folder, and makes the same bytes of the same folder. The curves of a
    training are derived from `metrics.jsonl`, and their data goes to `figures/` as well.

    Args:
        folder: a run, of a training or a study; finished, interrupted or still running.

    Returns:
        The path of the page.

    Raises:
        UserError: when the folder is no run, is of a later format, holds a file that cannot be
            read, or cannot be written to.
    """
    folder = Path(folder)
    manifest = runs.read_manifest(folder)
    try:
        samples = _records(folder, "samples.jsonl", Sample)
        tables = [_table(path) for path in sorted(folder.glob("tables/*.json"))]
        shown = _figures(folder, manifest.baselines)
        if len(manifest.summary) > MOST_CARDS and not tables:
            tables = [_score_table(manifest.summary)]
        page = _environment().get_template("report.html.j2")
        text = page.render(
            manifest=manifest,
            cards=manifest.summary if len(manifest.summary) <= MOST_CARDS else [],
            figures=[_drawn(i, *named) for i, named in enumerate(shown.items())],
            tables=[(table, _numeric(table)) for table in tables],
            samples=_by_step(samples),
            config=_text(folder / "config.toml"),
            light=style.LIGHT,
            dark=style.DARK,
        )
        runs.write_text(folder / "report.html", text)
    except OSError as error:
        raise UserError(f"cannot make the report of '{folder}' ({error.strerror})") from None
    return folder / "report.html"


def _figures(folder: Path, baselines: Mapping[str, float]) -> dict[str, figures.Figure]:
    """Derive the curves, read the other figures, and draw each beside its data."""
    curved = curves.figures(_records(folder, "metrics.jsonl", curves.Record), baselines)
    for name, figure in curved.items():
        runs.write_figure(folder, name, msgspec.to_builtins(figure))
    paths = sorted(folder.glob("figures/*.json"))
    shown = curved | {p.stem: figures.read(p) for p in paths if p.stem not in curved}
    for name, figure in shown.items():
        runs.write_text(folder / "figures" / f"{name}.svg", draw.whole(figure, name))
    return shown


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxlstm.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "duration": duration,
        "listed": listed,
        "spoken": curves.spoken,
        "typeset": typeset,
        "cell": _cell,
        "moment": _moment,
    }
    return environment


def _drawn(index: int, name: str, figure: figures.Figure) -> dict[str, Any]:
    """What the template needs of a figure: its words, its panels and its legend as SVG."""
    panels = []
    for i, panel in enumerate(figure.panels):
        salt = f"figure-{index}-{i}"
        label = ": ".join(part for part in (figure.title or name, panel.title) if part)
        names = (
            {f"series-{j}": series.label for j, series in enumerate(panel.series)}
            if isinstance(panel, figures.Panel)
            else {}
        )
        panels.append(Markup(inline(draw.panel(figure, i, salt), salt, label, names)))
    legend = []
    for i, (label, look) in enumerate(draw.legend(figure)):
        salt = f"figure-{index}-key-{i}"
        legend.append((label, Markup(inline(draw.swatch(look, salt), salt, ""))))
    return {
        "name": name,
        "title": figure.title or name,
        "caption": figure.caption,
        "panels": panels,
        "legend": legend,
        "columns": style.layout(len(figure.panels))[0],
    }


def _table(path: Path) -> Table:
    try:
        table = msgspec.json.decode(path.read_bytes(), type=Table)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"tables/{path.name} is no table: {error}") from None
    for i, row in enumerate(table.rows):
        if len(row) != len(table.columns):
            raise UserError(
                f"tables/{path.name} is no table: row {i} has {len(row)} cells, "
                f"expected {len(table.columns)}"
            )
    return table


def _score_table(scores: Sequence[runs.Score]) -> Table:
    columns = ["metric", "mean", "low", "high", "expected", "verdict"]
    rows: list[list[Any]] = [
        [curves.spoken(s.metric), s.mean, s.low, s.high, s.expected or "", s.verdict]
        for s in scores
    ]
    return Table("Final scores", columns, rows, "Means over the seeds, with their intervals.")


def _numeric(table: Table) -> list[bool]:
    """Say which columns hold numbers alone: they stand to the right, and so do their heads."""

    def numbers(column: list) -> bool:
        real = [v for v in column if v is not None]
        return bool(real) and all(type(v) in (int, float) for v in real)

    return [numbers([row[i] for row in table.rows]) for i in range(len(table.columns))]


def _records(folder: Path, name: str, kind: type[T]) -> list[T]:
    records = runs.read_jsonl(folder, name)
    try:
        return msgspec.convert(records, list[kind])
    except msgspec.ValidationError as error:
        raise UserError(f"'{folder / name}': {error}") from None


def _by_step(samples: list[Sample]) -> list[tuple[int, list[Sample]]]:
    steps: dict[int, list[Sample]] = {}
    for sample in samples:
        steps.setdefault(sample.step, []).append(sample)
    return sorted(steps.items(), reverse=True)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _cell(value: str | float | bool | None) -> str:
    """Write a table's cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return typeset(value) if isinstance(value, str) else number(value)


def _moment(iso: str) -> str:
    """2026-01-31T12:34:56+00:00 → 2026-01-31 12:34 UTC; what is not of that form stays."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d(\.\d+)?)?(Z|\+00:00)", iso)
    return f"{match[1]} {match[2]} UTC" if match else iso
