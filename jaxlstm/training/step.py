"""One update of one seed, and many of them in one dispatch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxlstm import config
from jaxlstm.tasks import Task
from jaxlstm.training import objective
from jaxlstm.training.model import Model


class TrainState(NamedTuple):
    """All that the rest of a training depends on: saved and read again, it goes on bit for bit.

    Args:
        params: the parameters, `Params`.
        opt_state: the state of the optimiser.
        step: int32, the updates done.
        key: where the batches come from: update t draws its batch from `fold_in(key, t)`, so that
            the order of the data depends on the seed and on nothing else.
        sums: the sums of the metrics since the last multiple of `log_every`. They travel in the
            state, so that they do not depend on where a dispatch or a sitting ended.
        fault: int32, the first update whose loss or gradient was not finite, or −1.
    """

    params: Any
    opt_state: Any
    step: Array
    key: Array
    sums: dict[str, Array]
    fault: Array


class Update(NamedTuple):
    """The two functions of a training.

    Args:
        init: `init(key, data) -> TrainState`.
        advance: `advance(state, data, steps) -> TrainState`: `steps` updates, an int32 that is not
            static, so that one program serves dispatches of every length.
    """

    init: Callable[[Array, Any], TrainState]
    advance: Callable[[TrainState, Any, Array], TrainState]


def build(
    task: Task,
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    log_every: int,
    penalty: config.Penalty | None = None,
) -> Update:
    """Build the update of a task, a network and an optimiser.

    Args:
        task: where batches and the loss come from.
        model: the network.
        optimizer: an optax transformation.
        batch_size: sequences of an update.
        log_every: the updates over which metrics are summed.
        penalty: a term added to the loss; the metric `loss` stays that of the task alone.

    Returns:
        The functions, to be jitted and mapped over seeds by the caller.
    """
    total = objective.build(task, model, penalty)

    def update(state: TrainState, data: Any) -> tuple[TrainState, dict[str, Array]]:
        batch = task.sample(data, jax.random.fold_in(state.key, state.step), batch_size)
        gradient: Any
        (value, measured), gradient = jax.value_and_grad(total, has_aux=True)(
            state.params, batch, state.step
        )
        change, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, change)
        for name, tree in (("gradient", gradient), ("parameter", params), ("update", change)):
            measured |= norms(f"{name}_norm", tree)
        finite = jnp.isfinite(value) & jnp.isfinite(measured["gradient_norm"])
        fault = jnp.where((state.fault < 0) & ~finite, state.step, state.fault)
        state = state._replace(params=params, opt_state=opt_state, fault=fault)
        return state, measured

    def body(_: Array, carried: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
        state, data = carried
        begins = state.step % log_every == 0
        new, measured = update(state, data)
        sums = {
            name: jnp.where(begins, 0, state.sums[name]) + value.astype(jnp.float32)
            for name, value in measured.items()
        }
        return new._replace(step=state.step + 1, sums=sums), data

    def init(key: Array, data: Any) -> TrainState:
        k_params, k_data = jax.random.split(key)
        params = model.init(k_params)
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(params, optimizer.init(params), zero, k_data, {}, zero - 1)
        _, measured = jax.eval_shape(update, state, data)
        return state._replace(sums={name: jnp.zeros(()) for name in measured})

    def advance(state: TrainState, data: Any, steps: Array) -> TrainState:
        return lax.fori_loop(0, steps, body, (state, data))[0]

    return Update(init, advance)


def norms(name: str, tree: Any) -> dict[str, Array]:
    """Take the Euclidean norm of a whole pytree, and of each leaf under its path.

    Examples:
        >>> import jax.numpy as jnp
        >>> found = norms("norm", {"a": jnp.array([3.0]), "b": jnp.array([4.0])})
        >>> {name: float(value) for name, value in found.items()}
        {'norm': 5.0, 'norm.a': 3.0, 'norm.b': 4.0}
    """
    squares = {
        jax.tree_util.keystr(path, simple=True, separator="."): jnp.sum(jnp.square(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    total = jnp.sqrt(sum(squares.values(), jnp.zeros(())))
    return {name: total} | {f"{name}.{leaf}": jnp.sqrt(s) for leaf, s in squares.items()}


def mean_metrics(state: TrainState, log_every: int) -> dict[str, float]:
    """Read the means of the metrics since the last multiple of `log_every` before this step."""
    step, sums = jax.device_get((state.step, state.sums))
    done = (int(step) - 1) % log_every + 1
    return {name: float(value) / done for name, value in sums.items()}
