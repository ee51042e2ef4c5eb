"""Cells that are linear in their state, in parallel over time by `jax.lax.associative_scan`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Params
from jaxlstm.unroll.scan import choose


def associative_steps(
    cell: Cell, options: Any, params: Params, laid: Any
) -> tuple[Any, Carry, Carry]:
    """What `scan_steps` gives, from prefix products: h_t = A_t ⊙ h_0 + B_t.

    Two steps h ↦ a ⊙ h + b compose to one of the same form, (a₁, b₁) then (a₂, b₂) being
    (a₂ a₁, a₂ b₁ + b₂), so all prefixes take O(log T) turns (Blelloch 1990; Martin & Cundy 2018,
    "Parallelizing linear recurrent neural nets over sequence length").

    Raises:
        ValueError: when the cell is not linear, or an option has no parallel form.
    """
    if cell.linear is None:
        raise ValueError(f"`backend` 'associative' needs a cell linear in its state, got {cell!r}")
    for name, value, plain in (
        ("truncate", options.truncate, None),
        ("remat", options.chunk, None),
        ("masked_outputs", options.hold, False),
    ):
        if value != plain:
            raise ValueError(f"`{name}` has no parallel form: use `backend` 'scan' for it")
    xs, valid, first = laid.xs, laid.valid, jax.tree.leaves(laid.first)[0]
    if valid is not None:
        xs = choose(valid, xs, jnp.zeros_like(xs))
    decay, written = cell.linear(params, xs)
    if valid is not None:
        decay = choose(valid, decay, jnp.ones_like(decay))
        written = choose(valid, written, jnp.zeros_like(written))
    if laid.reset is not None:
        initial = jnp.broadcast_to(jax.tree.leaves(laid.initial)[0], decay.shape)
        written = choose(laid.reset, decay * initial + written, written)
        decay = choose(laid.reset, jnp.zeros_like(decay), decay)

    def compose(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return b[0] * a[0], b[0] * a[1] + b[1]

    if xs.shape[0]:
        decay, written = lax.associative_scan(compose, (decay, written), reverse=options.reverse)
    states = decay * jnp.broadcast_to(first, decay.shape) + written
    outputs = states if valid is None else choose(valid, states, jnp.zeros_like(states))
    last = first if not xs.shape[0] else states[0 if options.reverse else -1]
    wrap = jax.tree.structure(laid.first).unflatten
    return outputs, wrap([last]), wrap([states]) if options.return_carries else None
