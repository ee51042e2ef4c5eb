"""Files that are whole or not there, lines that are whole or not read, what is on the disk."""

import contextlib
import errno
import gzip
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from jaxlstm.errors import UserError

LARGEST_FILE = 2**29
"""The largest file that is read, in bytes: what is made of it in memory is many times that."""


def read(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """Read a file that a user named, and nothing that never ends: no device, no pipe.

    Raises:
        OSError: when there is no such file, it is none, or it is too large.
        ValueError: when a file cannot have such a name.
    """
    # A pipe that nobody writes to would be waited for without O_NONBLOCK.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        # Some files, of the system's own, say that they are empty and are not.
        content = file.read(largest + 1) if found.st_size <= largest else b""
    if max(found.st_size, len(content)) > largest:
        raise OSError(errno.EFBIG, f"more than {largest} bytes")
    return content


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, or of all files in a folder with their names.

    Raises:
        UserError: when one cannot be read.
    """
    with reading(f"task.path: cannot read '{path}'"):
        root = Path(path).expanduser()
        if root.is_dir():
            return hashlib.sha256(msgspec.json.encode(sums(root))).hexdigest()
        return _sum(root)


def sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder, by its path there, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sum(path) for path in files}


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unzip(content: bytes, largest: int = LARGEST_FILE) -> bytes:
    """Unpack gzip, and no more of it than a file may have: a few bytes may stand for very many.

    Raises:
        OSError: when it is no gzip, or more than that.
        EOFError: when it is cut short.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        unpacked = file.read(largest + 1)
    if len(unpacked) > largest:
        raise OSError(errno.EFBIG, f"more than {largest} bytes in it")
    return unpacked


def read_text(path: str) -> str:
    r"""Read a UTF-8 text file that a user named with `task.path`; every line ends with `\n`.

    Raises:
        UserError: when it is missing, no file, too large, unreadable or not UTF-8.
    """
    with reading(f"task.path: cannot read '{path}' as a text file"):
        content = read(Path(path).expanduser())
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"task.path: expected UTF-8 text, got byte 0x{error.object[error.start]:02x} at offset "
            f"{error.start} of '{path}'; save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def replace(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all, and wait until it is on the disk.

    Raises:
        UserError: when it cannot be written, as all functions here that write; what was there
            before is still there then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            folder_to_disk(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def append(path: Path, line: bytes) -> None:
    """Append a line in one write; where only a part of it fits on the disk, none of it stays."""
    with writing(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(before)
            raise


def records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Read a JSONL file whose objects have an int `step`: each line, and what it says.

    A last line that was cut short by the end of a process is left out; a missing file is empty.

    Raises:
        UserError: when another line is no such object, or the file cannot be read.
    """
    with reading(f"cannot read '{path}'"):
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if number != len(lines):
                raise UserError(f"'{path}', line {number}: expected a JSON object") from None
            continue
        if type(record.get("step")) is not int:
            raise UserError(f"'{path}', line {number}: expected an object with an int `step`")
        yield line, record


@contextmanager
def reading(what: str) -> Iterator[None]:
    """A file that cannot be found, read or unpacked is the user's to know: `what`, and why."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, EOFError, zlib.error) as error:
        raise UserError(f"{what} ({getattr(error, 'strerror', None) or error})") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk or a folder that may not be written is the user's to know, in one line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror or error})") from None


def to_disk(paths: Iterable[Path]) -> None:
    """Wait until files, those of them that exist, and their folders are on the disk."""
    found = [path for path in paths if path.is_file()]
    for path in found:
        with writing(path), path.open("rb") as file:
            os.fsync(file.fileno())
    for folder in {path.parent for path in found}:
        folder_to_disk(folder)


def folder_to_disk(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system lets it be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
