"""What clipping, penalties and initialisers do to a simple RNN: to its spectrum and to success."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

import jaxlstm as jl
from jaxlstm import config, runs, tasks
from jaxlstm.studies import findings, trials
from jaxlstm.studies.findings import Prediction
from jaxlstm.tasks import Task
from jaxlstm.training.model import Model

PROBES = 16
SOLVED = 0.01
NONE, NORM, VALUE = "none", "clip norm", "clip value"
PENALTY, FLOSSING = "clip norm, regulariser", "clip norm, flossing"
ORTHOGONAL, IDENTITY = "clip norm, orthogonal", "clip norm, identity"


class Arm(NamedTuple):
    """One intervention: what is done to the gradient, to the loss, and to the first weights."""

    name: str
    clip: optax.GradientTransformation
    penalty: config.Penalty | None = None
    recurrent_init: Callable[..., Array] | None = None


def measure(
    spec: config.Interventions,
    seeds: Sequence[int],
    folder: Path,
    progress: Callable[..., Any],
) -> list[runs.Score]:
    """Train a tanh RNN on temporal order with each intervention, and look at its spectrum."""
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    task = tasks.build(config.TemporalOrder(length=spec.length, protocol="2013"))
    jobs = [(arm, gain, init) for arm in _arms(spec) for gain, init in _inits(spec, arm).items()]
    found: dict[tuple[str, float | None], dict[str, np.ndarray]] = {}
    with progress("interventions", len(jobs), unit="trainings") as bar:
        for arm, gain, init in jobs:
            found[arm.name, gain] = _training(spec, task, arm, init, keys)
            bar.update(len(found))
    clipped = _clipping(spec, task, keys)
    _draw(spec, found, folder)
    _table(found, folder)
    return findings.write(
        folder,
        f"Temporal order over {spec.length} steps, error being the share classified wrongly, .75 "
        "for a guess. A bound must hold for every seed.",
        list(_predictions(spec, found, clipped)),
    )


def _arms(spec: config.Interventions) -> list[Arm]:
    norm = optax.clip_by_global_norm(spec.clip_norm)
    flossing = config.Flossing(
        count=spec.floss_exponents, alone_steps=spec.floss_updates, steps=spec.floss_updates
    )
    return [
        Arm(NONE, optax.identity()),
        Arm(NORM, norm),
        Arm(VALUE, optax.clip(spec.clip_value)),
        Arm(PENALTY, norm, config.NormPenalty(weight=spec.penalty_weight)),
        Arm(FLOSSING, norm, flossing),
        Arm(ORTHOGONAL, norm, recurrent_init=jl.initializers.orthogonal()),
        Arm(IDENTITY, norm, recurrent_init=jl.initializers.identity()),
    ]


def _inits(spec: config.Interventions, arm: Arm) -> dict[float | None, Callable[..., Array]]:
    """The recurrent weights that an intervention starts from, by their gain if they have one."""
    if arm.recurrent_init is not None:
        return {None: arm.recurrent_init}
    return {gain: jl.initializers.ginibre(gain=gain) for gain in spec.gains}


def _network(spec: config.Interventions, task: Task, init: Callable[..., Array]) -> Model:
    cell = jl.rnn(input_size=task.input_size, hidden_size=spec.hidden_size, recurrent_init=init)
    return trials.network(cell, task)


def _training(
    spec: config.Interventions, task: Task, arm: Arm, init: Callable[..., Array], keys: Array
) -> dict[str, np.ndarray]:
    model = _network(spec, task, init)
    trial = trials.train(
        model,
        task,
        keys,
        optimizer=optax.chain(arm.clip, optax.sgd(spec.learning_rate)),
        updates=spec.updates,
        batch_size=spec.batch_size,
        stages=spec.updates // spec.floss_updates,
        penalty=arm.penalty,
    )
    batch = task.sample(task.data, jax.random.key(2013), PROBES)

    def exponents(params: Any) -> Array:
        """The whole spectrum over the sequences of the task, the mean over some of them."""

        def of_row(inputs: Array) -> Array:
            return jl.gradients.lyapunov_spectrum(
                model.cell, params.cell, inputs, count=spec.hidden_size, blocks=1
            ).exponents

        return jnp.mean(jax.vmap(of_row)(model.encode(params, batch.inputs)), axis=0)

    looked = jax.jit(jax.vmap(exponents))
    stages = {"first": 0, "flossed": 1, "last": -1}
    spectra = {
        name: looked(jax.tree.map(lambda leaf, at=at: leaf[:, at], trial.stages))
        for name, at in stages.items()
    }
    return {
        **{name: np.asarray(leaf, np.float64) for name, leaf in spectra.items()},
        "losses": np.asarray(trial.losses, np.float64),
        "error": np.asarray(trials.score(model, task, trial.last)["error"], np.float64),
    }


def _clipping(spec: config.Interventions, task: Task, keys: Array) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of a clipped and an unclipped gradient, and the norm over the bound."""
    model = _network(spec, task, jl.initializers.ginibre(gain=max(spec.gains)))

    def one(key: Array) -> tuple[Array, Array]:
        batch = task.sample(task.data, key, spec.batch_size)
        loss = lambda p: task.loss(model.apply(p, batch.inputs), batch)[0]  # noqa: E731
        raw = jax.grad(loss)(model.init(key))
        whole = ravel_pytree(raw)[0]
        bound: Any = jnp.linalg.norm(whole) / 10
        clip = optax.clip_by_global_norm(bound)
        cut = ravel_pytree(clip.update(raw, clip.init(raw))[0])[0]
        norm = jnp.linalg.norm(cut)
        return whole @ cut / (jnp.linalg.norm(whole) * norm), norm / bound

    cosine, norm = jax.jit(jax.vmap(one))(keys)
    return np.asarray(cosine, np.float64), np.asarray(norm, np.float64)


def _predictions(spec: config.Interventions, found: Any, clipped: Any) -> Iterator[Prediction]:
    fading = min(spec.gains)
    yield Prediction("clipping by norm: cosine to the gradient", 1.0, clipped[0], tolerance=1e-5)
    yield Prediction("clipping by norm: norm over the bound", 1.0, clipped[1], tolerance=1e-5)
    for gain in spec.gains:
        flossed = found[FLOSSING, gain]["flossed"][:, : spec.floss_exponents]
        what = f"gain {gain:g}, flossed: largest |λ| of {spec.floss_exponents} (nats a step)"
        yield Prediction(what, 0.1, np.abs(flossed).max(axis=1), "at most")
    for gain in spec.gains:
        what = f"gain {gain:g}, no intervention: error"
        yield Prediction(what, 0.5, found[NONE, gain]["error"], "at least")
    solves = [(name, gain) for name in (PENALTY, FLOSSING) for gain in spec.gains]
    for name, gain in [*solves, (ORTHOGONAL, None)]:
        label = name if gain is None else f"gain {gain:g}, {name}"
        what = f"{label}: error, {SOLVED:g} being solved"
        yield Prediction(what, SOLVED, found[name, gain]["error"], "at most")
    for gain in spec.gains:
        for name in (NORM, VALUE):
            better = found[NONE, gain]["error"] - found[name, gain]["error"]
            what = f"gain {gain:g}, {name}: error without it, less that with it"
            yield Prediction(what, -0.05, better, "at least")
    for short, name in (("regulariser", PENALTY), ("flossing", FLOSSING)):
        kept = [
            np.abs(found[which, fading]["last"][:, : spec.floss_exponents]).mean(axis=1)
            for which in (NORM, name)
        ]
        what = f"gain {fading:g}, after: mean |λ| of {spec.floss_exponents}, without less with "
        yield Prediction(f"{what}{short}", 0.0, kept[0] - kept[1], "at least")


def _draw(spec: config.Interventions, found: Any, folder: Path) -> None:
    shown = min(2 * spec.floss_exponents, spec.hidden_size)
    each = max(1, spec.updates // 40)
    spectra, curves = [], []
    for gain in (*spec.gains, None):
        where = "other initialisers" if gain is None else f"gain {gain:g}"
        here = {name: one for (name, at), one in found.items() if at == gain}
        rank = np.arange(1, shown + 1)
        lines = [findings.plain(n, rank, np.exp(one["last"][:, :shown])) for n, one in here.items()]
        if gain is not None:
            first = np.exp(here[NONE]["first"][:, :shown]).mean(axis=0)
            lines.append(findings.reference("as initialised", rank, first))
        spectra.append(
            findings.panel(where, "rank i", "exp λᵢ (factor a step)", lines, scale="linear")
        )
        lines = [findings.learning(name, one["losses"], each) for name, one in here.items()]
        curves.append(findings.panel(where, "updates", "cross-entropy (nats)", lines))
    figures = (
        (
            "1-spectrum",
            "What interventions do to the spectrum",
            f"The {shown} largest Lyapunov exponents over the sequences of the task, as trained, "
            "as the factor by which an error changes in a step; at one it keeps its size. Bands: "
            "range over seeds.",
            spectra,
        ),
        (
            "2-learning",
            "What interventions do to learning",
            f"Cross-entropy of the class, means of {each} updates; flossing takes the first "
            f"{spec.floss_updates} for itself. A guess has ln 4 = 1.39. Bands: range over seeds.",
            curves,
        ),
    )
    for stem, title, caption, panels in figures:
        findings.figure(folder, stem, title, caption, panels)


def _table(found: Any, folder: Path) -> None:
    rows = []
    for (name, gain), one in found.items():
        first = np.abs(one["last"][:, 0])
        rows.append(
            [
                name,
                "" if gain is None else f"{gain:g}",
                f"{(one['error'] < SOLVED).sum()} of {len(one['error'])}",
                f"{np.median(one['error']):.2g}",
                f"{one['first'][:, 0].mean():.2g}",
                f"{one['last'][:, 0].mean():.2g}",
                f"{first.max():.2g}",
            ]
        )
    runs.write_table(
        folder,
        "arms",
        title="All interventions",
        caption="Solved is an error below .01. λ₁ is the largest Lyapunov exponent over the "
        "sequences of the task, in nats a step: the mean over seeds before and after training, and "
        "the largest size of it after.",
        columns=["intervention", "gain", "solved", "median error", "λ₁ before", "λ₁", "|λ₁| ≤"],
        rows=rows,
    )
