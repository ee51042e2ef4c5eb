"""The constant error carousel: the memory's own path, all paths, and what truncation leaves out."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

import jaxlstm as jl
from jaxlstm import config, runs, tasks
from jaxlstm.gradients import theory as laws
from jaxlstm.studies import findings, trials
from jaxlstm.studies.findings import Prediction
from jaxlstm.tasks import Task

PROBES = 8
CHRONO, TRUNCATED, WHOLE = "chrono", "1997, truncated", "1997, all paths"
TENFOLD = math.log(10)
STAGES = {"before": 0, "after": -1}


def measure(
    spec: config.Carousel, seeds: Sequence[int], folder: Path, progress: Callable[..., Any]
) -> list[runs.Score]:
    """Train LSTMs that begin with other forget gates, and the network of 1997 both ways."""
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    task = tasks.build(config.Adding(length=spec.length))
    sizes: dict[str, Any] = {"input_size": 2, "hidden_size": spec.hidden_size}
    cells = {_named(b): jl.lstm(**sizes, forget_bias=b) for b in spec.forget_biases}
    cells[CHRONO] = jl.lstm(**sizes, bias_init=jl.initializers.chrono(t_max=max(3, spec.length)))
    first = {
        name: jl.lstm_1997(
            input_size=2, blocks=spec.blocks, block_size=2, truncated=name == TRUNCATED
        )
        for name in (TRUNCATED, WHOLE)
    }
    found: dict[str, dict[str, np.ndarray]] = {}
    with progress("carousel", len(cells) + len(first), unit="trainings") as bar:
        for name, cell in {**cells, **first}.items():
            model = trials.network(cell, task)
            trial = trials.train(
                model,
                task,
                keys,
                optimizer=trials.clipped_adam(spec.learning_rate),
                updates=spec.updates,
                batch_size=spec.batch_size,
                stages=spec.stages,
            )
            look = _paths(cell, task) if name in cells else _truncation(first, task)
            staged = jax.jit(jax.vmap(jax.vmap(look, in_axes=(0, None))))(trial.stages, keys)
            found[name] = {part: np.asarray(leaf, np.float64) for part, leaf in staged.items()}
            found[name]["mse"] = np.asarray(trials.score(model, task, trial.last)["mse"])
            bar.update(len(found))
    _draw(spec, cells, found, folder)
    return findings.write(
        folder,
        f"Adding over {spec.length} steps; paths are those of {PROBES} sequences. “Within” "
        "compares the mean over seeds, a bound must hold for every seed.",
        list(_predictions(spec, cells, found)),
    )


def _paths(cell: jl.Cell, task: Task) -> Callable[[Any, Array], dict[str, Array]]:
    """What a network's Jacobians are on a few sequences, by lag."""

    def look(params: Any, key: Array) -> dict[str, Array]:
        inputs = task.sample(task.data, key, PROBES).inputs

        def norms(path: Any) -> Array:
            found = jl.gradients.jacobian_norms(cell, params.cell, inputs, path=path, log=True)
            return jnp.mean(found, axis=0)[::-1]

        forget = jnp.log(jl.gradients.gates(cell, params.cell, inputs)["f"])
        at_rest = jax.nn.sigmoid(jnp.split(params.cell.bias, 4)[1]) ** inputs.shape[1]
        return {
            "cell path": norms(("cell",)),
            "all paths": norms(None),
            "forget gates": jnp.mean(jnp.max(jnp.sum(forget, axis=1), axis=-1)),
            "mean log f": jnp.mean(forget),
            "kept at rest": jnp.mean(at_rest),
        }

    return look


def _truncation(cells: dict[str, jl.Cell], task: Task) -> Callable[[Any, Array], dict[str, Array]]:
    """How the truncated gradient lies to the true one, and what each lets through."""
    models = {name: trials.network(cell, task) for name, cell in cells.items()}

    def look(params: Any, key: Array) -> dict[str, Array]:
        batch = task.sample(task.data, key, 64)

        def gradient(name: str, params: Any) -> Array:
            loss = lambda p: task.loss(models[name].apply(p, batch.inputs), batch)[0]  # noqa: E731
            return ravel_pytree(jax.grad(loss)(params))[0]

        def cosine(params: Any) -> Array:
            a, b = gradient(TRUNCATED, params), gradient(WHOLE, params)
            return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))

        def product(name: str) -> Array:
            cell = cells[name]

            def run(memory: Array, inputs: Array) -> Array:
                carry = cell.initial_carry(params.cell)._replace(cell=memory)
                return jl.unroll(cell, params.cell, inputs, carry=carry).carry.cell

            start = cell.initial_carry(params.cell).cell
            return jax.vmap(jax.jacfwd(run), in_axes=(None, 0))(start, batch.inputs[:PROBES])

        cut = product(TRUNCATED)
        unconnected = params._replace(
            cell=params.cell._replace(recurrent_kernel=jnp.zeros_like(params.cell.recurrent_kernel))
        )
        apart = gradient(TRUNCATED, unconnected) - gradient(WHOLE, unconnected)
        return {
            "cosine": cosine(params),
            "unconnected": jnp.max(jnp.abs(apart)),
            "identity": jnp.max(jnp.abs(cut - jnp.eye(cut.shape[-1])[None])),
            "all paths": jnp.mean(jnp.log(jnp.linalg.norm(product(WHOLE), 2, axis=(1, 2)))),
        }

    return look


def _named(bias: float) -> str:
    return f"forget bias {bias:g}"


def _predictions(
    spec: config.Carousel, cells: Any, found: dict[str, dict[str, np.ndarray]]
) -> Iterator[Prediction]:
    yield from _forget_gates(spec, cells, found)
    yield from _paths_apart(spec, found)
    yield from _truncated(found[TRUNCATED], found[WHOLE])
    for name in (*cells, TRUNCATED, WHOLE):
        yield Prediction(
            f"{name}: mean squared error, a tenth of that without memory",
            1 / 60,
            found[name]["mse"],
            "at most",
        )


def _forget_gates(
    spec: config.Carousel, cells: Any, found: dict[str, dict[str, np.ndarray]]
) -> Iterator[Prediction]:
    """The cell path is what the forget gates leave, which begin as their biases say."""
    for name in cells:
        for when, stage in STAGES.items():
            yield Prediction(
                f"{name}, {when}: ln of the cell path less Σ ln f, the largest over units",
                0.0,
                found[name]["cell path"][:, stage, -1] - found[name]["forget gates"][:, stage],
                tolerance=1e-3,
            )
    for bias in spec.forget_biases:
        yield Prediction(
            f"{_named(bias)}, before: mean ln f a step, ln σ(bias)",
            math.log(laws.forget_factor(bias, 1)),
            found[_named(bias)]["mean log f"][:, 0],
            tolerance=0.05,
        )
    yield Prediction(
        "chrono, before: unit mean of f^T at rest, E₂(1)",
        laws.chrono_mean(),
        found[CHRONO]["kept at rest"][:, 0],
        tolerance=0.05,
    )


def _paths_apart(
    spec: config.Carousel, found: dict[str, dict[str, np.ndarray]]
) -> Iterator[Prediction]:
    """Gradients go around a gate that begins shut, and training opens it."""
    shut = _named(min(spec.forget_biases))
    carried = found[shut]["cell path"][..., -1] / TENFOLD
    yield Prediction(
        f"{shut}, before: powers of ten from cell path to all paths",
        3.0,
        _through(found[shut])[:, 0] / TENFOLD,
        "at least",
    )
    yield Prediction(
        f"{shut}: powers of ten that training adds to the cell path",
        3.0,
        carried[:, -1] - carried[:, 0],
        "at least",
    )
    yield Prediction(
        "chrono, before: powers of ten from cell path to all paths",
        1.0,
        _through(found[CHRONO])[:, 0] / TENFOLD,
        "at most",
    )


def _truncated(
    truncated: dict[str, np.ndarray], whole: dict[str, np.ndarray]
) -> Iterator[Prediction]:
    """The network of 1997: its carousel is exact, its gradient right where weights are small."""
    for when, stage in STAGES.items():
        yield Prediction(
            f"{TRUNCATED}, {when}: largest entry of ∂c_T/∂c_0 − 1",
            0.0,
            truncated["identity"][:, stage],
        )
        yield Prediction(
            f"{TRUNCATED}, {when}: gradient less the true one, recurrent weights set to 0",
            0.0,
            truncated["unconnected"][:, stage],
            tolerance=1e-6,
        )
    yield Prediction(
        f"{TRUNCATED}, before: cosine of truncated and true gradient, weights within ±0.1",
        0.9,
        truncated["cosine"][:, 0],
        "at least",
    )
    yield Prediction(
        f"{TRUNCATED}, after: the same cosine, learning stays where truncation is right",
        0.8,
        truncated["cosine"][:, -1],
        "at least",
    )
    yield Prediction(
        f"{WHOLE}: cosine after less before, learning uses what truncation leaves out",
        0.0,
        whole["cosine"][:, -1] - whole["cosine"][:, 0],
        "at most",
    )


def _draw(
    spec: config.Carousel, cells: Any, found: dict[str, dict[str, np.ndarray]], folder: Path
) -> None:
    panels = []
    for name in cells:
        series = []
        for when, stage in STAGES.items():
            for path in ("cell path", "all paths"):
                logs = found[name][path][:, stage]
                series.append(findings.measured(f"{path}, {when}", np.arange(logs.shape[1]), logs))
        panels.append(
            findings.panel(name, findings.LAG, "‖∂state_T/∂state_t‖ (spectral norm)", series)
        )
    findings.figure(
        folder,
        "1-paths",
        "The memory's own path and all paths",
        "Norm of the Jacobian of the state at the end with respect to an earlier "
        "one, before and after training: through the forget gates alone (cell path), and "
        f"whole. Geometric means over {PROBES} sequences of adding and over seeds; bands: "
        "range over seeds.",
        panels,
    )
    updates = np.arange(spec.stages + 1) * (spec.updates // spec.stages)
    through = [findings.measured(name, updates, _through(found[name])) for name in cells]
    cosine = [findings.plain(name, updates, found[name]["cosine"]) for name in (TRUNCATED, WHOLE)]
    grown = [
        findings.measured(name, updates, found[name]["all paths"]) for name in (TRUNCATED, WHOLE)
    ]
    findings.figure(
        folder,
        "2-training",
        "Through training",
        "Left: how many times larger the Jacobian of all paths over the whole "
        "sequence is than that of the cell path. Middle: the networks of 1997, the cosine of "
        "the truncated and the true gradient. Right: the norm of their true ∂c_T/∂c_0, which "
        "is 1 when truncated. Bands: range over seeds.",
        [
            findings.panel("LSTM", "updates", "all paths / cell path", through),
            findings.panel("1997", "updates", "cosine", cosine, scale="linear"),
            findings.panel("1997", "updates", "‖∂c_T/∂c_0‖, true", grown),
        ],
    )


def _through(found: dict[str, np.ndarray]) -> np.ndarray:
    """The logarithm of all paths over the cell path, of the whole sequence."""
    return found["all paths"][:, :, -1] - found["cell path"][:, :, -1]
