"""What the command line says, and how."""

import io
import os
import sys
from pathlib import Path
from typing import Any

from jaxlstm import runs
from jaxlstm.errors import UserError

STATUS = {"interrupted": 130, "failed": 1}
"""The exit status of a run by its state; 0 for any other."""


def speak() -> None:
    """Let every character be printed somehow, also where there is no output at all."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell's `>&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Print a line; nothing more where the reader has gone, as `head` does.

    Raises:
        UserError: when it cannot be written.
    """
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError as error:
        # What is still to be written would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise UserError(f"cannot write the output ({error.strerror})") from None


def complain(line: str) -> None:
    """Print what went wrong, on one line of stderr."""
    sys.stderr.write(f"jaxlstm: {' '.join(line.split())}\n")


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
