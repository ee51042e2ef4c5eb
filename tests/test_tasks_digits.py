"""Images as sequences: the idx format, the order of pixels, the split, the baselines."""

import gzip
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.config import Digits
from jaxlstm.errors import UserError
from jaxlstm.tasks import build, digits


def packed(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def images():
    draw = np.random.default_rng(0)
    labels = {"train": np.arange(40) % 3, "test": np.array([0, 2, 2, 1, 2])}
    shapes = draw.integers(0, 128, size=(3, 4, 5))
    return {
        part: digits.Images(shapes[known] + draw.integers(0, 127, size=(len(known), 4, 5)), known)
        for part, known in labels.items()
    }


@pytest.fixture
def folder(tmp_path, images):
    def write(**changed):
        for part, names in digits.FILES.items():
            for file, array in zip(names, images[part], strict=True):
                content = changed.get(file[:12], packed(array))
                if content is not None:
                    zipped = part == "test"
                    name = f"{file}.gz" if zipped else file
                    (tmp_path / name).write_bytes(gzip.compress(content) if zipped else content)
        return str(tmp_path)

    return write


@pytest.mark.parametrize(("by", "shape"), [("row", (4, 5)), ("pixel", (20, 1))])
def test_a_step_is_a_row_or_a_pixel(folder, images, by, shape):
    task = build(Digits(path=folder(), by=by))
    test = task.evaluation["test"]
    np.testing.assert_allclose(test.inputs, images["test"].images.reshape(5, *shape) / 255, 1e-6)
    assert test.targets.tolist() == [0, 2, 2, 1, 2]
    assert (task.input_size, task.output_size, task.every_step) == (shape[1], 3, False)
    batch = jax.jit(task.sample, static_argnums=2)(task.data, jax.random.key(0), 40)
    flat = np.asarray(batch.inputs).reshape(40, 20) * 255
    known = images["train"].images.reshape(40, 20)
    rows = [int(np.abs(known - row).sum(axis=1).argmin()) for row in flat]
    assert sorted(rows) == list(range(40))  # each image once
    np.testing.assert_allclose(flat, known[rows], atol=1e-3)
    np.testing.assert_array_equal(batch.targets, images["train"].labels[rows])


def test_the_order_of_pixels_is_one_for_all(folder):
    plain = build(Digits(path=folder(), by="pixel"))
    mixed = build(Digits(path=folder(), by="pixel", permuted=True))
    order = np.random.RandomState(digits.ORDER_SEED).permutation(20)
    assert order.tolist() != list(range(20))
    np.testing.assert_array_equal(mixed.data[0], plain.data[0][:, order])
    np.testing.assert_array_equal(
        mixed.evaluation["test"].inputs, plain.evaluation["test"].inputs[:, order]
    )
    assert mixed.baselines == plain.baselines


def test_baselines_by_hand(folder, images):
    task = build(Digits(path=folder()))
    train, test = images["train"], images["test"]
    means = [train.images[train.labels == c].mean(axis=0) for c in range(3)]
    nearest = [
        np.argmin([np.square(image - mean).sum() for mean in means]) for image in test.images
    ]
    assert task.baselines["nearest mean accuracy"] == np.mean(nearest == test.labels)
    assert task.baselines["most frequent class accuracy"] == 3 / 5
    # Ridge regression as least squares on more rows.
    flat = np.c_[train.images.reshape(40, 20) / 255, np.ones(40)]
    design = np.r_[flat, np.eye(21)]
    wanted = np.r_[np.eye(3)[train.labels], np.zeros((21, 3))]
    weights = np.linalg.lstsq(design, wanted, rcond=None)[0]
    guess = (np.c_[test.images.reshape(5, 20) / 255, np.ones(5)] @ weights).argmax(axis=1)
    assert task.baselines["linear accuracy"] == np.mean(guess == test.labels)
    best = max(task.baselines.values())
    assert task.goal.above == pytest.approx(best, rel=2e-6)
    assert not task.goal.met(best)
    assert task.goal.met(best + 1e-3)


def test_loss_against_numpy(folder):
    task = build(Digits(path=folder()))
    logits = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)
    test = task.evaluation["test"]
    loss, metrics = jax.jit(task.loss)(jnp.asarray(logits), test)
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.asarray(test.targets)
    assert float(loss) == pytest.approx(-np.log(chance[np.arange(5), labels]).mean(), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(logits.argmax(axis=1) == labels))


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"train-images": None}, "expected a folder with train-images-idx3-ubyte"),
        ({"t10k-labels-": None}, "expected a folder with t10k-labels-idx1-ubyte"),
        ({"train-images": b""}, "expected the idx format"),
        ({"train-images": b"\0\0\x0d\1\0\0\0\1abcd"}, "expected the idx format"),
        (
            {"train-images": packed(np.zeros((40, 4, 5)))[:-1]},
            "expected 800 bytes after the header",
        ),
        ({"train-labels": packed(np.zeros(39))}, "expected as many labels as images"),
        ({"train-labels": packed(np.zeros((40, 1)))}, "expected images N x height x width"),
        ({"train-images": packed(np.zeros((40, 5, 4)))}, "expected images of one size"),
        ({"train-images": packed(np.zeros((0, 4, 5)))}, "expected images N x height x width"),
    ],
)
def test_faults_of_files_are_one_line(folder, changed, wanted):
    with pytest.raises(UserError, match=r"task\.path: ") as caught:
        build(Digits(path=folder(**{key[:12]: value for key, value in changed.items()})))
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_gzip(folder, tmp_path):
    path = folder()
    for content in (b"plain", gzip.compress(b"a" * 1000)[:-9]):
        (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"task\.path: expected a folder with t10k-images"):
            build(Digits(path=path))


def test_the_digits_of_the_carrier():
    try:
        train, test = digits.load()
    except UserError as error:
        if "cannot download" not in str(error):
            raise
        pytest.skip(f"the digits cannot be fetched here: {error}")
    assert train.images.shape == (4000, 28, 28)
    assert test.images.shape == (1000, 28, 28)
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert train.images.max() == 255
    both = {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}
    assert not both
