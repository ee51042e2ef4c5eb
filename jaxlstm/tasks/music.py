r"""Polyphonic music: which keys of a piano sound next?

At each step the input is a frame, 88 keys that are on or off, and the target the next frame. The
task and its measure are of Boulanger-Lewandowski, Bengio and Vincent, "Modeling Temporal
Dependencies in High-Dimensional Sequences", 2012. Here the network gives each key a probability of
its own.

**Data.** Without `path` chorales of Bach in sixteenths, no tune in two parts (see
`jaxlstm.tasks.chorales`). With `path` a MATLAB file that holds `traindata`, `validdata` and
`testdata`, lists of piano rolls `[T, 88]` of zeros and ones, as the files of Bai, Kolter and
Koltun, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
Modeling", 2018.

**Batches.** Whole pieces, each at most once in a batch that holds no more than there are; with
`window` sections of so many frames at even random places. Pieces are padded with silence to the
longest, and `lengths` says what is valid. Validation and test take whole pieces.

**Loss.** With s the logits of a frame x and 88 keys k,

    nats per frame = Σ_k [log(1 + exp(s_k)) − x_k s_k]

summed over the keys and averaged over all frames of all pieces, so that a long piece counts more
than a short one, as Bai 2018 do. The first frame of a piece is given and not predicted.
`wrong_keys` is the number of keys of a frame that are not what was more likely than not.

The baselines are fitted to the training frames and measured on the test frames: `marginals` knows
how often each key is on, `repeat` that a key which is on stays on with one probability and one
which is off goes on with another. Solved: nats per frame of the test part below both.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.cells.base import wide
from jaxlstm.config import Music
from jaxlstm.errors import UserError
from jaxlstm.tasks import chorales, matlab
from jaxlstm.tasks.base import Batch, Goal, Task

KEYS = chorales.KEYS
NAMES = {"training": "traindata", "validation": "validdata", "test": "testdata"}


class Sections(NamedTuple):
    """The training pieces and where sections of them may begin.

    Args:
        rolls: `[N, T, 88]` uint8, padded with silence.
        places: `[K, 3]` int32: the piece, the first frame, and how many frames are predicted.
    """

    rolls: Array
    places: Array


def build(config: Music) -> Task:
    """Build the task from the carrier or from a MATLAB file.

    Args:
        config: `path`, the file, or None for the chorales; `window`, the frames of a training
            section, or None for whole pieces.

    Returns:
        A task with inputs and targets `[B, T, 88]` float32, lengths `[B]`, 88 logits for every
        step, and `"validation"` and `"test"` sets. Metrics: `nats_per_frame`, `wrong_keys`.

    Raises:
        UserError: when the file is missing or malformed, or the carrier can neither be found nor
            fetched.
    """
    parts = chorales.rolls() if config.path is None else load(config.path)
    training = parts["training"]
    if config.window is None:
        places = [(piece, 0, len(roll) - 1) for piece, roll in enumerate(training)]
    else:
        places = [
            (piece, start, min(config.window, len(roll) - 1))
            for piece, roll in enumerate(training)
            for start in range(max(1, len(roll) - config.window))
        ]
    steps = max(length for _, _, length in places)
    found = baselines(training, parts["test"])
    return Task(
        name="chorales of Bach" if config.path is None else "polyphonic music",
        input_size=KEYS,
        output_size=KEYS,
        tokens=False,
        every_step=True,
        data=Sections(jnp.asarray(pad(training)), jnp.asarray(places, jnp.int32)),
        sample=_sampler(steps, whole=config.window is None),
        evaluation={part: whole(parts[part]) for part in ("validation", "test")},
        loss=loss,
        goal=Goal.beating("test", "nats_per_frame", min(found.values())),
        baselines=found,
    )


def loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Nats per valid frame of `[B, T, 88]` logits; `nats_per_frame` and `wrong_keys`."""
    outputs = wide(outputs)
    count, steps = outputs.shape[:2]
    lengths = jnp.full(count, steps) if batch.lengths is None else batch.lengths
    valid = jnp.arange(steps, dtype=lengths.dtype)[None] < lengths[:, None]
    outputs = jnp.where(valid[..., None], outputs, 0)
    on = batch.targets.astype(outputs.dtype)
    nats = jnp.sum(jax.nn.softplus(outputs) - on * outputs, axis=-1)
    wrong = jnp.sum((outputs > 0) != (on > 0), axis=-1).astype(outputs.dtype)
    mean, wrong = (jnp.mean(values, where=valid) for values in (nats, wrong))
    return mean, {"nats_per_frame": mean, "wrong_keys": wrong}


def baselines(training: list[np.ndarray], test: list[np.ndarray]) -> dict[str, float]:
    """Nats per frame of two predictors that are fitted to the training frames."""
    before, after = (np.concatenate([r[s] for r in training]) for s in (slice(-1), slice(1, None)))
    last, wanted = (np.concatenate([r[s] for r in test]) for s in (slice(-1), slice(1, None)))
    # Laplace's rule: no key is impossible because it was not heard.
    marginal = (after.sum(axis=0) + 1) / (len(after) + 2)
    stays = [
        ((after[before == was] == 1).sum() + 1) / ((before == was).sum() + 2) for was in (0, 1)
    ]
    return {
        "marginals nats_per_frame": _nats(np.broadcast_to(marginal, wanted.shape), wanted),
        "repeat nats_per_frame": _nats(np.array(stays)[last], wanted),
    }


def _nats(chance: np.ndarray, wanted: np.ndarray) -> float:
    right = np.where(wanted == 1, chance, 1 - chance)
    return -float(np.log(right).sum(axis=1).mean())


def load(path: str) -> dict[str, list[np.ndarray]]:
    """Read the three lists of piano rolls of a MATLAB file.

    Raises:
        UserError: when the file cannot be read, a list is missing, or what is in it is no roll.
    """
    found = {}
    lists = matlab.lists(path, tuple(NAMES.values()))
    for part, name in NAMES.items():
        found[part] = [_roll(item, f"{name} of '{path}'") for item in lists[name]]
        if not found[part]:
            raise UserError(f"task.path: expected piano rolls in {name} of '{path}', got none")
    return found


def _roll(item: Any, where: str) -> np.ndarray:
    roll = np.asarray(item)
    numbers = roll.dtype.kind in "buif"
    if not numbers or roll.ndim != 2 or roll.shape[1] != KEYS or len(roll) < 2:
        raise UserError(
            f"task.path: expected rolls of at least 2 frames x {KEYS} keys in {where}, got "
            f"{' x '.join(map(str, roll.shape)) or 'one value'}"
            f"{'' if numbers else ' of no numbers'}"
        )
    if not np.isin(roll, (0, 1)).all():
        raise UserError(f"task.path: expected zeros and ones in {where}, got other values")
    return roll.astype(np.uint8)


def pad(rolls: list[np.ndarray]) -> np.ndarray:
    """Pad with silence to the longest: `[N, T, 88]` uint8."""
    padded = np.zeros((len(rolls), max(map(len, rolls)), KEYS), np.uint8)
    for row, roll in zip(padded, rolls, strict=True):
        row[: len(roll)] = roll
    return padded


def whole(rolls: list[np.ndarray]) -> Batch:
    """Make one batch of whole pieces."""
    padded = pad(rolls).astype(np.float32)
    lengths = jnp.asarray([len(roll) - 1 for roll in rolls], jnp.int32)
    return Batch(jnp.asarray(padded[:, :-1]), jnp.asarray(padded[:, 1:]), lengths)


def _sampler(steps: int, *, whole: bool) -> Any:
    def sample(data: Sections, key: Array, batch_size: int) -> Batch:
        count = data.places.shape[0]
        if whole:
            chosen = jax.random.choice(key, count, (batch_size,), replace=batch_size > count)
        else:
            chosen = jax.random.randint(key, (batch_size,), 0, count, jnp.int32)
        piece, start, lengths = jnp.moveaxis(data.places[chosen], -1, 0)
        frames = start[:, None] + jnp.arange(steps + 1, dtype=jnp.int32)[None]
        frames = jnp.minimum(frames, data.rolls.shape[1] - 1)
        rolls = data.rolls[piece[:, None], frames].astype(jnp.float32)
        valid = jnp.arange(steps, dtype=jnp.int32)[None, :, None] < lengths[:, None, None]
        inputs, targets = (jnp.where(valid, part, 0) for part in (rolls[:, :-1], rolls[:, 1:]))
        return Batch(inputs, targets, lengths)

    return sample
