"""Networks from configs: the one of 1997, GRU, half precision, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm import config, tasks
from jaxlstm.config import GRU, LSTM, LSTM1997, RNN
from jaxlstm.errors import UserError
from jaxlstm.training import frames, model, objective, optimizers, step

pytestmark = pytest.mark.usefixtures("compile_fast")


def built(spec, *, input_size=3, output_size=2, every_step=True):
    network = model.build(
        spec, input_size=input_size, output_size=output_size, tokens=False, every_step=every_step
    )
    return network, network.init(jax.random.key(0))


def close(tree, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), tree, other)


# -- 1997


@pytest.mark.parametrize(
    ("count", "inputs", "outputs", "spec"),
    [
        (93, 2, 1, LSTM1997(blocks=2, block_size=2)),
        (156, 8, 4, LSTM1997(blocks=2, block_size=2)),
        (308, 8, 8, LSTM1997(blocks=3, block_size=2)),
        (102, 1, 1, LSTM1997(blocks=3, readout_bias=False)),
        (264, 7, 7, LSTM1997(blocks=4, cell_bias=False, readout_bias=False)),
        (276, 7, 7, LSTM1997(blocks=3, block_size=2, cell_bias=False, readout_bias=False)),
    ],
)
def test_the_network_of_1997_has_the_published_number_of_weights(count, inputs, outputs, spec):
    network = model.build(
        spec, input_size=inputs, output_size=outputs, tokens=False, every_step=False
    )
    assert model.count(jax.eval_shape(network.init, jax.random.key(0))) == count


def test_the_network_of_1997_begins_as_its_config_says():
    spec = LSTM1997(blocks=50, block_size=4, input_gate_bias=-3.0, limit=0.2)
    _, params = built(spec)
    cell, readout = params.cell, params.readout
    assert np.all(np.asarray(cell.gate_bias[:50]) == -3)
    drawn = (cell.kernel, cell.recurrent_kernel, cell.gate_bias[50:], cell.cell_bias, *readout)
    values = [np.ravel(leaf) for leaf in drawn]
    for leaf in values:
        assert np.abs(leaf).max() < 0.2
    values = np.concatenate(values)
    assert np.abs(values).max() > 0.199
    assert np.std(values) == pytest.approx(0.2 / np.sqrt(3), rel=0.01)
    assert len(np.unique(np.concatenate([np.ravel(leaf) for leaf in drawn[2:4]]))) == 250

    steps = tuple(-float(block) for block in range(1, 51))
    spec = LSTM1997(blocks=50, output_gate_bias=steps, biases="zero", readout_bias=False)
    _, params = built(spec)
    np.testing.assert_array_equal(params.cell.gate_bias, [0.0] * 50 + list(steps))
    assert not np.any(params.cell.cell_bias)
    assert params.readout.bias is None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("every_step", [False, True])
def test_the_network_of_1997_is_its_blocks_and_a_readout(bias, every_step):
    spec = LSTM1997(blocks=2, block_size=3, readout_bias=bias, limit=2.0)
    network, params = built(spec, every_step=every_step)
    inputs, lengths = jax.random.normal(jax.random.key(1), (4, 6, 3)), jnp.array([6, 3, 1, 5])
    found = network.apply(params, inputs, lengths)
    bare = jl.lstm_1997(input_size=3, blocks=2, block_size=3)
    for row, steps in enumerate(lengths.tolist()):
        hidden = np.asarray(jl.unroll(bare, params.cell, inputs[row, :steps]).outputs, float)
        expected = hidden @ np.asarray(params.readout.kernel)
        if bias:
            expected = expected + np.asarray(params.readout.bias)
        mine = found[row, :steps] if every_step else found[row]
        close(mine, expected if every_step else expected[-1])


def test_truncation_is_an_option():
    inputs = jax.random.normal(jax.random.key(1), (2, 6, 3))
    spec = {"blocks": 2, "block_size": 2, "limit": 2.0}
    gradients = []
    for truncated in (True, False):
        network, params = built(LSTM1997(**spec, truncated=truncated))
        value = lambda p, network=network: jnp.sum(network.apply(p, inputs) ** 2)  # noqa: E731
        gradients.append(jax.grad(value)(params).cell.kernel)
    assert not np.allclose(*gradients, rtol=1e-2)


def test_biases_are_one_for_each_block():
    text = 'kind = "training"\nname = "x"\nquestion = "?"\nexpected = "!"\n'
    text += '[task]\nkind = "adding"\n[train]\nsteps = 1\nbatch_size = 1\n'
    text += '[optimizer]\nkind = "sgd"\nlearning_rate = 0.5\n'
    text += '[model]\ncell = "lstm-1997"\nblocks = 2\ninput_gate_bias = '
    assert config.loads(text + "[-1.0, -2]").model.input_gate_bias == (-1, -2)
    assert config.loads(text + "-3.0").model.input_gate_bias == -3
    with pytest.raises(UserError, match=r"model\.input_gate_bias: expected one number for each of"):
        config.loads(text + "[-1.0]")


# -- GRU


@pytest.mark.parametrize("reset_after", [False, True])
def test_a_gru_is_built_with_its_options(reset_after):
    spec = GRU(hidden_size=4, layers=2, reset_after=reset_after, recurrent_init=config.Identity())
    network, params = built(spec)
    assert network.cell == jl.stack(
        *(
            jl.gru(
                input_size=size,
                hidden_size=4,
                reset_after=reset_after,
                recurrent_init=jl.initializers.identity(scale=1.0),
            )
            for size in (3, 4)
        )
    )
    np.testing.assert_array_equal(params.cell[1].recurrent_kernel, np.tile(np.eye(4), 3))
    assert network.apply(params, jnp.ones((2, 5, 3))).shape == (2, 5, 2)


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
def test_the_weights_of_the_inputs_begin_as_they_are_told_to(kind):
    spec = kind(hidden_size=200, kernel_init=config.Normal(stddev=3.0))
    kernel = np.asarray(built(spec)[1].cell.kernel)
    assert np.std(kernel) == pytest.approx(3.0, rel=0.15)
    assert np.mean(np.abs(kernel) > 6.0) == pytest.approx(0.0455, abs=0.03)  # of a normal


# -- half precision


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN, config.ConvLSTM])
@pytest.mark.parametrize("every_step", [False, True])
def test_in_half_precision_what_is_learnt_and_given_stays_single(kind, every_step):
    spec = {"filters" if kind is config.ConvLSTM else "hidden_size": 4, "layers": 2}
    options = {"tokens": False, "input_size": 6, "output_size": 6, "every_step": every_step}

    def made(dtype):
        given = kind(**spec, dtype=dtype)
        if kind is config.ConvLSTM:
            return frames.build(given, (2, 3), every_step=every_step)
        return model.build(given, **options)

    half, full = made("bfloat16"), made("float32")
    params = half.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    close(params, full.init(jax.random.key(0)))
    for top in half.cell.initial_carry(params.cell, (4,)):
        assert top.hidden.dtype == jnp.bfloat16
        assert getattr(top, "cell", jnp.zeros(1)).dtype == jnp.float32

    inputs, lengths = jax.random.normal(jax.random.key(1), (4, 9, 6)), jnp.array([9, 3, 1, 5])

    def found(network):
        def loss(params):
            outputs = network.apply(params, inputs, lengths)
            return jnp.mean(outputs**2), outputs

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, outputs), gradient = found(half)
    (_, wanted), exact = found(full)
    assert outputs.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    assert 0 < jnp.linalg.norm(outputs - wanted) < 0.01 * jnp.linalg.norm(wanted)
    for got, leaf in zip(jax.tree.leaves(gradient), jax.tree.leaves(exact), strict=True):
        assert jnp.linalg.norm(got - leaf) <= 0.03 * jnp.linalg.norm(leaf)


# -- dropout


SPECS = [
    LSTM(hidden_size=5, layers=2, dropout=0.4),
    GRU(hidden_size=5, layers=2, dropout=0.4),
    RNN(hidden_size=5, dropout=0.4),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
@pytest.mark.parametrize("every_step", [False, True])
def test_dropout_drops_above_each_layer_and_only_with_a_key(spec, every_step):
    network, params = built(spec, every_step=every_step)
    inputs, lengths = jax.random.normal(jax.random.key(1), (4, 6, 3)), jnp.array([6, 3, 1, 5])
    key = jax.random.key(7)
    found = network.apply(params, inputs, lengths, key=key)
    x, each = inputs, params.cell if spec.layers > 1 else (params.cell,)
    for index, (cell, weights) in enumerate(zip(network.layers, each, strict=True)):
        hold = "zero" if every_step else "hold"
        x = jl.unroll(cell, weights, x, lengths=lengths, masked_outputs=hold).outputs
        mask = jax.random.bernoulli(jax.random.fold_in(key, index), 0.6, x.shape)
        x = x * mask.astype(x.dtype) / 0.6
    close(found, network.readout(params, x))
    plain = network.apply(params, inputs, lengths)
    assert not np.allclose(found, plain)
    same, _ = built(type(spec)(hidden_size=5, layers=spec.layers), every_step=every_step)
    np.testing.assert_array_equal(plain, same.apply(params, inputs, lengths))
    np.testing.assert_array_equal(plain, same.apply(params, inputs, lengths, key=key))


def test_training_drops_anew_at_each_step_and_evaluation_not_at_all():
    task = tasks.build(config.Adding(length=10))
    network = model.build(
        LSTM(hidden_size=8, dropout=0.5), input_size=2, output_size=1, tokens=False,
        every_step=False,
    )  # fmt: skip
    total = jax.jit(objective.build(task, network))
    params = network.init(jax.random.key(0))
    batch = task.sample(task.data, jax.random.key(1), 4)
    plain = float(total(params, batch, jnp.int32(0))[0])
    assert plain == float(task.loss(network.apply(params, batch.inputs), batch)[0])
    noisy = {float(total(params, batch, jnp.int32(0), jax.random.key(k))[0]) for k in range(5)}
    assert len(noisy | {plain}) == 6

    # The key of an update is that of its batch, folded away from the keys that a task draws from.
    sgd = optimizers.build(config.SGD(learning_rate=1.0), 1)
    update = step.build(task, network, sgd, batch_size=4, log_every=1)
    state = update.init(jax.random.key(3), task.data)
    new = update.advance(state, task.data, jnp.int32(1))
    key = jax.random.fold_in(state.key, 0)
    batch = task.sample(task.data, key, 4)
    gradient = jax.grad(lambda p: total(p, batch, jnp.int32(0), key)[0])(state.params)
    close(new.params, jax.tree.map(lambda p, g: p - g, state.params, gradient))
    ours = jax.random.fold_in(key, objective.DROPPING)
    assert all(ours != other for other in jax.random.split(key, 8))
