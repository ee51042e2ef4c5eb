"""Pytrees held against a template, and mistakes in them said in words."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


def layout(tree: Any) -> str:
    """Print the structure, types and shapes of a pytree: `LSTMCarry(hidden=float32[2,4], …)`."""
    if tree is None:
        return "None"
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key!r}: {layout(part)}" for key, part in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(layout(part) for part in tree) + "]"
    if isinstance(tree, tuple):
        if hasattr(tree, "_fields"):
            named = zip(tree._fields, tree, strict=True)  # type: ignore[attr-defined]
            parts = ", ".join(f"{name}={layout(part)}" for name, part in named)
            return f"{type(tree).__name__}({parts})"
        return "(" + ", ".join(layout(part) for part in tree) + ("," * (len(tree) == 1)) + ")"
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        array = f"{tree.dtype}[{','.join(str(size) for size in tree.shape)}]"
        plain = isinstance(tree, ARRAYS)
        return array if plain else f"{type(tree).__name__}({array})"
    return type(tree).__name__


def name_of(path: Any) -> str:
    """What a leaf is called: the last field, key or place on the way to it, as JAX gives it."""
    return jax.tree_util.keystr(path[-1:], simple=True)


def bytes_of(tree: Any) -> int:
    """Count the bytes of a pytree of arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def measured(name: str, path: Any, leaf: Any) -> tuple[tuple[int, ...], Any]:
    """The shape and the type of a leaf; refuse one that is neither an array nor a number."""
    try:
        typed: Any = jax.typeof(leaf)  # to others a word is the type that it names
    except (TypeError, ValueError):
        where = f"{name}{jax.tree_util.keystr(path)}"
        raise TypeError(f"`{where}` must be an array, got {type(leaf).__name__}") from None
    return typed.shape, typed.dtype


def check_tree(name: str, given: Any, wanted: Any, *, whole_numbers: bool = True) -> None:
    """Refuse a pytree whose structure, shapes or kinds of number differ from those wanted.

    Args:
        name: what the error calls it.
        given: a pytree of arrays.
        wanted: the template, of arrays or `jax.ShapeDtypeStruct`.
        whole_numbers: whether integers and bools may stand for floating point numbers.

    Raises:
        TypeError: when a leaf is no array, or not of the kind of number wanted (complex for real,
            say).
        ValueError: when the structure or a shape differs.
    """
    if jax.tree.structure(given) != jax.tree.structure(wanted):
        raise ValueError(f"`{name}` must be {layout(wanted)}, got {layout(given)}")

    def check(path: Any, want: Any, have: Any) -> None:
        if getattr(have, "shape", None) == want.shape and have.dtype == want.dtype:
            return  # at once: a step that is not compiled comes here each time
        shape, dtype = measured(name, path, have)
        leaf = f"{name}{jax.tree_util.keystr(path)}"
        if shape != want.shape:
            raise ValueError(f"`{leaf}` must have shape {list(want.shape)}, got {list(shape)}")
        keys = [jnp.issubdtype(one, jax.dtypes.prng_key) for one in (dtype, want.dtype)]
        # Keys of any kind: a carry may bring those of another generator.
        fits = all(keys) if any(keys) else jnp.can_cast(dtype, want.dtype, "same_kind")
        whole = jnp.issubdtype(want.dtype, jnp.inexact) and not jnp.issubdtype(dtype, jnp.inexact)
        if not fits or (whole and not whole_numbers):
            raise TypeError(f"`{leaf}` must be {want.dtype}, got {dtype}")

    jax.tree_util.tree_map_with_path(check, wanted, given)
