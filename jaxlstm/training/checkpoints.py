"""Checkpoints of whole trainings, with orbax: the one place that knows it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxlstm.errors import UserError
from jaxlstm.training.step import TrainState

KEPT = 2


class Checkpoint(NamedTuple):
    """A training at rest.

    Args:
        states: the state of each seed.
        step: the updates done; a seed that stopped by itself has done fewer.
        seconds: how long it has run.
        skipped: checkpoints that were later but could not be read.
    """

    states: list[TrainState]
    step: int
    seconds: float
    skipped: list[Path]


def save(folder: str | Path, step: int, states: Sequence[TrainState], seconds: float) -> Path:
    """Save a training to `checkpoints/STEP`, whole or not at all, and keep the latest two.

    Args:
        folder: the run.
        step: the updates done.
        states: the state of each seed.
        seconds: how long the training has run.

    Returns:
        The path of the checkpoint.

    Raises:
        UserError: when it cannot be written.
    """
    path = _room(folder) / f"{step:09d}"
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            content = {"seconds": np.float64(seconds), "states": _plain(states)}
            checkpointer.save(path, content, force=True)
        for old in _found(folder)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write the checkpoint '{path}' ({error.strerror})") from None
    return path


def latest(folder: str | Path, like: Sequence[TrainState]) -> Checkpoint | None:
    """Read the latest checkpoint that can be read.

    Args:
        folder: the run.
        like: states of the same structure, or their shapes and types.

    Returns:
        The checkpoint; None where none was ever written.

    Raises:
        UserError: when there are checkpoints but none can be read.
    """
    skipped = []
    abstract = {"seconds": np.float64(0), "states": jax.eval_shape(_plain, like)}
    for path in _found(folder):
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                plain = checkpointer.restore(path, abstract)
        # A damaged file makes orbax and what lies below it raise anything at all.
        except Exception:
            skipped.append(path)
            continue
        states = [
            state._replace(key=jax.random.wrap_key_data(state.key)) for state in plain["states"]
        ]
        return Checkpoint(states, int(path.name), float(plain["seconds"]), skipped)
    if skipped:
        raise UserError(f"no checkpoint in '{_room(folder)}' can be read for this config")
    return None


def _room(folder: str | Path) -> Path:
    return Path(folder).absolute() / "checkpoints"


def _found(folder: str | Path) -> list[Path]:
    """The finished checkpoints, the latest first; orbax renames a folder when it is whole."""
    room = _room(folder)
    found = [path for path in room.iterdir() if path.name.isdigit()] if room.is_dir() else []
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _plain(states: Sequence[TrainState]) -> list[TrainState]:
    """Typed keys are written as the numbers behind them."""
    return [state._replace(key=jax.random.key_data(state.key)) for state in states]
