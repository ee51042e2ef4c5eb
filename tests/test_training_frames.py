"""Networks over frames: the convolutional cell within a training."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm import config
from jaxlstm.errors import UserError
from jaxlstm.tasks import digits
from jaxlstm.training import evaluation, frames, gradients, model, tracing
from jaxlstm.training.prepare import prepare

pytestmark = pytest.mark.usefixtures("compile_fast")

CONFIG = """
kind = "training"
name = "frames"
question = "?"
expected = "?"
model = { cell = "conv-lstm", filters = 3, layers = 2 }
optimizer = { kind = "adam", learning_rate = 1e-2 }
train = { steps = 30, batch_size = 8 }
"""


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    for names in digits.FILES.values():
        for file, array in zip(names, (draw.integers(0, 256, (9, 6, 6)), np.zeros(9)), strict=True):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (tmp_path / file).write_bytes(header + array.astype(np.uint8).tobytes())
    return str(tmp_path)


def test_frames_go_in_and_come_out_row_by_row():
    spec = config.ConvLSTM(filters=3, layers=2, kernel_size=3, peepholes=True, forget_bias=2.0)
    network = frames.build(spec, (4, 5), every_step=True)
    params = network.init(jax.random.key(0))
    params = jax.tree.map(  # nothing symmetric, no peephole of zero
        lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), params
    )
    inputs = jax.random.uniform(jax.random.key(2), (2, 6, 20))
    found = np.asarray(jax.jit(network.apply)(params, inputs))
    one = jl.conv_lstm(input_shape=(4, 5, 1), filters=3, peepholes=True)
    two = jl.conv_lstm(input_shape=(4, 5, 3), filters=3, peepholes=True)
    run = jax.jit(jl.unroll, static_argnums=0)
    hidden = run(one, params.cell[0], inputs.reshape(2, 6, 4, 5, 1)).outputs
    hidden = np.asarray(run(two, params.cell[1], hidden).outputs)
    kernel, bias = map(np.asarray, params.readout)
    for row in range(4):
        for column in range(5):
            pixel = hidden[:, :, row, column] @ kernel[:, 0] + bias[0]
            np.testing.assert_allclose(found[:, :, 5 * row + column], pixel, rtol=1e-5, atol=1e-5)
    carry = network.cell.initial_carry(params.cell, (2,))
    step = jax.jit(network.step)
    for time in range(6):
        carry, output = step(params, carry, inputs[:, time])
        np.testing.assert_allclose(output, found[:, time], rtol=1e-5, atol=1e-5)


def loaded(folder, task):
    return config.loads(f'{CONFIG}\n[task]\nkind = "moving-digits"\npath = "{folder}"\n{task}')


def test_a_training_of_frames_learns(folder):
    ready = prepare(loaded(folder, "canvas = 6\nsize = 3\ndigits = 1\nframes = 5"))
    evaluate = jax.jit(evaluation.build(ready.task, ready.network))
    test = jax.tree.map(lambda leaf: leaf[:50], ready.task.evaluation["test"])
    (state,) = ready.states()
    assert model.count(state.params) == 9 * 12 * (1 + 3 + 3 + 3) + 2 * 12 + 3 + 1
    before = evaluate(state.params, test)["loss"]
    state = jax.jit(ready.update.advance)(state, ready.task.data, jnp.int32(30))
    assert int(state.fault) == -1
    assert evaluate(state.params, test)["loss"] < 0.7 * before


def test_what_has_no_frames_is_refused():
    text = f'{CONFIG}\n[task]\nkind = "adding"'
    with pytest.raises(UserError, match=r"model\.cell: .*expected a task that has them"):
        prepare(config.loads(text))


def test_gradients_are_measured_and_traced_through_frames(folder):
    ready = prepare(loaded(folder, "canvas = 6\nsize = 3\nframes = 5"))
    (state,) = ready.states()
    measure = gradients.build(ready.task, ready.network, batch_size=4, sequences=2)
    found = jax.jit(measure)(state, ready.task.data)
    # The last error of the top layer, by hand from the derivative of the cross-entropy.
    batch = ready.task.sample(ready.task.data, jax.random.fold_in(state.key, state.step), 4)
    inputs, wanted = batch.inputs[:2], batch.targets[:2, -1]
    outputs = jax.nn.sigmoid(jax.jit(ready.network.apply)(state.params, inputs)[:, -1])
    error = np.asarray(outputs - wanted) / 4  # the mean is over four steps
    kernel = np.asarray(state.params.readout.kernel)
    norms = np.linalg.norm(error[:, :, None] * kernel[:, 0], axis=(1, 2))
    assert float(found["layer_1_hidden_error.lag_0"]) == pytest.approx(norms.mean(), rel=1e-4)
    assert all(np.isfinite(value) for value in found.values())
    broken = batch._replace(inputs=batch.inputs.at[1, 2, 3].set(jnp.nan))
    place = tracing.trace(ready.task, ready.network, state.params, broken)
    assert place == "the inputs at time 2 of sequence 1"
