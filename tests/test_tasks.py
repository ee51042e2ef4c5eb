"""The generated tasks, and what all tasks have in common."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.config import (
    Adding,
    Characters,
    CopyMemory,
    Counting,
    DelayedXOR,
    Digits,
    Forecast,
    JapaneseVowels,
    MovingDigits,
    Reber,
    TemporalOrder,
)
from jaxlstm.tasks import Batch, Goal, build, digits

pytestmark = pytest.mark.usefixtures("compile_fast")

SERIES = "1,2,3,4:0.5,0.25,0,-1:a\n0,1:1,0:b\n-2,2,1:3,1,3:a\n"


TASKS = ["adding", "adding-1997", "copy", "order", "order-1997", "characters", "vowels", "forecast"]
TASKS += ["reber", "counting", "xor"]
TASKS += ["digits", "moving-digits"]


@pytest.fixture(scope="module", params=TASKS)
def task(request, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("data")
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be: that is the question.\n" * 20)
    table = tmp_path / "table.csv"
    table.write_text("x,y\n" + "".join(f"{t % 5},{t % 7 or 'NA'}\n" for t in range(90)))
    for part, files in digits.FILES.items():
        for file, sizes in zip(files, ((12, 5, 5), (12,)), strict=True):
            header = bytes([0, 0, 8, len(sizes), *(b for n in sizes for b in (0, 0, 0, n))])
            made = range(len(part), len(part) + math.prod(sizes))
            (tmp_path / file).write_bytes(
                header + bytes(n * n % (251 if sizes[1:] else 3) for n in made)
            )
    for part in ("TRAIN", "TEST"):
        file = tmp_path / f"JapaneseVowels_{part}.ts"
        file.write_text(f"@classLabel true a b\n@data\n{SERIES}")
    return build(
        {
            "adding": Adding(length=9),
            "adding-1997": Adding(length=20, protocol="1997"),
            "copy": CopyMemory(delay=4, symbols=3, payload=2),
            "order": TemporalOrder(length=20),
            "order-1997": TemporalOrder(length=20, outputs="logistic"),
            "characters": Characters(path=str(text), window=16),
            "vowels": JapaneseVowels(path=str(tmp_path)),
            "forecast": Forecast(path=str(table), target="y", horizons=(1, 2), window=6),
            "reber": Reber(strings=40),
            "counting": Counting(longest=9, tested=12),
            "xor": DelayedXOR(length=12, delay=3),
            "digits": Digits(path=str(tmp_path)),
            "moving-digits": MovingDigits(path=str(tmp_path), canvas=6, size=3, frames=4),
        }[request.param]
    )


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)
    return jax.tree.structure(left) == jax.tree.structure(right)


def dtypes(tree):
    return {array.dtype.name for array in jax.tree.leaves(tree)}


def test_sampling_is_a_function_of_the_key(task):
    keys = jax.random.split(jax.random.key(0), 3)
    jitted = jax.jit(task.sample, static_argnums=2)
    batches = [jitted(task.data, key, 5) for key in keys]
    assert same(batches[0], jitted(task.data, keys[0], 5))
    assert same(batches[0], task.sample(task.data, keys[0], 5))
    assert not np.array_equal(batches[0].inputs, batches[1].inputs)
    mapped = jax.jit(jax.vmap(lambda key: task.sample(task.data, key, 5)))(keys)
    assert same(mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches))


def test_dtypes_are_32_bits(task):
    for wide in (False, True):
        with jax.enable_x64(wide):
            batch = jax.eval_shape(lambda key: task.sample(task.data, key, 4), jax.random.key(1))
        assert dtypes((batch, task.evaluation)) <= {"float32", "int32"}
        assert batch.inputs.dtype == (jnp.int32 if task.tokens else jnp.float32)


def test_a_program_takes_the_data_as_an_argument(task):
    program = jax.make_jaxpr(task.sample, static_argnums=2)(task.data, jax.random.key(0), 4)
    assert all(np.size(constant) <= 64 for constant in program.consts)


def guess(task, batch):
    """Outputs of the shape that a model of the task would give for a batch."""
    steps = batch.inputs.shape[:2] if task.every_step else batch.inputs.shape[:1]
    drawn = np.random.default_rng(0).normal(size=(*steps, task.output_size))
    return jnp.asarray(drawn, jnp.float32)


def test_a_loss_and_its_metrics_are_means_over_the_batch(task):
    batches = {"sampled": task.sample(task.data, jax.random.key(2), 4), **task.evaluation}
    for batch in batches.values():
        outputs = guess(task, batch)
        loss, metrics = jax.jit(task.loss)(outputs, batch)
        assert loss.shape == ()
        assert np.isfinite(loss)
        assert all(metric.shape == () for metric in metrics.values())
        assert task.goal.metric in metrics
    batch = batches["sampled"]
    halves = [
        jax.jit(task.loss)(
            *jax.tree.map(lambda a, half=half: a[half::2], (guess(task, batch), batch))
        )
        for half in (0, 1)
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    whole = jax.jit(task.loss)(guess(task, batch), batch)
    for _, metrics in (mean, whole):
        metrics.pop("largest_n", None)  # what it says, that of a whole set and no mean
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, mean)


def test_the_loss_is_taken_in_float32_at_least(task):
    batch = task.sample(task.data, jax.random.key(2), 3)
    outputs = guess(task, batch)
    assert jax.eval_shape(task.loss, outputs.astype(jnp.bfloat16), batch)[0].dtype == jnp.float32
    with jax.enable_x64(True):
        wide, _ = jax.jit(task.loss)(outputs.astype(jnp.float64), batch)
        assert wide.dtype == jnp.float64
    np.testing.assert_allclose(jax.jit(task.loss)(outputs, batch)[0], wide, rtol=1e-5)


def test_goals_and_baselines_speak_of_metrics(task):
    assert task.goal.split in task.evaluation
    batch = task.sample(task.data, jax.random.key(2), 3)
    _, metrics = jax.eval_shape(task.loss, guess(task, batch), batch)
    assert {name.split()[-1] for name in task.baselines} <= set(metrics)
    assert any(name.endswith(f" {task.goal.metric}") for name in task.baselines)


@pytest.mark.parametrize(
    "config",
    [Adding(length=9), Adding(protocol="1997"), CopyMemory(delay=5), TemporalOrder()],
)
def test_evaluation_sets_are_fixed(config):
    first = build(config).evaluation["validation"]
    with jax.default_prng_impl("rbg"):
        assert same(first, build(config).evaluation["validation"])
    assert first.inputs.shape[0] >= 1000
    assert len(np.unique(np.asarray(first.inputs).reshape(first.inputs.shape[0], -1), axis=0)) > 990


# -- adding


@pytest.mark.parametrize("length", [2, 9])
def test_adding_marks_one_value_in_each_half(length):
    task = build(Adding(length=length))
    batch = task.evaluation["validation"]
    values, markers = np.moveaxis(np.asarray(batch.inputs), -1, 0)
    assert values.shape == (1000, length)
    assert values.min() >= 0
    assert values.max() < 1
    assert set(np.unique(markers)) <= {0, 1}
    rows, positions = np.nonzero(markers)
    np.testing.assert_array_equal(rows, np.repeat(np.arange(1000), 2))
    first, second = positions.reshape(1000, 2).T
    assert set(first) == set(range(length // 2))
    assert set(second) == set(range(length // 2, length))
    # Even over each half: expected counts of at least 200, so 4.5 sigma on each.
    for drawn, places in ((first, length // 2), (second, length - length // 2)):
        counts = np.bincount(drawn - drawn.min(), minlength=places)
        assert np.all(np.abs(counts - 1000 / places) < 4.5 * math.sqrt(1000 / places))


def test_adding_targets_are_the_sum_of_the_marked():
    batch = build(Adding(length=9)).evaluation["validation"]
    expected = [[row[row[:, 1] == 1, 0].sum()] for row in np.asarray(batch.inputs)]
    np.testing.assert_allclose(batch.targets, expected, rtol=1e-6)
    assert batch.lengths is None


def test_adding_loss_is_the_mean_square_and_one_sixth_without_memory():
    task = build(Adding(length=9))
    batch = task.sample(task.data, jax.random.key(6), 100_000)
    loss, metrics = jax.jit(task.loss)(jnp.ones((100_000, 1)), batch)
    assert loss == metrics["mse"]
    assert float(loss) == pytest.approx(task.baselines["memoryless mse"], abs=0.003)  # 5 sigma
    outputs = guess(task, batch)
    expected = np.mean((np.asarray(outputs, float) - np.asarray(batch.targets)) ** 2)
    assert float(jax.jit(task.loss)(outputs, batch)[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("length", [11, 100])
def test_adding_of_1997_follows_the_protocol(length):
    task = build(Adding(length=length, protocol="1997"))
    batch = task.sample(task.data, jax.random.key(4), 4_000)
    longest = length + length // 10
    assert batch.inputs.shape == (4_000, longest, 2)
    assert set(np.asarray(batch.lengths)) == set(range(length, longest + 1))
    firsts, seconds = np.zeros(10, int), np.zeros(length // 2, int)
    for pairs, target, steps in zip(*map(np.asarray, batch), strict=True):
        values, markers = pairs[:steps].T
        assert not pairs[steps:].any()
        assert markers[0] == markers[-1] == -1
        assert set(markers[1:-1]) <= {0, 1}
        places = np.flatnonzero(markers == 1)
        if len(places) == 1:  # the first pair was drawn, and holds zero
            assert values[0] == 0
            places = np.array([0, *places])
        assert len(places) == 2
        early, late = sorted(places)
        assert early < 10
        assert late < max(10, length // 2)
        if length > 20:  # which of two early ones was drawn first cannot be seen
            firsts[early] += late >= 10
            seconds[late] += late >= 10
        assert target[0] == pytest.approx(0.5 + (values[early] + values[late]) / 4, abs=1e-6)
    if length > 20:
        for counts in (firsts, seconds[10:]):
            mean = counts.mean()
            assert np.all(np.abs(counts - mean) < 5 * math.sqrt(mean))
        # A first mark among ten and a second behind them: all but 9 of T/2 − 1 places.
        share = seconds.sum() / 4_000
        assert share == pytest.approx(1 - 9 / (length // 2 - 1), abs=5 * 0.5 / math.sqrt(4_000))
    inside = np.asarray(batch.inputs[:, 1:length, 0])
    assert (inside.min(), inside.max()) == pytest.approx((-1, 1), abs=1e-3)


def test_adding_of_1997_scores_a_logistic_unit():
    task = build(Adding(length=20, protocol="1997"))
    batch = task.sample(task.data, jax.random.key(6), 20_000)
    loss, metrics = jax.jit(task.loss)(jnp.zeros((20_000, 1)), batch)
    assert float(metrics["wrong"]) == pytest.approx(task.baselines["memoryless wrong"], abs=1.3e-2)
    assert float(metrics["mse"]) == pytest.approx(task.baselines["memoryless mse"], abs=1.6e-3)
    batch = task.evaluation["validation"]
    outputs = np.random.default_rng(0).normal(scale=0.3, size=(2560, 1)).astype(np.float32)
    loss, metrics = jax.jit(task.loss)(outputs, batch)
    off = np.abs(1 / (1 + np.exp(-outputs.astype(float))) - np.asarray(batch.targets))
    assert float(loss) == pytest.approx(np.mean(off**2) / 2, rel=1e-5)
    assert float(metrics["mse"]) == pytest.approx(np.mean(off**2), rel=1e-5)
    assert float(metrics["abs_error"]) == pytest.approx(np.mean(off), rel=1e-5)
    assert float(metrics["wrong"]) == pytest.approx(np.mean(off >= 0.04), abs=1e-6)
    right = np.asarray(batch.targets, float)
    _, metrics = task.loss(jnp.asarray(np.log(right / (1 - right)), jnp.float32), batch)
    assert float(metrics["wrong"]) == 0
    assert task.goal.met(float(metrics["wrong"]))


# -- copy memory


@pytest.mark.parametrize(("delay", "symbols", "payload"), [(1, 2, 1), (5, 8, 10)])
def test_copy_follows_the_protocol(delay, symbols, payload):
    task = build(CopyMemory(delay=delay, symbols=symbols, payload=payload))
    batch = task.evaluation["validation"]
    inputs, targets = np.asarray(batch.inputs), np.asarray(batch.targets)
    assert inputs.shape == targets.shape == (1000, delay + 2 * payload)
    blank, delimiter = symbols, symbols + 1
    assert set(np.unique(inputs[:, :payload])) == set(range(symbols))
    rest = np.full(delay + payload, blank)
    rest[delay - 1] = delimiter
    np.testing.assert_array_equal(inputs[:, payload:], np.tile(rest, (1000, 1)))
    np.testing.assert_array_equal(targets[:, -payload:], inputs[:, :payload])
    assert np.all(targets[:, :-payload] == blank)
    assert (task.input_size, task.output_size) == (symbols + 2, symbols + 1)


@pytest.mark.parametrize(
    ("delay", "published"), [(100, 0.173287), (500, 0.039989), (1000, 0.020387), (2000, 0.010294)]
)
def test_copy_baselines_are_the_published_ones(delay, published):
    baselines = build(CopyMemory(delay=delay)).baselines
    assert baselines["memoryless cross_entropy"] == pytest.approx(published, abs=5e-7)
    assert baselines["memoryless recall"] == 1 / 8


def test_copy_baseline_is_what_the_memoryless_predictor_scores():
    task = build(CopyMemory(delay=100))
    batch = task.evaluation["validation"]
    logits = np.full((1000, 120, 9), -np.inf, np.float32)
    logits[:, :-10, 8] = 0
    logits[:, -10:, :8] = 0
    loss, metrics = jax.jit(task.loss)(jnp.asarray(logits), batch)
    assert float(loss) == pytest.approx(task.baselines["memoryless cross_entropy"], abs=1e-6)
    assert loss == metrics["cross_entropy"]
    assert float(metrics["recall"]) == pytest.approx(1 / 8, abs=0.02)


def test_copy_loss_and_recall_against_numpy():
    task = build(CopyMemory(delay=5))
    batch = task.evaluation["validation"]
    logits = np.random.default_rng(1).normal(size=(1000, 25, 9)).astype(np.float32)
    loss, metrics = jax.jit(task.loss)(jnp.asarray(logits), batch)
    wide, targets = logits.astype(float), np.asarray(batch.targets)
    chance = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    rows, steps = np.indices(targets.shape)
    assert float(loss) == pytest.approx(-np.log(chance[rows, steps, targets]).mean(), rel=1e-5)
    right = wide.argmax(-1)[:, -10:] == targets[:, -10:]
    assert float(metrics["recall"]) == pytest.approx(right.mean())
    perfect = jax.nn.one_hot(batch.targets, 9) * 50
    loss, metrics = jax.jit(task.loss)(perfect, batch)
    assert float(loss) < 1e-6
    assert metrics["recall"] == 1
    assert task.goal.met(float(metrics["recall"]))


# -- temporal order


@pytest.mark.parametrize(
    ("protocol", "length", "spans"),
    [
        ("1997", 100, [range(10, 21), range(50, 61)]),
        ("1997", 50, [range(5, 11), range(25, 31)]),
        ("1997", 100, [range(10, 21), range(33, 44), range(66, 77)]),
        ("2013", 60, [range(6, 12), range(24, 30)]),
    ],
)
def test_temporal_order_follows_the_protocol(protocol, length, spans):
    task = build(TemporalOrder(length=length, events=len(spans), protocol=protocol))
    batch = task.evaluation["validation"]
    inputs, targets = np.asarray(batch.inputs), np.asarray(batch.targets)
    lengths = np.full(2560, length) if batch.lengths is None else np.asarray(batch.lengths)
    longest = length + length // 10 if protocol == "1997" else length
    assert inputs.shape == (2560, longest)
    assert set(lengths) == set(range(length, longest + 1))
    seen = [set() for _ in spans]
    for row, target, steps in zip(inputs, targets, lengths, strict=True):
        valid = row[:steps].tolist()
        events = [(at, symbol) for at, symbol in enumerate(valid) if symbol < 2]
        assert len(events) == len(spans)
        assert int("".join(str(symbol) for _, symbol in events), 2) == target
        for places, (at, _) in zip(seen, events, strict=True):
            places.add(at)
        if protocol == "1997":
            assert (valid[0], valid[-1]) == (6, 7)
            assert set(valid[1:-1]) <= {0, 1, 2, 3, 4, 5}
    assert seen == [set(span) for span in spans]
    assert task.input_size == (8 if protocol == "1997" else 6)
    counts = np.bincount(targets, minlength=2 ** len(spans))
    assert counts.min() > 0.8 * counts.mean()


def test_temporal_order_scores_the_class():
    task = build(TemporalOrder(length=20))
    batch = task.evaluation["validation"]
    loss, metrics = task.loss(jnp.zeros((2560, 4)), batch)
    assert float(loss) == pytest.approx(math.log(4), rel=1e-5)
    _, metrics = task.loss(jax.nn.one_hot(batch.targets, 4), batch)
    assert float(metrics["error"]) == 0
    _, metrics = task.loss(jax.nn.one_hot((batch.targets + 1) % 4, 4), batch)
    assert float(metrics["error"]) == 1


def test_temporal_order_scores_logistic_units():
    task = build(TemporalOrder(length=20, outputs="logistic"))
    batch = task.evaluation["validation"]
    outputs = np.random.default_rng(0).normal(scale=3, size=(2560, 4)).astype(np.float32)
    outputs[:500] = np.where(np.arange(4) == np.asarray(batch.targets)[:500, None], 2, -2)
    loss, metrics = jax.jit(task.loss)(outputs, batch)
    off = np.abs(1 / (1 + np.exp(-outputs.astype(float))) - np.eye(4)[np.asarray(batch.targets)])
    wrong = [any(unit >= 0.3 for unit in row) for row in off]
    assert 0 < np.mean(wrong) < 1
    assert float(loss) == pytest.approx(np.sum(off**2) / 2 / 2560, rel=1e-5)
    assert float(metrics["squared_error"]) == pytest.approx(np.sum(off**2) / 2560, rel=1e-5)
    assert float(metrics["abs_error"]) == pytest.approx(np.mean(off), rel=1e-5)
    assert float(metrics["wrong"]) == pytest.approx(np.mean(wrong), abs=1e-6)
    error = np.mean(outputs.argmax(-1) != np.asarray(batch.targets))
    assert float(metrics["error"]) == pytest.approx(error, abs=1e-6)
    guess = jax.nn.one_hot(jnp.zeros_like(batch.targets), 4) * 20 - 10
    _, metrics = task.loss(guess, batch)
    assert float(metrics["wrong"]) == pytest.approx(task.baselines["memoryless wrong"], abs=0.04)


def test_temporal_order_is_evaluated_at_other_lengths():
    task = build(
        TemporalOrder(length=20, protocol="2013", evaluation_size=50, evaluate_lengths=(30, 200))
    )
    shapes = {name: batch.inputs.shape for name, batch in task.evaluation.items()}
    assert shapes == {"validation": (50, 20), "length-30": (50, 30), "length-200": (50, 200)}
    events = np.flatnonzero((np.asarray(task.evaluation["length-200"].inputs) < 2).any(axis=0))
    assert set(events) <= {*range(20, 40), *range(80, 100)}


def test_temporal_order_of_mixed_lengths_places_events_by_each_length():
    task = build(TemporalOrder(length=50, longest=200, protocol="2013", evaluate_lengths=(1000,)))
    batch = task.evaluation["validation"]
    inputs, lengths = np.asarray(batch.inputs), np.asarray(batch.lengths)
    assert inputs.shape == (2560, 200)
    assert set(lengths) == set(range(50, 201))
    for row, steps, target in zip(inputs, lengths, np.asarray(batch.targets), strict=True):
        first, second = np.flatnonzero(row[:steps] < 2)
        assert steps // 10 <= first < steps // 5
        assert steps * 2 // 5 <= second < steps // 2
        assert 2 * row[first] + row[second] == target
    assert task.evaluation["length-1000"].lengths is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"longest": 200}, "longest: expected none with protocol"),
        ({"longest": 20, "protocol": "2013"}, "longest: expected int >= length = 100, got 20"),
    ],
)
def test_temporal_order_refuses_a_longest_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        TemporalOrder(**given)


# -- the rest


def test_goals_need_one_bound():
    with pytest.raises(ValueError, match="one of `below` and `above`"):
        Goal("test", "accuracy")
    with pytest.raises(ValueError, match="got 1 and 2"):
        Goal("test", "accuracy", below=1, above=2)
    goal = Goal("test", "accuracy", above=0.95)
    assert str(goal) == "> 0.95"
    assert goal.met(0.96)
    assert not goal.met(0.95)
    assert not goal.met(float("nan"))


def test_what_is_no_task_config_is_refused():
    with pytest.raises(TypeError, match="one of Adding, CopyMemory, TemporalOrder, Char"):
        build(Batch(jnp.zeros(1), jnp.zeros(1)))
