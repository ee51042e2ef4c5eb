r"""Tables of numbers over time: a CSV file becomes one series or several, NaN where it is empty.

The first line names the columns, which are separated by `,`, `;` or tabs, whichever the first line
has most of. A field that is empty, `NA` or `NaN` is missing. A column of times, as numbers or in
ISO 8601 (20130131 is a date too), puts each series on a regular grid: the step is the most frequent
difference, and steps that the file leaves out become rows where everything is missing. Without one,
rows are steps, and so is one with nothing in it but at the end of the file; with a column of times
or groups such a row says nothing and is passed over.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from jaxlstm import storage
from jaxlstm.errors import UserError

read = storage.read_text
MISSING = ("", "na", "nan")
DELIMITERS = ",;\t"
DAY = re.compile(r"(18|19|20|21)\d{6}")
# A mistyped year would make a grid of millions of steps.
LARGEST_SPREAD = 100
# Single precision holds its square.
LARGEST = 1e18


class Series(NamedTuple):
    """One series on a regular grid.

    Args:
        name: its group, `""` where there is one series alone.
        values: `[T, C]` float64, NaN where missing.
        times: `[T]` float64, seconds since 1970 (UTC) or the numbers of the file; the row numbers
            where there is no column of times.
        rows: `[R]` float64, the times of the rows that the file has.
    """

    name: str
    values: np.ndarray
    times: np.ndarray
    rows: np.ndarray


class Table(NamedTuple):
    """What a file holds: the names of the columns of values, and the series in order of name."""

    columns: tuple[str, ...]
    series: list[Series]


def parse(
    text: str,
    where: str,
    *,
    columns: Sequence[str] | None = None,
    time: str | None = None,
    group: str | None = None,
    groups: Sequence[str] | None = None,
) -> Table:
    r"""Read the text of a CSV file.

    Args:
        text: the file's text.
        where: what errors call the file.
        columns: the columns of values; all but `time` and `group` if None.
        time: the column of times; rows are steps if None.
        group: the column that says which series a row belongs to; one series if None.
        groups: the series that are taken; all if None.

    Returns:
        The `Table`.

    Raises:
        UserError: names the line or the column, what came and what was expected.

    Examples:
        >>> table = parse("hour,place,degrees\n0,a,20\n1,a,NA\n3,a,22\n", "some.csv",
        ...               time="hour", group="place")
        >>> table.columns, table.series[0].name, table.series[0].values.ravel().tolist()
        (('degrees',), 'a', [20.0, nan, nan, 22.0])
    """
    lines, header = _lines(text, where)
    _check_one_column(header, lines, where)
    at = {name: index for index, name in enumerate(header)}
    if columns is None:
        columns = [name for name in header if name not in (time, group)]
    for key, names in (("columns", columns), ("time", [time]), ("group", [group])):
        for name in names:
            if name is not None and name not in at:
                raise UserError(
                    f"task.{key}: expected a column of {where} ({', '.join(header)[:200]}), got "
                    f"{name!r}"
                )
    found: dict[str, list[tuple[int, list[str]]]] = {}
    known: set[str] = set()
    for number, fields in lines:
        if not any(map(str.strip, fields)):
            if time or group or (not fields and len(header) > 1):
                continue
            fields = fields or [""]
        if len(fields) != len(header):
            raise UserError(
                f"{where}, line {number}: expected {len(header)} fields, as the first line has, "
                f"got {len(fields)}"
            )
        name = fields[at[group]].strip() if group else ""
        known.add(name)
        if groups is None or name in groups:
            found.setdefault(name, []).append((number, fields))
    for name in groups or ():
        if name not in found:
            raise UserError(
                f"task.groups: expected values of the column {group!r} "
                f"({', '.join(sorted(known))[:200]}), got {name!r}"
            )
    series = []
    for name, rows in sorted(found.items()):
        values = np.array(
            [[_number(row[at[c]], c, where, line) for c in columns] for line, row in rows]
        )
        times = np.arange(len(rows), dtype=float)
        if time:
            times = np.array([_time(row[at[time]], where, line) for line, row in rows])
            for (line, row), later in zip(rows[1:], np.diff(times) > 0, strict=True):
                if not later:
                    raise UserError(
                        f"{where}, line {line}: expected times that grow from row to row of a "
                        f"series, got {row[at[time]]!r}; without task.time rows are steps"
                    )
        series.append(Series(name, values.reshape(len(rows), -1), times, times))
    if time:
        numbers = [[line for line, _ in rows] for _, rows in sorted(found.items())]
        series = _gridded(series, numbers, where)
    return Table(tuple(columns), series)


def as_number(text: str) -> float:
    """A number as files have it: `float` alone would take 1_000 too.

    Raises:
        ValueError: where it is none.

    Examples:
        >>> as_number(" 1e3 ")
        1000.0
    """
    if "_" in text:
        raise ValueError(text)
    return float(text)


def scaling(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column, of what is not NaN; of a constant one its value and 1.

    The deviation of a constant column is not 0 but what rounding leaves of it.

    Examples:
        >>> mean, deviation = scaling(np.array([[0.1, 1.0], [0.1, 3.0], [0.1, np.nan]]))
        >>> mean.tolist(), deviation.tolist()
        ([0.1, 2.0], [1.0, 1.0])
    """
    mean, deviation, first = (f(rows, axis=0) for f in (np.nanmean, np.nanstd, np.nanmax))
    constant = first == np.nanmin(rows, axis=0)
    return np.where(constant, first, mean), np.where(constant, 1, deviation)


def parse_time(text: str) -> float | None:
    """Turn a number, or an ISO 8601 date or time, into a float; None where it is neither.

    Eight digits that are a date from 1800 to 2199 are that.

    Examples:
        >>> parse_time("7.5"), parse_time("1970-01-02T00:00Z"), parse_time("noon")
        (7.5, 86400.0, None)
    """
    try:
        if DAY.fullmatch(text.strip()):
            return datetime.fromisoformat(text.strip()).replace(tzinfo=UTC).timestamp()
    except ValueError:
        pass
    try:
        number = as_number(text)
        return number if math.isfinite(number) else None
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def _lines(text: str, where: str) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Give the numbered lines after the first, and the names in the first."""
    first = re.sub(r'"[^"]*"', "", text.lstrip("\n").split("\n", 1)[0])
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    lines = []
    try:
        lines = [(reader.line_num, fields) for fields in reader]
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: {error}") from error
    full = [at for at, (_, fields) in enumerate(lines) if any(map(str.strip, fields))]
    lines = lines[full[0] : full[-1] + 1] if full else []
    if not lines:
        raise UserError(f"{where}: expected a line of names and lines of numbers, got none")
    header = [name.strip() for name in lines[0][1]]
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise UserError(f"{where}, line 1: expected different names, got {repeated[0]!r} twice")
    if len(lines) == 1:
        raise UserError(f"{where}: expected lines of numbers after the first line, got none")
    return lines[1:], header


def _check_one_column(header: list[str], lines: list[tuple[int, list[str]]], where: str) -> None:
    """Refuse one column whose first row is several things: its separator is not read."""
    line, fields = next(one for one in lines if any(map(str.strip, one[1])))
    row = ",".join(fields).strip()
    if len(header) == 1 and re.search(r"[|:,\s]", row) and math.isinf(_value(row)):
        raise UserError(
            f"{where}, line {line}: expected numbers in the one column {header[0][:40]!r}, or "
            f"columns with ',', ';' or tabs between them, got {row[:40]!r}"
        )


def _value(field: str) -> float:
    """The number that a field holds: NaN where it is missing, infinite where it is none."""
    if field.strip().lower() in MISSING:
        return math.nan
    try:
        return as_number(field)
    except ValueError:
        return math.inf


def _number(field: str, column: str, where: str, line: int) -> float:
    value = _value(field)
    if abs(value) > LARGEST:
        dated = math.isinf(value) and parse_time(field) is not None
        raise UserError(
            f"{where}, line {line}: expected a number up to {LARGEST:g} in column {column!r}, or "
            f"nothing, NA or NaN where it is missing, got {field[:40]!r}"
            f"{'; task.time names a column of dates, or task.columns leaves it out' * dated}"
        )
    return value


def _time(field: str, where: str, line: int) -> float:
    time = parse_time(field)
    if time is None:
        raise UserError(
            f"{where}, line {line}: expected a number or a date and time as in 2013-01-31T06:00, "
            f"got {field[:40]!r}"
        )
    return time


def _gridded(series: list[Series], lines: list[list[int]], where: str) -> list[Series]:
    """Put every series on a grid of the step that is the most frequent one over all of them.

    `lines` are those of the rows, for messages.
    """
    gaps = Counter(gap for one in series for gap in np.diff(one.times).tolist())
    if not gaps:
        return series
    most = max(gaps.values())
    step = min(gap for gap, count in gaps.items() if count == most)
    placed = []
    for one, numbers in zip(series, lines, strict=True):
        exact = (one.times - one.times[0]) / step
        at = np.rint(exact).astype(int)
        off = np.abs(exact - at) > 1e-6 * (1 + np.abs(exact))
        if off.any() or at[-1] > LARGEST_SPREAD * len(at):
            steps = np.diff(one.times)
            wrong = int(off.argmax() - 1 if off.any() else steps.argmax())
            raise UserError(
                f"task.time: expected times on a grid of {step:.10g}, the most frequent difference "
                f"in {where}, got one of {steps[wrong]:.10g} at line {numbers[wrong + 1]} "
                "(seconds where times are dates, so months and years are no grid); without "
                "task.time rows are steps"
            )
        values = np.full((at[-1] + 1, one.values.shape[1]), math.nan)
        values[at] = one.values
        times = one.times[0] + step * np.arange(len(values))
        placed.append(one._replace(values=values, times=times))
    return placed
