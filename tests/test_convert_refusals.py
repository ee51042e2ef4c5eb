"""What a neighbour says and we cannot hold is refused by name, never passed over."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl

os.environ.setdefault("KERAS_BACKEND", "jax")
pytestmark = [
    pytest.mark.usefixtures("compile_fast", "lenient"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]
B, T, I, H = 2, 5, 3, 4
NUMBERS = np.random.default_rng(0)


def normal(*shape, dtype="float32"):
    return NUMBERS.normal(size=shape).astype(dtype)


def params_of(cell):
    like = jax.eval_shape(cell.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * normal(*leaf.shape), leaf.dtype), like)


def outputs(cell, params, x):
    return np.asarray(jl.unroll(cell, params, jnp.asarray(x)).outputs)


def refused(message, call, *arguments, **options):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def sized(**options):
    return jl.lstm(input_size=I, hidden_size=H, **options)


# ONNX.


def operator(op="LSTM", **attributes):
    n = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    arrays = {"W": normal(1, n * H, I), "R": normal(1, n * H, H)}
    return jl.convert.onnx.Node(op, attributes, arrays)


def test_coupled_gates_of_onnx_are_sigmoid():
    message = "`recurrent_activation` of coupled gates must be 'sigmoid' in ONNX, got 'tanh'"
    cell = sized(coupled=True, recurrent_activation="tanh")
    refused(message, jl.convert.onnx.dump, cell, params_of(cell))
    both = jl.bidirectional(sized(coupled=True), cell)
    refused(message, jl.convert.onnx.dump, both, params_of(both))
    theirs = operator(input_forget=1, activations=["Tanh", "Tanh", "Tanh"])
    refused(message, jl.convert.onnx.load, theirs)
