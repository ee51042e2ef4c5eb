"""What the command line says, and how."""

import io
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxlstm import runs
from jaxlstm.errors import one_line

STATUS = {"interrupted": 130, "failed": 1}
"""The exit status of a run by its state; 0 for any other."""


class Output(io.TextIOWrapper):
    """An output that takes everything: what is computed does not end where nobody reads on.

    Once it could not write, as where the disk is full or `head` has seen enough, the rest goes
    nowhere, and `lost` says why.
    """

    lost: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write, or lose, a text."""
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Write what is left in the buffer, or lose it."""
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def speak() -> None:
    """Let the process print through an `Output`, in which every character is printed somehow."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell's `>&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        sys.stdout.flush()
        sys.stdout = Output(
            sys.stdout.buffer,
            encoding=sys.stdout.encoding,
            errors="backslashreplace",
            line_buffering=bool(sys.stdout.line_buffering),
        )


def heard(status: int) -> int:
    """The exit status, once all is said: 2, and a line, where the output could not be written."""
    sys.stdout.flush()
    error = lost()
    if error is None or isinstance(error, BrokenPipeError):
        return status
    complain(f"cannot write the output ({error.strerror})")
    return status or 2


def lost() -> OSError | None:
    """Why the output could not be written, if it could not."""
    return getattr(sys.stdout, "lost", None)


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print what went wrong, on one line of stderr."""
    sys.stderr.write(f"jaxlstm: {one_line(line)}\n")


def tabulate(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on a terminal, its rows alone, with tabs, elsewhere."""
    if not sys.stdout.isatty():
        for row in rows:
            say("\t".join(row))
        return

    from rich.console import Console
    from rich.table import Column, Table

    # Nothing is cut off: a path or a setting is to be used.
    table = Table(*(Column(head, overflow="fold") for head in heads), box=None)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)


def ended(folder: Path, manifest: runs.Manifest, again: str = "") -> int:
    """Say how a run ended, write its report, and give the exit status."""
    from jaxlstm import report

    for score in manifest.summary:
        say(f"{score.metric}: {scored(score)}")
    if manifest.state == "interrupted":
        again = again or f"jaxlstm run --resume {shlex.quote(str(folder))}"
        say(f"interrupted; go on with: {again}")
    if manifest.state == "failed":
        complain(f"{folder}: {manifest.reason}")
    say(str(report.write(folder)))
    return STATUS.get(manifest.state, 0)


def mean(values: Any) -> float | None:
    """The mean over the seeds of a metric, as a record has them, of those that are numbers.

    Examples:
        >>> mean([1.0, None, 3.0]), mean([None]), mean("damaged")
        (2.0, None, None)
    """
    each = values if isinstance(values, list) else []
    real = [value for value in each if isinstance(value, int | float)]
    return sum(real) / len(real) if real else None


def scored(score: runs.Score) -> str:
    """Write a score with its interval and verdict.

    Examples:
        >>> from jaxlstm.runs import Score
        >>> scored(Score("test mse", [0.1, 0.3], 0.2, 0.0, 0.4, "median < 0.3", "met"))
        '0.2 [0, 0.4], expected median < 0.3: met'
    """
    text = "not finite" if score.mean is None else f"{score.mean:.4g}"
    if score.low is not None and score.high is not None:
        text += f" [{score.low:.4g}, {score.high:.4g}]"
    if score.expected is not None:
        text += f", expected {score.expected}: {score.verdict}"
    return text
