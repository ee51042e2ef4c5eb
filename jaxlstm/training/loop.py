"""From an experiment to a run folder, from the beginning or from a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxlstm import config, locks, runs, storage
from jaxlstm.errors import UserError
from jaxlstm.progress import Bar
from jaxlstm.training import checkpoints, mesh, model, processes, records
from jaxlstm.training.interrupts import stop_wish
from jaxlstm.training.prepare import Training, prepare
from jaxlstm.training.sitting import Sitting
from jaxlstm.training.step import TrainState


def run(
    training: Training,
    folder: str | Path,
    *,
    command: str = "",
    quiet: bool = False,
    debug_nans: bool = False,
) -> runs.Manifest:
    """Train, from the beginning, into a new run folder.

    Of several processes all must call this, and the lead writes the folder.

    Args:
        training: from `prepare`.
        folder: where, as from `runs.free_folder`.
        command: the command line, for the manifest.
        quiet: show no progress.
        debug_nans: where numbers stop being finite, find the operation that made the first.

    Returns:
        The manifest at the end; its state is "finished", "interrupted" or "failed".

    Raises:
        UserError: when the folder cannot be written, holds a run, another process works in it, or
            one of several processes ends.
    """
    states = training.states()
    shape = mesh.resolve(training.experiment.train, len(states))
    with stop_wish() as wish, processes.folder_of(folder) as own, locks.alone(own):
        if (own / "manifest.json").exists():
            raise UserError(f"'{folder}' holds a run already")
        _create(own, training, states, shape, command)
        quiet = quiet or not processes.lead()
        return Sitting(training, own, states, shape, 0, 0.0, quiet, debug_nans).run(wish)


def _create(
    folder: Path,
    training: Training,
    states: list[TrainState],
    shape: config.Mesh,
    command: str = "",
) -> None:
    experiment = training.experiment
    runs.create(
        folder,
        config=config.dumps(experiment),
        kind="training",
        name=experiment.name,
        question=experiment.question,
        command=command,
        seeds=experiment.seed_list,
        device=device(shape),
        parameters=model.count(states[0].params),
        sizes=runs.Sizes(*(getattr(training.task, size) for size in runs.Sizes.__struct_fields__)),
        baselines=training.task.baselines,
        symbols=training.task.symbols,
        aim=runs.Aim(training.goal.split, training.goal.metric, training.goal.larger),
        data=_data(experiment),
    )


def _data(experiment: config.Experiment) -> str | None:
    path = getattr(experiment.task, "path", None)
    return None if path is None else storage.digest(path)


def resume(
    folder: str | Path,
    *,
    quiet: bool = False,
    debug_nans: bool = False,
    overrides: Sequence[tuple[str, str]] = (),
) -> runs.Manifest:
    """Go on with a run from its latest checkpoint, as if it had never stopped.

    Records after the checkpoint are dropped and written again. A run that has finished is left as
    it is, unless it is to go on with more steps: its states are then those of a run that had so
    many from the beginning. It may go on with other devices, and in more or fewer processes, all of
    which must be able to read the folder; its numbers then change in their rounding.

    Args:
        folder: the run.
        quiet: show no progress.
        debug_nans: where numbers stop being finite, find the operation that made the first.
        overrides: keys of the config, as in `config.load`, that this sitting has otherwise: those
            of `train.mesh`, which change nothing that is learnt, `task.path`, where the same data
            are now, and `train.steps`, which may grow and which the folder keeps.

    Returns:
        The manifest at the end.

    Raises:
        UserError: when the folder is no training, another process works in it, its config was
            changed or its data are others, its checkpoints cannot be read, one of several processes
            ends, or the steps cannot be others.
    """
    folder = Path(folder)
    manifest = runs.read_manifest(folder)
    experiment = config.load(folder / "config.toml", overrides)
    begun = config.load(folder / "config.toml")
    if not isinstance(experiment, config.Experiment) or not isinstance(begun, config.Experiment):
        raise UserError(f"--resume: expected the run folder of a training, got '{folder}'")
    written = runs.config_sum((folder / "config.toml").read_text(encoding="utf-8"))
    if manifest.config not in (None, written):
        raise UserError(
            f"--resume: '{folder}/config.toml' was changed since the run began; give it back its "
            "values, or begin a new run with it"
        )
    longer = _longer(begun, experiment)
    if processes.any_of(manifest.state == "finished" and not longer):
        return manifest
    quiet = quiet or not processes.lead()
    with stop_wish() as wish, processes.folder_of(folder) as own, locks.alone(own):
        if processes.any_of(runs.read_manifest(folder).state == "finished" and not longer):
            return runs.read_manifest(folder)
        training = prepare(experiment)
        symbols = runs.read_symbols(folder)
        if symbols is not None and symbols != training.task.symbols:
            raise UserError(
                f"--resume: the text that '{folder}' is trained on has other characters now"
            )
        if manifest.data not in (None, _data(experiment)):
            raise UserError(
                f"--resume: the data that '{folder}' is trained on are others now: "
                "expected those that it began with at task.path"
            )
        states, step, seconds = _latest(folder, training, quiet)
        shape = mesh.resolve(experiment.train, len(states))
        if processes.lead():
            records.take_back(folder, step)
            changes = {}
            if longer:  # in this order: killed in between, it is a run that has not finished
                runs.update_manifest(folder, state="interrupted")
                steps = [("train.steps", str(experiment.train.steps))]
                kept = config.dumps(config.load(folder / "config.toml", steps))
                storage.replace(folder / "config.toml", kept.encode())
                changes["config"] = runs.config_sum(kept)
            runs.update_manifest(
                folder,
                format_version=runs.FORMAT_VERSION,
                state="running",
                reason=None,
                device=device(shape),
                **changes,
            )
        else:
            _create(own, training, states, shape)
        return Sitting(training, own, states, shape, step, seconds, quiet, debug_nans).run(wish)


def _longer(begun: config.Experiment, experiment: config.Experiment) -> bool:
    """Whether a run is to go on with more steps than it began with."""
    steps, before = experiment.train.steps, begun.train.steps
    if steps < before:
        raise UserError(f"train.steps: expected at least {before} of this run, got {steps}")
    if steps > before and isinstance(begun.optimizer.schedule, config.Cosine):
        raise UserError(
            f"train.steps: expected {before} of this run, whose learning rate falls until there, "
            f"got {steps}"
        )
    return steps > before


def _latest(folder: Path, training: Training, quiet: bool) -> tuple[list[TrainState], int, float]:
    """The states to go on from, which the lead reads, with the step and the seconds so far."""
    found = checkpoints.latest(folder, training.shapes()) if processes.lead() else None
    for path in found.skipped if found else ():
        aside = checkpoints.set_aside(path).name
        Bar("", 1, quiet=quiet).say(f"{path} cannot be read and is passed over; it is now {aside}")
    states, step, seconds = training.states(), 0, 0.0
    if found:
        states, step, seconds = found.states, found.step, found.seconds
    if processes.several():
        plain = processes.from_lead(
            (checkpoints.plain(states), np.int32(step), np.float32(seconds))
        )
        states, step, seconds = checkpoints.typed(plain[0]), int(plain[1]), float(plain[2])
    return states, step, seconds


def device(shape: config.Mesh | None = None) -> str:
    """Name what JAX computes on, and over how many of them.

    Examples:
        >>> device(config.Mesh(data=2)) == device() + " x 2"
        True
    """
    found = jax.devices()[0]
    name = found.platform if found.platform == "cpu" else found.device_kind
    if shape is None or shape.data * shape.hidden == 1:
        return name
    count = jax.process_count()
    return f"{name} x {mesh.said(shape)}" + (f" in {count} processes" if count > 1 else "")
