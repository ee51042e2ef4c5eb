"""Any cell, one step after the other, with `jax.lax.scan`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Noisy, Params


def scan_steps(cell: Cell, options: Any, params: Params, laid: Any) -> tuple[Any, Carry, Carry]:
    """Outputs, final carry and carries (or None) of a laid-out sequence, time leading."""
    length, reverse = laid.xs.shape[0], options.reverse
    steps = {"x": laid.xs}
    if laid.valid is not None:
        steps["valid"] = laid.valid
    if laid.reset is not None:
        steps["reset"] = laid.reset
    if options.truncate is not None:
        done = jnp.arange(length)[::-1] if reverse else jnp.arange(length)
        steps["cut"] = (done % options.truncate == 0) & (done > 0)

    def body(state: tuple[Carry, Any], now: dict[str, Array]) -> tuple[Any, Any]:
        carry, last = state
        x = now["x"]
        if "cut" in now:
            carry = choose(now["cut"], jax.tree.map(lax.stop_gradient, carry), carry, carry)
        if "reset" in now:
            carry = choose(now["reset"], laid.initial, carry, carry)
        if "valid" not in now:
            new, output = cell.step(params, carry, x)
        else:
            x = choose(now["valid"], x, jnp.zeros_like(x))
            new, output = cell.step(params, carry, x)
            new = choose(now["valid"], new, carry, new)
            idle = last if options.hold else jax.tree.map(jnp.zeros_like, output)
            output = choose(now["valid"], output, idle)
        state = (new, output if options.hold else None)
        return state, (output, new if options.return_carries else None)

    last = None
    if options.hold:
        x = jax.ShapeDtypeStruct(laid.xs.shape[1:], laid.xs.dtype)
        shapes = jax.eval_shape(cell.step, params, laid.first, x)[1]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        last = varying_like(zeros, (params, laid))
    state = (laid.first, last)
    (final, _), (outputs, carries) = _scan(
        body, state, steps, reverse, options.unroll, options.chunk
    )
    return outputs, final, carries


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


def choose(flag: Array, yes: Any, no: Any, latest: Any = None) -> Any:
    """Choose between two pytrees by row; the noise in them is that of `latest`."""

    def pick(a: Any, b: Any, c: Any) -> Any:
        if isinstance(c, Noisy):
            return Noisy(choose(flag, a.carry, b.carry, c.carry), c.noise)
        return jnp.where(flag.reshape(flag.shape + (1,) * (a.ndim - flag.ndim)), a, b)

    latest = no if latest is None else latest
    return jax.tree.map(pick, yes, no, latest, is_leaf=lambda node: isinstance(node, Noisy))


def varying_like(tree: Any, like: Any) -> Any:
    """Let a carry vary over every mesh axis that what reaches it varies over, in `shard_map`."""
    for leaf in jax.tree.leaves(like):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            tree = jax.tree.map(
                lambda c, leaf=leaf: (
                    c + jnp.zeros_like(leaf, shape=(), dtype=c.dtype)
                    if jnp.issubdtype(c.dtype, jnp.inexact)
                    else c
                ),
                tree,
            )
    return tree
