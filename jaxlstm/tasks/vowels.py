r"""Japanese Vowels: which of nine speakers said it?

Nine male speakers utter two Japanese vowels /ae/; each utterance is a series of 7 to 29 frames of
12 LPC cepstrum coefficients, and the class is the speaker. From Kudo, Toyama and Shimbo,
"Multidimensional curve classification using passing-through regions", 1999, as packaged in the UEA
archive of Bagnall et al., 2018, with its official split: 270 series to train on, 30 of each
speaker, and 370 to test, 24 to 88 of each.

Series are padded with zeros to the longest of both parts, and `lengths` says what is valid. Each
feature is standardised with the mean and standard deviation of the valid training frames. A batch
is drawn evenly from the training series, without repetition while it holds no more of them than
there are; each batch is a fresh draw, so there are no epochs.

The loss is the mean cross-entropy of the class in nats. The baseline always answers the class that
is most frequent in the test set. Solved: test accuracy above 0.95.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm import storage
from jaxlstm.config import JapaneseVowels
from jaxlstm.errors import UserError
from jaxlstm.tasks import carriers, tables
from jaxlstm.tasks.base import Batch, Goal, Task, class_loss

FILES = ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")


class Cases(NamedTuple):
    """What a `.ts` file holds: series `[T, I]` float32, the class of each, and all class names."""

    series: list[np.ndarray]
    labels: list[str]
    classes: list[str]


def build(config: JapaneseVowels) -> Task:
    """Build the task from the carrier, or from a folder that holds the two files.

    Args:
        config: `path`, a folder with `JapaneseVowels_TRAIN.ts` and `JapaneseVowels_TEST.ts`, or
            None for the carrier.

    Returns:
        A task with inputs `[B, 29, 12]` float32, targets `[B]` int32 in [0, 9), lengths `[B]`, one
        output of 9 logits for each series, and a `"test"` set. Metrics: `cross_entropy` in nats,
        `accuracy`.

    Raises:
        UserError: when a file is missing or malformed, or the carrier can neither be found nor
            fetched.
    """
    train_text, test_text = _texts(config.path)
    train, test = parse(train_text, FILES[0]), parse(test_text, FILES[1])
    features = train.series[0].shape[1]
    if test.classes != train.classes or test.series[0].shape[1] != features:
        raise UserError(
            f"{FILES[1]}: expected {features} dimensions and the classes {train.classes} of "
            f"{FILES[0]}, got {test.series[0].shape[1]} and {test.classes}"
        )
    frames = np.concatenate(train.series)
    mean, deviation = tables.scaling(frames)
    longest = max(map(len, train.series + test.series))
    training, testing = (
        pad([(series - mean) / deviation for series in cases.series], cases, longest)
        for cases in (train, test)
    )
    most_common = np.bincount(np.asarray(testing.targets)).max() / len(test.labels)
    return Task(
        name="Japanese Vowels",
        input_size=features,
        output_size=len(train.classes),
        tokens=False,
        every_step=False,
        data=training,
        sample=sample,
        evaluation={"test": testing},
        loss=class_loss,
        goal=Goal("test", "accuracy", above=0.95),
        baselines={"most frequent class accuracy": float(most_common)},
    )


def sample(data: Batch, key: Array, batch_size: int) -> Batch:
    """Draw `batch_size` series of the training set."""
    count = data.targets.shape[0]
    chosen = jax.random.choice(key, count, (batch_size,), replace=batch_size > count)
    return jax.tree.map(lambda array: array[chosen], data)


def pad(series: list[np.ndarray], cases: Cases, length: int) -> Batch:
    """Pad series with zeros to `[B, length, I]`, and number the classes in their order."""
    inputs = np.zeros((len(series), length, series[0].shape[1]), np.float32)
    for row, values in zip(inputs, series, strict=True):
        row[: len(values)] = values
    return Batch(
        inputs=jnp.asarray(inputs),
        targets=jnp.asarray([cases.classes.index(label) for label in cases.labels], jnp.int32),
        lengths=jnp.asarray([len(values) for values in series], jnp.int32),
    )


def parse(text: str, name: str) -> Cases:
    r"""Read the `.ts` format: `@classLabel true <classes>`, then a case a line after `@data`.

    A case is its dimensions and its class with `:` between them; a dimension is its values with
    `,` between them. Lines that start with `#` and other `@` lines are passed over.

    Args:
        text: the file's text.
        name: the file's name, for messages.

    Returns:
        The cases in the order of the file.

    Raises:
        UserError: names the line, what came and what was expected.

    Examples:
        >>> cases = parse("@classLabel true a b\n@data\n1,2,3:4,5,6:b\n", "some.ts")
        >>> cases.series[0].tolist(), cases.labels
        ([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]], ['b'])
    """
    classes: list[str] = []
    cases = Cases([], [], classes)
    in_data = False
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not in_data:
            if line.lower().startswith("@classlabel"):
                classes.extend(line.split()[2:])
            in_data = line.lower() == "@data"
            continue
        *dimensions, label = line.split(":")
        where = f"{name}, line {number}"
        if label not in classes:
            raise UserError(
                f"{where}: expected a class of {classes} at the end, got {label[:20]!r}"
            )
        if not dimensions:
            raise UserError(f"{where}: expected at least one dimension before the class, got none")
        values = [_numbers(dimension, where) for dimension in dimensions]
        if len({len(dimension) for dimension in values}) != 1:
            lengths = [len(dimension) for dimension in values]
            raise UserError(f"{where}: expected dimensions of one length, got {lengths}")
        if cases.series and len(values) != cases.series[0].shape[1]:
            raise UserError(
                f"{where}: expected {cases.series[0].shape[1]} dimensions, got {len(values)}"
            )
        cases.series.append(np.array(values, np.float32).T)
        cases.labels.append(label)
    if not cases.series:
        raise UserError(f"{name}: expected a line @data with cases after it, got none")
    return cases


def _numbers(dimension: str, where: str) -> list[float]:
    try:
        values = [tables.as_number(value) for value in dimension.split(",")]
    except ValueError as error:
        raise UserError(f"{where}: expected numbers with commas between them, {error}") from error
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise UserError(f"{where}: expected finite numbers of float32, got {dimension[:40]!r}")
    return values


def _texts(path: str | None) -> list[str]:
    """Give the text of both files."""
    if path is None:
        folder = "/datasets/data/JapaneseVowels/"
        wanted = tuple(folder + file for file in FILES)
        files = carriers.read(carriers.JAPANESE_VOWELS, lambda name: name.endswith(wanted))
        return [files[f"aeon{name}"].decode() for name in wanted]
    found = []
    for file in FILES:
        with storage.reading(
            f"task.path: expected a folder with {FILES[0]} and {FILES[1]}, cannot read '{file}' "
            f"in '{path}'"
        ):
            found.append(storage.read(Path(path).expanduser() / file).decode("utf-8-sig"))
    return found
