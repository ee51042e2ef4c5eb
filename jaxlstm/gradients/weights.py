"""Which time step teaches which weight: the gradient of every parameter, step by step."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import (
    Carry,
    Cell,
    Params,
    check_cell,
    check_keywords,
    check_size,
    described,
)
from jaxlstm.cells.vectors import Layout, apart, numbers, side_by_side
from jaxlstm.gradients.flow import check_backend, norm, scalar
from jaxlstm.unroll import Unrolled, unroll
from jaxlstm.unroll.checks import check_array
from jaxlstm.unroll.engine import without_invalid

ALONG_TIME = ("mask", "resets")
BATCHED = ("carry", "lengths", *ALONG_TIME)


class WeightFlow(NamedTuple):
    """What `weight_flow` measures.

    Args:
        steps: what each step contributes to the gradient of every weight, a pytree like the
            parameters with leaves `[T, *shape]`.
        initial: what the initial carry contributes, like the parameters; zero unless it is learnt.
            The sum of `steps` over time and of this is the gradient.
        loss: the loss.
    """

    steps: Params
    initial: Params
    loss: Array


def weight_flow(
    cell: Cell,
    params: Params,
    inputs: Array,
    loss: Callable[[Any], Array],
    *,
    time_major: bool = False,
    **options: Any,
) -> WeightFlow:
    """Measure what each time step contributes to the gradient of every weight.

    A weight is shared by all steps, and its gradient is a sum over them,

        dL/dW = Σ_t ∂L/∂W_t,   W_t = W being the copy that step t uses.

    The summands say which steps teach a weight, and which a long sequence cannot teach: where
    gradients vanish, the early ones are zero. One forward and one backward pass, at about the cost
    of a training step, and the memory of T copies of the parameters, summed over the batch; not of
    B T.

    Args:
        cell: any cell, as `flow` takes it.
        params: its parameters.
        inputs: `[*batch, T, *input_shape]`.
        loss: a function of the outputs of `unroll` to a scalar.
        time_major: whether time leads in inputs, outputs, masks and resets.
        **options: those of `unroll`, such as `carry`, `lengths`, `mask`, `resets`, `reverse`;
            `backend` must be "auto" or "scan", since each step is looked into.

    Returns:
        `WeightFlow(steps, initial, loss)`.

    Raises:
        TypeError: when `cell` is no `Cell`, `loss` no function to a floating point number, or an
            option is none of `unroll`.
        ValueError: when the loss is no scalar, as `unroll` does, or when a `key` comes with a
            batch, whose rows would then see other noise than in training.

    Examples:
        A linear unit x_t = w x_{t−1}: each of its 4 steps contributes w³ x_0 to 4 w³ x_0.

        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.rnn(input_size=1, hidden_size=1, activation="identity", use_bias=False)
        >>> params = jl.RNNParams(jnp.zeros((1, 1)), jnp.array([[0.5]]), None)
        >>> carry, last = jl.RNNCarry(jnp.ones(1)), lambda outputs: outputs[-1, 0]
        >>> found = jl.gradients.weight_flow(cell, params, jnp.zeros((4, 1)), last, carry=carry)
        >>> found.steps.recurrent_kernel.ravel()
        Array([0.125, 0.125, 0.125, 0.125], dtype=float32)

    References:
        Werbos (1990), "Backpropagation through time: what it does and how to do it"; Pascanu,
        Mikolov, Bengio (2013), whose temporal components these are.
    """
    check_cell("cell", cell)
    check_keywords("weight_flow", options, unroll)
    check_backend(options)
    inputs = check_array("inputs", inputs)
    batch = inputs.ndim - len(cell.input_shape) - 1
    if batch and options.get("key") is not None:
        raise ValueError("`key` must be None where there is a batch, got a key")
    jax.eval_shape(lambda: unroll(cell, params, inputs, time_major=time_major, **options))
    rows = {name: options.pop(name, None) for name in BATCHED}
    rows = {
        name: value if name == "carry" else jnp.asarray(value)
        for name, value in rows.items()
        if value is not None
    }
    if time_major:
        inputs = jnp.moveaxis(inputs, 0, batch)
        for name in set(rows) & set(ALONG_TIME):
            rows[name] = jnp.moveaxis(rows[name], 0, batch)
    length = inputs.shape[batch]

    def of_row(timed: Params, inputs: Array, rows: dict[str, Any]) -> Any:
        return _unroll(cell, timed, inputs, **rows, **options).outputs

    for _ in range(batch):
        of_row = jax.vmap(of_row, in_axes=(None, 0, 0))

    def total(timed: Params) -> Array:
        outputs = of_row(timed, inputs, rows)
        if time_major:
            outputs = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, batch, 0), outputs)
        return scalar(loss, outputs)

    timed = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf[None], jnp.zeros((length, *leaf.shape), leaf.dtype)]),
        params,
    )
    value, found = jax.value_and_grad(total)(timed)
    initial = jax.tree.map(lambda leaf: leaf[0], found)
    return WeightFlow(jax.tree.map(lambda leaf: leaf[1:], found), initial, value)


def gate_norms(contributions: Params, gates: int) -> Params:
    """Take the norms of contributions gate by gate.

    Args:
        contributions: `steps` of `weight_flow`, or a part of it, of leaves `[T, …, gates · H]`,
            whose last axis is made of blocks, one for each gate, as in the kernels of this library.
        gates: how many blocks: 4 for an LSTM (i, f, g, o), 3 for a GRU (r, z, n), `cell.gates`.

    Returns:
        A pytree alike, of leaves `[T, gates]`.

    Raises:
        ValueError: when a last axis does not divide into so many blocks.

    Examples:
        >>> import jax.numpy as jnp, jaxlstm as jl
        >>> contributions = jnp.array([[[3.0, 1.0], [4.0, 0.0]]])  # one step of a kernel [2, 2]
        >>> jl.gradients.gate_norms(contributions, 2)
        Array([[5., 1.]], dtype=float32)
    """
    check_size("gates", gates)

    def norms(leaf: Array) -> Array:
        if leaf.ndim < 2 or leaf.shape[-1] % gates:
            raise ValueError(
                f"`contributions` must have leaves [T, …, {gates} · H], got {list(leaf.shape)}"
            )
        blocks = leaf.reshape(leaf.shape[0], -1, gates, leaf.shape[-1] // gates)
        return norm(blocks, (1, 3))

    return jax.tree.map(norms, contributions)


def _unroll(cell: Cell, timed: Params, inputs: Array, **options: Any) -> Unrolled:
    """`unroll` one sequence whose parameters' leaves hold the weights, then a nudge for each step.

    Gradients with respect to the weights themselves pass through the initial carry alone.
    """
    if cell.whole and cell.run is not None:
        inputs = without_invalid(cell, inputs, **options)
        first = {name: options.pop(name, None) for name in ("carry", "key")}
        reverse = options.pop("reverse", False)

        def inner(cell: Cell, timed: Params, inputs: Array, **given: Any) -> Unrolled:
            return _unroll(cell, timed, inputs, **{**options, **given})

        return Unrolled(*cell.run(inner, timed, inputs, reverse=reverse, **first))
    leaves, structure = jax.tree.flatten(timed)
    params = structure.unflatten([leaf[0] for leaf in leaves])
    vectors, layout = side_by_side([inputs, *(leaf[1:] for leaf in leaves)], 1)
    return unroll(_nudged(cell, layout), params, vectors, **options)


@described
def _nudged(cell: Cell, layout: Layout) -> Cell:
    """The cell with its input and a nudge for each weight side by side in one long vector."""

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Any]:
        x, *nudges = apart(x, layout)
        leaves, structure = jax.tree.flatten(params)
        now = [lax.stop_gradient(leaf) + nudge for leaf, nudge in zip(leaves, nudges, strict=True)]
        return cell.step(structure.unflatten(now), carry, x)

    size = sum(itertools.starmap(numbers, layout))
    return Cell(cell.init, cell.initial_carry, step, (size,), stochastic=cell.stochastic)
