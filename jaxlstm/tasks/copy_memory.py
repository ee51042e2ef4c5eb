r"""Copy memory: can a network carry ten symbols over `delay` blank steps and give them back?

Symbols 0 … `symbols − 1` carry the message; `symbols` is the blank and `symbols + 1` the delimiter
(a₀ … a₇, a₈ and a₉ in the paper). A sequence has `delay + 2·payload` steps:

    inputs:   payload message symbols | delay − 1 blanks | delimiter | payload blanks
    targets:  payload + delay blanks                                 | the message

The message is drawn evenly and independently. The problem is from Hochreiter and Schmidhuber, 1997;
this is the protocol of Arjovsky, Shah and Bengio, "Unitary Evolution Recurrent Neural Networks",
2016, which Tallec and Ollivier, "Can recurrent neural networks warp time?", 2018, follow, with
`payload = 10` and `symbols = 8`: T + 20 steps.

The loss is the cross-entropy in nats, the mean over all steps. Without memory the best is to give
blanks and then guess evenly: `payload · ln(symbols) / (delay + 2·payload)`, 10 ln 8 / (T + 20).
`recall` is the share of right symbols among the last `payload` steps, 1/`symbols` for a guess.
Solved: recall above 0.99 on a fixed set of 1000 sequences.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.config import CopyMemory
from jaxlstm.tasks.base import Batch, Goal, Task, correct, cross_entropy, fixed_key

EVALUATION_SIZE = 1000
EVALUATION_SEED = 2016


def build(config: CopyMemory) -> Task:
    """Build the copy problem at one delay.

    Args:
        config: `delay`, from the end of the message to the start of its copy; `symbols`, how many
            there are; `payload`, how many a message has.

    Returns:
        A task with inputs `[B, T]` of `symbols + 2` symbols and targets `[B, T]` of `symbols + 1`
        classes (the delimiter is never asked for), both int32, where T = `delay + 2·payload`, and
        a fixed `"validation"` set. Metrics: `cross_entropy` in nats a step, and `recall`.

    Examples:
        >>> import jax
        >>> from jaxlstm.config import CopyMemory
        >>> task = build(CopyMemory(delay=3, symbols=8, payload=2))
        >>> batch = task.sample(task.data, jax.random.key(0), 1)
        >>> batch.inputs[0, 2:].tolist(), batch.targets[0, :5].tolist()
        ([8, 8, 9, 8, 8], [8, 8, 8, 8, 8])
        >>> batch.inputs[0, :2].tolist() == batch.targets[0, 5:].tolist()
        True
    """
    delay, symbols, payload = config.delay, config.symbols, config.payload

    def sample(data: Any, key: Array, batch_size: int) -> Batch:
        return draw(key, batch_size, delay, symbols, payload)

    def loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        nats = jnp.mean(cross_entropy(outputs, batch.targets))
        recall = jnp.mean(correct(outputs[:, -payload:], batch.targets[:, -payload:]))
        return nats, {"cross_entropy": nats, "recall": recall}

    return Task(
        name=f"copy memory, delay {delay}",
        input_size=symbols + 2,
        output_size=symbols + 1,
        tokens=True,
        every_step=True,
        data=(),
        sample=sample,
        evaluation={"validation": sample((), fixed_key(EVALUATION_SEED), EVALUATION_SIZE)},
        loss=loss,
        goal=Goal("validation", "recall", above=0.99),
        baselines={
            "memoryless cross_entropy": payload * math.log(symbols) / (delay + 2 * payload),
            "memoryless recall": 1 / symbols,
        },
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def draw(key: Array, batch_size: int, delay: int, symbols: int, payload: int) -> Batch:
    """Draw `batch_size` fresh sequences of `delay + 2·payload` steps."""
    message = jax.random.randint(key, (batch_size, payload), 0, symbols, jnp.int32)

    def blanks(steps: int) -> Array:
        return jnp.full((batch_size, steps), symbols, jnp.int32)

    delimiter = jnp.full((batch_size, 1), symbols + 1, jnp.int32)
    return Batch(
        inputs=jnp.concatenate([message, blanks(delay - 1), delimiter, blanks(payload)], axis=1),
        targets=jnp.concatenate([blanks(payload + delay), message], axis=1),
    )
