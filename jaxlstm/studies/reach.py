"""Where gradients go in a real task: contribution by lag, and how much context a network uses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree

import jaxlstm as jl
from jaxlstm import config, runs, training
from jaxlstm.cells.base import Carry
from jaxlstm.errors import UserError
from jaxlstm.studies import findings
from jaxlstm.studies.findings import Prediction
from jaxlstm.tasks import Batch, Task
from jaxlstm.training.model import Params

SCORED = 512


class Made(NamedTuple):
    """A network that is looked at: where it comes from, and what is trained already."""

    given: str
    label: str
    training: training.Training
    trained: list[Params] | None


def prepare(spec: config.Reach, seeds: Sequence[int]) -> list[Made]:
    """Read the configs and the run folders, and refuse what cannot be measured; write nothing."""
    found = [(given, *_read(given, seeds)) for given in spec.trainings]
    names = [made.experiment.name for _, made, _ in found]
    return [
        Made(given, name if names.count(name) == 1 else f"{name}, {given}", made, trained)
        for name, (given, made, trained) in zip(names, found, strict=True)
    ]


def measure(
    spec: config.Reach, prepared: Sequence[Made], folder: Path, progress: Callable[..., Any]
) -> list[runs.Score]:
    """Train the networks that are not, and follow the loss of one step back through time."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with progress("reach", len(prepared), unit="networks") as bar:
        for number, one in enumerate(prepared, start=1):
            made, last = _trained(one, number, folder)
            first = [state.params for state in made.states()]
            found[one.label] = _look(spec, made, first, last)
            bar.update(len(found))
    tasks = {one.label: one.training.task for one in prepared}
    _draw(spec, found, tasks, folder)
    return findings.write(
        folder,
        "The loss is that of one step, the last of each sequence. The truncation error is the size "
        "of what truncated backpropagation leaves out of the gradient, as a share of it. “Within” "
        "compares the mean over seeds, a bound must hold for every seed.",
        list(_predictions(found, tasks)),
    )


def _read(given: str, seeds: Sequence[int]) -> tuple[training.Training, list[Params] | None]:
    """Read the folder of a run, or make the training of a config ready to be run."""
    try:
        if Path(given).is_dir():
            made, trained = _restored(Path(given))
        else:
            experiment = config.load(given)
            if not isinstance(experiment, config.Experiment):
                raise UserError("it is no config of a training")
            made = training.prepare(msgspec.structs.replace(experiment, seeds=tuple(seeds)))
            trained = None
        _check(made)
    except UserError as error:
        raise UserError(
            f"study.trainings: expected configs of trainings or run folders, got '{given}': {error}"
        ) from None
    return made, trained


def _check(made: training.Training) -> None:
    """Refuse a network that cannot be stepped, and a task whose last step says nothing alone."""
    if made.network.cell.whole:
        raise UserError("its network cannot be stepped")
    task = made.task
    if not task.every_step:
        return
    batch = next(iter(task.evaluation.values()))
    outputs = jnp.zeros((len(batch.inputs), 1, task.output_size))
    if batch.lengths is not None or not jnp.isfinite(task.loss(outputs, _end(batch))[0]):
        kind = made.experiment.task.__struct_config__.tag
        raise UserError(f"its task is {kind}, expected one that can ask about the last step alone")


def _end(batch: Batch) -> Batch:
    """The last step of sequences of one length."""
    return Batch(batch.inputs[:, -1:], batch.targets[:, -1:])


def _restored(room: Path) -> tuple[training.Training, list[Params]]:
    made, states = training.restore(room)
    return made, [state.params for state in states]


def _trained(one: Made, number: int, folder: Path) -> tuple[training.Training, list[Params]]:
    """Train what is not, into a run folder inside that of the study, and read what was trained."""
    if one.trained is not None:
        return one.training, one.trained
    name = one.training.experiment.name
    room = folder / "trainings" / name
    if one.label != name:
        room /= str(number)
    command = f"a training of the study {folder}"
    manifest = training.run(one.training, room, command=command, quiet=True)
    if manifest.state == "interrupted":
        raise KeyboardInterrupt
    if manifest.state != "finished":
        raise UserError(f"study.trainings: '{one.given}' has {manifest.state}: {manifest.reason}")
    return _restored(room)


def _sequences(spec: config.Reach, made: training.Training) -> Batch:
    """Sequences of the first evaluation set, each with the target of its last step alone."""
    batch = next(iter(made.task.evaluation.values()))
    if made.task.every_step:
        steps = min(spec.length, batch.inputs.shape[1])
        inputs, targets = batch.inputs, batch.targets
        count = batch.inputs.shape[1] // steps
        inputs = inputs[:, : count * steps].reshape(-1, steps, *inputs.shape[2:])
        targets = targets[:, : count * steps].reshape(-1, steps, *targets.shape[2:])
        batch = Batch(inputs, targets)
    # Evenly over the set, which may be in order.
    chosen = np.linspace(0, len(batch.inputs) - 1, min(SCORED, len(batch.inputs))).astype(int)
    return jax.tree.map(lambda leaf: leaf[chosen], batch)


def _look(
    spec: config.Reach, made: training.Training, first: list[Params], last: list[Params]
) -> dict[str, np.ndarray]:
    every = _sequences(spec, made)
    few = np.linspace(0, len(every.inputs) - 1, min(spec.sequences, len(every.inputs))).astype(int)
    some = jax.tree.map(lambda leaf: leaf[few], every)
    look = jax.jit(lambda params: lax.map(lambda one: _contributions(made, params, one), some))
    longest = every.inputs.shape[1]
    contexts = [*(c for c in sorted(spec.contexts) if c < longest), longest]
    scored = [jax.jit(lambda params, c=c: _shown(made, params, every, c)) for c in contexts]
    found: dict[str, list[Any]] = {}
    for when, networks in (("before", first), ("after", last)):
        for params in networks:
            seen = {name: np.asarray(leaf, np.float64) for name, leaf in look(params).items()}
            valid = seen.pop("valid").astype(bool)
            sums = seen.pop("sum")
            for name, leaf in seen.items():
                # Where no sequence is so long there is nothing to average.
                mean = np.where(valid, leaf, 0).sum(axis=0) / np.maximum(valid.sum(axis=0), 1)
                found.setdefault(f"{name} {when}", []).append(mean[: valid.any(axis=0).sum()])
            found.setdefault(f"sum {when}", []).append(sums.max())
            found.setdefault(f"loss {when}", []).append([float(f(params)) for f in scored])
    found["contexts"] = [contexts]
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def _contributions(made: training.Training, params: Params, one: Batch) -> dict[str, Array]:
    """What the steps of one sequence have to do with the loss of its last, by lag."""
    network, cell = made.network, made.network.cell
    batch = jax.tree.map(lambda leaf: leaf[None], one)
    inputs, hold = network.encode(params, batch.inputs), network.masked_outputs
    options = {"lengths": batch.lengths, "masked_outputs": hold}
    loss = _at_end(made, params, batch)
    length = jnp.array(inputs.shape[1]) if one.lengths is None else one.lengths
    norms = jl.gradients.flow(cell, params.cell, inputs, loss, **options).norms
    memory = _memory(norms)[0]
    taught = jl.gradients.weight_flow(cell, params.cell, inputs, loss, **options)
    steps = jax.vmap(lambda step: ravel_pytree(step)[0])(taught.steps)
    steps = _aligned(steps, length)
    given = lambda weights: loss(jl.unroll(cell, weights, inputs, **options).outputs)  # noqa: E731
    whole = ravel_pytree(jax.grad(given)(params.cell))[0]
    size = jnp.linalg.norm(whole)
    contribution = jnp.linalg.norm(steps, axis=1)
    missing = jnp.cumsum(steps[::-1], axis=0)[::-1] - steps
    return {
        # Each sequence counts alike, also one that the network is sure of.
        "memory": _aligned(memory, length) / jnp.max(memory),
        "contribution": contribution / jnp.sum(contribution),
        "truncation": jnp.linalg.norm(missing, axis=1) / size,
        "sum": jnp.linalg.norm(jnp.sum(steps, axis=0) - whole) / size,
        "valid": jnp.arange(len(steps)) < length,
    }


def _shown(made: training.Training, params: Params, every: Batch, context: int) -> Array:
    """The loss at the last step when the network begins so many steps before it."""
    network = made.network
    inputs, lengths, longest = every.inputs, every.lengths, every.inputs.shape[1]
    if lengths is not None:
        kept = jnp.minimum(lengths, context)
        index = jnp.arange(longest)[None] + (lengths - kept)[:, None]
        index = jnp.minimum(index, longest - 1).reshape(*index.shape, *[1] * (inputs.ndim - 2))
        inputs, lengths = jnp.take_along_axis(inputs, index, axis=1), kept
    else:
        inputs = inputs[:, -context:]
    encoded, hold = network.encode(params, inputs), network.masked_outputs
    out = jl.unroll(network.cell, params.cell, encoded, lengths=lengths, masked_outputs=hold)
    return _at_end(made, params, every)(out.outputs)


def _at_end(made: training.Training, params: Params, batch: Batch) -> Callable[[Array], Array]:
    """The loss of the last step of a batch, from the cell's outputs."""
    task, network = made.task, made.network

    def loss(outputs: Array) -> Array:
        if not task.every_step:
            return task.loss(network.readout(params, outputs), batch)[0]
        return task.loss(network.readout(params, outputs[:, -1:]), _end(batch))[0]

    return loss


def _aligned(leaf: Array, length: Array) -> Array:
    """By lag: the last valid step first, `[T, …]`; what lies before the beginning is zero."""
    index = length - 1 - jnp.arange(len(leaf))
    before = index.reshape(-1, *[1] * (leaf.ndim - 1)) < 0
    return jnp.where(before, 0, leaf[jnp.maximum(index, 0)])


def _memory(carry: Carry) -> Array:
    """The part of a carry that remembers: the cell of the last layer, or what there is."""
    named = jax.tree_util.tree_leaves_with_path(carry)
    for name in ("cell", "hidden"):
        found = [leaf for path, leaf in named if getattr(path[-1], "name", None) == name]
        if found:
            return found[-1]
    return named[-1][1]


def _mean_lag(memory: np.ndarray) -> np.ndarray:
    """How far back the error lies in the mean, for each seed."""
    return (memory * np.arange(memory.shape[1])).sum(axis=1) / memory.sum(axis=1)


def _excess(found: dict[str, np.ndarray]) -> np.ndarray:
    return found["loss after"] - found["loss after"][:, -1:]


def _enough(found: dict[str, np.ndarray], most: float) -> np.ndarray:
    """The smallest context whose loss is within so many nats of that of the longest."""
    return _first(_excess(found) < most, found["contexts"][0])


def _first(flags: np.ndarray, of: np.ndarray) -> np.ndarray:
    """What stands at the first true flag of each row `[seeds, points]`; NaN where none is."""
    return np.where(flags.any(axis=1), of[flags.argmax(axis=1)], np.nan)


def _predictions(
    found: dict[str, dict[str, np.ndarray]], tasks: Mapping[str, Task]
) -> Iterator[Prediction]:
    for name, one in found.items():
        every_step = tasks[name].every_step
        for when in ("before", "after"):
            yield Prediction(
                f"{name}, {when}: contributions of all steps less the gradient, as a share of it",
                0.0,
                one[f"sum {when}"],
                tolerance=1e-3,
            )
        # Asked at every step a network learns to forget, asked at the end to hold.
        yield Prediction(
            f"{name}: mean lag of the error at the memory, after over before",
            1.0,
            _mean_lag(one["memory after"]) / _mean_lag(one["memory before"]),
            "at most" if every_step else "at least",
        )
        # A bound in nats says nothing of an error that has a scale of its own.
        in_nats = tasks[name].unit == "nats"
        if in_nats:
            yield Prediction(
                f"{name}, after: loss with {one['contexts'][0][0]:g} input less that with all "
                "(nats)",
                0.1,
                _excess(one)[:, 0],
                "at least",
            )
        half = len(one["contribution after"][0]) // 2
        early = one["contribution after"][:, half:].sum(axis=1)
        yield Prediction(
            f"{name}, after: share of the contributions from lags of {half} and more",
            0.1,
            early / one["contribution after"].sum(axis=1),
            "at most" if every_step else "at least",
        )
        if in_nats:
            # Where truncation leaves a tenth of the gradient out, what is cut away is worth little.
            error = one["truncation after"]
            cut = _first(error < 0.1, np.arange(1, error.shape[1] + 1))
            yield Prediction(
                f"{name}, after: |log₂| of context within .05 nats over steps back with a tenth of "
                "truncation error",
                1.0,
                np.abs(np.log2(_enough(one, 0.05) / cut)),
                "at most",
            )


def _draw(
    spec: config.Reach,
    found: dict[str, dict[str, np.ndarray]],
    tasks: Mapping[str, Task],
    folder: Path,
) -> None:
    def lines(what: Callable[[str], str], label: str) -> list[Any]:
        panels = []
        for name, one in found.items():
            series = []
            for when in ("before", "after"):
                values = one[what(when)]
                x = np.arange(values.shape[1])
                with np.errstate(divide="ignore"):
                    series.append(findings.measured(f"{when} training", x, np.log(values)))
            panels.append(findings.panel(name, findings.LAG, label, series))
        return panels

    figures = {
        "1-memory": (
            "Where the error at one step goes",
            "Norm of the gradient of the loss at the last step with respect to the memory, by how "
            f"far back: each of {spec.sequences} sequences that were not trained on as a share of "
            "its largest, then their mean. Bands: range over seeds.",
            lines(lambda when: f"memory {when}", "‖∂ℓ_T/∂c_t‖ (share of the largest)"),
        ),
        "2-contribution": (
            "Which steps teach the weights",
            "Norm of what each earlier step contributes to the gradient of the cell's weights, by "
            "how far back: each sequence as a share of the sum over its steps, then their mean. "
            "Bands: range over seeds.",
            lines(lambda when: f"contribution {when}", "‖∂ℓ_T/∂W_t‖ (share of all steps)"),
        ),
        "3-truncation": (
            "What truncation leaves out, and what context is worth",
            "Error of backpropagation that stops so many steps back, as a share of the gradient, "
            "and the loss at the last step when the trained network begins so many steps before "
            f"it, less the loss with all steps, over up to {SCORED} sequences. Bands: range over "
            "seeds.",
            _worth(found, tasks),
        ),
    }
    for stem, (title, caption, panels) in figures.items():
        findings.figure(folder, stem, title, caption, panels)


def _worth(found: dict[str, dict[str, np.ndarray]], tasks: Mapping[str, Task]) -> list[Any]:
    panels = []
    for name, one in found.items():
        unit = tasks[name].unit
        error = one["truncation after"]
        steps = np.arange(1, error.shape[1] + 1)
        series = [
            findings.plain("truncation error (share)", steps, error),
            findings.plain(f"excess loss ({unit})", one["contexts"][0], _excess(one)),
        ]
        panel = findings.panel(name, "steps back", f"share, or {unit}", series, scale="linear")
        panels.append({**panel, "x": {"label": "steps back", "scale": "log"}})
    return panels
