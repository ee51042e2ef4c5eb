"""One sitting of a training: from a start of the program to the end, or to a wish to stop."""

import contextlib
import functools
import math
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm as jl
from jaxlstm import config, runs
from jaxlstm.errors import UserError
from jaxlstm.progress import Bar
from jaxlstm.training import (
    checkpoints,
    faults,
    mesh,
    processes,
    records,
    sampling,
    scores,
    seeds,
    step,
)
from jaxlstm.training.looks import Looks
from jaxlstm.training.prepare import Training
from jaxlstm.training.records import Records
from jaxlstm.training.step import TrainState
from jaxlstm.wording import duration


class Sitting:
    """A training from one start of the program to its end."""

    def __init__(
        self,
        training: Training,
        folder: Path,
        states: list[TrainState],
        shape: config.Mesh,
        step: int,
        seconds: float,
        quiet: bool,
        debug_nans: bool,
    ) -> None:
        self._training, self._folder, self._states = training, folder, states
        self._train, self._debug_nans = training.experiment.train, debug_nans
        self._step, self._width = step, len(states)
        self._earlier, self._began = seconds, time.monotonic()
        self._latest: dict[str, str] = {}
        self._bar = Bar(training.experiment.name, self._train.steps, done=self._step, quiet=quiet)
        self._how = seeds.choose(self._train.seeds_by)
        self._shape = shape
        self._records = Records(training, folder, step)
        self._spent = 0.0
        self._rates: list[float] = []
        self._before, self._saved = (states, self._step), -1

    def run(self, wish: threading.Event) -> runs.Manifest:
        """Train until the end, or until a wish to stop."""
        try:
            return self._run(wish)
        except KeyboardInterrupt:
            runs.update_manifest(self._folder, state="interrupted")
            raise
        except UserError as error:
            with contextlib.suppress(UserError):  # a full disk takes that neither
                runs.update_manifest(self._folder, state="interrupted", reason=str(error))
            raise
        finally:
            self._records.close()

    def _run(self, wish: threading.Event) -> runs.Manifest:
        experiment, train = self._training.experiment, self._train
        sample_every = experiment.sample.every if experiment.sample else None
        measure_every = experiment.gradients.every if experiment.gradients else None
        intervals = (
            train.log_every,
            train.evaluate_every,
            train.checkpoint_every,
            sample_every,
            measure_every,
        )
        with mesh.over(self._shape) as on, self._bar:
            self._bar.update(self._step, compiling="…")
            self._states = [mesh.place(state, on) for state in self._states]
            self._data = mesh.place(self._training.task.data, on)
            self._looks = Looks(self._training, self._data, self._how, on)
            alone = on is not None or isinstance(experiment.penalty, config.Flossing)
            advance = seeds.over_seeds(
                lambda *given: mesh.kept(self._training.update.advance(*given), on),
                how=self._how,
                workers=1 if alone else None,
            )
            prompt, known = getattr(experiment.sample, "prompt", ""), self._training.task.symbols
            lost = sampling.unknown(prompt, known or "")
            if lost and self._step == 0:
                self._bar.say(
                    f"sample.prompt: read as unknown, since the text has none of them: {lost!r}"
                )
            if experiment.gradients and self._step == 0:
                self._measure_gradients(experiment.gradients)
            while not self._done and not processes.any_of(wish.is_set()):
                ahead = [self._step - self._step % every + every for every in intervals if every]
                until = min(self._step + train.steps_per_dispatch, train.steps, *ahead)
                self._before = self._states, self._step
                self._dispatch(advance, until)
                fault = self._fault(advance)
                if fault is not None:
                    break
                self._boundary()
            else:
                if self._done:
                    return self._finish()
                self._save()
                return self._end("interrupted")
        # Where it broke is looked for by each process alone, on one device.
        return self._end("failed", reason=self._told(*fault))

    @property
    def _done(self) -> bool:
        """Whether all updates are made, or every seed has stopped by itself."""
        return self._step >= self._train.steps or all(self._stopped())

    def _stopped(self) -> list[bool]:
        return [int(state.stopped) >= 0 for state in self._states]

    def _going(self) -> list[int]:
        """The seeds that a dispatch takes: those that go on, filled up with some that do not.

        Each number of seeds is a program of its own, so it is only ever halved.
        """
        stopped = self._stopped()
        going = [index for index, end in enumerate(stopped) if not end]
        while self._width > 1 and len(going) <= self._width // 2:
            self._width //= 2
        still = [index for index, end in enumerate(stopped) if end]
        return sorted(going + still[: max(0, self._width - len(going))])

    def _dispatch(self, advance: Callable[..., list[TrainState]], until: int) -> None:
        began, before = time.monotonic(), self._updates()
        going = self._going()
        advanced = advance(
            [self._states[index] for index in going],
            self._data,
            np.int32(until - self._step),
        )
        states = dict(enumerate(self._states)) | dict(zip(going, advanced, strict=True))
        self._states, self._step = list(states.values()), until
        self._spent += time.monotonic() - began
        sequences = (self._updates() - before) * self._train.batch_size
        rate = sequences / (time.monotonic() - began)
        self._rates.append(rate)
        task, unit = self._training.task, "sequences/s"
        if task.tokens and task.every_step:
            rate *= self._steps
            unit = "characters/s" if task.decode else "symbols/s"
        self._latest["loss"] = f"{self._mean_over_seeds()['loss']:.4g}"
        if self._train.stop:
            self._latest["stopped"] = f"{sum(self._stopped())} of {len(self._states)} seeds"
        self._bar.update(until, **self._latest, at=f"{rate:,.0f} {unit}")

    def _updates(self) -> int:
        """The updates of all seeds so far."""
        return sum(int(state.step) for state in self._states)

    def _boundary(self) -> None:
        """What is due after this step: records, scores, a sample, a checkpoint, in this order."""
        train, sample = self._train, self._training.experiment.sample
        measured = self._training.experiment.gradients
        task, goal = self._training.task, self._training.goal.split
        due = self._done or self._step % train.evaluate_every == 0
        # First of all: the score may stop the last seeds, and then everything is due.
        scored = {goal: self._score_goal()} if due else {}
        last = self._done
        if last or self._step % train.log_every == 0:
            self._record("train", self._metrics())
        if measured and (last or self._step % measured.every == 0):
            self._measure_gradients(measured)
        if last or (due and train.evaluate == "all"):
            scored |= {
                split: self._looks.score(self._states, split)
                for split in task.evaluation
                if split != goal
            }
        for split in task.evaluation:
            if split in scored:
                self._record(split, scored[split])
        if sample and (last or (sample.every and self._step % sample.every == 0)):
            self._sample(sample)
        if last and train.stop:
            self._record("stop", self._stops())
        if last or (train.checkpoint_every and self._step % train.checkpoint_every == 0):
            self._save()

    def _stops(self) -> dict[str, list[float]]:
        """For each seed how many updates it made, and whether its stop rule ended them."""
        return {
            "updates": [float(state.step) for state in self._states],
            "stopped": [float(end) for end in self._stopped()],
        }

    def _metrics(self) -> dict[str, list[float]]:
        each = [step.mean_metrics(state, self._train.log_every) for state in self._states]
        return {name: [metrics[name] for metrics in each] for name in each[0]}

    def _mean_over_seeds(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in self._metrics().items()}

    def _score_goal(self) -> dict[str, list[float]]:
        """Score the goal's set, and stop the seeds that reach the goal where that is the rule."""
        goal = self._training.goal
        metrics = self._looks.score(self._states, goal.split)
        values = metrics[goal.metric]
        self._latest[f"{goal.split} {goal.metric}"] = f"{sum(values) / len(values):.4g}"
        if isinstance(self._train.stop, config.Reached):
            self._states = [
                state._replace(stopped=state.step)
                if int(state.stopped) < 0 and goal.met(value)
                else state
                for state, value in zip(self._states, values, strict=True)
            ]
        return metrics

    def _sample(self, sample: config.Sample) -> None:
        record = {"step": self._step, "seed": self._training.experiment.seed_list[0]}
        text = self._looks.sample(self._states[0], self._step, sample)
        said = {"temperature": sample.temperature, "prompt": sample.prompt, "text": text}
        self._records.sample(record | said)

    def _record(self, split: str, metrics: Mapping[str, list[float]]) -> None:
        self._records.metrics(self._step, split, self._seconds(), metrics)

    def _measure_gradients(self, spec: config.Gradients) -> None:
        self._record("gradients", self._looks.gradients(self._states, spec, self._spent))

    def _save(self) -> None:
        if self._saved != self._step:
            self._records.to_disk()
            checkpoints.save(self._folder, self._step, self._states, self._seconds())
            self._saved = self._step

    def _fault(self, advance: Callable[..., list[TrainState]]) -> tuple[int, int] | None:
        """Which seed met a number that is none, and at which update; None without.

        The dispatch is done again up to that step, and what is there before it is saved.
        """
        found = faults.first(self._states)
        if found is None:
            return None
        at = found[1]
        self._states, self._step = self._before
        if at > self._step:
            self._dispatch(advance, at)
        self._save()
        return found

    def _told(self, index: int, at: int) -> str:
        """Say where an update broke, in a line."""
        whole = processes.whole(checkpoints.plain([self._states[index]]))
        state = checkpoints.typed(jax.tree.map(jnp.asarray, whole))[0]
        return faults.told(self._training, index, state, at, debug_nans=self._debug_nans)

    def _finish(self) -> runs.Manifest:
        """Sum up what the last records say."""
        wanted = (*self._training.task.evaluation, "stop")
        found = records.final(self._folder, self._step)
        if self._training.goal.split not in found:  # its file was lost
            self._boundary()
            found = records.final(self._folder, self._step)
        final = {split: found[split] for split in found if split in wanted}
        summary = scores.summary(final, self._training.goal)
        return self._end("finished", summary=summary)

    def _end(self, state: runs.State, **changes: Any) -> runs.Manifest:
        seconds = self._seconds()
        said = f"{self._training.experiment.name}: {state} after {duration(seconds)}"
        if self._rates:
            # The median: what a dispatch takes that compiles first says nothing.
            rate = statistics.median(self._rates)
            changes["cell_steps_per_second"] = rate * self._steps * self._cells
            said += (
                f", {rate:,.0f} sequences/s, {changes['cell_steps_per_second']:,.0f} cell-steps/s"
            )
        self._bar.say(said)
        return runs.update_manifest(self._folder, state=state, seconds=round(seconds, 3), **changes)

    def _seconds(self) -> float:
        return self._earlier + time.monotonic() - self._began

    @functools.cached_property
    def _steps(self) -> float:
        """The steps of a training sequence, padding not among them, in the mean over some."""
        task = self._training.task
        sample = jax.jit(lambda data, key: task.sample(data, key, 64))
        shape = jax.eval_shape(sample, task.data, jax.random.key(0))
        if shape.lengths is None:  # nothing is drawn, or compiled, for what is known
            return float(shape.inputs.shape[1])
        return float(sample(task.data, jax.random.key(0)).lengths.mean())

    @property
    def _cells(self) -> int:
        """The recurrent units of the network."""
        layers = getattr(self._training.experiment.model, "layers", 1)
        return layers * math.prod(jl.output_shape(self._training.network.cell))
