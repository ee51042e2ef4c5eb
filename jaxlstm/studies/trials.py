"""Small trainings inside a study: many seeds at once, in one compiled program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

import jaxlstm as jl
from jaxlstm import config
from jaxlstm.tasks import Task
from jaxlstm.training import objective
from jaxlstm.training.model import Model, Params, begun


class Trial(NamedTuple):
    """What trainings gave, the seeds leading.

    Args:
        stages: the parameters, leaves [seeds, stages + 1, …]: before the first update, and after
            each of so many equal stretches of updates.
        losses: [seeds, updates], of the task alone, each on its own batch.
    """

    stages: Params
    losses: Array

    @property
    def first(self) -> Params:
        """The parameters before the first update."""
        return jax.tree.map(lambda leaf: leaf[:, 0], self.stages)

    @property
    def last(self) -> Params:
        """The parameters after the last update."""
        return jax.tree.map(lambda leaf: leaf[:, -1], self.stages)


def network(cell: jl.Cell, task: Task) -> Model:
    """A cell and a linear readout for a task; symbols come in one-hot."""
    shape = (jl.output_shape(cell)[-1], task.output_size)

    def init(key: Array) -> Params:
        return Params(None, *begun(cell, jax.random.split(key), shape))

    def encode(params: Params, inputs: Array) -> Array:
        return jax.nn.one_hot(inputs, task.input_size) if task.tokens else inputs

    return Model(cell, init, encode, task.every_step)


def clipped_adam(rate: float) -> optax.GradientTransformation:
    """Adam, the gradient clipped to a norm of 1 before it."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def train(
    model: Model,
    task: Task,
    keys: Array,
    *,
    optimizer: optax.GradientTransformation,
    updates: int,
    batch_size: int,
    stages: int = 1,
    penalty: config.Penalty | None = None,
    begin: Callable[[Params, Any], Params] | None = None,
    settings: Any = None,
) -> Trial:
    """Train a network once for each key.

    Args:
        model: the network.
        task: what it learns; update t of a seed draws its batch from `fold_in(key, t)`.
        keys: [seeds] random keys.
        optimizer: an optax transformation.
        updates: how many.
        batch_size: sequences in a batch.
        stages: how often the parameters are kept; it divides the number of updates.
        penalty: a term added to the loss.
        begin: `begin(params, setting)` changes the parameters before the first update.
        settings: a pytree whose leaves lead with [seeds], one setting for each key.

    Returns:
        A `Trial`. A network whose numbers stop being finite ends with parameters that are not.
    """
    total = objective.build(task, model, penalty)

    def one(key: Array, setting: Any) -> tuple[Params, Array]:
        k_init, _, k_data = jax.random.split(key, 3)
        first: Any = model.init(k_init)
        if begin is not None:
            first = begin(first, setting)

        def update(state: Any, step: Array) -> tuple[Any, Array]:
            now, memory = state
            batch = task.sample(task.data, jax.random.fold_in(k_data, step), batch_size)
            gradient, measured = jax.grad(total, has_aux=True)(now, batch, step)
            change, memory = optimizer.update(gradient, memory, now)
            params: Any = optax.apply_updates(now, change)
            return (params, memory), measured["loss"]

        def stage(state: Any, steps: Array) -> tuple[Any, Any]:
            state, losses = lax.scan(update, state, steps)
            return state, (state[0], losses)

        state = (first, optimizer.init(first))
        _, (kept, losses) = lax.scan(stage, state, jnp.arange(updates).reshape(stages, -1))
        kept = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, kept)
        return kept, losses.ravel()

    return Trial(*jax.jit(jax.vmap(one))(keys, settings))


def score(model: Model, task: Task, params: Params) -> dict[str, Array]:
    """The metrics of the networks on the task's validation set, [seeds] each."""
    batch = task.evaluation["validation"]

    def one(params: Params) -> dict[str, Array]:
        return task.loss(model.apply(params, batch.inputs, batch.lengths), batch)[1]

    return jax.jit(jax.vmap(one))(params)
