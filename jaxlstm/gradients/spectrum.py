"""All singular values of long products of Jacobians."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Params, check_size
from jaxlstm.gradients.jacobians import state_size, step_jacobians
from jaxlstm.gradients.walk import walk

FLOOR = -1e30  # what stands for the logarithm of zero while zeros are multiplied
SWEEPS = 40


class Spectrum(NamedTuple):
    """What `jacobian_spectrum` measures.

    Args:
        steps: [K] int, the times t, ascending, the first being 0.
        log_values: [*batch, K, S], the natural logarithms of the singular values of
            ∂state_T/∂state_t, the largest first; −inf for zero, where rounding left it zero.
    """

    steps: Array
    log_values: Array


def jacobian_spectrum(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    carry: Carry | None = None,
    lengths: Array | None = None,
    path: Sequence[str] | None = None,
    cut: Sequence[str] | None = (),
    every: int | None = None,
) -> Spectrum:
    """Measure all singular values of ∂state_T/∂state_t, over any number of steps.

    The product is never formed. It is kept as U diag(e^d) V, U orthogonal and the rows of V of
    length 1, by a QR decomposition at each step whose columns are sorted by size, so that singular
    values may lie thousands of orders of magnitude apart. At the end the rows are made orthogonal
    by one-sided Jacobi rotations, whose angles are computed from ratios of scales.

    What is found is the spectrum of Jacobians each of which is rounded by about ε ‖J_t‖, ε = 1e-7
    in float32. Each value keeps its own digits as far as such a change leaves it its own: where the
    steps are well conditioned. A singular step leaves what rounding leaves and not always a zero
    (3e-19 in float64 and 6e-11 in float32, of a product of 11 steps whose largest value is 2e4).
    Steps far from normal cost more: of 40 times ½ I + 10 N, N [5, 5] strictly upper triangular with
    Gaussian entries, the largest logarithm is −1.1 in float32 where it should be −4.5; in float64
    it is right, and so is `jacobian_norms` in both, which multiplies without turning.

    The cost of a step is S directional derivatives of it, a product and a QR decomposition of
    [S, S]; of each t that is asked for about 10 S³ besides. Memory O(T S + S²).

    Args:
        cell: a cell that can be stepped.
        params: its parameters.
        inputs: `[*batch, T, *input_shape]`.
        carry: the carry to begin with; the initial one if None.
        lengths: `[*batch]`, valid steps; T is then each sequence's own last valid step.
        path: names of parts of the carry, the others being held fixed; None for the whole.
        cut: names of gates, as `gates` gives them, that no gradient passes; None for all.
        every: measure at t = 0 and every so many steps before T too; at t = 0 alone if None.

    Returns:
        `Spectrum(steps, log_values)`.

    Raises:
        TypeError: when `cell` is no `Cell`.
        ValueError: when the cell cannot be stepped, a name is unknown, or `carry` brings noise.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstm(input_size=1, hidden_size=2, forget_bias=0.0)
        >>> params = cell.init(jax.random.key(0))
        >>> found = jl.gradients.jacobian_spectrum(
        ...     cell, params, jnp.zeros((4000, 1)), path=("cell",), every=2000)
        >>> found.steps, (found.log_values / jnp.log(10.0)).round()  # 10^-1204 at t = 0
        (Array([   0, 2000], dtype=int32), Array([[-1204., -1204.],
               [ -602.,  -602.]], dtype=float32))

    References:
        Pascanu, Mikolov, Bengio (2013), "On the difficulty of training recurrent neural networks";
        Demmel et al. (1999), "Computing the singular value decomposition with high relative
        accuracy", for products with a diagonal; Brent & Luk (1985) for the order of the rotations.
    """
    along = walk(cell, params, inputs, carry, lengths)
    length = along.valid.shape[-1]
    stride = max(length, 1)
    if every is not None:
        check_size("every", every)
        stride = min(every, stride)
    chunks = max(1, -(-length // stride))
    size, dtype = state_size(cell, params, path)

    def measure(carries: Carry, inputs: Array, valid: Array) -> Array:
        def cut_up(leaf: Array) -> Array:
            """Into chunks that end at T; what is missing before t = 0 is a copy, not valid."""
            if not length:
                return jnp.zeros((1, 0, *leaf.shape[1:]), leaf.dtype)
            missing = chunks * stride - length
            first = jnp.broadcast_to(leaf[:1], (missing, *leaf.shape[1:]))
            return jnp.concatenate([first, leaf]).reshape(chunks, stride, *leaf.shape[1:])

        steps = jax.tree.map(cut_up, (carries, inputs))
        known = jnp.concatenate([jnp.zeros(chunks * stride * (length > 0) - length, bool), valid])

        def back(state: Any, now: Any) -> tuple[Any, None]:
            (carry, x), is_valid = now
            jacobian = step_jacobians(cell, params, carry, x, path, cut)
            return _where(is_valid, _multiply(jacobian.T, *state), state), None

        def chunk(state: Any, now: Any) -> tuple[Any, Array]:
            state, _ = lax.scan(back, state, now, reverse=True)
            return state, _log_singular_values(state[1], state[2])

        eye = jnp.eye(size, dtype=dtype)
        start = eye, jnp.zeros(size, dtype), eye
        now = steps, known.reshape(chunks, -1)
        return lax.scan(chunk, start, now, reverse=True)[1]

    logs = along.rows(measure)(along.carries, along.inputs, along.valid)
    times = np.maximum(length - stride * np.arange(chunks, 0, -1), 0)
    return Spectrum(jnp.asarray(times), logs)


def effective_rank(log_values: Array) -> Array:
    """The effective rank e^H of a spectrum, H the entropy of the singular values' shares.

    Between 1, where one direction is all that gets through, and S, where all do alike. Roy &
    Vetterli (2007), "The effective rank: a measure of effective dimensionality".

    Args:
        log_values: `[…, S]`, logarithms of singular values, as `jacobian_spectrum` gives them.

    Returns:
        `[…]`; 0 where nothing gets through, NaN where a value is.

    Examples:
        >>> import jax.numpy as jnp, jaxlstm as jl
        >>> jl.gradients.effective_rank(jnp.array([[0.0, 0.0, 0.0], [0.0, -jnp.inf, -jnp.inf]]))
        Array([3., 1.], dtype=float32)
    """
    none = jnp.max(log_values, axis=-1, keepdims=True) == -jnp.inf
    logs = jax.nn.log_softmax(jnp.where(none, 0, log_values), axis=-1)
    shares = jnp.exp(logs)
    entropy = -jnp.sum(jnp.where(shares == 0, 0, shares * jnp.maximum(logs, FLOOR)), axis=-1)
    return jnp.where(none[..., 0], 0, jnp.exp(entropy))


def _where(flag: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), yes, no)


def _multiply(matrix: Array, u: Array, d: Array, v: Array) -> tuple[Array, Array, Array]:
    """`matrix @ u @ diag(e^d) @ v` in the same form, d descending up to a factor of about one."""
    columns = matrix @ u
    order = jnp.argsort(-(d + _log(jnp.sqrt(jnp.sum(columns**2, axis=0)))))
    columns, d, v = columns[:, order], d[order], v[order]
    q, r = jnp.linalg.qr(columns)
    logs = jnp.log(jnp.abs(r)) + d[None]
    rows = jnp.maximum(0.5 * jax.nn.logsumexp(2 * logs, axis=1), FLOOR)
    scaled = jnp.sign(r) * jnp.exp(logs - rows[:, None])
    return q, *_unit_rows(rows, scaled @ v)


def _unit_rows(d: Array, v: Array) -> tuple[Array, Array]:
    lengths = jnp.sqrt(jnp.sum(v * v, axis=1))
    units = v / jnp.where(lengths > 0, lengths, 1)[:, None]
    return jnp.maximum(d + _log(lengths), FLOOR), units


def _log(x: Array) -> Array:
    return jnp.maximum(jnp.log(x), FLOOR)


def _log_singular_values(d: Array, v: Array) -> Array:
    """Logarithms of the singular values of diag(e^d) v, v with rows of length 1, descending.

    Jacobi: two rows at a time are turned until they are orthogonal. Of rows of scales b ≥ s with
    ρ = e^{s−b} and cosine g the angle is tan θ = ρ τ, τ = 2g / (1 − ρ² + √((1 − ρ²)² + 4ρ²g²)).
    """
    size = d.shape[0]
    rounds = jnp.asarray(_rounds(size))
    odd = size % 2
    d = jnp.concatenate([d, jnp.full(odd, FLOOR, d.dtype)])
    v = jnp.concatenate([v, jnp.zeros((odd, v.shape[1]), v.dtype)])

    def turn(state: tuple[Array, Array, Array], pairs: Array) -> tuple[Any, None]:
        d, v, worst = state
        swap = d[pairs[:, 0]] < d[pairs[:, 1]]
        big = jnp.where(swap, pairs[:, 1], pairs[:, 0])
        small = jnp.where(swap, pairs[:, 0], pairs[:, 1])
        ratio = jnp.exp(d[small] - d[big])
        cosine = jnp.sum(v[big] * v[small], axis=1)
        gap = 1 - ratio * ratio
        below = gap + jnp.sqrt(gap * gap + 4 * (ratio * cosine) ** 2)
        tau = 2 * cosine / jnp.where(below > 0, below, 1)
        large = v[big] + (ratio * ratio * tau)[:, None] * v[small]
        little = v[small] - tau[:, None] * v[big]
        shrink = -0.5 * jnp.log1p((ratio * tau) ** 2)
        d_big, v_big = _unit_rows(d[big] + shrink, large)
        d_small, v_small = _unit_rows(d[small] + shrink, little)
        d = d.at[big].set(d_big).at[small].set(d_small)
        v = v.at[big].set(v_big).at[small].set(v_small)
        return (d, v, jnp.maximum(worst, jnp.max(jnp.abs(cosine)))), None

    def sweep(state: Any) -> Any:
        count, d, v, _ = state
        (d, v, worst), _ = lax.scan(turn, (d, v, jnp.zeros((), d.dtype)), rounds)
        return count + 1, d, v, worst

    enough = 4 * math.sqrt(size) * jnp.finfo(d.dtype).eps
    begin = 0, d, v, jnp.ones((), d.dtype)
    _, d, _, _ = lax.while_loop(lambda s: (s[0] < SWEEPS) & (s[3] > enough), sweep, begin)
    found = -jnp.sort(-d)[:size]
    return jnp.where(found <= FLOOR / 2, -jnp.inf, found)


def _rounds(size: int) -> np.ndarray:
    """Every pair of rows once, [rounds, pairs, 2], the pairs of a round having no row in common."""
    even = size + size % 2
    ring = np.arange(even)
    rounds = []
    for _ in range(even - 1):
        rounds.append(np.stack([ring[: even // 2], ring[::-1][: even // 2]], axis=1))
        ring = np.concatenate([ring[:1], np.roll(ring[1:], 1)])
    return np.stack(rounds)
