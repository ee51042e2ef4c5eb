"""The Reber grammar, counting and delayed XOR, held against rules written otherwise."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import config, runs, training
from jaxlstm.config import Counting, DelayedXOR, Reber
from jaxlstm.tasks import build
from jaxlstm.tasks.reber import toss

pytestmark = pytest.mark.usefixtures("compile_fast")

# -- Reber

SYMBOLS = "BTPSXVE"
# The walk from state 3 to the end, and from there the whole grammar, as a regular expression.
TAIL = "(?:XT*VP)*(?:S|XT*VV)"
GRAMMAR = re.compile(f"B([TP])B(?:TS*X{TAIL}|PT*V(?:V|P{TAIL}))E\\1E")


def language(limit):
    """All strings of the embedded grammar with at most `limit` symbols between the inner B and E.

    Expanded from the expression, without the states of the generator.
    """
    loops, growing, runs_of = {""}, {""}, range(limit + 1)
    while growing:
        growing = {
            loop + "X" + "T" * k + "VP"
            for loop in growing
            for k in runs_of
            if len(loop) + k + 3 <= limit
        }
        loops |= growing
    tails = {loop + "S" for loop in loops}
    tails |= {loop + "X" + "T" * k + "VV" for loop in loops for k in runs_of}
    inner = {"T" + "S" * k + "X" + tail for tail in tails for k in runs_of}
    inner |= {"P" + "T" * k + "VV" for k in runs_of}
    inner |= {"P" + "T" * k + "VP" + tail for tail in tails for k in runs_of}
    return {f"B{o}B{walk}E{o}E" for walk in inner if len(walk) <= limit for o in "TP"}


def read(batch):
    """The strings of a batch with their last symbol, and the sets of symbols that may come."""
    found = []
    for inputs, targets, steps in zip(*map(np.asarray, batch), strict=True):
        assert not inputs[steps:].any()
        assert not targets[steps:].any()
        came = "".join(SYMBOLS[target & 7] for target in targets[:steps])
        string = "".join(SYMBOLS[symbol] for symbol in inputs[:steps]) + came[-1]
        assert came == string[1:]
        legal = [
            {symbol for bit, symbol in enumerate(SYMBOLS) if target >> 3 & 1 << bit}
            for target in targets[:steps]
        ]
        found.append((string, legal))
    return found


def test_reber_strings_are_those_of_the_grammar_with_its_chances():
    task = build(Reber(strings=4000, disjoint=False, data_seed=5))
    strings = [string for string, _ in read(task.evaluation["training"])]
    assert all(GRAMMAR.fullmatch(string) for string in strings)
    for string, choices in (("BTBTXSETE", 4), ("BPBPVVEPE", 4), ("BTBTSXXVVETE", 7)):
        expected = 4000 / 2**choices
        assert abs(strings.count(string) - expected) < 5 * math.sqrt(expected)


def test_reber_tosses_its_coins_in_blocks_as_one_by_one():
    one, many = np.random.default_rng(3), toss(3)
    assert [next(many) for _ in range(9000)] == [one.integers(2) for _ in range(9000)]


def test_reber_sets_of_what_may_come_are_those_of_the_language():
    every = language(12)
    assert all(GRAMMAR.fullmatch(string) for string in every)
    follows: dict[str, set[str]] = {}
    for string in every:
        for at in range(1, len(string)):
            follows.setdefault(string[:at], set()).add(string[at])
    checked = 0
    for string, legal in read(build(Reber(strings=300)).evaluation["all"]):
        if len(string) <= 6 + 8:  # a walk of 8 can turn anywhere and still end within 12
            assert legal == [follows[string[:at]] for at in range(1, len(string))]
            checked += 1
    assert checked > 100


def test_reber_sets_are_what_their_options_say():
    def sets(**options):
        task = build(Reber(**options))
        return [[s for s, _ in read(task.evaluation[name])] for name in ("training", "test", "all")]

    train, test, both = sets()
    assert (len(train), len(test)) == (256, 256)
    assert both == train + test
    assert not set(train) & set(test)
    assert len(set(train)) < 256
    assert sets() == [train, test, both]
    assert sets(data_seed=1)[0] != train
    same, other, _ = sets(disjoint=False)
    assert same == train
    assert set(same) & set(other)
    train, test, _ = sets(distinct=True)
    assert len(set(train) | set(test)) == 512


def test_reber_draws_from_the_training_set():
    task = build(Reber(strings=20, distinct=True))
    batch = task.sample(task.data, jax.random.key(0), 2000)
    drawn = [string for string, _ in read(batch)]
    counts = [drawn.count(string) for string, _ in read(task.evaluation["training"])]
    assert sum(counts) == 2000
    assert np.all(np.abs(np.array(counts) - 100) < 5 * math.sqrt(100))


@pytest.mark.parametrize(("over_steps", "targets"), [("sum", "next"), ("mean", "legal")])
def test_reber_scores_against_numpy(over_steps, targets):
    task = build(Reber(strings=30, over_steps=over_steps, targets=targets))
    batch = task.evaluation["all"]
    known = read(batch)
    steps = batch.inputs.shape[1]
    logits = np.random.default_rng(0).normal(size=(60, steps, 7)).astype(np.float32)
    for row, (_, legal) in enumerate(known[:40]):
        for at, may in enumerate(legal):
            logits[row, at] += [8 * (symbol in may) for symbol in SYMBOLS]
    losses, wrong, wrong_steps, squares = [], [], [], []
    for row, (string, legal) in enumerate(known):
        active = 1 / (1 + np.exp(-logits[row, : len(legal)].astype(float)))
        aims = string[1:] if targets == "next" else legal
        aimed = np.array([[s in each for s in SYMBOLS] for each in aims])
        each = ((active - aimed) ** 2).sum(1)
        losses.append((each.sum() if over_steps == "sum" else each.mean()) / 2)
        squares.append(each.mean())
        bad = [
            max(y[SYMBOLS.index(no)] for no in set(SYMBOLS) - may)
            >= min(y[SYMBOLS.index(yes)] for yes in may)
            for y, may in zip(active, legal, strict=True)
        ]
        wrong.append(any(bad))
        wrong_steps.append(np.mean(bad))
    assert 0 < np.mean(wrong) < 1
    loss, metrics = jax.jit(task.loss)(logits, batch)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(metrics["wrong"]) == pytest.approx(np.mean(wrong), rel=1e-6)
    assert float(metrics["wrong_steps"]) == pytest.approx(np.mean(wrong_steps), rel=1e-5)
    assert float(metrics["squared_error"]) == pytest.approx(np.mean(squares), rel=1e-5)


def test_reber_is_solved_by_what_knows_the_second_symbol_and_by_nothing_less():
    task = build(Reber())
    batch, score = task.evaluation["all"], jax.jit(task.loss)
    known = read(batch)
    knows, forgets = np.full((2, 512, batch.inputs.shape[1], 7), -1.0, np.float32)
    for row, (_, legal) in enumerate(known):
        for at, may in enumerate(legal):
            knows[row, at] = forgets[row, at] = [1.0 if s in may else -1.0 for s in SYMBOLS]
        forgets[row, len(legal) - 2] = [1.0 if s == "T" else -1.0 for s in SYMBOLS]
    _, metrics = score(jnp.asarray(knows), batch)
    assert float(metrics["wrong"]) == 0
    assert task.goal.met(float(metrics["wrong"]))
    _, metrics = score(jnp.asarray(forgets), batch)
    of_p = np.mean([string[1] == "P" for string, _ in known])
    assert float(metrics["wrong"]) == pytest.approx(of_p, abs=1e-6)
    assert float(metrics["wrong"]) == pytest.approx(task.baselines["short-memory wrong"], abs=0.12)
    # One string of 512 is not enough, equal activity is none, and neither is what is no number.
    for value in (1.0, np.nan):
        broken = knows.copy()
        broken[3, 0, 0] = value
        _, metrics = score(jnp.asarray(broken), batch)
        assert float(metrics["wrong"]) == 1 / 512
        assert not task.goal.met(float(metrics["wrong"]))


# -- counting


def test_counting_strings_are_as_many_of_b_as_of_a():
    task = build(Counting(longest=7, tested=30))
    for batch in (task.evaluation["validation"], task.sample((), jax.random.key(0), 3000)):
        for inputs, targets, steps in zip(*map(np.asarray, batch), strict=True):
            text = "".join("ab"[symbol] for symbol in inputs[:steps])
            n = text.count("a")
            assert text == "a" * n + "b" * n
            assert "".join("ab."[symbol] for symbol in targets[:steps]) == text[1:] + "."
            assert not inputs[steps:].any()
            assert not targets[steps:].any()
    assert (task.evaluation["validation"].lengths // 2).tolist() == list(range(1, 31))
    counts = np.bincount(np.asarray(batch.lengths) // 2, minlength=8)
    assert counts[0] == 0
    assert np.all(np.abs(counts[1:] - 3000 / 7) < 5 * math.sqrt(3000 / 7))


def test_counting_finds_the_first_string_that_is_wrong():
    task = build(Counting(longest=5, tested=20))
    batch = task.evaluation["validation"]
    right = np.asarray(jax.nn.one_hot(batch.targets, 3)) * 20
    right[:, 0] = 0  # what follows a is not settled
    score = jax.jit(task.loss)
    largest = lambda x: float(score(jnp.asarray(x), batch)[1]["largest_n"])  # noqa: E731
    assert largest(right) == 20
    assert task.goal.met(20)
    assert not task.goal.met(5)
    for n, at in ((7, 7), (7, 13), (12, 23), (1, 1)):  # the first b, the last
        wrong = right.copy()
        wrong[n - 1, at] = np.roll(wrong[n - 1, at], 1)
        assert largest(wrong) == n - 1
        wrong[14, 29] = np.roll(wrong[14, 29], 1)
        assert largest(wrong) == n - 1
        assert float(score(jnp.asarray(wrong), batch)[1]["wrong"]) == pytest.approx(0.1)
    behind = right.copy()
    behind[4, 10:] = 50 - behind[4, 10:]
    behind[4, 3] = (0, 0, 50)  # an a is read
    assert largest(behind) == 20
    # Without memory b is followed by one symbol always.
    for symbol, reached in ((1, 0), (2, 1)):
        same = np.tile(np.eye(3)[symbol], (20, 40, 1))
        assert largest(same) == reached <= task.baselines["memoryless largest_n"]


def test_counting_loss_against_numpy():
    task = build(Counting(longest=5, tested=9))
    batch = task.evaluation["validation"]
    logits = np.random.default_rng(0).normal(size=(9, 18, 3)).astype(np.float32)
    chance = np.exp(logits.astype(float))
    chance /= chance.sum(-1, keepdims=True)
    expected = [
        np.mean([-np.log(chance[row, at, batch.targets[row, at]]) for at in range(2 * row + 2)])
        for row in range(9)
    ]
    loss, metrics = jax.jit(task.loss)(logits, batch)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)
    assert float(metrics["cross_entropy"]) == float(loss)


# -- delayed XOR


@pytest.mark.parametrize(("length", "delay"), [(3, 1), (40, 7)])
def test_delayed_xor_compares_two_bits(length, delay):
    task = build(DelayedXOR(length=length, delay=delay))
    batch = task.evaluation["validation"]
    bits, targets = np.asarray(batch.inputs)[..., 0], np.asarray(batch.targets)
    assert bits.shape == (1000, length)
    assert set(np.unique(bits)) == {0, 1}
    assert np.mean(bits) == pytest.approx(0.5, abs=2.5 / math.sqrt(bits.size))
    for row, answers in zip(bits.astype(int), targets, strict=True):
        for t in range(2 * delay, length):
            assert answers[t] == (row[t - delay] + row[t - 2 * delay]) % 2
        assert not answers[: 2 * delay].any()


def test_delayed_xor_scores_against_numpy():
    task = build(DelayedXOR(length=9, delay=2))
    batch = task.evaluation["validation"]
    logits = np.random.default_rng(0).normal(size=(1000, 9, 1)).astype(np.float32)
    ones = 1 / (1 + np.exp(-logits[:, 4:, 0].astype(float)))
    answers = np.asarray(batch.targets)[:, 4:]
    nats = -np.log(np.where(answers == 1, ones, 1 - ones)).mean()
    score = jax.jit(task.loss)
    loss, metrics = score(logits, batch)
    assert float(loss) == float(metrics["cross_entropy"]) == pytest.approx(nats, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(np.mean((ones > 0.5) == answers), abs=1e-6)
    loss, metrics = score(np.full_like(logits, 1e-9), batch)
    assert float(loss) == pytest.approx(task.baselines["memoryless cross_entropy"], rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(0.5, abs=0.04)
    _, metrics = score(np.float32(2) * np.asarray(batch.targets, np.float32)[..., None] - 1, batch)
    assert task.goal.met(float(metrics["accuracy"]))


# -- that they train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model", "steps", "split", "metric", "reached"),
    [
        (Reber(), config.LSTM(hidden_size=16), 1500, "all", "wrong", lambda x: x < 0.05),
        (Counting(longest=8, tested=20), config.LSTM(hidden_size=10), 1500, "validation",
         "largest_n", lambda x: x >= 8),
        (DelayedXOR(length=20, delay=1), config.GRU(hidden_size=16, dropout=0.01), 1000,
         "validation", "accuracy", lambda x: x > 0.99),
    ],
)  # fmt: skip
def test_a_small_network_learns_it(tmp_path, task, model, steps, split, metric, reached):
    experiment = config.Experiment(
        name="small",
        question="?",
        expected="!",
        task=task,
        model=model,
        optimizer=config.Adam(learning_rate=1e-2, clip_norm=1.0),
        train=config.Train(steps=steps, batch_size=16, evaluate_every=steps),
    )
    assert training.run(training.prepare(experiment), tmp_path / "run", quiet=True)
    last = [r for r in runs.read_jsonl(tmp_path / "run", "metrics.jsonl") if r["split"] == split]
    assert last[-1]["step"] == steps
    assert reached(last[-1]["metrics"][metric][0])
