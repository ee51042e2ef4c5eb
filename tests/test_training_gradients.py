"""Gradients measured while a network trains, and numbers that break traced to where they broke."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm import config, report, runs, training
from jaxlstm.training import gradients, tracing

pytestmark = pytest.mark.usefixtures("compile_fast")


def experiment(**changes) -> config.Experiment:
    given = {
        "name": "small",
        "question": "?",
        "expected": "!",
        "seeds": 2,
        "task": config.Adding(length=12),
        "model": config.LSTM(hidden_size=5),
        "optimizer": config.Adam(learning_rate=1e-2),
        "train": config.Train(
            steps=12, batch_size=4, steps_per_dispatch=5, log_every=6, evaluate_every=12
        ),
        "gradients": config.Gradients(every=4, sequences=3),
    }
    return config.Experiment(**(given | changes))


def measured(folder):
    found = [r for r in runs.read_jsonl(folder, "metrics.jsonl") if r["split"] == "gradients"]
    return {record["step"]: record["metrics"] for record in found}


def test_what_is_measured_on_the_way(tmp_path):
    made = training.prepare(experiment(seeds=1))
    training.run(made, tmp_path / "run", quiet=True)
    found = measured(tmp_path / "run")
    assert list(found) == [0, 4, 8, 12]
    assert 0 < found[12]["time_share"][0] < 1
    assert "steps_held.hidden_median" not in found[0]

    # The same, from the network before its first step and nothing of the training's own code.
    for seed, state in enumerate(made.states()):
        batch = made.task.sample(made.task.data, jax.random.fold_in(state.key, 0), 4)
        inputs, targets, _ = jax.tree.map(lambda leaf: leaf[:3], batch)
        cell, weights, readout = made.network.cell, state.params.cell, state.params.readout

        def loss(outputs, targets=targets, readout=readout):
            predicted = outputs[:, -1] @ readout.kernel + readout.bias[None]
            return jnp.sum((predicted - targets) ** 2)

        @jax.jit
        def again(weights, inputs, cell=cell, loss=loss):
            growth = jax.vmap(
                lambda row: jl.gradients.lyapunov_spectrum(cell, weights, row, blocks=1).exponents
            )
            norms = jl.gradients.flow(cell, weights, inputs, loss).norms
            return norms, jl.gradients.gates(cell, weights, inputs), growth(inputs)

        norms, gates, growth = jax.device_get(again(weights, inputs))
        for lag in (0, 1, 8):
            for part in ("hidden", "cell"):
                wanted = np.mean(getattr(norms, part)[:, -1 - lag])
                value = found[0][f"{part}_error.lag_{lag}"][seed]
                assert value == pytest.approx(wanted, rel=1e-4)
        share = np.mean(gates["i"] <= 0.1)
        assert found[0]["share_low.i"][seed] == pytest.approx(share, abs=1e-6)
        held = -1 / np.log(gates["f"]).mean(axis=(0, 1))
        assert found[0]["steps_held.cell_longest"][seed] == pytest.approx(held.max(), rel=1e-4)
        assert found[0]["growth.nats_per_step"][seed] == pytest.approx(np.mean(growth), rel=1e-4)

    page = report.write(tmp_path / "run").read_text()
    assert "Gradients through time" in page
    assert " % of the time." in page
    assert "gradients loss" not in page


@pytest.mark.slow
def test_measuring_changes_nothing_that_is_learnt(tmp_path):
    for name, spec in (("with", config.Gradients(every=3)), ("without", None)):
        made = training.prepare(experiment(gradients=spec))
        training.run(made, tmp_path / name, quiet=True)
    scores = [
        [r["metrics"] for r in runs.read_jsonl(tmp_path / name, "metrics.jsonl")
         if r["split"] == "validation"]
        for name in ("with", "without")
    ]  # fmt: skip
    assert scores[0] == scores[1]
    assert [s.metric for s in runs.read_manifest(tmp_path / "with").summary] == [
        s.metric for s in runs.read_manifest(tmp_path / "without").summary
    ]


@pytest.mark.slow
def test_ragged_sequences_and_layers_are_measured():
    made = training.prepare(
        experiment(task=config.JapaneseVowels(), model=config.LSTM(hidden_size=4, layers=2))
    )
    state = made.states()[0]
    measure = gradients.build(made.task, made.network, batch_size=6, sequences=6)
    found = jax.jit(measure)(state, made.task.data)
    batch = made.task.sample(made.task.data, jax.random.fold_in(state.key, 0), 6)
    assert len(set(np.asarray(batch.lengths))) > 1

    def loss(outputs):
        return 6 * made.task.loss(made.network.readout(state.params, outputs), batch)[0]

    norms = jl.gradients.flow(
        made.network.cell,
        state.params.cell,
        batch.inputs,
        loss,
        lengths=batch.lengths,
        masked_outputs="hold",
    ).norms
    last = [norms[1].cell[row, length - 1 - 2] for row, length in enumerate(batch.lengths)]
    assert found["layer_1_cell_error.lag_2"] == pytest.approx(np.mean(last), rel=1e-4)
    assert {"share_low.f.0", "share_low.f.1"} <= set(found)


class Broken:
    """A training whose network or task breaks at a place that is known."""

    def __init__(self, **changes):
        self.made = training.prepare(experiment(seeds=1, **changes))
        self.state = self.made.states()[0]
        self.batch = self.made.task.sample(self.made.task.data, jax.random.key(1), 4)

    def place(self, params=None, batch=None, network=None, task=None):
        return tracing.trace(
            task or self.made.task,
            network or self.made.network,
            params or self.state.params,
            batch or self.batch,
        )


def test_a_broken_number_is_traced_to_its_place():
    broken = Broken()
    params, batch, network = broken.state.params, broken.batch, broken.made.network
    kernel = params.cell.kernel.at[0, 0].set(jnp.nan)
    bad = params._replace(cell=params.cell._replace(kernel=kernel))
    assert broken.place(params=bad) == "parameter cell.kernel"
    poisoned = batch._replace(inputs=batch.inputs.at[2, 7, 0].set(jnp.inf))
    assert broken.place(batch=poisoned) == "the inputs at time 7 of sequence 2"

    def breaks(when, how):
        """The cell, with one of its weights' blocks spoilt where an input says so."""

        def step(params, carry, x):
            spoilt = jnp.where(x[..., :1] > when, jnp.nan, 0.0)
            return cell.step(params, how(carry, spoilt), x)

        cell = network.cell
        return dataclasses.replace(
            network, cell=jl.Cell(cell.init, cell.initial_carry, step, cell.input_shape)
        )

    marked = batch._replace(inputs=batch.inputs.at[3, 5, 0].set(100.0))
    memory = breaks(50.0, lambda carry, spoilt: carry._replace(cell=carry.cell + spoilt))
    assert broken.place(batch=marked, network=memory) == "gate psi at time 5 of sequence 3"
    hidden = breaks(50.0, lambda carry, spoilt: carry._replace(hidden=carry.hidden + spoilt))
    assert broken.place(batch=marked, network=hidden) == "gate g at time 5 of sequence 3"

    wrong = dataclasses.replace(
        broken.made.task, loss=lambda outputs, batch: (jnp.sum(outputs) * jnp.inf, {})
    )
    assert broken.place(task=wrong) == "the loss, every state being finite"


def test_an_error_that_breaks_on_its_way_back_is_traced_too():
    broken = Broken()
    network = broken.made.network
    cell = network.cell

    @jax.custom_jvp
    def fragile(x, mark):
        return x

    @fragile.defjvp
    def _(primals, tangents):
        x, mark = primals
        return x, tangents[0] * jnp.where(mark > 50.0, jnp.nan, 1.0)

    def step(params, carry, x):
        carry = carry._replace(cell=fragile(carry.cell, x[..., :1]))
        return cell.step(params, carry, x)

    made = dataclasses.replace(
        network, cell=jl.Cell(cell.init, cell.initial_carry, step, cell.input_shape)
    )
    batch = broken.batch._replace(inputs=broken.batch.inputs.at[1, 6, 0].set(100.0))
    found = broken.place(batch=batch, network=made)
    assert found == "the error that comes back to state cell at time 5 of sequence 1"


def test_a_run_that_breaks_names_the_place(tmp_path):
    made = training.prepare(
        experiment(
            model=config.RNN(hidden_size=5, activation="relu"),
            optimizer=config.SGD(learning_rate=3.0),
            gradients=None,
        )
    )
    manifest = training.run(made, tmp_path / "run", quiet=True)
    assert manifest.state == "failed"
    assert manifest.reason is not None
    assert "not finite at step" in manifest.reason
    assert ", first " in manifest.reason
