"""Which gate matters: the variants of the search-space study, before and after training."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxlstm as jl
from jaxlstm import config, runs, tasks
from jaxlstm.studies import findings, trials
from jaxlstm.studies.findings import Prediction
from jaxlstm.tasks import Task

VARIANTS: dict[str, dict[str, Any]] = {
    "LSTM": {},
    "no input gate": {"input_gate": False},
    "no forget gate": {"forget_gate": False},
    "no output gate": {"output_gate": False},
    "no input activation": {"activation": "identity", "output_activation": "tanh"},
    "no output activation": {"output_activation": "identity"},
    "coupled gates": {"coupled": True},
    "peepholes": {"peepholes": True},
    "gates see gates": {"full_gate_recurrence": True},
}
SHOWN = ("LSTM", "no forget gate", "coupled gates", "no input gate")


def measure(
    spec: config.Gates, seeds: Sequence[int], folder: Path, progress: Callable[..., Any]
) -> list[runs.Score]:
    """Train every variant on both tasks, and follow the gradient before and after."""
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    learnt: dict[str, dict[str, Any]] = {}
    both = {
        "adding": tasks.build(config.Adding(length=spec.length)),
        "copy": tasks.build(
            config.CopyMemory(delay=spec.delay, symbols=spec.symbols, payload=spec.payload)
        ),
    }
    with progress("gates", len(both) * len(VARIANTS), unit="trainings") as bar:
        for name, task in both.items():
            learnt[name] = {}
            for variant in VARIANTS:
                learnt[name][variant] = _variant(spec, task, VARIANTS[variant], keys)
                bar.update(sum(map(len, learnt.values())))
    for name, task in both.items():
        _draw(name, task, learnt[name], folder)
    _table(both, learnt, folder)
    return findings.write(
        folder,
        "A share is the norm of the gradient at the memory far back over the largest norm anywhere "
        "in the sequence. “Within” compares the mean over seeds, a bound must hold for every seed.",
        _predictions(both, learnt),
    )


def _variant(spec: config.Gates, task: Task, options: Any, keys: Array) -> dict[str, Any]:
    cell = jl.lstm(input_size=task.input_size, hidden_size=spec.hidden_size, **options)
    model = trials.network(cell, task)
    trial = trials.train(
        model,
        task,
        keys,
        optimizer=trials.clipped_adam(spec.learning_rate),
        updates=spec.updates,
        batch_size=spec.batch_size,
    )

    def flow(params: Any, key: Array) -> Array:
        """Log ‖∂L/∂c_t‖ by lag, of the error at the end, mean over a batch."""
        batch = task.sample(task.data, key, 16)

        def loss(outputs: Array) -> Array:
            return jnp.sum(outputs[:, -1] ** 2)

        inputs = model.encode(params, batch.inputs)
        norms = jl.gradients.flow(cell, params.cell, inputs, loss).norms.cell
        return jnp.mean(jnp.log(norms), axis=0)[::-1]

    def at_rest(params: Any) -> Array:
        """What one step without input and state keeps of a small memory, the mean over units."""
        carry = cell.initial_carry(params.cell)

        def step(memory: Array) -> Array:
            zero = jnp.zeros(task.input_size)
            return cell.step(params.cell, carry._replace(cell=memory), zero)[0].cell

        return jnp.mean(jnp.diagonal(jax.jacfwd(step)(carry.cell)))

    measured = jax.jit(jax.vmap(flow))
    return {
        "before": np.asarray(measured(trial.first, keys)),
        "after": np.asarray(measured(trial.last, keys)),
        "kept before": np.asarray(jax.vmap(at_rest)(trial.first)),
        "kept after": np.asarray(jax.vmap(at_rest)(trial.last)),
        "losses": np.asarray(trial.losses),
        "scores": {k: np.asarray(v) for k, v in trials.score(model, task, trial.last).items()},
        "finite": np.asarray(jax.vmap(lambda p: jnp.isfinite(p.readout.bias).all())(trial.last)),
    }


def share(logs: np.ndarray) -> np.ndarray:
    """The gradient at the first step over the largest anywhere, for each seed."""
    return np.exp(logs[:, -1] - logs.max(axis=1))


def _predictions(both: Any, learnt: Any) -> list[Prediction]:
    adding, copying = learnt["adding"], learnt["copy"]
    start = adding["LSTM"]
    found = [
        Prediction(
            "LSTM, adding, before: what a unit keeps of its memory in a step at rest, σ(1)",
            1 / (1 + math.exp(-1)),
            start["kept before"],
            tolerance=1e-3,
        ),
        Prediction(
            "no forget gate, adding, before: what a unit keeps in a step at rest",
            1.0,
            adding["no forget gate"]["kept before"],
            tolerance=1e-6,
        ),
        Prediction(
            "no forget gate, adding, after: the same, since nothing can close it",
            1.0,
            adding["no forget gate"]["kept after"],
            tolerance=1e-6,
        ),
        Prediction(
            "no forget gate, adding, before: share of the gradient at the first step",
            0.1,
            share(adding["no forget gate"]["before"]),
            "at least",
        ),
        Prediction(
            "LSTM, adding, after: training opens the forget gate, kept in a step at rest",
            1 / (1 + math.exp(-1)),
            start["kept after"],
            "at least",
        ),
    ]
    for variant in ("LSTM", "no forget gate", "coupled gates", "peepholes"):
        found.append(
            Prediction(
                f"{variant}, adding: mean squared error, a tenth of that without memory",
                1 / 60,
                adding[variant]["scores"]["mse"],
                "at most",
            )
        )
    memoryless = both["copy"].baselines["memoryless cross_entropy"]
    for variant in ("LSTM", "coupled gates", "peepholes"):
        found.append(
            Prediction(
                f"{variant}, copy: cross-entropy, half of that without memory",
                memoryless / 2,
                copying[variant]["scores"]["cross_entropy"],
                "at most",
            )
        )
    return found


def _draw(name: str, task: Task, learnt: Any, folder: Path) -> None:
    panels = []
    for when in ("before", "after"):
        series = []
        for variant in SHOWN:
            logs = learnt[variant][when]
            logs = logs - logs.max(axis=1, keepdims=True)
            series.append(findings.measured(variant, np.arange(logs.shape[1]), logs))
        panels.append(
            findings.panel(f"{when} training", findings.LAG, "‖∂L/∂c_t‖, largest = 1", series)
        )
    curves = []
    for variant in SHOWN:
        losses = learnt[variant]["losses"]
        curves.append(findings.learning(variant, losses, max(1, losses.shape[1] // 40)))
    panels.append(findings.panel("learning", "updates", "loss", curves))
    findings.figure(
        folder,
        name,
        f"Which gate matters: {task.name}",
        "Norm of the gradient of the last output's size with respect to the memory, "
        "by how far back, as initialised and as trained, and the loss on the way (means of "
        "40 stretches of updates). Bands: range over seeds.",
        panels,
    )


def _table(both: Any, learnt: Any, folder: Path) -> None:
    rows = []
    for variant in VARIANTS:
        adding, copying = learnt["adding"][variant], learnt["copy"][variant]
        rows.append(
            [
                variant,
                *(_spread(share(adding[when])) for when in ("before", "after")),
                _spread(adding["scores"]["mse"]),
                *(_spread(share(copying[when])) for when in ("before", "after")),
                _spread(copying["scores"]["cross_entropy"]),
                _spread(copying["scores"]["recall"]),
            ]
        )
    runs.write_table(
        folder,
        "variants",
        title="All variants",
        caption="Share of the gradient that reaches the first step's memory before and after "
        "training, and the scores after it: mean over seeds (range). Without memory adding has "
        f"{both['adding'].baselines['memoryless mse']:.3g}, copying "
        f"{both['copy'].baselines['memoryless cross_entropy']:.3g}.",
        columns=[
            "variant",
            "adding: before",
            "after",
            "squared error",
            "copy: before",
            "after",
            "cross-entropy",
            "recall",
        ],
        rows=rows,
    )


def _spread(values: Any) -> str:
    values = np.asarray(values, float)
    return f"{values.mean():.2g} ({values.min():.2g} … {values.max():.2g})"
