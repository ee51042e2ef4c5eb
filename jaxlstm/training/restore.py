"""A trained network back from its run folder."""

from collections.abc import Sequence
from pathlib import Path

from jaxlstm import config, runs
from jaxlstm.errors import UserError
from jaxlstm.training import checkpoints
from jaxlstm.training.prepare import Training, prepare
from jaxlstm.training.step import TrainState


def restore(folder: str | Path) -> tuple[Training, Sequence[TrainState]]:
    """Read what a run has trained, as its latest checkpoint has it.

    Args:
        folder: the run.

    Returns:
        The training, and the state of each seed.

    Raises:
        UserError: when the folder is no training, or has no checkpoint.
    """
    runs.read_manifest(folder)
    experiment = config.load(Path(folder) / "config.toml")
    if not isinstance(experiment, config.Experiment):
        raise UserError(f"expected the run folder of a training, got '{folder}'")
    training = prepare(experiment)
    found = checkpoints.latest(folder, training.shapes())
    if found is None:
        raise UserError(f"there is no checkpoint in '{folder}'")
    return training, found.states
