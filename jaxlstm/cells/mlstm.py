"""The mLSTM of xLSTM: a matrix memory, one step at a time or many at once (Beck et al. 2024)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name as named

from jaxlstm.cells import initializers
from jaxlstm.cells.base import Cell, Span, check_size, described, like, serialized, wide
from jaxlstm.cells.products import affine
from jaxlstm.cells.slstm import exponential_gates, log_forget_of

NOTHING = -1e30
"""The logarithm of an amount that is none; finite, so that sums of it may be products."""


@serialized
class MLSTMParams(NamedTuple):
    """Weights of an mLSTM with heads of size D = H / heads.

    Args:
        kernel: [I, 4H], the blocks query, key, value and output gate o.
        bias: [4H].
        gate_kernel: [I, 2·heads], the input gates and forget gates, one for each head.
        gate_bias: [2·heads].
    """

    kernel: Array
    bias: Array
    gate_kernel: Array
    gate_bias: Array


@serialized
class MLSTMCarry(NamedTuple):
    """State of an mLSTM, in units of exp(stabilizer).

    Args:
        cell: C [*batch, heads, D, D], the matrix memory, rows of values, columns of keys.
        normalizer: n [*batch, heads, D].
        stabilizer: m [*batch, heads].
    """

    cell: Array
    normalizer: Array
    stabilizer: Array


@described
def mlstm(
    *,
    input_size: int,
    hidden_size: int,
    heads: int = 1,
    forget_activation: str = "sigmoid",
    forget_bias: float = 1.0,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    param_dtype: Any = "float32",
    dtype: Any = None,
    cell_dtype: Any = None,
) -> Cell:
    """An mLSTM: a matrix memory C that stores values under keys and is read by queries.

    For each head, with q, k / √D, v and o from x_t, and scalars z_i, z_f,

        m_t = max(log f + m_{t−1}, z_i),  i' = exp(z_i − m_t),  f' = exp(log f + m_{t−1} − m_t)
        C_t = f' C_{t−1} + i' v kᵀ,   n_t = f' n_{t−1} + i' k
        h_t = o ⊙ C_t q / max(|n_t · q|, exp(−m_t))

    Where the memory is still empty, C_{t−1} = n_{t−1} = 0, the stabiliser is z_i. The cell does not
    look at h_{t−1}. Beck et al. (2024), "xLSTM: extended long short-term memory", equations 19–27.

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the size of the outputs, a multiple of `heads`.
        heads: the number of matrix memories.
        forget_activation: "sigmoid" or "exp".
        forget_bias: where the biases of the forget gates start.
        kernel_init: initialiser of the kernels.
        param_dtype: type of the parameters.
        dtype: type of the factors of products and the outputs; that of the parameters if None.
            Gates are computed in float32 at least.
        cell_dtype: type of C, n and m; that of the parameters if None.

    Returns:
        A `Cell` with `MLSTMParams` and `MLSTMCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size is not positive or `hidden_size` is no multiple of `heads`.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.mlstm(input_size=8, hidden_size=4, heads=2)
        >>> out = jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((32, 10, 8)))
        >>> out.outputs.shape, out.carry.cell.shape
        ((32, 10, 4), (32, 2, 2, 2))
    """
    check_size("input_size", input_size)
    check_size("hidden_size", hidden_size)
    check_size("heads", heads)
    if hidden_size % heads:
        raise ValueError(f"`hidden_size` must be a multiple of `heads` {heads}, got {hidden_size}")
    log_forget = log_forget_of(forget_activation)
    size = hidden_size // heads

    def init(key: Array) -> MLSTMParams:
        k_kernel, k_gates = jax.random.split(key)
        return MLSTMParams(
            kernel_init(k_kernel, (input_size, 4 * hidden_size), param_dtype),
            jnp.zeros(4 * hidden_size, param_dtype),
            kernel_init(k_gates, (input_size, 2 * heads), param_dtype),
            jnp.zeros(2 * heads, param_dtype).at[heads:].set(forget_bias),
        )

    def initial_carry(params: MLSTMParams, batch_shape: tuple[int, ...] = ()) -> MLSTMCarry:
        memory = cell_dtype or params.kernel.dtype
        return MLSTMCarry(
            jnp.zeros((*batch_shape, heads, size, size), memory),
            jnp.zeros((*batch_shape, heads, size), memory),
            jnp.zeros((*batch_shape, heads), memory),
        )

    def parts(params: MLSTMParams, x: Array, memory: Any) -> tuple[Array, ...]:
        """q, k / √D and v [*, heads, D], o [*, heads, D], z_i and log f [*, heads]."""
        compute = dtype or params.kernel.dtype
        z = affine(x, params.kernel, params.bias, compute)
        q, k, v, o = (
            part.reshape(*part.shape[:-1], heads, size) for part in jnp.split(z, 4, axis=-1)
        )
        q, k, v = q.astype(memory), k.astype(memory) / size**0.5, v.astype(memory)
        gates = affine(x, params.gate_kernel, params.gate_bias, compute).astype(memory)
        i, f = jnp.split(gates, 2, axis=-1)
        return q, k, v, o, i, log_forget(f)

    def shown(found: Array, overlap: Array, top: Array, o: Array) -> Array:
        """What is read of a memory: C q and n · q, in units of exp(m)."""
        # Both terms of the fraction times e^min(m, 0), so that neither overflows.
        small = jnp.exp(jnp.minimum(top, 0))
        scale = jnp.maximum(jnp.abs(overlap) * small, jnp.exp(-jnp.maximum(top, 0)))
        scale = jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)
        read = found * (small / scale)[..., None]
        output = named(jax.nn.sigmoid(o), "o") * read.astype(o.dtype)
        return output.reshape(*output.shape[:-2], hidden_size)

    def step(params: MLSTMParams, carry: MLSTMCarry, x: Array) -> tuple[MLSTMCarry, Array]:
        compute, old, carry = dtype or params.kernel.dtype, carry, jax.tree.map(wide, carry)
        q, k, v, o, i, f = parts(params, x, carry.cell.dtype)
        opened, kept, top = exponential_gates(f, i, carry.stabilizer, ~_filled(carry))
        opened, kept = named(opened, "i")[..., None], named(kept, "f")[..., None]
        written = opened[..., None] * v[..., :, None] * k[..., None, :]
        cell = kept[..., None] * carry.cell + written
        normalizer = kept * carry.normalizer + opened * k
        found = jnp.einsum("...vk,...k->...v", cell, q)
        output = shown(found, jnp.sum(normalizer * q, axis=-1), top, o).astype(compute)
        return like(MLSTMCarry(cell, normalizer, top), old), output

    def many(
        params: MLSTMParams, carry: MLSTMCarry, now: Span, initial: MLSTMCarry
    ) -> tuple[MLSTMCarry, Array]:
        compute, old, carry = dtype or params.kernel.dtype, carry, jax.tree.map(wide, carry)
        *rest, o, i, f = parts(params, now.x, carry.cell.dtype)
        wrote, kept = jnp.any(rest[1] != 0, axis=-1), jnp.zeros_like(i, bool)
        if now.valid is not None:
            kept = jnp.broadcast_to(~now.valid[..., None], i.shape)
            wrote, i, f = wrote & ~kept, jnp.where(kept, NOTHING, i), jnp.where(kept, 0, f)
        if now.reset is not None:
            f = jnp.where(now.reset[..., None], NOTHING, f)
        q, k, v = (jnp.moveaxis(part, 0, -2) for part in rest)
        i, f, wrote, kept = (jnp.moveaxis(gate, 0, -1) for gate in (i, f, wrote, kept))

        amounts = jnp.concatenate([carry.stabilizer[..., None], i], axis=-1)
        there = jnp.concatenate([_filled(carry)[..., None], wrote], axis=-1)
        passed = _passed(f)
        before = jnp.tril(there[..., None, :] & (passed > NOTHING / 2))
        # Where the memory is still empty its stabiliser is not kept.
        full = jnp.any(before, axis=-1) | kept
        top = jnp.max(_reached(_passed(jnp.where(full, f, NOTHING)), amounts), axis=-1)
        # What is read does not depend on the units.
        units = lax.stop_gradient(jnp.where(top > NOTHING / 2, top, 0))
        reached = _reached(passed, amounts)
        share = _exp(reached - units[..., None])
        entry, share = share[..., 0], share[..., 1:]
        scores = jnp.einsum("...tk,...sk->...ts", q, k) * share
        found = jnp.einsum("...ts,...sv->...tv", scores, v)
        found += entry[..., None] * jnp.einsum("...tk,...vk->...tv", q, carry.cell)
        overlap = jnp.sum(scores, axis=-1)
        overlap += entry * jnp.einsum("...tk,...k->...t", q, carry.normalizer)
        found, overlap, units = (
            jnp.moveaxis(a, at, 0) for a, at in ((found, -2), (overlap, -1), (units, -1))
        )
        output = shown(found, overlap, units, o).astype(compute)

        last, begun = top[..., -1], initial.stabilizer.astype(top.dtype)
        last = jnp.where(last > NOTHING / 2, last, begun)
        share = _exp(reached[..., -1, :] - last[..., None])
        written, kept = share[..., 1:, None] * k, share[..., :1]
        cell = kept[..., None] * carry.cell + jnp.einsum("...sv,...sk->...vk", v, written)
        normalizer = kept * carry.normalizer + jnp.sum(written, axis=-2)
        return like(MLSTMCarry(cell, normalizer, last), old), output

    return Cell(init, initial_carry, step, (input_size,), many=many)


def _filled(carry: MLSTMCarry) -> Array:
    """Whether there is anything in a memory."""
    return jnp.any(carry.cell != 0, axis=(-2, -1)) | jnp.any(carry.normalizer != 0, axis=-1)


def _passed(f: Array) -> Array:
    """Sums of log f [*, T] up to each step, from the entry and from each step on: [*, T, 1 + T].

    Sums are of what lies between alone: a difference of two long ones would lose digits.
    """
    length = f.shape[-1]
    summed = jnp.tril(jnp.ones((length, length), f.dtype))
    terms = jnp.where(jnp.tril(jnp.ones((length, 1 + length), bool)), f[..., None], 0)
    return jnp.einsum("tr,...rs->...ts", summed, terms, precision="highest")


def _reached(passed: Array, amounts: Array) -> Array:
    """The logarithm of what there is, after each step, of the entry and of each step so far."""
    reached = jnp.tril(jnp.ones(passed.shape[-2:], bool), 1)
    return jnp.where(reached, passed + amounts[..., None, :], NOTHING)


def _exp(logarithm: Array) -> Array:
    """Kept finite: of an empty memory there is any amount, which only derivatives see."""
    return jnp.exp(jnp.minimum(logarithm, jnp.log(jnp.finfo(logarithm.dtype).max) / 2))
