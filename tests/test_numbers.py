"""Numbers that stop being finite: the run ends before them, or leaves the update out."""

import dataclasses

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import pytest

from jaxlstm import cli, config, runs, training
from jaxlstm.tasks import adding
from jaxlstm.training import checkpoints, model, optimizers, step

pytestmark = [pytest.mark.promise, pytest.mark.usefixtures("compile_fast")]
EXPERIMENT = config.Experiment(
    name="diverging",
    question="?",
    expected="!",
    seeds=(5, 6),
    task=config.Adding(length=6),
    model=config.RNN(hidden_size=5, activation="identity"),
    optimizer=config.SGD(learning_rate=1e12),
    train=config.Train(steps=24, batch_size=4, steps_per_dispatch=10, log_every=8),
)


def test_the_state_before_the_fault_is_saved_and_the_operation_is_found(
    tmp_path, monkeypatch, capsys, seen
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text(config.dumps(EXPERIMENT))
    assert cli.main(["run", "x.toml", "--out", "r", "--debug-nans", "--quiet"]) == 1
    err = capsys.readouterr().err
    manifest = runs.read_manifest("r")
    assert manifest.state == "failed"
    assert f"jaxlstm: r: {manifest.reason}\n" == err
    at = int(manifest.reason.split("at step ")[1].split()[0])
    assert any(f"step {at} of seed {seed}, first " in manifest.reason for seed in (5, 6))
    assert ", by the operation: " in manifest.reason
    assert " in the backward pass" in manifest.reason or ".py:" in manifest.reason

    prepared = training.prepare(EXPERIMENT)
    found = checkpoints.latest("r", prepared.shapes())
    assert found.step == at - 1
    assert all(np.isfinite(leaf).all() for state in found.states for leaf in params(state))
    after = jax.jit(prepared.update.advance)
    faults = [int(after(s, prepared.task.data, jnp.int32(1)).fault) for s in found.states]
    assert max(faults) == at - 1  # the very next update is the one

    assert cli.main(["run", "--resume", "r", "--quiet"]) == 1
    assert f"at step {at} of" in capsys.readouterr().err
    seen("finite", "faults stopped before, and found", 1)


def params(state):
    return jax.tree.leaves(state.params)


def test_updates_that_are_not_finite_are_left_out_and_counted(seen):
    task = adding.build(config.Adding(length=6))

    def sample(data, key, batch_size):
        batch = task.sample(data, key, batch_size)
        bad = jax.random.bernoulli(key, 0.4)
        return batch._replace(inputs=jnp.where(bad, jnp.nan, batch.inputs))

    broken = dataclasses.replace(task, sample=sample)
    network = model.build(
        config.LSTM(hidden_size=3), input_size=2, output_size=1, tokens=False, every_step=False
    )
    optimizer = optimizers.build(config.Adam(learning_rate=1e-2, clip_norm=1.0), 20)
    update = step.build(broken, network, optimizer, batch_size=4, log_every=20, skip=True)
    begun = update.init(jax.random.key(3), ())
    found = jax.jit(update.advance)(begun, (), jnp.int32(20))

    weights, opt_state, losses = begun.params, begun.opt_state, []

    @jax.jit
    def loss(weights, batch):
        return task.loss(network.apply(weights, batch.inputs), batch)[0]

    for t in range(20):
        batch = sample((), jax.random.fold_in(begun.key, t), 4)
        value, gradient = jax.value_and_grad(loss)(weights, batch)
        if np.isfinite(value):
            change, opt_state = optimizer.update(gradient, opt_state, weights)
            weights = optax.apply_updates(weights, change)
            losses.append(float(value))
    assert 0 < len(losses) < 20
    for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(weights), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    metrics = step.mean_metrics(found, 20)
    assert metrics["skipped"] == 20 - len(losses)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert int(found.fault) == -1
    seen("finite", "updates left out", 20 - len(losses))


def test_a_run_that_skips_goes_on_to_its_end(tmp_path):
    made = with_train(EXPERIMENT, not_finite="skip")
    manifest = training.run(training.prepare(made), tmp_path / "r", quiet=True)
    assert manifest.state == "finished"
    records = runs.read_jsonl(tmp_path / "r", "metrics.jsonl")
    assert max(max(r["metrics"]["skipped"]) for r in records if r["split"] == "train") > 0


def with_train(experiment, **changes):
    return msgspec.structs.replace(
        experiment, seeds=(5,), train=msgspec.structs.replace(experiment.train, **changes)
    )
