"""What the command line says, and how."""

import sys

from jaxlstm import runs

STATUS = {"interrupted": 130, "failed": 1}
"""The exit status of a run by its state; 0 for any other."""


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print what went wrong, on one line of stderr."""
    sys.stderr.write(f"jaxlstm: {' '.join(line.split())}\n")


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
