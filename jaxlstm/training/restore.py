"""A trained network back from its run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from jaxlstm import config, runs, tasks
from jaxlstm.errors import UserError
from jaxlstm.training import checkpoints
from jaxlstm.training.model import Model, Params
from jaxlstm.training.prepare import Training, build_network, prepare
from jaxlstm.training.step import TrainState


class Trained(NamedTuple):
    """The network of a run.

    Args:
        experiment: the config.
        network: the model.
        sizes: what it reads and gives.
        symbols: the characters that it knows, in the order of their numbers; None elsewhere.
        each: the parameters of each seed.
    """

    experiment: config.Experiment
    network: Model
    sizes: tasks.Task | runs.Sizes
    symbols: str | None
    each: list[Params]

    def params(self, seed: int | None) -> Params:
        """Choose the parameters of one seed; the first if None.

        Raises:
            UserError: when the run has no such seed.
        """
        seeds = self.experiment.seed_list
        if seed is not None and seed not in seeds:
            raise UserError(f"--seed: expected one of {', '.join(map(str, seeds))}, got {seed}")
        return self.each[0 if seed is None else seeds.index(seed)]


def trained(folder: str | Path, overrides: Sequence[tuple[str, str]] = ()) -> Trained:
    """Read the network that a run has trained, as its latest checkpoint has it, without its data.

    Args:
        folder: the run.
        overrides: keys of its config that have other values now, as `config.load` takes them.

    Returns:
        The network.

    Raises:
        UserError: when the folder is no training, or has no checkpoint.
    """
    manifest, experiment = _opened(folder, overrides)
    sizes, symbols = manifest.sizes, runs.read_symbols(folder)
    if sizes is None and symbols:  # folders of before the sizes were written down
        sizes = runs.Sizes(len(symbols), len(symbols), tokens=True, every_step=True)
    elif sizes is None:
        sizes = tasks.build(experiment.task)
        symbols = sizes.symbols
    network = build_network(experiment.model, sizes)
    shape = jax.eval_shape(network.init, jax.random.key(0))
    found = checkpoints.params(folder, [shape for _ in experiment.seed_list])
    if found is None:
        raise UserError(f"there is no checkpoint in '{folder}'")
    return Trained(experiment, network, sizes, symbols, found)


def restore(folder: str | Path) -> tuple[Training, Sequence[TrainState]]:
    """Read a whole training with its data, as its latest checkpoint has it.

    Args:
        folder: the run.

    Returns:
        The training, and the state of each seed.

    Raises:
        UserError: when the folder is no training, or has no checkpoint, or the data cannot be had.
    """
    training = prepare(_opened(folder)[1])
    found = checkpoints.latest(folder, training.shapes())
    if found is None:
        raise UserError(f"there is no checkpoint in '{folder}'")
    return training, found.states


def _opened(
    folder: str | Path, overrides: Sequence[tuple[str, str]] = ()
) -> tuple[runs.Manifest, config.Experiment]:
    manifest = runs.read_manifest(folder)
    experiment = config.load(Path(folder) / "config.toml", overrides)
    if not isinstance(experiment, config.Experiment):
        raise UserError(f"expected the run folder of a training, got '{folder}'")
    return manifest, experiment
