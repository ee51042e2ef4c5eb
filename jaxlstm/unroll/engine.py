"""Lay a batch of sequences out for a backend, and its results back as the inputs were."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import Carry, Cell, Params, shapes_of, start
from jaxlstm.cells.trees import check_tree
from jaxlstm.unroll.associative import associative_steps
from jaxlstm.unroll.checks import check_carry, check_step, sequential
from jaxlstm.unroll.chunked import chunked_steps
from jaxlstm.unroll.cudnn import cudnn_steps
from jaxlstm.unroll.devices import run_spread
from jaxlstm.unroll.explicit import on_automatic_axes
from jaxlstm.unroll.fused import fused_steps, worth_keeping
from jaxlstm.unroll.newton import newton_steps
from jaxlstm.unroll.rows import Engine, Laid, Newton, Options, Results, batch_of
from jaxlstm.unroll.scan import scan_steps, valid_alone, varying_like


def auto_steps(cell: Cell, options: Options, params: Params, laid: Laid) -> Results:
    """Many steps at once or the fused backend, where cell and options allow it, or the scan.

    The scan too where `jax.export` leaves a size open, by which chunks are chosen.
    """
    closed = all(isinstance(size, int) for size in laid.xs.shape)
    many = cell.many is not None and not sequential(options) and not options.return_carries
    if many and closed:
        return chunked_steps(cell, options, params, laid)
    if cell.split is None or options.chunk is not None or not closed:
        return scan_steps(cell, options, params, laid)
    return fused_steps(cell, options, params, laid, keep=worth_keeping(cell, params, laid))


ENGINES: dict[str, Engine] = {
    "auto": auto_steps,
    "scan": scan_steps,
    "fused": fused_steps,
    "associative": associative_steps,
    "chunked": chunked_steps,
    "cudnn": cudnn_steps,
    "newton": functools.partial(newton_steps, settings=Newton("full")),
    "quasi-newton": functools.partial(newton_steps, settings=Newton("diagonal")),
}
BACKENDS = tuple(ENGINES)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(cell: Cell, options: Options, *given: Any) -> tuple[Any, Carry, Carry | None]:
    """Outputs, final carry and carries of checked arguments, compiled once for each shape."""
    return on_automatic_axes(_run, cell, options, *given)


def _run(
    cell: Cell,
    options: Options,
    params: Params,
    inputs: Array,
    carry: Carry | None,
    lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
    key: Array | None,
) -> tuple[Any, Carry, Carry | None]:
    axis = options.time_axis
    xs = jnp.moveaxis(inputs, axis, 0)
    length, batch_shape = xs.shape[0], batch_of(cell, xs)
    initial, first = begin(cell, batch_shape, params, carry, key)
    given = (xs, params, carry, lengths, mask, resets)
    initial, first = varying_like((initial, first), given)
    laid = Laid(
        xs,
        _valid(lengths, mask, length, axis),
        None if resets is None else _boundaries(jnp.moveaxis(resets, axis, 0), options.reverse),
        initial,
        first,
        lengths if mask is None else None,
    )
    if isinstance(options.backend, Newton):
        engine = functools.partial(newton_steps, settings=options.backend)
    else:
        engine = ENGINES[options.backend]
    try:
        outputs, final, carries = run_spread(engine, cell, options, params, laid)
    except (TypeError, ValueError):
        check_step(cell, params, first, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype))
        raise
    if options.include_initial:
        join = functools.partial(_join_initial, reverse=options.reverse)
        carries = jax.tree.map(join, first, carries)

    def back(a: Array) -> Array:
        """Time where it was in the inputs; noise that all rows share keeps it in front."""
        rows = a.shape[1 : 1 + len(batch_shape)] == batch_shape
        return jnp.moveaxis(a, 0, axis) if rows else a

    outputs, carries = jax.tree.map(back, (outputs, carries))
    return outputs, final, carries


def begin(
    cell: Cell,
    batch_shape: tuple[int, ...],
    params: Params,
    carry: Carry | None,
    key: Array | None,
) -> tuple[Carry, Carry]:
    """The initial carry and the one to begin with."""
    wanted = shapes_of(cell)
    check_tree("params", params, wanted, whole_numbers=False)
    initial = start(cell, params, batch_shape, key)
    other_noise = jax.tree.structure(carry) != jax.tree.structure(initial)
    if carry is not None and cell.stochastic and other_noise:
        # The carry brings its own noise, or none, whatever the key says.
        other = jax.random.key(0) if key is None else None
        initial = start(cell, params, batch_shape, other)
    return initial, initial if carry is None else check_carry(carry, initial)


def _boundaries(begins: Array, reverse: bool) -> Array:
    """Where the carry is put back: before the first step of a sequence, in reverse after it."""
    if not reverse:
        return begins
    return jnp.concatenate([begins[1:], jnp.zeros_like(begins[:1])])


def _join_initial(first: Array, carries: Array, *, reverse: bool) -> Array:
    return jnp.concatenate([carries, first[None]] if reverse else [first[None], carries])


def without_invalid(
    cell: Cell,
    inputs: Array,
    *,
    lengths: Any = None,
    mask: Any = None,
    time_major: bool = False,
    masked_outputs: str = "zero",
    reverse: bool = False,
    **_: Any,
) -> Array:
    """Inputs for cells that use them outside of a scan: where a step is not valid as outputs are.

    That is zero, or what was held: the last valid input in the direction of travel. It takes the
    options of `unroll`, and passes over all others.
    """
    lengths, mask = (None if a is None else jnp.asarray(a) for a in (lengths, mask))
    time_axis = 0 if time_major else inputs.ndim - len(cell.input_shape) - 1
    xs = jnp.moveaxis(inputs, time_axis, 0)
    valid = _valid(lengths, mask, len(xs), time_axis)
    if valid is None:
        return inputs
    if masked_outputs == "hold" and len(xs):
        steps = jnp.arange(len(xs)).reshape(-1, *(1,) * (valid.ndim - 1))
        steps = jnp.broadcast_to(steps, valid.shape)
        if reverse:
            last = jax.lax.cummin(jnp.where(valid, steps, len(xs)), reverse=True)
        else:
            last = jax.lax.cummax(jnp.where(valid, steps, -1))
        valid = (last >= 0) & (last < len(xs))
        last = last.reshape(*last.shape, *(1,) * (xs.ndim - last.ndim))
        xs = jnp.take_along_axis(xs, last, axis=0, mode="clip")
    return jnp.moveaxis(valid_alone(valid, xs), 0, time_axis)


def _valid(lengths: Array | None, mask: Array | None, length: int, time_axis: int) -> Array | None:
    valid = None if mask is None else jnp.moveaxis(mask, time_axis, 0)
    if lengths is not None:
        index = jnp.arange(length, dtype=lengths.dtype).reshape(-1, *(1,) * lengths.ndim)
        within = index < jnp.broadcast_to(lengths, (length, *lengths.shape))
        valid = within if valid is None else valid & within
    return valid
