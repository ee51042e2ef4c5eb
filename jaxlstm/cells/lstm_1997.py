"""The 1997 network: memory blocks whose cells share their gates, without forgetting."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name as named

from jaxlstm.cells import initializers
from jaxlstm.cells.base import Cell, Split, check_size, described, like, serialized, wide
from jaxlstm.cells.products import affine


@serialized
class LSTM1997Params(NamedTuple):
    """Weights of n = B(S + 2) hidden units, in the order: B input gates, B output gates, BS cells.

    Args:
        kernel: [I, n], from the inputs.
        recurrent_kernel: [n, n], from all hidden units of the step before, gates included.
        gate_bias: [2B], of the input gates and the output gates.
        cell_bias: [BS], of the cells' inputs, or None.
    """

    kernel: Array
    recurrent_kernel: Array
    gate_bias: Array
    cell_bias: Array | None


@serialized
class LSTM1997Carry(NamedTuple):
    """State of the 1997 network.

    Args:
        hidden: [*batch, BS], what the cells gave out, also the output.
        cell: [*batch, BS], the memory s.
        gates: [*batch, 2B], the input gates and output gates as they last were.
    """

    hidden: Array
    cell: Array
    gates: Array


@described
def lstm_1997(
    *,
    input_size: int,
    blocks: int,
    block_size: int = 1,
    input_gate_bias: float | Sequence[float] = 0.0,
    output_gate_bias: float | Sequence[float] = 0.0,
    cell_bias: bool = True,
    truncated: bool = True,
    kernel_init: Callable[..., Array] = initializers.uniform(limit=0.1),
    param_dtype: Any = "float32",
    dtype: Any = None,
) -> Cell:
    """LSTM as first published: B memory blocks of S cells, each block with one i and one o.

    With y_{t−1} all hidden activations of the step before (gates and cells' outputs), σ logistic,

        i, o = σ(x_t W + y_{t−1} U + b)                     one for each block
        s_t  = s_{t−1} + i · g(x_t W + y_{t−1} U + b),      g(z) = 4σ(z) − 2, in [−2, 2]
        h_t  = o · h(s_t),                                  h(s) = 2σ(s) − 1, in [−1, 1]

    There is no forget gate: the memory is the constant error carousel. The paper's gradients are
    truncated: an error that reaches y_{t−1} is used for the weights there and goes no further, so
    that ∂s_T/∂s_0 is the identity, exactly. Hochreiter & Schmidhuber (1997), "Long short-term
    memory", section 4 and appendix A.

    Args:
        input_size: I, the number of features of an input.
        blocks: B, the number of memory blocks.
        block_size: S, the number of cells in a block, which share its gates.
        input_gate_bias: where the biases of the input gates start: one number, or one each.
        output_gate_bias: likewise for the output gates; negative ones keep a block unused at first.
        cell_bias: whether the cells' inputs have biases (starting at zero); the gates always do.
        truncated: the paper's truncated gradients; False for full backpropagation through time.
        kernel_init: initialiser of W [I, n] and U [n, n]; the paper draws uniformly within ±0.1
            (±0.2 for the Reber grammar).
        param_dtype: type of the parameters.
        dtype: type of the factors of products and the outputs; that of the parameters if None.
            Gates are computed in float32 at least.

    Returns:
        A `Cell` with `LSTM1997Params`, n(I + n) + 2B (+ BS) of them, and `LSTM1997Carry`.

    Raises:
        TypeError: when a size is no int, or a bias no number.
        ValueError: when a size is not positive, or the biases are not one for each block.

    Examples:
        The network of the adding experiment, 93 weights with its output unit of 4 + 1:

        >>> import jax, jaxlstm as jl
        >>> cell = jl.lstm_1997(input_size=2, blocks=2, block_size=2, input_gate_bias=(-3., -6.))
        >>> params = cell.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        88
    """
    check_size("input_size", input_size)
    check_size("blocks", blocks)
    check_size("block_size", block_size)
    biases = _per_block("input_gate_bias", input_gate_bias, blocks) + _per_block(
        "output_gate_bias", output_gate_bias, blocks
    )
    cells = blocks * block_size
    units = 2 * blocks + cells

    def init(key: Array) -> LSTM1997Params:
        k_kernel, k_recurrent = jax.random.split(key)
        return LSTM1997Params(
            kernel_init(k_kernel, (input_size, units), param_dtype),
            kernel_init(k_recurrent, (units, units), param_dtype),
            jnp.array(biases, param_dtype),
            jnp.zeros(cells, param_dtype) if cell_bias else None,
        )

    def initial_carry(params: LSTM1997Params, batch_shape: tuple[int, ...] = ()) -> LSTM1997Carry:
        compute, param = dtype or params.kernel.dtype, params.kernel.dtype
        return LSTM1997Carry(
            jnp.zeros((*batch_shape, cells), compute),
            jnp.zeros((*batch_shape, cells), param),
            jnp.zeros((*batch_shape, 2 * blocks), compute),
        )

    def inputs(params: LSTM1997Params, x: Array) -> Array:
        bias = params.cell_bias
        if bias is None:
            bias = jnp.zeros(cells, params.kernel.dtype)
        bias = jnp.concatenate([params.gate_bias, bias])
        return affine(x, params.kernel, bias, dtype or params.kernel.dtype)

    def states(params: LSTM1997Params, carry: LSTM1997Carry) -> Array:
        last = jnp.concatenate([carry.gates, carry.hidden], axis=-1)
        if truncated:
            last = lax.stop_gradient(last)
        return affine(last, params.recurrent_kernel, None, dtype or params.kernel.dtype)

    def merge(
        extra: Any, carry: LSTM1997Carry, net: dict[str, Array]
    ) -> tuple[LSTM1997Carry, Array]:
        z = net["z"]
        i, o = (
            named(jax.nn.sigmoid(part), name)
            for name, part in zip("io", jnp.split(z[..., : 2 * blocks], 2, axis=-1), strict=True)
        )
        opened, shown = (jnp.repeat(gate, block_size, axis=-1) for gate in (i, o))
        g = 4 * named(jax.nn.sigmoid(z[..., 2 * blocks :]), "g") - 2
        cell = wide(carry.cell)
        cell = cell + (opened * g).astype(cell.dtype)
        hidden = shown * (2 * named(jax.nn.sigmoid(cell), "psi") - 1).astype(z.dtype)
        new = like(LSTM1997Carry(hidden, cell, jnp.concatenate([i, o], axis=-1)), carry)
        return new, new.hidden

    split = Split(
        inputs=lambda params, x: {"z": inputs(params, x)},
        states=lambda params, carry: {"z": states(params, carry)},
        merge=merge,
    )
    return Cell(init, initial_carry, split.step, (input_size,), split=split)


def _per_block(name: str, bias: float | Sequence[float], blocks: int) -> list[float]:
    values = list(bias) if isinstance(bias, Sequence) else [bias] * blocks
    if not all(isinstance(value, numbers.Real) for value in values):
        raise TypeError(f"`{name}` must be a number or one for each block, got {bias!r}")
    if len(values) != blocks:
        raise ValueError(f"`{name}` must hold one number for each of {blocks} blocks, got {bias}")
    return [float(value) for value in values]
