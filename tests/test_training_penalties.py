"""Terms that a config adds to the loss: the update is the sum, and what is asked for too much."""

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm import config, tasks, training
from jaxlstm.errors import UserError
from jaxlstm.training import objective

pytestmark = pytest.mark.usefixtures("lenient")  # optax promotes


def experiment(penalty, **changes) -> config.Experiment:
    given = {
        "name": "small",
        "question": "?",
        "expected": "!",
        "task": config.Adding(length=12),
        "model": config.RNN(hidden_size=5),
        "optimizer": config.SGD(learning_rate=1.0),
        "train": config.Train(steps=20, batch_size=4, steps_per_dispatch=5, log_every=5),
        "penalty": penalty,
    }
    return config.Experiment(**(given | changes))


def omega(cell, weights, inputs, loss):
    return jl.gradients.norm_penalty(cell, weights, inputs, loss)


def few(cell, weights, inputs, loss):
    return flossing(cell, weights, inputs[:2, :9], loss)


def flossing(cell, weights, inputs, loss):
    def first(row):
        found = jl.gradients.lyapunov_spectrum(
            cell, weights, row, count=2, warmup=3, blocks=1, key=jax.random.key(0)
        )
        return jnp.mean(found.exponents**2)

    return jnp.mean(jax.vmap(first)(inputs))


@pytest.mark.parametrize(
    ("spec", "term"),
    [
        (config.NormPenalty(weight=4.0), omega),
        (config.Flossing(weight=0.5, count=2, warmup=3), flossing),
        (config.Flossing(weight=0.5, count=2, warmup=3, sequences=2, length=9), few),
    ],
)
@pytest.mark.parametrize("alone", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_update_is_that_of_the_task_and_of_the_term(spec, term, alone):
    made = training.prepare(experiment(msgspec.structs.replace(spec, alone_steps=alone)))
    state = made.states()[0]
    after = made.update.advance(state, made.task.data, 1)
    batch = made.task.sample(made.task.data, jax.random.fold_in(state.key, 0), 4)

    def task(params):
        out = jl.unroll(made.network.cell, params.cell, batch.inputs).outputs[:, -1]
        return jnp.mean((out @ params.readout.kernel + params.readout.bias - batch.targets) ** 2)

    def more(params):
        def loss(outputs):
            out = outputs[:, -1] @ params.readout.kernel + params.readout.bias
            return jnp.mean((out - batch.targets) ** 2)

        return term(made.network.cell, params.cell, batch.inputs, loss)

    expected = jax.tree.map(
        lambda p, g, h: p - (0 if alone else 1) * g - spec.weight * h,
        state.params,
        jax.grad(task)(state.params),
        jax.grad(more)(state.params),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after.params, expected
    )
    np.testing.assert_allclose(after.sums["loss"], task(state.params), rtol=1e-5)
    np.testing.assert_allclose(after.sums["penalty"], more(state.params), rtol=1e-4)


def test_the_length_to_floss_is_longer_than_the_warmup():
    with pytest.raises(ValueError, match="length: expected int > warmup = 9, got 9"):
        config.Flossing(count=2, warmup=9, length=9)


def test_it_reads_as_it_is_written():
    given = experiment(config.Flossing(count=3, warmup=2, alone_steps=4))
    assert config.loads(config.dumps(given)) == given


def test_a_term_ends_when_it_is_told_to():
    train = config.Train(steps=20, batch_size=4)
    plain = training.prepare(experiment(None, train=train))
    ended = training.prepare(experiment(config.Flossing(count=2, steps=1), train=train))
    state = ended.states()[0]
    first = ended.update.advance(state, ended.task.data, 1)
    assert first.sums["penalty"] > 0
    second = ended.update.advance(first, ended.task.data, 1)
    assert second.sums["penalty"] == first.sums["penalty"]
    sums = {
        name: value
        for name, value in first.sums.items()
        if name not in ("penalty", "largest_exponent")
    }
    alone = plain.update.advance(first._replace(sums=sums), plain.task.data, 1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        second.params,
        alone.params,
    )


@pytest.mark.slow
def test_a_ragged_task_takes_the_penalty_as_each_row_alone():
    task = tasks.build(config.JapaneseVowels())
    spec = config.NormPenalty()
    made = training.prepare(experiment(spec, task=config.JapaneseVowels()))
    params = made.states()[0].params
    batch = task.sample(task.data, jax.random.key(1), 3)
    term = objective.term(spec, task, made.network)
    rows = []
    for row in range(3):
        length = int(batch.lengths[row])
        alone = tasks.Batch(
            batch.inputs[row : row + 1, :length], batch.targets[row : row + 1], None
        )
        rows.append(term(params, alone)["penalty"])
    np.testing.assert_allclose(term(params, batch)["penalty"], np.mean(rows), rtol=1e-4)


@pytest.mark.parametrize(
    ("penalty", "line"),
    [
        (config.Flossing(count=6), "penalty: `count` must be at most 5, .* got 6"),
        (config.Flossing(count=1, warmup=12), r"^penalty\.warmup: expected int < 12, the"),
    ],
)
def test_more_than_the_network_has_is_refused(penalty, line):
    with pytest.raises(UserError, match=line):
        training.prepare(experiment(penalty))


def test_several_seeds_are_flossed_without_waiting_for_each_other(tmp_path):
    """Two programs with QR decompositions at a time were seen to stand still."""
    slow = config.SGD(learning_rate=1e-3)
    made = experiment(config.Flossing(count=4), seeds=3, optimizer=slow)
    manifest = training.run(training.prepare(made), tmp_path / "r", quiet=True)
    assert manifest.state == "finished"
