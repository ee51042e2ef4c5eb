"""What a neighbour says and we cannot hold is refused by name, never passed over."""

import json
import os
import zipfile

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


def test_an_initial_state_of_onnx_is_zero_or_refused():
    for name, shape in (("initial_h", (1, B, H)), ("initial_c", (1, B, H))):
        theirs = operator()
        theirs.arrays[name] = np.zeros(shape, "f")
        assert jl.convert.onnx.load(theirs)[0] == sized(use_bias=False)
        theirs.arrays[name] = np.ones(shape, "f")
        refused(f"`{name}` must be zero", jl.convert.onnx.load, theirs)


def test_what_an_operator_of_onnx_says_must_fit_its_weights():
    refused(
        "`hidden_size` must be 4, as 'W' of 16 rows has it, got 7",
        jl.convert.onnx.load,
        operator(hidden_size=7),
    )
    theirs = operator("GRU")
    theirs.arrays["P"] = np.ones((1, 3 * H), "f")
    refused(r"`arrays` of GRU must be of \['W', 'R', 'B'\], got 'P'", jl.convert.onnx.load, theirs)


def graph(*nodes, **stored):
    """A model of nodes, each (op, inputs, outputs, attributes), reading 'x'."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    made = [
        helper.make_node(op, i.split(" ") if i else [], o.split(), **more)
        for op, i, o, more in nodes
    ]
    kind = onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, None) for name in ("x", nodes[-1][2])]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    return helper.make_model(helper.make_graph(made, "g", ends[:1], ends[1:], tensors))


WEIGHTS = {"W": normal(1, H, H), "R": normal(1, H, H), "M": normal(H, H), "S": np.array([1])}


def layer(given, made):
    return ("RNN", f"{given} W R", made, {"hidden_size": H})


SQUEEZE = ("Squeeze", "a S", "b", {})


def test_operators_of_onnx_are_a_chain():
    load = jl.convert.onnx.load
    idle = [layer("x", "a"), SQUEEZE, ("Cast", "b", "c", {"to": 1}), layer("c", "d")]
    after = ("MatMul", "d M", "e", {})
    assert load(graph(*idle, after, **WEIGHTS))[0].description.factory == "stack"
    count = ("ReduceSum", "x S", "n", {})
    counted = ("RNN", "x W R  n", "a", {"hidden_size": H})
    assert load(graph(count, counted, **WEIGHTS))[0].description.factory == "rnn"
    embedded = [("Gather", "M x", "v", {}), layer("v", "a")]
    assert load(graph(*embedded, **WEIGHTS))[0].description.factory == "rnn"
    chain = "`weights` must be a chain of operators, got "
    between = [layer("x", "a"), SQUEEZE, ("MatMul", "b M", "c", {}), layer("c", "d")]
    refused(f"{chain}MatMul before the RNN 'd'", load, graph(*between, **WEIGHTS))
    parallel = [layer("x", "a"), layer("x", "d")]
    refused(f"{chain}'x' before the RNN 'd'", load, graph(*parallel, **WEIGHTS))
    over = [layer("x", "a"), SQUEEZE, layer("b", "c"), ("Add", "c b", "d", {})]
    refused(f"{chain}Add beside it", load, graph(*over, **WEIGHTS))
    around = [layer("x", "a"), ("Add", "x a", "d", {})]
    refused(f"{chain}Add beside it", load, graph(*around, **WEIGHTS))
    before = [("MatMul", "x M", "a", {}), layer("a", "d")]
    refused(
        "must have nothing but an embedding before the first operator, got MatMul",
        load,
        graph(*before, **WEIGHTS),
    )


def test_initial_states_in_a_graph_of_onnx_are_followed():
    load = jl.convert.onnx.load
    started = ("RNN", "x W R   h", "d", {"hidden_size": H})

    def with_state(*nodes, **stored):
        return graph(*nodes, started, **WEIGHTS, **stored)

    sizes = [("Shape", "x", "s", {}), ("ConstantOfShape", "s", "h", {})]
    assert load(with_state(*sizes))[0].description.factory == "rnn"
    learnt = [("Shape", "x", "s", {}), ("Expand", "k s", "h", {})]
    assert load(with_state(*learnt, k=np.zeros(1, "f")))[0].description.factory == "rnn"
    refused("`initial_h` must be zero", load, with_state(*learnt, k=np.ones(1, "f")))
    decoder = ("RNN", "b W R   a", "d", {"hidden_size": H})
    two = graph(layer("x", "a"), SQUEEZE, decoder, **WEIGHTS)
    refused("an initial state of RNN must not be computed by another", load, two)


def test_constants_of_onnx_are_weights_too():
    onnx = pytest.importorskip("onnx")
    value = onnx.numpy_helper.from_array(WEIGHTS["W"])
    constant = ("Constant", "", "W", {"value": value})
    stored = {name: array for name, array in WEIGHTS.items() if name != "W"}
    found = jl.convert.onnx.load(graph(constant, layer("x", "a"), **stored))[1]
    np.testing.assert_array_equal(found.kernel, WEIGHTS["W"][0].T)


# Keras.


@pytest.fixture
def k():
    return pytest.importorskip("keras").layers


def sequential(*layers):
    keras = pytest.importorskip("keras")
    return keras.Sequential([keras.Input((T, I)), *layers])


def functional(build):
    keras = pytest.importorskip("keras")
    given = keras.Input((T, I))
    return keras.Model(given, build(given))


def of_files(model, folder):
    """A model, and the file of it."""
    pytest.importorskip("h5py")
    model.save(folder / "model.keras")
    return model, folder / "model.keras"


def chains(k):
    """Models that a chain of recurrent layers is all of, or of which it is one part."""

    def states(given):
        sequence, hidden, memory = k.LSTM(H, return_sequences=True, return_state=True)(given)
        return [k.GRU(H)(k.Dropout(0.1)(sequence)), hidden, memory]

    def twice(given):
        drop = k.Dropout(0.1)
        return k.GRU(2)(drop(k.LSTM(H, return_sequences=True)(drop(given))))

    def masked(given):
        return k.Dense(2)(k.LSTM(H)(given, mask=given[..., 0] > 0))

    return {
        "masked": functional(masked),
        "readout": sequential(k.LSTM(H), k.Dense(2), k.LayerNormalization()),
        "idle": sequential(k.LSTM(H, return_sequences=True), k.GaussianNoise(0.1), k.GRU(2)),
        "states": functional(states),
        "dropout twice": functional(twice),
    }


@pytest.mark.parametrize("name", ["masked", "readout", "idle", "states", "dropout twice"])
def test_a_chain_of_keras_is_taken(name, k, tmp_path):
    for given in of_files(chains(k)[name], tmp_path):
        cell, _ = jl.convert.keras.load(given)
        assert cell.description.factory == ("lstm" if name in ("masked", "readout") else "stack")


def broken(k):
    class Own(k.LSTM):
        pass

    def lstm(**more):
        return k.LSTM(I, return_sequences=True, **more)

    def shared(given):
        layer = lstm()
        return layer(layer(given))

    def decoder(given):
        _, *state = k.LSTM(I, return_state=True)(given)
        return lstm()(given, initial_state=state)

    def through_states(given):
        _, hidden, _ = k.LSTM(I, return_state=True)(given)
        return k.GRU(I)(k.Reshape((1, I))(hidden))

    chain = "`weights` must be a chain of layers, got "
    unknown = "`weights` must be of LSTM, .* or Bidirectional, got "
    return {
        "Dense between": (sequential(lstm(), k.Dense(I), lstm()), f"{chain}Dense"),
        "norm between": (sequential(lstm(), k.LayerNormalization(), lstm()), f"{chain}LayerNorm"),
        "repeated": (sequential(k.LSTM(I), k.RepeatVector(T), lstm()), f"{chain}RepeatVector"),
        "Dense before": (
            sequential(k.Dense(I), lstm()),
            "must compute nothing but an embedding before 'lstm.*', got Dense 'dense",
        ),
        "any cell": (sequential(k.RNN(k.LSTMCell(I), return_sequences=True), lstm()), unknown),
        "own class": (sequential(Own(I, return_sequences=True), lstm()), f"{unknown}Own"),
        "own class above": (sequential(lstm(), Own(I)), f"{unknown}Own"),
        "nested": (sequential(lstm(), sequential(lstm())), f"{unknown}Sequential"),
        "any cell both ways": (sequential(k.Bidirectional(k.RNN(k.GRUCell(I)))), unknown),
        "parallel": (functional(lambda x: k.Add()([lstm()(x), lstm()(x)])), chain),
        "residual": (functional(lambda x: k.Add()([lstm()(x), x])), f"{chain}Add .* beside it"),
        "shared": (functional(shared), "`weights` must use each layer once, got 'lstm.*' again"),
        "decoder": (functional(decoder), chain),
        "through states": (functional(through_states), f"{chain}Reshape"),
        "swapped": (
            sequential(k.Bidirectional(lstm(go_backwards=True), backward_layer=lstm())),
            "`go_backwards` of the forward layer must be False, got True",
        ),
        "a function": (
            sequential(lstm(activation=k.ReLU(max_value=1.0))),
            "`activation` of LSTM must be one of .*, got 'ReLU'",
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        "Dense between",
        "norm between",
        "repeated",
        "Dense before",
        "any cell",
        "own class",
        "own class above",
        "nested",
        "any cell both ways",
        "parallel",
        "residual",
        "shared",
        "decoder",
        "through states",
        "swapped",
        "a function",
    ],
)
def test_a_model_of_keras_that_is_no_chain_is_refused(name, k, tmp_path):
    model, message = broken(k)[name]
    for given in of_files(model, tmp_path):
        refused(message, jl.convert.keras.load, given)


def test_a_subclassed_model_of_keras_does_not_say_what_it_is(k, tmp_path):
    keras = pytest.importorskip("keras")

    class Sub(keras.Model):
        def __init__(self, **more):
            super().__init__(**more)
            self.inner = k.LSTM(H)

        def call(self, x):
            return self.inner(x)

    model = Sub()
    model(normal(B, T, I))
    message = "`weights` must be of a Sequential or functional model, .* got Sub: give its layer"
    for given in of_files(model, tmp_path):
        refused(message, jl.convert.keras.load, given)
    model.save_weights(tmp_path / "sub.weights.h5")
    refused(
        "`weights` must hold the group 'layers'",
        jl.convert.keras.load,
        tmp_path / "sub.weights.h5",
    )


def test_arrays_of_keras_that_do_not_tell_are_refused(k, tmp_path):
    load, unbiased = jl.convert.keras.load, [normal(I, 3 * H), normal(H, 3 * H)]
    message = "`reset_after` must be given for the arrays of a GRU without biases"
    refused(message, load, unbiased)
    wanted = jl.gru(input_size=I, hidden_size=H, reset_after=False, use_bias=False)
    assert load(unbiased, reset_after=False)[0] == wanted
    assert load(unbiased, wanted)[0] == wanted
    model = sequential(k.GRU(H, use_bias=False, reset_after=False))
    assert load(model)[0] == wanted
    pytest.importorskip("h5py")
    model.save_weights(tmp_path / "gru.weights.h5")
    refused(message, load, tmp_path / "gru.weights.h5")
    assert load(tmp_path / "gru.weights.h5", reset_after=False)[0] == wanted

    one = [normal(I, 4 * I), normal(I, 4 * I), normal(4 * I)]
    refused("`weights` may be of two layers or of two directions: give", load, one + one)
    assert load([one, one])[0].description.factory == "stack"
    both, params = load([one + one])
    assert both.description.factory == "bidirectional"
    assert load(jl.convert.keras.dump(both, params), both)[0] == both
    above = [normal(H, 4 * H), normal(H, 4 * H), normal(4 * H)]
    below = [normal(I, 4 * H), normal(H, 4 * H), normal(4 * H)]
    refused("may be of two layers or of two directions", load, below + above)
    refused("got 9: a stack is a list of lists", load, below + above + above)


def test_the_name_of_a_weights_file_of_keras_says_nothing(k, tmp_path):
    pytest.importorskip("h5py")
    model = sequential(k.LSTM(I, return_sequences=True), k.GRU(I))
    model.save_weights(tmp_path / "mixed.weights.h5")
    (tmp_path / "mixed.weights.h5").rename(tmp_path / "mixed.hdf5")
    refused("must be of layers of one kind", jl.convert.keras.load, tmp_path / "mixed.hdf5")
    model = sequential(k.RNN(k.LSTMCell(I)))
    model.save_weights(tmp_path / "any.weights.h5")
    refused(
        "`weights` must be of LSTM, .*, got the group 'rnn'",
        jl.convert.keras.load,
        tmp_path / "any.weights.h5",
    )


def test_damage_in_files_of_keras_is_named(k, tmp_path):
    h5py = pytest.importorskip("h5py")
    sequential(k.LSTM(H)).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def load(**others):
        with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, others.get(name.split(".")[0], part))
        return jl.convert.keras.load(tmp_path / "other.keras")

    refused(r"must be an HDF5 file \(.*other\.keras'", load, model=b"nothing")
    refused("must hold the config of a model, got list", load, config=b"[1]")
    refused("of a Sequential or functional model, .* got None", load, config=b'{"a": 1}')
    config = json.loads(parts["config.json"])
    config["config"]["layers"][-1] = {"class_name": "LSTM"}
    refused("`weights` must name every layer in its config", load, config=json.dumps(config))
    for name, array, message in [
        ("lstm/cell/x", np.ones(3), "must hold the group 'layers/lstm/cell/vars', got none"),
        ("lstm/cell/vars/1", np.ones(3), r"vars' must be numbered from 0, got \['1'\]"),
        (
            "bidirectional/forward_layer/cell/vars/0",
            np.ones((3, 16), "f"),
            "must hold the group 'layers/bidirectional/backward_layer/cell/vars', got none",
        ),
    ]:
        with h5py.File(tmp_path / "damaged.weights.h5", "w") as file:
            file[f"layers/{name}"] = array
        refused(message, jl.convert.keras.load, tmp_path / "damaged.weights.h5")


# torch and Equinox.


def state(layers=1, both=False, prefix=""):
    found = {}
    for k in range(layers):
        for end in ("", "_reverse")[: 1 + both]:
            inputs = I if k == 0 else H * (1 + both)
            shapes = {"weight_ih": (4 * H, inputs), "weight_hh": (4 * H, H)}
            shapes |= {"bias_ih": (4 * H,), "bias_hh": (4 * H,)}
            found |= {f"{prefix}{n}_l{k}{end}": normal(*s) for n, s in shapes.items()}
    return found


@pytest.mark.parametrize(
    "missing",
    [
        "bias_ih_l0",
        "bias_hh_l0",
        "bias_hh_l2_reverse",
        "weight_ih_l0_reverse",
        "weight_hh_l1",
        "weight_ih_l1",
        "weight_ih_l2_reverse",
    ],
)
@pytest.mark.parametrize("prefix", ["", "net.rnn."])
def test_a_missing_weight_of_torch_is_named(missing, prefix):
    given = state(layers=3, both=True, prefix=prefix)
    assert jl.convert.torch.load(given, prefix=prefix)[0].description.factory == "stack"
    del given[prefix + missing]
    message = f"`weights` must hold '{prefix}{missing}'"
    refused(message, jl.convert.torch.load, given, prefix=prefix)


def test_a_layer_of_torch_that_lacks_is_named():
    given = {name: array for name, array in state(layers=3).items() if "_l1" not in name}
    refused("`weights` must hold 'weight_ih_l1'", jl.convert.torch.load, given)


def test_a_module_within_a_module_says_its_nonlinearity():
    torch = pytest.importorskip("torch")
    module = torch.nn.ModuleDict({"rnn": torch.nn.RNN(I, H, nonlinearity="relu")})
    cell, _ = jl.convert.torch.load(module, prefix="rnn.")
    assert cell == jl.rnn(input_size=I, hidden_size=H, activation="relu", recurrent_bias=True)
    refused(r"`prefix` must be one of \['rnn.'\]", jl.convert.torch.load, module, prefix="no.")


def test_a_bias_of_equinox_comes_with_the_other():
    given = {"weight_ih": normal(3 * H, I), "weight_hh": normal(3 * H, H)}
    assert jl.convert.equinox.load(given)[0].description.factory == "gru"
    load = jl.convert.equinox.load
    refused("`weights` must hold 'bias'", load, {**given, "bias_n": normal(H)})
    refused("`weights` must hold 'bias_n'", load, {**given, "bias": normal(3 * H)})


def test_bfloat16_goes_back_to_torch_as_the_docstring_says():
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(I, H).bfloat16()
    arrays = jl.convert.torch.dump(*jl.convert.torch.load(module))
    again = {
        name: torch.from_numpy(array.view("int16")).view(torch.bfloat16)
        for name, array in arrays.items()
    }
    other = torch.nn.LSTM(I, H).bfloat16()
    other.load_state_dict(again)
    for name, weight in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight)


# Files of safetensors.


def test_what_stands_beside_the_weights_may_be_of_any_type(tmp_path):
    files = pytest.importorskip("safetensors.numpy")
    given = state(prefix="lstm.") | {"norm.steps": np.array(3), "mask": np.array([True])}
    files.save_file(given, tmp_path / "net.safetensors")
    cell, _ = jl.convert.torch.load(tmp_path / "net.safetensors", prefix="lstm.")
    assert cell == sized(recurrent_bias=True)
    files.save_file(given | {"lstm.bias_ih_l0": np.zeros(16, int)}, tmp_path / "int.safetensors")
    refused(
        r"`weights` 'lstm.bias_ih_l0' must be floating point, got int64, in '.*int\.safetensors'",
        jl.convert.torch.load,
        tmp_path / "int.safetensors",
        prefix="lstm.",
    )


def test_other_arrays_in_our_file_do_not_stand_for_the_params(tmp_path):
    pytest.importorskip("safetensors")
    cell, file = sized(), tmp_path / "net.safetensors"
    params = params_of(cell)
    for others, message in [
        ({"bias": np.ones(7, "f")}, r"`others` must have names that .* have not, got \['bias'\]"),
        ({"ids": [1, 2]}, "`others` 'ids' must be floating point, got int64"),
        ({"names": "abc"}, "`others` 'names' must be floating point, got <U3"),
    ]:
        refused(message, jl.convert.safetensors.dump, cell, params, file, others=others)
    jl.convert.safetensors.dump(cell, params, file, others={"w": [1.0, 2.0], "v": jnp.ones(2)})
    assert jl.convert.safetensors.load(file)[0] == cell
    arrays, _ = jl.convert.safetensors.read(file)
    np.testing.assert_array_equal(arrays["w"], [1.0, 2.0])


# Haiku.


def linear(rows, width):
    return {"w": normal(rows, width), "b": normal(width)}


def test_the_recurrent_module_of_haiku_is_found_or_refused():
    load, lstm, head = jl.convert.haiku.load, linear(I + H, 4 * H), linear(H, 8)
    gru = {"w_i": normal(I, 3 * H), "w_h": normal(H, 3 * H), "b": normal(3 * H)}
    for given in ({"lstm/linear": lstm}, {"lstm/linear": lstm, "linear": head}, lstm):
        cell, params = load(given)
        assert cell == sized()
        np.testing.assert_array_equal(params.kernel[:, :H], lstm["w"][:I, :H])
    assert load({"linear": head, "gru": gru})[0].description.factory == "gru"
    one = "`weights` must be of one LSTM or GRU, got "
    two = {"lstm/linear": lstm, "lstm_1/linear": lstm}
    refused(rf"{one}\['lstm/linear', 'lstm_1/linear'\]", load, {**two, "linear": head})
    refused(rf"{one}\['gru', 'lstm/linear'\]", load, {"gru": gru, "lstm/linear": lstm})
    refused(rf"{one}\['a', 'b'\]", load, {"a": head, "b": head})


# Flax.


def test_a_cell_of_nnx_says_its_activations():
    nnx = pytest.importorskip("flax.nnx")
    load, x, kinds = jl.convert.flax.load, jnp.asarray(normal(B, T, I)), {}
    for kind, options in {
        "SimpleCell": {"activation_fn": nnx.relu},
        "LSTMCell": {"activation_fn": nnx.relu},
        "OptimizedLSTMCell": {"activation_fn": nnx.silu, "gate_fn": nnx.tanh},
        "GRUCell": {"gate_fn": nnx.hard_sigmoid},
    }.items():
        theirs = nnx.RNN(getattr(nnx, kind)(I, H, rngs=nnx.Rngs(0), **options))
        cell, params = kinds[kind], _ = load(theirs)
        assert load(theirs.cell)[0] == cell
        np.testing.assert_allclose(outputs(cell, params, x), theirs(x), atol=1e-6)
    assert kinds["SimpleCell"] == jl.rnn(input_size=I, hidden_size=H, activation="relu")
    assert kinds["LSTMCell"] == sized(activation="relu")
    said = dict(kinds["GRUCell"].description.arguments)
    assert said["recurrent_activation"] is nnx.hard_sigmoid
    theirs = nnx.LSTMCell(I, H, activation_fn=nnx.relu, rngs=nnx.Rngs(0))
    refused("`cell` must have `activation='relu'`, as these weights of Flax", load, theirs, sized())
    assert load(theirs, activation="identity")[0] == sized(activation="identity")


def test_what_a_module_of_nnx_does_besides_is_refused():
    nnx = pytest.importorskip("flax.nnx")
    load, rngs = jl.convert.flax.load, nnx.Rngs(0)
    simple = nnx.SimpleCell(I, H, residual=True, rngs=rngs)
    refused("`residual` of SimpleCell must be False, got True", load, simple)
    refused("`residual` of SimpleCell must be False, got True", load, nnx.RNN(simple))
    refused("`reverse` is no matter", load, nnx.RNN(nnx.GRUCell(I, H, rngs=rngs), reverse=True))


def test_gates_of_flax_are_of_one_shape():
    other = sized(activation="relu", output_activation="tanh")
    message = "`output_activation='tanh'` of lstm cannot be expressed by Flax"
    refused(message, jl.convert.flax.dump, other, params_of(other))
    for name, array in (("if_.kernel", normal(5, H)), ("hg.kernel", normal(H, 5)), ("ho.bias", 1)):
        given = jl.convert.flax.dump(sized(), params_of(sized()))
        owner, leaf = name.split(".")
        given[owner][leaf] = normal(8) if leaf == "bias" else array
        message = rf"`weights` '{name.replace('if_', 'if')}' must have shape \[.*\], got \["
        refused(message, jl.convert.flax.load, given)


# Whole models.

WRITERS = {".keras": "keras_model", ".onnx": "onnx_model"}


def written(suffix, cell, folder, **around):
    pytest.importorskip("h5py" if suffix == ".keras" else "onnx")
    params, file = params_of(cell), folder / f"net{suffix}"
    getattr(jl.convert, WRITERS[suffix]).write(file, cell, params, **around)
    return params, file


@pytest.mark.parametrize("suffix", WRITERS)
def test_what_stands_around_a_whole_model_must_fit(suffix, tmp_path):
    two = jl.bidirectional(sized(), sized())
    mixed = jl.stack(sized(), jl.lstm(input_size=H, hidden_size=2, param_dtype="float16"))
    kernel, bias = normal(H, 2), normal(2)
    for cell, around, message in [
        (two, {"every_step": False}, "`every_step` must be True for a bidirectional cell"),
        (mixed, {}, r"`params` must be of one type .*, got \['float16', 'float32'\]"),
        (sized(), {"embedding": normal(7, 5)}, r"`embedding` must have shape \[any, 3\], got "),
        (sized(), {"embedding": normal(7)}, r"`embedding` must have shape \[any, 3\], got \[7\]"),
        (sized(), {"embedding": np.eye(3, dtype=int)}, "`embedding` must be floating point, got"),
        (sized(), {"readout": kernel}, "`readout` must be a pair of .*, got ndarray"),
        (sized(), {"readout": (normal(9, 2), bias)}, r"`readout` 'kernel' must have .* \[4, any\]"),
        (two, {"readout": (kernel, bias)}, r"`readout` 'kernel' must have shape \[8, any\], got"),
        (sized(), {"readout": (kernel, normal(3))}, r"`readout` 'bias' must have shape \[2\], got"),
    ]:
        refused(message, written, suffix, cell, tmp_path, **around)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("without", [False, True])
def test_a_whole_model_has_one_type(suffix, without, tmp_path):
    kernel, bias = normal(H, 2, dtype="float64"), None if without else normal(2, dtype="float64")
    table, x = normal(7, I, dtype="float64"), NUMBERS.integers(0, 7, (B, T))
    params, file = written(suffix, sized(), tmp_path, embedding=table, readout=(kernel, bias))
    if suffix == ".keras":
        found = pytest.importorskip("keras").models.load_model(file)(x)
    else:
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        [found] = session.run(["outputs"], {"inputs": x, "lengths": np.full(B, T, "int32")})
    wanted = outputs(sized(), params, table[x].astype("f")) @ kernel + (0 if without else bias)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("every_step", [False, True])
def test_a_model_of_onnx_says_the_shapes_of_what_it_gives(every_step, tmp_path):
    onnx, runtime = map(pytest.importorskip, ("onnx", "onnxruntime"))
    around = {"readout": [normal(H, 2), None], "every_step": every_step}
    _, file = written(".onnx", sized(), tmp_path, **around)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = {"inputs": normal(B, T, I), "lengths": np.full(B, T, "int32")}
    said = [output.type.tensor_type.shape.dim for output in onnx.load(file).graph.output]
    for sizes, found in zip(said, session.run(None, given), strict=True):
        wanted = [{"B": B, "T": T}.get(size.dim_param, size.dim_value) for size in sizes]
        assert list(found.shape) == wanted


def test_onnx_has_no_bfloat16(tmp_path):
    message = "`params` must be of float16, float32, float64 for ONNX, got bfloat16"
    refused(message, written, ".onnx", sized(param_dtype="bfloat16"), tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_keras_takes_half_precision_and_gives_it_back(dtype, tmp_path):
    one = sized(param_dtype=dtype)
    cell = jl.stack(
        jl.bidirectional(one, one), jl.gru(input_size=2 * H, hidden_size=2, param_dtype=dtype)
    )
    params, file = written(".keras", cell, tmp_path, readout=(np.eye(2), None))
    model = pytest.importorskip("keras").models.load_model(file)
    x = normal(B, T, I)
    wanted = outputs(jl.stack(*cell_in_float32(cell)), jax.tree.map(jnp.float32, params), x)
    np.testing.assert_allclose(np.asarray(model(x), "f"), wanted, atol=0.03)
    again = tmp_path / "again.keras"
    model.save(again)
    model.save_weights(tmp_path / "again.weights.h5")
    for given in (file, again, model):
        assert_same(jl.convert.keras.load(given), (cell, params))


def cell_in_float32(cell):
    one, two = sized(), jl.gru(input_size=2 * H, hidden_size=2)
    return jl.bidirectional(one, one), two


def assert_same(found, wanted):
    assert found[0] == wanted[0]
    assert jax.tree.structure(found[1]) == jax.tree.structure(wanted[1])
    for one, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
