"""Gradients through time while a network trains, measured now and then."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxlstm as jl
from jaxlstm.tasks import Task
from jaxlstm.training import objective
from jaxlstm.training.model import Model, Params
from jaxlstm.training.step import TrainState

Measure = Callable[[TrainState, Any], dict[str, Array]]


def build(task: Task, network: Model, *, batch_size: int, sequences: int) -> Measure:
    """Build the measurement of a training: what its gradients and gates do on the next batch.

    - `hidden_error.lag_16`, and so for every part of the carry: ‖∂L/∂h_t‖ sixteen steps before the
      end of a sequence, L being the loss of that sequence, for lags 0, 1, 2, 4, …
    - `growth.nats_per_step`: the mean log stretch of one direction by the state Jacobians, an
      estimate of the largest Lyapunov exponent: errors grow or fade at that rate.
    - `steps_held.cell_median`, `steps_held.cell_longest`: the units' time constants −1 / ln f.
    - `share_low.f`, `share_high.f`: how many of a gate's values are within a tenth of its ends.

    Together about four forward and two backward passes of `sequences` sequences.

    Args:
        task: where batches and the loss come from.
        network: the model; its cell must be one that can be stepped.
        batch_size: sequences of an update.
        sequences: how many of them are looked at.

    Returns:
        A pure function of the state and the data of the task.
    """

    def measure(state: TrainState, data: Any) -> dict[str, Array]:
        batch = task.sample(data, jax.random.fold_in(state.key, state.step), batch_size)
        batch = jax.tree.map(lambda leaf: leaf[:sequences], batch)
        params: Params = state.params
        inputs, options = network.encode(params, batch.inputs), {"lengths": batch.lengths}
        count, length = inputs.shape[:2]
        valid = jnp.full(count, length) if batch.lengths is None else batch.lengths
        cell, weights = network.cell, params.cell

        loss = objective.by_outputs(task, network, params, batch)
        found = jl.gradients.flow(
            cell,
            weights,
            inputs,
            # The loss is a mean over sequences; times their number, each counts for itself.
            lambda outputs: count * loss(outputs),
            masked_outputs=network.masked_outputs,
            **options,
        )
        measured: dict[str, Array] = {}
        for part, norms in parts(found.norms, "_"):
            for lag in (0, *(2**k for k in range(length.bit_length()) if 2**k < length)):
                at = jnp.maximum(valid - 1 - lag, 0)
                there = jnp.take_along_axis(norms, at[:, None], axis=1)[:, 0]
                measured[f"{part}_error.lag_{lag}"] = jnp.mean(there, where=valid > lag)

        counted = jnp.arange(length)[None] < valid[:, None]
        stretched = jax.vmap(
            lambda x: jl.gradients.lyapunov_spectrum(cell, weights, x, blocks=length).blocks[:, 0]
        )(jnp.where(counted.reshape(count, length, *[1] * (inputs.ndim - 2)), inputs, 0))
        measured["growth.nats_per_step"] = jnp.mean(stretched, where=counted)

        held = jl.gradients.memory_timescales(cell, weights, inputs, **options).quantiles
        for part, quantiles in parts(held, "_"):
            for label, at in (("median", 2), ("longest", 4)):
                measured[f"steps_held.{part}_{label}"] = quantiles[at]
        stuck = jl.gradients.saturation(cell, weights, inputs, **options)
        for end in ("low", "high"):
            for name, gate in stuck.items():
                measured[f"share_{end}.{name}"] = jnp.mean(getattr(gate, end))
        return measured

    return measure


def recorded(found: list[dict[str, Any]]) -> dict[str, list[float]]:
    """What is written down of a measurement of each seed.

    A part without a direct path from step to step, as `hidden` of an LSTM, holds for 0 steps
    whatever its weights are, and is left out.
    """
    metrics = {name: [float(each[name]) for each in found] for name in found[0]}
    return {n: v for n, v in metrics.items() if any(v) or not n.startswith("steps_held.")}


def parts(tree: Any, between: str = " ") -> list[tuple[str, Array]]:
    """The leaves of a carry by name: "cell", or "layer 0 cell" in a stack.

    Examples:
        >>> one = {"input_size": 1, "hidden_size": 1}
        >>> cell = jl.stack(jl.rnn(**one), jl.lstm(**one))
        >>> carry = cell.initial_carry(cell.init(jax.random.key(0)))
        >>> [name for name, _ in parts(carry, "_")]
        ['layer_0_hidden', 'layer_1_hidden', 'layer_1_cell']
    """
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        words: list[str] = []
        for key in path:
            index = getattr(key, "idx", None)
            words += [str(getattr(key, "name", key))] if index is None else ["layer", str(index)]
        found.append((between.join(words), leaf))
    return found
