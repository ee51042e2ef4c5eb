"""Bounds of gradients that need no product of Jacobians: of single steps, and of weights alone."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Params, check_choice, wide
from jaxlstm.gradients.jacobians import step_jacobians
from jaxlstm.gradients.theory import SLOPES
from jaxlstm.gradients.walk import walk


class Bounds(NamedTuple):
    """What `bounds` measures.

    Args:
        log_norms: [*batch, T], log ‖J_t‖₂ of every step; 0 where a step is not valid.
        log_products: [*batch, T + 1], the sum of `log_norms` from t to T: the bound
            log ‖∂state_T/∂state_t‖₂ ≤ Σ log ‖J_s‖₂, loose but without a product.
        vanishes: [*batch] bool, every step shrinks: ‖J_t‖₂ < 1 for all t, which suffices for
            vanishing gradients.
        may_explode: [*batch] bool, some step stretches: ‖J_t‖₂ > 1 for some t, which exploding
            gradients need and which proves nothing.
    """

    log_norms: Array
    log_products: Array
    vanishes: Array
    may_explode: Array


def bounds(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    carry: Carry | None = None,
    lengths: Array | None = None,
    path: Sequence[str] | None = None,
    cut: Sequence[str] | None = (),
) -> Bounds:
    """Bound the gradients of any cell on a sequence by the norms of its single steps.

    The cost is that of `jacobian_norms` without its products.

    Args:
        cell: a cell that can be stepped.
        params: its parameters.
        inputs: `[*batch, T, *input_shape]`.
        carry: the carry to begin with; the initial one if None.
        lengths: `[*batch]`, valid steps.
        path: names of parts of the carry, the others being held fixed; None for the whole.
        cut: names of gates, as `gates` gives them, that no gradient passes; None for all.

    Returns:
        `Bounds(log_norms, log_products, vanishes, may_explode)`.

    Raises:
        TypeError: when `cell` is no `Cell`.
        ValueError: when the cell cannot be stepped, a name is unknown, or `carry` brings noise.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.rnn(input_size=1, hidden_size=2,
        ...               recurrent_init=jl.initializers.orthogonal(scale=0.5))
        >>> params = cell.init(jax.random.key(0))
        >>> found = jl.gradients.bounds(cell, params, jnp.zeros((3, 1)))
        >>> bool(found.vanishes), jnp.exp(found.log_products).round(3)
        (True, Array([0.125, 0.25 , 0.5  , 1.   ], dtype=float32))
    """
    along = walk(cell, params, inputs, carry, lengths)

    def measure(carries: Carry, inputs: Array) -> Array:
        def norm(now: Any) -> Array:
            carry, x = now
            jacobian = step_jacobians(cell, params, carry, x, path, cut)
            return jnp.linalg.svd(jacobian, compute_uv=False)[0]

        return lax.map(norm, (carries, inputs))

    norms = along.rows(measure)(along.carries, along.inputs)
    logs = jnp.where(along.valid, jnp.log(norms), 0)
    sums = jnp.flip(jnp.cumsum(jnp.flip(logs, -1), -1), -1)
    return Bounds(
        logs,
        jnp.concatenate([sums, jnp.zeros_like(sums[..., :1], shape=(*sums.shape[:-1], 1))], -1),
        jnp.all((logs < 0) | ~along.valid, axis=-1),
        jnp.any(logs > 0, axis=-1),
    )


class WeightBound(NamedTuple):
    """What `weight_bound` says of h_t = φ(W x_t + U h_{t−1} + b).

    Args:
        slope: γ, the largest slope of φ.
        norm: [], ‖U‖₂, its largest singular value.
        log_rate: [], log(γ ‖U‖₂), nats per step: ‖∂h_T/∂h_t‖₂ ≤ e^{(T−t) log_rate}.
        vanishes: [] bool, γ ‖U‖₂ < 1: sufficient for vanishing.
        may_explode: [] bool, γ ‖U‖₂ > 1: necessary for exploding, and no proof of it.
    """

    slope: float
    norm: Array
    log_rate: Array
    vanishes: Array
    may_explode: Array


def weight_bound(recurrent_kernel: Array, activation: str = "tanh") -> WeightBound:
    """Bound the gradients of a simple RNN by its weights alone, whatever comes in.

    Bengio, Simard, Frasconi (1994) and Pascanu, Mikolov, Bengio (2013): vanishing is certain where
    the largest singular value of U is below 1 / γ, and exploding needs it above: 1 for tanh, 4 for
    the logistic function. Costs an SVD of [H, H].

    Args:
        recurrent_kernel: U [H, H].
        activation: φ by name, "tanh", "relu", "identity" or "sigmoid".

    Returns:
        `WeightBound(slope, norm, log_rate, vanishes, may_explode)`.

    Raises:
        ValueError: when the activation is unknown or the kernel not square.

    Examples:
        >>> import jax.numpy as jnp, jaxlstm as jl
        >>> found = jl.gradients.weight_bound(3 * jnp.eye(2), "sigmoid")
        >>> bool(found.vanishes), bool(found.may_explode), round(float(jnp.exp(found.log_rate)), 2)
        (True, False, 0.75)
    """
    check_choice("activation", activation, SLOPES)
    shape = jnp.shape(recurrent_kernel)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"`recurrent_kernel` must have shape [H, H], got {list(shape)}")
    slope = SLOPES[activation]
    norm = jnp.linalg.norm(wide(jnp.asarray(recurrent_kernel)), 2)
    rate = jnp.log(norm) + math.log(slope)
    return WeightBound(slope, norm, rate, rate < 0, rate > 0)
