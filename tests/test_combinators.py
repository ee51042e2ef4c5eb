"""Combinators: what they compute, and noise that is the same wherever it is drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import random_carry, random_inputs, random_params

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("x64", "compile_fast")
LSTM = jl.lstm(input_size=3, hidden_size=3)
T, B = 6, 2
STOCHASTIC = {
    "dropout": jl.dropout(LSTM, rate=0.4),
    "constant-dropout": jl.dropout(LSTM, rate=0.4, constant=True),
    "recurrent-dropout": jl.recurrent_dropout(LSTM, rate=0.4),
    "recurrent-dropout-gru": jl.recurrent_dropout(
        jl.gru(input_size=3, hidden_size=3, reset_after=False), rate=0.4
    ),
    "zoneout": jl.zoneout(LSTM, hidden_rate=0.3, cell_rate=0.5),
    "weight-drop": jl.weight_drop(LSTM, rate=0.4),
    "stacked": jl.stack(LSTM, jl.dropout(LSTM, rate=0.4)),
}
every_noise = pytest.mark.parametrize("cell", STOCHASTIC.values(), ids=STOCHASTIC)


def data(tree):
    """The same tree with the numbers of its keys."""
    is_key = lambda a: jnp.issubdtype(a.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda a: jax.random.key_data(a) if is_key(a) else a, tree)


def same(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.ability("mask", cell="bidirectional")
@pytest.mark.ability("bidirectional", cell="bidirectional")
@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", "none"])
def test_a_ragged_bidirectional_batch_is_two_directions_run_one_by_one(merge):
    backward = jl.gru(input_size=3, hidden_size=3)
    cell = jl.bidirectional(LSTM, backward, merge=merge)
    params, inputs = random_params(cell), random_inputs(cell, 3, T)
    lengths = np.array([6, 2, 0])
    out = jl.unroll(cell, params, inputs, lengths=jnp.asarray(lengths))
    for row, length in enumerate(lengths):
        alone = inputs[row, :length]
        a = jl.unroll(LSTM, params.forward, alone).outputs
        b = jl.unroll(backward, params.backward, alone[::-1]).outputs[::-1]
        wanted = {
            "concat": np.concatenate([a, b], axis=-1),
            "sum": a + b,
            "mul": a * b,
            "ave": (a + b) / 2,
            "none": (a, b),
        }[merge]
        found = jax.tree.map(lambda leaf, r=row, n=length: leaf[r, :n], out.outputs)
        jax.tree.map(same, found, wanted)


@pytest.mark.ability("stack", cell="bidirectional")
def test_layers_of_both_directions():
    layer = jl.bidirectional(LSTM, LSTM)
    deep = jl.stack(layer, jl.residual(jl.lstm(input_size=6, hidden_size=6)))
    params, inputs = random_params(deep), random_inputs(deep, B, T)
    found = jl.unroll(deep, params, inputs, lengths=jnp.array([6, 3])).outputs
    middle = jl.unroll(layer, params[0], inputs, lengths=jnp.array([6, 3])).outputs
    above = jl.lstm(input_size=6, hidden_size=6)
    wanted = middle + jl.unroll(above, params[1], middle, lengths=jnp.array([6, 3])).outputs
    same(found, wanted)
    with pytest.raises(ValueError, match="cannot be stepped"):
        layer.step(params[0], layer.initial_carry(params[0]), inputs[0, 0])


def test_what_is_masked_goes_round_no_cell():
    cell = jl.residual(jl.bidirectional(LSTM, LSTM, merge="sum"))
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    lengths = jnp.array([4, 1])
    padded = jnp.where((jnp.arange(T)[None] < lengths[:, None])[..., None], inputs, jnp.nan)

    def loss(params, inputs):
        return jnp.sum(jl.unroll(cell, params, inputs, lengths=lengths).outputs ** 2)

    found, wanted = (jax.value_and_grad(loss, (0, 1))(params, x) for x in (padded, inputs))
    jax.tree.map(same, found, wanted)


@every_noise
def test_the_carry_of_every_step_brings_its_noise(cell):
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    out = jl.unroll(cell, params, inputs, key=jax.random.key(3), return_carries=True)
    plain = jl.unroll(cell, params, inputs, key=jax.random.key(3))
    jax.tree.map(same, (out.outputs, data(out.carry)), (plain.outputs, data(plain.carry)))
    last = [
        data(a)[:, -1] if a.shape[0] == B else data(a)[-1] for a in jax.tree.leaves(out.carries)
    ]
    jax.tree.map(same, last, jax.tree.leaves(data(out.carry)))


@every_noise
def test_the_same_key_gives_the_same_noise_everywhere(cell):
    params, inputs, key = random_params(cell), random_inputs(cell, B, T), jax.random.key(7)
    whole = jl.unroll(cell, params, inputs, key=key)
    same(jl.unroll(cell, params, inputs, key=key, remat="sqrt").outputs, whole.outputs)
    same(jax.jit(lambda k: jl.unroll(cell, params, inputs, key=k).outputs)(key), whole.outputs)
    head = jl.unroll(cell, params, inputs[:, :4], key=key)
    rest = jl.unroll(cell, params, inputs[:, 4:], carry=head.carry)
    same(jnp.concatenate([head.outputs, rest.outputs], axis=1), whole.outputs)
    carry, outputs = cell.initial_carry(params, (B,), key=key), []
    for t in range(T):
        carry, output = cell.step(params, carry, inputs[:, t])
        outputs.append(output)
    same(jnp.stack(outputs, axis=1), whole.outputs)
    other = jl.unroll(cell, params, inputs, key=jax.random.key(8)).outputs
    assert np.abs(other - whole.outputs).max() > 1e-3


@every_noise
def test_without_a_key_nothing_is_drawn(cell):
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    first, again = (jl.unroll(cell, params, inputs).outputs for _ in range(2))
    np.testing.assert_array_equal(first, again)
    if cell not in (STOCHASTIC["zoneout"], STOCHASTIC["stacked"]):
        inner = cell.description.arguments[0][1]
        same(first, jl.unroll(inner, params, inputs).outputs)


def test_dropout_drops_its_share_and_keeps_the_mean():
    reader = jl.rnn(input_size=1000, hidden_size=1, activation="identity", param_dtype="float64")
    params = jl.RNNParams(jnp.ones((1000, 1)) / 1000, jnp.zeros((1, 1)), jnp.zeros(1))
    for constant in (False, True):
        cell = jl.dropout(reader, rate=0.3, constant=constant)
        out = jl.unroll(cell, params, jnp.ones((20, 1000)), key=jax.random.key(0)).outputs
        assert abs(float(out.mean()) - 1) < 0.05
        kept = np.round(np.asarray(out[:, 0]) * 700)
        assert (len(set(kept)) == 1) == constant


def test_recurrent_dropout_has_a_mask_of_its_own_for_each_gate():
    cell = jl.recurrent_dropout(jl.lstm(input_size=3, hidden_size=200), rate=0.5)
    params = cell.init(jax.random.key(0))
    masks = cell.initial_carry(params, key=jax.random.key(1)).noise
    assert masks.shape == (4, 200)
    agree = np.mean((masks[0] > 0) == (masks[1] > 0))
    assert 0.35 < agree < 0.65
    assert set(np.unique(masks)) == {0.0, 2.0}


def test_recurrent_dropout_masks_what_the_gates_see_and_nothing_else():
    cell = jl.recurrent_dropout(LSTM, rate=0.5)
    params, x = random_params(cell), random_inputs(cell)
    carry = cell.initial_carry(params, key=jax.random.key(3))
    inner = jl.LSTMCarry(jnp.array([0.3, -0.8, 0.5]), jnp.array([1.0, -2.0, 0.7]))
    found = cell.step(params, carry._replace(carry=inner), x)[0].carry
    kernel = np.asarray(params.recurrent_kernel).reshape(3, 4, 3)
    seen = np.asarray(inner.hidden)[None] * np.asarray(carry.noise)
    z = np.asarray(x @ params.kernel + params.bias).reshape(4, 3)
    z = z + np.einsum("gh,hgk->gk", seen, kernel)
    i, f, o = (1 / (1 + np.exp(-z[k])) for k in (0, 1, 3))
    memory = f * np.asarray(inner.cell) + i * np.tanh(z[2])
    same(found.cell, memory)
    same(found.hidden, o * np.tanh(memory))


def test_zoneout_keeps_by_chance_and_mixes_in_expectation():
    cell = jl.zoneout(jl.lstm(input_size=3, hidden_size=2000), hidden_rate=0.2, cell_rate=0.6)
    params = jax.tree.map(lambda leaf: leaf / 100, random_params(cell))  # far from saturation
    x = random_inputs(cell)
    inner = cell.initial_carry(params).carry
    old = jl.LSTMCarry(inner.hidden + 5.0, inner.cell + 7.0)
    plain = cell.description.arguments[0][1].step(params, old, x)[0]
    start = cell.initial_carry(params, key=jax.random.key(1))
    noisy, output = cell.step(params, start._replace(carry=old), x)
    assert abs(float((noisy.carry.hidden == old.hidden).mean()) - 0.2) < 0.04
    assert abs(float((noisy.carry.cell == old.cell).mean()) - 0.6) < 0.04
    same(output, noisy.carry.hidden)
    mixed = cell.step(params, jl.Noisy(old, None), x)[0].carry
    same(mixed.cell, 0.6 * old.cell + 0.4 * plain.cell)
    same(mixed.hidden, 0.2 * old.hidden + 0.8 * plain.hidden)


def test_weight_drop_drops_one_kernel_for_the_whole_batch_and_sequence():
    cell = jl.weight_drop(LSTM, rate=0.5)
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    found = jl.unroll(cell, params, inputs, key=jax.random.key(2))
    key = found.carry.noise
    kept = jax.random.bernoulli(key, 0.5, params.recurrent_kernel.shape)
    dropped = params._replace(recurrent_kernel=jnp.where(kept, 2 * params.recurrent_kernel, 0))
    same(found.outputs, jl.unroll(LSTM, dropped, inputs).outputs)


def test_a_reset_restarts_the_state_and_not_the_noise():
    cell = jl.dropout(LSTM, rate=0.4)
    params, inputs = random_params(cell), jnp.ones((B, T, 3))
    resets = jnp.zeros((B, T), bool).at[:, 3].set(True)
    outputs = jl.unroll(cell, params, inputs, resets=resets, key=jax.random.key(0)).outputs
    assert np.abs(outputs[:, 3] - outputs[:, 0]).max() > 1e-6


@every_noise
@pytest.mark.parametrize("rows", [B, 3])
def test_an_old_key_gives_the_noise_of_the_new_one(cell, rows):
    # Its words, two of them, are not the two rows of a batch.
    params, inputs = random_params(cell), random_inputs(cell, rows, T)
    old, new = jax.random.PRNGKey(7), jax.random.key(7)

    def whole(**options):
        out = jl.unroll(cell, params, inputs, return_carries=True, include_initial=True, **options)
        return data(out)

    found, wanted = whole(key=old), whole(key=new)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    begun = cell.initial_carry(params, (rows,), key=old)
    jax.tree.map(np.testing.assert_array_equal, whole(carry=begun), wanted)
    first = jl.unroll(cell, params, inputs[:, :2], key=old)
    rest = jl.unroll(cell, params, inputs[:, 2:], carry=first.carry)
    same(rest.outputs, wanted.outputs[:, 2:])
    jax.tree.map(same, data(rest.carry), wanted.carry)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("time_major", [False, True])
def test_a_residual_around_both_directions_holds_the_sum(reverse, time_major):
    both = jl.bidirectional(LSTM, LSTM, merge="sum")
    cell = jl.residual(jl.stack(both))
    params, inputs = random_params(cell), random_inputs(cell, 3, T)
    mask = np.array([[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
    swap = lambda a: np.swapaxes(a, 0, 1) if time_major else a  # noqa: E731
    options = {
        "mask": swap(mask),
        "masked_outputs": "hold",
        "reverse": reverse,
        "time_major": time_major,
    }
    shown = jnp.where(mask[..., None], inputs, jnp.nan)
    found = swap(jl.unroll(cell, params, swap(shown), **options).outputs)
    inner = swap(jl.unroll(both, params[0], swap(shown), **options).outputs)
    last = [1, 1, 2, 4, 4, None] if reverse else [None, 1, 2, 2, 4, 4]
    held = np.stack([np.zeros(3) if at is None else inputs[0, at] for at in last])
    wanted = inner + np.stack([held, inputs[1], np.zeros((T, 3))])
    np.testing.assert_array_equal(found, wanted)
    gradient = jax.grad(lambda x: jl.unroll(cell, params, x, **options).outputs.sum())(swap(shown))
    assert np.isfinite(gradient).all()


def test_zoneout_in_half_precision_mixes_in_single_and_rounds_once():
    inner = jl.lstm(input_size=3, hidden_size=50, param_dtype="bfloat16")
    cell = jl.zoneout(inner, hidden_rate=0.3, cell_rate=0.6)
    params, x = random_params(cell, dtype="bfloat16"), random_inputs(cell, 4, dtype="bfloat16")
    before = random_carry(inner, params, 4, dtype="bfloat16")
    after, _ = inner.step(params, before, x)
    (found, _), _ = cell.step(params, cell.initial_carry(params, (4,))._replace(carry=before), x)
    for rate, old, new, got in zip((0.3, 0.6), before, after, found, strict=True):
        exact = rate * old.astype("float32") + (1 - rate) * new.astype("float32")
        np.testing.assert_array_equal(got, exact.astype("bfloat16"))


def test_residual_in_half_precision_adds_in_single_and_rounds_once():
    inner = jl.lstm(input_size=50, hidden_size=50, dtype="bfloat16")
    cell = jl.residual(inner)
    params, x = random_params(cell, dtype="float32"), random_inputs(cell, 4, 1, dtype="float32")
    output = jl.unroll(inner, params, x).outputs
    wanted = (x + output.astype("float32")).astype("bfloat16")
    np.testing.assert_array_equal(jl.unroll(cell, params, x).outputs, wanted)
    _, stepped = cell.step(params, cell.initial_carry(params, (4,)), x[:, 0])
    np.testing.assert_array_equal(stepped, wanted[:, 0])


def test_an_average_of_what_float16_holds_is_one_that_it_holds():
    one = jl.rnn(input_size=1, hidden_size=1, activation="identity", param_dtype="float16")
    cell = jl.bidirectional(one, one, merge="ave")
    params = jax.tree.map(jnp.ones_like, cell.init(jax.random.key(0)))
    found = jl.unroll(cell, params, jnp.full((1, 1), 4e4, "float16")).outputs
    np.testing.assert_array_equal(found, jnp.full((1, 1), 4e4, "float16"))


def test_zoneout_takes_a_step_that_is_compiled():
    compiled = dataclasses.replace(LSTM, step=jax.jit(LSTM.step))
    params, inputs = random_params(LSTM), random_inputs(LSTM, B, T)
    found, wanted = (jl.unroll(jl.zoneout(cell), params, inputs) for cell in (compiled, LSTM))
    same(found.outputs, wanted.outputs)


def test_combinators_of_combinators_are_described():
    cell = jl.stack(
        jl.bidirectional(LSTM, jl.dropout(LSTM, rate=0.5)),
        jl.residual(jl.zoneout(jl.gru(input_size=6, hidden_size=6), hidden_rate=0.1)),
    )
    assert jl.from_dict(jl.to_dict(cell)) == cell
    out = jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((B, T, 3)), key=jax.random.key(1))
    assert out.outputs.shape == (B, T, 6)


def test_a_carry_brings_the_keys_of_another_generator():
    cell = jl.dropout(jl.lstm(input_size=2, hidden_size=3), rate=0.5)
    params, inputs = cell.init(jax.random.key(0)), jnp.ones((4, 6, 2))
    key = jax.random.key(1, impl="rbg")
    whole = jl.unroll(cell, params, inputs, key=key)
    head = jl.unroll(cell, params, inputs[:, :3], key=key)
    tail = jl.unroll(cell, params, inputs[:, 3:], carry=head.carry)
    found = jnp.concatenate([head.outputs, tail.outputs], axis=1)
    np.testing.assert_array_equal(found, whole.outputs)
    with pytest.raises(TypeError, match=r"`carry.*` must be key<fry>, got float32"):
        jl.unroll(cell, params, inputs, carry=head.carry._replace(noise=jnp.float32(1)))


def test_a_cell_without_parameters_drops_too():
    cell = jl.Cell(
        init=lambda key: (),
        initial_carry=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 3)),
        step=lambda params, carry, x: (x, x),
        input_shape=(3,),
    )
    dropped = jl.dropout(cell, rate=0.5, constant=True)
    outputs = jl.unroll(dropped, (), jnp.ones((50, 4, 3)), key=jax.random.key(0)).outputs
    assert set(np.unique(outputs)) == {0.0, 2.0}
    np.testing.assert_array_equal(outputs, outputs[:, :1] * jnp.ones((1, 4, 1)))
