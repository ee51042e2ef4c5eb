"""`jaxlstm sweep`: many runs, and a table of their settings."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from jaxlstm import runs
from jaxlstm.cli.arguments import Sweep
from jaxlstm.cli.wording import STATUS, complain, say, scored, tabulate
from jaxlstm.errors import UserError

if TYPE_CHECKING:
    from jaxlstm import sweeps

MOST_LINES = 20
"""Settings of the table and failures named on the way out; all of them stand in the report."""


def sweep(command: Sweep, loaded: Any, line: str) -> int:
    """Run what is left of a sweep, and say what it found.

    Args:
        command: the command line.
        loaded: the config.
        line: the command line as it was typed.

    Returns:
        The exit status: 1 where a run failed.
    """
    from jaxlstm import sweeps

    folder = Path(command.out or Path("runs") / loaded.name)
    plan = sweeps.plan(loaded)
    sweeps.prepare(plan, folder)
    goals = sweeps.check(plan, command.config)
    with contextlib.ExitStack() as stack:
        if command.scheduler is not None:
            engine = stack.enter_context(sweeps.cluster(command.scheduler, Path.cwd()))
            device = f"cluster at {command.scheduler}"
        else:
            shares = sweeps.slots(command.workers)
            engine = stack.enter_context(sweeps.here(shares))
            device = f"{len(shares)} workers"
        manifest, ranked, standings = sweeps.run(
            loaded,
            plan,
            goals,
            folder,
            engine=engine,
            retries=command.retries,
            command=line,
            device=device,
            quiet=command.quiet,
        )
    _tell(ranked)
    for one in _few([one for one in standings if one.state == "failed"]):
        complain(f"{folder / one.name}: failed after {_tries(one)}: {one.reason}")
    if manifest.state == "interrupted":
        left = sum(one.state != "finished" for one in standings)
        say(f"interrupted with {left} runs left; go on with the same command: {line}")
    say(str(folder / "report.html"))
    return STATUS.get(manifest.state, 0)


def check(command: Sweep) -> None:
    """Refuse options that do not fit, before anything is read."""
    if command.workers is not None and command.workers < 1:
        raise UserError(f"--workers: expected int >= 1, got {command.workers}")
    if command.retries < 0:
        raise UserError(f"--retries: expected int >= 0, got {command.retries}")
    if command.workers is not None and command.scheduler is not None:
        raise UserError("--workers: expected none with --scheduler, the cluster has its own")


def _tries(one: "sweeps.Standing") -> str:
    return f"{one.tries} {'try' if one.tries == 1 else 'tries'}"


def _few(failed: Sequence["sweeps.Standing"]) -> Sequence["sweeps.Standing"]:
    if len(failed) > MOST_LINES:
        complain(f"{len(failed)} runs failed; the first {MOST_LINES} of them:")
    return failed[:MOST_LINES]


def _tell(ranked: Sequence["sweeps.Ranked"]) -> None:
    """The settings, best first: a table on a terminal, lines with tabs elsewhere."""
    rows = [
        (
            one.setting.label,
            _score(one.score),
            f"{one.finished} of {len(one.setting.runs)}",
        )
        for one in ranked
    ]
    metric = next((one.score.metric for one in ranked if one.score), "score")
    heads = ("setting", metric, "runs")
    if not sys.stdout.isatty():
        tabulate(heads, [heads, *rows])
        return
    tabulate(heads, rows[:MOST_LINES])
    if len(rows) > MOST_LINES:
        say(f"and {len(rows) - MOST_LINES} more, in the report")


def _score(score: runs.Score | None) -> str:
    if score is None:
        return "none finished"
    return scored(msgspec.structs.replace(score, expected=None, verdict="reported"))
