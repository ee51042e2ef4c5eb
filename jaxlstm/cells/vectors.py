"""Parts of a pytree side by side in one vector, and apart again."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxlstm.cells.base import Carry, wide_type

Layout = tuple[tuple[tuple[int, ...], Any], ...]
"""The shape and the type of every part of a vector."""


def side_by_side(parts: Sequence[Array], leading: int, dtype: Any = None) -> tuple[Array, Layout]:
    """Lay parts out in one long vector, behind so many leading axes.

    The vector's type, unless given, is float32 at least, and float64 where a part is: no part is
    rounded. Complex numbers are laid out as two real ones each.
    """
    flat = [real(p.reshape(*p.shape[:leading], math.prod(p.shape[leading:]))) for p in parts]
    dtype = dtype or widest([wide_type(part.dtype) for part in flat])
    vector = jnp.concatenate([part.astype(dtype) for part in flat], axis=-1)
    return vector, tuple((p.shape[leading:], p.dtype) for p in parts)


def widest(types: Iterable[Any]) -> Any:
    """The longest type, a floating one if there is one."""
    return max(types, key=lambda dtype: (jnp.issubdtype(dtype, jnp.floating), dtype.itemsize))


def numbers(shape: tuple[int, ...], dtype: Any) -> int:
    """How many real numbers an array holds."""
    return math.prod(shape) * (2 if jnp.issubdtype(dtype, jnp.complexfloating) else 1)


def real(flat: Array) -> Array:
    """A part in real numbers: of complex ones the real parts, then the imaginary ones."""
    return jnp.concatenate([flat.real, flat.imag], axis=-1) if jnp.iscomplexobj(flat) else flat


def _typed(flat: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Such a part as it was."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        flat = lax.complex(*jnp.split(flat, 2, axis=-1))
    return flat.reshape(*flat.shape[:-1], *shape).astype(dtype)


def apart(vector: Array, layout: Layout) -> list[Array]:
    """Take a vector apart into what `side_by_side` was given, in its shapes and types."""
    ends = np.cumsum(list(itertools.starmap(numbers, layout)))[:-1]
    parts = zip(jnp.split(vector, ends, axis=-1), layout, strict=True)
    return [_typed(part, *place) for part, place in parts]


def flattened(carry: Carry) -> tuple[Array, Callable[[Array], Carry]]:
    """One carry as one such vector, and what makes a carry of its types of one again."""
    leaves, structure = jax.tree.flatten(carry)
    vector, layout = side_by_side(list(map(jnp.asarray, leaves)), 0)
    return vector, lambda vector: structure.unflatten(apart(vector, layout))
