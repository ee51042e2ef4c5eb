"""Vanishing and exploding gradients: the lecture's argument, measured and held against theory.

Everything is in float64, so that a hundred vanishing steps can be told from zero.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxlstm as jl
from jaxlstm import config, runs
from jaxlstm.gradients import theory as laws
from jaxlstm.studies import findings
from jaxlstm.studies.findings import Prediction
from jaxlstm.studies.networks import (
    final_flow,
    gate_products,
    lstms,
    named,
    orthogonal_rnn,
    random_logs,
    sizes,
)

PARTS = 5


def measure(
    spec: config.Vanishing, seeds: Sequence[int], folder: Path, progress: Callable[..., Any]
) -> list[runs.Score]:
    """Measure all parts, write their figures and the table of predictions."""
    with jax.enable_x64(True), progress("vanishing", PARTS, unit="parts") as bar:
        found: list[Prediction] = []
        keys = [jax.random.key(seed) for seed in seeds]
        for done, part in enumerate((_scalar, _rnn, _lstm, _paths, _lengths), start=1):
            found += part(spec, keys, folder)
            bar.update(done)
    return findings.write(
        folder,
        "A rate is the change of the logarithm of a gradient's norm with each step further back. "
        "“Within” compares the mean over seeds, a bound must hold for every seed.",
        found,
    )


def _scalar(study: config.Vanishing, keys: list[Array], folder: Path) -> list[Prediction]:
    """The linear unit x_t = w x_{t−1}: the gradient of the shared weight against N w^{N−1}."""
    cell = jl.rnn(input_size=1, hidden_size=1, activation="identity", use_bias=False)
    horizon = study.steps

    @jax.jit
    def states(w: Array) -> Array:
        params = jl.RNNParams(jnp.zeros((1, 1)), jnp.reshape(w, (1, 1)), None)
        carry = jl.RNNCarry(jnp.ones(1))
        return jl.unroll(cell, params, jnp.zeros((horizon, 1)), carry=carry).outputs[:, 0]

    steps = np.arange(1, horizon + 1)
    panels, errors = [], []
    for w in study.gains:
        gradient = np.asarray(jax.jacfwd(states)(jnp.asarray(w)))
        exact = np.array([laws.weight_gradient(w, int(n)) for n in steps])
        errors.append(float(np.max(np.abs(gradient / exact - 1))))
        panels.append(
            findings.panel(
                f"w = {w:g}",
                "number of steps N",
                "derivative of x_N",
                [
                    findings.measured("dx_N/dw by autodiff", steps, np.log(gradient)[None]),
                    findings.theory("N w^(N−1)", steps, np.log(exact)),
                    findings.theory(
                        "dx_N/dx_0 = w^N", steps, steps * math.log(w), role="reference"
                    ),
                ],
            )
        )
    findings.figure(
        folder,
        "1-scalar",
        "The shared weight is not a power",
        "A linear unit x_t = w x_{t−1} with x_0 = 1. The gradient of the shared "
        "weight is N w^(N−1): at w = 1 it grows linearly. What is a power of N is the state "
        "Jacobian dx_N/dx_0.",
        panels,
    )
    return [
        Prediction(
            "dx_N/dw against N w^(N−1), largest relative error", 1e-10, [max(errors)], "at most"
        )
    ]


def _rnn(study: config.Vanishing, keys: list[Array], folder: Path) -> list[Prediction]:
    """Linear orthogonal networks against gain^lag, large random tanh ones against mean field."""
    lags = np.arange(study.steps)
    found, linear, random = [], [], []
    for gain in study.gains:
        flow = final_flow(
            orthogonal_rnn(study.hidden_size, gain, "identity"), study.steps, 1.0, 1.0
        )
        logs = np.stack([flow(key).hidden for key in keys])
        rate = math.log(gain)
        linear += [
            findings.measured(f"gain {gain:g}", lags, logs),
            findings.theory(f"{gain:g}^lag", lags, lags * rate),
        ]
        found.append(
            Prediction(
                f"rate, linear orthogonal RNN, gain {gain:g}",
                rate,
                findings.slope(logs, 0, study.steps),
                tolerance=1e-9,
            )
        )
    for gain in study.random_gains:
        logs = random_logs(study.large_size, gain, study.steps, keys)
        rate = laws.tanh_exponent(gain)
        random += [
            findings.measured(f"gain {gain:g}", lags, logs),
            findings.theory(f"mean field, {rate:+.3f} a step", lags, lags * rate),
        ]
        last = min(study.steps, 60)
        found.append(
            Prediction(
                f"rate, random tanh RNN of {study.large_size}, gain {gain:g}",
                rate,
                findings.slope(logs, 5, last),
                tolerance=0.02,
            )
        )
    findings.figure(
        folder,
        "2-rnn",
        "A simple RNN: gradients go as gain^lag",
        "Norm of the gradient of a random direction of the last output with respect "
        "to the hidden state, by how far back. Left: orthogonal recurrent weights without "
        "non-linearity. Right: random recurrent weights with tanh, where the non-linearity "
        "takes from the gain what mean-field theory says. Bands: range over seeds.",
        [
            findings.panel("linear, orthogonal", findings.LAG, "‖∂L/∂h_t‖", linear),
            findings.panel(
                f"tanh, random, N = {study.large_size}", findings.LAG, "‖∂L/∂h_t‖", random
            ),
        ],
    )
    return found


def _lstm(study: config.Vanishing, keys: list[Array], folder: Path) -> list[Prediction]:
    """The same instrument on a tanh RNN and on LSTMs, driven by noise."""
    lags = np.arange(study.steps)
    hidden, cells, found = [], [], []
    rnn = final_flow(orthogonal_rnn(study.hidden_size, 1.0, "tanh"), study.steps, 1.0, 0.0)
    logs = np.stack([rnn(key).hidden for key in keys])
    far = study.steps - 1
    hidden.append(findings.measured("simple RNN", lags, logs))
    found.append(
        Prediction(
            f"tanh RNN with orthogonal weights: gradient {far} steps back, share of the last",
            1.0,
            np.exp(logs[:, far] - logs[:, 0]),
            "at most",
        )
    )
    kept = {}
    for name, cell in lstms(study).items():
        flow = final_flow(cell, study.steps, 1.0, 0.0)
        norms = [flow(key) for key in keys]
        hidden.append(findings.measured(name, lags, np.stack([n.hidden for n in norms])))
        memory = np.stack([n.cell for n in norms])
        cells.append(findings.measured(name, lags, memory))
        kept[name] = memory[:, far] - memory[:, 0]
    for bias in study.forget_biases:
        line = lags * math.log(laws.forget_factor(bias, 1))
        cells.append(findings.theory(f"σ({bias:g})^lag", lags, line))
    share = np.exp(kept["chrono"])
    found.append(
        Prediction(
            f"LSTM with chrono initialisation: memory gradient {far} steps back, share of the last",
            0.01,
            share,
            "at least",
        )
    )
    findings.figure(
        folder,
        "3-lstm",
        "An LSTM: the memory keeps what the forget gate lets it keep",
        "Norm of the gradient of a random direction of the last output, networks as "
        "initialised, driven by noise. Left: with respect to the output h_t, simple RNN beside "
        "LSTM. Right: with respect to the memory c_t; dashed: the power of the forget gate at "
        "rest. Bands: range over seeds.",
        [
            findings.panel("output", findings.LAG, "‖∂L/∂h_t‖", hidden),
            findings.panel("memory", findings.LAG, "‖∂L/∂c_t‖", cells),
        ],
    )
    return found


def _paths(study: config.Vanishing, keys: list[Array], folder: Path) -> list[Prediction]:
    """The constant error carousel apart from the whole Jacobian, ∂state_T/∂state_t."""
    lags = np.arange(study.steps + 1)
    biases = named(study.forget_biases)
    panels, found = [], []
    for name, cell in lstms(study).items():
        jacobians = _jacobians(cell, study.steps)
        driven = [jacobians(key, 1.0) for key in keys]
        carousel, whole, products = (np.stack(part) for part in zip(*driven, strict=True))
        error = np.max(np.abs(np.expm1(carousel - products)), axis=1)
        found.append(
            Prediction(
                f"cell path against ∏ f_t, {name}, largest relative error", 1e-9, error, "at most"
            )
        )
        series = [
            findings.measured("whole Jacobian", lags, whole),
            findings.measured("cell path alone", lags, carousel),
        ]
        if name in biases:
            bias = biases[name]
            line = lags * math.log(laws.forget_factor(bias, 1))
            series.append(findings.theory(f"σ({bias:g})^lag", lags, line))
            rest = [float(np.exp(jacobians(key, 0.0)[0][-1])) for key in keys]
            found.append(
                Prediction(
                    f"cell path at rest, {name}, after {study.steps} steps",
                    laws.forget_factor(bias, study.steps),
                    rest,
                    tolerance=1e-9,
                    relative=True,
                )
            )
        panels.append(findings.panel(name, findings.LAG, "‖∂state_T/∂state_t‖", series))
        if name == "forget bias 0":
            found.append(
                Prediction(
                    f"whole Jacobian over cell path, {name}, powers of ten at {study.steps} steps",
                    1.0,
                    (whole - carousel)[:, -1] / math.log(10),
                    "at least",
                )
            )
    findings.figure(
        folder,
        "4-paths",
        "The carousel is not the whole story",
        "Spectral norm of ∂state_T/∂state_t of LSTMs driven by noise, and of the "
        "part that stays in the memory from step to step, which is exactly the product of the "
        "forget gates. The rest goes through h. Dashed: the forget gate at rest. Bands: range "
        "over seeds.",
        panels,
    )
    return [*found, _chrono(keys)]


def _jacobians(cell: jl.Cell, steps: int) -> Callable[[Array, float], tuple[Array, ...]]:
    """By lag: the log norms of the cell path and of the whole Jacobian, and log ∏ f."""

    @jax.jit
    def measure(key: Array, noise: float) -> tuple[Array, ...]:
        k_init, k_inputs = jax.random.split(key)
        params = cell.init(k_init)
        inputs = noise * jax.random.normal(k_inputs, (steps, *sizes(cell)))
        carousel = jl.gradients.jacobian_norms(cell, params, inputs, path=("cell",), log=True)
        whole = jl.gradients.jacobian_norms(cell, params, inputs, log=True)
        return carousel[::-1], whole[::-1], gate_products(cell, params, inputs)[::-1]

    return measure


def _chrono(keys: list[Array]) -> Prediction:
    """What chrono initialisation lets units keep over its longest time."""
    size, t_max = 20_000, 1000
    bias = jl.initializers.chrono(t_max=t_max)
    kept = [
        float(jnp.mean(jax.nn.sigmoid(bias(key, (4 * size,), "float64")[size : 2 * size]) ** t_max))
        for key in keys
    ]
    return Prediction(
        "chrono: mean of f^t_max over units", laws.chrono_mean(), kept, tolerance=0.01
    )


def _lengths(study: config.Vanishing, keys: list[Array], folder: Path) -> list[Prediction]:
    """The gradient at the first step as sequences get longer."""
    size = study.hidden_size
    cells = {
        f"simple RNN, gain {gain:g}": orthogonal_rnn(size, gain, "tanh") for gain in study.gains
    } | {f"LSTM, {name}": cell for name, cell in lstms(study).items()}
    series, found = [], []
    for name, cell in cells.items():
        flow = final_flow(cell, max(study.lengths), 1.0, 0.0)
        logs = np.array(
            [[float(flow(key, length).hidden[-1]) for length in study.lengths] for key in keys]
        )
        series.append(findings.measured(name, study.lengths, logs))
        gain = min(study.gains)
        if gain < 1 and name == f"simple RNN, gain {gain:g}":
            longest = max(study.lengths)
            found.append(
                Prediction(
                    f"tanh RNN, gain {gain:g}: gradient over {longest} steps, against the bound "
                    "(γ‖W‖)^n",
                    laws.jacobian_bound(gain, longest - 1),
                    np.exp(logs[:, int(np.argmax(study.lengths))]),
                    "at most",
                )
            )
    findings.figure(
        folder,
        "5-lengths",
        "Longer sequences",
        "Norm of the gradient of the last output with respect to the first hidden "
        "state h_1, for sequences of several lengths. Bands: range over seeds.",
        [findings.panel("", "length T (steps)", "‖∂L/∂h_1‖", series)],
    )
    return found
