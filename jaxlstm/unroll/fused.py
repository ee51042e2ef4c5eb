"""A backward pass with one product for many steps, of cells whose step splits into parts.

Plain autodiff of a scan adds up the gradient of every weight step by step, and keeps every gate of
every step for it. But the tangents of the carries follow a recursion that is linear in them,

    dz_t         = dx_t W + x_t dW + h_{t−1} dU + dh_{t−1} U
    (dh_t, dc_t) = M_t (dz_t, dh_{t−1}, dc_{t−1})

in which only dh_{t−1} U and M_t have to wait for the step before. All the rest, M_t itself too, is
computed for a chunk of steps at once, from the inputs and the carries, which is all that is kept.
The rule is one of forward mode, and JAX transposes it: so every mode and order of differentiation
stays, and what is one product over a chunk here is one in the backward pass.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxlstm.cells.base import Carry, Cell, Params, net_of
from jaxlstm.unroll.folding import folded
from jaxlstm.unroll.scan import Steps, choose, scan_over, scan_steps, varying_like

CHUNK = 20
"""Steps whose products are one: few enough that what they share stays in a core's cache."""


def fused_steps(cell: Cell, options: Any, params: Params, laid: Any) -> tuple[Any, Carry, Carry]:
    """What `scan_steps` gives, with another backward pass.

    Raises:
        ValueError: when the step of the cell has no parts, or with `remat`.
    """
    if cell.split is None:
        raise ValueError(f"`backend` 'fused' needs a cell whose step is split, got {cell!r}")
    if options.chunk is not None:
        raise ValueError("`remat` must be 'none' for `backend` 'fused', which keeps carries alone")
    return _run(cell, options, params, laid)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _run(cell: Cell, options: Any, params: Params, laid: Any) -> tuple[Any, Carry, Carry]:
    return scan_steps(cell, options, params, laid)


def _tangents(cell: Cell, options: Any, primals: Any, tangents: Any) -> tuple[Any, Any]:
    split: Any = cell.split
    (params, laid), (dparams, dlaid) = primals, tangents
    wide = dataclasses.replace(options, return_carries=True)
    outputs, final, carries = _run(cell, wide, params, laid)
    extra, moves = split.extra(params), not isinstance(dlaid.xs, SymbolicZero)
    dparams, dfirst, dinitial = jax.tree.map(_zero, (dparams, dlaid.first, dlaid.initial))
    like = (params, dparams, laid, dlaid.xs if moves else ())
    dfirst, dinitial = varying_like((dfirst, dinitial), like)
    steps = {"x": laid.xs, "after": carries}
    if moves:
        steps["dx"] = dlaid.xs
    chunk, reverse = _chunk(len(laid.xs)), options.reverse
    enter = functools.partial(_entries, chunk=chunk, reverse=reverse)

    def prepare(now: Steps, entry: Carry) -> Steps:
        given = now["x"]
        x = _shown(now, given["x"])
        carry = jax.tree.map(functools.partial(_before, reverse=reverse), entry, given["after"])
        if "cut" in now:  # for the derivatives of this derivative
            carry = choose(now["cut"], jax.tree.map(lax.stop_gradient, carry), carry)
        if "reset" in now:
            carry = choose(now["reset"], _along(laid.initial, carry), carry)

        # One long batch: a product whose transpose sums over one dimension is faster than over two.
        leading = x.shape[: x.ndim - len(cell.input_shape)]
        flat = functools.partial(jax.tree.map, lambda a: a.reshape(-1, *a.shape[len(leading) :]))

        def net(params: Params, x: Array) -> dict[str, Array]:
            found = net_of(split.inputs(params, x), split.states(params, flat(carry)))
            return jax.tree.map(lambda a: a.reshape(*leading, *a.shape[1:]), found)

        if moves:
            dx = _shown(now, given["dx"])
            at, dnet = jax.jvp(net, (params, flat(x)), (dparams, flat(dx)))
        else:
            at, dnet = jax.jvp(lambda params: net(params, flat(x)), (params,), (dparams,))
        more = None
        if jax.tree.leaves(extra):
            merge = lambda p: split.merge(split.extra(p), carry, at)  # noqa: E731
            more = jax.jvp(merge, (params,), (dparams,))[1]

        def linear(*at: Any) -> Any:
            return folded(jax.linearize(functools.partial(split.merge, extra), *at)[1], *at)

        return now | {"x": (jax.vmap(linear)(carry, at), dnet, more)}

    def step(dcarry: Carry, now: Any) -> tuple[Carry, Any]:
        linear, dnet, more = now
        passed = jax.jvp(lambda carry: split.states(params, carry), (dcarry,), (dcarry,))[1]
        found = linear(dcarry, net_of(dnet, passed))
        return found if more is None else jax.tree.map(jnp.add, found, more)

    doutputs, dfinal, dcarries = scan_over(
        step,
        dataclasses.replace(wide, chunk=chunk),
        laid._replace(xs=steps, first=dfirst, initial=dinitial),
        like=(params, dparams),
        prepare=prepare,
        entries=jax.tree.map(enter, laid.first, carries),
        cut=jnp.zeros_like,
    )
    if not options.return_carries:
        carries = dcarries = None
    return (outputs, final, carries), (doutputs, dfinal, dcarries)


_run.defjvp(_tangents, symbolic_zeros=True)


def _zero(leaf: Any) -> Any:
    if not isinstance(leaf, SymbolicZero):
        return leaf
    dtype: Any = leaf.dtype
    return jnp.zeros(leaf.shape, dtype)


def _shown(steps: Steps, x: Array) -> Array:
    """The inputs, zero where a step is not valid: what is there reaches nothing."""
    return choose(steps["valid"], x, jnp.zeros_like(x)) if "valid" in steps else x


def _chunk(length: int) -> int:
    """About 20 steps, if possible so many that the chunks go up in the length."""
    nearest = sorted(range(CHUNK // 2, 2 * CHUNK), key=lambda n: abs(n - CHUNK))
    return next((n for n in nearest if length and length % n == 0), CHUNK)


def _entries(first: Array, after: Array, *, chunk: int, reverse: bool) -> Array:
    """The carry that travels into each chunk, from the first of all and those after each step."""
    if reverse:
        return jnp.concatenate([after[chunk::chunk], first[None]])
    return jnp.concatenate([first[None], after[chunk - 1 : -1 : chunk]])


def _before(entry: Array, after: Array, *, reverse: bool) -> Array:
    """The carry before each step of a chunk, from those after each."""
    parts = [after[1:], entry[None]] if reverse else [entry[None], after[:-1]]
    return jnp.concatenate(parts)[: len(after)]


def _along(initial: Carry, carries: Carry) -> Carry:
    return jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), initial, carries)
