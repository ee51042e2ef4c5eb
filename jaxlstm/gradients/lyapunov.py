"""Lyapunov exponents: the mean rates at which a driven network stretches its state space."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Params, check_cell, check_size
from jaxlstm.cells.vectors import flattened
from jaxlstm.gradients.trace import check_state, check_steps
from jaxlstm.unroll.checks import check_array


class Lyapunov(NamedTuple):
    """What `lyapunov_spectrum` measures.

    Args:
        exponents: [k], nats per step, the largest first.
        standard_errors: [k], from the spread over blocks of the sequence.
        carry: the carry after the last step.
        blocks: [blocks, k], the mean over each block, in the order of time: where these still
            drift, the network has not settled and `warmup` should be longer.
    """

    exponents: Array
    standard_errors: Array
    carry: Carry
    blocks: Array


def lyapunov_spectrum(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    count: int = 1,
    carry: Carry | None = None,
    warmup: int = 0,
    blocks: int = 10,
    key: Array | None = None,
) -> Lyapunov:
    """Measure the largest Lyapunov exponents of a cell driven by one sequence.

    k orthonormal directions are carried along, Q_{t+1} R_{t+1} = J_t Q_t, and the exponents are the
    means of log |diag R|. Positive: gradients explode at that rate; negative: they vanish.
    Benettin, Galgani, Giorgilli, Strelcyn (1980); for recurrent networks Engelken, Wolf, Abbott
    (2023), "Lyapunov spectra of chaotic recurrent neural networks".

    Each step costs itself, k directional derivatives and a QR decomposition of [S, k]; the memory
    is O(T k). Differentiable, with the memory of T steps: a direction that a step loses to rounding
    passes no gradient at that step. `jax.vmap` it over sequences or seeds.

    Args:
        cell: a cell that can be stepped.
        params: its parameters.
        inputs: `[T, *input_shape]`; zeros for the autonomous network, noise, or data.
        count: k, how many exponents; at most the numbers in the carry.
        carry: the carry to begin with; the initial one if None.
        warmup: steps at the beginning that are run but not counted.
        blocks: how many blocks the standard error is taken over.
        key: draws the first directions, the same ones at every call if None. They are none of the
            coordinate axes, of which one may never meet the direction that grows the most.

    Returns:
        `Lyapunov(exponents, standard_errors, carry, blocks)`, the largest first. A direction that
        is lost entirely counts with the logarithm of the smallest float at each step, not with
        −inf.

    Raises:
        TypeError: when `cell` is no `Cell`, or `warmup` no int.
        ValueError: when `inputs` are not one sequence, `warmup` is negative, there are fewer
            counted steps than blocks, more exponents than states, or noise in `carry`.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.rnn(input_size=1, hidden_size=2, activation="identity",
        ...               recurrent_init=jl.initializers.orthogonal(scale=0.5))
        >>> params = cell.init(jax.random.key(0))
        >>> found = jl.gradients.lyapunov_spectrum(cell, params, jnp.zeros((100, 1)), count=2)
        >>> found.exponents.round(4)  # log 0.5, twice
        Array([-0.6931, -0.6931], dtype=float32)
    """
    check_cell("cell", cell)
    check_steps(cell)
    check_size("count", count)
    check_size("blocks", blocks)
    if isinstance(warmup, bool) or not isinstance(warmup, int):
        raise TypeError(f"`warmup` must be an int, got {warmup!r}")
    check_state(carry)
    if warmup < 0:
        raise ValueError(f"`warmup` must not be negative, got {warmup}")
    inputs = check_array("inputs", inputs)
    if inputs.ndim != 1 + len(cell.input_shape):
        shape = ", ".join("any" if size is None else str(size) for size in cell.input_shape)
        raise ValueError(
            f"`inputs` must be one sequence, [T, {shape}], got {list(inputs.shape)}: use `jax.vmap`"
        )
    counted = inputs.shape[0] - warmup
    if counted < blocks:
        raise ValueError(f"`inputs` must have at least {warmup + blocks} steps, got {len(inputs)}")
    carry = cell.initial_carry(params) if carry is None else carry
    flat, restore = flattened(carry)
    if count > flat.size:
        raise ValueError(f"`count` must be at most {flat.size}, the size of the carry, got {count}")
    key = jax.random.key(0, impl="threefry2x32") if key is None else key
    draw = functools.partial(jax.random.normal, shape=flat.shape, dtype=flat.dtype)
    # Each direction by its number, so that fewer exponents are the first of more.
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(count))
    first = jnp.linalg.qr(jax.vmap(draw, out_axes=1)(keys))[0]

    def step(state: tuple[Array, Array], x: Array) -> tuple[Any, Array]:
        flat, directions = state

        def forward(flat: Array) -> Array:
            return flattened(cell.step(params, restore(flat), x)[0])[0]

        flat, derivative = jax.linearize(forward, flat)
        turned = jax.vmap(derivative, in_axes=1, out_axes=1)(directions)
        directions, growth = _orthonormal(turned)
        return (flat, directions), growth

    (flat, _), growth = lax.scan(step, (flat, first), inputs)
    used = growth[inputs.shape[0] - counted // blocks * blocks :]
    means = jnp.mean(used.reshape(blocks, -1, count), axis=1)
    errors = jnp.std(means, axis=0, ddof=1) / blocks**0.5 if blocks > 1 else jnp.zeros(count)
    exponents = jnp.mean(means, axis=0)
    order = jnp.argsort(-exponents)
    return Lyapunov(exponents[order], errors[order], restore(flat), means[:, order])


@jax.custom_jvp
def _orthonormal(matrix: Array) -> tuple[Array, Array]:
    """Orthonormal columns that span those of a matrix, and the logarithm of each one's growth."""
    q, r = jnp.linalg.qr(matrix)
    return q, _growth(r)


@_orthonormal.defjvp
def _orthonormal_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    """That of QR, as if each column that is lost in those before it were a constant: its own q.

    The derivative of QR itself divides by what is left of such a column, which is zero or noise.
    """
    (matrix,), (change,) = primals, tangents
    q, r = jnp.linalg.qr(matrix)
    # Of what depends on the columns before it 5 to 40 ε are left, in 8 to 256 dimensions.
    rounding = 16 * math.sqrt(len(matrix)) * jnp.finfo(r.dtype).eps
    lost = (jnp.abs(jnp.diagonal(r)) <= rounding * jnp.linalg.norm(matrix, axis=0))[None]
    kept = jnp.where(lost, jnp.eye(r.shape[0], dtype=r.dtype), r)
    share = lax.linalg.triangular_solve(kept, jnp.where(lost, 0, change))
    inner = q.T @ share
    lower = jnp.tril(inner, -1)
    return (q, _growth(r)), (share + q @ (lower - lower.T - inner), jnp.diagonal(inner))


def _growth(r: Array) -> Array:
    return jnp.log(jnp.maximum(jnp.abs(jnp.diagonal(r)), jnp.finfo(r.dtype).tiny))
