"""How the network of 1997 begins: weights and biases of `config.LSTM1997`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxlstm as jl
from jaxlstm import config


def cell(spec: config.LSTM1997, input_size: int) -> jl.Cell:
    """Build the memory blocks; biases that are not given stand at zero for `init` to draw."""
    return jl.lstm_1997(
        input_size=input_size,
        blocks=spec.blocks,
        block_size=spec.block_size,
        input_gate_bias=0.0 if spec.input_gate_bias is None else spec.input_gate_bias,
        output_gate_bias=0.0 if spec.output_gate_bias is None else spec.output_gate_bias,
        cell_bias=spec.cell_bias,
        truncated=spec.truncated,
        kernel_init=jl.initializers.uniform(limit=spec.limit),
    )


def init(spec: config.LSTM1997, blocks: jl.Cell, key: Array) -> Any:
    """Draw the parameters of the blocks, and the biases for which no number is given.

    Examples:
        >>> import jax
        >>> spec = config.LSTM1997(blocks=2, input_gate_bias=(-2.0, -4.0))
        >>> params = init(spec, cell(spec, 3), jax.random.key(0))
        >>> params.gate_bias[:2].tolist(), bool((abs(params.gate_bias[2:]) < 0.1).all())
        ([-2.0, -4.0], True)
    """
    k_weights, k_gates, k_cells = jax.random.split(key, 3)
    params = blocks.init(k_weights)
    given = jnp.repeat(
        jnp.array([spec.input_gate_bias is not None, spec.output_gate_bias is not None]),
        spec.blocks,
    )
    gates = jnp.where(given, params.gate_bias, _biases(spec, k_gates, 2 * spec.blocks))
    cells = _biases(spec, k_cells, spec.blocks * spec.block_size) if spec.cell_bias else None
    return params._replace(gate_bias=gates, cell_bias=cells)


def readout(spec: config.LSTM1997, key: Array, output_size: int) -> tuple[Array, Array | None]:
    """Draw the kernel [BS, O] of the readout, and its bias [O] or None."""
    k_kernel, k_bias = jax.random.split(key)
    shape = (spec.blocks * spec.block_size, output_size)
    kernel = jl.initializers.uniform(limit=spec.limit)(k_kernel, shape, jnp.float32)
    return kernel, _biases(spec, k_bias, output_size) if spec.readout_bias else None


def _biases(spec: config.LSTM1997, key: Array, size: int) -> Array:
    if spec.biases == "zero":
        return jnp.zeros(size)
    return jl.initializers.uniform(limit=spec.limit)(key, (size,), jnp.float32)
