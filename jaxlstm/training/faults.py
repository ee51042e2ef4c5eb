"""Where numbers stopped being finite: the seed, the update, the place and the operation."""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.training import objective, tracing
from jaxlstm.training.model import Params
from jaxlstm.training.objective import Objective
from jaxlstm.training.prepare import Training
from jaxlstm.training.step import TrainState

PACKAGES = (Path(jax.__file__).parent,)


def first(states: Sequence[TrainState]) -> tuple[int, int] | None:
    """Find which seed met the first update that was not finite, and its number; None without."""
    found = [(int(state.fault), index) for index, state in enumerate(states)]
    faults = sorted((at, index) for at, index in found if at >= 0)
    return (faults[0][1], faults[0][0]) if faults else None


def told(training: Training, index: int, state: TrainState, at: int, *, debug_nans: bool) -> str:
    """Say in a line where an update broke.

    Args:
        training: whose update it is.
        index: which of its seeds.
        state: that seed before the update.
        at: the number of the update.
        debug_nans: find the operation too.
    """
    experiment, task, network = training.experiment, training.task, training.network
    key = jax.random.fold_in(state.key, at)
    batch = task.sample(task.data, key, experiment.train.batch_size)
    place = tracing.trace(task, network, state.params, batch)
    if debug_nans:
        total = objective.build(task, network, experiment.penalty)
        made = operation(total, state.params, batch, jnp.int32(at), key)
        place += f", by the operation: {made or 'none when it is not compiled'}"
    return (
        f"the loss or its gradient was not finite at step {at + 1} of seed "
        f"{experiment.seed_list[index]}, first {place}; a smaller optimizer.learning_rate or "
        "an optimizer.clip_norm may help"
    )


def operation(total: Objective, params: Params, batch: Any, step: Array, key: Array) -> str | None:
    """Compute a loss and its gradient without compiling, and stop at the first NaN, or infinity.

    Args:
        total: what an update differentiates, from `objective.build`.
        params: the parameters before the update.
        batch: its batch.
        step: int32, its number.
        key: its key.

    Returns:
        For instance "nan in sqrt at jaxlstm/training/model.py:90 (readout)"; None where the update
        done this way has none.

    Examples:
        >>> import jax.numpy as jnp
        >>> loss = lambda params, *_: (jnp.sum(jnp.log(params)), {})
        >>> operation(loss, jnp.array([1.0, -1.0]), None, 0, None).split(" at ")[0]
        'nan in log'
        >>> operation(loss, jnp.array([1.0, 2.0]), None, 0, None)
    """
    for nans in (True, False):
        with jax.disable_jit(), jax.debug_nans(nans), jax.debug_infs(not nans):
            try:
                jax.value_and_grad(total, has_aux=True)(params, batch, step, key)
            except FloatingPointError as error:
                return f"{'nan' if nans else 'infinity'} in {_name(error)} {_place(error)}"
    return None


def _name(error: FloatingPointError) -> str:
    """The operation that a message of JAX's ends with."""
    return str(error).splitlines()[0].rstrip(".").split()[-1].strip("`'\"")


def _place(error: FloatingPointError) -> str:
    """The innermost line outside JAX."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(package) for package in PACKAGES)
    ]
    frame = frames[-1]
    if Path(frame.filename) == Path(__file__):
        return "in the backward pass"
    path = Path(frame.filename)
    root = Path(__file__).parents[2]
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return f"at {shown.as_posix()}:{frame.lineno} ({frame.name})"
