"""Several processes that train together, with `jax.distributed`.

All run the same program over one mesh of all their devices. The first of them, the lead, writes the
run folder; each of the others works in a folder of its own that is thrown away. What depends on one
process alone, a signal or a file that only one can read, is told to all before anybody acts on it.
"""

import contextlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxlstm.errors import UserError, one_line

PATIENCE = 30
"""Seconds without a sign of life after which a process counts as dead."""
AT_THE_END = 600
"""Seconds for which those that are done wait for the one that writes the report."""
WELL = b"."
"""What a process says that ends as it should."""


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Become one of several processes, before JAX's first computation.

    Args:
        coordinator: "HOST:PORT" of the first process; found in the environment of the cluster
            (SLURM, Open MPI, Kubernetes, TPU) if None, as the others are.
        processes: how many there are.
        process: which one this is, from 0.

    Raises:
        UserError: when the others cannot be found.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise UserError("--coordinator: expected --processes and --process-id with it")
    if processes is not None and not 0 <= (process or 0) < processes:
        raise UserError(f"--process-id: expected int in [0, {processes - 1}], got {process}")
    # JAX would take SIGTERM as news of a preemption, and no longer end on it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            heartbeat_timeout_seconds=PATIENCE,
            shutdown_timeout_seconds=AT_THE_END,
        )
    # What JAX and gRPC raise where there is nobody, or no cluster, has no common type.
    except Exception as error:
        reason = one_line(error)[:200]
        raise UserError(f"--distributed: cannot join the other processes ({reason})") from None


def several() -> bool:
    """Whether this process is one of several."""
    return jax.process_count() > 1


def lead() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


@contextlib.contextmanager
def folder_of(folder: str | Path) -> Iterator[Path]:
    """The folder in which this process works: the run's own for the lead."""
    if lead():
        yield Path(folder)
    else:
        with tempfile.TemporaryDirectory() as aside:
            yield Path(aside) / Path(folder).name


def any_of(flag: bool) -> bool:
    """Whether it holds for one of the processes; all get the same answer."""
    if not several():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def from_lead(tree: Any) -> Any:
    """What the lead has of a pytree of arrays, on the host; all must bring the same structure."""
    if not several():
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def whole(tree: Any) -> Any:
    """Bring a pytree of arrays, wherever their parts lie, to the host of every process."""

    def of(leaf: Any) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(of, tree)


@contextlib.contextmanager
def watched(coordinator: str | None, lost: Callable[[], None]) -> Iterator[None]:
    """Hear at once when another process dies, which JAX says after `PATIENCE`, and not kindly.

    Every process has a line to the lead. The system closes it when its process ends, however that
    was; one that ends well says so before.

    Args:
        coordinator: as for `join`; its host is where the others find the lead.
        lost: called, in a thread, when a process ends before it says so.
    """
    if not several():
        yield
        return
    lines = _lines(coordinator)
    ended = threading.Event()

    def listen(line: socket.socket) -> None:
        try:
            well = line.recv(1) == WELL
        except OSError:
            well = False
        if not well and not ended.is_set():
            lost()

    for line in lines:
        threading.Thread(target=listen, args=(line,), daemon=True).start()
    yield
    ended.set()
    for line in lines:
        with contextlib.suppress(OSError):
            line.sendall(WELL)


def _lines(coordinator: str | None) -> list[socket.socket]:
    """The lines of this process: to all others from the lead, to the lead from all others."""
    room, said = np.zeros(256, np.uint8), b""
    server = socket.create_server(("", 0)) if lead() else None
    if server:
        host = coordinator.rpartition(":")[0] if coordinator else socket.gethostname()
        said = f"{host} {server.getsockname()[1]}".encode()
        room[: len(said)] = np.frombuffer(said, np.uint8)
    host, _, port = bytes(from_lead(room)).rstrip(b"\0").decode().rpartition(" ")
    if server is None:
        line = socket.create_connection((host, int(port)), timeout=PATIENCE)
        line.settimeout(None)  # a line is silent for as long as the training takes
        return [line]
    server.settimeout(PATIENCE)
    with server:
        lines = [server.accept()[0] for _ in range(jax.process_count() - 1)]
    return lines


def leave(status: int) -> NoReturn:
    """End this process at once: the others may be gone, and would be waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
