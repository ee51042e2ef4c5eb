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
    made = [helper.make_node(op, i.split(), o.split(), **more) for op, i, o, more in nodes]
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
    started = ("RNN", "x W R  ", "d", {"hidden_size": H})

    def with_state(*nodes, **stored):
        made = graph(*nodes, started, **WEIGHTS, **stored)
        made.graph.node[-1].input.extend(["", "", "h"])
        return made

    sizes = [("Shape", "x", "s", {}), ("ConstantOfShape", "s", "h", {})]
    assert load(with_state(*sizes))[0].description.factory == "rnn"
    learnt = [("Shape", "x", "s", {}), ("Expand", "k s", "h", {})]
    assert load(with_state(*learnt, k=np.zeros(1, "f")))[0].description.factory == "rnn"
    refused("`initial_h` must be zero", load, with_state(*learnt, k=np.ones(1, "f")))
    two = graph(layer("x", "a"), SQUEEZE, ("RNN", "b W R  ", "d", {"hidden_size": H}), **WEIGHTS)
    two.graph.node[-1].input.extend(["", "", "a"])
    refused("an initial state of RNN must not be computed by another", load, two)


def test_constants_of_onnx_are_weights_too():
    onnx = pytest.importorskip("onnx")
    value = onnx.numpy_helper.from_array(WEIGHTS["W"])
    constant = ("Constant", "", "W", {"value": value})
    stored = {name: array for name, array in WEIGHTS.items() if name != "W"}
    found = jl.convert.onnx.load(graph(constant, layer("x", "a"), **stored))[1]
    np.testing.assert_array_equal(found.kernel, WEIGHTS["W"][0].T)
