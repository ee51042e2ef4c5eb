r"""Delayed XOR: do two bits of the past differ, one `delay` steps back and one twice as far?

Each input is a bit, drawn evenly. From step 2d on, d = `delay`, the answer at step t is

    y_t = |x_{t−d} − x_{t−2d}|

the exclusive or of the two; before it there is none, and no loss. Engelken, "Gradient flossing:
improving gradient descent through dynamic control of Jacobians", 2023; bits, lags, the loss and the
accuracy are those of the code published with it, whose parameter `delay` is d here.

The output is logistic, y = σ(z), and the loss its cross-entropy in nats, the mean over the steps
from 2d on. `accuracy` is the share of these steps at which z lies on the right side of 0. Without
memory it is one half. Solved: above 0.99 on a fixed set of 1000 sequences.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import wide
from jaxlstm.config import DelayedXOR
from jaxlstm.tasks.base import Batch, Goal, Task, fixed_key

EVALUATION_SIZE = 1000
EVALUATION_SEED = 2023


def build(config: DelayedXOR) -> Task:
    """Build the delayed XOR task.

    Args:
        config: `length`, the steps of a sequence; `delay`, d.

    Returns:
        A task with inputs `[B, length, 1]` float32, 0 or 1, targets `[B, length]` int32 (0 before
        step 2d), one logit for each step, and a fixed `"validation"` set. Metrics: `cross_entropy`
        in nats, `accuracy`.

    Examples:
        >>> import jax
        >>> from jaxlstm.config import DelayedXOR
        >>> task = build(DelayedXOR(length=6, delay=2))
        >>> batch = task.sample(task.data, jax.random.key(0), 1)
        >>> x, y = batch.inputs[0, :, 0].astype(int).tolist(), batch.targets[0].tolist()
        >>> y[4:] == [x[2] ^ x[0], x[3] ^ x[1]]
        True
    """
    length, delay = config.length, config.delay

    def sample(data: Any, key: Array, batch_size: int) -> Batch:
        return draw(key, batch_size, length, delay)

    def loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        logits = wide(outputs)[:, 2 * delay :, 0]
        ones = batch.targets[:, 2 * delay :] == 1
        nats = jnp.mean(jax.nn.softplus(jnp.where(ones, -logits, logits)))
        right = jnp.where(ones, logits > 0, logits < 0)
        return nats, {"cross_entropy": nats, "accuracy": jnp.mean(right, dtype=nats.dtype)}

    return Task(
        name=f"delayed XOR, {delay} and {2 * delay} steps back",
        input_size=1,
        output_size=1,
        tokens=False,
        every_step=True,
        data=(),
        sample=sample,
        evaluation={"validation": sample((), fixed_key(EVALUATION_SEED), EVALUATION_SIZE)},
        loss=loss,
        goal=Goal("validation", "accuracy", above=0.99),
        baselines={"memoryless cross_entropy": math.log(2), "memoryless accuracy": 0.5},
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def draw(key: Array, batch_size: int, length: int, delay: int) -> Batch:
    """Draw `batch_size` fresh sequences."""
    bits = jax.random.bernoulli(key, 0.5, (batch_size, length))
    answers = bits[:, delay:-delay] ^ bits[:, : -2 * delay]
    targets = jnp.pad(answers.astype(jnp.int32), ((0, 0), (2 * delay, 0)))
    return Batch(bits.astype(jnp.float32)[..., None], targets)
