"""What a task is: how batches are drawn, what the loss is, and what solved means."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.cells.base import wide


class Batch(NamedTuple):
    """Sequences of one length, and what a model should make of them.

    Args:
        inputs: `[B, T, I]` float32 features, or `[B, T]` int32 symbols.
        targets: what `Task.loss` reads: `[B, T]` int32 (a class for each step), `[B]` int32 (a
            class for each sequence), `[B, O]` float32, or `[B, T, …]` numbers for each step.
        lengths: `[B]` int32, the valid steps of each sequence; None when all steps are valid.
    """

    inputs: Array
    targets: Array
    lengths: Array | None = None


@dataclass(frozen=True)
class Goal:
    """The score that counts as solved: a metric, and the bound that it must lie beyond.

    Args:
        split: the evaluation set, a key of `Task.evaluation`.
        metric: the metric, a key of what `Task.loss` returns.
        below: the score must be smaller than this.
        above: the score must be larger than this. Exactly one of the two bounds is given.
        seeds: whether "every" seed must reach it, or the "median" over the seeds.

    Raises:
        ValueError: when none or both of the bounds are given.

    Examples:
        >>> goal = Goal("validation", "mse", below=0.01)
        >>> str(goal), goal.met(0.009), goal.met(float("nan"))
        ('< 0.01', True, False)
    """

    split: str
    metric: str
    below: float | None = None
    above: float | None = None
    seeds: Literal["every", "median"] = "median"

    def __post_init__(self) -> None:
        if (self.below is None) == (self.above is None):
            raise ValueError(
                f"`goal` must have one of `below` and `above`, got {self.below} and {self.above}"
            )

    @classmethod
    def beating(cls, split: str, metric: str, best: float, *, larger: bool = False) -> "Goal":
        """The goal to be better than the best baseline, by more than float32 rounds.

        Examples:
            >>> goal = Goal.beating("test", "accuracy", 1 / 3, larger=True)
            >>> goal.met(float(np.float32(1 / 3))), goal.met(0.3334)
            (False, True)
        """
        if larger:
            return cls(split, metric, above=best * (1 + 1e-6))
        return cls(split, metric, below=best * (1 - 1e-6))

    @property
    def larger(self) -> bool:
        """Whether more of the metric is better."""
        return self.above is not None

    def met(self, score: float) -> bool:
        """Whether a score lies beyond the bound; not a number never does."""
        if self.below is not None:
            return score < self.below
        return self.above is not None and score > self.above

    def __str__(self) -> str:
        return f"< {self.below:.4g}" if self.below is not None else f"> {self.above:.4g}"


@dataclass(frozen=True, eq=False)
class Task:
    """A question put to a recurrent network, as pure functions and arrays.

    Args:
        name: what the task is called in reports.
        input_size: features of one step, or the number of symbols when `tokens`.
        output_size: what the model must emit: numbers, or logits of that many classes.
        tokens: whether inputs are integer symbols, which the model one-hot encodes or embeds.
        every_step: whether the model emits `[B, T, O]`, or `[B, O]` from the last valid step.
        data: a pytree of the arrays that `sample` reads, `()` where batches are generated. It goes
            through `jax.jit` as an argument, so that no data set is compiled into a program.
        sample: `sample(data, key, batch_size) -> Batch`: pure, deterministic in the key, may be
            jitted with a static `batch_size` and mapped over keys.
        evaluation: the fixed sets that scores are taken on by name, such as `"validation"` and
            `"test"`.
        loss: `loss(outputs, batch) -> (loss, metrics)`: a scalar to minimise, the mean over the
            batch, and a dict of scalars that are means over the batch as well. Where sequences of
            different lengths have an output for every step, a set is scored as a whole, and a
            metric may be something else, such as a largest.
        goal: what solved means.
        baselines: scores on the goal's split of predictors that need no memory, or next to none,
            named `"<predictor> <metric>"`.
        encode: turns text into int32 symbols `[T]`; None unless the task is text.
        decode: turns integer symbols `[T]` into text; None unless the task is text.
        symbols: the characters in the order of their numbers; None unless the task is text.
        unit: what the loss is measured in: "nats" where it is a negative log-likelihood, else a
            word for what has a scale of its own.
        frame: height and width where the inputs and outputs of a step are the pixels of a frame,
            row by row; None elsewhere.
    """

    name: str
    input_size: int
    output_size: int
    tokens: bool
    every_step: bool
    data: Any
    sample: Callable[[Any, Array, int], Batch]
    evaluation: Mapping[str, Batch]
    loss: Callable[[Array, Batch], tuple[Array, dict[str, Array]]]
    goal: Goal
    baselines: Mapping[str, float] = field(default_factory=dict)
    encode: Callable[[str], np.ndarray] | None = None
    decode: Callable[[Any], str] | None = None
    symbols: str | None = None
    unit: str = "nats"
    frame: tuple[int, int] | None = None


def fixed_key(seed: int) -> Array:
    """Make the key of a fixed evaluation set: the same numbers whatever generator is configured."""
    return jax.random.key(seed, impl="threefry2x32")


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Negative log-likelihood of each label in nats, `logsumexp(z) − z[label]`.

    Args:
        logits: `[..., O]` unnormalised log-probabilities; worked on in float32 at least.
        labels: `[...]` integers in [0, O).

    Returns:
        `[...]`, one number for each label.

    Examples:
        >>> import jax.numpy as jnp
        >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))  # ln 4
        Array([1.3862944], dtype=float32)
    """
    logits = wide(logits)
    # A dense select: the gradient of an indexed read is a scatter, twice as slow on a CPU.
    hit = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.bool_)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(hit, logits, 0), axis=-1)


def correct(logits: Array, labels: Array) -> Array:
    """1.0 where the largest logit is the label's and 0.0 elsewhere: `[..., O]`, `[...]` → `[...]`.

    Examples:
        >>> import jax.numpy as jnp
        >>> correct(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
        Array([1., 0.], dtype=float32)
    """
    return (jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels).astype(jnp.float32)


def class_loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy of `[B, O]` logits in nats; the metrics add `accuracy`."""
    nats = jnp.mean(cross_entropy(outputs, batch.targets))
    return nats, {"cross_entropy": nats, "accuracy": jnp.mean(correct(outputs, batch.targets))}
