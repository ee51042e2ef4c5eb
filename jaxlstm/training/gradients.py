"""Gradients through time while a network trains: measured now and then, traced when they break."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxlstm as jl
from jaxlstm.tasks import Task
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

        # The loss is a mean over sequences; times their number, each counts for itself.
        loss = lambda outputs: count * _loss(task, network, params, batch, outputs)  # noqa: E731
        found = jl.gradients.flow(
            cell, weights, inputs, loss, masked_outputs=network.masked_outputs, **options
        )
        measured: dict[str, Array] = {}
        for part, norms in _parts(found.norms, "_"):
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
        for part, quantiles in _parts(held, "_"):
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


def trace(task: Task, network: Model, params: Params, batch: Any) -> str:
    """Say where a number first stopped being one, in the order in which it is computed.

    Forward through the parameters, then step by step the inputs, the gates, the carry and the
    output, then the loss; where all these are finite, backward through the adjoints of the carry,
    from the last step to the first.

    Args:
        task: where the loss comes from.
        network: the model.
        params: the parameters before the update that failed.
        batch: its batch.

    Returns:
        For instance "gate f at time 17 of sequence 5"; "the gradient of a parameter" where nothing
        before it is to blame, or nothing can be looked into.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.all(np.isfinite(leaf)):
            return f"parameter {jax.tree_util.keystr(path, simple=True, separator='.')}"
    if network.cell.whole:
        return "the gradient of a parameter"
    forward, value, backward = jax.jit(lambda p, b: _inside(task, network, p, b))(params, batch)
    if place := _first(forward):
        return place
    if not np.isfinite(value):
        return "the loss, every state being finite"
    if place := _first(backward, last=True):
        return f"the error that comes back to {place}"
    return "the gradient of a parameter"


def _inside(task: Task, network: Model, params: Params, batch: Any) -> tuple[Any, Array, Any]:
    """All that is computed forward at each step, the loss, and the adjoints: `[B, T, …]` each."""
    inputs, options = network.encode(params, batch.inputs), {"lengths": batch.lengths}
    cell, weights, hold = network.cell, params.cell, network.masked_outputs
    gates = jl.gradients.gates(cell, weights, inputs, **options)
    out = jl.unroll(cell, weights, inputs, masked_outputs=hold, return_carries=True, **options)
    loss = lambda outputs: _loss(task, network, params, batch, outputs)  # noqa: E731
    found = jl.gradients.flow(cell, weights, inputs, loss, masked_outputs=hold, **options)
    forward = [("the inputs", inputs)]
    forward += [(f"gate {name}", gate) for name, gate in gates.items()]
    forward += [(f"state {part}", leaf) for part, leaf in _parts(out.carries)]
    forward += [("the output", out.outputs)]
    backward = [(f"state {part}", leaf) for part, leaf in _parts(found.gradients)]
    names = [name for name, _ in forward], [name for name, _ in backward]
    bad = [
        [~jnp.all(jnp.isfinite(leaf), axis=tuple(range(2, leaf.ndim))) for _, leaf in group]
        for group in (forward, backward)
    ]
    return _Named(names[0], bad[0]), found.loss, _Named(names[1], bad[1])


@jax.tree_util.register_pytree_node_class
class _Named:
    """Arrays with names, which a compiled function may return."""

    def __init__(self, names: Any, arrays: Any) -> None:
        self.names, self.arrays = tuple(names), tuple(arrays)

    def tree_flatten(self) -> tuple[Any, Any]:
        return self.arrays, self.names

    @classmethod
    def tree_unflatten(cls, names: Any, arrays: Any) -> "_Named":
        return cls(names, arrays)


def _first(group: _Named, last: bool = False) -> str | None:
    """The first name, time and sequence at which something is wrong; the last time if `last`."""
    wrong = np.stack([np.asarray(bad) for bad in group.arrays])  # [names, B, T]
    times = np.flatnonzero(wrong.any(axis=(0, 1)))
    if not len(times):
        return None
    time = times[-1 if last else 0]
    index = np.flatnonzero(wrong[:, :, time].any(axis=1))[0]
    sequence = np.flatnonzero(wrong[index, :, time])[0]
    return f"{group.names[index]} at time {time} of sequence {sequence}"


def _loss(task: Task, network: Model, params: Params, batch: Any, outputs: Any) -> Array:
    return task.loss(network.readout(params, outputs), batch)[0]


def _parts(tree: Any, between: str = " ") -> list[tuple[str, Array]]:
    """The leaves of a carry by name: "cell", or "layer 0 cell" in a stack."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        words: list[str] = []
        for key in path:
            index = getattr(key, "idx", None)
            words += [str(getattr(key, "name", key))] if index is None else ["layer", str(index)]
        found.append((between.join(words), leaf))
    return found
