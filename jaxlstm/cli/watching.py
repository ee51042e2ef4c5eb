"""`jaxlstm watch`: what a run writes down, while it does."""

import contextlib
import shlex
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxlstm import runs
from jaxlstm.cli.arguments import Watch
from jaxlstm.cli.listing import standing
from jaxlstm.cli.wording import lost, mean, say, scored
from jaxlstm.errors import UserError
from jaxlstm.wording import duration

DAY = 86_400
Show = Callable[[runs.Manifest, list[dict[str, Any]]], None]


def watch(command: Watch) -> int:
    """Follow a run until it ends: a table on a terminal, a line for each record elsewhere."""
    if not 0 < command.every <= DAY:
        raise UserError(
            f"--every: expected a number of seconds > 0 and <= {DAY}, got {command.every:g}"
        )
    folder = Path(command.run)
    runs.read_manifest(folder)
    with _table(folder) if sys.stdout.isatty() else _lines() as show:
        while True:
            # In this order: what was written before a run ended is shown when it has.
            manifest = runs.read_manifest(folder)
            state = standing(folder, manifest)
            show(manifest, runs.read_jsonl(folder, "metrics.jsonl"))
            if state != "running":
                break
            if lost() is not None:  # nobody reads on
                return 0
            time.sleep(command.every)
    for score in manifest.summary:
        say(f"{score.metric}: {scored(score)}")
    after = f" after {duration(manifest.seconds)}" if state != "dead" else ", its process is gone"
    reason = f": {manifest.reason}" if manifest.reason else ""
    say(f"{manifest.name}: {state}{after}{reason}")
    if state in ("dead", "interrupted") and manifest.kind == "training":
        say(f"go on with: jaxlstm run --resume {shlex.quote(str(folder))}")
    return 0


@contextlib.contextmanager
def _lines() -> Iterator[Show]:
    """A line for each record that was not there before."""
    seen = 0

    def show(_: runs.Manifest, records: list[dict[str, Any]]) -> None:
        nonlocal seen
        seen = min(seen, len(records))  # a run that goes on takes records back
        for record in records[seen:]:
            say(f"step {record['step']}  {record.get('split')}  {_figures(record)}")
        seen = len(records)

    yield show


@contextlib.contextmanager
def _table(folder: Path) -> Iterator[Show]:
    """The latest record of each set, in place."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    steps = _steps(folder)

    def show(manifest: runs.Manifest, records: list[dict[str, Any]]) -> None:
        done = records[-1]["step"] if records else 0
        of = f" of {steps}" if steps else ""
        table = Table("set", "step", "latest", title=f"{manifest.name}: step {done}{of}", box=None)
        for record in {str(record.get("split")): record for record in records}.values():
            table.add_row(str(record.get("split")), str(record["step"]), _figures(record))
        live.update(table, refresh=True)

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        yield show


def _figures(record: dict[str, Any]) -> str:
    """The metrics that are about a whole network: the mean over the seeds of each."""
    found = []
    metrics = record.get("metrics")
    for name, values in metrics.items() if isinstance(metrics, dict) else ():
        value = mean(values)
        if "." not in name:
            found.append(f"{name} not finite" if value is None else f"{name} {value:.4g}")
    return "  ".join(found)


def _steps(folder: Path) -> int | None:
    """How many steps a training has in all."""
    try:
        text = (folder / "config.toml").read_text(encoding="utf-8")
        return int(tomllib.loads(text)["train"]["steps"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
