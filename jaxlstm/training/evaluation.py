"""Scores on a fixed set, in portions that fit into memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.tasks import Batch, Task
from jaxlstm.training.model import Model, Params

PORTION = 100_000
"""The steps, over all sequences, that are worked on at once."""


def build(task: Task, model: Model) -> Callable[[Params, Batch], dict[str, Array]]:
    """Build `evaluate(params, batch) -> metrics`, a pure function for `jax.jit`.

    The loss and metrics of a task are means over the sequences, so those of a large set are the
    weighted means of its portions. Where sequences of different lengths have an output for every
    step that does not hold, and the set is taken as a whole.

    Args:
        task: the loss and the metrics.
        model: the network.

    Returns:
        The function; its result holds "loss" and the metrics of the task.
    """

    def score(params: Params, batch: Batch) -> dict[str, Array]:
        outputs = model.apply(params, batch.inputs, batch.lengths)
        loss, metrics = task.loss(outputs, batch)
        return {"loss": loss, **metrics}

    def evaluate(params: Params, batch: Batch) -> dict[str, Array]:
        size, steps = batch.inputs.shape[:2]
        portion = max(1, PORTION // max(steps, 1))
        if size <= portion or (task.every_step and batch.lengths is not None):
            return score(params, batch)
        portion = -(-size // -(-size // portion))
        whole = size // portion
        first, rest = _split(batch, whole * portion)
        portions = jax.tree.map(lambda a: a.reshape(whole, portion, *a.shape[1:]), first)
        scores = lax.map(lambda part: score(params, part), portions)
        mean = jax.tree.map(lambda values: jnp.mean(values), scores)
        if whole * portion == size:
            return mean
        share = (size - whole * portion) / size
        return jax.tree.map(lambda m, r: (1 - share) * m + share * r, mean, score(params, rest))

    return evaluate


def _split(batch: Batch, at: int) -> tuple[Any, Any]:
    return jax.tree.map(lambda a: a[:at], batch), jax.tree.map(lambda a: a[at:], batch)
