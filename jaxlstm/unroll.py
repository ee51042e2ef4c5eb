"""The one scan: any cell over time, ragged, reset, reversed, truncated or rematerialised.

The contract for sequences, the same for every cell:

- A step is **valid** where `mask` is true and its index is below `lengths`. Any pattern may be
  masked, not only padding on the right.
- At an invalid step the input is not looked at (NaN or inf there reach nothing, values nor
  gradients), the carry is held, and the output is zero or, by choice, the last valid one.
- The carry returned is the one after the last valid step in the direction of travel; where no step
  is valid, or T = 0, it is the initial carry.
- `resets[t]` says that a new sequence begins with step t: the carry is put back to the initial one
  before it. In reverse it is put back after step t has been done, so that several sequences packed
  into one row equal the sequences run apart, in both directions.
- `reverse` travels from the last step to the first and leaves outputs and carries in the order of
  the inputs.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jaxlstm.cells.base import Carry, Cell, Params, check_choice, check_size
from jaxlstm.cells.combine import start
from jaxlstm.cells.trees import check_tree

BACKENDS = ("auto", "scan")
REMAT_CHUNK = 64


class Unrolled(NamedTuple):
    """What `unroll` returns.

    Args:
        outputs: the output of every step, `[B, T, …]`, or time-major, or unbatched, as the inputs.
        carry: the carry after the last valid step.
        carries: the carry after every step, in the order of the inputs, where asked for.
    """

    outputs: Any
    carry: Carry
    carries: Carry | None = None


def unroll(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    carry: Carry | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    time_major: bool = False,
    masked_outputs: str = "zero",
    return_carries: bool = False,
    include_initial: bool = False,
    truncate: int | None = None,
    remat: str | int = "none",
    unroll: int = 1,
    key: Array | None = None,
    backend: str = "auto",
) -> Unrolled:
    """Run a cell over sequences with `jax.lax.scan`.

        carry_t, output_t = cell.step(params, carry_{t−1}, inputs_t),   t = 0 … T − 1

    The call is compiled once for each cell, shape and choice of options, inside the `jit` of the
    caller or without one, and may be differentiated in every mode and order.

    Args:
        cell: a `Cell`.
        params: its parameters, from `cell.init`.
        inputs: `[*batch, T, *input_shape]`, for instance `[B, T, I]` or `[T, I]`; floating point.
        carry: the carry to begin with, as `cell.initial_carry(params, batch)`; that one if None.
        lengths: `[*batch]` int, the number of valid steps of each sequence, in [0, T].
        mask: `[*batch, T]` bool, true where a step is valid. With `lengths`, both must hold.
        resets: `[*batch, T]` bool, true where a new sequence begins.
        reverse: travel from the last step to the first; outputs stay in the order of the inputs.
        time_major: inputs, outputs, mask, resets and carries lead with T: `[T, *batch, …]`.
        masked_outputs: what an invalid step gives: "zero", or "hold" for the last valid output
            (zero before the first).
        return_carries: also return the carry after every step.
        include_initial: put the carry before the first step into `carries` too: at index 0, or at
            index T in reverse, so that there are T + 1.
        truncate: stop gradients through the carry every so many steps, counted in the direction of
            travel, while its values go on (truncated backpropagation through time, Williams & Peng
            1990); None for never.
        remat: memory for time in the backward pass: "none" stores what every step needs; "sqrt"
            stores a carry every √T steps and computes the rest again (Chen et al. 2016); "chunk"
            every 64 steps; an int every so many steps. The numbers are the same.
        unroll: how many steps the compiled loop does in one turn, as in `jax.lax.scan`.
        key: randomness for cells that drop out; without a key nothing is dropped.
        backend: "scan", or "auto" for the fastest that gives the same numbers.

    Returns:
        `Unrolled(outputs, carry, carries)`; `carries` is None unless `return_carries`.

    Raises:
        TypeError: when `inputs` is not floating point, a mask not bool, or another type is wrong.
        ValueError: when a shape, a length or an option does not fit; the message names it.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstm(input_size=8, hidden_size=4)
        >>> params = cell.init(jax.random.key(0))
        >>> inputs = jax.random.normal(jax.random.key(1), (2, 10, 8))
        >>> out = jl.unroll(cell, params, inputs, lengths=jnp.array([10, 3]))
        >>> out.outputs.shape, out.carry.cell.shape
        ((2, 10, 4), (2, 4))
        >>> bool((out.outputs[1, 2] == out.carry.hidden[1]).all()), float(out.outputs[1, 3:].max())
        (True, 0.0)
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"`cell` must be a Cell, got {type(cell).__name__}")
    inputs = _check_array("inputs", inputs)
    for name, flag in (
        ("reverse", reverse),
        ("time_major", time_major),
        ("return_carries", return_carries),
        ("include_initial", include_initial),
    ):
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(f"`{name}` must be a bool, got {flag!r}")
    if include_initial and not return_carries:
        raise ValueError("`include_initial` needs `return_carries=True`, got False")
    batch_shape, length = _check_inputs(cell, inputs, time_major)
    shape = (length, *batch_shape) if time_major else (*batch_shape, length)
    check_choice("masked_outputs", masked_outputs, ("zero", "hold"))
    check_choice("backend", backend, BACKENDS)
    check_size("unroll", unroll)
    if truncate is not None:
        check_size("truncate", truncate)
    lengths = None if lengths is None else _check_lengths(lengths, batch_shape, length)
    mask = None if mask is None else _check_flags("mask", mask, shape)
    resets = None if resets is None else _check_flags("resets", resets, shape)
    if key is not None and not _is_key(key):
        raise TypeError(f"`key` must come from `jax.random.key`, got {key!r}")
    return _unroll(
        cell,
        params,
        inputs,
        carry,
        lengths,
        mask,
        resets,
        key,
        reverse=bool(reverse),
        time_axis=0 if time_major else len(batch_shape),
        hold=masked_outputs == "hold",
        return_carries=bool(return_carries),
        include_initial=bool(include_initial),
        truncate=truncate,
        chunk=_chunk_length(remat, length),
        unroll=unroll,
    )


@functools.partial(
    jax.jit,
    static_argnums=0,
    static_argnames=(
        "reverse",
        "time_axis",
        "hold",
        "return_carries",
        "include_initial",
        "truncate",
        "chunk",
        "unroll",
    ),
)
def _unroll(
    cell: Cell,
    params: Params,
    inputs: Array,
    carry: Carry | None,
    lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
    key: Array | None,
    *,
    reverse: bool,
    time_axis: int,
    hold: bool,
    return_carries: bool,
    include_initial: bool,
    truncate: int | None,
    chunk: int | None,
    unroll: int,
) -> Unrolled:
    check_tree("params", params, jax.eval_shape(cell.init, jax.random.key(0)))
    xs = jnp.moveaxis(inputs, time_axis, 0)
    length, batch_shape = xs.shape[0], xs.shape[1 : xs.ndim - len(cell.input_shape)]
    initial = _varying_like(start(cell, params, batch_shape, key), xs, params)
    first = initial if carry is None else _varying_like(_check_carry(carry, initial), xs, params)

    steps = {"x": xs}
    valid = _valid(lengths, mask, length, time_axis)
    if valid is not None:
        steps["valid"] = valid
    if resets is not None:
        begins = jnp.moveaxis(resets, time_axis, 0)
        if reverse:
            begins = jnp.concatenate([begins[1:], jnp.zeros_like(begins[:1])])
        steps["reset"] = begins
    if truncate is not None:
        done = jnp.arange(length)[::-1] if reverse else jnp.arange(length)
        steps["cut"] = (done % truncate == 0) & (done > 0)

    def body(state: tuple[Carry, Any], now: dict[str, Array]) -> tuple[Any, Any]:
        carry, last = state
        x = now["x"]
        if "cut" in now:
            carry = _where(now["cut"], jax.tree.map(lax.stop_gradient, carry), carry)
        if "reset" in now:
            carry = _where(now["reset"], initial, carry)
        if "valid" not in now:
            new, output = cell.step(params, carry, x)
        else:
            x = _where(now["valid"], x, jnp.zeros_like(x))
            new, output = cell.step(params, carry, x)
            new = _where(now["valid"], new, carry)
            idle = last if hold else jax.tree.map(jnp.zeros_like, output)
            output = _where(now["valid"], output, idle)
        state = (new, output if hold else None)
        return state, (output, new if return_carries else None)

    last = None
    if hold:
        x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
        shapes = jax.eval_shape(cell.step, params, first, x)[1]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        last = _varying_like(zeros, xs, params)
    (final, _), (outputs, carries) = _scan(body, (first, last), steps, reverse, unroll, chunk)

    if return_carries and include_initial:
        carries = jax.tree.map(functools.partial(_join_initial, reverse=reverse), first, carries)
    outputs, carries = jax.tree.map(lambda a: jnp.moveaxis(a, 0, time_axis), (outputs, carries))
    return Unrolled(outputs, final, carries)


def _scan(body: Any, state: Any, xs: Any, reverse: bool, unroll: int, chunk: int | None) -> Any:
    """`lax.scan`, or one that stores only the state between chunks and computes the rest again."""
    if chunk is None:
        return lax.scan(body, state, xs, reverse=reverse, unroll=unroll)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def run_chunk(state: Any, xs: Any) -> Any:
        return lax.scan(body, state, xs, reverse=reverse, unroll=unroll)

    length = jax.tree.leaves(xs)[0].shape[0]
    whole = length // chunk * chunk

    def run_whole(state: Any) -> Any:
        head = jax.tree.map(lambda a: a[:whole].reshape(whole // chunk, chunk, *a.shape[1:]), xs)
        state, ys = lax.scan(run_chunk, state, head, reverse=reverse)
        return state, jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)

    def run_rest(state: Any) -> Any:
        return run_chunk(state, jax.tree.map(lambda a: a[whole:], xs))

    if reverse:
        state, rest = run_rest(state)
        state, head = run_whole(state)
    else:
        state, head = run_whole(state)
        state, rest = run_rest(state)
    return state, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head, rest)


def _where(flag: Array, yes: Any, no: Any) -> Any:
    """Choose between two pytrees by row; a leaf that does not lead with the batch is not held."""

    def choose(a: Array, b: Array) -> Array:
        if a.shape[: flag.ndim] != flag.shape:
            return a
        return jnp.where(flag.reshape(flag.shape + (1,) * (a.ndim - flag.ndim)), a, b)

    return jax.tree.map(choose, yes, no)


def _varying_like(tree: Any, *like: Any) -> Any:
    """Let zeros vary over the mesh axes that inputs and parameters vary over, in `shard_map`."""
    for leaf in jax.tree.leaves(like):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            tree = jax.tree.map(
                lambda c, leaf=leaf: (
                    c + jnp.zeros_like(leaf, shape=(), dtype=c.dtype)
                    if jnp.issubdtype(c.dtype, jnp.inexact)
                    else c
                ),
                tree,
            )
    return tree


def _join_initial(first: Array, carries: Array, *, reverse: bool) -> Array:
    return jnp.concatenate([carries, first[None]] if reverse else [first[None], carries])


def _valid(lengths: Array | None, mask: Array | None, length: int, time_axis: int) -> Array | None:
    valid = None if mask is None else jnp.moveaxis(mask, time_axis, 0)
    if lengths is not None:
        index = jnp.arange(length, dtype=lengths.dtype).reshape(-1, *(1,) * lengths.ndim)
        within = index < jnp.broadcast_to(lengths, (length, *lengths.shape))
        valid = within if valid is None else valid & within
    return valid


def _chunk_length(remat: str | int, length: int) -> int | None:
    if isinstance(remat, int) and not isinstance(remat, bool):
        check_size("remat", remat)
        return remat
    choices = {"none": None, "chunk": REMAT_CHUNK, "sqrt": max(1, math.isqrt(length))}
    check_choice("remat", remat, choices)
    return choices[str(remat)]


def _check_array(name: str, value: Any) -> Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be an array, got {type(value).__name__}") from None


def _is_key(key: Any) -> bool:
    if jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key):
        return True
    return isinstance(key, Array) and key.dtype == jnp.uint32 and key.ndim == 1


def _check_inputs(cell: Cell, inputs: Array, time_major: bool) -> tuple[tuple[int, ...], int]:
    rank = len(cell.input_shape)
    wanted = ", ".join("any" if size is None else str(size) for size in cell.input_shape)
    layout = f"[T, *batch, {wanted}]" if time_major else f"[*batch, T, {wanted}]"
    features = inputs.shape[inputs.ndim - rank :]
    fits = inputs.ndim > rank and all(
        size is None or size == given
        for size, given in zip(cell.input_shape, features, strict=True)
    )
    if not fits:
        raise ValueError(f"`inputs` must have shape {layout}, got {list(inputs.shape)}")
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(f"`inputs` must be floating point, got {inputs.dtype}")
    leading = inputs.shape[: inputs.ndim - rank]
    return (leading[1:], leading[0]) if time_major else (leading[:-1], leading[-1])


def _check_lengths(lengths: Any, batch_shape: tuple[int, ...], length: int) -> Array:
    lengths = _check_array("lengths", lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`lengths` must be integers, got {lengths.dtype}")
    if lengths.shape != batch_shape:
        raise ValueError(
            f"`lengths` must have the batch shape {list(batch_shape)}, got {list(lengths.shape)}"
        )
    if not isinstance(lengths, Tracer):
        values = np.asarray(lengths)
        for index in np.argwhere((values < 0) | (values > length))[:1]:
            where = ", ".join(str(i) for i in index)
            at = f" at index {where}" if where else ""
            raise ValueError(f"`lengths` must lie in [0, {length}], got {values[tuple(index)]}{at}")
    return lengths.astype(jnp.int32)


def _check_flags(name: str, flags: Any, shape: tuple[int, ...]) -> Array:
    flags = _check_array(name, flags)
    if flags.dtype != jnp.bool_:
        raise TypeError(f"`{name}` must be bool, got {flags.dtype}")
    if flags.shape != shape:
        raise ValueError(f"`{name}` must have shape {list(shape)}, got {list(flags.shape)}")
    return flags


def _check_carry(carry: Carry, initial: Carry) -> Carry:
    """The carry given, in the types of the initial one; structure and shapes must agree."""
    check_tree("carry", carry, initial)
    return jax.tree.map(lambda have, want: jnp.asarray(have).astype(want.dtype), carry, initial)
