"""The lecture on recurrent networks, claim by claim: what it shows holds, or is put right here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("compile_fast")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# inputs = random([32, 10, 8]); lstm = LSTM(4); output = lstm(inputs)


INPUTS = normal(0, 32, 10, 8)


@pytest.mark.parametrize("kind", [jl.nn.LSTM, jl.nn.SimpleRNN])
def test_a_layer_of_four_units_gives_its_last_output(kind):
    assert kind(8, 4, rngs=nnx.Rngs(0))(INPUTS).shape == (32, 4)


@pytest.mark.parametrize("kind", [jl.nn.LSTM, jl.nn.SimpleRNN])
def test_return_sequences_gives_the_output_of_every_step(kind):
    whole = kind(8, 4, return_sequences=True, rngs=nnx.Rngs(0))(INPUTS)
    assert whole.shape == (32, 10, 4)
    close(whole[:, -1], kind(8, 4, rngs=nnx.Rngs(0))(INPUTS))


def test_return_state_gives_the_last_memory_and_carry_too():
    layer = jl.nn.LSTM(8, 4, return_sequences=True, return_state=True, rngs=nnx.Rngs(0))
    whole_seq_output, final_memory_state, final_carry_state = layer(INPUTS)
    assert whole_seq_output.shape == (32, 10, 4)
    assert final_memory_state.shape == (32, 4)
    assert final_carry_state.shape == (32, 4)


def test_the_last_memory_is_the_last_output_of_a_simple_rnn_and_not_of_an_lstm():
    simple = jl.nn.SimpleRNN(8, 4, return_state=True, rngs=nnx.Rngs(0))
    output, memory = simple(INPUTS)
    assert (output == memory).all()

    lstm = jl.nn.LSTM(8, 4, return_state=True, rngs=nnx.Rngs(0))
    output, hidden, memory = lstm(INPUTS)
    assert (output == hidden).all()  # h_N is the output,
    assert (abs(output - memory) > 1e-3).mean() > 0.95  # and c_N is another thing:
    params, before = lstm.params, INPUTS[:, :-1]
    last = jl.unroll(lstm.cell, params, before).carry.hidden
    z = INPUTS[:, -1] @ params.kernel + last @ params.recurrent_kernel + params.bias[None]
    o = jax.nn.sigmoid(jnp.split(z, 4, axis=1)[3])
    close(output, o * jnp.tanh(memory))  # h_N = o_N ⊙ tanh(c_N).


# A recurrent network is a black box with a state: (state, x_t) → (state, y_t).


@pytest.mark.parametrize("make", [jl.rnn, jl.lstm])
def test_the_box_needs_nothing_but_its_state(make):
    cell = make(input_size=8, hidden_size=4)
    params, x = cell.init(jax.random.key(0)), INPUTS[0]
    box = jax.jit(functools.partial(cell.step, params))
    state, outputs = cell.initial_carry(params), []
    for x_t in x:
        state, y_t = box(state, x_t)
        outputs.append(y_t)
    close(jnp.stack(outputs), jl.unroll(cell, params, x).outputs)
    # Stopped in the middle, its state is all that it takes to go on.
    middle = jl.unroll(cell, params, x[:6]).carry
    close(jl.unroll(cell, params, x[6:], carry=middle).outputs, jnp.stack(outputs[6:]))


@pytest.mark.parametrize("make", [jl.rnn, jl.lstm])
def test_an_output_depends_on_all_of_the_past_and_on_nothing_to_come(make):
    cell = make(input_size=3, hidden_size=4)
    params, x = cell.init(jax.random.key(0)), normal(1, 6, 3)

    def reach(reverse):
        jacobian = jax.jit(jax.jacobian(lambda x: jl.unroll(cell, params, x, reverse=reverse)[0]))
        return np.asarray(abs(jacobian(x)).max(axis=(1, 3)) > 0)  # [output step, input step]

    assert (reach(False) == np.tril(np.ones((6, 6), bool))).all()
    assert (reach(True) == np.triu(np.ones((6, 6), bool))).all()


# Unfolded in time it is a feed-forward network whose layers share their weights.


def feed_forward(layers, x):
    """One layer for each step, each with weights of its own; the outputs of all of them."""
    h, outputs = jnp.zeros(layers[0][1].shape[0]), []
    for (w, u, b), x_t in zip(layers, x, strict=True):
        h = jnp.tanh(x_t @ w + h @ u + b)
        outputs.append(h)
    return jnp.stack(outputs)


def feed_forward_lstm(layers, x):
    h = c = jnp.zeros(layers[0][1].shape[0])
    outputs = []
    for (w, u, b), x_t in zip(layers, x, strict=True):
        i, f, g, o = jnp.split(x_t @ w + h @ u + b, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        outputs.append(h)
    return jnp.stack(outputs)


@pytest.mark.parametrize(
    ("make", "network"), [(jl.rnn, feed_forward), (jl.lstm, feed_forward_lstm)]
)
def test_unfolding_is_a_feed_forward_network_with_shared_weights(make, network):
    steps = 5
    cell = make(input_size=3, hidden_size=4)
    params, x = cell.init(jax.random.key(0)), normal(1, steps, 3)
    layers = [tuple(params)] * steps
    close(jl.unroll(cell, params, x).outputs, jax.jit(network)(layers, x))

    # The gradient of what is shared is the sum of the gradients of what is not.
    def loss(outputs):
        return (outputs**2).sum()

    apart = jax.jit(jax.grad(lambda layers: loss(network(layers, x))))(layers)
    shared = jax.jit(jax.grad(lambda p: loss(jl.unroll(cell, p, x).outputs)))(params)
    for part, parts in zip(shared, zip(*apart, strict=True), strict=True):
        close(part, sum(parts))


# Many to one, one to many, many to many.


def test_one_to_many_feeds_the_box_what_it_said():
    cell = jl.rnn(input_size=4, hidden_size=4)
    params = cell.init(jax.random.key(0))
    state, y = cell.initial_carry(params), normal(2, 4)
    said = []
    for _ in range(5):
        state, y = cell.step(params, state, y)
        said.append(y)
    # What it said, told to it by a teacher, makes it say the same.
    told = jnp.stack([normal(2, 4), *said[:-1]])
    close(jl.unroll(cell, params, told).outputs, jnp.stack(said))


def test_many_to_many_hands_the_state_of_the_encoder_to_the_decoder():
    encoder = jl.nn.LSTM(8, 4, return_state=True, rngs=nnx.Rngs(0))
    decoder = jl.nn.LSTM(3, 4, return_sequences=True, rngs=nnx.Rngs(1))
    _, *state = encoder(INPUTS)
    translated = decoder(normal(3, 32, 7, 3), initial_state=state)
    assert translated.shape == (32, 7, 4)
    blank = decoder(normal(3, 32, 7, 3))
    assert (abs(translated - blank) > 1e-6).all(axis=-1).any(axis=1).all()


# An input may be flat or have a structure of its own, such as an image of a video.


def test_a_step_may_be_flat_or_structured():
    video = normal(4, 2, 5, 6, 6, 1)
    structured = jl.conv_lstm(input_shape=(6, 6, 1), filters=3)
    out = jl.unroll(structured, structured.init(jax.random.key(0)), video, lengths=[5, 3])
    assert out.outputs.shape == (2, 5, 6, 6, 3)
    assert out.carry.cell.shape == (2, 6, 6, 3)
    flat = jl.lstm(input_size=36, hidden_size=3)
    out = jl.unroll(flat, flat.init(jax.random.key(0)), video.reshape(2, 5, 36), lengths=[5, 3])
    assert out.outputs.shape == (2, 5, 3)
    assert jl.output_shape(structured) == (6, 6, 3)
    assert jl.output_shape(flat) == (3,)


# Vanishing: "(∂l/∂w)^N", and what an LSTM does about it.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("w", [0.9, 1.0, 1.1])
def test_the_shared_weight_of_a_linear_unit_gets_n_times_its_power(w):
    steps, x0 = 50, 0.7
    cell = jl.rnn(input_size=1, hidden_size=1, activation="identity", use_bias=False)
    inputs = jnp.zeros((steps, 1))

    def last(w, x0):
        params = jl.RNNParams(jnp.ones((1, 1)), w.reshape(1, 1), None)
        return jl.unroll(cell, params, inputs, carry=jl.RNNCarry(x0.reshape(1))).carry.hidden[0]

    first = jax.jit(jax.grad(last, argnums=(0, 1)))(jnp.array(w), jnp.array(x0))
    second = jax.jit(jax.grad(jax.grad(last)))(jnp.array(w), jnp.array(x0))
    close(first[0], steps * w ** (steps - 1) * x0, 1e-10)  # not (∂l/∂w)^N,
    close(first[1], w**steps, 1e-10)  # which is how the state's Jacobian behaves
    close(second, steps * (steps - 1) * w ** (steps - 2) * x0, 1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("bias", "kept"), [(0.0, 7.889e-31), (1.0, 2.484e-14), (np.log(99), 0.3660)]
)
def test_the_memory_of_an_lstm_fades_with_its_forget_gate(bias, kept):
    cell = jl.lstm(input_size=1, hidden_size=2, forget_bias=float(bias), param_dtype="float64")
    params = cell.init(jax.random.key(0))
    still = params._replace(recurrent_kernel=jnp.zeros_like(params.recurrent_kernel))

    def memory(c0):
        carry = jl.LSTMCarry(jnp.zeros(2), c0)
        return jl.unroll(cell, still, jnp.zeros((100, 1)), carry=carry).carry.cell

    jacobian = jax.jit(jax.jacobian(memory))(jnp.zeros(2))
    np.testing.assert_allclose(jacobian, kept * np.eye(2), rtol=1e-3, atol=0)


@pytest.mark.usefixtures("x64")
def test_an_orthogonal_linear_rnn_keeps_the_norm_of_a_gradient():
    cell = jl.rnn(input_size=1, hidden_size=16, activation="identity", param_dtype="float64")
    params = cell.init(jax.random.key(0))
    inputs, first = jnp.zeros((1000, 1)), jl.RNNCarry(jnp.zeros(16))
    weight = np.random.default_rng(0).normal(size=16)

    def loss(carry):
        return (jl.unroll(cell, params, inputs, carry=carry).carry.hidden * weight).sum()

    gradient = jax.jit(jax.grad(loss))(first).hidden
    close(np.linalg.norm(gradient), np.linalg.norm(weight), 1e-12)
