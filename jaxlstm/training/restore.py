"""A trained network back from its run folder."""

from collections.abc import Sequence
from pathlib import Path

from jaxlstm import config, runs
from jaxlstm.errors import UserError
from jaxlstm.tasks import characters
from jaxlstm.training import checkpoints
from jaxlstm.training.prepare import Training, prepare
from jaxlstm.training.step import TrainState


def restore(
    folder: str | Path, overrides: Sequence[tuple[str, str]] = (), *, data: bool = True
) -> tuple[Training, Sequence[TrainState]]:
    """Read what a run has trained, as its latest checkpoint has it.

    Args:
        folder: the run.
        overrides: keys of its config that have other values now, as `config.load` takes them.
        data: whether the data are wanted too. A run over text has kept the characters, and does
            without the text where they are not.

    Returns:
        The training, and the state of each seed.

    Raises:
        UserError: when the folder is no training, or has no checkpoint.
    """
    runs.read_manifest(folder)
    experiment = config.load(Path(folder) / "config.toml", overrides)
    if not isinstance(experiment, config.Experiment):
        raise UserError(f"expected the run folder of a training, got '{folder}'")
    symbols, task = None if data else runs.read_symbols(folder), None
    if symbols and isinstance(experiment.task, config.Characters):
        task = characters.without_text(symbols, experiment.task)
    training = prepare(experiment, task)
    found = checkpoints.latest(folder, training.shapes())
    if found is None:
        raise UserError(f"there is no checkpoint in '{folder}'")
    return training, found.states


def of_seed(training: Training, states: Sequence[TrainState], seed: int | None) -> TrainState:
    """Choose one of the seeds of a run; the first if None.

    Raises:
        UserError: when the run has no such seed.
    """
    seeds = training.experiment.seed_list
    if seed is not None and seed not in seeds:
        raise UserError(f"--seed: expected one of {', '.join(map(str, seeds))}, got {seed}")
    return states[0 if seed is None else seeds.index(seed)]
