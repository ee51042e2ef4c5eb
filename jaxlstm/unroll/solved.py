"""All steps at once by Newton's method, and how it went."""

from typing import Any, NamedTuple

import numpy as np
from jax import Array

from jaxlstm.cells.base import Carry, Cell, Params, check_cell, check_choice, check_size
from jaxlstm.unroll.newton import JACOBIANS
from jaxlstm.unroll.rows import Newton
from jaxlstm.unroll.sequences import unroll


class Solved(NamedTuple):
    """What `newton` returns.

    Args:
        outputs: the output of every step, as from `unroll`.
        carry: the carry after the last valid step.
        carries: the carry after every step.
        iterations: `[B, T]` int32, the last iteration in which the step was still off by more than
            the tolerance; 0 where the initial carry was right at once.
        residual: `[B, T]`, by how much a step taken from the carry before it misses the carry after
            it, the largest over the entries.
    """

    outputs: Any
    carry: Carry
    carries: Any
    iterations: Array
    residual: Array


def newton(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    jacobian: str = "full",
    tolerance: float | None = None,
    max_iterations: int | None = None,
    carry: Carry | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    time_major: bool = False,
) -> Solved:
    """All steps at once by Newton's method; `unroll(backend="newton")`, with how it went.

    The carries solve s_t = f_t(s_{t-1}). Each iteration linearises all T equations at the carries
    so far and solves the linear recurrence Δ_t = (1 − k) J_t Δ_{t-1} + r_t by an associative scan,
    r being what is missing. The damping k of a row is 0 until its largest residual grows, is then
    doubled, from 1/16 up to 1, and halved again while it falls: with k = 1 every step is taken from
    the carry before it alone. After n iterations at least the first n steps are right whatever the
    inputs, so T are always enough, and a network that forgets takes a few: random tanh networks of
    16 units over 1,000 steps took 4 and 6 at gains .5 and .9. Where the largest Lyapunov exponent
    is positive it takes a good part of T, there 550 and 700 at gains 1.5 and 3, and a scan is
    faster; and rounding alone separates trajectories, so that this one, whose every step is right,
    may be another than that of a scan.

    Derivatives, of every mode and order, are those at the solution, by the same linear recurrence;
    with `jacobian="diagonal"` step by step.

    Work is O(T D³) and memory O(T D²) for a carry of D numbers in a row, and O(log T) turns; with
    `jacobian="diagonal"`, O(T D) of both besides the D columns of the Jacobians. It pays where a
    device has more cores than one batch can use, and D is small.

    Args:
        cell: any cell without noise whose carry is made of floats; not a `stack`.
        params: as from `cell.init`.
        inputs: `[B, T, *input_shape]`, as for `unroll`.
        jacobian: "full", or "diagonal" (quasi-Newton): more iterations, each of them cheap. For
            units that live mostly on their own, as gated ones do: the random networks above, over
            300 steps, took 51 and 287.
        tolerance: the largest residual allowed, for a carry with entries above 1 relative to the
            largest; 8 units in the last place of the carry's type if None.
        max_iterations: at which to stop all the same; T if None.
        carry: as for `unroll`, and so all that follow.
        lengths: [B].
        mask: [B, T].
        resets: [B, T].
        reverse: travel from the last step to the first.
        time_major: whether time comes first.

    Returns:
        `Solved(outputs, carry, carries, iterations, residual)`.

    Raises:
        TypeError: as `unroll`.
        ValueError: as `unroll`; when the cell is made of layers, or its carry has noise.

    Source:
        Lim et al. 2023, "Parallelizing non-linear sequential models over the sequence length";
        Gonzalez et al. 2024, "Towards scalable and stable parallelization of nonlinear RNNs".

    Examples:
        >>> import jax, jaxlstm as jl
        >>> cell = jl.gru(input_size=3, hidden_size=4)
        >>> params = cell.init(jax.random.key(0))
        >>> inputs = jax.random.normal(jax.random.key(1), (2, 1000, 3))
        >>> solved = jl.newton(cell, params, inputs)
        >>> int(solved.iterations.max()) < 20, float(solved.residual.max()) < 1e-6
        (True, True)
    """
    check_cell("cell", cell)
    check_choice("jacobian", jacobian, JACOBIANS)
    if tolerance is not None:
        if not isinstance(tolerance, int | float | np.floating) or not tolerance > 0:
            raise ValueError(f"`tolerance` must be a positive float, got {tolerance!r}")
        tolerance = float(tolerance)
    if max_iterations is not None:
        check_size("max_iterations", max_iterations)
    if cell.run is not None:
        raise ValueError(f"`cell` must be one layer: solve those of {cell!r} one after the other")
    settings: Any = Newton(jacobian, tolerance, max_iterations, report=True)
    (outputs, report), final, carries = unroll(
        cell,
        params,
        inputs,
        carry=carry,
        lengths=lengths,
        mask=mask,
        resets=resets,
        reverse=reverse,
        time_major=time_major,
        return_carries=True,
        backend=settings,
    )
    return Solved(outputs, final, carries, *report)
