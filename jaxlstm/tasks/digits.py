r"""Images as sequences: which digit was it, read pixel by pixel or row by row?

A 28 × 28 image is read as 784 steps of one pixel or as 28 steps of one row, and the class is asked
for at the end. Le, Jaitly and Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified
Linear Units", 2015, read pixels, also in an order that is drawn once for all images
(`permuted`), which takes neighbours apart.

Without `path` the images are 5,000 of MNIST (LeCun, Bottou, Bengio and Haffner, 1998), 500 of each
digit: of each digit the first 400 are for training and the last 100 for testing. With `path` a
folder holds the four files of MNIST, or of a data set of the same form such as Fashion-MNIST, in
the idx format, plain or gzipped: all of its training and test images are taken, and their size and
the number of classes are what they are.

Values are pixels over 255. A batch is drawn evenly from the training images, without repetition
while it holds no more of them than there are. The loss is the mean cross-entropy of the class in
nats. The baselines are fitted to the training images: the most frequent class of the test images,
the class whose mean image is the nearest, and a linear function of the pixels, by least squares on
the classes one-hot. Solved: test accuracy above all three.
"""

import gzip
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm import storage
from jaxlstm.config import Digits
from jaxlstm.errors import UserError
from jaxlstm.tasks import carriers
from jaxlstm.tasks.base import Batch, Goal, Task, class_loss

SIDE, OF_EACH, TRAINED = 28, 500, 400
ORDER_SEED = 1998
# Least squares of images whose corners never change has no single solution without a little of it.
RIDGE = 1.0
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class Images(NamedTuple):
    """Images `[N, height, width]` uint8 and their classes `[N]` int32."""

    images: np.ndarray
    labels: np.ndarray


def build(config: Digits) -> Task:
    """Build the task from the carrier or from a folder of idx files.

    Args:
        config: `path`, the folder, or None for MNIST's digits; `by`, "row" or "pixel"; `permuted`,
            whether pixels come in an order of their own.

    Returns:
        A task with inputs `[B, 28, 28]` or `[B, 784, 1]` float32, targets `[B]` int32, one output
        of as many logits as there are classes for each image, and a `"test"` set. Metrics:
        `cross_entropy` in nats, `accuracy`.

    Raises:
        UserError: when a file is missing or malformed, or the carrier can neither be found nor
            fetched.
    """
    train, test = load(config.path)
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    steps = train.images.shape[1] if config.by == "row" else train.images[0].size
    order = np.arange(train.images[0].size)
    if config.permuted:
        # NumPy keeps the stream of this generator for good.
        order = np.random.RandomState(ORDER_SEED).permutation(order)

    def sequences(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)[:, order].reshape(len(images), steps, -1)

    def sample(data: tuple[Array, Array], key: Array, batch_size: int) -> Batch:
        images, labels = data
        count = labels.shape[0]
        chosen = jax.random.choice(key, count, (batch_size,), replace=batch_size > count)
        return Batch(scaled(images[chosen]), labels[chosen])

    training, testing = sequences(train.images), sequences(test.images)
    found = baselines(train, test, classes)
    return Task(
        name=f"{'digits' if config.path is None else 'images'}, {config.by} by {config.by}",
        input_size=training.shape[2],
        output_size=classes,
        tokens=False,
        every_step=False,
        data=(jnp.asarray(training), jnp.asarray(train.labels, jnp.int32)),
        sample=sample,
        evaluation={
            "test": Batch(scaled(jnp.asarray(testing)), jnp.asarray(test.labels, jnp.int32))
        },
        loss=class_loss,
        goal=Goal.beating("test", "accuracy", max(found.values()), larger=True),
        baselines=found,
    )


def scaled(images: Array) -> Array:
    """Turn bytes into float32 in [0, 1]."""
    return images.astype(jnp.float32) / jnp.float32(255)


def baselines(train: Images, test: Images, classes: int) -> dict[str, float]:
    """Accuracy on the test images of three predictors that need no sequence."""
    flat, asked = (part.images.reshape(len(part.images), -1) / 255 for part in (train, test))
    hot = np.eye(classes)[train.labels]
    counts = hot.sum(axis=0)
    means = hot.T @ flat / np.maximum(counts, 1)[:, None]
    # |x − m|² without the |x|² that all classes share; a class never seen is never near.
    distance = np.square(means).sum(axis=1) - 2 * asked @ means.T
    nearest = np.where(counts > 0, distance, np.inf).argmin(axis=1)
    design, wanted = (np.c_[part, np.ones(len(part))] for part in (flat, asked))
    gram = design.T @ design + RIDGE * np.eye(design.shape[1])
    linear = (wanted @ np.linalg.solve(gram, design.T @ hot)).argmax(axis=1)
    return {
        "most frequent class accuracy": float(np.bincount(test.labels).max() / len(test.labels)),
        "nearest mean accuracy": float(np.mean(nearest == test.labels)),
        "linear accuracy": float(np.mean(linear == test.labels)),
    }


def load(path: str | None = None) -> tuple[Images, Images]:
    """Give the training and test images.

    Raises:
        UserError: as `build`.
    """
    if path is None:
        return _carried()
    train, test = (Images(*(_read(Path(path), file) for file in FILES[part])) for part in FILES)
    for part, found in (("train", train), ("test", test)):
        if found.images.ndim != 3 or found.labels.ndim != 1 or not found.images.size:
            raise UserError(
                f"task.path: expected images N x height x width and labels N in '{path}', got "
                f"{found.images.shape} and {found.labels.shape} for {part}"
            )
        if len(found.images) != len(found.labels):
            raise UserError(
                f"task.path: expected as many labels as images in '{path}', got "
                f"{len(found.labels)} and {len(found.images)} for {part}"
            )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"task.path: expected images of one size in '{path}', got {train.images.shape[1:]} and "
            f"{test.images.shape[1:]}"
        )
    return train, test


def idx(content: bytes, where: str) -> np.ndarray:
    """Read the idx format: two zero bytes, 8 for unsigned bytes, the number of sizes, the sizes.

    Raises:
        UserError: when it is something else, or has another length than its sizes say.

    Examples:
        >>> idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), "some file")
        array([7, 8, 9], dtype=uint8)
    """
    count = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    if not 0 < count < 9 or len(content) < 4 + 4 * count:
        raise UserError(f"task.path: expected the idx format of bytes in {where}, got another file")
    begin = 4 + 4 * count
    sizes = np.frombuffer(content[4:begin], ">u4").tolist()
    wanted = math.prod(sizes)
    if len(content) - begin != wanted:
        raise UserError(
            f"task.path: expected {wanted} bytes after the header of {where}, as it says, "
            f"got {len(content) - begin}"
        )
    return np.frombuffer(content[begin:], np.uint8).reshape(sizes)


def _read(folder: Path, file: str) -> np.ndarray:
    """Read one idx file, plain or gzipped."""
    tried = (file, f"{file}.gz", file.replace("-idx", ".idx"), f"{file.replace('-idx', '.idx')}.gz")
    with storage.reading(
        f"task.path: expected a folder with {file} or {file}.gz, cannot read it in '{folder}'"
    ):
        folder = folder.expanduser()
        there = next((name for name in tried if (folder / name).is_file()), file)
        content = storage.read(folder / there)
        content = storage.unzip(content) if there.endswith(".gz") else content
    return idx(content, f"'{folder / there}'")


def _carried() -> tuple[Images, Images]:
    (packed,) = carriers.read(
        carriers.DIGITS, lambda name: name.endswith("/mnist_5k.csv.gz")
    ).values()
    table = np.array(gzip.decompress(packed).decode().replace("\n", ",").strip(",").split(","), int)
    table = table.reshape(-1, SIDE * SIDE + 1)
    images = table[:, :-1].reshape(-1, SIDE, SIDE).astype(np.uint8)
    labels = table[:, -1].astype(np.int32)
    # The file is sorted by class, 500 of each.
    first = np.arange(len(table)) % OF_EACH < TRAINED
    return Images(images[first], labels[first]), Images(images[~first], labels[~first])
