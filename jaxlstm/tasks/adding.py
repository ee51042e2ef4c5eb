r"""The adding problem: can a network hold two real numbers apart by up to `length` steps?

Each input step is a pair (value, marker). Values are drawn from U[0, 1); the marker is 0 but for
two steps, one drawn evenly from the first half of the sequence, `[0, length // 2)`, and one from
the second half, `[length // 2, length)`. The target is the sum of the two marked values.

The problem is from Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, experiment 4. This
is the protocol of Arjovsky, Shah and Bengio, "Unitary Evolution Recurrent Neural Networks", 2016,
which places one marker in each half; Le, Jaitly and Hinton, "A Simple Way to Initialize Recurrent
Networks of Rectified Linear Units", 2015, pose it with the same values and sum. The variant of 1997
differs: values from [−1, 1], lengths that vary between T and 1.1 T, the first marker among the
first ten steps and the second before T/2, marker −1 on the first and last step, and the target
`0.5 + (x₁ + x₂) / 4`; errors of the two must not be compared.

The loss is the mean squared error. Each value has variance 1/12, so the answer 1, the best that
takes nothing from the inputs, has the error 1/6. Solved: below 0.01 on a fixed set of 1000
sequences.
"""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.tasks.base import Batch, Goal, Task, at_least_float32, fixed_key

if TYPE_CHECKING:
    from jaxlstm.config import Adding

EVALUATION_SIZE = 1000
EVALUATION_SEED = 1997


def build(config: "Adding") -> Task:
    """Build the adding problem at one length.

    Args:
        config: `length`, the number of steps, at least 2.

    Returns:
        A task with inputs `[B, length, 2]` float32 (value, marker), targets `[B, 1]` float32, one
        output for each sequence, and a fixed `"validation"` set.

    Examples:
        >>> import jax
        >>> from jaxlstm.config import Adding
        >>> task = build(Adding(length=10))
        >>> batch = task.sample(task.data, jax.random.key(0), 4)
        >>> batch.inputs.shape, batch.targets.shape
        ((4, 10, 2), (4, 1))
    """

    def sample(data: Any, key: Array, batch_size: int) -> Batch:
        return draw(key, batch_size, config.length)

    return Task(
        name=f"adding, {config.length} steps",
        input_size=2,
        output_size=1,
        tokens=False,
        every_step=False,
        data=(),
        sample=sample,
        evaluation={"validation": draw(fixed_key(EVALUATION_SEED), EVALUATION_SIZE, config.length)},
        loss=loss,
        goal=Goal("validation", "mse", below=0.01),
        baselines={"memoryless mse": 1 / 6},
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


def loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean squared error of `[B, 1]` outputs, in float32 at least; the metric is `mse`."""
    outputs = at_least_float32(outputs)
    mse = jnp.mean(jnp.square(outputs - batch.targets.astype(outputs.dtype)))
    return mse, {"mse": mse}
