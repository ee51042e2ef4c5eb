"""Parallel in time: the scan's values within the tolerance, its derivatives, and when it pays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import random_like, random_params, within
from jax.sharding import PartitionSpec

import jaxlstm as jl

SLOW = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("compile_fast")
close = within(1e-5)

B, T = 3, 40
LENGTHS = jnp.array([0, T, 17], jnp.int32)
RESETS = jax.random.bernoulli(jax.random.key(3), 0.1, (B, T))
MASK = jax.random.bernoulli(jax.random.key(4), 0.7, (B, T))
OPTIONS = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "all": {"resets": RESETS, "reverse": True, "mask": MASK, "return_carries": True},
}
CELLS = [
    jl.lstm(input_size=3, hidden_size=4, peepholes=True),
    jl.gru(input_size=3, hidden_size=4, reset_after=False),
    jl.mlstm(input_size=3, hidden_size=4),
    jl.conv_lstm(input_shape=(4, 5, 1), filters=2, kernel_size=3),
    jl.stack(
        jl.rnn(input_size=3, hidden_size=4),
        jl.bidirectional(
            jl.mgu(input_size=4, hidden_size=3), jl.indrnn(input_size=4, hidden_size=2)
        ),
    ),
]


def case(cell, length=T):
    params = random_params(cell, dtype=float)
    inputs = jax.random.normal(jax.random.key(2), (B, length, *cell.input_shape))
    return params, inputs, random_like(cell.initial_carry(params, (B,)), 5, float)


def masked(inputs, options):
    if "lengths" not in options:
        return inputs
    valid = jnp.arange(T, dtype=jnp.int32)[None] < LENGTHS[:, None]
    return jnp.where(valid.reshape(B, T, *(1,) * (inputs.ndim - 2)), inputs, jnp.nan)


@pytest.mark.parametrize(
    ("cell", "name", "backend"),
    [
        pytest.param(
            cell,
            name,
            backend,
            marks=[] if name == "all" and (cell is CELLS[0] or backend == "newton") else SLOW,
        )
        for cell in CELLS
        for name in OPTIONS
        for backend in ("newton", "quasi-newton")
    ],
)
def test_values_and_derivatives_are_those_of_the_scan(cell, name, backend):
    options = OPTIONS[name]
    with jax.enable_x64(True):
        params, inputs, carry = case(cell)
        inputs = masked(inputs, options)

        def loss(params, inputs, carry, backend):
            out = jl.unroll(cell, params, inputs, carry=carry, backend=backend, **options)
            leaves = enumerate(jax.tree.leaves(out))
            return sum((jnp.sum(jnp.sin((i + 1) * leaf)) for i, leaf in leaves), jnp.zeros(())), out

        found = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
        scan = found(params, inputs, carry, "scan")
        other = found(params, inputs, carry, backend)
        for a, b in zip(jax.tree.leaves(scan), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("backend", ["newton", "quasi-newton"])
def test_derivatives_of_the_second_order_and_forwards(backend, x64):
    cell = jl.gru(input_size=3, hidden_size=4)
    given = case(cell, 12)
    tangents = random_like(given, 6, float)

    def loss(params, inputs, carry, backend):
        return jnp.sum(jl.unroll(cell, params, inputs, carry=carry, backend=backend).outputs ** 3)

    def derivatives(backend):
        one = functools.partial(loss, backend=backend)
        return jax.jvp(one, given, tangents), jax.jvp(jax.grad(one, (0, 1, 2)), given, tangents)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-11)
    jax.tree.map(close, derivatives(backend), derivatives("scan"))


@pytest.mark.parametrize("backend", ["newton", "quasi-newton"])
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 5, 9, 3)])
def test_any_length_and_batch_also_mapped(shape, backend):
    cell = jl.lstm(input_size=3, hidden_size=4)
    params = case(cell)[0]
    inputs = jax.random.normal(jax.random.key(2), shape)

    def found(backend, params, inputs):
        return jl.unroll(cell, params, inputs, backend=backend)

    def mapped(backend, params, inputs):
        return jax.vmap(functools.partial(found, backend, params))(inputs)

    def total(way, params):
        return jnp.sum(jnp.square(way(params, inputs).outputs))

    scan = functools.partial(found, "scan")
    near = functools.partial(jax.tree.map, functools.partial(np.testing.assert_allclose, atol=1e-5))
    for way in [found] if len(shape) == 2 else [found, mapped]:
        way = functools.partial(way, backend)
        near(way(params, inputs), scan(params, inputs))
        near(*(jax.grad(functools.partial(total, f))(params) for f in (way, scan)))


def random_rnn(gain, size=16):
    cell = jl.rnn(input_size=2, hidden_size=size)
    params = random_params(cell, dtype=float)
    kernel = gain * jax.random.normal(jax.random.key(1), (size, size)) / size**0.5
    return cell, params._replace(recurrent_kernel=kernel)


def test_few_iterations_where_the_network_forgets_and_many_where_it_is_chaotic(x64):
    inputs = 0.1 * jax.random.normal(jax.random.key(2), (4, 300, 2))
    found = {}
    for gain in (0.5, 3.0):
        cell, params = random_rnn(gain)
        solved = jl.newton(cell, params, inputs)
        assert solved.iterations.shape == solved.residual.shape == (4, 300)
        assert solved.residual.max() < 1e-14
        found[gain] = int(solved.iterations.max())
        if gain < 1:
            np.testing.assert_allclose(
                solved.outputs, jl.unroll(cell, params, inputs).outputs, atol=1e-13
            )
    assert found[0.5] <= 8
    assert 30 < found[3.0] <= 300


def test_a_network_that_overflows_is_solved_all_the_same(x64):
    cell, params = random_rnn(40.0)
    inputs = jax.random.normal(jax.random.key(2), (2, 400, 2))
    solved = jl.newton(cell, params, inputs)
    assert solved.residual.max() < 1e-14
    before = jnp.concatenate([jnp.zeros((2, 1, 16)), solved.outputs[:, :-1]], axis=1)
    again = jax.vmap(jax.vmap(lambda h, x: cell.step(params, jl.RNNCarry(h), x)[1]))(before, inputs)
    np.testing.assert_allclose(again, solved.outputs, atol=1e-13)


def test_after_n_iterations_the_first_n_steps_are_right(x64):
    cell, params = random_rnn(3.0)
    inputs = jax.random.normal(jax.random.key(2), (1, 60, 2))
    scan = jl.unroll(cell, params, inputs).outputs
    for jacobian in ("full", "diagonal"):
        solved = jl.newton(cell, params, inputs, jacobian=jacobian, max_iterations=5)
        np.testing.assert_allclose(solved.outputs[:, :5], scan[:, :5], atol=1e-12)
        assert solved.residual[:, 30:].max() > 1e-3
        assert int(solved.iterations.max()) == 5


def test_the_tolerance_is_met_and_the_diagonal_takes_more_iterations():
    cell = jl.gru(input_size=2, hidden_size=8)
    params = cell.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (2, 200, 2))
    full, diagonal, rough = (
        jl.newton(cell, params, inputs, **options)
        for options in ({}, {"jacobian": "diagonal"}, {"tolerance": 1e-2})
    )
    assert full.residual.max() <= 1e-6
    assert diagonal.residual.max() <= 1e-6
    assert rough.residual.max() <= 1e-2
    assert rough.iterations.max() < full.iterations.max() < diagonal.iterations.max() < 50


def test_the_tolerance_of_large_states_is_a_share_of_them():
    """What is linear takes one iteration; what rounding leaves then grows with the states."""
    half = jl.initializers.orthogonal(scale=0.5)
    cell = jl.rnn(input_size=1, hidden_size=4, activation="identity", recurrent_init=half)
    inputs = 1e4 * jax.random.normal(jax.random.key(1), (50, 1))
    solved = jl.newton(cell, cell.init(jax.random.key(0)), inputs)
    assert solved.iterations.max() == 1
    assert 1e-4 < solved.residual.max() < 1


@pytest.mark.parametrize("backend", ["newton", "quasi-newton"])
@pytest.mark.parametrize("shared", [False, True])
def test_shard_map_over_the_batch_equals_one_device(backend, shared):
    if len(jax.devices()) < 2:
        pytest.skip("one device only")
    cell, rows, same = CELLS[0], PartitionSpec("rows"), PartitionSpec()
    params, inputs, _ = case(cell, 6)
    inputs, lengths, resets = inputs[:2], jnp.array([6, 3]), RESETS[:2, :6]
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(backend, params, inputs, *more):
        options = dict(zip(("lengths", "resets"), more, strict=False))
        out = jl.unroll(cell, params, inputs, backend=backend, **options)
        return out.outputs, out.carry

    def total(run, params):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(run(params, *given)))

    given = (inputs,) if shared else (inputs, lengths, resets)
    specs = (same, *[same if shared else rows] * len(given))
    sharded = jax.jit(
        jax.shard_map(
            functools.partial(run, backend), mesh=mesh, in_specs=specs, out_specs=specs[-1]
        )
    )
    wanted = functools.partial(run, "scan")
    close(sharded(params, *given), wanted(params, *given))
    gradients = [jax.grad(functools.partial(total, f))(params) for f in (sharded, wanted)]
    close(*gradients)


@pytest.mark.parametrize("backend", ["associative", "newton", "quasi-newton"])
def test_a_carry_that_a_reset_discards_may_be_anything(backend):
    cell = jl.min_gru(input_size=3, hidden_size=4)
    params, inputs, carry = case(cell, 6)
    broken = jax.tree.map(lambda leaf: leaf.at[1:].set(jnp.nan), carry)
    resets = jnp.zeros((B, 6), bool).at[1:, 0].set(True).at[:, 4].set(True)

    def run(backend, params, inputs):
        out = jl.unroll(cell, params, inputs, carry=broken, resets=resets, backend=backend)
        return out.outputs, out.carry

    def total(backend, *given):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(run(backend, *given)))

    close(run(backend, params, inputs), run("scan", params, inputs))
    found, wanted = (
        jax.grad(functools.partial(total, way), argnums=(0, 1))(params, inputs)
        for way in (backend, "scan")
    )
    close(found, wanted)
    none = jl.unroll(cell, params, inputs[:, :0], carry=broken, resets=resets[:, :0])
    np.testing.assert_array_equal(none.carry.hidden, broken.hidden)


@pytest.mark.parametrize(
    ("cell", "options", "line"),
    [
        (CELLS[0], {"truncate": 3}, "`truncate` has no parallel form"),
        (CELLS[0], {"remat": "sqrt"}, "`remat` has no parallel form"),
        (CELLS[0], {"masked_outputs": "hold"}, "`masked_outputs` has no parallel form"),
        (
            jl.recurrent_dropout(CELLS[1], rate=0.5),
            {"key": jax.random.key(0)},
            "`backend` 'newton' needs a carry of floats alone, without noise, got",
        ),
    ],
)
def test_what_has_no_parallel_form_is_refused(cell, options, line):
    with pytest.raises(ValueError, match=line):
        jl.unroll(cell, case(cell)[0], jnp.ones((2, 5, 3)), backend="newton", **options)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"jacobian": "half"}, r"`jacobian` must be one of \['full', 'diagonal'\], got 'half'"),
        ({"tolerance": 0.0}, "`tolerance` must be a positive float, got 0.0"),
        ({"max_iterations": 0}, "`max_iterations` must be positive, got 0"),
        ({"cell": CELLS[4]}, "`cell` must be one layer: solve those of stack"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, line):
    options = {"cell": CELLS[0]} | options
    cell = options.pop("cell")
    with pytest.raises(ValueError, match=line):
        jl.newton(cell, cell.init(jax.random.key(0)), jnp.ones((2, 5, 3)), **options)


@pytest.mark.parametrize("gain", [3.0, 4.0])
def test_a_chaotic_network_is_solved_however_far_its_iterations_go_astray(gain):
    cell = jl.rnn(input_size=3, hidden_size=8, recurrent_init=jl.initializers.ginibre(gain=gain))
    params = cell.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (1, 300, 3))
    solved = jl.newton(cell, params, inputs)
    assert solved.residual.max() < 1e-6
    assert 100 < solved.iterations.max() < 300


def hardly_a_number(cell, kind):
    """A batch whose first row has a step that gives no number, and one that begins anew later."""
    params = random_params(cell, dtype=float)
    inputs = jax.random.normal(jax.random.key(2), (2, 12, *cell.input_shape))
    inputs = inputs.at[0, 3].set(jnp.nan if kind == "NaN" else 1e38)
    return params, inputs, jnp.zeros((2, 12), bool).at[:, 8].set(True)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("cell", "backend"),
    [
        (jl.gru(input_size=2, hidden_size=3), "newton"),
        (jl.gru(input_size=2, hidden_size=3), "quasi-newton"),
        (jl.min_gru(input_size=2, hidden_size=3), "associative"),
    ],
    ids=["newton", "quasi-newton", "associative"],
)
def test_what_is_no_number_is_none_until_the_carry_begins_anew(cell, backend, reverse):
    params, inputs, resets = hardly_a_number(cell, "NaN")
    given = {"resets": resets, "reverse": reverse, "return_carries": True}
    wanted = jl.unroll(cell, params, inputs, backend="scan", **given)
    found = jl.unroll(cell, params, inputs, backend=backend, **given)
    assert np.isnan(wanted.outputs[0]).any()
    assert not np.isnan(wanted.outputs[1]).any()
    close(found, wanted)


def test_a_network_that_overflows_looks_like_one():
    cell = jl.rnn(
        input_size=1,
        hidden_size=2,
        activation="relu",
        recurrent_init=jl.initializers.identity(scale=1e10),
    )
    params = jax.tree.map(jnp.abs, cell.init(jax.random.key(0)))
    found = jl.unroll(cell, params, jnp.ones((12, 1)), backend="newton").outputs
    wanted = jl.unroll(cell, params, jnp.ones((12, 1)), backend="scan").outputs
    finite = np.isfinite(wanted).all(-1)
    assert not finite.all()
    close(found[finite], wanted[finite])
    assert not np.isfinite(found[~finite]).any()


@pytest.mark.parametrize("backend", ["newton", "associative"])
def test_a_carry_that_is_no_number_reaches_nothing_behind_a_reset(backend):
    cell = jl.min_gru(input_size=2, hidden_size=3)
    params, inputs, resets = hardly_a_number(cell, "none")
    inputs = jnp.clip(inputs, -2, 2)
    carry = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), cell.initial_carry(params, (2,)))
    found = jl.unroll(cell, params, inputs, carry=carry, resets=resets, backend=backend)
    assert np.isnan(found.outputs[:, :8]).all()
    close(found.outputs[:, 8:], jl.unroll(cell, params, inputs[:, 8:]).outputs)


def test_a_step_without_a_number_does_not_keep_the_others_iterating():
    cell = jl.gru(input_size=2, hidden_size=3)
    params, inputs, resets = hardly_a_number(cell, "NaN")
    clean = jl.newton(cell, params, jnp.nan_to_num(inputs), resets=resets).iterations.max()
    assert jl.newton(cell, params, inputs, resets=resets).iterations.max() <= clean + 1
