r"""Counting: n times a, then n times b, and the end. Can a network say when the end comes?

The strings aⁿbⁿ⊣ are read symbol by symbol, and the next symbol is to be told. While a is read
both a and b may follow; from the first b on everything is settled: b until there are n of them,
then the end ⊣. A network that has to get this right must count, and what it counts may be more
than it ever saw.

    inputs:   a a … a b b … b          2n steps; a 0, b 1
    targets:  a … a b b … b ⊣          ⊣ 2
              settled:  └──────┘       the steps at which b is read

Gers and Schmidhuber, "LSTM recurrent networks learn simple context-free and context-sensitive
languages", 2001, put the question so, with a start symbol before it. Weiss, Goldberg and Yahav, "On
the practical computational power of finite precision RNNs for language recognition", 2018, trained
LSTM and GRU on n up to 100 and looked how far beyond they went. Here n is drawn evenly from 1 to
`longest`, and every string begins with its first a.

The loss is the cross-entropy in nats, the mean over the steps of a string, then over strings.
`wrong` is the share of strings with any wrong answer at a settled step, the answer being the
largest logit. `largest_n` is that of a whole set: one less than the smallest n of a string that is
wrong, the largest n where none is. The set is n = 1, 2, … `tested`, each once, so there it is the
largest n up to which all is right; in a batch of training it says little. Solved: `largest_n`
beyond `longest`. Without memory b says nothing about how many there were: 1 at best.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import wide
from jaxlstm.config import Counting
from jaxlstm.tasks.base import Batch, Goal, Task, correct, cross_entropy

A, B, END = range(3)


def build(config: Counting) -> Task:
    """Build the counting task.

    Args:
        config: `longest`, the largest n of training; `tested`, that of the evaluation set.

    Returns:
        A task with inputs `[B, 2 longest]` int32 of 2 symbols, targets of the same shape and 3
        classes, `lengths` `[B]` equal to 2n, and a fixed `"validation"` set of n = 1 … `tested`.
        Metrics: `cross_entropy` in nats, `wrong`, `largest_n`.

    Examples:
        >>> from jaxlstm.config import Counting
        >>> batch = build(Counting(longest=2, tested=3)).evaluation["validation"]
        >>> batch.inputs.tolist()
        [[0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]
        >>> batch.targets.tolist()
        [[1, 2, 0, 0, 0, 0], [0, 1, 1, 2, 0, 0], [0, 0, 1, 1, 1, 2]]
    """

    def sample(data: Any, key: Array, batch_size: int) -> Batch:
        counts = jax.random.randint(key, (batch_size,), 1, config.longest + 1, jnp.int32)
        return strings(counts, config.longest)

    return Task(
        name=f"counting to {config.longest}",
        input_size=2,
        output_size=3,
        tokens=True,
        every_step=True,
        data=(),
        sample=sample,
        evaluation={
            "validation": strings(jnp.arange(1, config.tested + 1, dtype=jnp.int32), config.tested)
        },
        loss=loss,
        goal=Goal("validation", "largest_n", above=config.longest),
        baselines={"memoryless largest_n": 1.0},
    )


@functools.partial(jax.jit, static_argnums=1)
def strings(counts: Array, longest: int) -> Batch:
    """Write the strings of `counts` `[B]` into rows of `2 longest` steps, zero behind their end."""
    steps, n = jnp.arange(2 * longest, dtype=jnp.int32)[None], counts[:, None]
    inputs = jnp.where(steps < n, A, B)
    targets = jnp.where(steps < n - 1, A, jnp.where(steps < 2 * n - 1, B, END))
    valid = steps < 2 * n
    inputs, targets = (jnp.where(valid, x, 0).astype(jnp.int32) for x in (inputs, targets))
    return Batch(inputs, targets, 2 * counts)


def loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy over each string's steps, and how far the network counts."""
    outputs, lengths = wide(outputs), batch.lengths
    if lengths is None:
        raise ValueError("`batch` must have lengths, got None")
    steps, ends = jnp.arange(outputs.shape[1], dtype=jnp.int32)[None], lengths[:, None]
    nats = jnp.where(steps < ends, cross_entropy(outputs, batch.targets), 0)
    nats = jnp.mean(jnp.sum(nats, axis=1) / lengths.astype(nats.dtype))
    settled = (batch.inputs == B) & (steps < ends)
    wrong = jnp.any(settled & (correct(outputs, batch.targets) == 0), axis=1)
    counts = lengths // 2
    reached = jnp.min(jnp.where(wrong, counts - 1, jnp.max(counts)))
    return nats, {
        "cross_entropy": nats,
        "wrong": jnp.mean(wrong, dtype=nats.dtype),
        "largest_n": reached.astype(nats.dtype),
    }
