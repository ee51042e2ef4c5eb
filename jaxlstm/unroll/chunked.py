"""Cells whose steps can be done many at once, as products of matrices between them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Params, Span, like
from jaxlstm.unroll.checks import check_parallel
from jaxlstm.unroll.rows import Laid, Options, Results, batch_of
from jaxlstm.unroll.scan import entered, scan_steps, summed, valid_alone

CHUNK = 32
"""Steps done at once: each looks at all of them before it. On a CPU 16 to 64 were about as fast
with heads of 32 to 128 rows, 128 up to twice as slow."""


def chunked_steps(cell: Cell, options: Options, params: Params, laid: Laid) -> Results:
    """What `scan_steps` gives, from products between the steps of a chunk; only its entry is kept.

    The memory of a step is a sum of what was written in the steps before, so what is read of it is
    a sum of their values, weighed by how well the query meets their keys (Hua et al. 2022,
    "Transformer quality in linear time"; Beck et al. 2024, "xLSTM"). A scan over chunks hands the
    memory on.

    Raises:
        ValueError: when the cell cannot do many steps at once, or an option has no such form.
    """
    if cell.many is None:
        raise ValueError(f"`backend` 'chunked' needs a cell that does many steps, got {cell!r}")
    check_parallel(options)
    if options.return_carries:
        raise ValueError("`return_carries` is given: `backend` 'chunked' has those of chunks alone")
    length, batch_shape = len(laid.xs), batch_of(cell, laid.xs)
    if not length:
        return scan_steps(cell, options, params, laid)
    chunk = min(CHUNK, length)
    missing, valid = -length % chunk, laid.valid
    if missing and valid is None:
        valid = jnp.ones((length, *batch_shape), bool)
    xs = valid_alone(laid.valid, laid.xs)

    def cut(a: Array) -> Array:
        """In chunks in the direction of travel, the last filled up."""
        a = a[::-1] if options.reverse else a
        a = jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1))
        return a.reshape(len(a) // chunk, chunk, *a.shape[1:])

    many, long = cell.many, summed(params)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def run(carry: Carry, now: Span) -> tuple[Carry, Any]:
        return many(like(long, params), carry, now, laid.initial)

    spans = jax.tree.map(cut, Span(xs, valid, laid.reset))
    last, outputs = lax.scan(run, entered(laid, options.reverse), spans)
    outputs = outputs.reshape(length + missing, *outputs.shape[2:])[:length]
    outputs = outputs[::-1] if options.reverse else outputs
    return valid_alone(laid.valid, outputs), last, None
