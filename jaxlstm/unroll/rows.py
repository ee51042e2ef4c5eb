"""A batch of sequences and options as a backend is given them, and what is done along its rows."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from jax import Array

from jaxlstm.cells.base import Carry, Cell, Params

Results = tuple[Any, Carry, Carry | None]
"""What a backend gives: outputs, the final carry, and the carry after every step or None."""


@dataclasses.dataclass(frozen=True)
class Newton:
    """How to iterate; see `jaxlstm.newton`."""

    jacobian: str = "full"
    tolerance: float | None = None
    max_iterations: int | None = None
    report: bool = False


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `unroll` that are fixed when it is compiled.

    With `most` the fused backend makes larger products of a step, by multiplications, in parts.
    """

    reverse: bool
    time_axis: int
    hold: bool
    return_carries: bool
    include_initial: bool
    truncate: int | None
    chunk: int | None
    unroll: int | None
    backend: str | Newton
    most: int | None = None


class Laid(NamedTuple):
    """A batch of sequences with time leading, as every backend takes it.

    Args:
        xs: [T, *batch, *input_shape].
        valid: [T, *batch] bool, or None where every step is valid.
        reset: [T, *batch] bool, whether the carry is put back before this step is done in the
            direction of travel, or None.
        initial: what a reset puts the carry back to.
        first: the carry to begin with.
        lengths: [*batch], where they alone say what is valid.
    """

    xs: Array
    valid: Array | None
    reset: Array | None
    initial: Carry
    first: Carry
    lengths: Array | None


Work = Callable[[Params, Laid], Results]
Engine = Callable[[Cell, Options, Params, Laid], Results]

PLACES = (1, 1, 1, 0, 0, 0)
"""The dimension at which the batch begins, in the order of `Laid`."""
RESULTS = (1, 0, 1)
"""The same of what a backend gives: outputs, final carry and carries."""


def batch_of(cell: Cell, xs: Array) -> tuple[int, ...]:
    """The batch dimensions of inputs, time leading."""
    return xs.shape[1 : xs.ndim - len(cell.input_shape)]


def all_have(batch_shape: tuple[int, ...], laid: Laid) -> bool:
    """Whether every part of the carry has the rows of the batch; noise may be shared by them."""
    leaves = jax.tree.leaves((laid.initial, laid.first))
    return all(leaf.shape[: len(batch_shape)] == batch_shape for leaf in leaves)


def along(change: Callable[..., Array], parts: Iterable[Any], places: Iterable[int]) -> list[Any]:
    """Change every array of some parts at the `axis` at which the batch begins."""
    return [
        jax.tree.map(functools.partial(change, axis=place), part)
        for part, place in zip(parts, places, strict=True)
    ]


def lone(cell: Cell, laid: Laid) -> tuple[Laid, Callable[[Any], Any]]:
    """A batch of one row as a sequence without a batch, and what gives the results theirs again.

    XLA on a CPU multiplies a vector by a matrix faster than a matrix of one row, which it copies
    into a column at every step: forward, 32 inputs and 128 units took .88 of the time.
    """
    ones = batch_of(cell, laid.xs)
    if set(ones) != {1} or not all_have(ones, laid):
        return laid, lambda results: results

    def without(a: Array, axis: int) -> Array:
        return a.reshape(*a.shape[:axis], *a.shape[axis + len(ones) :])

    def again(a: Array, axis: int) -> Array:
        return a.reshape(*a.shape[:axis], *ones, *a.shape[axis:])

    return Laid(*along(without, laid, PLACES)), lambda found: tuple(along(again, found, RESULTS))


def mapped_first(found: Any) -> Any:
    """What was found, with the dimension that `jax.vmap` maps in front, where there is one.

    Where a function with a rule is compiled, mapped and then differentiated, JAX takes the place of
    that dimension in what the function gives for that in what the rule gives, whose outputs come
    from the carries and have it elsewhere. Adding and removing a dimension puts it in front, and is
    nothing in the compiled program.
    """
    return jax.tree.map(lambda a: jax.lax.squeeze(jax.lax.expand_dims(a, (0,)), (0,)), found)
