"""Cells that are linear in their state, in parallel over time by `jax.lax.associative_scan`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import Cell, Params, wide_type
from jaxlstm.unroll.checks import check_parallel
from jaxlstm.unroll.rows import Laid, Options, Results
from jaxlstm.unroll.scan import choose, entered, valid_alone


def associative_steps(cell: Cell, options: Options, params: Params, laid: Laid) -> Results:
    """What `scan_steps` gives, from prefix products: h_t = A_t ⊙ h_0 + B_t.

    Two steps h ↦ a ⊙ h + b compose to one of the same form, (a₁, b₁) then (a₂, b₂) being
    (a₂ a₁, a₂ b₁ + b₂), so all prefixes take O(log T) turns (Blelloch 1990; Martin & Cundy 2018,
    "Parallelizing linear recurrent neural nets over sequence length").

    Raises:
        ValueError: when the cell is not linear, or an option has no parallel form.
    """
    if cell.linear is None:
        raise ValueError(f"`backend` 'associative' needs a cell linear in its state, got {cell!r}")
    check_parallel(options)
    valid, first = laid.valid, jax.tree.leaves(entered(laid, options.reverse))[0]
    decay, written = cell.linear(params, valid_alone(valid, laid.xs))
    if valid is not None:
        decay = choose(valid, decay, jnp.ones_like(decay))
        written = valid_alone(valid, written)
    dtype = wide_type(first.dtype)
    decay, written, entry = (a.astype(dtype) for a in (decay, written, first))
    entry = jnp.broadcast_to(entry, decay.shape)
    if laid.reset is not None:
        initial = jax.tree.leaves(laid.initial)[0].astype(dtype)
        initial = jnp.broadcast_to(initial, decay.shape)
        written = choose(laid.reset, decay * initial + written, written)
        begun = lax.cummax(laid.reset.astype(jnp.int8), reverse=options.reverse) > 0
        entry = choose(begun, jnp.zeros_like(entry), entry)

    decay, written = prefixes(decay, written, laid.reset, reverse=options.reverse)
    states = (decay * entry + written).astype(first.dtype)
    outputs = valid_alone(valid, states)
    last = first if not len(states) else states[0 if options.reverse else -1]
    wrap = jax.tree.structure(laid.first).unflatten
    return outputs, wrap([last]), wrap([states]) if options.return_carries else None


def prefixes(
    factors: Array, terms: Array, reset: Array | None = None, *, reverse: bool = False
) -> tuple[Array, Array]:
    """Compose all steps s ↦ a s + b up to each, in O(log T) turns.

    Args:
        factors: a, [T, …, D] for a ⊙ s, or [T, …, D, D] for matrices.
        terms: b, [T, …, D].
        reset: [T, …] bool, where nothing before gets through, be it no number.
        reverse: compose from the last step to the first.

    Returns:
        The factors and terms of the composed steps.
    """
    if not len(terms):
        return factors, terms
    matrices = factors.ndim > terms.ndim

    def by(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision="highest") if matrices else a * b

    def compose(a: Any, b: Any) -> Any:
        before, begun = a[:2], None
        if reset is not None:
            # 0 · NaN is NaN, and so is its derivative.
            before, begun = choose(b[2], jax.tree.map(jnp.zeros_like, before), before), a[2] | b[2]
        return by(b[0], before[0]), by(b[0], before[1]) + b[1], begun

    columns = terms[..., None] if matrices else terms
    factors, found, _ = lax.associative_scan(compose, (factors, columns, reset), reverse=reverse)
    return factors, found.reshape(terms.shape)
