"""What a training minimises: the loss of its task, and a term that its config may add."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import jaxlstm as jl
from jaxlstm import config
from jaxlstm.errors import UserError
from jaxlstm.tasks import Batch, Task
from jaxlstm.training.model import Model, Params

Objective = Callable[..., tuple[Array, dict[str, Array]]]
Loss = Callable[[Array], Array]
Term = Callable[[Params, Batch], dict[str, Array]]

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
        alone, `penalty` the term before it is multiplied by its weight; beside it flossing has
        `largest_exponent`, the largest size of the exponents that it pushes to zero. With the key
        of the batch a network with dropout drops; the term never does.
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
            nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(more, params, batch))
            added = lax.cond(now, more, lambda *_: nothing, params, batch)
        share = jnp.where(step < penalty.alone_steps, 0, 1).astype(loss.dtype)
        return share * loss + penalty.weight * added["penalty"], metrics | added

    return objective


def by_outputs(task: Task, network: Model, params: Params, batch: Batch) -> Loss:
    """Take the loss of a task as a function of the cell's outputs, as `jaxlstm.gradients` does."""
    return lambda outputs: task.loss(network.readout(params, outputs), batch)[0]


def term(spec: config.Penalty, task: Task, network: Model) -> Term:
    """Build the term that a `[penalty]` table describes, not yet multiplied by its weight.

    Args:
        spec: the table.
        task: where the loss comes from, whose errors `norm` looks at.
        network: the model; its cell must be one that can be stepped.

    Returns:
        A function of the parameters and a batch: metrics, of which `penalty` is the scalar to be
        differentiated by the parameters.

    Examples:
        >>> import jax
        >>> from jaxlstm import tasks
        >>> from jaxlstm.training import model
        >>> task = tasks.build(config.Adding(length=10))
        >>> network = model.build(config.RNN(hidden_size=4), input_size=2, output_size=1,
        ...                       tokens=False, every_step=False)
        >>> measure = term(config.Flossing(count=2), task, network)
        >>> batch = task.sample(task.data, jax.random.key(0), 3)
        >>> sorted(measure(network.init(jax.random.key(1)), batch))
        ['largest_exponent', 'penalty']
    """
    cell = network.cell

    def norm(params: Params, batch: Batch, exact: bool) -> dict[str, Array]:
        loss = by_outputs(task, network, params, batch)
        hold, inputs = network.masked_outputs, network.encode(params, batch.inputs)
        options = {"lengths": batch.lengths, "masked_outputs": hold, "exact": exact}
        value = jl.gradients.norm_penalty(cell, params.cell, inputs, loss, **options)
        return {"penalty": value}

    def flossing(params: Params, batch: Batch, spec: config.Flossing) -> dict[str, Array]:
        options: dict[str, Any] = {"count": spec.count, "warmup": spec.warmup}
        options |= {"key": jax.random.key(0), "blocks": 1}

        def exponents(inputs: Array) -> Array:
            spectrum = jl.gradients.lyapunov_spectrum(cell, params.cell, inputs, **options)
            return spectrum.exponents

        # What `jl.gradients.flossing` is the mean square of, which a report wants to see too.
        inputs = batch.inputs[: spec.sequences, : spec.length]
        if spec.warmup >= (steps := inputs.shape[1]):
            raise UserError(
                f"penalty.warmup: expected int < {steps}, the time steps, got {spec.warmup}"
            )
        found = jax.vmap(exponents)(network.encode(params, inputs))
        largest = jnp.max(jnp.abs(jnp.mean(found, axis=0)))
        return {"penalty": jnp.mean(found**2), "largest_exponent": largest}

    match spec:
        case config.NormPenalty():
            return functools.partial(norm, exact=spec.exact)
        case config.Flossing():
            return functools.partial(flossing, spec=spec)
