"""Where a forecast's table comes from: a file, or a carrier, and where it is cut."""

import io
from typing import Any

import msgspec
import numpy as np

from jaxlstm.config import Forecast
from jaxlstm.errors import UserError
from jaxlstm.tasks import carriers, tables
from jaxlstm.tasks.tables import Table

COMMON: dict[str, Any] = {
    "horizons": (1,),
    "predict": "value",
    "window": 64,
    "validation": 0.1,
    "test": 0.2,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "laser": {"target": "intensity", "validation": 0.0, "test_from": 5000},
    "weather": {
        "columns": (
            "hour",
            "temp",
            "dewp",
            "humid",
            "wind_dir",
            "wind_speed",
            "wind_gust",
            "precip",
            "pressure",
            "visib",
        ),
        "target": "temp",
        "time": "time_hour",
        "group": "origin",
        "horizons": (1, 24),
        "predict": "change",
        "window": 96,
    },
}


def with_defaults(config: Forecast) -> Forecast:
    """Give every key that was left out the value of the source, or the common one.

    Raises:
        UserError: when these do not fit to what was given.
    """
    defaults = COMMON | DEFAULTS.get(config.source or "", {})
    beginning = {"test": "test_from", "validation": "validation_from"}
    for share, start in beginning.items():
        if getattr(config, share) is not None:
            defaults.pop(start, None)
        if getattr(config, start) is not None or start in defaults:
            defaults.pop(share, None)
    left_out = {key: value for key, value in defaults.items() if getattr(config, key) is None}
    try:
        filled = msgspec.structs.replace(config, **left_out)
    except ValueError as error:
        raise UserError(f"task.{error}") from None
    return msgspec.structs.replace(filled, time=filled.time or None, group=filled.group or None)


def table(config: Forecast) -> Table:
    """Read the table of a config that has its defaults.

    Raises:
        UserError: when it cannot be had, or is malformed.
    """
    if config.groups is not None and config.group is None:
        raise UserError("task.groups: expected none without task.group")
    if config.path is not None:
        text, where = tables.read(config.path), f"'{config.path}'"
    else:
        text, where = CARRIED[config.source or ""](), f"the {config.source} source"
    columns = config.columns
    if columns is not None and config.target is not None and config.target not in columns:
        columns = (*columns, config.target)
    options = {"time": config.time, "group": config.group, "groups": config.groups}
    return tables.parse(text, where, columns=columns, **options)


def cuts(config: Forecast, table: Table) -> list[tuple[int, int, int]]:
    """Say where validation and test begin, and where each series ends.

    Shares are of the rows that the file has; with times all series are cut at the same two.

    Raises:
        UserError: when a boundary is no time of the series, or the parts are out of order.
    """
    found = []
    for series in table.series:
        rows = series.rows
        if config.time is not None:
            rows = np.sort(np.concatenate([one.rows for one in table.series]))
        held = round(len(rows) * (config.test or 0))
        test = _place(config, "test_from", series.times, rows, len(rows) - held)
        if config.test_from is not None:
            held = int(np.sum(rows >= series.times[test])) if test < len(series.times) else 0
        validated = len(rows) - held - round(len(rows) * (config.validation or 0))
        validation = _place(config, "validation_from", series.times, rows, validated)
        if validation > test:
            raise UserError(
                f"task.validation_from: expected a place before the test part, which begins at "
                f"step {test}, got step {validation}"
            )
        found.append((validation, test, len(series.times)))
    for index, key in enumerate(("validation_from", "test_from")):
        if getattr(config, key) is not None and not any(0 < cut[index] < cut[2] for cut in found):
            raise UserError(
                f"task.{key}: expected a place between the first and the last row of a series, "
                f"got {getattr(config, key)!r}"
            )
    return found


def _place(config: Forecast, key: str, times: np.ndarray, rows: np.ndarray, share: int) -> int:
    """Find the first step of a part: as the key says, or as its share does."""
    given = getattr(config, key)
    if given is None:
        at = rows[min(max(share, 0), len(rows) - 1)]
    elif config.time is not None:
        at = tables.parse_time(str(given))
    else:
        at = int(given) if str(given).strip().isdecimal() else None
    if at is None:
        kind = "a row number" if config.time is None else "a time as the column of times has them"
        raise UserError(f"task.{key}: expected {kind}, got {given!r}")
    # Times on a grid are sums of steps, and may be off in their last digits.
    slack = 1e-6 * (times[1] - times[0]) if len(times) > 1 else 0
    return int(np.searchsorted(times, at - slack))


def _laser() -> str:
    files = carriers.read(carriers.LASER, lambda name: name.endswith("/santafe_laser.npy"))
    (content,) = files.values()
    values = np.load(io.BytesIO(content), allow_pickle=False)
    return "\n".join(["intensity", *map(str, values.ravel().tolist())])


def _weather() -> str:
    files = carriers.read(carriers.WEATHER, lambda name: name.endswith("/data/weather.csv"))
    (content,) = files.values()
    return content.decode()


CARRIED = {"laser": _laser, "weather": _weather}
