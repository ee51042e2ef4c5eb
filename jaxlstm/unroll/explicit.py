"""Arrays that lie on the explicit axes of a mesh, the kind that `jax.make_mesh` makes.

There the type of an array says how it lies, and whatever is computed from it must say so of its
results: of chunks of steps, and of matrices put side by side, there is nothing to say. So within a
backend the axes are automatic, and what it gives lies as the rows of the inputs do.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import PartitionSpec

from jaxlstm.cells.base import Cell
from jaxlstm.unroll.rows import Options


def on_automatic_axes(run: Callable[..., Any], cell: Cell, options: Options, *given: Any) -> Any:
    """What `run(cell, options, *given)` gives, wherever arrays lie on explicit axes.

    Args:
        run: gives outputs, the final carry, and carries or None.
        cell: the cell.
        options: those of `unroll`.
        *given: parameters, inputs, and what else `run` takes.

    Returns:
        Its results. On explicit axes their rows lie as those of the inputs; all else, features and
        noise that rows share, is whole everywhere.
    """
    work = functools.partial(run, cell, options)
    leaves = jax.tree.leaves(given)
    if not any(any(_spec(leaf)) for leaf in leaves):
        return work(*given)
    inputs, axis = given[1], options.time_axis
    lead = inputs.ndim - len(cell.input_shape)
    places = (*_spec(inputs), *[None] * inputs.ndim)[:lead]
    timed, rows = (*places[:axis], None, *places[axis + 1 :]), (*places[:axis], *places[axis + 1 :])
    batch = (*inputs.shape[:axis], *inputs.shape[axis + 1 : lead])

    def with_time(leaf: Any) -> PartitionSpec:
        alike = (*leaf.shape[:axis], *leaf.shape[axis + 1 : lead]) == batch
        return PartitionSpec(*timed) if alike else PartitionSpec()

    def without(leaf: Any) -> PartitionSpec:
        return PartitionSpec(*rows) if leaf.shape[: lead - 1] == batch else PartitionSpec()

    plain = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)
    kinds = with_time, without, with_time
    specs = tuple(map(jax.tree.map, kinds, jax.eval_shape(work, *plain)))
    mesh = next(jax.typeof(leaf).sharding.mesh for leaf in leaves if any(_spec(leaf)))
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.sharding.auto_axes(work, out_sharding=specs)(*given)


def _spec(a: Array) -> tuple[Any, ...]:
    """How an array lies on the explicit axes of a mesh."""
    typed: Any = jax.typeof(a)
    return tuple(typed.sharding.spec)
