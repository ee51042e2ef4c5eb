"""The cells themselves: against NumPy and Flax, how they start, and what they say they are."""

import copy
import dataclasses
import functools
import itertools
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cells_table import CELLS, HALF, random_carry, random_inputs, random_params
from flax import nnx
from jax.test_util import check_grads
from scipy.special import expn

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("compile_fast")
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
T, I, H = 7, 3, 5


def close(got, wanted, tolerance=1e-10):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


# Against NumPy, forward and with backpropagation through time written by hand.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_values_and_all_gradients_equal_numpy(kind):
    cell = getattr(jl, kind)(input_size=I, hidden_size=H)
    params, inputs = random_params(cell), random_inputs(cell, T)
    carry, weight = random_carry(cell, params), np.random.default_rng(3).normal(size=(T, H))

    @jax.jit
    def loss(params, inputs, carry):
        out = jl.unroll(cell, params, inputs, carry=carry, return_carries=True)
        return (out.outputs * weight).sum(), out

    (_, out), got = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, inputs, carry)
    arguments = [np.asarray(a) for a in (*params, inputs, *carry)]
    if kind == "rnn":
        states = [reference.rnn_forward(*arguments)]
        wanted = reference.rnn_backward(*arguments, weight)
    else:
        hidden, memory, _ = reference.lstm_forward(*arguments)
        states = [hidden, memory]
        wanted = reference.lstm_backward(*arguments, weight)
    close(out.outputs, states[0][1:])
    for part, state in zip(out.carries, states, strict=True):
        close(part, state[1:])
    for name in ("kernel", "recurrent_kernel", "bias"):
        close(getattr(got[0], name), wanted[name])
    close(got[1], wanted["inputs"])
    close(got[2].hidden, wanted["h0"])
    if kind == "lstm":
        close(got[2].cell, wanted["c0"])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "phi"),
    [
        ("tanh", np.tanh),
        ("relu", lambda z: np.maximum(z, 0)),
        ("identity", lambda z: z),
        ("sigmoid", reference.sigmoid),
        (jax.nn.silu, lambda z: z * reference.sigmoid(z)),
    ],
)
def test_activations_are_what_they_are_called(name, phi):
    rnn = jl.rnn(input_size=I, hidden_size=H, activation=name)
    params, x = random_params(rnn), np.asarray(random_inputs(rnn, 2))
    carry = random_carry(rnn, params, 2)
    kernel, recurrent, bias = map(np.asarray, params)
    z = x @ kernel + np.asarray(carry.hidden) @ recurrent + bias
    close(rnn.step(params, carry, x)[1], phi(z))

    lstm = jl.lstm(input_size=I, hidden_size=H, activation=name)
    params, carry = random_params(lstm), random_carry(lstm, random_params(lstm), 2)
    kernel, recurrent, bias = map(np.asarray, params)
    z = x @ kernel + np.asarray(carry.hidden) @ recurrent + bias
    i, f, g, o = np.split(z, 4, axis=-1)
    sigma = reference.sigmoid
    memory = sigma(f) * np.asarray(carry.cell) + sigma(i) * phi(g)
    new, output = lstm.step(params, carry, x)
    close(new.cell, memory)
    close(output, sigma(o) * phi(memory))
    assert lstm == jl.lstm(input_size=I, hidden_size=H, activation=name)
    assert f"activation={getattr(name, '__name__', repr(name))}" in repr(lstm) or name == "tanh"


@pytest.mark.usefixtures("x64")
def test_without_a_bias_the_bias_is_zero():
    for make in (jl.rnn, jl.lstm):
        cell = make(input_size=I, hidden_size=H)
        bare = make(input_size=I, hidden_size=H, use_bias=False)
        params = random_params(bare)
        assert params.bias is None
        whole = params._replace(bias=jnp.zeros(params.kernel.shape[1]))
        inputs = random_inputs(cell, T)
        got = jl.unroll(bare, params, inputs).outputs
        close(got, jl.unroll(cell, whole, inputs).outputs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", [CELLS["rnn"], CELLS["lstm"]], ids=["rnn", "lstm"])
def test_one_step_differentiates_in_both_modes(cell):
    params = random_params(cell)
    arguments = params, random_carry(cell, params, 2), random_inputs(cell, 2)
    check_grads(cell.step, arguments, order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@every_cell
def test_one_step_differentiates_twice_in_both_modes(cell):
    params = random_params(cell)
    arguments = params, random_carry(cell, params, 2), random_inputs(cell, 2)
    step = jax.jit(cell.step)
    check_grads(step, arguments, order=2, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5)


# Against Flax, its weights moved.


def flax_weights(cell, params):
    """The weights of an LSTM in a cell of Flax, whose gates are ii, if_, ig, io, hi, hf, hg, ho."""
    if isinstance(cell, nnx.OptimizedLSTMCell):
        cell.dense_i.kernel[...] = params.kernel
        cell.dense_h.kernel[...] = params.recurrent_kernel
        cell.dense_h.bias[...] = params.bias
        return
    for gate, block in zip("ifgo", np.split(np.asarray(params.kernel), 4, axis=1), strict=True):
        getattr(cell, "if_" if gate == "f" else f"i{gate}").kernel[...] = jnp.asarray(block)
    parts = np.split(np.asarray(params.recurrent_kernel), 4, axis=1), np.split(params.bias, 4)
    for gate, block, bias in zip("ifgo", *parts, strict=True):
        getattr(cell, f"h{gate}").kernel[...] = jnp.asarray(block)
        getattr(cell, f"h{gate}").bias[...] = jnp.asarray(bias)


@pytest.mark.parametrize("flax_cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell])
def test_an_lstm_equals_that_of_flax(flax_cell):
    cell = jl.lstm(input_size=I, hidden_size=H)
    params = random_params(cell, dtype="float32")
    inputs = random_inputs(cell, 2, T, dtype="float32")
    theirs = flax_cell(in_features=I, hidden_features=H, rngs=nnx.Rngs(0))
    flax_weights(theirs, params)
    carry = random_carry(cell, params, 2, dtype="float32")
    state, outputs = (carry.cell, carry.hidden), []  # the order of Flax
    for t in range(T):
        state, output = theirs(state, np.asarray(inputs)[:, t])
        outputs.append(output)
    out = jl.unroll(cell, params, inputs, carry=carry)
    close(out.outputs, np.stack(outputs, axis=1), 1e-6)
    close(out.carry.cell, state[0], 1e-6)
    close(out.carry.hidden, state[1], 1e-6)


def test_a_simple_rnn_equals_that_of_flax():
    cell = jl.rnn(input_size=I, hidden_size=H)
    params = random_params(cell, dtype="float32")
    theirs = nnx.SimpleCell(in_features=I, hidden_features=H, rngs=nnx.Rngs(0))
    theirs.dense_i.kernel[...] = params.kernel
    theirs.dense_i.bias[...] = params.bias
    theirs.dense_h.kernel[...] = params.recurrent_kernel
    x = random_inputs(cell, 2, dtype="float32")
    carry = random_carry(cell, params, 2, dtype="float32")
    _, output = theirs(carry.hidden, x)
    close(cell.step(params, carry, x)[1], output, 1e-6)


# How they start.


@pytest.mark.parametrize("size", [1, 2, 8, 33])
def test_each_gate_starts_orthogonal_and_a_joint_draw_does_not(size):
    def gates(init):
        cell = jl.lstm(input_size=2, hidden_size=size, recurrent_init=init)
        return np.split(np.asarray(cell.init(jax.random.key(0)).recurrent_kernel), 4, axis=1)

    blocks = gates(jl.initializers.orthogonal(scale=1.5))
    for block in blocks:
        close(block @ block.T, 2.25 * np.eye(size), 1e-5)
    if size > 1:
        assert all(abs(a - b).max() > 0.01 for a, b in itertools.pairwise(blocks))
        joint = gates(jl.initializers.orthogonal(joint=True))
        whole = np.concatenate(joint, axis=1)
        close(whole @ whole.T, np.eye(size), 1e-5)
        assert min(np.linalg.svd(block)[1].min() for block in joint) < 0.8


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_drawn_in_half_precision_too(dtype):
    params = jl.lstm(input_size=2, hidden_size=4, param_dtype=dtype).init(jax.random.key(0))
    assert {leaf.dtype for leaf in params} == {jnp.dtype(dtype)}
    block = np.asarray(params.recurrent_kernel, "float32")[:, :4]
    close(block @ block.T, np.eye(4), 0.02)


def test_forget_gates_start_open_and_nothing_else_has_a_bias():
    assert jl.GATES == ("i", "f", "g", "o")
    init = jax.random.key(0)
    i, f, g, o = np.split(jl.lstm(input_size=2, hidden_size=3).init(init).bias, 4)
    assert (f == 1).all()
    assert not np.any([i, g, o])
    i, f, g, o = np.split(jl.lstm(input_size=2, hidden_size=3, forget_bias=-2.5).init(init).bias, 4)
    assert (f == -2.5).all()
    assert not np.any([i, g, o])
    assert not jl.rnn(input_size=2, hidden_size=3).init(init).bias.any()


def test_the_other_cells_that_forget_begin_alike():
    sizes, key = {"input_size": 2, "hidden_size": 3}, jax.random.key(0)
    conv = functools.partial(jl.conv_lstm, input_shape=(4, 2), filters=3)
    plain = (functools.partial(make, **sizes) for make in (jl.slstm, jl.layer_norm_lstm))
    for make in (conv, *plain):
        np.testing.assert_array_equal(make().init(key).bias, np.repeat([0, 1, 0, 0], 3))
        other = make(bias_init=jl.initializers.constant(value=2.0))
        np.testing.assert_array_equal(other.init(key).bias, np.full(12, 2))
    np.testing.assert_array_equal(jl.min_lstm(**sizes).init(key).bias, np.repeat([0, 1, 0], 3))
    heads = jl.mlstm(**sizes, heads=3).init(key)
    np.testing.assert_array_equal(heads.gate_bias, np.repeat([0, 1], 3))
    assert not heads.bias.any()


def test_the_forget_bias_is_set_into_any_other_draw():
    init = jl.initializers.forget_bias(value=3.0, others=jl.initializers.uniform(limit=0.5))
    i, f, g, o = np.split(init(jax.random.key(0), (40,)), 4)
    assert (f == 3).all()
    assert all(
        len(set(block)) == 10 and abs(block).max() <= 0.5 for block in map(np.asarray, [i, g, o])
    )


def test_chrono_spreads_memories_up_to_the_longest_dependency():
    t_max, units = 1000, 100_000
    init = jl.initializers.chrono(t_max=t_max)
    i, f, g, o = np.split(np.asarray(init(jax.random.key(0), (4 * units,))), 4)
    assert not g.any()
    assert not o.any()
    close(i, -f)
    scales = np.exp(f.astype(float))  # uniform on [1, T − 1]
    assert scales.min() >= 1 - 1e-5
    assert scales.max() <= t_max - 1 + 1e-2
    assert scales.min() < 1.1
    assert scales.max() > t_max - 2
    assert abs(scales.mean() - t_max / 2) < 3
    assert abs(np.median(scales) - t_max / 2) < 5
    # A unit keeps f^T of its memory after T steps; the mean over units tends to E₂(1).
    kept = (scales / (1 + scales)) ** t_max
    assert expn(2, 1) == pytest.approx(0.148496, abs=1e-6)
    assert kept.mean() == pytest.approx(expn(2, 1), abs=0.003)


def test_kernels_start_within_the_limits_of_glorot():
    for make, gates in ((jl.rnn, 1), (jl.lstm, 4)):
        kernel = np.asarray(make(input_size=50, hidden_size=30).init(jax.random.key(0)).kernel)
        limit = np.sqrt(6 / (50 + gates * 30))
        assert limit * 0.99 < abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)
        assert abs(kernel.mean()) < 0.05 * limit


def test_initialisers_draw_what_they_say():
    init, key = jl.initializers, jax.random.key(1)
    n = 200
    ginibre = np.asarray(init.ginibre(gain=1.5)(key, (n, n)))
    assert abs(np.linalg.eigvals(ginibre)).max() == pytest.approx(1.5, rel=0.1)
    assert np.linalg.norm(ginibre, 2) == pytest.approx(3.0, rel=0.1)
    assert np.asarray(init.normal(stddev=0.3)(key, (n, n))).std() == pytest.approx(0.3, rel=0.02)
    uniform = np.asarray(init.uniform(limit=0.3)(key, (n, n)))
    assert 0.299 < abs(uniform).max() <= 0.3
    assert uniform.std() == pytest.approx(0.3 / np.sqrt(3), rel=0.02)
    close(init.identity(scale=0.7)(key, (4, 4)), 0.7 * np.eye(4), 1e-6)
    close(init.constant(value=2.5)(key, (3,)), [2.5] * 3)
    irnn = jl.rnn(input_size=2, hidden_size=3, activation="relu", recurrent_init=init.identity())
    close(irnn.init(key).recurrent_kernel, np.eye(3))


@pytest.mark.parametrize("kernel_size", [2, 3, (1, 4)])
def test_an_identity_of_a_convolution_leaves_the_state_where_it_is(kernel_size):
    cell = jl.conv_lstm(
        input_shape=(5, 6, 1),
        filters=2,
        kernel_size=kernel_size,
        forget_bias=0.0,
        recurrent_init=jl.initializers.identity(scale=0.5),
    )
    params = cell.init(jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (5, 6, 2))
    carry = jl.LSTMCarry(hidden, jnp.zeros_like(hidden))
    new, _ = cell.step(params, carry, jnp.zeros((5, 6, 1)))
    half = np.asarray(hidden) / 2
    close(new.cell, np.tanh(half) / (1 + np.exp(-half)), 1e-6)


def test_parameters_are_drawn_independently_and_again_from_the_same_key():
    cell = jl.lstm(input_size=4, hidden_size=4)
    a, b, c = (cell.init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert not (a.kernel == c.kernel).any()
    assert not (a.kernel == a.recurrent_kernel).any()
    stacked = jl.stack(cell, cell).init(jax.random.key(0))
    assert not (stacked[0].kernel == stacked[1].kernel).any()


@every_cell
def test_init_gives_the_shapes_under_vmap_and_the_type_asked_for(cell):
    params = jax.eval_shape(cell.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    many = jax.eval_shape(jax.vmap(cell.init), jax.random.split(jax.random.key(0), 2))
    assert jax.tree.map(lambda leaf: leaf.shape[1:], many) == jax.tree.map(
        lambda leaf: leaf.shape, params
    )


@pytest.mark.parametrize("make", [jl.rnn, jl.lstm])
@pytest.mark.parametrize(
    ("given", "outputs", "memory"),
    [
        ({}, "float32", "float32"),
        ({"param_dtype": "bfloat16"}, "bfloat16", "bfloat16"),
        ({"dtype": jnp.float16}, "float16", "float32"),
        ({"param_dtype": jnp.bfloat16, "cell_dtype": "float32"}, "bfloat16", "float32"),
    ],
    ids=str,
)
def test_types_of_parameters_outputs_and_memory(make, given, outputs, memory):
    if make is jl.rnn:
        given = {name: value for name, value in given.items() if name != "cell_dtype"}
    cell = make(input_size=2, hidden_size=3, **given)

    def one_step(key):
        params = cell.init(key)
        carry = cell.initial_carry(params, (5,))
        return params, carry, *cell.step(params, carry, jnp.ones((5, 2), "float32"))

    params, first, carry, output = jax.eval_shape(one_step, jax.random.key(0))
    wanted = given.get("param_dtype", "float32")
    assert {leaf.dtype for leaf in params} == {jnp.dtype(wanted)}
    assert output.dtype == carry.hidden.dtype == jnp.dtype(outputs)
    assert make is jl.rnn or carry.cell.dtype == jnp.dtype(memory)
    assert jax.tree.leaves(first) == jax.tree.leaves(carry)


# All cells but those with a product of what a product gave, or with noise.
ONCE = (
    "rnn",
    "indrnn",
    "lstm",
    "lstm-coupled-peepholes",
    "conv-lstm",
    "gru",
    "mlstm",
    "min-lstm",
    "min-gru",
)


def in_half(name):
    """A cell in bfloat16, in float32, and numbers that both types hold."""
    cell = HALF[name]
    params, x = random_params(cell, dtype="bfloat16"), random_inputs(cell, 50, dtype="bfloat16")
    carry = random_carry(cell, params, 50, dtype="bfloat16")
    carry = jax.tree.map(lambda a, b: a.astype(b.dtype), carry, cell.initial_carry(params))
    return cell, CELLS[name], params, carry, x


def single(tree):
    return jax.tree.map(lambda a: a.astype("float32"), tree)


@pytest.mark.parametrize("name", ONCE)
def test_a_step_in_half_precision_is_one_in_single_precision_rounded_once(name):
    half, full, params, carry, x = in_half(name)
    found = half.step(params, carry, x)
    wanted = full.step(single(params), single(carry), single(x))

    def same(got, exact):
        rounded = np.asarray(exact.astype(got.dtype), "float32")
        got = np.asarray(got, "float32")
        # Sums in another order may fall on the other side of a bound between two numbers.
        assert np.mean(got == rounded) > 0.97 or got.dtype == exact.dtype
        np.testing.assert_allclose(got, rounded, rtol=2**-7, atol=1e-6)

    jax.tree.map(same, found, wanted)


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("backend", ["scan", "auto"])
def test_gradients_in_half_precision_are_near_those_in_single(name, backend):
    half, full, params, _, x = in_half(name)
    params, inputs = single(params), jnp.stack([x] * 5, 1)

    def loss(cell, params, inputs):
        outputs = jl.unroll(cell, params, inputs, backend=backend).outputs
        return jnp.sum(outputs.astype("float32") ** 2, axis=(0, 1)).mean()

    def gradients(cell, inputs):
        each = jax.vmap(jax.grad(functools.partial(loss, cell), (0, 1)), (None, 0))
        return each(params, inputs[:, None])

    found, wanted = gradients(half, inputs), gradients(full, single(inputs))
    for got, exact in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        off = np.linalg.norm(np.asarray(single(got) - exact)) / np.linalg.norm(exact)
        assert off < 0.01


# What they say they are.


@every_cell
def test_a_description_is_plain_data_that_builds_the_cell_again(cell):
    data = json.loads(json.dumps(jl.to_dict(cell)))
    again = jl.from_dict(data)
    assert again == cell
    assert hash(again) == hash(cell)
    assert repr(again) == repr(cell)
    assert jl.to_dict(again) == jl.to_dict(cell)


@every_cell
def test_a_cell_prints_as_the_call_that_makes_it(cell):
    names = {name: getattr(jl, name) for name in dir(jl)} | vars(jl.initializers)
    assert eval(repr(cell), names) == cell


def test_defaults_are_not_printed():
    below = jl.lstm(input_size=8, hidden_size=4, forget_bias=0.0, param_dtype=np.float32)
    cell = jl.stack(below, jl.rnn(input_size=4, hidden_size=2, activation="relu"))
    assert repr(cell) == (
        "stack(lstm(input_size=8, hidden_size=4, forget_bias=0.0), "
        "rnn(input_size=4, hidden_size=2, activation='relu'))"
    )


def test_a_changed_copy_is_another_cell():
    cell = CELLS["rnn"]
    frozen = dataclasses.replace(cell, step=lambda params, carry, x: (carry, carry.hidden))
    assert frozen != cell
    params = cell.init(jax.random.key(0))
    inputs = random_inputs(cell, T, dtype="float32")
    assert jl.unroll(cell, params, inputs).outputs.any()
    assert not jl.unroll(frozen, params, inputs).outputs.any()


@pytest.mark.parametrize(
    "init",
    [
        jl.initializers.orthogonal(scale=2.0, joint=True),
        jl.initializers.identity(),
        jl.initializers.ginibre(gain=1.5),
        jl.initializers.glorot_uniform(),
        jl.initializers.normal(stddev=0.1),
        jl.initializers.uniform(limit=0.1),
        jl.initializers.constant(value=1.0),
        jl.initializers.forget_bias(value=2.0, others=jl.initializers.normal()),
        jl.initializers.chrono(t_max=10),
    ],
    ids=repr,
)
def test_an_initialiser_is_described_too(init):
    assert jl.from_dict(json.loads(json.dumps(jl.to_dict(init)))) == init
    assert eval(repr(init), vars(jl.initializers)) == init
    cell = jl.lstm(input_size=2, hidden_size=2, kernel_init=init)
    assert jl.from_dict(json.loads(json.dumps(jl.to_dict(cell)))) == cell


def test_cells_are_equal_when_their_arguments_are():
    cell = jl.lstm(input_size=8, hidden_size=4)
    assert cell == jl.lstm(hidden_size=4, input_size=8, forget_bias=1.0)
    assert cell == jl.lstm(input_size=8, hidden_size=4, param_dtype=jnp.float32)
    assert cell == jl.lstm(input_size=8, hidden_size=4, param_dtype=np.dtype("float32"))
    others = [
        jl.lstm(input_size=8, hidden_size=5),
        jl.lstm(input_size=8, hidden_size=4, forget_bias=0.0),
        jl.lstm(input_size=8, hidden_size=4, recurrent_init=jl.initializers.orthogonal(scale=2.0)),
        jl.lstm(input_size=8, hidden_size=4, dtype="bfloat16"),
        jl.rnn(input_size=8, hidden_size=4),
        jl.stack(cell),
    ]
    assert len({cell, *others}) == 1 + len(others)
    assert cell != "lstm"
    assert jl.stack(cell, jl.rnn(input_size=4, hidden_size=2)) == jl.stack(
        jl.lstm(input_size=8, hidden_size=4), jl.rnn(input_size=4, hidden_size=2)
    )


def test_a_cell_without_a_description_is_itself_only():
    def make():
        rnn = jl.rnn(input_size=2, hidden_size=3)
        return jl.Cell(rnn.init, rnn.initial_carry, rnn.step, rnn.input_shape)

    a, b = make(), make()
    assert a == a
    assert hash(a) == hash(a)
    assert a != b


def test_cells_cannot_be_changed():
    with pytest.raises(AttributeError):
        CELLS["lstm"].step = None


# Steps.


@every_cell
def test_a_step_takes_any_leading_shape(cell):
    params = jax.eval_shape(cell.init, jax.random.key(0))
    for batch in ((), (2,), (2, 3), (0,)):
        x = jax.ShapeDtypeStruct((*batch, *cell.input_shape), "float32")

        def one(params, x, batch=batch):
            first = cell.initial_carry(params, batch)
            return first, *cell.step(params, first, x)

        first, carry, output = jax.eval_shape(one, params, x)
        assert jax.tree.leaves(carry) == jax.tree.leaves(first)
        assert jax.tree.structure(carry) == jax.tree.structure(first)
        assert output.shape == (*batch, *jl.output_shape(cell))


def test_a_closed_exponential_gate_gives_no_nan():
    cell = jl.slstm(input_size=1, hidden_size=1)
    params = cell.init(jax.random.key(0))._replace(bias=jnp.array([-200.0, 1.0, 0.0, 0.0]))
    gradient = jax.grad(lambda p: 1e3 * jl.unroll(cell, p, jnp.ones((5, 1))).outputs.sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_factory_that_is_defined_again_makes_other_cells():
    def define(scale):
        @jl.described
        def leaky(*, size):
            def step(params, carry, x):
                carry = params * carry + scale * x
                return carry, carry

            return jl.Cell(
                lambda key: jnp.full(size, 0.5),
                lambda params, batch_shape=(): jnp.zeros((*batch_shape, size)),
                step,
                (size,),
            )

        return leaky(size=1)

    one, other = define(1.0), define(100.0)
    assert one != other
    assert repr(one) == repr(other)
    params, inputs = one.init(jax.random.key(0)), jnp.ones((2, 1))
    np.testing.assert_allclose(jl.unroll(one, params, inputs).outputs, [[1], [1.5]])
    np.testing.assert_allclose(jl.unroll(other, params, inputs).outputs, [[100], [150]])


@pytest.mark.parametrize(
    "cell",
    [
        jl.lstm(input_size=2, hidden_size=3, recurrent_init=jl.initializers.orthogonal(scale=2.0)),
        jl.bidirectional(jl.lstmp(input_size=2, hidden_size=3, projection_size=2, peepholes=True),
                         jl.gru(input_size=2, hidden_size=3)),
        jl.stack(jl.lstm(input_size=2, hidden_size=3), jl.rnn(input_size=3, hidden_size=2)),
    ],
    ids=["lstm", "bidirectional", "stack"],
)  # fmt: skip
def test_a_cell_can_be_pickled_and_is_itself(cell):
    assert pickle.loads(pickle.dumps(cell)) == cell
    assert copy.deepcopy(cell) == cell


@pytest.mark.parametrize("make", [jl.rnn, jl.indrnn, jl.gru, jl.mgu])
def test_a_bias_drawn_for_the_gates_of_an_lstm_is_refused_by_other_cells(make):
    """Eight units make biases of 8, 16 and 24, each of which could be a [4H]."""
    cell = make(input_size=3, hidden_size=8, bias_init=jl.initializers.chrono(t_max=9))
    blocks = {jl.rnn: 1, jl.indrnn: 1, jl.gru: 3, jl.mgu: 2}[make]
    message = f"`bias_init` must draw the bias of {blocks} blocks of 8, got an initialiser for"
    with pytest.raises(ValueError, match=message):
        cell.init(jax.random.key(0))
