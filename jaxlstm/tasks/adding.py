r"""The adding problem: can a network hold two real numbers apart by up to `length` steps?

Each input step is a pair (value, marker), and the answer is the sum of the two values that are
marked. The problem is from Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, experiment
4. Two protocols, with T = `length`, whose errors must not be compared:

- `"2016"`, Arjovsky, Shah and Bengio, "Unitary Evolution Recurrent Neural Networks": T steps,
  values from U[0, 1), the marker 0 but for two steps, one drawn evenly from the first half of the
  sequence, `[0, T // 2)`, and one from the second half, `[T // 2, T)`. The target is the sum. Le,
  Jaitly and Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units",
  2015, pose it with the same values and sum. The loss is the mean squared error; each value has
  variance 1/12, so the answer 1, the best that takes nothing from the inputs, has the error 1/6.
  Solved: below 0.01 on a fixed set of 1000 sequences.
- `"1997"`: from T to 1.1 T steps, drawn evenly, values from U[−1, 1). One of the first ten pairs is
  marked by 1, then one of the first T/2 − 1 pairs that are not; all other markers are 0, those of
  the first and the last pair −1. Where the first pair is drawn its value is set to zero and its
  marker stays −1; the paper says so of the first draw, and it is taken to hold for the second as
  well. The target is `0.5 + (x₁ + x₂) / 4` and the output logistic, y = σ(z), or linear, y = z,
  with the loss ½ (y − t)². A sequence is `wrong` when |y − t| ≥ 0.04, `abs_error` is the mean of
  |y − t|. Solved: `wrong` below 0.01 on a fixed set of 2560 sequences. The answer 0.5 gets one
  with |x₁ + x₂| < 0.16 right, 15 in 100.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import wide
from jaxlstm.config import Adding
from jaxlstm.tasks.base import Batch, Goal, Task, fixed_key

EVALUATION_SIZES = {"1997": 2560, "2016": 1000}
EVALUATION_SEED = 1997
EARLY = 10
"""The pairs that the first mark of 1997 is drawn from."""
TOLERANCE = 0.04
"""By how much the answer to a right sequence may be off, in 1997."""


def build(config: Adding) -> Task:
    """Build the adding problem at one length.

    Args:
        config: `length`, T, at least 2, and 11 in 1997; `protocol`, "1997" or "2016"; `outputs`,
            in 1997 "logistic" or "linear".

    Returns:
        A task with inputs `[B, length, 2]` float32 (value, marker), targets `[B, 1]` float32,
        `lengths` `[B]` in 1997, one output for each sequence, and a fixed `"validation"` set.
        Metrics: `mse`, and in 1997 also `wrong` and `abs_error`.

    Examples:
        >>> import jax
        >>> from jaxlstm.config import Adding
        >>> task = build(Adding(length=10))
        >>> batch = task.sample(task.data, jax.random.key(0), 4)
        >>> batch.inputs.shape, batch.targets.shape
        ((4, 10, 2), (4, 1))
        >>> task = build(Adding(length=20, protocol="1997"))
        >>> batch = task.sample(task.data, jax.random.key(0), 1)
        >>> batch.inputs[0, 0, 1], 20 <= int(batch.lengths[0]) <= 22
        (Array(-1., dtype=float32), True)
    """
    length, old = config.length, config.protocol == "1997"
    ours = draw_1997 if old else draw

    def sample(data: Any, key: Array, batch_size: int) -> Batch:
        return ours(key, batch_size, length)

    size = EVALUATION_SIZES[config.protocol]
    return Task(
        name=f"adding, {length} steps",
        input_size=2,
        output_size=1,
        tokens=False,
        every_step=False,
        data=(),
        sample=sample,
        evaluation={"validation": ours(fixed_key(EVALUATION_SEED), size, length)},
        loss=functools.partial(loss_1997, linear=config.outputs == "linear") if old else loss,
        unit="squared error",
        goal=Goal("validation", "wrong" if old else "mse", below=0.01),
        baselines=_baselines_1997(length) if old else {"memoryless mse": 1 / 6},
    )


@functools.partial(jax.jit, static_argnums=(1, 2))
def draw(key: Array, batch_size: int, length: int) -> Batch:
    """Draw `batch_size` fresh sequences of `length` steps."""
    value_key, marker_key = jax.random.split(key)
    values = jax.random.uniform(value_key, (batch_size, length), jnp.float32)
    half = length // 2
    first, beyond = jnp.array([[0, half]]), jnp.array([[half, length]])
    marked = jax.random.randint(marker_key, (batch_size, 2), first, beyond, jnp.int32)
    markers = jnp.sum(jax.nn.one_hot(marked, length, dtype=jnp.float32), axis=1)
    return Batch(
        inputs=jnp.stack([values, markers], axis=-1),
        targets=jnp.sum(values * markers, axis=-1, keepdims=True),
    )


@functools.partial(jax.jit, static_argnums=(1, 2))
def draw_1997(key: Array, batch_size: int, length: int) -> Batch:
    """Draw `batch_size` sequences of `length` to 1.1 `length` steps, zero behind their end."""
    k_value, k_first, k_second, k_length = jax.random.split(key, 4)
    longest, one_each = length + length // 10, (batch_size, 1)
    lengths = jax.random.randint(k_length, one_each, length, longest + 1, jnp.int32)
    first = jax.random.randint(k_first, one_each, 0, EARLY, jnp.int32)
    second = jax.random.randint(k_second, one_each, 0, length // 2 - 1, jnp.int32)
    second = second + (second >= first).astype(jnp.int32)
    steps = jnp.arange(longest, dtype=jnp.int32)[None]
    marked = (steps == first) | (steps == second)
    values = jax.random.uniform(k_value, (batch_size, longest), jnp.float32, -1.0, 1.0)
    values = jnp.where((steps >= lengths) | (marked & (steps == 0)), 0, values)
    markers = jnp.where((steps == 0) | (steps == lengths - 1), -1, marked.astype(jnp.float32))
    total = jnp.sum(jnp.where(marked, values, 0), axis=-1, keepdims=True)
    return Batch(jnp.stack([values, markers], axis=-1), 0.5 + total / 4, lengths[:, 0])


def loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean squared error of `[B, 1]` outputs, in float32 at least; the metric is `mse`."""
    outputs = wide(outputs)
    mse = jnp.mean(jnp.square(outputs - batch.targets.astype(outputs.dtype)))
    return mse, {"mse": mse}


def loss_1997(
    outputs: Array, batch: Batch, *, linear: bool = False
) -> tuple[Array, dict[str, Array]]:
    """Half the squared error of a logistic or linear unit, from `[B, 1]` z, and errors of 1997."""
    answers = wide(outputs) if linear else jax.nn.sigmoid(wide(outputs))
    off = jnp.abs(answers - batch.targets.astype(answers.dtype))
    mse = jnp.mean(jnp.square(off))
    return mse / 2, {
        "wrong": jnp.mean(~(off < TOLERANCE), dtype=off.dtype),
        "abs_error": jnp.mean(off),
        "mse": mse,
    }


def _baselines_1997(length: int) -> dict[str, float]:
    """The answer 0.5: its error is (x₁ + x₂) / 4, or one of the two alone where x = 0 was drawn."""
    alone = 1 / EARLY + (1 - 1 / EARLY) / (length // 2 - 1)
    within = 4 * TOLERANCE
    wrong = (1 - within / 2) ** 2, 1 - within
    return {
        "memoryless wrong": (1 - alone) * wrong[0] + alone * wrong[1],
        "memoryless mse": (1 - alone) / 24 + alone / 48,
    }
