"""Japanese Vowels: the file format, padding, scaling, and the official split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.config import JapaneseVowels
from jaxlstm.errors import UserError
from jaxlstm.tasks import build, carriers, vowels

HEADER = "#comment\n@problemName small\n@timeStamps false\n@classLabel true b a\n\n@data\n"
TRAIN = HEADER + "1,2,3:10,20,30:a\n5:50:b\n-1,0:7,7:a\n"
TEST = HEADER + "1,1,1,1:0,0,0,0:b\n2:9:a\n3:9:a\n"


@pytest.fixture
def folder(tmp_path):
    def write(train=TRAIN, test=TEST):
        (tmp_path / "JapaneseVowels_TRAIN.ts").write_text(train)
        (tmp_path / "JapaneseVowels_TEST.ts").write_text(test)
        return JapaneseVowels(path=str(tmp_path))

    return write


@pytest.fixture(scope="module")
def official():
    try:
        carriers.fetch(carriers.JAPANESE_VOWELS)
    except UserError as error:
        if "cannot download" not in str(error):
            raise
        pytest.skip(f"Japanese Vowels cannot be fetched here: {error}")
    return build(JapaneseVowels())


def test_series_are_padded_and_standardised_with_the_valid_training_frames(folder):
    task = build(folder())
    frames = np.array([[1, 10], [2, 20], [3, 30], [5, 50], [-1, 7], [0, 7]], float)
    mean, deviation = frames.mean(0), frames.std(0)
    expected = np.zeros((3, 4, 2))
    expected[0, :3] = (frames[:3] - mean) / deviation
    expected[1, :1] = (frames[3:4] - mean) / deviation
    expected[2, :2] = (frames[4:] - mean) / deviation
    np.testing.assert_allclose(task.data.inputs, expected, rtol=1e-5, atol=1e-6)
    assert task.data.lengths.tolist() == [3, 1, 2]
    assert task.data.targets.tolist() == [1, 0, 1]  # numbered as @classLabel lists them
    test = task.evaluation["test"]
    assert test.lengths.tolist() == [4, 1, 1]
    np.testing.assert_allclose(test.inputs[0], np.tile(([1, 0] - mean) / deviation, (4, 1)), 1e-5)
    assert (task.input_size, task.output_size, task.tokens, task.every_step) == (2, 2, False, False)
    assert task.baselines["most frequent class accuracy"] == pytest.approx(2 / 3)


def test_a_constant_feature_stays_finite(folder):
    task = build(folder(train=HEADER + "1,2:5,5:a\n3:5:b\n"))
    assert np.all(np.isfinite(task.data.inputs))


def test_batches_are_drawn_evenly_without_repetition(folder):
    rows = "".join(f"{value}:{2 * value}:a\n" for value in range(10))
    task = build(folder(train=HEADER + rows))
    keys = jax.random.split(jax.random.key(0), 2000)
    inputs = np.asarray(jax.vmap(lambda key: task.sample(task.data, key, 4).inputs[:, 0, 0])(keys))
    drawn = np.unique(inputs.round(4), return_inverse=True)[1].reshape(2000, 4)
    assert all(len(set(row)) == 4 for row in drawn)
    counts = np.bincount(drawn.ravel(), minlength=10)
    assert np.abs(counts - 800).max() < 5 * np.sqrt(800)
    whole = task.sample(task.data, keys[0], 10)
    np.testing.assert_array_equal(np.sort(whole.inputs[:, 0, 0]), task.data.inputs[:, 0, 0])
    assert task.sample(task.data, keys[0], 25).inputs.shape == (25, 4, 2)  # more than there are


def test_rows_stay_together(folder):
    task = build(folder())
    batch = task.sample(task.data, jax.random.key(1), 3)
    order = [task.data.lengths.tolist().index(length) for length in batch.lengths.tolist()]
    np.testing.assert_array_equal(batch.inputs, task.data.inputs[np.array(order)])
    np.testing.assert_array_equal(batch.targets, task.data.targets[np.array(order)])


def test_loss_against_numpy(folder):
    task = build(folder())
    logits = np.array([[2.0, 1], [0, 3], [1, 0]], np.float32)
    loss, metrics = jax.jit(task.loss)(
        jnp.asarray(logits), task.evaluation["test"]
    )  # classes 0, 1, 1
    expected = np.mean([np.log1p(np.exp(-1)), np.log1p(np.exp(-3)), np.log1p(np.exp(1))])
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert loss == metrics["cross_entropy"]
    assert float(metrics["accuracy"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("train", "wanted"),
    [
        ("", "expected a line @data"),
        (HEADER, "expected a line @data with cases"),
        (HEADER + "1,2:3,4:c\n", "line 7: expected a class of ['b', 'a'] at the end, got 'c'"),
        (HEADER + "1,2:3,4\n", "line 7: expected a class of"),
        (HEADER + "a\n", "line 7: expected at least one dimension"),
        (HEADER + "1,2:3,4:a\n1,2:3:a\n", "line 8: expected dimensions of one length, got [2, 1]"),
        (HEADER + "1,2:3,4:a\n1,2:a\n", "line 8: expected 2 dimensions, got 1"),
        (HEADER + "1,x:3,4:a\n", "line 7: expected numbers"),
        (HEADER + "1,?:3,4:a\n", "line 7: expected numbers"),
        (HEADER + ",:1,2:a\n", "line 7: expected numbers"),
        (HEADER + "1,nan:3,4:a\n", "line 7: expected finite numbers"),
        (HEADER + "1,2:a\n", "expected 1 dimensions and the classes ['b', 'a']"),
        (TRAIN.replace("b a", "a b"), "expected 2 dimensions and the classes ['a', 'b']"),
    ],
)
def test_malformed_files(folder, train, wanted):
    with pytest.raises(UserError) as caught:
        build(folder(train=train))
    assert wanted in str(caught.value)
    assert "JapaneseVowels_T" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files(folder, tmp_path):
    config = folder()
    (tmp_path / "JapaneseVowels_TEST.ts").write_bytes(b"\xff\xfe")
    for path, reason in ((config.path, "utf-8"), (str(tmp_path / "none"), "No such file")):
        with pytest.raises(UserError, match=f"task.path: expected a folder .*{reason}"):
            build(JapaneseVowels(path=path))


def test_the_official_split(official):
    train, test = official.data, official.evaluation["test"]
    assert train.inputs.shape == (270, 29, 12)
    assert test.inputs.shape == (370, 29, 12)
    assert np.bincount(train.targets).tolist() == [30] * 9
    assert np.bincount(test.targets).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert (int(train.lengths.min()), int(train.lengths.max())) == (7, 26)
    assert (int(test.lengths.min()), int(test.lengths.max())) == (7, 29)
    assert official.baselines["most frequent class accuracy"] == pytest.approx(88 / 370)
    for batch in (train, test):
        valid = np.arange(29) < np.asarray(batch.lengths)[:, None]
        assert np.all(np.asarray(batch.inputs)[~valid] == 0)
    valid = np.arange(29) < np.asarray(train.lengths)[:, None]
    frames = np.asarray(train.inputs)[valid]
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(0), 1, atol=1e-5)


def test_a_folder_gives_what_the_carrier_gives(official, tmp_path):
    members = carriers.read(carriers.JAPANESE_VOWELS, lambda name: name.endswith(vowels.FILES))
    for name, content in members.items():
        (tmp_path / name.rsplit("/", 1)[1]).write_bytes(content)
    task = build(JapaneseVowels(path=str(tmp_path)))
    jax.tree.map(np.testing.assert_array_equal, task.data, official.data)
    jax.tree.map(np.testing.assert_array_equal, task.evaluation, official.evaluation)
