"""What is seen of a training between two dispatches: scores, gradients, a sample of text."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlstm import config
from jaxlstm.training import evaluation, gradients, mesh, sampling, seeds
from jaxlstm.training.prepare import Training
from jaxlstm.training.step import TrainState


class Looks:
    """The programs that look at a training, each compiled when it is first needed.

    Args:
        training: what is looked at.
        data: those of its task, placed on the mesh.
        how: how several seeds run, "threads" or "vmap".
        on: the mesh that it runs on.
    """

    def __init__(self, training: Training, data: Any, how: str, on: Mesh | None) -> None:
        self._training, self._data, self._on = training, data, on
        workers = None if on is None else 1
        self._over_seeds = functools.partial(seeds.over_seeds, how=how, workers=workers)
        # The growth of a perturbation takes QR decompositions.
        self._one_by_one = functools.partial(seeds.over_seeds, how=how, workers=1)
        self._batches: dict[str, Any] = {}
        self._evaluations: dict[str, Callable[..., list[Any]]] = {}
        self._write: Callable[..., Any] | None = None
        self._measure: Callable[..., list[Any]] | None = None
        self._measuring = 0.0

    def score(self, states: Sequence[TrainState], split: str) -> dict[str, list[float]]:
        """Score every seed on an evaluation set."""
        params = [state.params for state in states]
        if split not in self._evaluations:
            evaluate = evaluation.build(self._training.task, self._training.network)
            self._evaluations[split] = self._over_seeds(evaluate)
            self._batches[split] = mesh.place(self._training.task.evaluation[split], self._on)
        each = jax.device_get(self._evaluations[split](params, self._batches[split]))
        return {name: [float(scores[name]) for scores in each] for name in each[0]}

    def gradients(
        self, states: Sequence[TrainState], spec: config.Gradients, spent: float
    ) -> dict[str, list[float]]:
        """Measure what gradients do, and what share of the time of training that has taken.

        Args:
            states: the state of each seed.
            spec: the `[gradients]` table.
            spent: seconds of training so far; before them there is no share to tell.
        """
        if self._measure is None:
            task, network = self._training.task, self._training.network
            size = self._training.experiment.train.batch_size
            measure = gradients.build(task, network, batch_size=size, sequences=spec.sequences)
            self._measure = self._one_by_one(measure)
        began = time.monotonic()
        each = jax.device_get(self._measure(states, self._data))
        self._measuring += time.monotonic() - began
        metrics = gradients.recorded(each)
        if spent:
            metrics["time_share"] = [self._measuring / (self._measuring + spent)]
        return metrics

    def sample(self, state: TrainState, step: int, sample: config.Sample) -> str:
        """Let the network of a seed write."""
        if self._write is None:
            self._write = jax.jit(sampling.build(self._training.network, sample.characters))
        key = jax.random.fold_in(jax.random.fold_in(state.key, step), 1)
        prompt, temperature = np.asarray(self._training.prompt), np.float32(sample.temperature)
        symbols = self._write(state.params, key, prompt, temperature)
        decode = self._training.task.decode
        return decode(symbols) if decode else ""
