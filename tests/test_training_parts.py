"""The parts of a training: its update, its network, its optimisers, its scores, each alone."""

import dataclasses
import math
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from small_run import experiment, train

import jaxlstm as jl
from jaxlstm import config, runs, tasks, training
from jaxlstm.errors import UserError
from jaxlstm.tasks import Batch, Goal
from jaxlstm.training import evaluation, model, optimizers, sampling, scores, seeds, step

pytestmark = pytest.mark.usefixtures("compile_fast")

ROOT = Path(__file__).parent.parent
TRAININGS = sorted(path.name for path in ROOT.glob("configs/*.toml"))


def test_metrics_are_means_over_the_interval_of_what_single_steps_give():
    prepared = training.prepare(experiment(seeds=1))
    task, network, data = prepared.task, prepared.network, prepared.task.data
    optimizer = optimizers.build(prepared.experiment.optimizer, 24)
    state = prepared.states()[0]
    params, opt_state = state.params, optimizer.init(state.params)
    losses, gradients, updates = [], [], []
    for t in range(8):
        batch = task.sample(data, jax.random.fold_in(state.key, t), 4)

        def loss(params, batch=batch):
            return task.loss(network.apply(params, batch.inputs), batch)[0]

        value, gradient = jax.value_and_grad(loss)(params)
        change, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, change)
        losses.append(float(value))
        gradients.append(float(optax.tree.norm(gradient)))
        updates.append(float(optax.tree.norm(change.cell)))
    state = jax.jit(prepared.update.advance)(state, data, jnp.int32(8))
    found = step.mean_metrics(state, 8)
    assert found["loss"] == pytest.approx(statistics.fmean(losses), rel=1e-4)
    assert found["gradient_norm"] == pytest.approx(statistics.fmean(gradients), rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, params)


def test_clipping_bounds_the_update_and_keeps_its_direction():
    def change(clip):
        spec = config.SGD(learning_rate=1.0, clip_norm=clip)
        prepared = training.prepare(experiment(seeds=1, optimizer=spec))
        state = prepared.states()[0]
        after = jax.jit(prepared.update.advance)(state, prepared.task.data, jnp.int32(1))
        moved = jax.tree.map(jnp.subtract, after.params, state.params)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moved)])
        return flat.astype(np.float64), step.mean_metrics(after, 8)["gradient_norm"]

    free, norm = change(None)
    clipped, norm_before = change(1e-2)
    assert norm == norm_before > 1e-2
    assert np.linalg.norm(free) == pytest.approx(norm, rel=1e-4)
    assert np.linalg.norm(clipped) == pytest.approx(1e-2, rel=1e-4)
    cosine = free @ clipped / np.linalg.norm(free) / np.linalg.norm(clipped)
    assert cosine == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        config.Adam(learning_rate=1e-2),
        config.AdamW(learning_rate=1e-2, weight_decay=0.1, clip_norm=0.5),
        config.RMSprop(learning_rate=1e-2, momentum=0.9),
        config.SGD(
            learning_rate=1e-2, momentum=0.9, schedule=config.Cosine(warmup_steps=2, final=0.1)
        ),
    ],
)
def test_every_optimiser_goes_downhill(spec):
    optimizer = optimizers.build(spec, steps=200)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}

    def loss(params):
        return jnp.sum(jnp.square(params["w"])) + jnp.sum(jnp.square(params["b"]))

    @jax.jit
    def update(carried, _):
        params, state = carried
        change, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, change), state), None

    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), length=200)
    assert float(loss(params)) < 1.5


def test_weight_decay_leaves_biases_alone():
    optimizer = optimizers.build(config.AdamW(learning_rate=0.1, weight_decay=0.5), steps=1)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    change, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
    )
    np.testing.assert_allclose(change["w"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(change["b"], 0)


@pytest.mark.parametrize("warmup", [0, 4])
def test_schedules_rise_and_fall_as_they_say(warmup):
    cosine = optimizers.schedule(0.2, config.Cosine(warmup_steps=warmup, final=0.1), steps=24)
    found = [float(cosine(t)) for t in range(25)]
    expected = [0.2 * t / warmup for t in range(warmup)] if warmup else []
    for t in range(25 - warmup):
        fall = (1 + math.cos(math.pi * t / (24 - warmup))) / 2
        expected.append(0.2 * (0.9 * fall + 0.1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    constant = optimizers.schedule(0.2, config.Constant(warmup_steps=warmup), steps=24)
    assert [float(constant(t)) for t in (warmup, 20)] == pytest.approx([0.2, 0.2])


def test_the_readout_of_a_ragged_batch_is_that_of_each_row_alone():
    network = model.build(
        config.LSTM(hidden_size=4, layers=2, chrono_t_max=10),
        input_size=3,
        output_size=2,
        tokens=False,
        every_step=False,
    )
    params = network.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (3, 7, 3))
    lengths = jnp.array([7, 2, 5])
    outputs = network.apply(params, inputs, lengths)
    for row, length in enumerate(lengths):
        alone = network.apply(params, inputs[row : row + 1, : int(length)])
        np.testing.assert_allclose(outputs[row], alone[0], atol=1e-6)


@pytest.mark.parametrize("embedding_size", [None, 3])
@pytest.mark.parametrize("symbols", [5, 2000])
def test_symbols_are_read_one_hot_or_as_learnt_vectors(symbols, embedding_size):
    network = model.build(
        config.RNN(hidden_size=4, embedding_size=embedding_size),
        input_size=symbols,
        output_size=2,
        tokens=True,
        every_step=True,
    )
    params = network.init(jax.random.key(0))
    inputs = jnp.array([[0, symbols - 1, 2]])
    vectors = np.eye(symbols) if embedding_size is None else np.asarray(params.embedding)
    vectors = jnp.asarray(vectors[np.asarray(inputs)], "float32")
    hidden = np.asarray(jl.unroll(network.cell, params.cell, vectors).outputs)
    expected = hidden @ np.asarray(params.readout.kernel) + np.asarray(params.readout.bias)
    np.testing.assert_allclose(network.apply(params, inputs), expected, atol=1e-6)


def test_portions_of_a_large_set_score_as_the_whole(monkeypatch):
    prepared = training.prepare(experiment(seeds=1))
    params = prepared.states()[0].params
    batch = prepared.task.evaluation["validation"]
    evaluate = evaluation.build(prepared.task, prepared.network)
    outputs = prepared.network.apply(params, batch.inputs)
    expected = float(np.mean(np.square(np.asarray(outputs, np.float64) - batch.targets)))
    for portion in (10**9, 7 * 6, 1):
        monkeypatch.setattr(evaluation, "PORTION", portion)
        small = Batch(batch.inputs[:1000], batch.targets[:1000])
        assert float(evaluate(params, small)["mse"]) == pytest.approx(expected, rel=1e-5)


def test_sampling_streams_what_the_whole_network_would_say():
    network = model.build(
        config.LSTM(hidden_size=6, layers=2),
        input_size=5,
        output_size=5,
        tokens=True,
        every_step=True,
    )
    params = network.init(jax.random.key(0))
    # Sure of itself, so that a nearly cold draw takes the largest logit.
    params = params._replace(readout=params.readout._replace(kernel=10 * params.readout.kernel))
    prompt = jnp.array([1, 4, 2], jnp.int32)
    write = sampling.build(network, 6)
    text = write(params, jax.random.key(1), prompt, jnp.float32(1e-6))
    heard = prompt
    for symbol in text:
        logits = network.apply(params, heard[None])[0, -1]
        assert int(symbol) == int(jnp.argmax(logits))
        heard = jnp.concatenate([heard, symbol[None]])


def test_a_warm_sample_follows_the_softmax():
    network = model.build(
        config.RNN(hidden_size=2), input_size=3, output_size=3, tokens=True, every_step=True
    )
    params = network.init(jax.random.key(0))
    bias = jnp.array([0.0, 1.0, 2.0])
    readout = params.readout._replace(kernel=jnp.zeros_like(params.readout.kernel), bias=bias)
    text = sampling.build(network, 4000)(
        params._replace(readout=readout), jax.random.key(2), jnp.zeros(1, jnp.int32), jnp.float32(2)
    )
    counts = np.bincount(text, minlength=3)
    chances = np.exp(np.arange(3) / 2) / np.exp(np.arange(3) / 2).sum()
    assert stats.chisquare(counts, 4000 * chances).pvalue > 1e-3


def test_samples_are_written_for_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcd" * 400)
    made = experiment(
        seeds=1,
        task=config.Characters(path=str(path), window=8),
        sample=config.Sample(every=12, characters=9, prompt="ab"),
    )
    training.run(training.prepare(made), tmp_path / "r", quiet=True)
    found = runs.read_jsonl(tmp_path / "r", "samples.jsonl")
    assert [record["step"] for record in found] == [12, 24]
    assert all(len(record["text"]) == 9 and record["prompt"] == "ab" for record in found)
    with pytest.raises(UserError, match=r"^sample: expected none, the task is not about text"):
        training.prepare(experiment(sample=config.Sample()))


@pytest.mark.parametrize(
    ("goal", "line"),
    [
        (config.Goal(split="test", below=1), "goal.split: expected one of validation, got 'test'"),
        (config.Goal(metric="x", below=1), "goal.metric: expected one of loss, mse, got 'x'"),
    ],
)
def test_goals_that_the_task_does_not_know_are_refused(goal, line):
    with pytest.raises(UserError, match=line):
        training.prepare(experiment(goal=goal))


def test_intervals_are_those_of_student():
    values = [0.3, 0.1, 0.4, 0.1, 0.5]
    low, high = scores.interval(values)
    expected = stats.t.interval(0.95, 4, loc=statistics.fmean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert scores.interval([1.0]) is None


@pytest.mark.parametrize(
    ("values", "every", "median"),
    [
        ([0.1, 0.2, 0.3], "met", "met"),
        ([0.1, 0.2, 0.5], "missed", "met"),
        ([0.1, 0.5, 0.5], "missed", "missed"),
        ([0.1, 0.2, math.nan], "missed", "missed"),
    ],
)
def test_verdicts_are_computed(values, every, median):
    goal = Goal("test", "mse", below=0.4)
    given = {"validation": {"mse": values}, "test": {"loss": values, "mse": values}}
    each = dataclasses.replace(goal, seeds="every")
    assert scores.summary(given, each)[0].verdict == every
    found = scores.summary(given, goal)
    assert found[0].verdict == median
    assert [score.metric for score in found] == ["test mse", "validation mse", "test loss"]
    assert [score.verdict for score in found[1:]] == ["reported"] * 2


@pytest.mark.parametrize("how", ["threads", "vmap"])
def test_mapping_over_seeds_gives_each_its_own(how):
    given = [{"a": jnp.full(3, float(i))} for i in range(4)]
    mapped = seeds.over_seeds(lambda state, by: jax.tree.map(lambda a: a * by, state), how=how)
    found = mapped(given, jnp.float32(10))
    assert [float(state["a"][0]) for state in found] == [0, 10, 20, 30]


SMALL = {
    "adding": [("task.length", "8")],
    "copy": [("task.delay", "5")],
    "characters": [("task.window", "8"), ("sample.characters", "5")],
    "vowels": [],
    "forecast": [("task.window", "8")],
    "music": [("task.window", "8")],
    "digits": [],
    "moving-digits": [("task.frames", "3")],
}


def trainings():
    """Every config; the first of its task and cell by default, the others in the slow suite."""
    seen = set()
    for name in TRAININGS:
        loaded = config.load(ROOT / "configs" / name)
        kinds = {type(loaded.task), type(loaded.model)}
        yield pytest.param(name, marks=[pytest.mark.slow] if kinds <= seen else [])
        seen |= kinds


@pytest.mark.parametrize("name", list(trainings()))
def test_every_training_in_the_repository_takes_two_steps(name, tmp_path, monkeypatch):
    path = ROOT / "configs" / name
    loaded = config.load(path)
    kind = loaded.task.__struct_config__.tag
    width = "filters" if isinstance(loaded.model, config.ConvLSTM) else "hidden_size"
    overrides = [*SMALL[kind], ("train.steps", "2"), ("train.batch_size", "2"), ("seeds", "1")]
    overrides += [(f"model.{width}", "4"), ("optimizer.schedule", '{ kind = "constant" }')]
    if kind == "characters":
        text = tmp_path / "text.txt"
        text.write_text("To be, or not to be: that is the question.\n" * 20)
        overrides.append(("task.path", str(text)))
    try:
        prepared = training.prepare(config.load(path, overrides))
    except UserError as error:
        if "cannot download" in str(error):
            pytest.skip(f"the data of {name} cannot be fetched here")
        raise
    manifest = training.run(prepared, tmp_path / "r", quiet=True)
    assert manifest.state == "finished"
    assert all(math.isfinite(score.mean) for score in manifest.summary)
    assert manifest.summary[0].verdict in ("met", "missed")


def test_tasks_take_the_goal_of_the_config_before_their_own():
    task = tasks.build(config.Adding(length=4))
    assert scores.resolve(None, task) == task.goal
    goal = scores.resolve(config.Goal(above=0.1, seeds="every"), task)
    assert goal == Goal("validation", "mse", above=0.1, seeds="every")


def test_a_stop_rule_is_checked_before_anything_runs():
    made = experiment(train=train(stop=config.Streak(metric="nope", below=1.0)))
    with pytest.raises(UserError, match=r"^train.stop.metric: expected one of .*, got 'nope'"):
        training.prepare(made)
