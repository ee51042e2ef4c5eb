"""Any cell in parallel over time: all states at once, by Newton's method on the whole trajectory.

The states s_1 … s_T solve s_t = f_t(s_{t-1}), T equations of which each looks one step back. So a
Newton step on all of them is a linear recurrence, Δ_t = J_t Δ_{t-1} + r_t with the Jacobians
J_t = ∂f_t/∂s_{t-1} and the residuals r_t = f_t(s_{t-1}) − s_t, and a linear recurrence takes
O(log T) turns of an associative scan (Lim et al. 2023, "Parallelizing non-linear sequential models
over the sequence length"; Gonzalez et al. 2024, "Towards scalable and stable parallelization of
nonlinear RNNs"). Whatever stands for J, each iteration makes at least one more step right, from the
first on: there are never more than T. There are few where the network forgets, and a good part of T
where it is chaotic.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells import vectors
from jaxlstm.cells.base import Carry, Cell, Params, shapes_of
from jaxlstm.unroll.associative import prefixes
from jaxlstm.unroll.checks import check_parallel
from jaxlstm.unroll.fused import fused_steps
from jaxlstm.unroll.rows import Laid, Newton, Options, Results
from jaxlstm.unroll.scan import choose, entered, valid_alone

JACOBIANS = ("full", "diagonal")
LEAST_DAMPING = 1 / 16
COLUMNS = 16
"""Columns of the Jacobians that are computed at once where only their diagonals are kept."""


class Report(NamedTuple):
    """How the iterations went, at every step: arrays `[T, *batch]`."""

    iterations: Array
    residual: Array


class _Flags(NamedTuple):
    """What is known of every step and has no derivative."""

    valid: Array | None
    reset: Array | None


def newton_steps(
    cell: Cell, options: Options, params: Params, laid: Laid, *, settings: Newton
) -> Results:
    """What `scan_steps` gives, within the tolerance; outputs with a `Report` where asked for.

    The tangents of a trajectory found with diagonal Jacobians take one step after the other, for a
    step that splits as `fused_steps` does them.

    Raises:
        ValueError: when the carry has noise, or an option has no parallel form.
    """
    check_parallel(options)
    solved = functools.partial(_solved, settings=settings)
    if settings.jacobian == "diagonal" and cell.split is not None and not settings.report:
        return fused_steps(cell, options, params, laid, forward=solved)
    return solved(cell, options, params, laid)


def _solved(
    cell: Cell, options: Options, params: Params, laid: Laid, *, settings: Newton
) -> Results:
    """What `newton_steps` gives, differentiable by its own rule."""
    problem = _Problem(cell, laid.xs.ndim - 1 - len(cell.input_shape), settings)
    problem.check(laid.first)
    first = entered(laid, options.reverse)
    flip = functools.partial(jnp.flip, axis=0) if options.reverse else lambda a: a
    xs, valid, reset = jax.tree.map(flip, (laid.xs, laid.valid, laid.reset))
    given = (params, xs, laid.initial, first, _Flags(valid, reset))
    flat, moved = solve(problem, *given)
    found, outputs = problem.steps(flat, *given)
    states = problem.carries(flat, laid.first)
    final = jax.tree.map(lambda a, b: a[-1] if len(xs) else b, states, laid.first)
    if settings.report:
        off = jnp.max(jnp.abs(found - flat), axis=-1, initial=0)
        outputs = (outputs, Report(moved, lax.stop_gradient(off)))
    outputs, states = jax.tree.map(flip, (outputs, states))
    return outputs, final, states if options.return_carries else None


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def solve(
    problem: "_Problem", params: Params, xs: Array, initial: Carry, first: Carry, flags: _Flags
) -> tuple[Array, Array]:
    """The states `[T, *batch, D]`, and the last iteration in which each step had to move."""
    entry = problem.vector(first)
    length, limit, tolerance = len(xs), problem.settings.max_iterations, problem.settings.tolerance
    limit = length if limit is None else limit
    if tolerance is None:
        tolerance = 8 * max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(first))

    def stepped(states: Array) -> Array:
        return problem.steps(states, params, xs, initial, first, flags)[0]

    def apart(states: Array, found: Array) -> Array:
        """By how much each step is off, in units of the tolerance."""
        size = jnp.max(jnp.abs(found - states), axis=-1, initial=0)
        scale = jnp.maximum(1, jnp.max(jnp.abs(states), axis=-1, initial=0))
        return size / (tolerance * scale)

    def worst(off: Array) -> Array:
        return jnp.max(off, axis=0, initial=0)

    def so_far(flag: Array) -> Array:
        """At how many steps a flag was set since the carry began anew."""
        return prefixes(jnp.ones_like(flag, jnp.float32), flag.astype(jnp.float32), flags.reset)[1]

    def broken(found: Array) -> Array:
        return ~jnp.all(jnp.isfinite(found), axis=-1)

    def going(state: Any) -> Array:
        done, (_, found), off, *_ = state
        wrong = ~(off <= 1)
        # What gives no number though all before it is right: it and what follows are as they are.
        first = broken(found) & (so_far(wrong) == wrong.astype(jnp.float32))
        return (done < limit) & jnp.any(wrong & (so_far(first) == 0))

    def iterate(state: Any) -> Any:
        done, (states, found), off, damping, moved = state
        jacobians = problem.jacobians(states, params, xs, initial, first, flags)
        moved_to = states + _linear(jacobians, found - states, damping, flags.reset)
        # A step that overflows is taken from the step before it alone, or begins anew.
        instead = jnp.where(jnp.isfinite(found), found, 0)
        states = jnp.where(jnp.isfinite(moved_to), moved_to, instead)
        found = stepped(states)
        now = apart(states, found)
        worse = ~(worst(now) <= worst(off))
        more = jnp.clip(2 * damping, LEAST_DAMPING, 1)
        less = jnp.where(damping > LEAST_DAMPING, damping / 2, 0)
        damping = jnp.where(worse, more, less)
        moved = jnp.where(off <= 1, moved, done + 1)
        return done + 1, (states, found), now, damping, moved

    states = jnp.broadcast_to(entry, (length, *entry.shape))
    found = stepped(states)
    off = apart(states, found)
    damping = jnp.zeros_like(states, shape=states.shape[1:-1])
    moved = jnp.zeros_like(states, shape=off.shape, dtype=jnp.int32)
    state = (jnp.zeros((), jnp.int32), (states, found), off, damping, moved)
    _, (states, found), _, _, moved = lax.while_loop(going, iterate, state)
    # What began anew while it was sought is no solution where a step gives no number.
    lost = so_far(broken(found)) > 0
    return jnp.where(lost[..., None], jnp.nan, states), moved


@solve.defjvp
def _solve_jvp(problem: "_Problem", primals: Any, tangents: Any) -> Any:
    """The tangents solve the same recurrence, linearised at the solution."""
    *given, flags = primals
    states, moved = solve(problem, *primals)
    zero = jax.custom_derivatives.zero_from_primal(moved)
    if problem.settings.jacobian == "diagonal":
        return (states, moved), (problem.tangents(states, primals, tangents), zero)

    def steps(params: Params, xs: Array, initial: Carry, first: Carry) -> Array:
        return problem.steps(states, params, xs, initial, first, flags)[0]

    _, forcing = jax.jvp(steps, given, list(tangents[:-1]))
    found = _linear(problem.jacobians(states, *primals), forcing, None, flags.reset)
    return (states, moved), (found, zero)


def _linear(jacobians: Array, rest: Array, damping: Array | None, reset: Array | None) -> Array:
    """Solve Δ_t = (1 − k) J_t Δ_{t-1} + r_t from Δ_0 = 0, with full or diagonal Jacobians."""
    if damping is not None:
        shape = (1, *damping.shape, *(1,) * (jacobians.ndim - 1 - damping.ndim))
        jacobians = jacobians * (1 - damping).reshape(shape)
    return prefixes(jacobians, rest, reset)[1]


class _Problem(NamedTuple):
    """The equations of a cell for a batch, with the carry of a row as one vector of D numbers."""

    cell: Cell
    axes: int
    settings: Newton

    def check(self, first: Carry) -> None:
        """Refuse a carry that is no point of a space."""
        leaves = jax.tree.leaves(first)
        floats = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
        if not floats or jax.tree.structure(first) != jax.tree.structure(self._like()):
            raise ValueError(
                "`backend` 'newton' needs a carry of floats alone, without noise, got "
                f"{jax.tree.map(jnp.shape, first)}"
            )

    def vector(self, carry: Carry) -> Array:
        """Make `[..., D]` of carries whose dimensions before those of the cell are kept."""
        leaves = jax.tree.leaves(carry)
        leading = leaves[0].ndim - jax.tree.leaves(self._like())[0].ndim
        widest = vectors.widest(leaf.dtype for leaf in leaves)
        return vectors.side_by_side(leaves, leading, widest)[0]

    def carries(self, states: Array, like: Carry) -> Carry:
        """Make carries of `[..., D]`, with the types of `like`."""
        leaves, structure = jax.tree.flatten(like)
        shapes = [one.shape for one in jax.tree.leaves(self._like())]
        layout = tuple(zip(shapes, [leaf.dtype for leaf in leaves], strict=True))
        return structure.unflatten(vectors.apart(states, layout))

    def steps(
        self, states: Array, params: Params, xs: Array, initial: Carry, first: Carry, flags: _Flags
    ) -> tuple[Array, Any]:
        """All steps at once, each from the state that is said to be before it."""
        entries = self._entries(states, first)
        return self._over(self._one)(params, entries, xs, initial, flags)

    def jacobians(
        self, states: Array, params: Params, xs: Array, initial: Carry, first: Carry, flags: _Flags
    ) -> Array:
        """∂f_t/∂s_{t-1} of every step: `[T, *batch, D, D]`, or their diagonals."""

        def one(params: Params, entry: Array, *rest: Any) -> Array:
            def step(entry: Array) -> Array:
                return self._one(params, entry, *rest)[0]

            if self.settings.jacobian == "full":
                return jax.jacfwd(step)(entry)

            def column(at: Array) -> Array:
                unit = jnp.zeros_like(entry).at[at].set(1)
                return jax.jvp(step, (entry,), (unit,))[1][at]

            return lax.map(column, jnp.arange(entry.size), batch_size=COLUMNS)

        return self._over(one)(params, self._entries(states, first), xs, initial, flags)

    def tangents(self, states: Array, primals: Any, tangents: Any) -> Array:
        """Tangents of the states, one step after the other."""
        params, xs, initial, first, flags = primals
        dparams, dxs, dinitial, dfirst, _ = tangents
        rows = self._rows(self._one)

        def step(before: Array, now: Any) -> tuple[Array, Array]:
            entry, x, dx, flags = now

            def found(params: Params, entry: Array, x: Array, initial: Carry) -> Array:
                return rows(params, entry, x, initial, flags)[0]

            given = (params, entry, x, initial)
            _, after = jax.jvp(found, given, (dparams, before, dx, dinitial))
            return after, after

        steps = (self._entries(states, first), xs, dxs, flags)
        return lax.scan(step, self.vector(dfirst), steps)[1]

    def _entries(self, states: Array, first: Carry) -> Array:
        """The state before every step."""
        return jnp.concatenate([self.vector(first)[None], states])[: len(states)]

    def _one(
        self, params: Params, entry: Array, x: Array, initial: Carry, flags: _Flags
    ) -> tuple[Array, Any]:
        """One step of one row, with what is masked and reset."""
        carry = self.carries(entry, initial)
        if flags.reset is not None:
            carry = choose(flags.reset, initial, carry)
        new, output = self.cell.step(params, carry, valid_alone(flags.valid, x))
        if flags.valid is not None:
            new = choose(flags.valid, new, carry)
        return self.vector(new), valid_alone(flags.valid, output)

    def _rows(self, function: Callable[..., Any]) -> Callable[..., Any]:
        for _ in range(self.axes):
            function = jax.vmap(function, in_axes=(None, 0, 0, 0, 0))
        return function

    def _over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.vmap(self._rows(function), in_axes=(None, 0, 0, None, 0))

    def _like(self) -> Any:
        """The carry of one row, as shapes."""
        return jax.eval_shape(self.cell.initial_carry, shapes_of(self.cell), ())
