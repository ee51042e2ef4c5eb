r"""Temporal order: which came first? Two or three events among noise, and a class for their order.

At each step the input is one symbol. Events are X or Y (0 and 1), drawn evenly, and everything else
is a distractor, one of four symbols (2 … 5), drawn evenly as well. The class of a sequence, read at
its last step, is the events in their order as a binary number: XX 0, XY 1, YX 2, YY 3.

Two protocols, with T = `length`:

- `"1997"`, experiments 6a and 6b of Hochreiter and Schmidhuber, "Long Short-Term Memory": the first
  symbol is a beginning (6) and the last one a trigger (7); sequences have from T to 1.1 T steps,
  drawn evenly; two events lie in [0.1, 0.2] T and [0.5, 0.6] T, or three in [0.1, 0.2] T,
  [0.33, 0.43] T and [0.66, 0.76] T, both ends included and counted from 0.
- `"2013"`, Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks":
  no beginning and no trigger, two events in [0.1, 0.2) T and [0.4, 0.5) T. Every sequence has T
  steps, or, with `longest`, from T to as many steps, drawn evenly; its own length then says where
  its events lie.

With `outputs = "softmax"` the loss is the mean cross-entropy of the class in nats; `error` is the
share of sequences that are classified wrongly. Solved: `error` below 0.01, the criterion of 2013,
on a fixed set of 2,560 sequences, as many as 1997 tested on.

With `outputs = "logistic"`, the outputs of 1997, each class has a unit y = σ(z), whose target t is
1 for the class of the sequence and 0 for all others. The loss of a sequence is Σ ½ (y − t)² over
the units. A sequence is `wrong` when any unit is off by .3 or more; `abs_error` is the mean of
|y − t| over the units and `squared_error` the sum of (y − t)² over them, the two readings of the
"error" whose mean had to fall below .1 in 1997; `error` is by the most active unit. All are means
over sequences, and with a batch of one sequence those of that sequence. Solved: `wrong` below 0.01.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import wide
from jaxlstm.config import TemporalOrder
from jaxlstm.tasks.base import (
    Batch,
    Goal,
    Task,
    correct,
    cross_entropy,
    fixed_key,
)

EVALUATION_SEED = 1997
EVENTS, DISTRACTORS = 2, 4
TOLERANCE = 0.3
"""By how much a unit of a right sequence may be off, in 1997."""
BEGINNING, TRIGGER = EVENTS + DISTRACTORS, EVENTS + DISTRACTORS + 1
# Where events lie, in hundredths of the length.
PLACES = {
    ("1997", 2): ((10, 20), (50, 60)),
    ("1997", 3): ((10, 20), (33, 43), (66, 76)),
    ("2013", 2): ((10, 20), (40, 50)),
}


def build(config: TemporalOrder) -> Task:
    """Build the temporal order problem at one length.

    Args:
        config: `length`, T; `longest`; `events`, 2 or 3; `protocol`, "1997" or "2013"; `outputs`,
            "softmax" or "logistic"; `evaluation_size`; `evaluate_lengths`.

    Returns:
        A task with inputs `[B, T']` int32 of 8 symbols (6 in 2013), targets `[B]` int32 in
        [0, 2^events), `lengths` `[B]` where they differ, one output of 2^events logits for each
        sequence, and a fixed `"validation"` set, besides one named `"length-L"` for each other
        length L. Metrics: `cross_entropy` in nats, `error`; with logistic outputs `wrong`,
        `abs_error`, `squared_error`, `error`.

    Examples:
        >>> import jax
        >>> from jaxlstm.config import TemporalOrder
        >>> task = build(TemporalOrder(length=20, protocol="2013"))
        >>> batch = task.sample(task.data, jax.random.key(0), 1)
        >>> events = [symbol for symbol in batch.inputs[0].tolist() if symbol < 2]
        >>> 2 * events[0] + events[1] == int(batch.targets[0])
        True
    """
    length, events, protocol = config.length, config.events, config.protocol

    def sample(data: Any, key: Array, batch_size: int) -> Batch:
        return draw(key, batch_size, length, events, protocol, config.longest)

    def evaluation(length: int, longest: int | None = None) -> Batch:
        key = fixed_key(EVALUATION_SEED)
        return draw(key, config.evaluation_size, length, events, protocol, longest)

    classes, logistic = 2**events, config.outputs == "logistic"
    guess = 1 - 1 / classes
    steps = length if config.longest is None else f"{length} to {config.longest}"
    return Task(
        name=f"temporal order of {events}, {steps} steps",
        input_size=EVENTS + DISTRACTORS + 2 * (protocol == "1997"),
        output_size=classes,
        tokens=True,
        every_step=False,
        data=(),
        sample=sample,
        evaluation={
            "validation": evaluation(length, config.longest),
            **{f"length-{other}": evaluation(other) for other in config.evaluate_lengths},
        },
        loss=squared_loss if logistic else loss,
        unit="squared error" if logistic else "nats",
        goal=Goal("validation", "wrong" if logistic else "error", below=0.01),
        baselines={
            **(
                {"memoryless wrong": guess}
                if logistic
                else {"memoryless cross_entropy": math.log(classes)}
            ),
            "memoryless error": guess,
        },
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def draw(
    key: Array, batch_size: int, length: int, events: int, protocol: str, longest: int | None = None
) -> Batch:
    """Draw `batch_size` fresh sequences."""
    k_noise, k_event, k_place, k_length = jax.random.split(key, 4)
    old = protocol == "1997"
    most = length + length // 10 if old else longest or length
    lengths = jax.random.randint(k_length, (batch_size,), length, most + 1, jnp.int32)
    noise = jax.random.randint(k_noise, (batch_size, most), EVENTS, EVENTS + DISTRACTORS, jnp.int32)
    which = jax.random.randint(k_event, (batch_size, events), 0, EVENTS, jnp.int32)
    # In 1997 events lie where they would in the shortest sequence.
    scale = jnp.full_like(lengths, length) if old else lengths
    hundredths = jnp.array(PLACES[protocol, events], jnp.int32)
    low, high = (scale[:, None] * hundredths[None, :, side] // 100 for side in (0, 1))
    places = jax.random.randint(k_place, (batch_size, events), low, high + int(old), jnp.int32)
    steps = jnp.arange(most, dtype=jnp.int32)[None]
    inputs = noise
    for event in range(events):
        here = steps == places[:, event, None]
        inputs = jnp.where(here, which[:, event, None], inputs)
    digits = 2 ** jnp.arange(events - 1, -1, -1, dtype=jnp.int32)
    targets = jnp.sum(which * digits[None], axis=1, dtype=jnp.int32)
    if old:
        inputs = jnp.where(steps == 0, BEGINNING, inputs)
        inputs = jnp.where(steps == lengths[:, None] - 1, TRIGGER, inputs)
    if most == length:
        return Batch(inputs, targets)
    return Batch(jnp.where(steps < lengths[:, None], inputs, 0), targets, lengths)


def loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy of `[B, O]` logits in nats, and the share classified wrongly."""
    nats = jnp.mean(cross_entropy(outputs, batch.targets))
    wrong = jnp.mean(1 - correct(outputs, batch.targets))
    return nats, {"cross_entropy": nats, "error": wrong}


def squared_loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Half the squared error of logistic units, from `[B, O]` before σ, with the errors of 1997."""
    active = jax.nn.sigmoid(wide(outputs))
    targets = jax.nn.one_hot(batch.targets, active.shape[-1], dtype=active.dtype)
    off = jnp.abs(active - targets)
    squares = jnp.mean(jnp.sum(jnp.square(off), axis=-1))
    return squares / 2, {
        "wrong": jnp.mean(~jnp.all(off < TOLERANCE, axis=-1), dtype=active.dtype),
        "abs_error": jnp.mean(off),
        "squared_error": squares,
        "error": jnp.mean(1 - correct(outputs, batch.targets)),
    }
