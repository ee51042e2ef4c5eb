"""Combinators: bigger cells out of smaller ones, as `optax.chain` is one for optimisers."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import (
    Carry,
    Cell,
    Params,
    check_cell,
    check_choice,
    described,
    serialized,
    split_key,
    start,
    wide,
    wide_type,
)
from jaxlstm.cells.shapes import output_shape


def check_chain(name: str, cells: Sequence[Cell]) -> None:
    """Refuse a cell that does not take what the one below gives, as far as both are known."""
    for index, (below, above) in enumerate(itertools.pairwise(cells), start=1):
        if None in below.input_shape or None in above.input_shape:
            continue
        if (given := output_shape(below)) != above.input_shape:
            raise ValueError(
                f"`{name}[{index}]` takes inputs of shape {above.input_shape}, but "
                f"`{name}[{index - 1}]` gives {given}"
            )


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
        check_cell(f"cells[{index}]", cell)
    check_chain("cells", cells)

    def init(key: Array) -> Params:
        keys = jax.random.split(key, len(cells))
        return tuple(cell.init(k) for cell, k in zip(cells, keys, strict=True))

    def initial_carry(
        params: Params, batch_shape: tuple[int, ...] = (), *, key: Array | None = None
    ) -> Carry:
        keys = split_key(key, len(cells))
        return tuple(
            start(cell, p, batch_shape, k) for cell, p, k in zip(cells, params, keys, strict=True)
        )

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        carries = []
        for cell, p, c in zip(cells, params, carry, strict=True):
            new, x = cell.step(p, c, x)
            carries.append(new)
        return tuple(carries), x

    def run(
        unroll: Any, params: Params, x: Array, *, carry: Carry | None, key: Any, **options: Any
    ) -> tuple[Array, Carry, Carry]:
        layers = []
        carries = (None,) * len(cells) if carry is None else carry
        keys = split_key(key, len(cells))
        for cell, p, c, k in zip(cells, params, carries, keys, strict=True):
            layers.append(unroll(cell, p, x, carry=c, key=k, **options))
            x = layers[-1].outputs
        return x, tuple(layer.carry for layer in layers), tuple(layer.carries for layer in layers)

    return Cell(
        init,
        initial_carry,
        step,
        cells[0].input_shape,
        stochastic=any(cell.stochastic for cell in cells),
        run=run,
        whole=any(cell.whole for cell in cells),
    )


@described
def residual(cell: Cell) -> Cell:
    """Add the input to the output: output_t = x_t + cell(x_t).

    He, Zhang, Ren, Sun (2016), "Deep residual learning for image recognition", used across depth,
    as Wu et al. (2016), "Google's neural machine translation system", do between LSTM layers.

    Args:
        cell: a cell whose outputs have the shape of its inputs.

    Returns:
        A `Cell` with the params and the carry of `cell`.

    Raises:
        TypeError: when `cell` is no `Cell`.
        ValueError: when its outputs have another shape than its inputs.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> layer = jl.residual(jl.lstm(input_size=8, hidden_size=8))
        >>> deep = jl.stack(layer, layer, layer)
        >>> jl.unroll(deep, deep.init(jax.random.key(0)), jnp.ones((2, 5, 8))).outputs.shape
        (2, 5, 8)
    """
    check_cell("cell", cell)
    if None not in cell.input_shape and (given := output_shape(cell)) != cell.input_shape:
        raise ValueError(f"`cell` must give outputs of shape {cell.input_shape}, got {given}")

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        carry, output = cell.step(params, carry, x)
        return carry, add(x, output)

    def run(unroll: Any, params: Params, x: Array, **options: Any) -> tuple[Array, Carry, Carry]:
        inner = unroll(cell, params, x, **options)
        return add(x, inner.outputs), inner.carry, inner.carries

    def add(x: Array, output: Array) -> Array:
        """In float32 at least, rounded once."""
        return (x.astype(wide_type(output.dtype)) + wide(output)).astype(output.dtype)

    return Cell(
        cell.init,
        cell.initial_carry,
        step,
        cell.input_shape,
        stochastic=cell.stochastic,
        run=run,
        whole=cell.whole,
    )


@serialized
class Bidirectional(NamedTuple):
    """Params, carry or carries of the two directions."""

    forward: Any
    backward: Any


MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "concat": lambda a, b: jnp.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: ((wide(a) + wide(b)) / 2).astype(jnp.result_type(a, b)),
    "none": lambda a, b: (a, b),
}
"""What can be done with the outputs of two directions."""


def check_directions(forward: Cell, backward: Cell, merge: str, names: tuple[str, str]) -> None:
    """Refuse two cells that cannot run over one input, or whose outputs cannot be merged.

    Args:
        forward: runs from the first step on.
        backward: runs from the last step on.
        merge: how their outputs are merged, as for `bidirectional`.
        names: what an error calls `backward` and `merge`.

    Raises:
        ValueError: when the shapes of their inputs differ, or those of their outputs; sizes that
            are put one behind the other may.
    """
    wanted, given = forward.input_shape, backward.input_shape
    if wanted != given:
        raise ValueError(f"`{names[0]}` must take inputs of shape {wanted}, got {given}")
    if merge == "none" or None in wanted:
        return
    a, b = output_shape(forward), output_shape(backward)
    compared = slice(-1) if merge == "concat" else slice(None)
    if a[compared] != b[compared]:
        where = " but for the last size" if merge == "concat" else ""
        raise ValueError(
            f"`{names[1]}` {merge!r} needs outputs of equal shape{where}, got {a} and {b}"
        )


@described
def bidirectional(forward: Cell, backward: Cell, *, merge: str = "concat") -> Cell:
    """Run one cell from the first step to the last, another from the last to the first, and merge.

    Schuster & Paliwal (1997), "Bidirectional recurrent neural networks". Each direction travels
    within the valid steps of each sequence, so a ragged batch equals its sequences run one by one,
    and where outputs are held each holds its own, up to the end of its way.

    Args:
        forward: the cell that runs forward.
        backward: the cell that runs backward, over the same inputs.
        merge: "concat" on the last axis, "sum", "mul", "ave", or "none" for the pair
            `(forward, backward)` of outputs.

    Returns:
        A `Cell` for `unroll`, with `Bidirectional(forward, backward)` params and carry. It sees
        whole sequences, so its `step` raises.

    Raises:
        TypeError: when an argument is no `Cell`.
        ValueError: when the two take different inputs, cannot be merged, or the merge is unknown.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> layer = jl.lstm(input_size=8, hidden_size=4)
        >>> cell = jl.bidirectional(layer, layer)
        >>> out = jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((32, 10, 8)))
        >>> out.outputs.shape, out.carry.backward.cell.shape
        ((32, 10, 8), (32, 4))
    """
    check_cell("forward", forward)
    check_cell("backward", backward)
    check_choice("merge", merge, MERGES)
    check_directions(forward, backward, merge, ("backward", "merge"))

    def init(key: Array) -> Bidirectional:
        ahead, back = jax.random.split(key)
        return Bidirectional(forward.init(ahead), backward.init(back))

    def initial_carry(
        params: Bidirectional, batch_shape: tuple[int, ...] = (), *, key: Array | None = None
    ) -> Bidirectional:
        ahead, back = split_key(key, 2)
        return Bidirectional(
            start(forward, params.forward, batch_shape, ahead),
            start(backward, params.backward, batch_shape, back),
        )

    def step(params: Bidirectional, carry: Bidirectional, x: Array) -> Any:
        raise ValueError(
            "`cell` is bidirectional and sees the whole sequence, so it cannot be stepped: "
            "use `unroll`"
        )

    def run(
        unroll: Any, params: Bidirectional, x: Array, *, carry: Any, key: Any, reverse: bool, **more
    ) -> tuple[Any, Bidirectional, Bidirectional]:
        ahead, back = split_key(key, 2)
        first = Bidirectional(None, None) if carry is None else carry
        a = unroll(forward, params.forward, x, carry=first[0], key=ahead, reverse=reverse, **more)
        b = unroll(
            backward, params.backward, x, carry=first[1], key=back, reverse=not reverse, **more
        )
        outputs = MERGES[merge](a.outputs, b.outputs)
        return outputs, Bidirectional(a.carry, b.carry), Bidirectional(a.carries, b.carries)

    return Cell(
        init,
        initial_carry,
        step,
        forward.input_shape,
        stochastic=forward.stochastic or backward.stochastic,
        run=run,
        whole=True,
    )
