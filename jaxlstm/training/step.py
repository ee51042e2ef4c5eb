"""One update of one seed, and many of them in one dispatch."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxlstm import config
from jaxlstm.errors import UserError
from jaxlstm.tasks import Task
from jaxlstm.training import objective
from jaxlstm.training.model import Model


class Recent(NamedTuple):
    """The last updates of a seed, as a `Streak` looks at them.

    Args:
        values: [window] float32, of the metric, in a ring: update t stands at t mod window.
        right: int32, how many updates in a row were right.
    """

    values: Array
    right: Array


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
        recent: what a stop rule over the last updates remembers, `Recent`; None without one.
        stopped: int32, the updates after which the stop rule held, or −1; nothing changes then.
    """

    params: Any
    opt_state: Any
    step: Array
    key: Array
    sums: dict[str, Array]
    fault: Array
    recent: Recent | None
    stopped: Array


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
    stop: config.Stop | None = None,
    skip: bool = False,
) -> Update:
    """Build the update of a task, a network and an optimiser.

    Args:
        task: where batches and the loss come from.
        model: the network.
        optimizer: an optax transformation.
        batch_size: sequences of an update.
        log_every: the updates over which metrics are summed.
        penalty: a term added to the loss; the metric `loss` stays that of the task alone.
        stop: when a seed is done; None for never.
        skip: leave an update out whose loss or gradient is not finite, and count it in `skipped`.

    Returns:
        The functions, to be jitted and mapped over seeds by the caller.

    Raises:
        UserError: when the stop rule names a metric that the training has not, at `init`.
    """
    total = objective.build(task, model, penalty)
    streak = stop if isinstance(stop, config.Streak) else None

    def update(state: TrainState, data: Any) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        batch = task.sample(data, key, batch_size)
        gradient: Any
        (value, measured), gradient = jax.value_and_grad(total, has_aux=True)(
            state.params, batch, state.step, key
        )
        change, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, change)
        for name, tree in (("gradient", gradient), ("parameter", params), ("update", change)):
            measured |= norms(f"{name}_norm", tree)
        finite = jnp.isfinite(value) & jnp.isfinite(measured["gradient_norm"])
        if skip:
            kept = state.params, state.opt_state
            params, opt_state = _choose(finite, (params, opt_state), kept)
            measured = {name: jnp.where(finite, value, 0) for name, value in measured.items()}
            measured["skipped"] = 1 - finite.astype(jnp.float32)
            return state._replace(params=params, opt_state=opt_state), measured
        fault = jnp.where((state.fault < 0) & ~finite, state.step, state.fault)
        state = state._replace(params=params, opt_state=opt_state, fault=fault)
        return state, measured

    def counted(state: TrainState, data: Any) -> TrainState:
        begins = state.step % log_every == 0
        new, measured = update(state, data)
        sums = {
            name: jnp.where(begins, 0, state.sums[name]) + value.astype(jnp.float32)
            for name, value in measured.items()
        }
        new = new._replace(step=state.step + 1, sums=sums)
        if streak is None or state.recent is None:
            return new
        if skip:  # what was not learnt from was not good enough either
            left_out = measured["skipped"] > 0
            measured = {name: jnp.where(left_out, jnp.inf, v) for name, v in measured.items()}
        recent = _remember(streak, state.recent, state.step, measured)
        stopped = jnp.where(_enough(streak, recent), new.step, -1)
        return new._replace(recent=recent, stopped=stopped)

    def init(key: Array, data: Any) -> TrainState:
        k_params, k_data = jax.random.split(key)
        params = model.init(k_params)
        zero = jnp.zeros((), jnp.int32)
        recent = None if streak is None else Recent(jnp.zeros(streak.window), zero)
        state = TrainState(
            params, optimizer.init(params), zero, k_data, {}, zero - 1, recent, zero - 1
        )
        _, measured = jax.eval_shape(update, state, data)
        for key_, name in (("metric", streak.metric), ("right", streak.right)) if streak else ():
            if name is not None and name not in measured:
                known = ", ".join(sorted(n for n in measured if "." not in n))
                raise UserError(f"train.stop.{key_}: expected one of {known}, got {name!r}")
        return state._replace(sums={name: jnp.zeros(()) for name in measured})

    def advance(state: TrainState, data: Any, steps: Array) -> TrainState:
        until = state.step + steps

        def going(state: TrainState) -> Array:
            return (state.step < until) & (state.stopped < 0)

        # Under vmap a condition of its own for each seed makes every update a choice: only
        # where seeds stop by themselves is that worth it.
        if stop is None:
            return lax.fori_loop(0, steps, lambda _, state: counted(state, data), state)
        return lax.while_loop(going, lambda state: counted(state, data), state)

    return Update(init, advance)


def _choose(which: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), one, other)


def _remember(
    stop: config.Streak, recent: Recent, step: Array, measured: dict[str, Array]
) -> Recent:
    """Put the metrics of an update in the place of those a window before."""
    value = measured[stop.metric].astype(jnp.float32)
    right = measured[stop.right] == 0 if stop.right else True
    return Recent(
        lax.dynamic_update_index_in_dim(recent.values, value, step % stop.window, 0),
        jnp.where(right, recent.right + 1, 0),
    )


def _enough(stop: config.Streak, recent: Recent) -> Array:
    """Whether the last `window` updates were all right, and their mean is below the bound."""
    return (recent.right >= stop.window) & (jnp.mean(recent.values) < stop.below)


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
    """Read the means of the metrics since the last multiple of `log_every` before this step.

    `skipped`, where it is counted, is the number of updates that no other metric takes in.
    """
    step, sums = jax.device_get((state.step, state.sums))
    done = (int(step) - 1) % log_every + 1
    skipped = {name: float(value) for name, value in sums.items() if name == "skipped"}
    made = done - skipped.get("skipped", 0)
    means = {name: float(value) / made if made else math.nan for name, value in sums.items()}
    return means | skipped
