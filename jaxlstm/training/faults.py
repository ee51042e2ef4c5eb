"""The operation whose result first was not a number, found by computing an update one by one."""

import traceback
from pathlib import Path
from typing import Any

import jax
from jax import Array

from jaxlstm.training.model import Params
from jaxlstm.training.objective import Objective

PACKAGES = (Path(jax.__file__).parent,)


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
