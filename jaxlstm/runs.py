"""Run folders: what a training or a study leaves behind, and how to read it again.

A run is a folder `runs/NAME-YYYYMMDD-HHMMSS`:

    config.toml          the resolved config
    manifest.json        what ran, where, with which versions, and the summary (`Manifest`)
    metrics.jsonl        {"step", "split", "seconds", "metrics": {name: [one value for each seed]}}
    samples.jsonl        {"step", "seed", "temperature", "prompt", "text"}
    symbols.json         the characters of a text, in the order of their numbers
    figures/NAME.json    the data behind a figure
    tables/NAME.json     {"title", "caption", "columns", "rows"}
    checkpoints/         the state of a training
    report.html          made from the rest
    .lock                held by the process that works here (`jaxlstm.locks`)

Files are replaced as wholes, so that a reader never sees half of one; lines of a JSONL file are
appended, and a line that was cut short is not read. Numbers that are not finite are null.

Format versions: 1; 2 since checkpoints carry the hashes of their files.
"""

import hashlib
import math
import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec

from jaxlstm import locks, storage
from jaxlstm.errors import UserError

FORMAT_VERSION = 2
PACKAGES = ("jaxlstm", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "msgspec")
Kind = Literal["training", "study", "reproduction", "sweep"]
State = Literal["running", "finished", "interrupted", "failed"]


def finite(value: float) -> float | None:
    """A number as a record keeps it: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


class Score(msgspec.Struct, frozen=True):
    """A line of the summary.

    Args:
        metric: what was measured, with its set: "validation mse".
        values: one value for each seed; None where it is not finite.
        mean: their mean; in a reproduction the statistic that it asks for.
        low: lower end of its interval; None for a single seed.
        high: upper end of its interval; None for a single seed.
        expected: the bound that counts as met, as "< 0.01"; None where nothing is expected.
        verdict: "met" or "missed", computed; "reported" where nothing is expected.
    """

    metric: str
    values: list[float | None]
    mean: float | None
    low: float | None = None
    high: float | None = None
    expected: str | None = None
    verdict: Literal["met", "missed", "reported"] = "reported"


class Aim(msgspec.Struct, frozen=True):
    """The score that a training goes for.

    Args:
        split: the evaluation set.
        metric: the metric.
        larger: whether more of it is better.
    """

    split: str
    metric: str
    larger: bool


class Sizes(msgspec.Struct, frozen=True):
    """What a network reads and gives: with its config, enough to build it without its data.

    Args:
        input_size: features of one step, or the number of symbols.
        output_size: outputs of one step.
        tokens: whether it reads symbols.
        every_step: whether it has an output for every step.
        frame: height and width where its steps are frames.
    """

    input_size: int
    output_size: int
    tokens: bool
    every_step: bool
    frame: tuple[int, int] | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What ran, where, with what, and how it ended.

    Args:
        format_version: of the folder; this code reads versions up to `FORMAT_VERSION`.
        kind: "training", "study", "reproduction" or "sweep".
        name: the name of the config.
        question: what was asked.
        command: the command line.
        started: when, ISO 8601 in UTC.
        seconds: how long it ran, over all its sittings.
        state: how it stands.
        seeds: the seeds.
        device: what computed it.
        machine: the system around the device.
        git_revision: of the library, where it runs from a checkout.
        versions: of Python and the packages that the numbers depend on.
        parameters: how many the network has; None where there is not one alone.
        sizes: what that network reads and gives; None where there is not one alone.
        summary: the scores.
        baselines: scores of simple predictors, named "memoryless mse", to be drawn as lines.
        aim: the score that a training goes for; None elsewhere.
        data: the SHA-256 of the files at `task.path`; None where there is none.
        config: the SHA-256 of what `config.toml` says, as from `config_sum`.
        reason: why the run failed, or could not go on; None otherwise.
        cell_steps_per_second: how fast a training was, over all seeds: units of the network times
            time steps of the sequences that it learnt from, forward, backward and update. None
            where nothing was trained.
    """

    format_version: int = FORMAT_VERSION
    kind: Kind
    name: str
    question: str
    command: str
    started: str
    seconds: float
    state: State
    seeds: list[int]
    device: str
    machine: str
    git_revision: str | None
    versions: dict[str, str]
    parameters: int | None = None
    sizes: Sizes | None = None
    summary: list[Score] = []
    baselines: dict[str, float] = {}
    aim: Aim | None = None
    data: str | None = None
    config: str | None = None
    reason: str | None = None
    cell_steps_per_second: float | None = None


def free_folder(name: str, out: str | Path | None = None) -> Path:
    """Choose the folder of a new run, and write nothing yet.

    Args:
        name: the name of the config.
        out: the exact folder; `runs/NAME-YYYYMMDD-HHMMSS` if None.

    Returns:
        A path at which there is nothing, an empty folder, or one in which a run was stopped before
        it had begun.

    Raises:
        UserError: when `out` is taken.
    """
    if out is not None:
        folder = Path(out)
        if not _free(folder):
            raise UserError(f"--out: expected a new or empty folder, got '{folder}'")
        return folder
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    count = 1
    while (folder := Path("runs") / (stem if count == 1 else f"{stem}-{count}")).exists():
        count += 1
    return folder


def create(
    folder: str | Path,
    *,
    config: str,
    kind: Kind,
    name: str,
    question: str,
    command: str,
    seeds: Sequence[int],
    device: str,
    parameters: int | None = None,
    sizes: Sizes | None = None,
    baselines: Mapping[str, float] | None = None,
    symbols: str | None = None,
    aim: Aim | None = None,
    data: str | None = None,
) -> Manifest:
    """Make a run folder: `config.toml` and a manifest in the state "running".

    Args:
        folder: where, as from `free_folder`.
        config: the resolved config as TOML.
        kind: "training", "study", "reproduction" or "sweep".
        name: the name of the config.
        question: what is asked.
        command: the command line.
        seeds: the seeds.
        device: what computes.
        parameters: how many the network has.
        sizes: what it reads and gives.
        baselines: scores of simple predictors, of which those that are finite are kept.
        symbols: the characters of a text, in the order of their numbers; None elsewhere.
        aim: the score that a training goes for.
        data: the SHA-256 of the files that it learns from; None where there are none.

    Returns:
        The manifest.

    Raises:
        UserError: when the folder cannot be made.
    """
    manifest = Manifest(
        kind=kind,
        name=name,
        question=question,
        command=command,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        state="running",
        seeds=list(seeds),
        device=device,
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        git_revision=_git_revision(),
        versions=_versions(),
        parameters=parameters,
        sizes=sizes,
        baselines={k: v for k, v in (baselines or {}).items() if math.isfinite(v)},
        aim=aim,
        data=data,
        config=config_sum(config),
    )
    write_text(Path(folder) / "config.toml", config)
    if symbols is not None:
        _write_json(Path(folder) / "symbols.json", symbols)
    _write_json(Path(folder) / "manifest.json", manifest)
    return manifest


def config_sum(text: str) -> str:
    r"""The SHA-256 of what a config says: not of how it is written, nor of `train.steps`.

    A run may go on with more of these, and is killed before or after they are written down.

    Examples:
        >>> begun = config_sum("seeds = 1\n[train]\nsteps = 8")
        >>> config_sum("seeds = 1\ntrain = { steps = 9 }  # more") == begun
        True
        >>> config_sum("seeds = 2\n[train]\nsteps = 8") == begun
        False
    """
    said = tomllib.loads(text)
    train = said.get("train")
    if isinstance(train, dict):
        train.pop("steps", None)
    plain = msgspec.json.encode(said, order="deterministic")
    return hashlib.sha256(plain).hexdigest()


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a run.

    Raises:
        UserError: when the folder is no run, or one of a later format.
    """
    path = Path(folder) / "manifest.json"
    try:
        content = path.read_bytes()
    except (OSError, ValueError):
        raise UserError(f"'{folder}' is no run folder: it has no manifest.json") from None
    try:
        version = msgspec.json.decode(content, type=dict[str, Any]).get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise UserError(
                f"'{path}' has format version {version}, this jaxlstm reads up to {FORMAT_VERSION}"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' is no manifest: {error}") from None


def update_manifest(folder: str | Path, **changes: Any) -> Manifest:
    """Change fields of the manifest, such as `state`, `seconds` or `summary`."""
    manifest = msgspec.structs.replace(read_manifest(folder), **changes)
    _write_json(Path(folder) / "manifest.json", manifest)
    return manifest


def append(folder: str | Path, name: str, record: Mapping[str, Any]) -> None:
    """Append one record to a JSONL file of the run, such as `metrics.jsonl`, in one write.

    Raises:
        UserError: when the file cannot be written, as all functions here that write.
    """
    storage.append(Path(folder) / name, msgspec.json.encode(record) + b"\n")


def read_jsonl(folder: str | Path, name: str) -> list[dict[str, Any]]:
    """Read the records of a JSONL file; none where there is no file.

    A last line that was cut short by the end of the process is left out.
    """
    return [record for _, record in storage.records(Path(folder) / name)]


def truncate_jsonl(folder: str | Path, name: str, step: int) -> None:
    """Drop the records of later steps than `step`, so that a resumed run writes them again."""
    path = Path(folder) / name
    if path.exists():
        kept = [line + b"\n" for line, record in storage.records(path) if record["step"] <= step]
        storage.replace(path, b"".join(kept))


def write_figure(folder: str | Path, name: str, figure: Mapping[str, Any]) -> None:
    """Write the data behind a figure to `figures/NAME.json`.

    Args:
        folder: the run.
        name: letters, digits, `-` and `_`.
        figure: `{"title", "caption", "kind": "lines", "panels": […]}`.
    """
    _write_json(_named(folder, "figures", name), figure)


def write_table(
    folder: str | Path,
    name: str,
    *,
    title: str,
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Write a table to `tables/NAME.json`.

    Args:
        folder: the run.
        name: letters, digits, `-` and `_`.
        title: what it is.
        caption: what it shows.
        columns: the names of the columns.
        rows: the cells, row by row.

    Raises:
        ValueError: when a row has not one cell for each column.
    """
    for index, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(
                f"`rows[{index}]` must have {len(columns)} cells, got {len(row)}: {list(row)}"
            )
    table = {"title": title, "caption": caption, "columns": list(columns), "rows": list(rows)}
    _write_json(_named(folder, "tables", name), table)


def read_symbols(folder: str | Path) -> str | None:
    """Read the characters that a run over text knows, in the order of their numbers.

    Returns:
        The characters; None where the run has not kept them.

    Raises:
        UserError: when the file holds something else.
    """
    path = Path(folder) / "symbols.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=str)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"'{path}': expected a JSON string ({reason})") from None


def find(folder: str | Path = "runs") -> list[Path]:
    """List the run folders in a folder, the latest first."""
    try:
        found = [
            (path.stat().st_mtime, path.parent) for path in Path(folder).glob("*/manifest.json")
        ]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)]


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all."""
    storage.replace(path, text.encode("utf-8"))


def _free(folder: Path) -> bool:
    """Whether a run may begin here: nothing, or what a process left that was killed at once."""
    if not folder.is_dir():
        return not folder.exists()
    found = {path.name for path in folder.iterdir()}
    begun = (locks.NAME, "config.toml", "symbols.json")
    left = {name for name in found if name in begun or name[0] == "."}
    return not found or (locks.NAME in found and found == left)


def _named(folder: str | Path, room: str, name: str) -> Path:
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"`name` must be letters, digits, '-' and '_', got {name!r}")
    return Path(folder) / room / f"{name}.json"


def _write_json(path: Path, value: Any) -> None:
    # msgspec writes NaN and infinity as null.
    content = msgspec.json.format(msgspec.json.encode(value), indent=2)
    storage.replace(path, content + b"\n")


def _git_revision() -> str | None:
    """The revision of the library's own checkout, with "-dirty" where it was changed."""
    package = Path(__file__).parent
    if not (package.parent / ".git").exists():
        return None
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
