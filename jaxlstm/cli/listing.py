"""`jaxlstm list`: the runs in a folder."""

import contextlib
import time
from datetime import datetime
from pathlib import Path

from jaxlstm import locks, runs
from jaxlstm.cli.arguments import List
from jaxlstm.cli.wording import mean, say, scored, tabulate
from jaxlstm.errors import UserError
from jaxlstm.wording import duration


def list_runs(command: List) -> int:
    """List the runs: a table on a terminal, lines with tabs elsewhere."""
    if not Path(command.folder).is_dir():
        raise UserError(f"list: there is no folder '{command.folder}'")
    rows = [_row(folder) for folder in runs.find(command.folder)]
    if not rows:
        say(f"no runs in '{command.folder}'")
        return 0
    tabulate(("run", "state", "best score", "age", "size"), rows)
    return 0


def standing(folder: Path, manifest: runs.Manifest) -> str:
    """How a run stands: its state, or "dead" where its process is gone without a word."""
    if manifest.state == "running" and locks.in_use(folder) is False:
        return "dead"
    return manifest.state


def _row(folder: Path) -> tuple[str, str, str, str, str]:
    try:
        manifest = runs.read_manifest(folder)
        score = _score(manifest) if manifest.summary else _best(folder, manifest.aim)
        state = standing(folder, manifest)
        age = duration(time.time() - datetime.fromisoformat(manifest.started).timestamp())
    except UserError as error:
        return str(folder), "unreadable", str(error), "", sized(folder)
    except ValueError:
        return str(folder), "unreadable", "manifest.json: `started` is no time", "", sized(folder)
    return str(folder), state, score, age, sized(folder)


def _score(manifest: runs.Manifest) -> str:
    """The first score of the summary; that of a sweep is of its best setting."""
    best = manifest.summary[0]
    if manifest.kind not in ("training", "sweep"):
        return scored(best)
    metric, among, setting = best.metric.partition(" with ")
    return f"{metric} {scored(best)}{among}{setting}"


def _best(folder: Path, aim: runs.Aim | None) -> str:
    """The best score so far of a run that has no summary yet."""
    found: dict[str, tuple[float, int]] = {}
    for record in runs.read_jsonl(folder, "metrics.jsonl"):
        metrics = record.get("metrics")
        if record.get("split") in ("train", "gradients", "stop") or not isinstance(metrics, dict):
            continue
        if aim and record.get("split") != aim.split:
            continue
        # Folders of before the aim was written down: its metric is a guess.
        name = aim.metric if aim else next((n for n in metrics if n != "loss"), "loss")
        value = mean(metrics.get(name))
        if value is None:
            continue
        what, now = f"{record.get('split')} {name}", (value, record["step"])
        better = max if (aim.larger if aim else "accuracy" in name) else min
        found[what] = better(found.get(what, now), now)
    return ", ".join(f"{what} {value:.4g} at step {step}" for what, (value, step) in found.items())


def sized(folder: Path) -> str:
    """The size of all files in a folder, for people.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "a").write_bytes(bytes(999_900))
        ...     sized(Path(folder))
        '1 MB'
    """
    size = 0.0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # a checkpoint that is removed just now
            size += path.lstat().st_size if path.is_file() else 0
    size = float(f"{size:.3g}")
    power = min(4, (len(str(int(size))) - 1) // 3)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
