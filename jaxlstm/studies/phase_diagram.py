"""Where an LSTM can be trained: a map of gain by forget bias, of the exponent and of the error."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import stats

import jaxlstm as jl
from jaxlstm import config, runs, tasks
from jaxlstm.gradients import theory as laws
from jaxlstm.studies import findings, trials
from jaxlstm.studies.findings import Prediction
from jaxlstm.tasks import Task

WARMUP = 50
RELATIVE = 0.15
AGREEMENT = 0.3


def measure(
    spec: config.PhaseDiagram, seeds: Sequence[int], folder: Path, progress: Callable[..., Any]
) -> list[runs.Score]:
    """Measure every point of the map with every seed, all in one program."""
    shape = (len(spec.forget_biases), len(spec.gains), len(seeds))
    grid = jnp.meshgrid(
        jnp.array(spec.forget_biases), jnp.array(spec.gains), jnp.array(seeds), indexing="ij"
    )
    bias, gain, seed = (axis.ravel() for axis in grid)
    keys = jax.vmap(jax.random.key)(seed.astype(jnp.int32))
    cell = jl.lstm(
        input_size=2,
        hidden_size=spec.hidden_size,
        recurrent_init=jl.initializers.ginibre(gain=1.0),
        forget_bias=0.0,
    )
    task = tasks.build(config.Adding(length=spec.length))
    model = trials.network(cell, task)
    forget = slice(spec.hidden_size, 2 * spec.hidden_size)

    def begin(params: Any, setting: tuple[Array, Array]) -> Any:
        bias, gain = setting
        own = params.cell
        own = own._replace(
            recurrent_kernel=gain * own.recurrent_kernel, bias=own.bias.at[forget].set(bias)
        )
        return params._replace(cell=own)

    with progress("phase diagram", 3, unit="maps") as bar:
        trial = trials.train(
            model,
            task,
            keys,
            optimizer=trials.clipped_adam(spec.learning_rate),
            updates=spec.updates,
            batch_size=spec.batch_size,
            begin=begin,
            settings=(bias, gain),
        )
        error = trials.score(model, task, trial.last)["mse"]
        bar.update(1)

        driving = tasks.build(config.Adding(length=spec.driven_steps + WARMUP))
        exponents = jax.jit(jax.vmap(functools.partial(_exponent, cell, driving)))
        driven = np.asarray(exponents(trial.first.cell, keys))
        bar.update(2)
        at_rest = jax.jit(jax.vmap(functools.partial(_jacobian, cell)))
        jacobians = np.asarray(at_rest(trial.first.cell), np.float64)
        radii = np.abs(np.linalg.eigvals(jacobians)).max(axis=-1)
        bar.update(3)
    maps = {
        "exponent": driven.reshape(shape),
        "error": np.asarray(error).reshape(shape),
        "radius": radii.reshape(shape),
    }
    _draw(spec, maps, folder)
    return findings.write(
        folder,
        "“Within” compares the mean over seeds, a bound must hold for every seed.",
        _predictions(spec, maps),
    )


def _exponent(cell: jl.Cell, driving: Task, params: Any, key: Array) -> Array:
    """The largest Lyapunov exponent, driven by the inputs of a task."""
    inputs = driving.sample((), key, 1).inputs[0]
    found = jl.gradients.lyapunov_spectrum(cell, params, inputs, count=1, warmup=WARMUP, key=key)
    return found.exponents[0]


def _jacobian(cell: jl.Cell, params: Any) -> Array:
    """dc'/dc at zero state and input."""

    def step(memory: Array) -> Array:
        state = jl.LSTMCarry(jax.nn.sigmoid(0.0) * jnp.tanh(memory), memory)
        return cell.step(params, state, jnp.zeros(2))[0].cell

    return jax.jacfwd(step)(cell.initial_carry(params).cell)


def _predictions(spec: config.PhaseDiagram, maps: dict[str, np.ndarray]) -> list[Prediction]:
    found = []
    for row, bias in enumerate(spec.forget_biases):
        for column, gain in enumerate(spec.gains):
            if gain not in (min(spec.gains), max(spec.gains)):
                continue
            found.append(
                Prediction(
                    f"radius of dc'/dc at rest, f + g/4, forget bias {bias:g}, gain {gain:g}",
                    laws.lstm_radius(gain, bias),
                    maps["radius"][row, column],
                    tolerance=RELATIVE,
                    relative=True,
                )
            )
    low, high = np.argmin(spec.gains), np.argmax(spec.gains)
    widest = int(np.argmax(spec.forget_biases))
    exponents = maps["exponent"]
    found += [
        Prediction(
            f"driven exponent at gain {min(spec.gains):g}, forget bias "
            f"{max(spec.forget_biases):g}: ln σ(bias), the open gate alone",
            math.log(laws.forget_factor(max(spec.forget_biases), 1)),
            exponents[widest, low],
            tolerance=RELATIVE,
            relative=True,
        ),
        Prediction(
            "driven exponent, largest gain less smallest, least over forget biases",
            0.0,
            (exponents[:, high] - exponents[:, low]).min(axis=0),
            "at least",
        ),
        Prediction(
            "rank correlation over the map of |exponent| and the error after training",
            AGREEMENT,
            [
                _ranks(np.abs(exponents[..., seed]), maps["error"][..., seed])
                for seed in range(exponents.shape[-1])
            ],
            "at least",
        ),
    ]
    return found


def _ranks(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where a value is, or where all are alike."""
    ranks = [stats.rankdata(values.ravel(), nan_policy="propagate") for values in (a, b)]
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(*ranks)[0, 1])


def _draw(spec: config.PhaseDiagram, maps: dict[str, np.ndarray], folder: Path) -> None:
    def panel(title: str, label: str, values: np.ndarray, scale: str = "linear") -> dict[str, Any]:
        return {
            "title": title,
            "x": {"label": "recurrent gain g", "values": list(spec.gains)},
            "y": {"label": "forget bias", "values": list(spec.forget_biases)},
            "z": {"label": label, "values": values.tolist(), "scale": scale},
        }

    findings.figure(
        folder,
        "map",
        "Where an LSTM can be trained",
        "Left: the largest Lyapunov exponent of the network as initialised, driven "
        "by the inputs of the task; below zero it forgets, above it is chaotic. Right: "
        f"the mean squared error on adding over {spec.length} steps after {spec.updates} "
        "updates (0.167 without memory). Means over seeds, on the right geometric.",
        [
            panel("as initialised", "λ₁ (nats a step)", maps["exponent"].mean(axis=-1)),
            panel(
                "after training",
                "mean squared error",
                np.exp(np.log(maps["error"]).mean(axis=-1)),
                "log",
            ),
        ],
        kind="heatmap",
    )
