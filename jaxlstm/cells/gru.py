"""Gated recurrent units: GRU (Cho 2014) and its minimal form MGU (Zhou 2016)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name as named

from jaxlstm.cells import initializers
from jaxlstm.cells.activations import Activation, function_of
from jaxlstm.cells.base import (
    Cell,
    Split,
    check_size,
    described,
    like,
    serialized,
    ungated,
)
from jaxlstm.cells.products import affine, gated_affine

GRU_GATES = ("r", "z", "n")
"""The order of the blocks of a GRU kernel: reset, update, candidate."""


@serialized
class GRUParams(NamedTuple):
    """Weights of a GRU or MGU with n blocks of H columns.

    Args:
        kernel: [I, nH].
        recurrent_kernel: [H, nH].
        bias: [nH] or None, added to the product with the input.
        recurrent_bias: [nH], added to the product with the state (reset after it); None otherwise.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None
    recurrent_bias: Array | None


@serialized
class GRUCarry(NamedTuple):
    """State of a GRU or MGU: `hidden` [*batch, H], which is also its output."""

    hidden: Array


@described
def gru(
    *,
    input_size: int,
    hidden_size: int,
    reset_after: bool = True,
    activation: Activation = "tanh",
    recurrent_activation: Activation = "sigmoid",
    use_bias: bool = True,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    recurrent_init: Callable[..., Array] = initializers.orthogonal(),
    bias_init: Callable[..., Array] = initializers.constant(value=0.0),
    param_dtype: Any = "float32",
    dtype: Any = None,
) -> Cell:
    """A gated recurrent unit: one state, kept by the update gate z, looked at through r.

        r, z = σ(x_t W + b + h_{t−1} U + b')              in their blocks
        n    = φ(x_t W + b + r ⊙ (h_{t−1} U + b'))        reset after the product
        n    = φ(x_t W + b + (r ⊙ h_{t−1}) U)             reset before it
        h_t  = (1 − z) ⊙ n + z ⊙ h_{t−1}

    Cho et al. (2014), "Learning phrase representations using RNN encoder–decoder", resets before
    the product; cuDNN, torch and Keras' default reset after it.

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        reset_after: which of the two; with it there is a second bias b'.
        activation: φ, by name or a function.
        recurrent_activation: σ, likewise.
        use_bias: whether there are biases.
        kernel_init: initialiser of W [I, 3H].
        recurrent_init: initialiser of each gate's block [H, H] of U.
        bias_init: initialiser of the biases [3H].
        param_dtype: type of the parameters.
        dtype: type of the factors of products, the state and the outputs; that of the parameters
            if None. What lies between is computed in float32 at least.

    Returns:
        A `Cell` with `GRUParams` and `GRUCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size is not positive or an activation is unknown.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.gru(input_size=8, hidden_size=4)
        >>> jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((32, 10, 8))).outputs.shape
        (32, 10, 4)
    """
    check_size("input_size", input_size)
    check_size("hidden_size", hidden_size)
    phi = function_of(activation, "activation")
    sigma = function_of(recurrent_activation, "recurrent_activation")
    gates = len(GRU_GATES)
    init, initial_carry = _parts(
        input_size, hidden_size, gates, use_bias, reset_after,
        kernel_init, recurrent_init, bias_init, param_dtype, dtype,
    )  # fmt: skip

    def inputs(params: GRUParams, x: Array) -> Array:
        return affine(x, params.kernel, params.bias, dtype or params.kernel.dtype)

    def states(params: GRUParams, hidden: Any) -> Array:
        compute = dtype or params.kernel.dtype
        return gated_affine(hidden, params.recurrent_kernel, gates, compute, params.recurrent_bias)

    def by_inputs(params: GRUParams, x: Array) -> dict[str, Array]:
        both, new = jnp.split(inputs(params, x), [2 * hidden_size], axis=-1)
        return {"rz": both, "n": new}

    def by_states(params: GRUParams, hidden: Any) -> dict[str, Array]:
        both, old = jnp.split(states(params, hidden), [2 * hidden_size], axis=-1)
        return {"rz": both, "h": old}

    def merge(extra: Any, carry: GRUCarry, net: dict[str, Array]) -> tuple[GRUCarry, Array]:
        """Reset after the product."""
        r, z = jnp.split(net["rz"], 2, axis=-1)
        return update(carry, phi(net["n"] + named(sigma(r), "r") * net["h"]), z)

    def update(carry: GRUCarry, n: Array, z: Array) -> tuple[GRUCarry, Array]:
        z = named(sigma(z), "z")
        new = (1 - z) * named(n, "n") + z * carry.hidden.astype(z.dtype)
        new = like(GRUCarry(new), carry)
        return new, new.hidden

    def reset_before(
        params: GRUParams, carry: GRUCarry, x: Array, hidden: Any
    ) -> tuple[GRUCarry, Array]:
        """The gated step that multiplies what is left of the state."""
        compute = dtype or params.kernel.dtype
        seen = hidden if isinstance(hidden, tuple) else (hidden,) * gates
        x_r, x_z, x_n = jnp.split(inputs(params, x), gates, axis=-1)
        u_r, u_z, u_n = jnp.split(params.recurrent_kernel, gates, axis=-1)
        h_r, h_z = affine(seen[0], u_r, None, compute), affine(seen[1], u_z, None, compute)
        reset = named(sigma(x_r + h_r), "r") * seen[2].astype(h_r.dtype)
        return update(carry, phi(x_n + affine(reset, u_n, None, compute)), x_z + h_z)

    split = None
    if reset_after:
        split = Split(by_inputs, lambda params, carry: by_states(params, carry.hidden), merge)
    gated_step = split.gated_step if split else reset_before
    return Cell(
        init,
        initial_carry,
        ungated(gated_step),
        (input_size,),
        gated_step=gated_step,
        gates=gates,
        split=split,
    )


@described
def mgu(
    *,
    input_size: int,
    hidden_size: int,
    activation: Activation = "tanh",
    recurrent_activation: Activation = "sigmoid",
    use_bias: bool = True,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    recurrent_init: Callable[..., Array] = initializers.orthogonal(),
    bias_init: Callable[..., Array] = initializers.constant(value=0.0),
    param_dtype: Any = "float32",
    dtype: Any = None,
) -> Cell:
    """A minimal gated unit: a GRU whose one gate f both resets and updates.

        f   = σ(x_t W_f + h_{t−1} U_f + b_f)
        n   = φ(x_t W_n + (f ⊙ h_{t−1}) U_n + b_n)
        h_t = (1 − f) ⊙ h_{t−1} + f ⊙ n

    Zhou, Wu, Zhang, Zhou (2016), "Minimal gated unit for recurrent neural networks".

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        activation: φ, by name or a function.
        recurrent_activation: σ, likewise.
        use_bias: whether there is a bias.
        kernel_init: initialiser of W [I, 2H], the blocks f and n.
        recurrent_init: initialiser of each block [H, H] of U.
        bias_init: initialiser of b [2H].
        param_dtype: type of the parameters.
        dtype: type of the factors of products, the state and the outputs; that of the parameters
            if None. What lies between is computed in float32 at least.

    Returns:
        A `Cell` with `GRUParams` of two blocks and `GRUCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size is not positive or an activation is unknown.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.mgu(input_size=8, hidden_size=4)
        >>> jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((32, 10, 8))).outputs.shape
        (32, 10, 4)
    """
    check_size("input_size", input_size)
    check_size("hidden_size", hidden_size)
    phi = function_of(activation, "activation")
    sigma = function_of(recurrent_activation, "recurrent_activation")
    init, initial_carry = _parts(
        input_size, hidden_size, 2, use_bias, False,
        kernel_init, recurrent_init, bias_init, param_dtype, dtype,
    )  # fmt: skip

    def gated_step(
        params: GRUParams, carry: GRUCarry, x: Array, hidden: Any
    ) -> tuple[GRUCarry, Array]:
        compute = dtype or params.kernel.dtype
        seen = hidden if isinstance(hidden, tuple) else (hidden, hidden)
        x_f, x_n = jnp.split(affine(x, params.kernel, params.bias, compute), 2, axis=-1)
        u_f, u_n = jnp.split(params.recurrent_kernel, 2, axis=-1)
        f = named(sigma(x_f + affine(seen[0], u_f, None, compute)), "f")
        n = named(phi(x_n + affine(f * seen[1].astype(f.dtype), u_n, None, compute)), "n")
        new = like(GRUCarry((1 - f) * carry.hidden.astype(f.dtype) + f * n), carry)
        return new, new.hidden

    return Cell(
        init, initial_carry, ungated(gated_step), (input_size,), gated_step=gated_step, gates=2
    )


def _parts(
    input_size: int,
    hidden_size: int,
    blocks: int,
    use_bias: bool,
    two_biases: bool,
    kernel_init: Callable[..., Array],
    recurrent_init: Callable[..., Array],
    bias_init: Callable[..., Array],
    param_dtype: Any,
    dtype: Any,
) -> tuple[Callable[..., GRUParams], Callable[..., GRUCarry]]:
    """`init` and `initial_carry` of a unit with so many blocks of weights."""

    def bias(key: Array) -> Array:
        return initializers.bias_blocks(bias_init, key, hidden_size, blocks, param_dtype)

    def init(key: Array) -> GRUParams:
        k_kernel, k_recurrent, k_bias, k_more = jax.random.split(key, 4)
        return GRUParams(
            kernel_init(k_kernel, (input_size, blocks * hidden_size), param_dtype),
            initializers.recurrent_blocks(
                recurrent_init, k_recurrent, (hidden_size, hidden_size), blocks, param_dtype
            ),
            bias(k_bias) if use_bias else None,
            bias(k_more) if use_bias and two_biases else None,
        )

    def initial_carry(params: GRUParams, batch_shape: tuple[int, ...] = ()) -> GRUCarry:
        return GRUCarry(jnp.zeros((*batch_shape, hidden_size), dtype or params.kernel.dtype))

    return init, initial_carry
