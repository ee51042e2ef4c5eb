"""Random networks against mean-field theory: the rate of gradients, and where its sign changes."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlstm import config, runs
from jaxlstm.gradients import theory as laws
from jaxlstm.studies import findings
from jaxlstm.studies.findings import Prediction
from jaxlstm.studies.networks import BURN_IN, random_logs

FIRST, LAST = 5, 60
BAND = 0.02
KINDS: dict[str, Callable[[float], float]] = {
    "tanh": laws.tanh_exponent,
    "relu": laws.relu_exponent,
    "identity": math.log,
}
CRITICAL = {"tanh": 1.0, "relu": math.sqrt(2), "identity": 1.0}
RATE, GAIN = "rate (nats a step)", "gain g"


def measure(
    spec: config.MeanField, seeds: Sequence[int], folder: Path, progress: Callable[..., Any]
) -> list[runs.Score]:
    """Measure the slope of log ‖∂L/∂h_t‖ for every kind of network, gain and size."""
    keys = [jax.random.key(seed) for seed in seeds]
    gains = {
        "tanh": spec.tanh_gains,
        "relu": tuple(math.sqrt(2) * g for g in spec.other_gains),
        "identity": spec.other_gains,
    }
    cases = [
        (kind, size, gain)
        for kind in KINDS
        for size in (spec.sizes if kind == "tanh" else (max(spec.sizes),))
        for gain in gains[kind]
    ]
    rates: dict[tuple[str, int, float], np.ndarray] = {}
    logs: dict[float, np.ndarray] = {}
    with jax.enable_x64(True), progress("mean field", len(cases), unit="networks") as bar:
        for done, (kind, size, gain) in enumerate(cases, start=1):
            # Weights of its own: linear and ReLU networks with those of another gain, times a
            # number, would measure the same once more.
            own = [jax.random.fold_in(key, done) for key in keys]
            found = random_logs(size, gain, spec.steps, own, kind)
            rates[kind, size, gain] = findings.slope(found, FIRST, min(spec.steps, LAST))
            if kind == "tanh" and size == max(spec.sizes):
                logs[gain] = found
            bar.update(done)
    _draw(spec, gains, rates, logs, folder)
    return findings.write(
        folder,
        "A rate is the slope of log ‖∂L/∂h_t‖ with each step further back, from lag "
        f"{FIRST} to {min(spec.steps, LAST)}, {BURN_IN} steps after a random start, without "
        "inputs. “Within” compares the mean over seeds.",
        _predictions(spec, gains, rates),
    )


def crossing(gains: Sequence[float], rates: np.ndarray) -> np.ndarray:
    """Where the rate is zero: the root of the line through rate and ln g, for each seed."""
    slope, offset = np.polyfit(np.log(gains), rates.T, 1).T.T
    return np.exp(-offset / slope)


def _predictions(spec: config.MeanField, gains: Any, rates: Any) -> list[Prediction]:
    largest = max(spec.sizes)
    found = [
        Prediction(
            f"rate, {kind}, N = {largest}, g = {gain:.4g}",
            law(gain),
            rates[kind, largest, gain],
            tolerance=BAND,
        )
        for kind, law in KINDS.items()
        for gain in gains[kind]
    ]
    for kind in KINDS:
        # Above its critical gain a tanh network saturates, and the rate is no line in ln g.
        below = [g for g in gains[kind] if kind != "tanh" or g < 1]
        if len(below) < 2:
            continue
        seeds = np.stack([rates[kind, largest, gain] for gain in below], axis=1)
        beyond = " (continued from below it)" if kind == "tanh" else ""
        found.append(
            Prediction(
                f"gain at which the sign changes, {kind}{beyond}, N = {largest}",
                CRITICAL[kind],
                crossing(below, seeds),
                tolerance=BAND,
            )
        )
    return found


def _draw(spec: config.MeanField, gains: Any, rates: Any, logs: Any, folder: Path) -> None:
    lags = np.arange(spec.steps)
    lines = []
    for gain, found in logs.items():
        lines += [
            findings.measured(f"g = {gain:g}", lags, found - found[:, :1]),
            findings.theory("mean field", lags, lags * laws.tanh_exponent(gain)),
        ]
    findings.figure(
        folder,
        "1-lags",
        "Gradients of random tanh networks",
        f"Norm of the gradient by how far back, N = {max(spec.sizes)}, the last "
        "step taken for 1. Dashed: the exponent of mean-field theory. Bands: range over seeds.",
        [findings.panel("", findings.LAG, "‖∂L/∂h_t‖ / ‖∂L/∂h_T‖", lines)],
    )
    panels = []
    for kind, law in KINDS.items():
        sizes = spec.sizes if kind == "tanh" else (max(spec.sizes),)
        series = [
            findings.plain(
                f"N = {size}",
                gains[kind],
                np.stack([rates[kind, size, gain] for gain in gains[kind]], axis=1),
            )
            for size in sizes
        ]
        curve = np.linspace(min(gains[kind]), max(gains[kind]), 60)
        exact = [law(float(gain)) for gain in curve]
        series.append(findings.reference("theory", curve, exact, role="theory"))
        panels.append(findings.panel(kind, GAIN, RATE, series, scale="linear"))
    findings.figure(
        folder,
        "2-rates",
        "The rate by the gain of the recurrent weights",
        "Below zero gradients vanish, above it they explode. Linear networks follow "
        "ln g, ReLU ones ½ ln(g²/2), tanh ones less than ln g once they saturate. Bands: range "
        "over seeds.",
        panels,
    )
