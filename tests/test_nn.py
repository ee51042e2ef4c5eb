"""The Flax NNX face: the interface of Keras, over the functions, under every transformation."""

import copy
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cells_table import CELLS, random_inputs, within
from flax import nnx

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("compile_fast")
close = within(1e-6)
B, T, I, H = 3, 6, 3, 4
LENGTHS = np.array([6, 2, 0])
KINDS = {
    "rnn": functools.partial(jl.nn.SimpleRNN, I, H),
    "lstm": functools.partial(jl.nn.LSTM, I, H),
    "gru": functools.partial(jl.nn.GRU, I, H),
    "stack": functools.partial(jl.nn.RNN, CELLS["stack"]),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def inputs(*leading):
    return random_inputs(CELLS["lstm"], *leading, dtype="float32")


# The interface of Keras.


@every_kind
def test_a_layer_is_its_cell_unrolled(make):
    layer = make(return_sequences=True, return_state=True, rngs=nnx.Rngs(0))
    x = inputs(B, T)
    outputs, *state = layer(x, lengths=LENGTHS)
    out = jl.unroll(layer.cell, layer.params, x, lengths=LENGTHS, masked_outputs="hold")
    close(outputs, out.outputs, 0)
    close(tuple(state), tuple(out.carry), 0)
    drawn = layer.cell.init(nnx.Rngs(0).params())
    close(layer.params, drawn, 0)


@every_kind
@pytest.mark.parametrize("time_major", [False, True])
def test_without_sequences_the_output_is_the_last_valid_one(make, time_major):
    layer = make(time_major=time_major, rngs=nnx.Rngs(0))
    x = inputs(B, T)
    every = jl.unroll(layer.cell, layer.params, x).outputs
    wanted = [every[0, 5], every[1, 1], jnp.zeros_like(every[0, 0])]
    mask = np.arange(T) < LENGTHS[:, None]
    for ragged in ({"lengths": LENGTHS}, {"mask": mask.T if time_major else mask}):
        got = layer(jnp.swapaxes(x, 0, 1) if time_major else x, **ragged)
        close(got, jnp.stack(wanted))


@every_kind
def test_backwards_gives_sequences_in_the_order_of_travel(make):
    x = inputs(B, T)
    layer = make(return_sequences=True, go_backwards=True, return_state=True, rngs=nnx.Rngs(0))
    flipped = jl.unroll(layer.cell, layer.params, x[:, ::-1])
    outputs, *state = layer(x)
    close(outputs, flipped.outputs)
    close(tuple(state), tuple(flipped.carry))
    last = make(go_backwards=True, rngs=nnx.Rngs(0))(x)
    close(last, outputs[:, -1])


def test_backwards_over_ragged_rows_does_the_padding_first_as_keras_does():
    x, length = inputs(T), 4
    make = functools.partial(jl.nn.LSTM, I, H, go_backwards=True)
    outputs = make(return_sequences=True, rngs=nnx.Rngs(0))(x, lengths=length)
    assert not outputs[: T - length].any()
    alone = make(return_sequences=True, rngs=nnx.Rngs(0))(x[:length])
    close(outputs[T - length :], alone)
    close(make(rngs=nnx.Rngs(0))(x, lengths=length), alone[-1])


@pytest.mark.parametrize("zero", [False, True])
def test_masked_steps_hold_the_last_output_or_give_zeros(zero):
    mask = np.array([0, 1, 1, 0, 1, 0], bool)
    make = functools.partial(jl.nn.LSTM, I, H, zero_output_for_mask=zero)
    x, rngs = inputs(T), nnx.Rngs
    outputs = make(return_sequences=True, rngs=rngs(0))(x, mask=mask)
    valid = make(return_sequences=True, rngs=rngs(0))(x[mask])
    close(outputs[mask], valid)
    assert not outputs[0].any()
    close(outputs[3], jnp.zeros(H) if zero else valid[1])
    close(outputs[5], jnp.zeros(H) if zero else valid[2])
    # The last valid output is the last valid output, whatever the sequences show.
    close(make(rngs=rngs(0))(x, mask=mask), valid[2])


@every_kind
def test_a_state_given_back_goes_on_where_it_stopped(make):
    layer = make(return_sequences=True, return_state=True, rngs=nnx.Rngs(0))
    x = inputs(B, T)
    whole, *end = layer(x)
    head, *state = layer(x[:, :2])
    for given in (state, tuple(state), jax.tree.leaves(state)):
        tail, *last = layer(x[:, 2:], initial_state=given)
        close(jnp.concatenate([head, tail], axis=1), whole)
        close(last, end)


def test_a_state_may_be_given_to_any_layout():
    for shape, time_major in (((T,), False), ((2, 3, T), False), ((T, 2, 3), True)):
        layer = jl.nn.LSTM(I, H, time_major=time_major, return_state=True, rngs=nnx.Rngs(0))
        batch = shape[1:] if time_major else shape[:-1]
        ones = jnp.ones((*batch, H))
        output, hidden, cell = layer(inputs(*shape), initial_state=[ones, 2 * ones])
        assert output.shape == hidden.shape == cell.shape == (*batch, H)
        wanted = jl.unroll(
            layer.cell,
            layer.params,
            inputs(*shape),
            carry=jl.LSTMCarry(ones, 2 * ones),
            time_major=time_major,
        )
        close(cell, wanted.carry.cell)


def test_a_bidirectional_cell_is_a_layer_of_sequences():
    cell = jl.bidirectional(CELLS["lstm"], CELLS["lstm"])
    layer = jl.nn.RNN(cell, return_sequences=True, return_state=True, rngs=nnx.Rngs(0))
    outputs, *state = layer(inputs(B, T), lengths=LENGTHS)
    out = jl.unroll(cell, layer.params, inputs(B, T), lengths=LENGTHS, masked_outputs="hold")
    assert outputs.shape == (B, T, 2 * H)
    close(outputs, out.outputs, 0)
    close(tuple(state), tuple(out.carry), 0)


def test_resets_and_no_steps_pass_through():
    layer = jl.nn.LSTM(I, H, return_state=True, rngs=nnx.Rngs(0))
    x = inputs(B, T)
    carry = jl.LSTMCarry(jnp.ones((B, H)), 2 * jnp.ones((B, H)))
    close(layer(x, initial_state=carry), layer(x, initial_state=list(carry)), 0)
    close(layer(x, initial_state=carry), layer(x, initial_state=carry._asdict()), 0)
    with pytest.raises(ValueError, match=r"`initial_state` must be LSTMCarry\(.*, got {'a': "):
        layer(x, initial_state=dict(zip("ab", carry, strict=True)))
    resets = np.zeros((B, T), bool)
    resets[:, 3] = True
    close(layer(x, resets=resets), layer(x[:, 3:]))
    output, hidden, cell = layer(x[:, :0], initial_state=[jnp.ones((B, H))] * 2)
    close((output, hidden, cell), (jnp.zeros((B, H)), jnp.ones((B, H)), jnp.ones((B, H))))


def test_the_options_of_unroll_are_those_of_the_layer():
    x = inputs(B, T)

    def gradient(**options):
        layer = jl.nn.LSTM(I, H, rngs=nnx.Rngs(0), **options)
        return jax.jit(jax.grad(loss))(layer, x).params

    plain = gradient()
    close(gradient(remat="sqrt", unroll=2), plain)
    cut = gradient(truncate=2)
    assert abs(cut.recurrent_kernel - plain.recurrent_kernel).max() > 1e-4


def test_keras_names_choose_the_cell():
    layer = jl.nn.LSTM(
        I,
        H,
        activation="relu",
        recurrent_activation="tanh",
        use_bias=False,
        kernel_initializer="ones",
        recurrent_initializer=jl.initializers.identity(scale=0.5),
        dtype="bfloat16",
        rngs=nnx.Rngs(0),
    )
    assert layer.bias is None
    assert (layer.kernel[...] == 1).all()
    close(layer.recurrent_kernel[...], jnp.tile(0.5 * jnp.eye(H), 4))
    assert layer(inputs(B, T)).dtype == jnp.bfloat16
    assert layer.cell.description is not None
    assert {"activation='relu'", "recurrent_activation='tanh'"} <= set(
        repr(layer.cell)[5:-1].split(", ")
    )


@pytest.mark.parametrize(
    ("options", "forget", "others"),
    [
        ({}, 1, 0),
        ({"unit_forget_bias": False}, 0, 0),
        ({"bias_initializer": "zeros"}, 1, 0),
        ({"bias_initializer": jl.initializers.constant(value=3.0)}, 1, 3),
        ({"bias_initializer": "ones", "unit_forget_bias": False}, 1, 1),
        ({"bias_initializer": jl.initializers.forget_bias(value=5.0)}, 5, 0),
    ],
    ids=str,
)
def test_the_forget_bias_starts_as_in_keras(options, forget, others):
    bias = jl.nn.LSTM(I, H, rngs=nnx.Rngs(0), **options).bias[...]
    i, f, g, o = np.split(np.asarray(bias), 4)
    assert (f == forget).all()
    assert (np.stack([i, g, o]) == others).all()


def test_chrono_rules_the_forget_gate_itself():
    init = jl.initializers.chrono(t_max=100)
    bias = jl.nn.LSTM(I, 50, bias_initializer=init, rngs=nnx.Rngs(0)).bias[...]
    i, f, _, _ = np.split(np.asarray(bias), 4)
    assert (i == -f).all()
    assert len(set(f)) > 40


# One state: the parameters.


@every_kind
def test_a_layer_holds_its_parameters_and_nothing_else(make):
    layer = make(rngs=nnx.Rngs(0))
    variables = jax.tree.leaves(
        nnx.state(layer), is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    assert all(type(variable) is nnx.Param for variable in variables)
    assert jax.tree.structure(layer.params) == jax.tree.structure(
        jax.eval_shape(layer.cell.init, jax.random.key(0))
    )
    assert len(variables) == len(jax.tree.leaves(layer.params))


def test_parameters_have_names():
    for make in (jl.nn.LSTM, jl.nn.SimpleRNN):
        layer = make(I, H, rngs=nnx.Rngs(0))
        for name in ("kernel", "recurrent_kernel", "bias"):
            param = getattr(layer, name)
            assert type(param) is nnx.Param
            assert param is getattr(layer.weights, name)
            assert (param[...] == getattr(layer.params, name)).all()
            assert nnx.state(layer)["weights"][name][...].shape == param.shape
        layer.kernel[...] = jnp.zeros_like(layer.kernel[...])
        assert not layer.params.kernel.any()


def test_a_state_of_one_layer_makes_another_the_same():
    a, b = (jl.nn.LSTM(I, H, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    x = inputs(B, T)
    assert abs(a(x) - b(x)).max() > 0.01
    nnx.update(b, nnx.state(a))
    close(a(x), b(x), 0)
    graph, state = nnx.split(a)
    close(nnx.merge(graph, state)(x), a(x), 0)
    assert graph == nnx.graphdef(jl.nn.LSTM(I, H, rngs=nnx.Rngs(3)))
    assert graph != nnx.graphdef(jl.nn.LSTM(I, H, go_backwards=True, rngs=nnx.Rngs(3)))
    close(nnx.clone(a)(x), a(x), 0)


def test_parameters_go_through_orbax(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    a, b = (jl.nn.RNN(CELLS["stack"], rngs=nnx.Rngs(seed)) for seed in (0, 1))
    with checkpoint.StandardCheckpointer() as file:
        file.save(tmp_path / "state", nnx.state(a))
        file.wait_until_finished()
        nnx.update(b, file.restore(tmp_path / "state", nnx.state(b)))
    close(b.params, a.params, 0)


# Transformations, plain and of NNX.


def loss(layer, x, lengths=None):
    return (layer(x, lengths=lengths) ** 2).sum()


@every_kind
def test_plain_transformations_equal_those_of_nnx_and_of_the_functions(make):
    layer, x = make(rngs=nnx.Rngs(0)), inputs(B, T)
    wanted = layer(x)
    close(jax.jit(lambda layer, x: layer(x))(layer, x), wanted)
    close(nnx.jit(lambda layer, x: layer(x))(layer, x), wanted)

    def of_params(params):
        outputs = jl.unroll(layer.cell, params, x, masked_outputs="hold").outputs
        return (outputs[:, -1] ** 2).sum()

    gradient = jax.jit(jax.grad(of_params))(layer.params)
    plain = jax.jit(jax.grad(loss))(layer, x)
    assert type(plain) is type(layer)
    close(plain.params, gradient)
    of_nnx = nnx.jit(nnx.grad(loss))(layer, x)
    close(jax.tree.leaves(of_nnx), jax.tree.leaves(nnx.state(plain)))
    close(jax.grad(loss)(layer, x).params, gradient)  # not compiled


def test_plain_vmap_over_layers_and_over_rows():
    x = inputs(B, T)
    keys = jax.random.split(jax.random.key(0), 2)
    layers = jax.vmap(lambda key: jl.nn.LSTM(I, H, rngs=nnx.Rngs(key)))(keys)
    assert layers.kernel.shape == (2, I, 4 * H)
    got = jax.jit(jax.vmap(lambda layer, x: layer(x), (0, None)))(layers, x)
    one = jl.nn.LSTM(I, H, rngs=nnx.Rngs(keys[1]))
    close(got[1], one(x))
    close(jax.vmap(one)(x), one(x))
    ensemble = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))
    close(ensemble(layers, x), got)


def test_a_layer_inside_modules_trains_with_the_optimizer_of_nnx():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.below = jl.nn.LSTM(I, 8, return_sequences=True, rngs=rngs)
            self.above = jl.nn.SimpleRNN(8, 8, rngs=rngs)
            self.head = nnx.Linear(8, 1, rngs=rngs)

        def __call__(self, x, lengths):
            x = self.below(x, lengths=lengths)
            return self.head(self.above(x, lengths=lengths))[:, 0]

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.03, momentum=0.9), wrt=nnx.Param)
    lengths = np.array([5, 6, 3, 4] * 4)

    @nnx.jit
    def update(model, optimizer, x):
        valid = np.arange(T) < lengths[:, None]
        target = jnp.where(valid, x[..., 0], 0.0).sum(axis=1)

        def error(model):
            return ((model(x, lengths) - target) ** 2).mean()

        value, gradient = nnx.value_and_grad(error)(model)
        optimizer.update(model, gradient)
        return value

    errors = []
    for seed in range(200):
        x = random_inputs(CELLS["lstm"], 16, T, seed=seed, dtype="float32")
        errors.append(float(update(model, optimizer, x)))
    assert np.mean(errors[:5]) > 1.0
    assert np.mean(errors[-5:]) < 0.15


def test_plain_gradient_descent_on_the_pytree():
    layer, x = jl.nn.LSTM(I, H, rngs=nnx.Rngs(0)), inputs(B, T)
    optimizer = optax.sgd(0.1)

    @jax.jit
    def update(layer, state):
        value, gradient = jax.value_and_grad(loss)(layer, x)
        updates, state = optimizer.update(gradient, state, layer)
        return optax.apply_updates(layer, updates), state, value

    state, values = optimizer.init(layer), []
    for _ in range(20):
        layer, state, value = update(layer, state)
        values.append(float(value))
    assert values[-1] < 0.1 * values[0]


def test_nan_in_padding_reaches_no_gradient():
    layer = jl.nn.LSTM(I, H, rngs=nnx.Rngs(0))
    valid = (np.arange(T) < LENGTHS[:, None])[..., None]
    clean = np.where(valid, inputs(B, T), 0)
    dirty = np.where(valid, clean, np.nan).astype("float32")
    gradient = jax.jit(jax.grad(loss))
    close(gradient(layer, dirty, LENGTHS).params, gradient(layer, clean, LENGTHS).params, 0)


def test_a_jitted_layer_compiles_once_per_shape():
    traces = []

    @jax.jit
    def run(layer, x):
        traces.append(x.shape)
        return layer(x)

    for seed in range(3):
        run(jl.nn.LSTM(I, H, rngs=nnx.Rngs(seed)), inputs(B, T))
    assert len(traces) == 1


# Imports.


def test_the_library_imports_without_flax_and_says_where_flax_is_missing():
    code = """
import sys
import jaxlstm as jl
heavy = {"flax", "orbax", "optax", "matplotlib", "tyro", "msgspec", "rich", "scipy"}
heavy &= set(sys.modules)
assert not heavy, heavy
sys.modules["flax"] = None
try:
    jl.nn
except ModuleNotFoundError as error:
    assert 'pip install flax' in str(error), error
else:
    raise SystemExit("no error")
"""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_in_evaluation_nothing_is_dropped():
    layer = jl.nn.LSTM(I, H, dropout=0.5, rngs=nnx.Rngs(0))
    both = jl.nn.Bidirectional(
        jl.nn.LSTM(I, H, dropout=0.5, return_sequences=True, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1)
    )
    for each in (layer, both):
        x, key = inputs(B, T), jax.random.key(0)
        plain = each(x)
        assert abs(each(x, key=key) - plain).max() > 1e-3
        each.eval()
        close(each(x, key=key), plain)
        each.train()
        assert abs(each(x, key=key) - plain).max() > 1e-3


def test_a_layer_takes_a_backend():
    cell = jl.min_gru(input_size=I, hidden_size=H)
    layer = jl.nn.RNN(cell, backend="associative", rngs=nnx.Rngs(0))
    close(layer(inputs(B, T)), jl.unroll(cell, layer.params, inputs(B, T)).outputs[:, -1])
    with pytest.raises(ValueError, match="`backend` must be one of"):
        jl.nn.LSTM(I, H, backend="fast", rngs=nnx.Rngs(0))


def test_layers_are_tabulated():
    layer = jl.nn.Bidirectional(jl.nn.LSTM(I, H, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))
    assert "Bidirectional Summary" in nnx.tabulate(layer, inputs(B, T))


def test_a_cell_whose_carry_is_a_dict_is_carried_on():
    def step(params, carry, x):
        hidden = jnp.tanh(x @ params + 0.5 * carry["z"])
        return {"z": hidden, "a": carry["a"] + hidden}, hidden

    cell = jl.Cell(
        init=lambda key: jnp.eye(3),
        initial_carry=lambda params, batch_shape=(): {
            name: jnp.zeros((*batch_shape, 3)) for name in ("z", "a")
        },
        step=step,
        input_shape=(3,),
    )
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 3), "float32")
    whole = jl.unroll(cell, jnp.eye(3, dtype="float32"), inputs)
    layer = jl.nn.RNN(cell, stateful=True, return_sequences=True, rngs=nnx.Rngs(0))
    parts = [layer(part) for part in (inputs[:, :2], inputs[:, 2:])]
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole.outputs, rtol=1e-6)
    one = jl.nn.RNN(cell, return_state=True, rngs=nnx.Rngs(0))
    _, state = one(inputs[:, :2])
    _, state = one(inputs[:, 2:], initial_state=state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state, whole.carry)
    with pytest.raises(ValueError, match=r"`initial_state` must be \{'a': .*got \{'b'"):
        one(inputs, initial_state={"b": state["z"], "z": state["z"]})


def test_a_deep_copy_has_weights_of_its_own_and_the_same_cell():
    layer = jl.nn.LSTM(3, 4, activation=jax.nn.silu, rngs=nnx.Rngs(0))
    other = copy.deepcopy(layer)
    assert other.cell == layer.cell
    other.kernel[...] = 0 * other.kernel[...]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, layer, other)
    np.testing.assert_allclose(mean.kernel[...], layer.kernel[...] / 2)
