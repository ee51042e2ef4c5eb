"""From an experiment to a run folder, from the beginning or from a checkpoint."""

from pathlib import Path

import jax

from jaxlstm import config, locks, runs
from jaxlstm.errors import UserError
from jaxlstm.progress import Bar
from jaxlstm.training import checkpoints, model, records, seeds
from jaxlstm.training.interrupts import stop_wish
from jaxlstm.training.prepare import Training, prepare
from jaxlstm.training.sitting import Sitting


def run(
    training: Training,
    folder: str | Path,
    *,
    command: str = "",
    quiet: bool = False,
    debug_nans: bool = False,
) -> runs.Manifest:
    """Train, from the beginning, into a new run folder.

    Args:
        training: from `prepare`.
        folder: where, as from `runs.free_folder`.
        command: the command line, for the manifest.
        quiet: show no progress.
        debug_nans: where numbers stop being finite, find the operation that made the first.

    Returns:
        The manifest at the end; its state is "finished", "interrupted" or "failed".

    Raises:
        UserError: when the folder cannot be written, holds a run, or another process works in it.
    """
    experiment = training.experiment
    states = training.states()
    devices = seeds.devices(experiment.train.devices, len(states))
    with stop_wish() as wish, locks.alone(folder):
        if (Path(folder) / "manifest.json").exists():
            raise UserError(f"'{folder}' holds a run already")
        runs.create(
            folder,
            config=config.dumps(experiment),
            kind="training",
            name=experiment.name,
            question=experiment.question,
            command=command,
            seeds=experiment.seed_list,
            device=device(devices),
            parameters=model.count(states[0].params),
            baselines=training.task.baselines,
            symbols=training.task.symbols,
        )
        return Sitting(training, Path(folder), states, 0, 0.0, quiet, debug_nans).run(wish)


def resume(folder: str | Path, *, quiet: bool = False, debug_nans: bool = False) -> runs.Manifest:
    """Go on with a run from its latest checkpoint, as if it had never stopped.

    Records after the checkpoint are dropped and written again. A run that has finished is left as
    it is.

    Args:
        folder: the run.
        quiet: show no progress.
        debug_nans: where numbers stop being finite, find the operation that made the first.

    Returns:
        The manifest at the end.

    Raises:
        UserError: when the folder is no training, another process works in it, or its checkpoints
            cannot be read.
    """
    folder = Path(folder)
    manifest = runs.read_manifest(folder)
    experiment = config.load(folder / "config.toml")
    if not isinstance(experiment, config.Experiment):
        raise UserError(f"--resume: expected the run folder of a training, got '{folder}'")
    if manifest.state == "finished":
        return manifest
    with stop_wish() as wish, locks.alone(folder):
        if runs.read_manifest(folder).state == "finished":
            return runs.read_manifest(folder)
        training = prepare(experiment)
        symbols = runs.read_symbols(folder)
        if symbols is not None and symbols != training.task.symbols:
            raise UserError(
                f"--resume: the text that '{folder}' is trained on has other characters now"
            )
        found = checkpoints.latest(folder, training.shapes())
        states, seconds = (found.states, found.seconds) if found else (training.states(), 0.0)
        for path in found.skipped if found else ():
            aside = checkpoints.set_aside(path).name
            Bar("", 1, quiet=quiet).say(
                f"{path} cannot be read and is passed over; it is now {aside}"
            )
        step = found.step if found else 0
        records.take_back(folder, step)
        runs.update_manifest(
            folder, format_version=runs.FORMAT_VERSION, state="running", reason=None
        )
        return Sitting(training, folder, states, step, seconds, quiet, debug_nans).run(wish)


def device(count: int = 1) -> str:
    """Name what JAX computes on, and over how many of them a batch is spread.

    Examples:
        >>> import jax
        >>> jax.default_backend() != "cpu" or (device(), device(2)) == ("cpu", "cpu x 2")
        True
    """
    found = jax.devices()[0]
    name = found.platform if found.platform == "cpu" else found.device_kind
    return name if count == 1 else f"{name} x {count}"
