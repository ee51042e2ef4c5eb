"""The summary of a training: means over seeds with their intervals, and the verdict."""

import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec
from scipy import special

from jaxlstm import config
from jaxlstm.errors import UserError
from jaxlstm.runs import Score, finite
from jaxlstm.tasks import Goal, Task


def resolve(goal: config.Goal | None, task: Task) -> Goal:
    """Take the goal of a config, with the task's own where it says nothing.

    Args:
        goal: the `[goal]` table, or None.
        task: the task.

    Returns:
        The goal.

    Raises:
        UserError: when the task has no such set or metric.
    """
    if goal is None:
        return task.goal
    split, metric = goal.split or task.goal.split, goal.metric or task.goal.metric
    if split not in task.evaluation:
        known = ", ".join(task.evaluation)
        raise UserError(f"goal.split: expected one of {known}, got {split!r}")
    return Goal(split, metric, goal.below, goal.above, goal.seeds)


def summary(scores: Mapping[str, Mapping[str, Sequence[float]]], goal: Goal) -> list[Score]:
    """Sum up the scores at the end of a training.

    Args:
        scores: for each evaluation set and metric one value for each seed.
        goal: what was to be reached.

    Returns:
        One `Score` for each set and metric, that of the goal first.

    Examples:
        >>> from jaxlstm.tasks import Goal
        >>> scores = {"test": {"mse": [0.01, 0.02, 0.2]}}
        >>> score, = summary(scores, Goal("test", "mse", below=0.1))
        >>> score.verdict, score.expected, round(score.mean, 3)
        ('met', 'median < 0.1', 0.077)
        >>> summary(scores, Goal("test", "mse", below=0.1, seeds="every"))[0].verdict
        'missed'
    """
    found = []
    for split, metrics in scores.items():
        for metric, values in metrics.items():
            score = _score(f"{split} {metric}", values)
            if (split, metric) != (goal.split, goal.metric):
                found.append(score)
                continue
            expected = str(goal) if len(values) == 1 else f"{_word(goal)} {goal}"
            if goal.seeds == "every":
                met = all(goal.met(value) for value in values)
            else:
                met = not any(map(math.isnan, values)) and goal.met(statistics.median(values))
            verdict = "met" if met else "missed"
            judged = msgspec.structs.replace(score, expected=expected, verdict=verdict)
            found.insert(0, judged)
    return found


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Give the 95 % interval of the mean by Student's t; None for fewer than two values.

        mean ± t₀.₉₇₅(n − 1) · s / √n

    Examples:
        >>> low, high = interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    quantile = float(special.stdtrit(len(values) - 1, 0.975))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def _score(metric: str, values: Sequence[float]) -> Score:
    low, high = interval(values) or (None, None)
    given, mean = list(map(finite, values)), finite(statistics.fmean(values))
    return Score(metric, given, mean, low, high)


def _word(goal: Goal) -> str:
    return "every seed" if goal.seeds == "every" else "median"
