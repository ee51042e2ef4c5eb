"""Published results again: the trainings of a config, its checks, and the table over all."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jaxlstm import config, locks, report, runs, studies, training
from jaxlstm.errors import UserError
from jaxlstm.report import curves
from jaxlstm.reproductions import checks
from jaxlstm.reproductions.table import write as write_table
from jaxlstm.reproductions.table import write_protocol, write_rows

__all__ = ["prepare", "run", "write_table"]


def prepare(reproduction: config.Reproduction, folder: Path) -> runs.Manifest | None:
    """Check that a reproduction may go to a folder, before anything runs.

    Args:
        reproduction: the config.
        folder: its run folder, new or of the same config.

    Returns:
        The manifest of what is there already; None where there is nothing.

    Raises:
        UserError: when the folder holds something else.
    """
    if not (folder / "manifest.json").exists():
        runs.free_folder("", folder)
        return None
    manifest = runs.read_manifest(folder)
    if config.load(folder / "config.toml") != reproduction:
        raise UserError(
            f"'{folder}' holds a reproduction of another config; remove it, or choose another --out"
        )
    return manifest


def run(
    reproduction: config.Reproduction,
    folder: Path,
    *,
    command: str,
    quiet: bool,
    progress: Callable[..., Any],
) -> runs.Manifest:
    """Run what is left of a reproduction, and judge it.

    Trainings that have finished are kept, and one that was interrupted goes on: the same call makes
    a reproduction that was stopped whole.

    Args:
        reproduction: the config.
        folder: its run folder; each training has a run folder in it.
        command: the command line, for the manifests.
        quiet: show no progress.
        progress: makes a progress bar, as `jaxlstm.progress.Bar` does.

    Returns:
        The manifest. Its summary has a `Score` for each check, and its state is "interrupted"
        where a training was, "failed" where the numbers of one stopped being finite.

    Raises:
        UserError: when the folder holds another config, another process works in it, or a
            training cannot be made.
    """
    there = prepare(reproduction, folder)
    if there is not None and there.state == "finished":
        return there
    # Before the folder is locked, which makes it: where data are missing nothing is written.
    ready = [training.prepare(arm) for arm in reproduction.arms]
    with locks.alone(folder):
        return _run(reproduction, folder, ready, command, quiet, progress)


def _run(
    reproduction: config.Reproduction,
    folder: Path,
    ready: Sequence[training.Training],
    command: str,
    quiet: bool,
    progress: Callable[..., Any],
) -> runs.Manifest:
    there = prepare(reproduction, folder)
    if there is not None and there.state == "finished":
        return there
    if there is None:
        seeds = {seed: None for arm in reproduction.arms for seed in arm.seed_list}
        study = reproduction.study
        runs.create(
            folder,
            config=config.dumps(reproduction),
            kind="reproduction",
            name=reproduction.name,
            question=reproduction.question,
            command=command,
            seeds=study.seed_list if study else list(seeds),
            device=training.device(),
        )
        write_protocol(folder, reproduction)
    else:
        runs.update_manifest(folder, state="running")
    if reproduction.study is not None:
        return _studied(reproduction.study, folder, command, progress)
    summary, failed = [], []
    state: runs.State = "finished"
    for one in ready:
        ended = _trained(one, folder / one.experiment.name, command, quiet)
        if ended.state == "interrupted":
            state = "interrupted"
            break
        if ended.state == "failed":
            failed.append(f"{ended.name}: {ended.reason}")
    else:
        summary = _judged(reproduction, folder)
        state = "failed" if failed else "finished"
    return runs.update_manifest(
        folder,
        state=state,
        reason="; ".join(failed) or None,
        seconds=_seconds(folder),
        summary=summary,
    )


def _trained(ready: training.Training, folder: Path, command: str, quiet: bool) -> runs.Manifest:
    if not (folder / "manifest.json").exists():
        ended = training.run(ready, folder, command=command, quiet=quiet)
    elif (ended := runs.read_manifest(folder)).state not in ("finished", "failed"):
        ended = training.resume(folder, quiet=quiet)
    report.write(folder)
    return ended


def _studied(
    study: config.Study, folder: Path, command: str, progress: Callable[..., Any]
) -> runs.Manifest:
    """A study leaves nothing to go on from: it is made as a whole, in a folder of its own."""
    inner = folder / "study"
    if not (inner / "manifest.json").exists() or runs.read_manifest(inner).state != "finished":
        studies.record(study, inner, command=command, progress=progress)
    report.write(inner)
    made = runs.read_manifest(inner)
    write_rows(folder, made.summary, [study.name] * len(made.summary))
    return runs.update_manifest(
        folder, state="finished", seconds=made.seconds, summary=made.summary
    )


def _judged(reproduction: config.Reproduction, folder: Path) -> list[runs.Score]:
    folders = {arm.name: folder / arm.name for arm in reproduction.arms}
    scores = [checks.judge(check, folders) for check in reproduction.checks]
    taken = [
        ", ".join(check.arms or tuple(folders))
        + (f" against {', '.join(check.against)}" if check.against else "")
        for check in reproduction.checks
    ]
    write_rows(folder, scores, taken)
    _draw(folder, folders)
    return scores


def _draw(folder: Path, folders: dict[str, Path]) -> None:
    """The course of the goal's metric in every training, where it was looked at on the way."""
    courses = {}
    for name, place in folders.items():
        summary = runs.read_manifest(place).summary
        if summary:
            records = runs.read_jsonl(place, "metrics.jsonl")
            courses[name] = summary[0].metric, msgspec.convert(records, list[curves.Record])
    figure = curves.compare(courses)
    if figure is not None:
        runs.write_figure(folder, "learning", msgspec.to_builtins(figure))


def _seconds(folder: Path) -> float:
    return math.fsum(runs.read_manifest(path).seconds for path in runs.find(folder))
