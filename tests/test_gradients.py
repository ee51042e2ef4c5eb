"""`jl.gradients` against backpropagation by hand, composed steps, and identities."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cells_table import random_inputs, random_params
from jax.flatten_util import ravel_pytree

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("compile_fast")

T, B = 7, 3
LSTM = jl.lstm(input_size=3, hidden_size=4)
RNN = jl.rnn(input_size=3, hidden_size=4)


def weighted(seed, shape):
    """A loss that looks at every output differently, and its weights."""
    weights = np.random.default_rng(seed).normal(size=shape)
    return lambda outputs: jnp.sum(outputs**2 * weights), weights


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", [LSTM, RNN], ids=["lstm", "rnn"])
def test_flow_is_backpropagation_through_time(cell):
    params, inputs = random_params(cell), random_inputs(cell, T)
    loss, weights = weighted(3, (T, 4))
    found = jl.gradients.flow(cell, params, inputs, loss)
    weights_by_hand = [np.asarray(leaf) for leaf in params]
    if cell is LSTM:
        state = (np.zeros(4), np.zeros(4))
        outputs = reference.lstm_forward(*weights_by_hand, np.asarray(inputs), *state)[0][1:]
        backward = reference.lstm_backward
    else:
        state = (np.zeros(4),)
        outputs = reference.rnn_forward(*weights_by_hand, np.asarray(inputs), *state)[1:]
        backward = reference.rnn_backward
    wanted = backward(*weights_by_hand, np.asarray(inputs), *state, 2 * outputs * weights)
    for name in found.gradients._fields:
        adjoint = getattr(found.gradients, name)
        np.testing.assert_allclose(adjoint, wanted[name], rtol=1e-10, atol=1e-12)
        norms = np.linalg.norm(wanted[name], axis=-1)
        np.testing.assert_allclose(getattr(found.norms, name), norms, rtol=1e-10)
    np.testing.assert_allclose(found.loss, np.sum(outputs**2 * weights), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reverse", [False, True])
def test_flow_of_a_batch_is_that_of_its_sequences(reverse):
    params, inputs = random_params(LSTM), random_inputs(LSTM, B, T)
    lengths = np.array([7, 3, 0])
    loss, weights = weighted(3, (B, T, 4))
    options = {"lengths": jnp.asarray(lengths), "reverse": reverse}
    found = jax.jit(lambda p, x: jl.gradients.flow(LSTM, p, x, loss, **options))(params, inputs)
    major = jl.gradients.flow(
        LSTM,
        params,
        jnp.moveaxis(inputs, 1, 0),
        lambda outputs: loss(jnp.moveaxis(outputs, 0, 1)),
        time_major=True,
        **options,
    )
    for leaf, other in zip(found.norms, major.norms, strict=True):
        np.testing.assert_allclose(leaf, other.T, rtol=1e-10)
    for row, length in enumerate(lengths):
        alone = jl.gradients.flow(
            LSTM,
            params,
            inputs[row, :length],
            lambda outputs, row=row, length=length: jnp.sum(outputs**2 * weights[row, :length]),
            reverse=reverse,
        )
        for name in ("hidden", "cell"):
            norms = np.asarray(getattr(found.norms, name)[row])
            np.testing.assert_allclose(norms[:length], getattr(alone.norms, name), rtol=1e-9)
            assert not norms[length:].any()


@pytest.mark.usefixtures("x64")
def test_flow_through_layers_sees_the_way_up():
    lower, upper = LSTM, jl.rnn(input_size=4, hidden_size=2)
    cell = jl.stack(lower, upper)
    params, inputs = random_params(cell), random_inputs(cell, T)
    loss, _ = weighted(5, (T, 2))
    found = jl.gradients.flow(cell, params, inputs, loss)

    def of_lower_outputs(nudge):
        outputs = jl.unroll(lower, params[0], inputs).outputs
        return loss(jl.unroll(upper, params[1], outputs + nudge).outputs)

    # The last hidden state of the lower layer reaches the loss through the upper layer alone.
    direct = jax.grad(of_lower_outputs)(jnp.zeros((T, 4)))[-1]
    np.testing.assert_allclose(found.gradients[0].hidden[-1], direct, rtol=1e-10)
    assert found.norms[0].cell.shape == found.norms[1].hidden.shape == (T,)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_flow_keeps_the_type_of_each_part(half):
    """Half types keep the memory in float32; its adjoint is not rounded through the hidden's."""
    cell = jl.lstm(input_size=3, hidden_size=4, dtype=half, forget_bias=-2.0)
    params = cell.init(jax.random.key(0))
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(30, 3)), half)
    last = lambda outputs: jnp.sum(outputs[-1].astype(jnp.float32))  # noqa: E731
    found = jl.gradients.flow(cell, params, inputs, last).gradients
    assert (found.hidden.dtype, found.cell.dtype) == (half, jnp.float32)
    assert (found.cell != found.cell.astype(half).astype(jnp.float32)).any()
    assert found.cell[5].any()  # about 1e-12, zero in float16
    full = jl.lstm(input_size=3, hidden_size=4, forget_bias=-2.0)
    wanted = jl.gradients.flow(full, params, inputs.astype(jnp.float32), last).norms.cell
    norms = np.linalg.norm(found.cell, axis=-1)
    np.testing.assert_allclose(norms[20:], wanted[20:], rtol=0.1)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(jl.lstm, peepholes=True),
        jl.layer_norm_lstm,
        functools.partial(jl.lstmp, projection_size=2),
        jl.slstm,
        jl.mlstm,
    ],
    ids=["lstm", "layer-norm-lstm", "lstmp", "slstm", "mlstm"],
)
def test_flow_of_a_memory_that_is_rounded_after_it_was_shown(make, half):
    """What a step shows of its memory belongs to the adjoint, rounded or not."""
    sizes = {"input_size": 3, "hidden_size": 4}
    cell, full = make(**sizes, param_dtype=half), make(**sizes)
    params, inputs = random_params(cell, dtype=half), random_inputs(cell, 5, dtype=half)
    last = lambda outputs: jnp.sum(outputs[-1].astype(jnp.float32) ** 2)  # noqa: E731
    found = jl.gradients.flow(cell, params, inputs, last).gradients.cell
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (params, inputs))
    wanted = jl.gradients.flow(full, *single, last).gradients.cell
    assert found.dtype == half
    off = np.linalg.norm(found.astype(jnp.float32) - wanted) / np.linalg.norm(wanted)
    assert off < 0.03  # without it .5 to .8


class Delayed(NamedTuple):
    now: jax.Array
    before: jax.Array


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("within", [lambda step: step, jax.jit], ids=["plain", "jitted"])
def test_flow_of_a_state_that_is_handed_on(within):
    """h_t = tanh(h_{t-1} W + h_{t-2} V + x_t), whose carry is (h_t, h_{t-1})."""

    @within
    def step(params, carry, x):
        new = jnp.tanh(carry.now @ params[0] + carry.before @ params[1] + x)
        return Delayed(new, carry.now), new

    draw = np.random.default_rng(0)
    params = tuple(jnp.asarray(0.7 * draw.normal(size=(3, 3))) for _ in range(2))
    inputs = jnp.asarray(draw.normal(size=(4, 3)))
    start = Delayed(jnp.zeros(3), jnp.zeros(3))
    cell = jl.Cell(lambda key: params, lambda params, batch_shape=(): start, step, (3,))
    loss, _ = weighted(3, (4, 3))

    def nudged(nudges):
        carry, outputs, carries = start, [], [start]
        for t, x in enumerate(inputs):
            new, _ = step(params, carry, x)
            carry = jax.tree.map(lambda leaf, nudge, t=t: leaf + nudge[t], new, nudges)
            outputs.append(carry.now)
            carries.append(carry)
        return loss(jnp.stack(outputs)), carries

    zeros = Delayed(jnp.zeros((4, 3)), jnp.zeros((4, 3)))
    wanted, carries = jax.grad(nudged, has_aux=True)(zeros)
    found = jl.gradients.flow(cell, params, inputs, loss).gradients
    for leaf, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-10, atol=1e-14)
    assert not np.any(found.before[-1])

    size = lambda parts: np.linalg.norm(np.concatenate(parts))  # noqa: E731
    penalty = 0
    for t, x in enumerate(inputs):
        error = jax.tree.map(lambda leaf, t=t: leaf[t], wanted)
        back = jax.vjp(lambda carry, x=x: step(params, carry, x)[0], carries[t])[1](error)[0]
        penalty += (size(back) / size(error) - 1) ** 2
    found = jl.gradients.norm_penalty(cell, params, inputs, loss)
    np.testing.assert_allclose(found, penalty, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.ability("flow", cell="bidirectional")
def test_flow_in_both_directions():
    cell = jl.bidirectional(LSTM, RNN)
    params, inputs = random_params(cell), random_inputs(cell, T)
    loss, _ = weighted(5, (T, 8))
    found = jl.gradients.flow(cell, params, inputs, loss)
    backward_loss = lambda outputs: loss(  # noqa: E731
        jnp.concatenate([jl.unroll(LSTM, params.forward, inputs).outputs, outputs], axis=-1)
    )
    alone = jl.gradients.flow(RNN, params.backward, inputs, backward_loss, reverse=True)
    np.testing.assert_allclose(found.norms.backward.hidden, alone.norms.hidden, rtol=1e-10)
    assert found.norms.forward.cell.shape == (T,)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("norm", ["spectral", "frobenius"])
@pytest.mark.parametrize(
    "cell", [LSTM, jl.stack(RNN, jl.gru(input_size=4, hidden_size=2))], ids=str
)
def test_jacobian_norms_are_those_of_composed_steps(cell, norm):
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    lengths = np.array([7, 4, 0])
    found = jl.gradients.jacobian_norms(
        cell, params, inputs, lengths=jnp.asarray(lengths), norm=norm
    )
    assert found.shape == (B, T + 1)
    for row, length in enumerate(lengths):
        carry = cell.initial_carry(params)
        for t in range(length + 1):
            flat, restore = ravel_pytree(carry)

            def rest(flat, t=t, restore=restore, row=row, length=length):
                carry = restore(flat)
                for x in inputs[row, t:length]:
                    carry, _ = cell.step(params, carry, x)
                return ravel_pytree(carry)[0]

            matrix = np.asarray(jax.jacfwd(rest)(flat))
            wanted = np.linalg.norm(matrix, 2 if norm == "spectral" else "fro")
            np.testing.assert_allclose(found[row, t], wanted, rtol=1e-9)
            if t < length:
                carry, _ = cell.step(params, carry, inputs[row, t])


@pytest.mark.usefixtures("x64")
def test_the_cell_path_is_the_product_of_the_forget_gates():
    params, inputs = random_params(LSTM), random_inputs(LSTM, 50)
    weights = [np.asarray(leaf) for leaf in params]
    gates = reference.lstm_forward(*weights, np.asarray(inputs), np.zeros(4), np.zeros(4))[2]
    products = np.cumprod(gates[::-1, 1], axis=0)[::-1].max(axis=1)
    found = jl.gradients.jacobian_norms(LSTM, params, inputs, path=("cell",))
    np.testing.assert_allclose(found[:-1], products, rtol=1e-9)
    whole = jl.gradients.jacobian_norms(LSTM, params, inputs)
    assert float(whole[0] / found[0]) > 1e3  # the path through h carries the rest


@pytest.mark.usefixtures("x64")
def test_an_orthogonal_linear_network_keeps_its_gradient_over_1000_steps():
    cell = jl.rnn(input_size=1, hidden_size=8, activation="identity", param_dtype="float64")
    params = cell.init(jax.random.key(0))
    inputs = jnp.zeros((1000, 1))
    norms = jl.gradients.flow(cell, params, inputs, lambda out: jnp.sum(out[-1])).norms.hidden
    np.testing.assert_allclose(norms, norms[-1], rtol=1e-12)
    jacobians = jl.gradients.jacobian_norms(cell, params, inputs[:100])
    np.testing.assert_allclose(jacobians, 1.0, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_log_norms_stay_in_range_over_10000_steps(scale):
    cell = jl.rnn(
        input_size=1,
        hidden_size=2,
        activation="identity",
        recurrent_init=jl.initializers.orthogonal(scale=scale),
    )
    params = cell.init(jax.random.key(0))
    logs = jl.gradients.jacobian_norms(cell, params, jnp.zeros((10_000, 1)), log=True)
    np.testing.assert_allclose(logs[0], 10_000 * np.log(scale), rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_the_scalar_unit():
    """dx_N/dw = N w^(N-1) x_0, d2x_N/dw2 = N (N-1) w^(N-2) x_0; what is a power is the Jacobian."""
    cell = jl.rnn(input_size=1, hidden_size=1, activation="identity", use_bias=False)

    def last(w, steps):
        params = jl.RNNParams(jnp.zeros((1, 1)), jnp.reshape(w, (1, 1)), None)
        carry = jl.RNNCarry(jnp.array([1.5]))
        return jl.unroll(cell, params, jnp.zeros((steps, 1)), carry=carry).carry.hidden[0]

    theory = jl.gradients.theory
    for w in (0.9, 1.0, 1.1):
        for steps in (2, 50):
            first = jax.grad(last)(w, steps)
            np.testing.assert_allclose(first, theory.weight_gradient(w, steps, 1.5), rtol=1e-12)
            second = jax.grad(jax.grad(last))(w, steps)
            np.testing.assert_allclose(second, theory.weight_curvature(w, steps, 1.5), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("gain", "slack"), [(0.5, 0.05), (1.5, 0.02), (3.0, 0.02)])
def test_the_lyapunov_exponent_of_a_large_tanh_network_is_that_of_mean_field_theory(gain, slack):
    # Below g = 1 the exponent is the edge of the spectrum, which at N = 256 overshoots by 4 %.
    cell = jl.rnn(
        input_size=1,
        hidden_size=256,
        recurrent_init=jl.initializers.ginibre(gain=gain),
        param_dtype="float64",
    )

    @jax.jit
    def exponent(key):
        k1, k2 = jax.random.split(key)
        carry = jl.RNNCarry(jax.random.normal(k2, (256,)))
        return jl.gradients.lyapunov_spectrum(
            cell, cell.init(k1), jnp.zeros((300, 1)), carry=carry, warmup=100
        ).exponents[0]

    found = np.mean([exponent(jax.random.key(seed)) for seed in range(3)])
    assert abs(found - jl.gradients.theory.tanh_exponent(gain)) < slack


@pytest.mark.usefixtures("x64")
def test_the_1997_carousel_is_exact_under_truncated_gradients():
    truncated = jl.lstm_1997(input_size=3, blocks=2, block_size=2)
    params, inputs = random_params(truncated), random_inputs(truncated, 100)
    carry = truncated.initial_carry(params)

    def memory(cell):
        def last(memory):
            return jl.unroll(cell, params, inputs, carry=carry._replace(cell=memory)).carry.cell

        return jax.jacobian(last)(carry.cell)

    np.testing.assert_array_equal(memory(truncated), np.eye(4))
    full = jl.lstm_1997(input_size=3, blocks=2, block_size=2, truncated=False)
    assert np.abs(memory(full) - np.eye(4)).max() > 1e-3


def test_mistakes_are_named():
    params, inputs = LSTM.init(jax.random.key(0)), jnp.zeros((T, 3))
    with pytest.raises(ValueError, match=r"`loss` must give a scalar, got shape \[7, 4\]"):
        jl.gradients.flow(LSTM, params, inputs, lambda outputs: outputs)
    of_losses = (jl.gradients.flow, jl.gradients.weight_flow, jl.gradients.norm_penalty)
    for instrument in of_losses:
        for loss, line in (
            (None, "`loss` must be a function of the outputs, got NoneType"),
            (lambda outputs: None, "`loss` must give a scalar, got NoneType"),
            (lambda outputs: (jnp.sum(outputs), {}), "`loss` must give a scalar, got tuple"),
            (lambda outputs: 1, "`loss` must give a floating point number, got int32"),
        ):
            with pytest.raises(TypeError, match=line):
                instrument(LSTM, params, inputs, loss)
    with pytest.raises(
        ValueError, match=r"`path` must name parts .*'cell', 'hidden'.*got 'memory'"
    ):
        jl.gradients.jacobian_norms(LSTM, params, inputs, path=("memory",))
    with pytest.raises(ValueError, match=r"`path` must name parts .*'cell', 'hidden'.*got \(\)"):
        jl.gradients.jacobian_norms(LSTM, params, inputs, path=())
    with pytest.raises(ValueError, match=r"`norm` must be one of"):
        jl.gradients.jacobian_norms(LSTM, params, inputs, norm="nuclear")
    for name in ("return_carries", "include_initial"):
        with pytest.raises(ValueError, match=f"`{name}` must be False, since `flow` gives no"):
            jl.gradients.flow(LSTM, params, inputs, jnp.sum, **{name: True})
    for measure in (jl.gradients.flow, jl.gradients.weight_flow):
        with pytest.raises(
            ValueError, match=r"`backend` must be one of \['auto', 'scan'\], got 'f"
        ):
            measure(LSTM, params, inputs, jnp.sum, backend="fused")
    exponents = jl.gradients.lyapunov_spectrum
    with pytest.raises(
        ValueError, match=r"`inputs` must be one sequence, \[T, 3\], got \[2, 7, 3\]"
    ):
        exponents(LSTM, params, jnp.zeros((2, T, 3)), blocks=1)
    with pytest.raises(ValueError, match="`warmup` must not be negative, got -1"):
        exponents(LSTM, params, inputs, blocks=1, warmup=-1)
    with pytest.raises(TypeError, match=r"`warmup` must be an int, got 1\.5"):
        exponents(LSTM, params, inputs, blocks=1, warmup=1.5)


def test_norms_reach_as_far_down_as_floats_do():
    """In float32 the square of 1e-30 is zero."""
    cell = jl.rnn(input_size=1, hidden_size=2, activation="identity",
                  recurrent_init=jl.initializers.orthogonal(scale=0.5))  # fmt: skip
    params = cell.init(jax.random.key(0))
    found = jl.gradients.flow(cell, params, jnp.zeros((101, 1)), lambda out: out[-1, 0]).norms
    np.testing.assert_allclose(found.hidden, 0.5 ** np.arange(100.0, -1, -1), rtol=1e-4)
    silent = jl.gradients.flow(cell, params, jnp.zeros((3, 1)), lambda out: out[0, 0]).norms
    np.testing.assert_allclose(silent.hidden, [1, 0, 0], rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("hold", ["zero", "hold"])
@pytest.mark.parametrize(
    "ragged", [{"lengths": [5, 2]}, {"mask": [[True] * 5, [False, True] * 2 + [False]]}]
)
def test_a_residual_around_both_directions_is_measured_as_it_is_run(ragged, hold):
    one = jl.gru(input_size=2, hidden_size=2)
    cell = jl.residual(jl.bidirectional(one, one, merge="sum"))
    params, inputs = random_params(cell), random_inputs(cell, 2, 5)
    inputs = jnp.asarray(inputs).at[1, 4].set(jnp.nan)  # a step that is masked in both
    options = {"masked_outputs": hold, **ragged}

    def loss(outputs):
        return jnp.sum(jnp.sin(outputs) ** 2)

    def of(params):
        return loss(jl.unroll(cell, params, inputs, **options).outputs)

    wanted, gradient = jax.value_and_grad(of)(params)
    flow = jl.gradients.flow(cell, params, inputs, loss, **options)
    taught = jl.gradients.weight_flow(cell, params, inputs, loss, **options)
    np.testing.assert_allclose([flow.loss, taught.loss], wanted, rtol=1e-12)
    found = jax.tree.map(lambda steps, first: steps.sum(0) + first, taught.steps, taught.initial)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_step_that_is_computed_again_is_looked_into():
    cell = jl.lstm(input_size=2, hidden_size=3, peepholes=True)
    again = jl.Cell(cell.init, cell.initial_carry, jax.checkpoint(cell.step), (2,))
    params, inputs = random_params(cell), random_inputs(cell, 6)

    def measure(cell):
        given = cell, params, inputs
        loss = lambda outputs: jnp.sum(outputs[-1] ** 2)  # noqa: E731
        return (
            jl.gradients.flow(*given, loss).norms,
            jl.gradients.gates(*given),
            jl.gradients.memory_timescales(*given).units,
            jl.gradients.jacobian_norms(*given, cut=None),
            jl.gradients.norm_penalty(*given, loss),
        )

    found, wanted = measure(again), measure(cell)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    "cell",
    [
        jl.dropout(jl.lstm(input_size=2, hidden_size=3), rate=0.5),
        jl.recurrent_dropout(jl.lstm(input_size=2, hidden_size=3), rate=0.5),
    ],
)
def test_noise_is_no_state(cell):
    params, inputs = cell.init(jax.random.key(0)), jnp.ones((9, 2))
    carry = cell.initial_carry(params, (), key=jax.random.key(1))
    for measure in ("jacobian_norms", "jacobian_spectrum", "bounds", "memory_timescales"):
        with pytest.raises(ValueError, match="`carry` must bring no noise"):
            getattr(jl.gradients, measure)(cell, params, inputs, carry=carry)
    for measure in ("lyapunov_spectrum", "flossing"):
        with pytest.raises(ValueError, match="`carry` must bring no noise"):
            getattr(jl.gradients, measure)(cell, params, inputs, count=1, carry=carry)


def test_a_gradient_that_has_overflowed_has_an_infinite_norm():
    tripled = jl.initializers.identity(scale=3.0)
    unit = {"input_size": 1, "hidden_size": 1, "activation": "identity", "use_bias": False}
    cell = jl.rnn(**unit, recurrent_init=tripled)
    params, inputs = cell.init(jax.random.key(0)), jnp.zeros((120, 1), "float32")
    norms = jl.gradients.flow(cell, params, inputs, lambda outputs: outputs[-1, 0]).norms.hidden
    assert (norms[:30] == np.inf).all()
    np.testing.assert_allclose(norms[-20:], 3.0 ** np.arange(20)[::-1], rtol=1e-5)
    contributions = jnp.array([[[jnp.inf, 1.0], [2.0, jnp.nan]]])
    np.testing.assert_array_equal(jl.gradients.gate_norms(contributions, 2), [[np.inf, np.nan]])


def test_the_gates_of_a_step_reach_the_next_step_alone_also_where_there_is_one():
    one = {"input_gate": False, "forget_gate": False}
    for options in (one, {}):
        cell = jl.lstm(input_size=2, hidden_size=2, full_gate_recurrence=True, **options)
        params = random_params(cell, dtype="float32")
        flow = jl.gradients.flow(cell, params, jnp.ones((3, 2)), lambda outputs: outputs[-1].sum())
        assert not flow.gradients.gates[-1].any()
        assert flow.gradients.gates[-2].all()
