"""The place at which a number first stopped being one, in an update that broke."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxlstm as jl
from jaxlstm.tasks import Task
from jaxlstm.training import objective
from jaxlstm.training.gradients import parts
from jaxlstm.training.model import Model, Params


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
    loss = objective.by_outputs(task, network, params, batch)
    found = jl.gradients.flow(cell, weights, inputs, loss, masked_outputs=hold, **options)
    forward = [("the inputs", inputs)]
    forward += [(f"gate {name}", gate) for name, gate in gates.items()]
    forward += [(f"state {part}", leaf) for part, leaf in parts(out.carries)]
    forward += [("the output", out.outputs)]
    backward = [(f"state {part}", leaf) for part, leaf in parts(found.gradients)]
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
