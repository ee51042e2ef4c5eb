"""Where the runs of a sweep are tried: on the cores of this machine, or on a cluster of Dask.

Both take a job and give a future, as `concurrent.futures` has them; who gets which job when is
theirs alone.
"""

import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import jaxlstm
from jaxlstm.errors import UserError
from jaxlstm.sweeps.tries import Job, Outcome, Slot, attempt

PATIENCE = 10
"""How long a scheduler may take to answer, in seconds."""


class Engine(Protocol):
    """What takes jobs."""

    def submit(self, job: Job) -> Future[Outcome]:
        """Try a job when a worker is free."""
        ...


class _Here:
    def __init__(self, slots: list[Slot]) -> None:
        self._pool = ThreadPoolExecutor(len(slots), thread_name_prefix="sweep")
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)

    def submit(self, job: Job) -> Future[Outcome]:
        return self._pool.submit(self._attempt, job)

    def close(self) -> None:
        self._pool.shutdown()

    def _attempt(self, job: Job) -> Outcome:
        slot = self._slots.get()
        try:
            return attempt(job, slot)
        finally:
            self._slots.put(slot)


@contextmanager
def here(slots: list[Slot]) -> Iterator[Engine]:
    """Try jobs on this machine, as many at a time as there are slots."""
    engine = _Here(slots)
    try:
        yield engine
    finally:
        engine.close()


class _Cluster:
    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def submit(self, job: Job) -> Future[Outcome]:
        return self._executor.submit(attempt, job)


@contextmanager
def cluster(address: str, folder: Path) -> Iterator[Engine]:
    """Try jobs on the workers of a Dask cluster, one for each of their threads.

    Dask gives a job whose worker is lost to another by itself.

    Args:
        address: of its scheduler, such as "tcp://10.0.0.5:8786".
        folder: the working folder, which every worker must see.

    Raises:
        UserError: when there is no such scheduler, or a worker cannot take part.
    """
    try:
        import distributed
    except ImportError:
        raise UserError(
            "--scheduler: expected the package `distributed`: pip install distributed"
        ) from None
    try:
        client = distributed.Client(address, timeout=PATIENCE)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--scheduler: no scheduler of Dask at '{address}' ({error})") from None
    with client:
        answers: Any = client.run(_seen, str(folder))
        for worker, found in answers.items():
            if found != _seen(str(folder)):
                raise UserError(f"--scheduler: worker {worker} {_lacks(found, folder)}")
        # Not pure: the same job is another try.
        yield _Cluster(client.get_executor(pure=False))


def _seen(folder: str) -> tuple[str, bool]:
    """What a worker has: the version, and whether it sees the folder."""
    return jaxlstm.__version__, os.path.isdir(folder)


def _lacks(found: tuple[str, bool], folder: Path) -> str:
    version, _ = found
    if version != jaxlstm.__version__:
        return f"has jaxlstm {version}, expected {jaxlstm.__version__} as here"
    return f"does not see the folder '{folder}': expected one that all machines share"


def slots(workers: int | None = None, cores: Sequence[int] | None = None) -> list[Slot]:
    """Share the cores of a machine out among workers.

    Args:
        workers: how many; one for each core if None.
        cores: their numbers; those that this process may use if None.

    Returns:
        A slot for each worker. Workers beyond the cores share them.

    Examples:
        >>> [slot.cores for slot in slots(2, [0, 1, 2, 3, 4])]
        [(0, 2, 4), (1, 3)]
        >>> [slot.cores for slot in slots(3, [0, 1])]
        [(0,), (1,), (0,)]
    """
    cores = _cores() if cores is None else cores
    count = workers or len(cores) or os.cpu_count() or 1
    if not cores:
        return [Slot() for _ in range(count)]
    return [Slot(tuple(cores[i % len(cores) :: count])) for i in range(count)]


def _cores() -> list[int]:
    """The cores that this process may use; none where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return []
