"""Weights in and out, and arithmetic held against the neighbours' own, where they are installed."""

import functools
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import within

import jaxlstm as jl

os.environ.setdefault("KERAS_BACKEND", "jax")
pytestmark = pytest.mark.usefixtures("compile_fast")
close = within(1e-10)
B, T, I, H = 3, 6, 3, 4
LENGTHS = np.array([6, 2, 4])
NUMBERS = np.random.default_rng(0)


def normal(*shape, dtype="float64"):
    return NUMBERS.normal(size=shape).astype(dtype)


def randomized(tree, dtype="float64"):
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * normal(*leaf.shape), dtype), tree)


def params_of(cell, dtype="float64"):
    return randomized(jax.eval_shape(cell.init, jax.random.key(0)), dtype)


def same(a, b):
    """The same bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(x, y)


def ours(cell, params, x, carry, weight, lengths=None):
    """Outputs, last carry, and the gradients of a weighted sum of both."""

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def loss(params, x, carry):
        out = jl.unroll(cell, params, x, carry=carry, lengths=lengths)
        leaves = jax.tree.leaves(out.carry)
        total = (out.outputs * weight).sum() + sum(
            (k + 1.0) * (leaf**2).sum() for k, leaf in enumerate(leaves)
        )
        return total, (out.outputs, out.carry)

    (_, found), gradients = loss(params, x, carry)
    return found, gradients


# torch.

TORCH = {
    "lstm": ("LSTM", {}),
    "lstm-deep": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "lstm-projected": ("LSTM", {"proj_size": 2, "num_layers": 2}),
    "lstm-no-bias": ("LSTM", {"bias": False}),
    "gru": ("GRU", {"num_layers": 2}),
    "gru-both-ways": ("GRU", {"bidirectional": True}),
    "rnn": ("RNN", {"num_layers": 2, "bidirectional": True}),
    "rnn-relu": ("RNN", {"nonlinearity": "relu"}),
}


def torch_states(cell, dtype="float64"):
    """A random carry of ours, and torch's h_0, c_0 of it."""
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (B,)), params_of(cell))
    carry = randomized(carry, dtype)
    return carry, *torch_form(carry)


def torch_form(carry):
    each = jax.tree.leaves(carry, is_leaf=lambda node: hasattr(node, "hidden"))
    hidden = np.stack([np.asarray(one.hidden) for one in each])
    if not hasattr(each[0], "cell"):
        return (hidden,)
    return hidden, np.stack([np.asarray(one.cell) for one in each])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize(("name", "options"), TORCH.values(), ids=TORCH)
def test_torch_computes_the_same_and_has_the_same_gradients(name, options, ragged):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    module = getattr(torch.nn, name)(I, H, batch_first=True, **options).double()
    cell, params = jl.convert.torch.load(module)
    # Bit for bit there and back.
    again = jl.convert.torch.dump(cell, params)
    theirs = {k: v.numpy() for k, v in module.state_dict().items()}
    assert list(again) == list(theirs)
    same(again, theirs)
    # Outputs, states, gradients.
    carry, *states = torch_states(cell)
    states = [torch.tensor(s, requires_grad=True) for s in states]
    given = torch.tensor(normal(B, T, I), requires_grad=True)
    x = given
    if ragged:
        x = torch.nn.utils.rnn.pack_padded_sequence(
            given, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
        )
    outputs, last = module(x, tuple(states) if len(states) == 2 else states[0])
    if ragged:
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(
            outputs, batch_first=True, total_length=T
        )
    last = last if isinstance(last, tuple) else (last,)
    weight = normal(*outputs.shape)
    found, gradients = ours(
        cell, params, given.detach().numpy(), carry, weight, LENGTHS if ragged else None
    )
    close(found[0], outputs.detach().numpy())
    close(torch_form(found[1]), tuple(part.detach().numpy() for part in last))
    loss = (outputs * torch.tensor(weight)).sum()
    # `ours` weighs the leaves of the carry by their order: layer by layer, hidden before cell.
    for k in range(len(states[0])):
        for j, part in enumerate(last):
            loss = loss + (len(last) * k + j + 1.0) * (part[k] ** 2).sum()
    loss.backward()
    close(np.asarray(gradients[1]), given.grad.numpy())
    close(torch_form(gradients[2]), tuple(s.grad.numpy() for s in states))
    wanted = {k: v.grad.numpy() for k, v in module.named_parameters()}
    close(jl.convert.torch.dump(cell, gradients[0]), wanted)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "options"),
    [("LSTMCell", {}), ("GRUCell", {"bias": False}), ("RNNCell", {"nonlinearity": "relu"})],
)
@pytest.mark.parametrize("prefix", ["", "policy.core."])
def test_the_cells_of_torch_are_read_too(name, options, prefix):
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, name)(I, H, **options).double()
    state = {prefix + name: array for name, array in module.state_dict().items()}
    given = {"nonlinearity": module.nonlinearity} if name == "RNNCell" else {}
    cell, params = jl.convert.torch.load(state, prefix=prefix, **given)
    if not prefix:
        assert jl.convert.torch.load(module)[0] == cell
    carry, *states = torch_states(cell)
    x, h = normal(B, I), [torch.tensor(part[0]) for part in states]
    found = module(torch.tensor(x), tuple(h) if len(h) == 2 else h[0])
    wanted = found if isinstance(found, tuple) else (found,)
    after, _ = cell.step(params, carry, x)
    close(torch_form(after), tuple(part.detach().numpy()[None] for part in wanted))
    if prefix:
        with pytest.raises(ValueError, match=r"`prefix` must be one of \['policy.core.'\], got ''"):
            jl.convert.torch.load(state)


def test_a_cell_with_one_bias_takes_both_of_torch():
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(I, H)
    cell = jl.lstm(input_size=I, hidden_size=H)
    found, params = jl.convert.torch.load(module.state_dict(), cell)
    assert found == cell
    state = module.state_dict()
    same(params.bias, jnp.asarray((state["bias_ih_l0"] + state["bias_hh_l0"]).numpy()))
    again = jl.convert.torch.load(jl.convert.torch.dump(cell, params), cell)[1]
    same(again, params)


def test_torch_files_are_read_without_running_them(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(I, H)
    wanted = jl.convert.torch.load(module)[1]
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    same(jl.convert.torch.load(tmp_path / "weights.pt")[1], wanted)
    files = pytest.importorskip("safetensors.torch")
    files.save_file(module.state_dict(), tmp_path / "weights.safetensors")
    same(jl.convert.torch.load(tmp_path / "weights.safetensors")[1], wanted)
    torch.save(module, tmp_path / "pickled.pt")
    with pytest.raises(ValueError, match=r"must be a file of weights alone, .*pickled\.pt"):
        jl.convert.torch.load(tmp_path / "pickled.pt")


def test_torch_keeps_half_precision():
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(I, H).bfloat16()
    cell, params = jl.convert.torch.load(module)
    assert params.kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        params.kernel.astype("float32").T, module.weight_ih_l0.detach().float().numpy()
    )
    assert dict(cell.description.arguments)["param_dtype"] == "bfloat16"


# Keras.


def keras_layers(keras, dtype="float64"):
    k = keras.layers
    more = {"return_sequences": True, "return_state": True, "dtype": dtype}
    return {
        "lstm": k.LSTM(H, **more),
        "lstm-relu": k.LSTM(H, activation="relu", recurrent_activation="tanh", **more),
        "gru": k.GRU(H, **more),
        "gru-reset-before": k.GRU(H, reset_after=False, **more),
        "gru-no-bias": k.GRU(H, use_bias=False, **more),
        "rnn": k.SimpleRNN(H, **more),
        "lstm-both-ways": k.Bidirectional(k.LSTM(H, **more), dtype=dtype),
        "gru-both-ways": k.Bidirectional(k.GRU(H, **more), dtype=dtype),
        "conv1d": k.ConvLSTM1D(2, 3, strides=2, **more),
        "conv2d": k.ConvLSTM2D(2, (3, 2), padding="same", **more),
        "conv2d-dilated": k.ConvLSTM2D(2, 2, dilation_rate=(2, 1), **more),
        "conv2d-dilated-same": k.ConvLSTM2D(2, 3, dilation_rate=2, padding="same", **more),
        "conv3d": k.ConvLSTM3D(2, 2, **more),
    }


SPACE = {"conv1d": (7, I), "conv2d": (5, 4, I), "conv3d": (3, 4, 3, I)}
SPACE |= dict.fromkeys(("conv2d-dilated", "conv2d-dilated-same"), SPACE["conv2d"])
KERAS = (
    "lstm", "lstm-relu", "gru", "gru-reset-before", "gru-no-bias", "rnn", "lstm-both-ways",
    "gru-both-ways", "conv1d", "conv2d", "conv2d-dilated", "conv2d-dilated-same", "conv3d",
)  # fmt: skip


keras_warns = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


def in_double(keras, layer):
    """Let a layer compute in float64 throughout: the tanh of Keras itself computes in float32."""
    cells = [layer.cell] if hasattr(layer, "cell") else []
    if hasattr(layer, "forward_layer"):
        cells = [layer.forward_layer.cell, layer.backward_layer.cell]
    for cell, name in itertools.product(cells, ("activation", "recurrent_activation")):
        if getattr(cell, name, None) is keras.activations.tanh:
            setattr(cell, name, jnp.tanh)


@keras_warns
@pytest.mark.usefixtures("x64", "lenient")
@pytest.mark.parametrize("name", KERAS)
def test_keras_computes_the_same_and_has_the_same_gradients(name):
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras does not run on JAX here")
    layer, shape = keras_layers(keras)[name], SPACE.get(name, (I,))
    layer.build((B, T, *shape))
    layer.set_weights([0.5 * normal(*w.shape) for w in layer.get_weights()])
    cell, params = jl.convert.keras.load(layer)
    same(jl.convert.keras.dump(cell, params), layer.get_weights())
    in_double(keras, layer)
    x, mask = normal(B, T, *shape), np.arange(T) < LENGTHS[:, None]
    if name.startswith("conv"):
        mask = None  # which Keras gets wrong for some shapes
    carry = randomized(jax.eval_shape(lambda p: cell.initial_carry(p, (B,)), params))
    weight = normal(B, T, *jl.output_shape(cell))
    if mask is not None:
        weight = weight * mask[..., None]  # Keras repeats the last output in the padding
    found, gradients = ours(cell, params, x, carry, weight, None if mask is None else LENGTHS)

    others = [v.value for v in layer.non_trainable_variables]

    def theirs(weights, x, states):
        values, _ = layer.stateless_call(weights, others, x, mask=mask, initial_state=states)
        outputs, *last = values
        total = (outputs * weight).sum()
        return total + sum((k + 1.0) * (s**2).sum() for k, s in enumerate(last)), (outputs, last)

    weights = [jnp.asarray(w) for w in layer.get_weights()]
    states = list(jax.tree.leaves(carry))
    (_, (outputs, last)), wanted = jax.value_and_grad(theirs, argnums=(0, 1, 2), has_aux=True)(
        weights, jnp.asarray(x), states
    )
    shown = found[0] if mask is None else np.where(mask[..., None], outputs, 0)
    close(shown, found[0])
    close(jax.tree.leaves(found[1]), [np.asarray(s) for s in last])
    close(jl.convert.keras.dump(cell, gradients[0]), [np.asarray(w) for w in wanted[0]])
    close(gradients[1], wanted[1])
    close(jax.tree.leaves(gradients[2]), list(wanted[2]))


@keras_warns
@pytest.mark.usefixtures("lenient")
def test_files_of_keras_are_read(tmp_path):
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    k = keras.layers
    model = keras.Sequential(
        [
            k.Input((T, I)),
            k.Masking(),
            k.LSTM(H, return_sequences=True, activation="relu"),
            k.Bidirectional(k.GRU(2, return_sequences=True)),
            k.LSTM(3, return_sequences=True),
        ]
    )
    cell, params = jl.convert.keras.load(model)
    model.save(tmp_path / "model.keras")
    found, same_params = jl.convert.keras.load(tmp_path / "model.keras")
    assert found == cell
    same(same_params, params)
    x = normal(B, T, I, dtype="float32")
    close(jl.unroll(cell, params, x).outputs, np.asarray(model(x)), 1e-5)
    plain = keras.Sequential(
        [k.Input((T, I))] + [k.LSTM(H, return_sequences=True) for _ in range(3)]
    )
    plain.save_weights(tmp_path / "plain.weights.h5")
    same(jl.convert.keras.load(tmp_path / "plain.weights.h5")[1], jl.convert.keras.load(plain)[1])
    model.save_weights(tmp_path / "mixed.weights.h5")
    with pytest.raises(ValueError, match=r"whose order the file .* mixed\.weights\.h5|mixed"):
        jl.convert.keras.load(tmp_path / "mixed.weights.h5")


@keras_warns
@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d"])
def test_files_of_convolutional_layers_are_read(name, tmp_path):
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    layer = keras_layers(keras, "float32")[name]
    inputs = keras.Input((T, *SPACE[name]))
    model = keras.Model(inputs, layer(inputs)[0])
    model.save(tmp_path / "model.keras")
    wanted = jl.convert.keras.load(layer)
    found = jl.convert.keras.load(tmp_path / "model.keras")
    assert found[0] == wanted[0]
    same(found[1], wanted[1])


@keras_warns
@pytest.mark.usefixtures("lenient")
def test_a_model_of_keras_is_its_recurrent_layers(tmp_path):
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    k = keras.layers
    model = keras.Sequential(
        [
            k.Input((T,), dtype="int32"),
            k.Embedding(5, I),
            k.GRU(H, return_sequences=True),
            k.TimeDistributed(k.Dense(2)),
        ]
    )
    cell, params = jl.convert.keras.load(model)
    assert cell == jl.gru(input_size=I, hidden_size=H)
    same(jl.convert.keras.dump(cell, params), model.layers[1].get_weights())
    model.save(tmp_path / "model.keras")
    same(jl.convert.keras.load(tmp_path / "model.keras")[1], params)
    with pytest.raises(ValueError, match=r"`weights` must be of LSTM, .* got Embedding"):
        jl.convert.keras.load(model.layers[0])


@keras_warns
@pytest.mark.usefixtures("lenient")
def test_layers_and_modules_say_their_activations():
    keras, torch = pytest.importorskip("keras"), pytest.importorskip("torch")
    layer = keras.layers.LSTM(H, activation="relu")
    layer.build((B, T, I))
    with pytest.raises(ValueError, match=r"`activation='relu'`, as these weights of Keras do"):
        jl.convert.keras.load(layer, jl.lstm(input_size=I, hidden_size=H))
    jl.convert.keras.load(layer, jl.lstm(input_size=I, hidden_size=H, activation="relu"))
    module = torch.nn.RNN(I, H, nonlinearity="relu")
    with pytest.raises(ValueError, match=r"`activation='relu'`, as these weights of torch do"):
        jl.convert.torch.load(module, jl.rnn(input_size=I, hidden_size=H))
    cell = jl.rnn(input_size=I, hidden_size=H, activation="relu")
    assert jl.convert.torch.load(module, cell)[0] == cell
    assert jl.convert.torch.load(module.state_dict(), cell)[0] == cell


# ONNX.

ONNX = {
    "lstm": jl.lstm(input_size=I, hidden_size=H),
    "lstm-peepholes": jl.lstm(input_size=I, hidden_size=H, peepholes=True),
    "lstm-coupled": jl.lstm(input_size=I, hidden_size=H, coupled=True),
    "lstm-coupled-peepholes": jl.lstm(input_size=I, hidden_size=H, coupled=True, peepholes=True),
    "lstm-activations": jl.lstm(
        input_size=I, hidden_size=H, activation="relu", output_activation="tanh"
    ),
    "gru": jl.gru(input_size=I, hidden_size=H),
    "gru-reset-before": jl.gru(input_size=I, hidden_size=H, reset_after=False),
    "rnn": jl.rnn(input_size=I, hidden_size=H, activation="relu", use_bias=False),
    "deep": jl.stack(
        jl.bidirectional(
            jl.lstm(input_size=I, hidden_size=H), jl.lstm(input_size=I, hidden_size=H)
        ),
        jl.gru(input_size=2 * H, hidden_size=3),
    ),
}


@pytest.mark.parametrize("cell", ONNX.values(), ids=ONNX)
def test_a_runtime_of_onnx_computes_the_same(cell, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    params = params_of(cell, "float32")
    file = tmp_path / "model.onnx"
    jl.convert.onnx_model.write(file, cell, params)
    assert os.listdir(tmp_path) == ["model.onnx"]
    x = normal(B, T, I, dtype="float32")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"inputs": x, "lengths": LENGTHS.astype("int32")})
    out = jl.unroll(cell, params, x, lengths=LENGTHS)
    close(out.outputs, found[0], 1e-5)
    wanted = sorted(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(out.carry))
    parts = sorted(float(np.abs(s).sum()) for state in found[1:] for s in state)
    close(wanted, parts, 1e-5)
    # There and back, through the file and through the operators.
    again, same_params = jl.convert.onnx.load(file, cell)
    close(jl.unroll(again, same_params, x, lengths=LENGTHS).outputs, out.outputs, 1e-6)
    same(jl.convert.onnx.load(jl.convert.onnx.dump(cell, params), cell)[1], params)
    same(jl.convert.onnx.load(onnx.load(file), cell)[1], params)


# JAX's own.


@pytest.mark.usefixtures("x64", "lenient")
@pytest.mark.parametrize("kind", ["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"])
@pytest.mark.parametrize("side", ["nnx", "linen"])
def test_the_cells_of_flax_compute_the_same(kind, side):
    nnx = pytest.importorskip("flax.nnx")
    linen = pytest.importorskip("flax.linen")
    if side == "nnx":
        types = {"dtype": "float64", "param_dtype": "float64"}
        theirs = getattr(nnx, kind)(I, H, rngs=nnx.Rngs(0), **types)
        graph, state = nnx.split(theirs)
        weights = randomized(state)

        def step(weights, carry, x):
            return nnx.merge(graph, weights)(carry, x)

        plain = nnx.to_pure_dict(weights)
    else:
        theirs = getattr(linen, kind)(H, param_dtype="float64")
        zeros = theirs.initialize_carry(jax.random.key(0), (B, I))
        weights = randomized(theirs.init(jax.random.key(0), zeros, jnp.ones((B, I))))
        plain, step = weights, theirs.apply
    cell, params = jl.convert.flax.load(weights)
    style = "linen" if side == "linen" else "nnx_optimized" if "Opt" in kind else "nnx"
    same(jl.convert.flax.dump(cell, params, style), jax.tree.map(np.asarray, dict(plain)))
    carry = randomized(jax.eval_shape(lambda p: cell.initial_carry(p, (B,)), params))
    x, weight = jnp.asarray(normal(B, T, I)), normal(B, T, H)
    found, gradients = ours(cell, params, x, carry, weight)
    first = (carry.cell, carry.hidden) if hasattr(carry, "cell") else carry.hidden

    def loss(weights, x, first):
        state, outputs = first, []
        for t in range(T):
            state, y = step(weights, state, x[:, t])
            outputs.append(y)
        outputs = jnp.stack(outputs, axis=1)
        parts = reversed(state) if isinstance(state, tuple) else [state]  # hidden before cell
        total = sum((k + 1.0) * (part**2).sum() for k, part in enumerate(parts))
        return total + (outputs * weight).sum(), outputs

    (_, outputs), wanted = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(
        weights, x, first
    )
    close(found[0], outputs)
    close(gradients[1], wanted[1])
    their_gradient = wanted[0] if side == "linen" else nnx.to_pure_dict(wanted[0])
    if kind == "GRUCell" and side == "nnx":
        zeroed = gradients[0]._replace(recurrent_bias=jnp.zeros(3 * H))
        close(jl.convert.flax.dump(cell, zeroed, style), dict(their_gradient))
    elif kind == "GRUCell":
        zeroed = gradients[0].recurrent_bias.at[: 2 * H].set(0)
        zeroed = gradients[0]._replace(recurrent_bias=zeroed)
        close(jl.convert.flax.dump(cell, zeroed, style), dict(their_gradient))
    else:
        close(jl.convert.flax.dump(cell, gradients[0], style), dict(their_gradient))


@pytest.mark.usefixtures("x64", "lenient")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_cells_of_haiku_compute_the_same(kind):
    hk = pytest.importorskip("haiku")

    def apply(x, *state):
        core = getattr(hk, kind)(H)
        state = hk.LSTMState(*state) if kind == "LSTM" else state[0]
        return hk.dynamic_unroll(core, x, state, time_major=False)

    theirs = hk.without_apply_rng(hk.transform(apply))
    x, weight = jnp.asarray(normal(B, T, I)), normal(B, T, H)
    states = [jnp.asarray(normal(B, H)) for _ in range(2 if kind == "LSTM" else 1)]
    weights = randomized(theirs.init(jax.random.key(0), x, *states))
    cell, params = jl.convert.haiku.load(weights)
    again = jl.convert.haiku.dump(cell, params)
    close(again, jax.tree.map(np.asarray, weights), 1e-15)
    carry = type(jax.eval_shape(cell.initial_carry, params))(*states)
    found, gradients = ours(cell, params, x, carry, weight)

    def loss(weights, x, *states):
        outputs, last = theirs.apply(weights, x, *states)
        total = sum((k + 1.0) * (s**2).sum() for k, s in enumerate(jax.tree.leaves(last)))
        return (outputs * weight).sum() + total, outputs

    (_, outputs), wanted = jax.value_and_grad(loss, argnums=range(2 + len(states)), has_aux=True)(
        weights, x, *states
    )
    close(found[0], outputs)
    close(gradients[1], wanted[1])
    close(tuple(gradients[2]), tuple(wanted[2:]))
    mapped = jl.convert.haiku.dump(cell, gradients[0])
    if kind == "LSTM":
        mapped["lstm/linear"]["b"][2 * H : 3 * H] += 1  # a gradient has no forget bias to take off
    close(mapped, jax.tree.map(np.asarray, dict(wanted[0])))


@pytest.mark.usefixtures("x64", "lenient")
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_the_cells_of_equinox_compute_the_same(kind):
    eqx = pytest.importorskip("equinox")
    theirs = randomized(
        eqx.filter(getattr(eqx.nn, kind)(I, H, key=jax.random.key(0)), eqx.is_array)
    )
    cell, params = jl.convert.equinox.load(theirs)
    arrays = jl.convert.equinox.dump(cell, params)
    same(arrays, {name: np.asarray(getattr(theirs, name)) for name in arrays})
    x, weight = jnp.asarray(normal(B, T, I)), normal(B, T, H)
    carry = randomized(jax.eval_shape(lambda p: cell.initial_carry(p, (B,)), params))
    found, gradients = ours(cell, params, x, carry, weight)

    def loss(theirs, x, *first):
        state, outputs = (tuple(first) if len(first) == 2 else first[0]), []
        for t in range(T):
            state = jax.vmap(theirs)(x[:, t], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        outputs = jnp.stack(outputs, axis=1)
        total = sum((k + 1.0) * (s**2).sum() for k, s in enumerate(jax.tree.leaves(state)))
        return (outputs * weight).sum() + total, outputs

    (_, outputs), wanted = jax.value_and_grad(loss, argnums=range(2 + len(carry)), has_aux=True)(
        theirs, x, *carry
    )
    close(found[0], outputs)
    close(gradients[1], wanted[1])
    close(tuple(gradients[2]), tuple(wanted[2:]))
    own = gradients[0]
    if kind == "GRUCell":
        own = own._replace(recurrent_bias=own.recurrent_bias.at[: 2 * H].set(0))
    mapped = jl.convert.equinox.dump(cell, own)
    close(mapped, {name: np.asarray(getattr(wanted[0], name)) for name in mapped})


@pytest.mark.usefixtures("x64", "lenient")
@pytest.mark.parametrize(("layers", "both"), [(1, False), (1, True), (2, True)])
def test_the_reference_of_jax_for_cudnn_computes_the_same(layers, both):
    rnn = pytest.importorskip("jax.experimental.rnn")
    sizes = {"input_size": I, "hidden_size": H, "num_layers": layers, "bidirectional": both}
    flat = 0.5 * normal(rnn.get_num_params_in_lstm(I, H, layers, both))
    cell, params = jl.convert.packed.load(flat, **sizes)
    same(jl.convert.packed.dump(cell, params), flat)
    carry, hidden, memory = torch_states(cell)
    x, weight = jnp.asarray(normal(B, T, I)), normal(B, T, H * (2 if both else 1))
    found, gradients = ours(cell, params, x, carry, weight)

    def loss(flat, x, hidden, memory):
        unpacked = rnn.unpack_lstm_weights(flat, I, H, layers, both)
        outputs, h_n, c_n = rnn.lstm_ref(
            x, hidden, memory, *unpacked, jnp.full(B, T, "int32"), I, H, layers, 0.0, both
        )
        total = (outputs * weight).sum()
        for k in range(len(h_n)):
            total = (
                total + (2 * k + 1.0) * (h_n[k] ** 2).sum() + (2 * k + 2.0) * (c_n[k] ** 2).sum()
            )
        return total, outputs

    (_, outputs), wanted = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(
        jnp.asarray(flat), x, jnp.asarray(hidden), jnp.asarray(memory)
    )
    close(found[0], outputs)
    close(gradients[1], wanted[1])
    close(torch_form(gradients[2]), tuple(np.asarray(w) for w in wanted[2:]))
    close(jl.convert.packed.dump(cell, gradients[0]), np.asarray(wanted[0]))


# Our own file.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_our_own_file_gives_back_the_bits_and_the_cell(tmp_path, dtype):
    pytest.importorskip("safetensors")
    one = jl.lstm(input_size=I, hidden_size=H, param_dtype=dtype, peepholes=True)
    cell = jl.stack(
        jl.bidirectional(one, one), jl.dropout(jl.mgu(input_size=8, hidden_size=2), rate=0.5)
    )
    params = params_of(cell, dtype)
    file = tmp_path / "net.safetensors"
    jl.convert.safetensors.dump(cell, params, file)
    found, again = jl.convert.safetensors.load(file)
    assert found == cell
    same(again, params)
    assert os.listdir(tmp_path) == ["net.safetensors"]


# Where we differ on purpose: the list in the docstring of `jaxlstm.convert`.


def test_torch_and_we_differ_in_sequences_without_a_step():
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(I, H, batch_first=True)
    cell, params = jl.convert.torch.load(module)
    x, lengths = normal(2, T, I, dtype="float32"), np.array([3, 0])
    with pytest.raises(RuntimeError, match="greater than 0"):
        torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x), torch.tensor(lengths), True)
    carry = jl.LSTMCarry(jnp.ones((2, H)), 2 * jnp.ones((2, H)))
    out = jl.unroll(cell, params, x, carry=carry, lengths=lengths)
    same(jax.tree.map(lambda a: a[1], out.carry), jax.tree.map(lambda a: a[1], carry))


@keras_warns
@pytest.mark.usefixtures("lenient")
def test_keras_and_we_differ_in_what_padding_holds_and_does():
    keras = pytest.importorskip("keras")
    layer = keras.layers.LSTM(H, return_sequences=True)
    layer.build((2, T, I))
    cell, params = jl.convert.keras.load(layer)
    mask = np.arange(T) < np.array([[6], [2]])
    x = normal(2, T, I, dtype="float32")
    theirs = np.asarray(layer(x, mask=mask))
    out = jl.unroll(cell, params, x, mask=mask)
    assert not out.outputs[1, 2:].any()
    close(jl.unroll(cell, params, x, mask=mask, masked_outputs="hold").outputs, theirs, 1e-6)
    dirty = jnp.where(mask[..., None], x, jnp.nan)
    others = [v.value for v in layer.non_trainable_variables]

    def keras_loss(weights):
        return (layer.stateless_call(weights, others, dirty, mask=mask)[0] ** 2).sum()

    theirs = jax.grad(keras_loss)([w.value for w in layer.trainable_variables])
    assert np.isnan(theirs[0]).any()

    def our_loss(params):
        return (jl.unroll(cell, params, dirty, mask=mask).outputs ** 2).sum()

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(our_loss)(params)))


@keras_warns
@pytest.mark.usefixtures("lenient")
def test_keras_and_we_differ_where_nothing_valid_came_yet_and_in_a_lone_output():
    keras, nnx = pytest.importorskip("keras"), pytest.importorskip("flax.nnx")
    x, mask = normal(1, T, I, dtype="float32"), (np.arange(T) == 1)[None]
    state = [normal(1, H, dtype="float32") for _ in range(2)]
    theirs = keras.layers.LSTM(H, return_sequences=True)
    theirs.build((1, T, I))
    cell, params = jl.convert.keras.load(theirs)
    ours = jl.nn.RNN(cell, params=params, return_sequences=True)
    given, shown = (np.asarray(f(x, mask=mask, initial_state=state)) for f in (theirs, ours))
    same(given[0, 0], state[0][0])
    assert not shown[0, 0].any()
    close(given[0, 1:], shown[0, 1:], 1e-6)
    lone = keras.layers.LSTM(H, zero_output_for_mask=True)
    lone.build((1, T, I))
    lone.set_weights(theirs.get_weights())
    assert not np.asarray(lone(x, mask=mask)).any()
    ours = jl.nn.LSTM(I, H, zero_output_for_mask=True, rngs=nnx.Rngs(0))
    last = jl.unroll(ours.cell, ours.params, x, mask=mask).carry.hidden
    same(ours(jnp.asarray(x), mask=mask), last)


# What is refused.

LSTM = jl.lstm(input_size=I, hidden_size=H)
STATE = {
    "weight_ih_l0": np.zeros((16, 3), "f"),
    "weight_hh_l0": np.zeros((16, 4), "f"),
    "bias_ih_l0": np.zeros(16, "f"),
    "bias_hh_l0": np.zeros(16, "f"),
}
CONVERT = jl.convert


def lacking(name):
    return {key: value for key, value in STATE.items() if key != name}


SILU = jl.lstm(input_size=I, hidden_size=H, activation=jax.nn.silu)


def dumped(module, cell):
    return lambda: module.dump(cell, params_of(cell, "float32"))


def node(op="LSTM", **attributes):
    arrays = {"W": np.zeros((1, 16, 3), "f"), "R": np.zeros((1, 16, 4), "f")}
    return CONVERT.onnx.Node(op, attributes, arrays)


def sized(**options):
    return jl.lstm(input_size=I, hidden_size=H, **options)


def given_gru(**options):
    return jl.gru(input_size=I, hidden_size=H, **options)


def given_rnn(**options):
    return jl.rnn(input_size=I, hidden_size=H, **options)


def into(module, theirs, ours, **options):
    """Load into one cell what was of another."""
    return lambda: module.load(module.dump(theirs, params_of(theirs, "float32")), ours, **options)


REFUSED = {
    "missing": (
        lambda: CONVERT.torch.load(lacking("weight_hh_l0")),
        r"`weights` must hold 'weight_hh_l0', got \['bias_hh_l0', 'bias_ih_l0', 'weight_ih_l0'\]",
    ),
    "nothing": (lambda: CONVERT.torch.load({}), r"`weights` must hold 'weight_ih_l0', got \[\]"),
    "shape": (
        lambda: CONVERT.torch.load({**STATE, "bias_hh_l0": np.zeros(15, "f")}),
        r"`weights` 'bias_hh_l0' must have shape \[16\], got \[15\]",
    ),
    "kind": (
        lambda: CONVERT.torch.load(STATE, jl.gru(input_size=I, hidden_size=H)),
        r"`cell` must be of kind 'lstm' for these weights, got gru\(",
    ),
    "size": (
        lambda: CONVERT.torch.load(STATE, jl.lstm(input_size=I, hidden_size=5)),
        r"`weights.kernel` must have shape \[3, 20\], got \[3, 16\]",
    ),
    "rows": (
        lambda: CONVERT.torch.load({**STATE, "weight_ih_l0": np.zeros((17, 3), "f")}),
        r"'weight_hh_l0' must have shape \[17, any\], got \[16, 4\]",
    ),
    "whole numbers": (
        lambda: CONVERT.torch.load({**STATE, "weight_ih_l0": np.zeros((16, 3), "int32")}),
        r"`weights` 'weight_ih_l0' must be floating point, got int32",
    ),
    "a number": (
        lambda: CONVERT.torch.load(3),
        "must be a state_dict, a module or a path, got int",
    ),
    "layers": (
        lambda: CONVERT.torch.load(STATE, jl.stack(LSTM, jl.lstm(input_size=H, hidden_size=H))),
        "`cell` must have 1 layers, got 2",
    ),
    "double": (
        lambda: CONVERT.torch.load({k: v.astype("float64") for k, v in STATE.items()}),
        "`weights` are float64, which JAX keeps only with `jax_enable_x64`",
    ),
    "no file": (lambda: CONVERT.torch.load("no/such.pt"), "must be a file, got 'no/such.pt'"),
    "peepholes to torch": (
        dumped(CONVERT.torch, sized(peepholes=True)),
        "`peepholes=True` of lstm cannot be expressed by torch",
    ),
    "coupled to Keras": (
        dumped(CONVERT.keras, sized(coupled=True)),
        "`coupled=True` of lstm cannot be expressed by Keras",
    ),
    "projection to Keras": (
        dumped(CONVERT.keras, sized(projection_size=2)),
        "`projection_size=2` of lstm cannot be expressed by Keras",
    ),
    "clip to ONNX": (
        dumped(CONVERT.onnx, sized(cell_clip=3.0)),
        "`cell_clip=3.0` of lstm cannot be expressed by ONNX",
    ),
    "relu to torch": (
        dumped(CONVERT.torch, sized(activation="relu")),
        "`activation='relu'` of lstm cannot be expressed by torch",
    ),
    "a function to a Keras model": (
        lambda: CONVERT.keras_model.write("no.keras", SILU, params_of(SILU, "float32")),
        "`activation=silu` of lstm cannot be expressed by a Keras model",
    ),
    "reset before to torch": (
        dumped(CONVERT.torch, jl.gru(input_size=I, hidden_size=H, reset_after=False)),
        "`reset_after=False` of gru cannot be expressed by torch",
    ),
    "reset after to Haiku": (
        dumped(CONVERT.haiku, jl.gru(input_size=I, hidden_size=H)),
        "`reset_after=True` of gru cannot be expressed by Haiku",
    ),
    "xLSTM to torch": (
        dumped(CONVERT.torch, jl.slstm(input_size=I, hidden_size=H)),
        r"`cell` must be made of lstm, gru, rnn, conv_lstm, .* got slstm\(",
    ),
    "sum of directions": (
        dumped(CONVERT.torch, jl.bidirectional(LSTM, LSTM, merge="sum")),
        "`merge` must be 'concat', got 'sum'",
    ),
    "two sizes to torch": (
        dumped(CONVERT.torch, jl.stack(LSTM, jl.lstm(input_size=H, hidden_size=3))),
        "torch has one `hidden_size` for all layers and directions",
    ),
    "two layers to Flax": (
        dumped(CONVERT.flax, jl.stack(LSTM, jl.lstm(input_size=H, hidden_size=3))),
        "`cell` must be one layer of one direction for Flax",
    ),
    "clip from ONNX": (
        lambda: CONVERT.onnx.load(node(clip=3.0)),
        "`clip` of the activations is not",
    ),
    "reverse from ONNX": (
        lambda: CONVERT.onnx.load(node(direction="reverse")),
        "`direction` must be 'forward' or 'bidirectional', got 'reverse'",
    ),
    "activation from ONNX": (
        lambda: CONVERT.onnx.load(node(activations=["Sigmoid", "Elu", "Tanh"])),
        r"`activations` must be 3 of \['Tanh', 'Sigmoid', 'Relu'\], got \['Sigmoid', 'Elu'",
    ),
    "operator": (lambda: CONVERT.onnx.load(node("Conv")), "`op` must be one of .* got 'Conv'"),
    "packed size": (
        lambda: CONVERT.packed.load(np.zeros(100, "f"), input_size=I, hidden_size=H),
        r"`weights` must have shape \[144\] for these sizes, got \(100,\)",
    ),
    "convolution without a shape": (
        lambda: CONVERT.keras.load([np.zeros((3, 1, 8), "f"), np.zeros((3, 2, 8), "f")]),
        "`input_shape` must be given for a convolutional LSTM",
    ),
    "torch into a GRU that resets before": (
        into(CONVERT.torch, given_gru(), given_gru(reset_after=False)),
        "`cell` must have `reset_after=True`, as these weights of torch do, got False",
    ),
    "Keras into a GRU that resets before": (
        into(CONVERT.keras, given_gru(), given_gru(reset_after=False)),
        "`cell` must have `reset_after=True`, as these weights of Keras do, got False",
    ),
    "Keras into a GRU that resets after": (
        into(CONVERT.keras, given_gru(reset_after=False), given_gru()),
        "`cell` must have `reset_after=False`, as these weights of Keras do, got True",
    ),
    "Flax into a GRU that resets before": (
        lambda: CONVERT.flax.load(
            CONVERT.flax.dump(given_gru(), params_of(given_gru(), "float32"), "linen"),
            given_gru(reset_after=False),
        ),
        "`cell` must have `reset_after=True`, as these weights of Flax do, got False",
    ),
    "Equinox into a GRU that resets before": (
        into(CONVERT.equinox, given_gru(), given_gru(reset_after=False)),
        "`cell` must have `reset_after=True`, as these weights of Equinox do, got False",
    ),
    "Haiku into a GRU that resets after": (
        into(CONVERT.haiku, given_gru(reset_after=False), given_gru()),
        "`cell` must have `reset_after=False`, as these weights of Haiku do, got True",
    ),
    "ONNX into a GRU that resets before": (
        into(CONVERT.onnx, given_gru(), given_gru(reset_after=False)),
        "`cell` must have `reset_after=True`, as these weights of ONNX do, got False",
    ),
    "torch into another activation": (
        into(CONVERT.torch, LSTM, sized(activation="relu")),
        "`cell` must have `activation='tanh'`, as these weights of torch do, got 'relu'",
    ),
    "torch into another output": (
        into(CONVERT.torch, LSTM, sized(output_activation="identity", cell_clip=0.1)),
        "`cell` must have `output_activation=None`, as these weights of torch do, got 'identity'",
    ),
    "torch into a clip": (
        into(CONVERT.torch, LSTM, sized(cell_clip=0.1)),
        "`cell` must have `cell_clip=None`, as these weights of torch do, got 0.1",
    ),
    "torch, relu said, into tanh": (
        into(CONVERT.torch, given_rnn(), given_rnn(), nonlinearity="relu"),
        "`cell` must have `activation='relu'`, as these weights of torch do, got 'tanh'",
    ),
    "torch into what no RNN of it is": (
        into(CONVERT.torch, given_rnn(), given_rnn(activation="identity")),
        "`cell` must have `activation='tanh'` or `activation='relu'`, as these .* got 'identity'",
    ),
    "Keras, relu said, into tanh": (
        into(CONVERT.keras, LSTM, LSTM, activation="relu"),
        "`cell` must have `activation='relu'`, as these weights of Keras do, got 'tanh'",
    ),
    "Haiku into another activation": (
        into(CONVERT.haiku, LSTM, sized(recurrent_activation="tanh")),
        "`cell` must have `recurrent_activation='sigmoid'`, as these weights of Haiku do, got",
    ),
    "packed into a clip": (
        into(CONVERT.packed, LSTM, sized(cell_clip=1.0), input_size=I, hidden_size=H),
        "`cell` must have `cell_clip=None`, as these weights of jax.experimental.rnn do, got 1.0",
    ),
    "ONNX into another output": (
        into(CONVERT.onnx, LSTM, sized(output_activation="relu")),
        "`cell` must have `output_activation=None`, as these weights of ONNX do, got 'relu'",
    ),
    "ONNX, coupled, into two gates": (
        into(CONVERT.onnx, sized(coupled=True), LSTM),
        "`cell` must have `coupled=True`, as these weights of ONNX do, got False",
    ),
    "torch without biases into a GRU with them": (
        into(CONVERT.torch, given_gru(use_bias=False), given_gru()),
        "`cell` must have `use_bias=False`, as these weights of torch do, got True",
    ),
    "Equinox without biases into a GRU with them": (
        into(CONVERT.equinox, given_gru(use_bias=False), given_gru()),
        "`cell` must have `use_bias=False`, as these weights of Equinox do, got True",
    ),
    "nothing for Equinox": (
        lambda: CONVERT.equinox.load(None),
        "`weights` must be a mapping of arrays by name, got NoneType",
    ),
    "nothing for Flax": (
        lambda: CONVERT.flax.load(None),
        "`weights` must be a mapping of arrays by name, got NoneType",
    ),
    "nothing for Haiku": (
        lambda: CONVERT.haiku.load(None),
        "`weights` must be a mapping of arrays by name, got NoneType",
    ),
    "one array": (
        lambda: CONVERT.keras.load([np.zeros((3, 16), "f")]),
        "`weights` must hold 2 or 3 arrays for a direction, got 1",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_converted_is_refused_by_name(call, message):
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# A cell that is given.


FITTING = {
    "torch, of unknown activation": (CONVERT.torch, given_rnn(activation="relu"), {}),
    "torch, activation said": (
        CONVERT.torch,
        given_rnn(activation="relu"),
        {"nonlinearity": "relu"},
    ),
    "torch, stored otherwise": (CONVERT.torch, sized(cell_dtype="float32", forget_bias=0.0), {}),
    "torch, output activation written out": (CONVERT.torch, sized(output_activation="tanh"), {}),
    "torch, without biases": (CONVERT.torch, given_gru(use_bias=False), {}),
    "Keras, of unknown activation": (CONVERT.keras, sized(activation="relu"), {}),
    "Keras, reset before": (CONVERT.keras, given_gru(reset_after=False), {}),
    "Keras, reset unknown": (CONVERT.keras, given_gru(reset_after=False, use_bias=False), {}),
    "Keras, padding and strides unknown": (
        CONVERT.keras,
        jl.conv_lstm(input_shape=(5, 4, I), filters=2, strides=(2, 1)),
        {},
    ),
    "Keras, strides said": (
        CONVERT.keras,
        jl.conv_lstm(input_shape=(5, 4, I), filters=2, strides=(2, 2), padding="valid"),
        {"strides": 2, "padding": "valid"},
    ),
    "Flax, of unknown activation": (CONVERT.flax, given_gru(activation="relu"), {}),
    "ONNX": (CONVERT.onnx, sized(activation="relu", output_activation="relu", coupled=True), {}),
    "Haiku": (CONVERT.haiku, given_gru(reset_after=False), {}),
    "packed": (CONVERT.packed, sized(), {"input_size": I, "hidden_size": H}),
}


@pytest.mark.parametrize(("module", "cell", "options"), FITTING.values(), ids=FITTING)
def test_a_cell_of_which_the_weights_can_be_takes_them(module, cell, options):
    params = params_of(cell, "float32")
    if module is CONVERT.flax:  # nnx has one bias
        params = params._replace(recurrent_bias=jnp.zeros(3 * H))
    found, again = module.load(module.dump(cell, params), cell, **options)
    assert found == cell
    close(again, params, 1e-6)


@pytest.mark.parametrize("suffix", [".safetensors", ".keras", ".weights.h5", ".onnx"])
def test_damaged_files_are_named(tmp_path, suffix):
    for package in ("safetensors", "h5py", "onnx"):
        pytest.importorskip(package)
    file = tmp_path / f"broken{suffix}"
    file.write_bytes(b"\x00\x01 no such thing" * 9)
    module = {".safetensors": CONVERT.safetensors, ".onnx": CONVERT.onnx}.get(suffix, CONVERT.keras)
    with pytest.raises(ValueError, match=rf"`weights` must be .*broken\{suffix}") as caught:
        module.load(file)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("x64")
def test_weights_for_a_cell_come_with_that_cell():
    cell = jl.dropout(jl.lstm(input_size=I, hidden_size=H), rate=0.5)
    params = randomized(jax.eval_shape(cell.init, jax.random.key(0)))
    found, loaded = jl.convert.keras.load(jl.convert.keras.dump(cell, params), cell)
    assert found == cell
    same(loaded, params)


def test_a_flax_cell_may_be_given_itself_or_within_its_rnn():
    nnx = pytest.importorskip("flax.nnx")
    inner = nnx.GRUCell(I, H, rngs=nnx.Rngs(0))
    wanted = jl.convert.flax.load(nnx.state(inner))
    whole = nnx.RNN(inner, rngs=nnx.Rngs(1))
    for given in (inner, whole, nnx.state(whole)):
        found = jl.convert.flax.load(given)
        assert found[0] == wanted[0]
        same(found[1], wanted[1])


def test_the_prefix_of_weights_within_a_module_is_told():
    state = {"lstm.weight_ih_l0": normal(4 * H, I), "lstm.weight_hh_l0": normal(4 * H, H)}
    with pytest.raises(ValueError, match=r"`prefix` must be one of \['lstm.'\], got ''"):
        jl.convert.torch.load(state)


def test_a_file_may_be_read_by_whom_the_mask_of_the_process_lets(tmp_path):
    pytest.importorskip("safetensors")
    cell = jl.rnn(input_size=2, hidden_size=3)
    before = os.umask(0o027)
    try:
        jl.convert.safetensors.dump(cell, params_of(cell, "float32"), tmp_path / "x.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
