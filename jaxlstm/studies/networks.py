"""The networks that studies look at, and the measurements that they share."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxlstm as jl
from jaxlstm import config

BURN_IN = 50
"""Steps that a random network runs before its gradients are taken: from there on they are even."""


def orthogonal_rnn(size: int, gain: float, activation: str) -> jl.Cell:
    """A simple RNN whose recurrent kernel is `gain` times an orthogonal matrix."""
    return jl.rnn(
        input_size=8,
        hidden_size=size,
        activation=activation,
        recurrent_init=jl.initializers.orthogonal(scale=gain),
        param_dtype="float64",
    )


def named(biases: Sequence[float]) -> dict[str, float]:
    """Biases of forget gates by what an LSTM that starts with one is called."""
    return {f"forget bias {bias:g}": bias for bias in biases}


def lstms(study: config.Vanishing) -> dict[str, jl.Cell]:
    """LSTMs by what their forget gates start with."""
    inits = {
        name: jl.initializers.forget_bias(value=bias)
        for name, bias in named(study.forget_biases).items()
    }
    inits["chrono"] = jl.initializers.chrono(t_max=max(3, study.steps))
    return {
        name: jl.lstm(
            input_size=8, hidden_size=study.hidden_size, bias_init=init, param_dtype="float64"
        )
        for name, init in inits.items()
    }


def final_flow(cell: jl.Cell, steps: int, noise: float, state: float) -> Callable[..., Any]:
    """Log ‖∂L/∂state_t‖ by lag, from the last step back, for a random direction of the last output.

    The network is run from a normal state of the given scale, on normal inputs of the given scale;
    `length` ends the sequence earlier, without compiling again.
    """

    @jax.jit
    def measure(key: Array, length: int = steps) -> Any:
        k_init, k_inputs, k_state, k_loss = jax.random.split(key, 4)
        params = cell.init(k_init)
        inputs = noise * jax.random.normal(k_inputs, (steps, *sizes(cell)))
        carry = cell.initial_carry(params)
        first = jax.random.normal(k_state, carry.hidden.shape)
        carry = carry._replace(hidden=state * first)
        direction = jax.random.normal(k_loss, carry.hidden.shape)
        direction = direction / jnp.linalg.norm(direction)
        norms = jl.gradients.flow(
            cell,
            params,
            inputs,
            lambda outputs: outputs[-1] @ direction,
            carry=carry,
            lengths=length,
            masked_outputs="hold",
        ).norms
        return jax.tree.map(lambda leaf: jnp.log(leaf[::-1]), norms)

    return measure


def random_logs(
    size: int, gain: float, steps: int, keys: Sequence[Array], activation: str = "tanh"
) -> np.ndarray:
    """Log gradient norms by lag, `[seeds, steps]`, of networks with independent normal weights."""
    cell = jl.rnn(
        input_size=1,
        hidden_size=size,
        activation=activation,
        recurrent_init=jl.initializers.ginibre(gain=gain),
        param_dtype="float64",
    )
    flow = final_flow(cell, steps + BURN_IN, 0.0, 1.0)
    return np.stack([flow(key).hidden for key in keys])[:, :steps]


def gate_products(cell: jl.Cell, params: Any, inputs: Array) -> Array:
    """Log max ∏ f over the units, of all steps from t to the last, computed from the gates."""
    carries = jl.unroll(cell, params, inputs, return_carries=True, include_initial=True).carries
    size = params.recurrent_kernel.shape[0]
    forget = slice(size, 2 * size)
    z = inputs @ params.kernel[:, forget]
    z = z + carries.hidden[:-1] @ params.recurrent_kernel[:, forget]
    logs = jax.nn.log_sigmoid(z + jnp.broadcast_to(params.bias[forget], z.shape))
    sums = jnp.cumsum(logs[::-1], axis=0)[::-1]
    return jnp.append(jnp.max(sums, axis=1), 0.0)


def sizes(cell: jl.Cell) -> tuple[int, ...]:
    """The shape of an input."""
    return tuple(size for size in cell.input_shape if size is not None)
