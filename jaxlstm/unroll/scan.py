"""Any cell, one step after the other, with `jax.lax.scan`."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Noisy, Params, like, wide
from jaxlstm.unroll.rows import Laid, Options, Results

Steps = dict[str, Any]
Step = Callable[[Carry, Any], tuple[Carry, Any]]

TURN = 8
"""Steps in one turn of a loop on a GPU.

There every kernel of a step waits for the one before. XLA hands the kernels of a turn over at once,
as a graph, and makes one product of those with the inputs.
"""


def scan_steps(cell: Cell, options: Options, params: Params, laid: Laid) -> Results:
    """Outputs, final carry and carries (or None) of a laid-out sequence, time leading."""
    long = summed(params)

    def step(carry: Carry, x: Array) -> tuple[Carry, Any]:
        return cell.step(like(long, params), carry, x)

    features = laid.xs.shape[laid.xs.ndim - len(cell.input_shape) :]
    return scan_over(step, options, laid, beside=params, ahead=math.prod(features) == 1)


def summed(params: Params) -> Params:
    """Parameters in the type in which their gradients are added up over steps: float32 at least.

    JAX adds up the gradient of what all steps see in its own type, and bfloat16 counts to 256.
    """
    return jax.tree.map(lambda a: wide(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, params)


def scan_over(
    step: Step,
    options: Options,
    laid: Laid,
    *,
    beside: Any,
    prepare: Callable[[Steps, Any], Steps] | None = None,
    entries: Any = None,
    cut: Callable[[Array], Array] = lax.stop_gradient,
    ahead: bool = False,
) -> Results:
    """Scan a step with the contract of `unroll` for what is masked, reset, cut, held.

    Args:
        step: one step, `(carry, x) -> (carry, output)`.
        options: those of `unroll`.
        laid: the batch, time leading; its `xs` may be any pytree.
        beside: what else the results vary with, in `shard_map`.
        prepare: makes the `x` of the steps of a chunk, all at once, from what is laid out and the
            chunk's entry: where a step is not valid it must not let the input through. Each `x` is
            itself if None.
        entries: a pytree of what `prepare` sees of each chunk, from the first steps to the last.
        cut: what truncation does to a carry.
        ahead: each step fetches the input of the next. A lone feature is multiplied element by
            element in one loop with the gates, which XLA on a CPU does not vectorise where it reads
            from the whole sequence: 2.2 times as slow.

    Returns:
        Outputs, final carry, and carries or None.
    """
    length, reverse = jax.tree.leaves(laid.xs)[0].shape[0], options.reverse
    steps: Steps = {"x": laid.xs}
    if laid.valid is not None:
        steps["valid"] = laid.valid
    if laid.reset is not None:
        steps["reset"] = laid.reset
    if options.truncate is not None:
        done = jnp.arange(length)[::-1] if reverse else jnp.arange(length)
        steps["cut"] = (done % options.truncate == 0) & (done > 0)

    ahead = ahead and length > 0
    if ahead:
        steps["x"] = jnp.roll(laid.xs, 1 if reverse else -1, axis=0)
    told: list[Any] = []

    def body(state: tuple[Carry, Any, Any], now: Steps) -> tuple[Any, Any]:
        carry, last, fetched = state
        x = fetched if ahead else now["x"]
        if "cut" in now:
            carry = choose(now["cut"], jax.tree.map(cut, carry), carry, carry)
        if "reset" in now:
            carry = choose(now["reset"], laid.initial, carry, carry)
        if prepare is None:
            x = valid_alone(now.get("valid"), x)
        new, output = step(carry, x)
        leaves, structure = jax.tree.flatten(output)
        twins = _twins(leaves, new if options.return_carries and not options.hold else None)
        told[:] = twins, structure
        if "valid" in now:
            new = choose(now["valid"], new, carry, new)
            idle = last if options.hold else jax.tree.map(jnp.zeros_like, output)
            output = choose(now["valid"], output, idle)
        state = (new, output if options.hold else None, now["x"] if ahead else None)
        kept = new if options.return_carries else None
        leaves = jax.tree.leaves(output)
        own = [leaf for leaf, twin in zip(leaves, twins, strict=True) if twin is None]
        return state, (own, kept)

    def first_output(steps: Steps, entries: Any, carry: Carry) -> Any:
        one = jax.tree.map(lambda a: jnp.zeros_like(a, shape=(1, *a.shape[1:])), steps)
        entry = jax.tree.map(lambda a: jnp.zeros_like(a, shape=a.shape[1:]), entries)
        ready = one if prepare is None else prepare(one, entry)
        return step(carry, jax.tree.map(lambda a: a[0], ready["x"]))[1]

    last = None
    if options.hold:
        shapes = jax.eval_shape(first_output, steps, entries, laid.first)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        last = varying_like(zeros, (beside, laid))
    state = (laid.first, last, laid.xs[-1 if reverse else 0] if ahead else None)
    (final, *_), (own, carries) = _scan(body, state, steps, options, prepare, entries)
    twins, structure = told
    left, beside = iter(own), jax.tree.leaves(carries)

    def stored(twin: int | None) -> Array:
        if twin is None:
            return next(left)
        return valid_alone(laid.valid, beside[twin])

    return structure.unflatten(map(stored, twins)), final, carries


def _twins(outputs: list[Array], carry: Any) -> list[int | None]:
    """For each output the leaf of the carry that it is, which is not to be stored twice."""
    places = {id(leaf): at for at, leaf in enumerate(jax.tree.leaves(carry))}
    return [places.get(id(output)) for output in outputs]


def _scan(body: Any, state: Any, xs: Any, options: Options, prepare: Any, entries: Any) -> Any:
    """`lax.scan`, or one that stores only the state between chunks and computes the rest again."""
    reverse, chunk = options.reverse, options.chunk

    def loop(state: Any, xs: Any) -> Any:
        unroll = options.unroll or _turn(jax.tree.leaves(xs)[0].shape[0])
        return lax.scan(body, state, xs, reverse=reverse, unroll=unroll)

    if chunk is None:
        return loop(state, xs)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def run_chunk(state: Any, now: Any) -> Any:
        xs, entry = now
        ready = xs if prepare is None else prepare(xs, entry)
        return loop(state, ready)

    length = jax.tree.leaves(xs)[0].shape[0]
    whole = length // chunk * chunk

    def run_whole(state: Any) -> Any:
        count = whole // chunk
        head = jax.tree.map(lambda a: a[:whole].reshape(count, chunk, *a.shape[1:]), xs)
        first = jax.tree.map(lambda a: a[:count], entries)
        state, ys = lax.scan(run_chunk, state, (head, first), reverse=reverse)
        return state, jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)

    def run_rest(state: Any) -> Any:
        tail = jax.tree.map(lambda a: a[whole:], xs)
        return run_chunk(state, (tail, jax.tree.map(lambda a: a[-1], entries)))

    if length == whole:
        return run_whole(state)
    if not whole:
        return run_rest(state)
    if reverse:
        state, rest = run_rest(state)
        state, head = run_whole(state)
    else:
        state, head = run_whole(state)
        state, rest = run_rest(state)
    return state, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head, rest)


def _turn(length: Any) -> int:
    """Steps in one turn of a compiled loop of so many: about `TURN` on a GPU, one elsewhere.

    As many as go up in the length, or nearly: those left over are a program of their own.
    """
    if not isinstance(length, int) or jax.default_backend() != "gpu":
        return 1
    near = range(TURN // 2 + 1, TURN * 3 // 2 + 1)
    return min(near, key=lambda turn: (length % turn, abs(turn - TURN)))


def choose(flag: Array, yes: Any, no: Any, latest: Any = None) -> Any:
    """Choose between two pytrees by row; the noise in them is that of `latest`."""

    def pick(a: Any, b: Any, c: Any) -> Any:
        if isinstance(c, Noisy):
            return Noisy(choose(flag, a.carry, b.carry, c.carry), c.noise)
        return jnp.where(flag.reshape(flag.shape + (1,) * (a.ndim - flag.ndim)), a, b)

    latest = no if latest is None else latest
    return jax.tree.map(pick, yes, no, latest, is_leaf=lambda node: isinstance(node, Noisy))


def valid_alone(valid: Array | None, tree: Any) -> Any:
    """A pytree of what belongs to steps, zero where a step is not valid; None says that all are."""
    return tree if valid is None else choose(valid, tree, jax.tree.map(jnp.zeros_like, tree))


def entered(laid: Laid, reverse: bool) -> Any:
    """The carry that the first step sees: what a reset discards may be NaN, and 0 · NaN is too."""
    if laid.reset is None or reverse:  # which resets after a step
        return laid.first
    return choose(jnp.any(laid.reset[:1], axis=0), laid.initial, laid.first)


def varying_like(tree: Any, like: Any) -> Any:
    """Let a carry vary over every mesh axis that what reaches it varies over, in `shard_map`."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    nothing = jnp.int8(0)
    for leaf in jax.tree.leaves(like):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            nothing += jnp.zeros_like(leaf, shape=(), dtype=jnp.int8)

    def vary(c: Array) -> Array:
        return c + nothing.astype(c.dtype) if jnp.issubdtype(c.dtype, jnp.inexact) else c

    return jax.tree.map(vary, tree)
