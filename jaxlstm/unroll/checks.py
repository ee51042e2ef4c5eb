"""What `unroll` refuses, in words that name the argument, what came and what was expected."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.cells.base import Carry, Cell, Params, check_choice, check_size
from jaxlstm.cells.given import leading
from jaxlstm.cells.trees import check_tree, layout, measured
from jaxlstm.unroll.rows import Options

REMAT_CHUNK = 64


def chunk_length(remat: str | int, length: int) -> int | None:
    """The number of steps between stored carries, or None to store all."""
    if isinstance(remat, int | np.integer) and not isinstance(remat, bool):
        check_size("remat", remat)
        chunk = int(remat)
    else:
        check_choice("remat", remat, ("none", "chunk", "sqrt"))
        if remat == "none":
            return None
        chunk = REMAT_CHUNK if remat == "chunk" else None
    check_open("remat", remat, length)
    return chunk or max(1, math.isqrt(length))


def check_open(name: str, value: Any, length: int) -> None:
    """Refuse what divides the steps where `jax.export` leaves it open how many they are."""
    if not isinstance(length, int):
        raise ValueError(f"`{name}` divides the steps, which are open, {length}: got {value!r}")


def sequential(options: Options) -> list[str]:
    """Name the options given that only make sense one step after the other."""
    given = {
        "truncate": options.truncate,
        "remat": options.chunk,
        "masked_outputs": options.hold,
    }
    return [name for name, value in given.items() if value]


def check_parallel(options: Options) -> None:
    """Refuse the options that only make sense one step after the other."""
    for name in sequential(options):
        raise ValueError(f"`{name}` has no parallel form: use `backend` 'scan' for it")


def check_bool(name: str, flag: Any) -> None:
    """Refuse what is no bool."""
    if not isinstance(flag, bool | np.bool_):
        raise TypeError(f"`{name}` must be a bool, got {flag!r}")


def check_array(name: str, value: Any) -> Array:
    """What can be an array, as one."""
    try:
        return jnp.asarray(value)
    except OverflowError:
        raise ValueError(f"`{name}` must fit into {jnp.int_(0).dtype}, got {value!r}") from None
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be an array, got {type(value).__name__}") from None


def check_leaves(name: str, tree: Any) -> None:
    """Refuse a pytree with a leaf that is neither an array nor a number."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        measured(name, path, leaf)


def check_inputs(cell: Cell, inputs: Array, time_major: bool) -> tuple[tuple[int, ...], int]:
    """The batch shape and the number of steps of inputs that fit the cell."""
    order = ("T", "*batch") if time_major else ("*batch", "T")
    before = leading("inputs", inputs.shape, order, cell.input_shape)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(f"`inputs` must be floating point, got {inputs.dtype}")
    return (before[1:], before[0]) if time_major else (before[:-1], before[-1])


def check_lengths(lengths: Any, batch_shape: tuple[int, ...], length: int) -> Array:
    """Lengths of the right type and shape and, where they are known, in range."""
    given, lengths = lengths, check_array("lengths", lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`lengths` must be integers, got {lengths.dtype}")
    if lengths.shape != batch_shape:
        raise ValueError(
            f"`lengths` must have the batch shape {list(batch_shape)}, got {list(lengths.shape)}"
        )
    # Within a `jit` even numbers that are known become tracers: it is what was given that counts.
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given)):
        values = np.asarray(given)
        for index in np.argwhere((values < 0) | (values > length))[:1]:
            where = ", ".join(str(i) for i in index)
            at = f" at index {where}" if where else ""
            raise ValueError(f"`lengths` must lie in [0, {length}], got {values[tuple(index)]}{at}")
    return lengths.astype(jnp.int32)


def check_flags(name: str, flags: Any, shape: tuple[int, ...]) -> Array:
    """A bool array of the right shape."""
    flags = check_array(name, flags)
    if flags.dtype != jnp.bool_:
        raise TypeError(f"`{name}` must be bool, got {flags.dtype}")
    if flags.shape != shape:
        raise ValueError(f"`{name}` must have shape {list(shape)}, got {list(flags.shape)}")
    return flags


def check_carry(carry: Carry, initial: Carry) -> Carry:
    """The carry given, in the types of the initial one; structure and shapes must agree."""
    check_tree("carry", carry, initial)

    def cast(have: Any, want: Array) -> Array:
        have = jnp.asarray(have)
        return have.astype(want.dtype) if jnp.issubdtype(want.dtype, jnp.inexact) else have

    return jax.tree.map(cast, carry, initial)


def check_step(cell: Cell, params: Params, carry: Carry, x: Any) -> None:
    """Refuse a step that gives no carry like the one that it is given; what it raises is its own.

    For when something has failed: of such a step JAX says what a scan, or a solver, expected.
    """
    try:
        found = jax.eval_shape(cell.step, params, carry, x)
    except Exception:
        return
    if not isinstance(found, tuple) or len(found) != 2:
        got = layout(found)
        raise TypeError(f"`cell.step` must return a carry and an output, got {got}") from None
    given, got = layout(carry), layout(found[0])
    if given != got:
        said = f"`cell.step` must return a carry like the one given, {given}, got {got}"
        raise TypeError(said) from None
