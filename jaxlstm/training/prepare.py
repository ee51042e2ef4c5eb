"""An experiment held against its data, before anything is written."""

from dataclasses import dataclass

import jax
import numpy as np

from jaxlstm import config, runs, tasks
from jaxlstm.errors import UserError
from jaxlstm.training import evaluation, frames, model, optimizers, scores, step
from jaxlstm.training.step import TrainState


@dataclass(frozen=True)
class Training:
    """An experiment that was checked against its data, ready to run.

    Args:
        experiment: the config.
        task: the task with its data.
        network: the model.
        update: the functions of a training.
        goal: what is to be reached.
        prompt: the symbols that samples begin with; None where no text is written.
    """

    experiment: config.Experiment
    task: tasks.Task
    network: model.Model
    update: step.Update
    goal: tasks.Goal
    prompt: np.ndarray | None

    def states(self) -> list[TrainState]:
        """Begin: the state of each seed before the first update."""
        seeds, data = self.experiment.seed_list, self.task.data
        return [self.update.init(jax.random.key(seed), data) for seed in seeds]

    def shapes(self) -> list[TrainState]:
        """Give the shapes and types of `states`, for nothing."""
        shape = jax.eval_shape(self.update.init, jax.random.key(0), self.task.data)
        return [shape for _ in self.experiment.seed_list]


def build_network(spec: config.Model, sizes: tasks.Task | runs.Sizes) -> model.Model:
    """Build the network that a config describes, for a task of these sizes.

    Raises:
        UserError: when the task has no frames, or no symbols, for it.
    """
    if spec.embedding_size is not None and not sizes.tokens:
        raise UserError("model.embedding_size: expected none, the task's inputs are no symbols")
    if isinstance(spec, config.ConvLSTM):
        return frames.build(spec, sizes.frame, every_step=sizes.every_step)
    return model.build(
        spec,
        input_size=sizes.input_size,
        output_size=sizes.output_size,
        tokens=sizes.tokens,
        every_step=sizes.every_step,
    )


def prepare(experiment: config.Experiment) -> Training:
    """Fetch the data of an experiment and check the one against the other; write nothing.

    Args:
        experiment: the config.

    Returns:
        A `Training`.

    Raises:
        UserError: when the data cannot be had, or the config asks for what the task has not.

    Examples:
        >>> from jaxlstm import config
        >>> training = prepare(config.load("configs/adding.toml", [("model.hidden_size", "4")]))
        >>> len(training.states()), model.count(training.states()[0].params)
        (5, 117)
    """
    task = tasks.build(experiment.task)
    goal = scores.resolve(experiment.goal, task)
    network = build_network(experiment.model, task)
    train = experiment.train
    optimizer = optimizers.build(experiment.optimizer, train.steps)
    update = step.build(
        task,
        network,
        optimizer,
        batch_size=train.batch_size,
        log_every=train.log_every,
        penalty=experiment.penalty,
        stop=train.stop,
        skip=train.not_finite == "skip",
    )
    split = task.evaluation[goal.split]
    metrics = jax.eval_shape(
        lambda key, batch: evaluation.build(task, network)(network.init(key), batch),
        jax.random.key(0),
        split,
    )
    if goal.metric not in metrics:
        known = ", ".join(sorted(metrics))
        raise UserError(f"goal.metric: expected one of {known}, got {goal.metric!r}")
    if experiment.gradients is not None and network.cell.whole:
        raise UserError("gradients: expected none, the network cannot be stepped")
    if experiment.penalty is not None or train.stop is not None:
        try:
            jax.eval_shape(update.init, jax.random.key(0), task.data)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"penalty: {error}") from None
    prompt = None
    if experiment.sample is not None:
        if task.encode is None or task.decode is None:
            raise UserError("sample: expected none, the task is not about text")
        prompt = np.asarray(task.encode(experiment.sample.prompt), np.int32)
    return Training(experiment, task, network, update, goal, prompt)
