"""Terms of a loss that keep gradients from vanishing or exploding.

Clipping, the other intervention, is a matter of the optimiser: `optax.clip_by_global_norm` and
`optax.clip`. Initialisers are in `jaxlstm.initializers`: `orthogonal`, `identity`, `chrono`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Params, check_cell
from jaxlstm.cells.vectors import flattened
from jaxlstm.gradients.flow import flow
from jaxlstm.gradients.lyapunov import lyapunov_spectrum
from jaxlstm.gradients.trace import step_apart
from jaxlstm.gradients.walk import walk
from jaxlstm.unroll.checks import check_array


def norm_penalty(
    cell: Cell,
    params: Params,
    inputs: Array,
    loss: Callable[[Any], Array],
    *,
    carry: Carry | None = None,
    lengths: Array | None = None,
    masked_outputs: str = "zero",
    exact: bool = False,
) -> Array:
    """The regulariser of Pascanu, Mikolov, Bengio (2013), which asks error signals to keep norm.

        Ω = Σ_t (‖a_t J_t‖ / ‖δ_t‖ − 1)²,   J_t = ∂state_t/∂state_{t−1}

    summed over the steps that an error reaches, and the mean over the batch. The state is the whole
    carry. δ_t = dL/dstate_t are the adjoints that `flow` measures, and a_t the gradients by each
    part of the state with the other parts of the same step held. Costs about two training steps.

    Where the state has one part, as in a simple RNN or a GRU, a_t is δ_t and this is the Ω of the
    paper. Where one part is computed from another, it is not: of an LSTM δ_t counts what goes
    c_t → h_t twice, in δh_t and in δc_t = a_c + δh_t ⊙ o_t ⊙ φ'(c_t), while a_t J_t, what comes
    back through step t, counts it once. An error that is in c alone, as along the carousel, has to
    keep its norm; one that enters at h_t has to grow by ‖δ_t‖ / ‖a_t‖ on its first step back.

    Args:
        cell: a cell that can be stepped.
        params: its parameters; differentiate with respect to them.
        inputs: `[*batch, T, *input_shape]`.
        loss: the function of the outputs of `unroll`, without this penalty.
        carry: the carry to begin with; the initial one if None.
        lengths: `[*batch]`, valid steps.
        masked_outputs: what the loss sees behind a sequence's end, as `unroll` takes it.
        exact: whether the gradient of Ω is the true one. As in the paper, it is not: states and δ
            are taken for constants, so that only what the weights do to J_t counts.

    Returns:
        Ω, [].

    Raises:
        TypeError: when `cell` is no `Cell`, or `loss` no function to a floating point number.
        ValueError: when the cell cannot be stepped, the loss is no scalar, or `carry` brings noise.

    Examples:
        A linear unit with w = ½ halves the error at each of 3 steps:

        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.rnn(input_size=1, hidden_size=1, activation="identity", use_bias=False)
        >>> params = jl.RNNParams(jnp.zeros((1, 1)), jnp.array([[0.5]]), None)
        >>> last = lambda outputs: outputs[-1, 0]
        >>> penalty = jax.value_and_grad(jl.gradients.norm_penalty, argnums=1)
        >>> value, gradient = penalty(cell, params, jnp.zeros((3, 1)), last)
        >>> float(value), float(gradient.recurrent_kernel[0, 0])  # 3 · ¼, and 3 · 2 · (½ − 1)
        (0.75, -3.0)
    """
    along = walk(cell, params, inputs, carry, lengths)
    found = flow(
        cell, params, inputs, loss, carry=carry, lengths=lengths, masked_outputs=masked_outputs
    ).gradients
    states, errors = along.carries, found
    if not exact:
        states, errors = lax.stop_gradient((states, errors))

    def ratio(carry: Carry, x: Array, error: Carry, valid: Array) -> Array:
        seen, _ = cell.step(params, carry, x)

        def step(parts: list[Array]) -> list[Array]:
            rest = iter(parts)
            whole = jax.tree.map(
                lambda e, c: c if e is None else next(rest), error, carry, is_leaf=_is_none
            )
            new = step_apart(cell, params, whole, x, seen)
            return _beside(error, new)

        given = jax.tree.leaves(error)
        # Scale cancels, and without it squares of errors below 1e-19 would be zero in float32.
        largest = lax.stop_gradient(_largest(given))
        unit = jnp.where(largest > 0, largest, 1)
        given = [leaf / unit.astype(leaf.dtype) for leaf in given]
        back = jax.vjp(step, _beside(error, carry))[1](given)[0]
        before, after = _square(back), _square(given)
        reached = valid & (largest != 0)
        # Where no error arrives the ratio is 0 / 0; roots are kept off zero for their derivative.
        safe = jnp.where(reached & (before != 0), before / jnp.where(reached, after, 1), 1)
        kept = jnp.where(before != 0, jnp.sqrt(safe), 0)
        return jnp.where(reached, (kept - 1) ** 2, 0)

    for _ in range(along.axis + 1):
        ratio = jax.vmap(ratio)
    omega = ratio(states, along.inputs, errors, along.valid)
    return jnp.mean(jnp.sum(omega, axis=-1))


def flossing(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    count: int,
    carry: Carry | None = None,
    warmup: int = 0,
    key: Array | None = None,
) -> Array:
    """Gradient flossing: the mean square of the first Lyapunov exponents, (1/k) Σ λ_i².

    Pushed to zero before and during training it keeps k directions along which gradients neither
    vanish nor explode. Engelken (2023), "Gradient flossing: improving gradient descent through
    dynamic control of Jacobians". Costs a `lyapunov_spectrum` and its backward pass, with the
    memory of T steps.

    Args:
        cell: a cell that can be stepped.
        params: its parameters; differentiate with respect to them.
        inputs: `[*batch, T, *input_shape]`, what drives the network.
        count: k, how many exponents.
        carry: the carry to begin with, `[*batch, …]`; the initial one if None.
        warmup: steps at the beginning that are run but not counted.
        key: draws the first directions, the same ones at every call if None.

    Returns:
        The mean over the exponents and the batch, [].

    Raises:
        TypeError: when `cell` is no `Cell`, or `warmup` no int.
        ValueError: when the cell cannot be stepped, `warmup` is negative, no step is left to be
            counted, there are more exponents than states, or `carry` brings noise.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.rnn(input_size=1, hidden_size=2, activation="identity",
        ...               recurrent_init=jl.initializers.orthogonal(scale=0.5))
        >>> params = cell.init(jax.random.key(0))
        >>> found = jl.gradients.flossing(cell, params, jnp.zeros((10, 1)), count=2)
        >>> round(float(found), 4), round(float(jnp.log(2.0) ** 2), 4)
        (0.4805, 0.4805)
    """
    check_cell("cell", cell)
    inputs = check_array("inputs", inputs)
    batch = inputs.ndim - len(cell.input_shape) - 1

    def measure(inputs: Array, carry: Carry | None) -> Array:
        found = lyapunov_spectrum(
            cell, params, inputs, count=count, carry=carry, warmup=warmup, blocks=1, key=key
        )
        return jnp.mean(found.exponents**2)

    for _ in range(batch):
        measure = jax.vmap(measure)
    return jnp.mean(measure(inputs, carry))


def _is_none(node: Any) -> bool:
    return node is None


def _beside(error: Carry, carry: Carry) -> list[Array]:
    """The leaves of a carry that have an error."""
    errors = jax.tree.leaves(error, is_leaf=_is_none)
    return [c for e, c in zip(errors, jax.tree.leaves(carry), strict=True) if e is not None]


def _largest(leaves: list[Array]) -> Array:
    return jnp.max(jnp.abs(flattened(leaves)[0]), initial=0)


def _square(leaves: list[Array]) -> Array:
    return jnp.sum(jnp.square(flattened(leaves)[0]))
