"""One try of a run, in a process of its own that ends with whoever started it."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from jaxlstm import locks, runs, storage
from jaxlstm.errors import UserError

POLL = 0.5
GRACE = 120.0
"""How long a run that is asked to stop may take to save, in seconds."""
STOP = ".stop"
Ended = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True)
class Job:
    """What a worker needs to know, here or on another machine.

    Args:
        sweep: the folder of the sweep, as it is called from `home`.
        name: the name of the run.
        home: the working folder; paths in configs are relative to it.
    """

    sweep: str
    name: str
    home: str


@dataclass(frozen=True)
class Slot:
    """A worker's share of this machine.

    Args:
        cores: the cores that its runs compute on; all if empty.
    """

    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a try ended, and why."""

    ended: Ended
    reason: str = ""


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `tries/NAME.json`: where and when a try began, and how it ended."""

    host: str
    began: str
    pid: int | None = None
    ended: Ended | None = None
    reason: str = ""


def attempt(job: Job, slot: Slot | None = None) -> Outcome:
    """Run or go on with one run of a sweep, in a process of its own.

    The process has a pipe from this one as its input. Where that is closed, because the sweep is to
    stop or because this process is gone, it saves and leaves.

    Args:
        job: which run.
        slot: what it may use of this machine.

    Returns:
        How the try ended. A run that has finished before is left as it is.
    """
    sweep = Path(job.home) / job.sweep
    if not sweep.is_dir():
        return Outcome("failed", f"{socket.gethostname()} does not see the folder '{sweep}'")
    while locks.in_use(sweep / job.name):
        # A worker that was lost may leave a run that is still saving, or going on.
        if (sweep / STOP).exists():
            return Outcome("stopped")
        time.sleep(POLL)
    if (sweep / STOP).exists():
        return Outcome("stopped")
    begun_before = manifest(sweep / job.name)
    if begun_before is not None and begun_before.state == "finished":
        return Outcome("finished")
    earlier, this = _tries(sweep, job.name), Try(host=socket.gethostname(), began=_now())
    _write(sweep, job.name, [*earlier, this])

    def begun(pid: int) -> None:
        _write(sweep, job.name, [*earlier, msgspec.structs.replace(this, pid=pid)])

    outcome = _run(job, slot or Slot(), sweep, begun, resume=begun_before is not None)
    this = msgspec.structs.replace(this, ended=outcome.ended, reason=outcome.reason)
    _write(sweep, job.name, [*earlier, this])
    return outcome


def count(sweep: Path, name: str) -> int:
    """Count the tries of a run, over all sittings."""
    return len(_tries(sweep, name))


def reason(sweep: Path, name: str) -> str:
    """Say why the last try of a run did not finish; empty where it did, or was asked to stop."""
    tries = _tries(sweep, name)
    if tries and tries[-1].ended is None:
        return f"its worker on {tries[-1].host} was lost"
    return tries[-1].reason if tries else ""


def _run(
    job: Job, slot: Slot, sweep: Path, begun: Callable[[int], None], *, resume: bool
) -> Outcome:
    folder = str(Path(job.sweep) / job.name)
    config = str(Path(job.sweep) / "configs" / f"{job.name}.toml")
    command = [sys.executable, "-m", "jaxlstm.cli.leash", ",".join(map(str, slot.cores)), "run"]
    command += ["--resume", folder] if resume else [config, "--out", folder]
    log = sweep / "tries" / f"{job.name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--quiet"],
            cwd=job.home,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            # ^C in a terminal goes to the sweep, which asks its runs to stop.
            start_new_session=True,
        )
        try:
            begun(process.pid)
            status = _wait(process, sweep / STOP)
        finally:
            _close(process)
            if process.poll() is None:
                process.kill()
                process.wait()
    if status == 0:
        return Outcome("finished")
    if status == 130 and (sweep / STOP).exists():
        return Outcome("stopped")
    return Outcome("failed", _why(status, manifest(sweep / job.name), log))


def _wait(process: subprocess.Popen[bytes], stop: Path) -> int:
    """Wait for a run to end, and let go of it when the sweep is to stop."""
    until = None
    while True:
        try:
            return process.wait(POLL)
        except subprocess.TimeoutExpired:
            if until is None and stop.exists():
                _close(process)
                until = time.monotonic() + GRACE
            if until is not None and time.monotonic() > until:
                process.kill()


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _why(status: int, found: runs.Manifest | None, log: Path) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
        return f"killed by signal {-status}"
    if status == 130:
        return "interrupted from outside"
    if status == 1 and found is not None and found.state == "failed" and found.reason:
        return found.reason
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace")[-10_000:].split("\n")
        said = [line.strip() for line in lines if line.strip()]
        if said:
            return said[-1].removeprefix("jaxlstm: ")
    return f"ended with exit status {status}"


def manifest(folder: Path) -> runs.Manifest | None:
    """Read the manifest of a run; None where it has none that can be read."""
    try:
        return runs.read_manifest(folder)
    except UserError:
        return None


def _tries(sweep: Path, name: str) -> list[Try]:
    path = sweep / "tries" / f"{name}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Try]) if path.exists() else []
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' is no list of tries: {error}") from None


def _write(sweep: Path, name: str, tries: list[Try]) -> None:
    path = sweep / "tries" / f"{name}.json"
    storage.replace(path, msgspec.json.format(msgspec.json.encode(tries), indent=1) + b"\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
