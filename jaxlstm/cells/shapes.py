"""What a cell takes and gives, found out by a step of which nothing is computed."""

import types
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import Cell, Params, check_cell


def output_shape(cell: Cell) -> tuple[int, ...]:
    """Give the shape of one output of a cell, without batch and time.

    Args:
        cell: a cell whose `input_shape` has no `None`.

    Returns:
        The shape of `output` of an unbatched `cell.step`.

    Raises:
        ValueError: when the cell takes inputs of any size, or gives more than one array.

    Examples:
        >>> import jaxlstm as jl
        >>> jl.output_shape(jl.lstm(input_size=8, hidden_size=4))
        (4,)
    """
    check_cell("cell", cell)
    if None in cell.input_shape:
        raise ValueError(f"`cell` must have a known input shape, got {cell.input_shape}")

    def outputs(key: Array) -> Any:
        params = cell.init(key)
        return _one_step(cell, params, blank_input(cell, params)[None]).outputs

    found = jax.eval_shape(outputs, jax.random.key(0))
    if not isinstance(found, jax.ShapeDtypeStruct):
        raise ValueError(f"`cell` must give one array, as no `merge` 'none' does, got {cell!r}")
    return found.shape[1:]


def blank_input(cell: Cell, params: Params) -> Array:
    """One input of zeros to a cell of known `input_shape`, in the type of its parameters."""
    return jnp.zeros(cell.input_shape, type_of(params))  # type: ignore[arg-type]


def type_of(params: Params) -> Any:
    """The type of the first parameter, float32 where there is none."""
    leaves = jax.tree.leaves(params)
    return leaves[0].dtype if leaves else jnp.float32


def _one_step(cell: Cell, params: Params, inputs: Array, **_: Any) -> Any:
    """What `unroll` does with one unbatched input, for the shapes alone."""
    if cell.whole and cell.run is not None:
        outputs, carry, carries = cell.run(
            _one_step, params, inputs, carry=None, key=None, reverse=False
        )
        return types.SimpleNamespace(outputs=outputs, carry=carry, carries=carries)
    carry, output = cell.step(params, cell.initial_carry(params), inputs[0])
    outputs = jax.tree.map(lambda y: y[None], output)
    return types.SimpleNamespace(outputs=outputs, carry=carry, carries=None)
