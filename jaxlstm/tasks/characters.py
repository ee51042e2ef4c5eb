r"""Character language model: how many bits does the next character of a text cost?

At each step the input is one character and the target the next. Character models of this kind are
from Sutskever, Martens and Hinton, "Generating Text with Recurrent Neural Networks", 2011; Graves,
"Generating Sequences With Recurrent Neural Networks", 2013, does it with LSTMs.

**Text.** Shakespeare by default: 37 plays, whole plays held out (see `jaxlstm.tasks.shakespeare`).
With `path`, any UTF-8 file: the last `holdout` share of it is held out, its first half for
validation and its second for testing. A byte order mark is dropped and line endings become `\n`.

**Symbols.** The characters of the training text, sorted by code point, and one stand-in after them,
`"\ufffd"`, that every other character is read as. Nothing of the held-out text shapes the
vocabulary; what training never saw costs what the model gives to the stand-in, and a prompt may
hold any character.

**Batches.** Windows of `window + 1` characters at even random offsets of the training text: the
first `window` are inputs, the last `window` targets. The held-out texts are cut into sequences of
1000 steps, and the rest of each, less than one sequence, is dropped.

**Loss.** The mean cross-entropy in nats over all steps; `bits_per_character` is the same in bits.
The baselines are measured on the validation text: `uniform` guesses evenly, `unigram` knows how
often each character comes, `bigram` knows the character before it, both from counts in the training
text plus one. Solved: below 2.7 bits per character on the validation text of Shakespeare; on any
other text fewer bits than the best of the baselines.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm import storage
from jaxlstm.config import Characters
from jaxlstm.errors import UserError
from jaxlstm.tasks import shakespeare
from jaxlstm.tasks.base import Batch, Goal, Task, correct, cross_entropy

STAND_IN = "\ufffd"
EVALUATION_LENGTH = 1000
# A bigram table has the square of this many entries.
LARGEST_BIGRAM = 2048


class Vocabulary:
    """The symbols of a text and the numbers that stand for them.

    Args:
        text: the text whose characters are the symbols; the stand-in is added after them.

    Examples:
        >>> vocabulary = Vocabulary("banana")
        >>> vocabulary.symbols
        'abn�'
        >>> vocabulary.encode("bat")
        array([1, 0, 3], dtype=int32)
        >>> vocabulary.decode([1, 0, 2])
        'ban'
    """

    def __init__(self, text: str) -> None:
        counts = np.bincount(_code_points(text), minlength=0x110000)
        counts[ord(STAND_IN)] = 0
        self.symbols: str = "".join(map(chr, np.flatnonzero(counts))) + STAND_IN
        self._numbers = np.full(0x110000, len(self.symbols) - 1, np.int32)
        self._numbers[_code_points(self.symbols)] = np.arange(len(self.symbols))

    def encode(self, text: str) -> np.ndarray:
        """Turn text into `[T]` int32; unknown characters become the stand-in's number."""
        return self._numbers[_code_points(text)]

    def decode(self, numbers: Any) -> str:
        """Turn `[T]` integers in [0, len(symbols)) into text."""
        return "".join(self.symbols[number] for number in np.asarray(numbers))


def build(config: Characters) -> Task:
    """Build the language model task of one text.

    Args:
        config: `path`, a UTF-8 text file, or None for Shakespeare; `window`, the steps of a
            training sequence; `holdout`, the share of the file that is held out.

    Returns:
        A task with inputs `[B, window]` and targets `[B, window]`, int32, `"validation"` and
        `"test"` sets, and `encode` and `decode`. Metrics: `bits_per_character`, `accuracy`.

    Raises:
        UserError: when the file is missing, no text, or too short; when Shakespeare can neither be
            found nor fetched.

    Examples:
        >>> import jax, pathlib, tempfile
        >>> from jaxlstm.config import Characters
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "my.txt"
        ...     _ = path.write_text("abcd" * 100)
        ...     task = build(Characters(path=str(path), window=8))
        >>> batch = task.sample(task.data, jax.random.key(0), 2)
        >>> batch.inputs.shape, task.decode(task.encode("bad")), task.input_size
        ((2, 8), 'bad', 5)
    """
    if config.path is None and config.holdout != shakespeare.HOLDOUT:
        raise UserError(
            f"task.holdout: Shakespeare has a fixed split, by plays, of {shakespeare.HOLDOUT}, got "
            f"{config.holdout}; leave it out, or give task.path"
        )
    texts = shakespeare.split() if config.path is None else split_file(config.path, config.holdout)
    window = config.window
    for part, text in zip(texts._fields, texts, strict=True):
        if len(text) <= window:
            raise UserError(
                f"the {part} part of {_shown(config.path)} has {len(text)} characters, but "
                f"task.window = {window} needs at least {window + 1}; give a longer text or a "
                "smaller window, such as " + str(max(1, min(map(len, texts)) - 1))
            )
    vocabulary = Vocabulary(texts.training)
    size = len(vocabulary.symbols)
    training = vocabulary.encode(texts.training)
    validation, test = (cut(vocabulary.encode(text)) for text in (texts.validation, texts.test))

    known = baselines(training, validation, size)
    scored = ("validation", "bits_per_character")
    ours = config.path is None
    goal = Goal(*scored, below=2.7) if ours else Goal.beating(*scored, min(known.values()))

    def sample(data: Array, key: Array, batch_size: int) -> Batch:
        starts = jax.random.randint(key, (batch_size, 1), 0, len(training) - window, jnp.int32)
        windows = data[starts + jnp.arange(window + 1, dtype=jnp.int32)[None, :]]
        windows = windows.astype(jnp.int32)
        return Batch(inputs=windows[:, :-1], targets=windows[:, 1:])

    return Task(
        name="characters of Shakespeare" if config.path is None else "characters of a text",
        input_size=size,
        output_size=size,
        tokens=True,
        every_step=True,
        data=jnp.asarray(training.astype(np.uint8) if size <= 256 else training),
        sample=sample,
        evaluation={"validation": validation, "test": test},
        loss=loss,
        goal=goal,
        baselines=known,
        encode=vocabulary.encode,
        decode=vocabulary.decode,
        symbols=vocabulary.symbols,
    )


def loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy of `[B, T, O]` logits in nats; `bits_per_character` and `accuracy`."""
    nats = jnp.mean(cross_entropy(outputs, batch.targets))
    accuracy = jnp.mean(correct(outputs, batch.targets))
    return nats, {"bits_per_character": nats / math.log(2), "accuracy": accuracy}


def split_file(path: str, holdout: float) -> shakespeare.Split:
    """Read a UTF-8 file and hold out its last `holdout` share, half of it for each use.

    Raises:
        UserError: when the file is missing, a folder, unreadable, empty, or not UTF-8.
    """
    text = storage.read_text(path)
    if not text:
        raise UserError(f"task.path: expected text, got the empty file '{path}'")
    held_out = round(holdout * len(text))
    first, second = len(text) - held_out, len(text) - held_out // 2
    return shakespeare.Split(text[:first], text[first:second], text[second:])


def cut(numbers: np.ndarray) -> Batch:
    """Cut a text of N ≥ 2 symbols into sequences of 1000 steps, or into one if it is shorter."""
    length = min(EVALUATION_LENGTH, len(numbers) - 1)
    count = (len(numbers) - 1) // length
    inputs = numbers[: count * length].reshape(count, length)
    targets = numbers[1 : count * length + 1].reshape(count, length)
    return Batch(jnp.asarray(inputs), jnp.asarray(targets))


def baselines(training: np.ndarray, validation: Batch, size: int) -> dict[str, float]:
    """Bits per character on the validation text of models that know at most one character back."""
    before, after = np.asarray(validation.inputs), np.asarray(validation.targets)
    unigram = np.bincount(training, minlength=size) + 1
    found = {
        "uniform bits_per_character": math.log2(size),
        "unigram bits_per_character": -float(np.mean(np.log2(unigram / unigram.sum())[after])),
    }
    if size <= LARGEST_BIGRAM:
        pairs = training[:-1].astype(np.int64) * size + training[1:]
        bigram = np.bincount(pairs, minlength=size * size).reshape(size, size) + 1
        bits = -np.log2(bigram / bigram.sum(axis=1, keepdims=True))
        found["bigram bits_per_character"] = float(np.mean(bits[before, after]))
    return found


def _code_points(text: str) -> np.ndarray:
    # A command line may hand over lone surrogates; they are unknown characters like any other.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _shown(path: str | None) -> str:
    return "the plays" if path is None else f"'{path}'"
