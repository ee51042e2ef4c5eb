"""Tasks: one file each. What a batch is, what the loss is, and what solved means."""

from collections.abc import Callable
from typing import Any

from jaxlstm import config
from jaxlstm.tasks import (
    adding,
    characters,
    copy_memory,
    counting,
    delayed_xor,
    digits,
    forecast,
    moving_digits,
    music,
    reber,
    temporal_order,
    vowels,
)
from jaxlstm.tasks.base import Batch as Batch
from jaxlstm.tasks.base import Goal as Goal
from jaxlstm.tasks.base import Task as Task

BUILDERS: dict[type, Callable[[Any], Task]] = {
    config.Adding: adding.build,
    config.CopyMemory: copy_memory.build,
    config.TemporalOrder: temporal_order.build,
    config.Characters: characters.build,
    config.JapaneseVowels: vowels.build,
    config.Forecast: forecast.build,
    config.Counting: counting.build,
    config.DelayedXOR: delayed_xor.build,
    config.Digits: digits.build,
    config.MovingDigits: moving_digits.build,
    config.Music: music.build,
    config.Reber: reber.build,
}
"""What builds the task of each config."""


def build(task_config: Any) -> Task:
    """Build the task that a config describes, fetching its data when it has any.

    Args:
        task_config: one of the tasks of `jaxlstm.config`, such as `Adding`.

    Returns:
        The task.

    Raises:
        UserError: when the data are missing, malformed or cannot be fetched.
        TypeError: when it is no task config.

    Examples:
        >>> from jaxlstm.config import Adding
        >>> task = build(Adding(length=10))
        >>> task.name, str(task.goal)
        ('adding, 10 steps', '< 0.01')
    """
    builder = BUILDERS.get(type(task_config))
    if builder is None:
        expected = ", ".join(kind.__name__ for kind in BUILDERS)
        raise TypeError(f"`task_config` must be one of {expected}, got {task_config!r}")
    return builder(task_config)
