"""What a training minimises: the loss of its task, and a term that its config may add."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import jaxlstm as jl
from jaxlstm import config
from jaxlstm.tasks import Batch, Task
from jaxlstm.training.model import Model, Params

Objective = Callable[..., tuple[Array, dict[str, Array]]]
Term = Callable[[Params, Batch], Array]

# Tasks split the key of a batch, and the keys of a split are `fold_in` of 0, 1, 2, …
DROPPING = 2**31 - 1


def build(task: Task, network: Model, penalty: config.Penalty | None = None) -> Objective:
    """Build what an update differentiates.

    Args:
        task: where the loss comes from.
        network: the model.
        penalty: the `[penalty]` table; None for the loss alone.

    Returns:
        `(params, batch, step, key=None) -> (value, metrics)`: the metric `loss` is that of the task
        alone, `penalty` the term before it is multiplied by its weight. With the key of the batch a
        network with dropout drops; the term never does.
    """
    more = None if penalty is None else term(penalty, task, network)

    def objective(
        params: Params, batch: Batch, step: Array, key: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        ours = jax.random.fold_in(key, DROPPING) if network.dropout and key is not None else None
        outputs = network.apply(params, batch.inputs, batch.lengths, key=ours)
        loss, metrics = task.loss(outputs, batch)
        metrics: dict[str, Any] = {"loss": loss, **metrics}
        if penalty is None or more is None:
            return loss, metrics
        if penalty.steps is None:
            added = more(params, batch)
        else:
            now = step < penalty.steps
            added = lax.cond(now, more, lambda *_: jnp.zeros_like(loss), params, batch)
        share = jnp.where(step < penalty.alone_steps, 0, 1).astype(loss.dtype)
        return share * loss + penalty.weight * added, {**metrics, "penalty": added}

    return objective


def term(spec: config.Penalty, task: Task, network: Model) -> Term:
    """Build the term that a `[penalty]` table describes, not yet multiplied by its weight.

    Args:
        spec: the table.
        task: where the loss comes from, whose errors `norm` looks at.
        network: the model; its cell must be one that can be stepped.

    Returns:
        A function of the parameters and a batch: a scalar to be differentiated by the parameters.

    Examples:
        >>> import jax
        >>> from jaxlstm import tasks
        >>> from jaxlstm.training import model
        >>> task = tasks.build(config.Adding(length=10))
        >>> network = model.build(config.RNN(hidden_size=4), input_size=2, output_size=1,
        ...                       tokens=False, every_step=False)
        >>> measure = term(config.Flossing(count=2), task, network)
        >>> batch = task.sample(task.data, jax.random.key(0), 3)
        >>> measure(network.init(jax.random.key(1)), batch).shape
        ()
    """
    cell = network.cell

    def norm(params: Params, batch: Batch, exact: bool) -> Array:
        def loss(outputs: Array) -> Array:
            return task.loss(network.readout(params, outputs), batch)[0]

        hold, inputs = network.masked_outputs, network.encode(params, batch.inputs)
        options = {"lengths": batch.lengths, "masked_outputs": hold, "exact": exact}
        return jl.gradients.norm_penalty(cell, params.cell, inputs, loss, **options)

    def flossing(params: Params, batch: Batch, count: int, warmup: int) -> Array:
        inputs, key = network.encode(params, batch.inputs), jax.random.key(0)
        options = {"count": count, "warmup": warmup, "key": key}
        return jl.gradients.flossing(cell, params.cell, inputs, **options)

    match spec:
        case config.NormPenalty():
            return functools.partial(norm, exact=spec.exact)
        case config.Flossing():
            return functools.partial(flossing, count=spec.count, warmup=spec.warmup)
