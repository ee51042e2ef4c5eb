"""`jaxlstm list`: the runs in a folder."""

import sys
import time
from datetime import datetime
from pathlib import Path

from jaxlstm import runs
from jaxlstm.cli.arguments import List
from jaxlstm.cli.wording import say, scored
from jaxlstm.errors import UserError
from jaxlstm.progress import clock


def list_runs(command: List) -> int:
    """List the runs: a table on a terminal, lines with tabs elsewhere."""
    if not Path(command.folder).is_dir():
        raise UserError(f"list: there is no folder '{command.folder}'")
    rows = [_row(folder) for folder in runs.find(command.folder)]
    if not rows:
        say(f"no runs in '{command.folder}'")
        return 0
    if not sys.stdout.isatty():
        for row in rows:
            say("\t".join(row))
        return 0

    from rich.console import Console
    from rich.table import Table

    table = Table("run", "state", "score", "age", box=None)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
    return 0


def _row(folder: Path) -> tuple[str, str, str, str]:
    try:
        manifest = runs.read_manifest(folder)
        score = scored(manifest.summary[0]) if manifest.summary else _latest(folder)
    except UserError as error:
        return str(folder), "unreadable", str(error), ""
    age = time.time() - datetime.fromisoformat(manifest.started).timestamp()
    return str(folder), manifest.state, score, clock(age)


def _latest(folder: Path) -> str:
    """The latest score of a run that has no summary yet."""
    for record in reversed(runs.read_jsonl(folder, "metrics.jsonl")):
        if record["split"] != "train":
            name = next((n for n in record["metrics"] if n != "loss"), "loss")
            values = [value for value in record["metrics"][name] if value is not None]
            mean = f"{sum(values) / len(values):.4g}" if values else "not finite"
            return f"{record['split']} {name} {mean} at step {record['step']}"
    return ""
