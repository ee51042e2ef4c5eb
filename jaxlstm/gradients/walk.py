"""The states along a sequence, laid out for measurements that look at one step at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Params, check_cell
from jaxlstm.gradients.trace import check_state, check_steps
from jaxlstm.unroll import unroll
from jaxlstm.unroll.checks import check_array

T = TypeVar("T")


class Walk(NamedTuple):
    """What `walk` gives; all leaves lead with `[*batch, T]`.

    Args:
        carries: the carry before every step.
        inputs: the inputs, zero where a step is not valid.
        valid: whether a step is valid.
        axis: where time lies.
    """

    carries: Carry
    inputs: Array
    valid: Array
    axis: int

    def rows(self, measure: Callable[..., T]) -> Callable[..., T]:
        """A measurement of one row, `[T]` leading, for all rows of the batch."""
        for _ in range(self.axis):
            measure = jax.vmap(measure)
        return measure


def walk(
    cell: Cell, params: Params, inputs: Array, carry: Carry | None, lengths: Array | None
) -> Walk:
    """Run a cell forward and keep the carry before each step, in the memory of T carries."""
    check_cell("cell", cell)
    check_steps(cell)
    check_state(carry)
    inputs = check_array("inputs", inputs)
    axis = inputs.ndim - len(cell.input_shape) - 1
    carries = unroll(
        cell,
        params,
        inputs,
        carry=carry,
        lengths=lengths,
        return_carries=True,
        include_initial=True,
    ).carries
    before = jax.tree.map(lambda leaf: lax.slice_in_dim(leaf, 0, -1, axis=axis), carries)
    valid = jnp.ones(inputs.shape[: axis + 1], bool)
    if lengths is not None:
        steps = jnp.broadcast_to(jnp.arange(inputs.shape[axis]), valid.shape)
        valid = steps < jnp.broadcast_to(jnp.asarray(lengths)[..., None], valid.shape)
    return Walk(before, where_valid(valid, inputs, 0), valid, axis)


def where_valid(valid: Array, leaf: Array, other: Any) -> Array:
    """`leaf` at valid steps and `other` at the rest, for any shape behind `[*batch, T]`."""
    wide = valid.reshape(valid.shape + (1,) * (leaf.ndim - valid.ndim))
    return jnp.where(wide, leaf, jnp.asarray(other, leaf.dtype))
