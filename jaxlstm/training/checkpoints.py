"""Checkpoints of whole trainings, with orbax: the one place that knows it.

orbax writes to `checkpoints/STEP.part`. The SHA-256 of every file there is put beside them, all is
brought to the disk, and only then is the folder given its name. Whenever the program is killed, or
the disk is full, the checkpoints before it are as they were; and a file that was damaged since is
found out before its numbers are believed.
"""

import contextlib
import errno
import gc
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxlstm import storage
from jaxlstm.errors import UserError, one_line
from jaxlstm.training import processes
from jaxlstm.training.model import Params
from jaxlstm.training.step import TrainState

T = TypeVar("T")
KEPT = 2
SUMS = "sha256.json"
LINGER = 0.1
"""Seconds in which threads of orbax's still report to it after it has given up."""


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

    Of several processes the lead writes, and all must call this: each may hold a part.

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
    part, before = path.with_suffix(".part"), path.with_suffix(".before")
    content = {"seconds": np.float64(seconds), "states": processes.whole(plain(states))}
    if not processes.lead():
        return path
    try:
        _clear(folder)
        # Orbax shall wait for no other process: this one writes and reads by itself.
        with _orbax(ocp.StandardCheckpointer(multiprocessing_options=_alone())) as checkpointer:
            checkpointer.save(part, content)
        storage.replace(part / SUMS, json.dumps(_sums(part), indent=1).encode())
        # The arrays are on the disk already, in folders `d`; what describes them is not.
        storage.to_disk(path for path in part.rglob("*") if path.parent.name != "d")
        if path.exists():
            path.rename(before)
        part.rename(path)
        storage.folder_to_disk(path.parent)
    # On a full disk what lies below orbax raises anything at all.
    except Exception as error:
        _clear(folder)
        raise UserError(f"cannot write the checkpoint '{path}' ({_reason(error)})") from None
    for old in [before, *_found(folder)[KEPT:]]:
        shutil.rmtree(old, ignore_errors=True)
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
    wanted = jax.eval_shape(plain, like)
    found = _readable(folder, lambda path: _read(path, wanted))
    if found is None:
        return None
    path, (states, seconds), skipped = found
    return Checkpoint(states, int(path.name), seconds, skipped)


def params(folder: str | Path, like: Sequence[Params]) -> list[Params] | None:
    """Read the parameters alone, of which a network is made, as `latest` reads the states."""
    content = {"states": [{"params": one} for one in like]}
    found = _readable(folder, lambda path: _restore(path, content)["states"])
    return None if found is None else [state["params"] for state in found[1]]


def _readable(folder: str | Path, read: Callable[[Path], T]) -> tuple[Path, T, list[Path]] | None:
    """The latest checkpoint that is whole and can be read, and those after it that cannot."""
    skipped = []
    for path in _found(folder):
        # A damaged file makes orbax and what lies below it raise anything at all.
        try:
            sums = path / SUMS
            if sums.exists() and json.loads(sums.read_bytes()) != _sums(path):
                raise ValueError(f"'{path}' is damaged")
            return path, read(path), skipped
        except Exception:
            skipped.append(path)
    if skipped:
        raise UserError(f"no checkpoint in '{_room(folder)}' can be read for this config")
    return None


def set_aside(path: Path) -> Path:
    """Rename a checkpoint that cannot be read: it is in nobody's way then, and not lost."""
    count, aside = 1, path.with_suffix(".damaged")
    while aside.exists():
        count, aside = count + 1, path.with_suffix(f".damaged-{count + 1}")
    with storage.writing(aside):
        return path.rename(aside)


def _read(path: Path, wanted: Sequence[TrainState]) -> tuple[list[TrainState], float]:
    """Read a checkpoint of any format version."""
    content = {"seconds": np.float64(0), "states": [state._asdict() for state in wanted]}
    if (path / SUMS).exists():
        found = _restore(path, content)
    else:  # version 1 had no hashes, and at first no stop rules
        try:
            found = _restore(path, content)
        except Exception:
            for state in content["states"]:
                del state["recent"], state["stopped"]
            found = _restore(path, content)
    begun = {"recent": None, "stopped": jnp.int32(-1)}
    states = [TrainState(**begun | state) for state in found["states"]]
    return typed(states), float(found["seconds"])


def _restore(path: Path, content: Any) -> Any:
    """Read what `content` names of a checkpoint, which may have more."""
    # The program that saved may have had more devices than this one has, or fewer.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

    wanted = jax.tree.map(placed, content)
    arguments = ocp.args.PyTreeRestore(
        wanted, ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
    )
    alone = _alone()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with _orbax(ocp.Checkpointer(handler, multiprocessing_options=alone)) as checkpointer:
        found = checkpointer.restore(path, arguments)
    freed = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), found["states"])
    return {**found, "states": freed}


def _alone() -> ocp.options.MultiprocessingOptions:
    """What makes orbax wait for no other process."""
    if not processes.several():
        return ocp.options.MultiprocessingOptions()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process-{me}"
    )


def _sums(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in storage.sums(folder).items() if name != SUMS}


@contextlib.contextmanager
def _orbax(checkpointer: ocp.Checkpointer) -> Iterator[ocp.Checkpointer]:
    """Let orbax work, and leave no word of what it leaves behind when it gives up: it raises."""
    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    before = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda _: None
    failed = None
    try:
        with checkpointer:
            yield checkpointer
    except Exception as error:
        # Its tasks complain when they are gone, and what was raised holds on to them.
        failed = error.with_traceback(None)
        failed.__cause__ = failed.__context__ = None
    finally:
        if failed:
            time.sleep(LINGER)
            gc.collect()
        for logger, level in zip(loggers, before[0], strict=True):
            logger.setLevel(level)
        sys.unraisablehook = before[1]
    if failed:
        raise failed


def _clear(folder: str | Path) -> None:
    """Remove what a save that was cut short has left; orbax adds to the name while it writes."""
    for left in _room(folder).glob("*.part*"):
        shutil.rmtree(left, ignore_errors=True)


def _reason(error: Exception) -> str:
    """What the system says of a failed write, through whatever wrapped it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = one_line(error)
    causes = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EIO)
    return next((said for said in map(os.strerror, causes) if said in text), text[:200])


def _room(folder: str | Path) -> Path:
    return Path(folder).absolute() / "checkpoints"


def _found(folder: str | Path) -> list[Path]:
    """The finished checkpoints, the latest first."""
    room = _room(folder)
    found = [path for path in room.iterdir() if path.name.isdigit()] if room.is_dir() else []
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def plain(states: Sequence[TrainState]) -> list[TrainState]:
    """Typed keys are written as the numbers behind them."""
    return [state._replace(key=jax.random.key_data(state.key)) for state in states]


def typed(states: Sequence[TrainState]) -> list[TrainState]:
    """Undo `plain`."""
    return [state._replace(key=jax.random.wrap_key_data(state.key)) for state in states]
