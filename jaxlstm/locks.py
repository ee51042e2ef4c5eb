"""One process at a time in a run folder: a lock that ends with the process that holds it.

The lock is the operating system's, on the file `.lock` in the folder, through filelock: a process
that is killed leaves none behind, and whoever only reads the folder needs none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from jaxlstm.errors import UserError

NAME = ".lock"
# Whoever looks whether a folder is in use holds its lock for a moment.
PATIENCE = 1.0


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Keep every other process out of a run folder, which is made where there is none.

    Args:
        folder: the run.

    Raises:
        UserError: when another process works in it, or it cannot be written.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with alone(folder):
        ...         in_use(folder)
        ...     in_use(folder)
        True
        False
    """
    path = Path(folder) / NAME
    lock = filelock.FileLock(path, timeout=PATIENCE, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"'{folder}' is in use by another process; wait until that has ended, or stop it"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write in '{folder}' ({error.strerror or error})") from None
    try:
        yield
    finally:
        lock.release()


def in_use(folder: str | Path) -> bool | None:
    """Whether a process works in a run folder; None where that cannot be found out."""
    path = Path(folder) / NAME
    lock = filelock.FileLock(path, blocking=False, thread_local=False)
    try:
        # Not even an empty file is made in a folder that is only looked at.
        if not path.exists():
            return False
        lock.acquire()
    except filelock.Timeout:
        return True
    except OSError:
        return _held(path)
    lock.release()
    return False


def _held(path: Path) -> bool | None:
    """Whether a file is locked that may only be read, for which filelock would have to write."""
    try:
        import fcntl  # there is none on Windows

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return None
    return False
