"""From an experiment to a run folder: the loop around the compiled programs."""

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

import jaxlstm as jl
from jaxlstm import config, locks, runs, storage
from jaxlstm.errors import UserError
from jaxlstm.progress import Bar, clock
from jaxlstm.training import (
    checkpoints,
    evaluation,
    faults,
    gradients,
    model,
    objective,
    sampling,
    scores,
    seeds,
    step,
)
from jaxlstm.training.interrupts import stop_wish
from jaxlstm.training.prepare import Training, prepare
from jaxlstm.training.step import TrainState

RECORDS = ("metrics.jsonl", "samples.jsonl")


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
        return _Sitting(training, Path(folder), states, 0, 0.0, quiet, debug_nans).run(wish)


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
        for name in RECORDS:
            # What is measured before the first step is measured again.
            runs.truncate_jsonl(folder, name, step or -1)
        runs.update_manifest(
            folder, format_version=runs.FORMAT_VERSION, state="running", reason=None
        )
        return _Sitting(training, folder, states, step, seconds, quiet, debug_nans).run(wish)


class _Sitting:
    """A training from one start of the program to its end."""

    def __init__(
        self,
        training: Training,
        folder: Path,
        states: list[TrainState],
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
        self._devices = seeds.devices(self._train.devices, len(states))
        self._evaluations: dict[str, Callable[..., list[Any]]] = {}
        self._write: Callable[..., Any] | None = None
        self._events: Any = None
        if self._train.tensorboard:
            from jaxlstm.training.events import Events  # a dependency of those who ask for it

            self._events = Events(folder, training.experiment.seed_list, step=step)
        self._spent, self._measuring = 0.0, 0.0
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
            if self._events:
                self._events.close()

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
        over = jl.spread(self._devices) if self._devices > 1 else contextlib.nullcontext()
        with over, self._bar:
            self._bar.update(self._step, compiling="…")
            advance = seeds.over_seeds(
                self._training.update.advance,
                how=self._how,
                workers=1 if isinstance(experiment.penalty, config.Flossing) else None,
            )
            if experiment.gradients:
                self._prepare_gradients(experiment.gradients)
                if self._step == 0:
                    self._measure_gradients()
            while not self._done and not wish.is_set():
                ahead = [self._step - self._step % every + every for every in intervals if every]
                until = min(self._step + train.steps_per_dispatch, train.steps, *ahead)
                self._before = self._states, self._step
                self._dispatch(advance, until)
                fault = self._fault(advance)
                if fault is not None:
                    return self._end("failed", reason=fault)
                self._boundary()
            if not self._done:
                self._save()
                return self._end("interrupted")
            return self._finish()

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
            self._training.task.data,
            jnp.int32(until - self._step),
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
            self._measure_gradients()
        if last or (due and train.evaluate == "all"):
            scored |= {split: self._score(split) for split in task.evaluation if split != goal}
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

    def _prepare_gradients(self, spec: config.Gradients) -> None:
        task, network = self._training.task, self._training.network
        measure = gradients.build(
            task, network, batch_size=self._train.batch_size, sequences=spec.sequences
        )
        self._gradients = seeds.over_seeds(measure, how=self._how)

    def _measure_gradients(self) -> None:
        """Write down what gradients do, and what share of the time of training that took."""
        began = time.monotonic()
        each = jax.device_get(self._gradients(self._states, self._training.task.data))
        self._measuring += time.monotonic() - began
        metrics = gradients.recorded(each)
        if self._spent:
            metrics["time_share"] = [self._measuring / (self._measuring + self._spent)]
        self._record("gradients", metrics)

    def _score(self, split: str) -> dict[str, list[float]]:
        batch = self._training.task.evaluation[split]
        params = [state.params for state in self._states]
        if split not in self._evaluations:
            evaluate = evaluation.build(self._training.task, self._training.network)
            self._evaluations[split] = seeds.over_seeds(evaluate, how=self._how)
        each = jax.device_get(self._evaluations[split](params, batch))
        return {name: [float(scores[name]) for scores in each] for name in each[0]}

    def _score_goal(self) -> dict[str, list[float]]:
        """Score the goal's set, and stop the seeds that reach the goal where that is the rule."""
        goal = self._training.goal
        metrics = self._score(goal.split)
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
        task, state = self._training.task, self._states[0]
        if self._write is None:
            self._write = jax.jit(sampling.build(self._training.network, sample.characters))
        seed = self._training.experiment.seed_list[0]
        key = jax.random.fold_in(jax.random.fold_in(state.key, self._step), 1)
        symbols = self._write(
            state.params, key, jnp.asarray(self._training.prompt), jnp.float32(sample.temperature)
        )
        text = task.decode(symbols) if task.decode else ""
        record = {"step": self._step, "seed": seed, "temperature": sample.temperature}
        runs.append(
            self._folder, "samples.jsonl", {**record, "prompt": sample.prompt, "text": text}
        )

    def _record(self, split: str, metrics: Mapping[str, list[float]]) -> None:
        record = {"step": self._step, "split": split, "seconds": round(self._seconds(), 3)}
        runs.append(self._folder, "metrics.jsonl", {**record, "metrics": metrics})
        if self._events:
            self._events.record(self._step, split, metrics)

    def _save(self) -> None:
        if self._saved != self._step:
            storage.to_disk(self._folder / name for name in RECORDS)
            checkpoints.save(self._folder, self._step, self._states, self._seconds())
            self._saved = self._step

    def _fault(self, advance: Callable[..., list[TrainState]]) -> str | None:
        """The seed and the step at which a number stopped being one, and where, in a line.

        The dispatch is done again up to that step, and what is there before it is saved.
        """
        steps = [int(state.fault) for state in self._states]
        if max(steps) < 0:
            return None
        at = min(fault for fault in steps if fault >= 0)
        index = steps.index(at)
        self._states, self._step = self._before
        if at > self._step:
            self._dispatch(advance, at)
        self._save()
        experiment, state = self._training.experiment, self._states[index]
        task, network = self._training.task, self._training.network
        key = jax.random.fold_in(state.key, at)
        batch = task.sample(task.data, key, self._train.batch_size)
        place = gradients.trace(task, network, state.params, batch)
        if self._debug_nans:
            total = objective.build(task, network, experiment.penalty)
            made = faults.operation(total, state.params, batch, jnp.int32(at), key)
            place += f", by the operation: {made or 'none when it is not compiled'}"
        return (
            f"the loss or its gradient was not finite at step {at + 1} of seed "
            f"{experiment.seed_list[index]}, first {place}; a smaller optimizer.learning_rate or "
            "an optimizer.clip_norm may help"
        )

    def _finish(self) -> runs.Manifest:
        """Sum up what the last records say: a resumed run may have had them before it ended."""
        final = {
            record["split"]: {
                name: [float("nan") if value is None else value for value in values]
                for name, values in record["metrics"].items()
            }
            for record in runs.read_jsonl(self._folder, "metrics.jsonl")
            if record["step"] == self._step
            and record["split"] in (*self._training.task.evaluation, "stop")
        }
        summary = scores.summary(final, self._training.goal, self._training.goal_seeds)
        return self._end("finished", summary=summary)

    def _end(self, state: runs.State, **changes: Any) -> runs.Manifest:
        said = f"{self._training.experiment.name}: {state} after {clock(self._seconds())}"
        if self._rates:
            # The median: what a dispatch takes that compiles first says nothing.
            rate = statistics.median(self._rates)
            changes["cell_steps_per_second"] = rate * self._steps * self._cells
            said += (
                f", {rate:,.0f} sequences/s, {changes['cell_steps_per_second']:,.0f} cell-steps/s"
            )
        self._bar.say(said)
        return runs.update_manifest(
            self._folder, state=state, seconds=round(self._seconds(), 3), **changes
        )

    def _seconds(self) -> float:
        return self._earlier + time.monotonic() - self._began

    @functools.cached_property
    def _steps(self) -> float:
        """The steps of a training sequence, padding not among them, in the mean over some."""
        task = self._training.task
        batch = task.sample(task.data, jax.random.key(0), 64)
        steps = batch.inputs.shape[1] if batch.lengths is None else batch.lengths.mean()
        return float(steps)

    @property
    def _cells(self) -> int:
        """The recurrent units of the network."""
        layers = getattr(self._training.experiment.model, "layers", 1)
        return layers * math.prod(jl.output_shape(self._training.network.cell))


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
