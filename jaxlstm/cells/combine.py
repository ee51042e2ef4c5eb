"""Combinators: bigger cells out of smaller ones, as `optax.chain` is one for optimisers."""

import itertools

import jax
from jax import Array

from jaxlstm.cells.base import Carry, Cell, Params, described, output_shape


@described
def stack(*cells: Cell) -> Cell:
    """Put cells on top of each other: each reads the outputs of the one below at the same step.

    Args:
        *cells: the cells from the input upwards; sizes must fit.

    Returns:
        A `Cell` whose params and carry are tuples with one entry for each cell, in that order, and
        whose output is that of the last.

    Raises:
        TypeError: when an argument is no `Cell`.
        ValueError: when there is no cell, or the sizes of two neighbours do not fit.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> below, above = jl.lstm(input_size=8, hidden_size=4), jl.rnn(input_size=4, hidden_size=2)
        >>> cell = jl.stack(below, above)
        >>> out = jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((32, 10, 8)))
        >>> out.outputs.shape, out.carry[0].cell.shape
        ((32, 10, 2), (32, 4))
    """
    if not cells:
        raise ValueError("`cells` must hold at least one cell, got none")
    for index, cell in enumerate(cells):
        if not isinstance(cell, Cell):
            raise TypeError(f"`cells[{index}]` must be a Cell, got {type(cell).__name__}")
    for index, (below, above) in enumerate(itertools.pairwise(cells), start=1):
        if None in below.input_shape or None in above.input_shape:
            continue
        if (given := output_shape(below)) != above.input_shape:
            raise ValueError(
                f"`cells[{index}]` takes inputs of shape {above.input_shape}, but "
                f"`cells[{index - 1}]` gives {given}"
            )

    def init(key: Array) -> Params:
        keys = jax.random.split(key, len(cells))
        return tuple(cell.init(k) for cell, k in zip(cells, keys, strict=True))

    def initial_carry(
        params: Params, batch_shape: tuple[int, ...] = (), *, key: Array | None = None
    ) -> Carry:
        keys = [None] * len(cells) if key is None else list(jax.random.split(key, len(cells)))
        return tuple(
            start(cell, p, batch_shape, k) for cell, p, k in zip(cells, params, keys, strict=True)
        )

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        carries = []
        for cell, p, c in zip(cells, params, carry, strict=True):
            new, x = cell.step(p, c, x)
            carries.append(new)
        return tuple(carries), x

    stochastic = any(cell.stochastic for cell in cells)
    return Cell(init, initial_carry, step, cells[0].input_shape, stochastic)


def start(cell: Cell, params: Params, batch_shape: tuple[int, ...], key: Array | None) -> Carry:
    """The initial carry of a cell, with its noise where the cell is stochastic and a key came."""
    if cell.stochastic and key is not None:
        return cell.initial_carry(params, batch_shape, key=key)
    return cell.initial_carry(params, batch_shape)
