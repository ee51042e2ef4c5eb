"""How large the gradient of a loss is at every state of a recurrent network, in one backward pass.

The instrument is autodiff itself. Each step of the cell is traced, and a zero is added to every
part of the carry at the very place where that part is computed, so that all that follows sees it:
the output and the layers above at the same step, and every later step. The gradient with respect
to these zeros is the adjoint of the state as backpropagation through time defines it.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.cells.base import (
    Carry,
    Cell,
    Params,
    check_cell,
    check_choice,
    check_keywords,
    described,
)
from jaxlstm.cells.vectors import Layout, apart, numbers, real, side_by_side
from jaxlstm.gradients.trace import is_inexact, step_with_probes
from jaxlstm.unroll import Unrolled, unroll
from jaxlstm.unroll.checks import check_array
from jaxlstm.unroll.engine import without_invalid


class Flow(NamedTuple):
    """What `flow` measures.

    Args:
        norms: the Euclidean norm of the adjoint of every part of the carry after every step, a
            pytree like the carry with leaves `[*batch, T]`.
        gradients: the adjoints themselves, leaves `[*batch, T, …]`.
        loss: the loss.
    """

    norms: Carry
    gradients: Carry
    loss: Array


def flow(
    cell: Cell,
    params: Params,
    inputs: Array,
    loss: Callable[[Any], Array],
    *,
    time_major: bool = False,
    **options: Any,
) -> Flow:
    """Measure ‖∂L/∂h_t‖, ‖∂L/∂c_t‖, … for every step t of any cell under any loss.

    The gradients are total: for an LSTM they are the δ of backpropagation through time,

        δh_t = ∂L/∂output_t + (what comes back through step t + 1)
        δc_t = δh_t ⊙ o_t ⊙ φ'(c_t) + δc_{t+1} ⊙ f_{t+1} (+ peepholes)

    so δc_t includes the path c_t → h_t of the same step. One forward and one backward pass, at
    about the cost of a training step, with a carry's worth of memory more for each time step. A
    masked step makes no state of its own, so its gradients are zero. Every part keeps its own type:
    the adjoint of a float32 memory is float32, whatever the type of the hidden state. A branch, a
    loop or a function with a derivative of its own within a step is one operation: of a part that
    is computed in one, the adjoint is what comes from outside of it.

    Args:
        cell: any cell, also a `stack` (whose lower layers' adjoints include the way up) or a
            `bidirectional`.
        params: its parameters.
        inputs: `[*batch, T, *input_shape]`, as `unroll` takes them.
        loss: a function of the outputs of `unroll` to a scalar.
        time_major: whether time leads; it then leads in the results too: `[T, *batch]`.
        **options: those of `unroll`, such as `carry`, `lengths`, `mask`, `resets`, `reverse`, but
            not `return_carries` and `include_initial`, since no carries are given back; `backend`
            must be "auto" or "scan", since each step is looked into.

    Returns:
        `Flow(norms, gradients, loss)`. A part of the carry that is no floating-point array (a
        random key) is left out as None. By a complex part z the gradient is that of `jax.grad`,
        ∂L/∂Re z − i ∂L/∂Im z.

    Raises:
        TypeError: when `cell` is no `Cell`, `loss` no function to a floating point number, or an
            option is none of `unroll`.
        ValueError: when the loss is no scalar, carries are asked for, or as `unroll` does.

    Examples:
        A simple RNN without inputs and with recurrent weight w forgets as w^n:

        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.rnn(input_size=1, hidden_size=1, activation="identity",
        ...               recurrent_init=jl.initializers.identity(scale=0.5))
        >>> params = cell.init(jax.random.key(0))
        >>> last = lambda outputs: outputs[-1, 0]
        >>> jl.gradients.flow(cell, params, jnp.zeros((4, 1)), last).norms.hidden
        Array([0.125, 0.25 , 0.5  , 1.   ], dtype=float32)

    References:
        Werbos (1990), "Backpropagation through time: what it does and how to do it"; Hochreiter
        (1991); Bengio, Simard, Frasconi (1994), "Learning long-term dependencies with gradient
        descent is difficult".
    """
    check_cell("cell", cell)
    check_keywords("flow", options, unroll)
    for name in ("return_carries", "include_initial"):
        if options.get(name):
            raise ValueError(
                f"`{name}` must be False, since `flow` gives no carries, got {options[name]!r}"
            )
    check_backend(options)
    inputs = check_array("inputs", inputs)
    options = {"time_major": time_major, **options}
    templates: list[list[jax.ShapeDtypeStruct]] = []

    def record(template: list[jax.ShapeDtypeStruct]) -> list[Array]:
        templates.append(template)
        return [jnp.zeros(leaf.shape, leaf.dtype) for leaf in template]

    jax.eval_shape(lambda: _visit(cell, params, inputs, options, record))
    zeros = [[jnp.zeros(leaf.shape, leaf.dtype) for leaf in template] for template in templates]

    def total(probes: list[list[Array]]) -> Array:
        rest = iter(probes)
        outputs, _ = _visit(cell, params, inputs, options, lambda template: next(rest))
        return scalar(loss, outputs)

    value, found = jax.value_and_grad(total)(zeros)
    rest = iter(found)
    _, gradients = _visit(cell, params, inputs, options, lambda template: next(rest), dry=True)
    leading = inputs.ndim - len(cell.input_shape)
    norms = jax.tree.map(lambda leaf: norm(leaf, tuple(range(leading, leaf.ndim))), gradients)
    return Flow(norms, gradients, value)


def norm(array: Array, axes: tuple[int, ...]) -> Array:
    """The Euclidean norm over some axes, as far down and up as floats reach."""
    # Scaled, since squares of what has vanished below 1e-19 are zero in float32.
    largest = jnp.max(jnp.abs(array), axis=axes, keepdims=True, initial=0)
    unit = lax.stop_gradient(jnp.where((largest > 0) & (largest < jnp.inf), largest, 1))
    scaled = real(array[..., None]) / unit[..., None]
    return jnp.sqrt(jnp.sum(jnp.square(scaled), axis=(*axes, -1))) * jnp.squeeze(unit, axes)


def scalar(loss: Callable[[Any], Array], outputs: Any) -> Array:
    """Take a loss of the outputs; refuse one that is no function, or gives no one real number."""
    if not callable(loss):
        raise TypeError(f"`loss` must be a function of the outputs, got {type(loss).__name__}")
    given = loss(outputs)
    try:
        value = jnp.asarray(given)
    except (TypeError, ValueError):
        raise TypeError(f"`loss` must give a scalar, got {type(given).__name__}") from None
    if value.shape != ():
        raise ValueError(f"`loss` must give a scalar, got shape {list(value.shape)}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"`loss` must give a floating point number, got {value.dtype}")
    return value


def check_backend(options: Mapping[str, Any]) -> None:
    """Refuse a backend of `unroll` that does not call the step of the cell it is given."""
    check_choice("backend", options.get("backend", "auto"), ("auto", "scan"))


def _visit(
    cell: Cell,
    params: Params,
    inputs: Array,
    options: dict[str, Any],
    probe: Callable[[list[jax.ShapeDtypeStruct]], list[Array]],
    dry: bool = False,
) -> tuple[Any, Carry]:
    """Unroll with probes added to all carries: the outputs, and the probes as the carries are.

    `probe` is asked once for each cell that is scanned, in a fixed order, with the shapes that it
    needs. A dry visit asks in the same order and computes shapes alone.
    """
    if cell.whole and cell.run is not None:
        inputs = without_invalid(cell, inputs, **options)
        first = {name: options.get(name) for name in ("carry", "key")}
        more = {k: v for k, v in options.items() if k not in ("carry", "key", "reverse")}

        def inner(cell: Cell, params: Params, inputs: Array, **given: Any) -> Unrolled:
            outputs, probes = _visit(cell, params, inputs, {**more, **given}, probe, dry)
            return Unrolled(outputs, probes, probes)

        outputs, probes, _ = cell.run(
            inner, params, inputs, reverse=options.get("reverse", False), **first
        )
        return outputs, probes

    plain = jax.eval_shape(
        lambda: unroll(cell, params, inputs, **{**options, "return_carries": True})
    )
    leaves, structure = jax.tree.flatten(plain.carries)
    which = [index for index, leaf in enumerate(leaves) if is_inexact(leaf)]
    probes = probe([leaves[index] for index in which])
    tree: list[Any] = [None] * len(leaves)
    for index, leaf in zip(which, probes, strict=True):
        tree[index] = leaf
    if dry:
        outputs = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), plain.outputs)
        return outputs, structure.unflatten(tree)

    vectors, layout = side_by_side([inputs, *probes], inputs.ndim - len(cell.input_shape))
    outputs = unroll(_probed(cell, layout), params, vectors, **options).outputs
    return outputs, structure.unflatten(tree)


@described
def _probed(cell: Cell, layout: Layout) -> Cell:
    """The cell with its input and the probes of its carry side by side in one long vector."""

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Any]:
        x, *probes = apart(x, layout)
        return step_with_probes(cell, params, carry, x, probes)

    size = sum(itertools.starmap(numbers, layout))
    return Cell(cell.init, cell.initial_carry, step, (size,), stochastic=cell.stochastic)
