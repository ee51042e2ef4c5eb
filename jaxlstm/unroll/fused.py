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
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Params, Split, like, net_of
from jaxlstm.cells.products import moves
from jaxlstm.cells.trees import bytes_of
from jaxlstm.unroll.folding import folded
from jaxlstm.unroll.rows import Engine, Laid, Options, Results, batch_of, lone, mapped_first
from jaxlstm.unroll.scan import (
    Step,
    Steps,
    choose,
    scan_over,
    scan_steps,
    summed,
    valid_alone,
    varying_like,
)

ROWS, SHORT, LONG = 320, 10, 100
"""Rows of the products of a chunk, and the bounds of its steps: few enough that what they share
stays in a core's cache, and so many that a product outweighs adding it to those before."""
CHUNK = 2 << 20
"""Bytes of what `merge` is given in a chunk; with more, one on a CPU has fewer than `SHORT`.

Arrays of many megabytes come from fresh pages: 10 steps of 1,024 rows and 64 units, with slopes of
10 MB in one chunk, took twice as long.
"""
GPU_CHUNK = 1 << 28
"""The same on a GPU, which waits for every kernel: `LONG` steps in a chunk, if they are no more."""
WIDE = 256
"""Weights for each number that `merge` is given, from which on a product costs more than memory."""
MOST_NARROW, MOST_WIDE = 1 << 24, 1 << 28
"""Bytes of what is kept for the backward pass beside the carries, of all steps."""
LARGER = 4
"""Times as large may products be where there is a backward pass too, as where there is none.

More parts made gradients no faster with 256 units, .98 times as long with 512, and took a tenth
longer to compile.
"""


def scan_in_parts(cell: Cell, options: Options, params: Params, laid: Laid) -> Results:
    """What `scan_steps` gives, large products of a step in parts where the options ask for it."""
    rows = math.prod(batch_of(cell, laid.xs))
    large = rows * sum(a.size for a in jax.tree.leaves(params))
    if options.most is not None and large > options.most:
        step, x = functools.partial(cell.step, params), _one_input(laid)
        parted = folded(step, laid.first, x, linear=False, most=options.most)
        cell = dataclasses.replace(cell, step=lambda _, carry, x: parted(carry, x))
    return scan_steps(cell, options, params, laid)


def fused_steps(
    cell: Cell,
    options: Options,
    params: Params,
    laid: Laid,
    keep: bool = False,
    forward: Engine = scan_in_parts,
) -> Results:
    """What `forward` gives, with another backward pass.

    Args:
        cell: the cell.
        options: those of `unroll`.
        params: its parameters.
        laid: the batch, time leading.
        keep: what `merge` is given at each step is kept for the backward pass too, which saves one
            of the three products of a step there.
        forward: finds outputs and carries; it is not differentiated.

    Raises:
        ValueError: when the step of the cell has no parts, or with `remat`.
    """
    _split(cell)
    if options.chunk is not None:
        raise ValueError("`remat` must be 'none' for `backend` 'fused', which keeps carries alone")
    laid, again = lone(cell, laid)
    keep = keep and not options.hold
    return again(_run(forward, cell, options, keep, False, params, laid)[0])


def worth_keeping(cell: Cell, params: Params, laid: Laid) -> bool:
    """Whether to keep what `merge` is given is faster than to compute it again.

    Each of its numbers costs a few bytes of memory and a product with as many weights as there are
    inputs and units. Up to 16 MB it stays in memory that a process has already; beyond, fresh pages
    cost more than the product where it is short.
    """
    shapes = _shapes(_split(cell), params, laid)
    size = len(laid.xs) * bytes_of(shapes)
    numbers = sum(a.shape[-1] for a in shapes.values())
    weights = sum(a.size for a in jax.tree.leaves(params)) / numbers
    return size <= (MOST_NARROW if weights < WIDE else MOST_WIDE)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3, 4))
def _run(
    forward: Engine,
    cell: Cell,
    options: Options,
    keep: bool,
    tell: bool,
    params: Params,
    laid: Laid,
) -> tuple[Results, dict[str, Array] | None]:
    """What `forward` gives, and what `merge` was given at every step if it is to tell."""
    if not tell:
        return mapped_first((forward(cell, options, params, laid), None))
    split = _split(cell)

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Any]:
        net = split.net(params, carry, x)
        new, output = split.finish(params, carry, net)
        return new, (output, net)

    telling = dataclasses.replace(cell, step=step)
    (outputs, nets), final, carries = forward(telling, options, params, laid)
    return mapped_first(((outputs, final, carries), nets))


def _tangents(
    forward: Engine,
    cell: Cell,
    options: Options,
    keep: bool,
    tell: bool,
    primals: Any,
    tangents: Any,
) -> tuple[Any, Any]:
    split = _split(cell)
    (params, laid), (dparams, dlaid) = primals, tangents
    most = options.most and LARGER * options.most
    wide = dataclasses.replace(options, return_carries=True, most=most)
    (outputs, final, carries), nets = _run(forward, cell, wide, keep, keep or tell, params, laid)
    moving = moves(dlaid.xs)
    dparams, dfirst, dinitial = jax.tree.map(_zero, (dparams, dlaid.first, dlaid.initial))
    given = (params, dparams, laid, dlaid.xs if moving else ())
    dfirst, dinitial = varying_like((dfirst, dinitial), given)
    steps = {"x": laid.xs, "after": carries}
    if moving:
        steps["dx"] = dlaid.xs
    if keep:
        steps["net"] = nets
    reverse, length = options.reverse, len(laid.xs)
    shapes = _shapes(split, params, laid)
    rows = max(math.prod(a.shape[:-1]) for a in shapes.values())
    chunk = _chunk(length, rows, bytes_of(shapes))
    missing = -length % chunk
    # Steps that nobody asks for, behind the last: a shorter chunk would be a second program.
    fill = functools.partial(_fill, missing=missing, reverse=reverse)
    steps, valid, reset = jax.tree.map(fill, (steps, laid.valid, laid.reset))
    enter = functools.partial(_entries, chunk=chunk, reverse=reverse)

    prepare = functools.partial(
        _prepared, cell, params, summed(dparams), laid.initial, reverse=reverse
    )
    step = _recursion(split, params, laid, tell)
    (doutputs, dnets), dfinal, dcarries = scan_over(
        step,
        dataclasses.replace(wide, chunk=chunk),
        laid._replace(xs=steps, valid=valid, reset=reset, first=dfirst, initial=dinitial),
        beside=(params, dparams),
        prepare=prepare,
        entries=jax.tree.map(enter, laid.first, steps["after"]),
        cut=jnp.zeros_like,
    )
    if missing:
        real = slice(missing, None) if reverse else slice(length)
        doutputs, dcarries, dnets = jax.tree.map(lambda a: a[real], (doutputs, dcarries, dnets))
        dfinal = jax.tree.map(lambda a: a[0 if reverse else -1], dcarries)
    if not options.return_carries:
        carries = dcarries = None
    if not tell:
        nets = None
    return ((outputs, final, carries), nets), ((doutputs, dfinal, dcarries), dnets)


_run.defjvp(_tangents, symbolic_zeros=True)


def _prepared(
    cell: Cell,
    params: Params,
    dparams: Params,
    initial: Carry,
    now: Steps,
    entry: Carry,
    *,
    reverse: bool,
) -> Steps:
    """All of a chunk that does not wait for the tangent of the carry.

    Of every step: how `merge` is linear in the carry and in what it is given, the tangent of what
    it is given without dh U, and those of the parameters in `merge` and `after`.
    """
    split = _split(cell)
    dparams = like(dparams, params)
    given, extra = now["x"], split.extra(params)
    shown = functools.partial(valid_alone, now.get("valid"))
    x = shown(given["x"])
    carry = jax.tree.map(functools.partial(_before, reverse=reverse), entry, given["after"])
    if "cut" in now:  # for the derivatives of this derivative
        carry = choose(now["cut"], jax.tree.map(lax.stop_gradient, carry), carry)
    if "reset" in now:
        carry = choose(now["reset"], _along(initial, carry), carry)

    # One long batch: a product whose transpose sums over one dimension is faster than over two.
    leading = x.shape[: x.ndim - len(cell.input_shape)]
    flat = functools.partial(jax.tree.map, lambda a: a.reshape(-1, *a.shape[len(leading) :]))
    back = functools.partial(jax.tree.map, lambda a: a.reshape(*leading, *a.shape[1:]))

    rows = flat(x)

    def net(params: Params, x: Array = rows) -> dict[str, Array]:
        return back(split.net(params, flat(carry), x))

    tangent = (dparams, flat(shown(given["dx"]))) if "dx" in given else (dparams,)
    at, push = jax.linearize(net, *(params, rows)[: len(tangent)])
    dnet = folded(push, *tangent)(*tangent)
    at, more, last = given.get("net", at), None, None
    if jax.tree.leaves(extra):
        merge = lambda p: split.merge(split.extra(p), carry, at)  # noqa: E731
        more = jax.jvp(merge, (params,), (dparams,))[1]
    if after := split.after:
        merged = flat(split.merge(extra, carry, at))
        last = jax.jvp(lambda p: back(after(p, merged)), (params,), (dparams,))[1]

    def linear(*at: Any) -> Any:
        return folded(jax.linearize(functools.partial(split.merge, extra), *at)[1], *at)

    return now | {"x": (jax.vmap(linear)(carry, at), dnet, more, last)}


def _recursion(split: Split, params: Params, laid: Laid, tell: bool) -> Step:
    """One step of the tangents of the carry; gives those of outputs, and what `merge` is given."""
    extra, project = split.extra(params), None

    def product(part: Any, like: Any) -> Any:
        return folded(jax.linearize(functools.partial(part, params), like)[1], like)

    passed = product(split.states, laid.first)
    if split.after:
        merged = jax.eval_shape(split.merge, extra, laid.first, _shapes(split, params, laid))
        project = product(split.after, jax.tree.map(jnp.zeros_like, merged))

    def step(dcarry: Carry, now: Any) -> tuple[Carry, Any]:
        linear, dnet, more, last = now
        dnet = net_of(dnet, passed(dcarry))
        found = linear(dcarry, dnet)
        if more is not None:
            found = jax.tree.map(jnp.add, found, more)
        if project is not None:
            found = jax.tree.map(jnp.add, project(found), last)
        new, output = found
        return new, (output, dnet if tell else None)

    return step


def _shapes(split: Split, params: Params, laid: Laid) -> dict[str, jax.ShapeDtypeStruct]:
    """Of what `merge` is given at one step."""
    return jax.eval_shape(split.net, params, laid.first, _one_input(laid))


def _split(cell: Cell) -> Split:
    """The step of the cell in parts, which it must have."""
    if cell.split is None:
        raise ValueError(f"`backend` 'fused' needs a cell whose step is split, got {cell!r}")
    return cell.split


def _one_input(laid: Laid) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(laid.xs.shape[1:], laid.xs.dtype)


def _zero(leaf: Any) -> Any:
    if moves(leaf):
        return leaf
    dtype: Any = leaf.dtype
    return jnp.zeros(leaf.shape, dtype)


def _chunk(length: int, rows: int, size: int) -> int:
    """Steps of so many rows and bytes in a chunk, such that the chunks go up in all, or nearly."""
    short, size = SHORT, max(size, 1)
    if jax.default_backend() == "cpu":
        short = min(SHORT, CHUNK // size)
    if jax.default_backend() == "gpu":
        short = max(SHORT, GPU_CHUNK // size)
    best = min(max(ROWS // max(rows, 1), short, 1), LONG)
    if length <= best:
        return max(length, 1)
    return min(range(-(-best // 2), 2 * best), key=lambda n: (-length % n, abs(n - best)))


def _fill(a: Array, *, missing: int, reverse: bool) -> Array:
    """Add steps where the travel ends."""
    widths = [(missing, 0) if reverse else (0, missing)] + [(0, 0)] * (a.ndim - 1)
    return jnp.pad(a, widths) if missing else a


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
