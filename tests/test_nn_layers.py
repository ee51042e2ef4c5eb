"""Layers of layers, convolutional layers, and what Keras makes arguments: dropout, statefulness."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import within
from flax import nnx

import jaxlstm as jl

os.environ.setdefault("KERAS_BACKEND", "jax")
pytestmark = pytest.mark.usefixtures("compile_fast")
close = within(1e-6)
B, T, I, H = 3, 6, 3, 4
LENGTHS = np.array([6, 2, 0])
NN = jl.nn


def inputs(*leading, shape=(I,)):
    numbers = np.random.default_rng(1)
    return jnp.asarray(numbers.normal(size=(*leading, *shape)), "float32")


# Convolutional layers.


@pytest.mark.parametrize(
    ("layer", "in_shape", "space"),
    [
        (NN.ConvLSTM1D, (7, 2), (3,)),
        (NN.ConvLSTM2D, (7, 5, 1), (3, 2)),
        (NN.ConvLSTM3D, (7, 5, 3, 2), (3, 2, 1)),
    ],
    ids=["1D", "2D", "3D"],
)
def test_a_convolutional_layer_is_its_cell_with_the_defaults_of_keras(layer, in_shape, space):
    make = functools.partial(layer, in_shape, H, 3, strides=2, return_state=True)
    made = make(rngs=nnx.Rngs(0))
    output, hidden, cell = made(inputs(B, T, shape=in_shape), lengths=LENGTHS)
    assert output.shape == hidden.shape == cell.shape == (B, *space, H)
    wanted = jl.conv_lstm(input_shape=in_shape, filters=H, strides=2, padding="valid")
    out = jl.unroll(
        wanted, wanted.init(nnx.Rngs(0).params()), inputs(B, T, shape=in_shape), lengths=LENGTHS
    )
    close(cell, out.carry.cell, 0)
    close(made.kernel[...], wanted.init(nnx.Rngs(0).params()).kernel, 0)


def test_the_places_of_a_window_may_lie_apart():
    layer = NN.ConvLSTM2D((7, 6, 2), H, (3, 2), dilation_rate=(2, 3), rngs=nnx.Rngs(0))
    video, kernel = np.asarray(inputs(B, 1, shape=(7, 6, 2))), np.asarray(layer.kernel[...])
    # From no state, a step sees the input alone.
    wanted = np.asarray(layer.bias[...]) + sum(
        video[:, 0, 2 * a : 2 * a + 3, 3 * b : 3 * b + 3] @ kernel[a, b]
        for a in range(3)
        for b in range(2)
    )
    i, _, g, o = np.split(np.asarray(wanted), 4, axis=-1)
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    close(layer(video), sigmoid(o) * np.tanh(sigmoid(i) * np.tanh(g)))


def test_a_video_goes_backwards_and_drops_out():
    layer = NN.ConvLSTM2D(
        (4, 4, 2),
        3,
        3,
        padding="same",
        go_backwards=True,
        return_sequences=True,
        dropout=0.3,
        recurrent_dropout=0.3,
        rngs=nnx.Rngs(0),
    )
    video = inputs(B, T, shape=(4, 4, 2))
    plain, noisy = layer(video), layer(video, key=jax.random.key(0))
    close(plain, jl.unroll(layer.cell, layer.params, video[:, ::-1]).outputs)
    assert abs(plain - noisy).max() > 1e-3
    carry = layer.cell.initial_carry(layer.params, (B,), key=jax.random.key(0))
    assert carry.noise.shape == (B, 4, 4, 2)
    assert carry.carry.noise.shape == (B, 4, 4, 4, 3)  # a mask for each gate


# Both directions.


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", None])
def test_both_directions_equal_those_of_the_function(merge):
    rngs = nnx.Rngs(0)
    layer = NN.Bidirectional(
        NN.LSTM(I, H, return_sequences=True, return_state=True, rngs=rngs),
        merge_mode=merge,
        rngs=rngs,
    )
    one, two = layer.forward_layer, layer.backward_layer
    assert abs(one.kernel[...] - two.kernel[...]).max() > 0.01
    cell = jl.bidirectional(one.cell, two.cell, merge=merge or "none")
    out = jl.unroll(
        cell,
        jl.Bidirectional(one.params, two.params),
        inputs(B, T),
        lengths=LENGTHS,
    )
    found = layer(inputs(B, T), lengths=LENGTHS)
    outputs, state = (found[:2], found[2:]) if merge is None else (found[0], found[1:])
    close(outputs, out.outputs)
    close(state, (*out.carry.forward, *out.carry.backward))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("sequences", [False, True])
def test_masked_steps_of_both_directions_are_those_of_keras(merge, sequences):
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras on another backend")
    x, mask = inputs(B, T), np.array([[1] * 6, [0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0]], bool)
    theirs = keras.layers.Bidirectional(
        keras.layers.LSTM(H, return_sequences=sequences), merge_mode=merge
    )
    wanted = theirs(x, mask=mask)
    one, two = (
        NN.LSTM(I, H, return_sequences=sequences, go_backwards=back, rngs=nnx.Rngs(0))
        for back in (False, True)
    )
    weights = iter(theirs.get_weights())
    for layer in (one, two):
        for param in (layer.kernel, layer.recurrent_kernel, layer.bias):
            param[...] = jnp.asarray(next(weights))
    alone = one(x, mask=mask)
    found = NN.Bidirectional(one, two, merge_mode=merge)(x, mask=mask)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-5, atol=1e-6)
    close(one(x, mask=mask), alone, 0)  # and the layer itself holds its outputs as before


@pytest.mark.parametrize("time_major", [False, True])
def test_without_sequences_each_direction_gives_the_end_of_its_way(time_major):
    rngs = nnx.Rngs(0)
    layer = NN.Bidirectional(NN.GRU(I, H, time_major=time_major, rngs=rngs), rngs=rngs)
    x = inputs(B, T)
    found = layer(jnp.swapaxes(x, 0, 1) if time_major else x, lengths=LENGTHS)
    one, two = layer.forward_layer, layer.backward_layer
    for row, length in enumerate(LENGTHS[:2]):
        ahead = jl.unroll(one.cell, one.params, x[row, :length]).outputs[-1]
        back = jl.unroll(two.cell, two.params, x[row, :length][::-1]).outputs[-1]
        close(found[row], jnp.concatenate([ahead, back]))
    assert not found[2].any()


def test_time_leads_in_both_directions():
    rngs = nnx.Rngs(0)
    make = functools.partial(NN.LSTM, I, H, return_sequences=True)
    layer = NN.Bidirectional(make(rngs=rngs), rngs=rngs)
    swapped = NN.Bidirectional(
        make(time_major=True, rngs=rngs), make(time_major=True, go_backwards=True, rngs=rngs)
    )
    nnx.update(swapped, nnx.state(layer))
    close(swapped(inputs(T, B)), jnp.swapaxes(layer(jnp.swapaxes(inputs(T, B), 0, 1)), 0, 1))


def test_states_of_both_directions_go_on():
    rngs = nnx.Rngs(0)
    layer = NN.Bidirectional(NN.LSTM(I, H, return_state=True, rngs=rngs), rngs=rngs)
    given = [jnp.full((B, H), k + 1.0) for k in range(4)]
    _, *state = layer(inputs(B, 0), initial_state=given)
    close(state, given)
    with pytest.raises(ValueError, match="2 arrays of the forward layer and 2 of the backward"):
        layer(inputs(B, T), initial_state=given[:3])


def test_two_layers_may_differ_but_not_in_what_they_return():
    rngs = nnx.Rngs(0)
    forward = NN.LSTM(I, H, rngs=rngs)
    back = NN.GRU(I, 2, go_backwards=True, rngs=rngs)
    assert NN.Bidirectional(forward, back)(inputs(B, T)).shape == (B, H + 2)
    with pytest.raises(ValueError, match=r"`backward_layer` must have `go_backwards=True`, got F"):
        NN.Bidirectional(forward, NN.GRU(I, 2, rngs=rngs))
    with pytest.raises(ValueError, match="`return_state=False`, got True"):
        NN.Bidirectional(
            forward, NN.GRU(I, 2, go_backwards=True, return_state=True, rngs=nnx.Rngs(0))
        )
    with pytest.raises(TypeError, match=r"`rngs` must be a flax\.nnx\.Rngs, got None"):
        NN.Bidirectional(forward)
    with pytest.raises(TypeError, match=r"`layer` must be a layer such as `jl.nn.LSTM`, got Cell"):
        NN.Bidirectional(forward.cell)
    with pytest.raises(ValueError, match=r"`backward_layer` must have `stateful=False`, got True"):
        NN.Bidirectional(forward, NN.GRU(I, 2, go_backwards=True, stateful=True, rngs=rngs))
    modes = r"\['concat', 'sum', 'mul', 'ave', None\]"
    for merge in ("add", "none"):
        with pytest.raises(ValueError, match=f"`merge_mode` must be one of {modes}, got '{merge}'"):
            NN.Bidirectional(forward, back, merge_mode=merge)
    with pytest.raises(TypeError, match="unexpected keyword argument 'reverse'"):
        NN.Bidirectional(forward, back)(inputs(B, T), reverse=True)


# One on top of the other.


def test_stacked_layers_equal_the_stacked_cells():
    rngs = nnx.Rngs(0)
    layer = NN.Stacked(
        NN.LSTM(I, H, return_sequences=True, return_state=True, rngs=rngs),
        NN.SimpleRNN(H, 2, return_state=True, rngs=rngs),
    )
    cell = jl.stack(*(each.cell for each in layer.layers))
    params = tuple(each.params for each in layer.layers)
    out = jl.unroll(cell, params, inputs(B, T), lengths=LENGTHS, masked_outputs="hold")
    outputs, below, above = layer(inputs(B, T), lengths=LENGTHS)
    close(outputs, out.outputs[:, -1])
    close((below, above), (tuple(out.carry[0]), tuple(out.carry[1])))
    whole, *state = layer(inputs(B, T))
    _, *middle = layer(inputs(B, T)[:, :2])
    found, *end = layer(inputs(B, T)[:, 2:], initial_state=middle)
    close((found, *end), (whole, *state))


def test_a_deep_bidirectional_network_learns_under_every_gradient():
    rngs = nnx.Rngs(0)
    layer = NN.Stacked(
        NN.Bidirectional(NN.LSTM(I, H, return_sequences=True, rngs=rngs), rngs=rngs),
        NN.GRU(2 * H, 2, rngs=rngs),
    )

    def loss(layer, x):
        return (layer(x, lengths=LENGTHS) ** 2).sum()

    plain = jax.jit(jax.grad(loss))(layer, inputs(B, T))
    of_nnx = nnx.jit(nnx.grad(loss))(layer, inputs(B, T))
    close(jax.tree.leaves(of_nnx), jax.tree.leaves(nnx.state(plain)))
    assert all(abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda r: (), "`layers` must hold at least one layer, got none"),
        (
            lambda r: (NN.LSTM(I, H, rngs=r),) * 2,
            r"`layers\[0\]` must have `return_sequences=True`",
        ),
        (
            lambda r: (NN.LSTM(I, H, return_sequences=True, go_backwards=True, rngs=r),) * 2,
            r"`layers\[0\]` must have `go_backwards=False`, got True",
        ),
        (
            lambda r: (
                NN.LSTM(I, H, return_sequences=True, time_major=True, rngs=r),
                NN.Bidirectional(NN.LSTM(H, H, rngs=r), rngs=r),
            ),
            r"`layers\[1\]` must have `time_major=True`, got False",
        ),
        (
            lambda r: (jl.lstm(input_size=I, hidden_size=H),),
            r"`layers\[0\]` must be a layer such as `jl.nn.LSTM`, got Cell",
        ),
        (
            lambda r: (
                NN.Bidirectional(NN.LSTM(I, H, return_sequences=True, rngs=r), rngs=r),
                NN.LSTM(H, H, rngs=r),
            ),
            rf"`layers\[1\]` takes inputs of shape \({H},\), but `layers\[0\]` gives \({2 * H},\)",
        ),
    ],
    ids=["none", "no sequences", "backwards", "time-major", "a cell", "sizes"],
)
def test_layers_that_cannot_be_stacked(layers, message):
    with pytest.raises((TypeError, ValueError), match=message):
        NN.Stacked(*layers(nnx.Rngs(0)))


# Dropout.

DROPPING = {
    "lstm": functools.partial(NN.LSTM, I, H, dropout=0.4, recurrent_dropout=0.3),
    "gru": functools.partial(NN.GRU, I, H, dropout=0.4, recurrent_dropout=0.3),
    "rnn": functools.partial(NN.SimpleRNN, I, H, dropout=0.4, recurrent_dropout=0.3),
}


@pytest.mark.parametrize("make", DROPPING.values(), ids=DROPPING)
def test_dropout_is_that_of_the_combinators_and_comes_with_a_key(make):
    layer = make(return_sequences=True, return_state=True, rngs=nnx.Rngs(0))
    x, key = inputs(B, T), jax.random.key(5)
    inner = layer.cell.description.arguments[0][1].description.arguments[0][1]
    cell = jl.dropout(jl.recurrent_dropout(inner, rate=0.3), rate=0.4, constant=True)
    assert layer.cell == cell
    outputs, *state = layer(x, key=key)
    out = jl.unroll(cell, layer.params, x, key=key)
    close(outputs, out.outputs)
    close(tuple(state), tuple(out.carry.carry.carry))
    close(layer(x), layer(x), 0)
    close(layer(x)[0], jl.unroll(inner, layer.params, x).outputs)
    # A state is a state, whether noise is drawn or not.
    head, *middle = layer(x[:, :2])
    tail, *end = layer(x[:, 2:], initial_state=middle)
    close((jnp.concatenate([head, tail], axis=1), *end), layer(x))
    assert layer(x, initial_state=middle, key=key)[0].shape == outputs.shape


def test_a_stream_of_nnx_draws_new_noise_at_each_call():
    layer, rngs = DROPPING["lstm"](rngs=nnx.Rngs(0)), nnx.Rngs(dropout=1)
    a, b = (layer(inputs(B, T), rngs=rngs) for _ in range(2))
    assert abs(a - b).max() > 1e-3
    again = layer(inputs(B, T), rngs=nnx.Rngs(dropout=1).dropout)
    close(a, again, 0)
    with pytest.raises(ValueError, match="`key` and `rngs` both bring randomness"):
        layer(inputs(B, T), rngs=rngs, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"`rngs` must be a flax.nnx.Rngs or RngStream, got 3"):
        layer(inputs(B, T), rngs=3)


def test_a_layer_that_drops_out_holds_no_random_numbers_and_can_be_differentiated():
    layer = DROPPING["gru"](rngs=nnx.Rngs(0))
    assert {type(v) for _, v in nnx.to_flat_state(nnx.state(layer))} == {nnx.Param}

    def loss(layer, key):
        return (layer(inputs(B, T), key=key) ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(layer, jax.random.key(1))
    assert abs(gradient.kernel[...]).max() > 0


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (1.0, r"must lie in \[0, 1\), got 1.0"),
        (-0.1, r"must lie in \[0, 1\), got -0.1"),
        ("half", "must be a number, got 'half'"),
    ],
)
def test_rates_are_refused_by_their_names(name, rate, message):
    with pytest.raises((TypeError, ValueError), match=f"`{name}` {message}"):
        NN.LSTM(I, H, rngs=nnx.Rngs(0), **{name: rate})


# Statefulness.


def test_a_stateful_layer_goes_on_until_it_is_reset():
    x, rngs = inputs(B, T), nnx.Rngs
    whole = NN.LSTM(I, H, return_sequences=True, rngs=rngs(0))(x)
    layer = NN.LSTM(I, H, return_sequences=True, stateful=True, rngs=rngs(0))
    assert layer.state is None
    parts = [layer(x[:, :2]), layer(x[:, 2:5]), layer(x[:, 5:])]
    close(jnp.concatenate(parts, axis=1), whole)
    assert type(layer.state.hidden) is NN.RNNState
    close(layer.state.hidden[...], whole[:, -1])
    with pytest.raises(ValueError, match=r"`inputs` must have the batch shape of the state that"):
        layer(x[:2])
    layer.reset_state()
    close(layer(x[:2]), whole[:2])
    close(layer(x[:2], initial_state=[jnp.zeros((2, H))] * 2), whole[:2])


def test_state_is_carried_through_the_jit_of_nnx_and_the_plain_one():
    x = inputs(B, T)
    whole = NN.GRU(I, H, return_sequences=True, rngs=nnx.Rngs(3))(x)
    layer = NN.GRU(I, H, return_sequences=True, stateful=True, rngs=nnx.Rngs(3))
    call = nnx.jit(lambda layer, x: layer(x))
    parts = [call(layer, x[:, t : t + 2]) for t in range(0, T, 2)]
    close(jnp.concatenate(parts, axis=1), whole)
    layer.reset_state()
    step, parts = jax.jit(lambda layer, x: (layer(x), layer)), []
    for t in range(0, T, 2):
        part, layer = step(layer, x[:, t : t + 2])
        parts.append(part)
    close(jnp.concatenate(parts, axis=1), whole)


def test_a_state_that_drops_out_is_carried_without_its_noise():
    layer = NN.LSTM(I, H, dropout=0.5, stateful=True, rngs=nnx.Rngs(0))
    x = inputs(B, T)
    first = layer(x, key=jax.random.key(0))
    assert isinstance(layer.state, jl.LSTMCarry)
    carry = jax.tree.map(
        lambda v: v[...], layer.state, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )
    found = layer(x)  # goes on, and drops nothing
    inner = layer.cell.description.arguments[0][1]
    close(found, jl.unroll(inner, layer.params, x, carry=carry).outputs[:, -1])
    assert abs(found - first).max() > 1e-3


def test_stacked_and_bidirectional_layers_are_reset_whole():
    rngs = nnx.Rngs(0)
    make = functools.partial(NN.LSTM, stateful=True, return_sequences=True, rngs=rngs)
    layer = NN.Stacked(NN.Bidirectional(make(I, H), rngs=rngs), make(2 * H, 2))
    first = layer(inputs(B, T))
    assert abs(layer(inputs(B, T)) - first).max() > 1e-4
    layer.reset_state()
    close(layer(inputs(B, T)), first)


def test_a_new_backward_layer_carries_nothing_yet():
    forward = NN.LSTM(I, H, stateful=True, return_sequences=True, rngs=nnx.Rngs(0))
    forward(inputs(B, T))
    layer = NN.Bidirectional(forward, rngs=nnx.Rngs(1))
    assert layer.forward_layer.state is not None
    assert layer.backward_layer.state is None


# Parameters that are there.


def test_a_layer_of_given_parameters():
    cell = jl.gru(input_size=I, hidden_size=H)
    params = cell.init(jax.random.key(4))
    layer = NN.RNN(cell, params=params)
    close(layer(inputs(B, T)), jl.unroll(cell, params, inputs(B, T)).outputs[:, -1])
    with pytest.raises(ValueError, match=r"`params` must be GRUParams\(kernel=float32\[3,12\]"):
        NN.RNN(cell, params=params._replace(bias=None))
    with pytest.raises(TypeError, match=r"`rngs` must be a flax\.nnx\.Rngs, got None"):
        NN.RNN(cell)


# Sharding.


def test_parameters_take_the_metadata_of_their_initialisers_and_are_sharded():
    if len(jax.devices()) < 2:
        pytest.skip("one device only")
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    columns = functools.partial(nnx.with_partitioning, sharding=(None, "model"))
    with jax.set_mesh(mesh):
        layer = NN.LSTM(
            I,
            H,
            kernel_initializer=columns(jl.initializers.glorot_uniform()),
            recurrent_initializer=columns(jl.initializers.orthogonal()),
            bias_initializer=nnx.with_partitioning(nnx.initializers.zeros, ("model",)),
            rngs=nnx.Rngs(0),
        )
        assert layer.kernel.get_metadata()["out_sharding"] == (None, "model")
        specs = [param[...].sharding.spec for param in (layer.kernel, layer.recurrent_kernel)]
        assert all(spec[1] == "model" for spec in specs)
        assert layer.bias[...].sharding.spec[0] == "model"
        found = nnx.jit(lambda layer, x: layer(x))(layer, inputs(B, T))
    plain = NN.LSTM(I, H, rngs=nnx.Rngs(0))
    close(found, plain(inputs(B, T)))


def test_metadata_goes_to_parameters_by_name():
    cell = jl.stack(jl.lstm(input_size=I, hidden_size=H), jl.gru(input_size=H, hidden_size=H))
    layer = NN.RNN(cell, metadata={"kernel": {"tag": "in"}}, rngs=nnx.Rngs(0))
    tags = [w.kernel.get_metadata().get("tag") for w in layer.weights]
    assert tags == ["in", "in"]
    assert "tag" not in layer.weights[0].bias.get_metadata()
    with pytest.raises(ValueError, match=r"`metadata` must name parameters among .*, got 'kernal'"):
        NN.RNN(cell, metadata={"kernal": {}}, rngs=nnx.Rngs(0))


def test_equal_wrapped_initialisers_make_equal_cells():
    wrapped = nnx.with_metadata(jl.initializers.glorot_uniform(), tag="in")
    a, b = (NN.LSTM(I, H, kernel_initializer=wrapped, rngs=nnx.Rngs(0)) for _ in range(2))
    assert a.cell == b.cell


def test_frames_that_do_not_lie_beside_each_other_are_refused():
    frames = {"filters": 2, "kernel_size": 3, "return_sequences": True}
    one = NN.ConvLSTM1D((8, 1), **frames, rngs=nnx.Rngs(0))
    two = NN.ConvLSTM1D((8, 1), **frames, strides=2, go_backwards=True, rngs=nnx.Rngs(0))
    line = r"`merge_mode` 'concat' needs outputs of equal shape but for the last size, got \(6, 2"
    with pytest.raises(ValueError, match=line):
        NN.Bidirectional(one, two)
