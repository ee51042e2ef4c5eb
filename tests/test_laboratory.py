"""Spectra, bounds, gates and time constants of `jl.gradients` against NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cells_table import CELLS, random_inputs, random_params

import jaxlstm as jl
from jaxlstm.gradients.trace import step_with_sites

pytestmark = pytest.mark.usefixtures("compile_fast")
T, B = 7, 3
LSTM = jl.lstm(input_size=3, hidden_size=4)
GRU = jl.gru(input_size=3, hidden_size=4)


def steps_of(cell, params, inputs):
    """Jacobians of every step, each by itself."""
    carry, found = cell.initial_carry(params), []
    for x in inputs:
        found.append(np.asarray(jl.gradients.step_jacobians(cell, params, carry, x)))
        carry, _ = cell.step(params, carry, x)
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "cell", [LSTM, pytest.param(GRU, marks=pytest.mark.slow)], ids=["lstm", "gru"]
)
def test_the_spectrum_is_that_of_the_product(cell):
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    lengths = np.array([7, 4, 0])
    found = jax.jit(
        lambda p, x: jl.gradients.jacobian_spectrum(
            cell, p, x, lengths=jnp.asarray(lengths), every=3
        )
    )(params, inputs)
    np.testing.assert_array_equal(found.steps, [0, 1, 4])
    for row, length in enumerate(lengths):
        jacobians = steps_of(cell, params, inputs[row, :length])
        for index, t in enumerate([0, 1, 4]):
            product = np.eye(found.log_values.shape[-1])
            for jacobian in jacobians[t:]:
                product = jacobian @ product
            wanted = np.linalg.svd(product, compute_uv=False)
            values = np.exp(found.log_values[row, index])
            np.testing.assert_allclose(values, wanted, rtol=1e-9, atol=1e-14 * wanted[0])


@pytest.mark.usefixtures("x64")
def test_each_singular_value_of_a_graded_product_keeps_its_own_digits():
    """A linear network of whole numbers over 60 steps, against Python's exact arithmetic."""
    size, length = 3, 60
    numbers = np.random.default_rng(0)
    kernel = numbers.integers(-9, 10, size=(size, size)) * np.array([1, 20, 500])
    cell = jl.rnn(input_size=1, hidden_size=size, activation="identity", use_bias=False)
    params = jl.RNNParams(jnp.zeros((1, size)), jnp.asarray(kernel, float), None)
    found = jl.gradients.jacobian_spectrum(cell, params, jnp.zeros((length, 1))).log_values[0]

    # In whole numbers nothing is lost: traces and minors of P' P give products of its eigenvalues.
    exact = np.array([[int(k) for k in row] for row in kernel], dtype=object)
    product = np.array([[int(i == j) for j in range(size)] for i in range(size)], dtype=object)
    for _ in range(length):
        product = product.dot(exact)
    gram = product.T.dot(product)
    minors = sum(
        gram[i, i] * gram[j, j] - gram[i, j] * gram[j, i] for i in range(size) for j in range(i)
    )
    determinant = round(np.linalg.det(kernel)) ** (2 * length)
    squares = [_log(np.trace(gram)), _log(minors), _log(determinant)]
    # The eigenvalues of P' P lie so far apart that these are their leading products.
    wanted = np.diff([0.0, *squares]) / 2
    assert wanted[0] - wanted[-1] > 200
    np.testing.assert_allclose(found, wanted, rtol=1e-11)


def _log(number):
    """The logarithm of a whole number of any size."""
    shift = max(number.bit_length() - 1000, 0)
    return np.log(float(number >> shift)) + shift * np.log(2)


@pytest.mark.usefixtures("x64")
def test_the_spectrum_over_10000_steps():
    # The cell path is diagonal, so that each unit's product of forget gates is a singular value.
    params, inputs = random_params(LSTM), random_inputs(LSTM, 10_000)
    gates = jl.gradients.gates(LSTM, params, inputs)
    wanted = np.sort(np.sum(np.log(gates["f"]), axis=0))[::-1]
    assert wanted[0] < -3000
    found = jl.gradients.jacobian_spectrum(LSTM, params, inputs, path=("cell",), every=5000)
    np.testing.assert_allclose(found.log_values[0], wanted, rtol=1e-10)
    # A symmetric network is a power of its eigenvalues, and a lost unit stays lost.
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    eigenvalues = np.array([1.5, -1.0, 0.5, 0.0])
    kernel = rotation @ np.diag(eigenvalues) @ rotation.T
    cell = jl.rnn(input_size=3, hidden_size=4, activation="identity")
    params = random_params(cell)._replace(recurrent_kernel=jnp.asarray(kernel))
    spectrum = jl.gradients.jacobian_spectrum(cell, params, inputs).log_values[0]
    np.testing.assert_allclose(spectrum[:3], 1e4 * np.log([1.5, 1.0, 0.5]), rtol=1e-9, atol=1e-9)
    assert spectrum[3] < -1e5


@pytest.mark.usefixtures("x64")
def test_spectra_and_norms_agree_on_every_path():
    params, inputs = random_params(LSTM), random_inputs(LSTM, T)
    for options in ({}, {"path": ("cell",)}, {"path": ("hidden",)}, {"cut": ("f", "o")}):
        spectrum = jl.gradients.jacobian_spectrum(LSTM, params, inputs, every=1, **options)
        norms = jl.gradients.jacobian_norms(LSTM, params, inputs, log=True, **options)
        np.testing.assert_allclose(spectrum.log_values[:, 0], norms[:-1], rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_cutting_gates_leaves_their_part_out():
    params, inputs = random_params(LSTM), random_inputs(LSTM, 1)[0]
    carry = jl.LSTMCarry(*np.random.default_rng(4).normal(size=(2, 4)))
    carry = jax.tree.map(jnp.asarray, carry)
    gates = {
        name: np.asarray(value[0])
        for name, value in jl.gradients.gates(LSTM, params, inputs[None], carry=carry).items()
    }
    whole = jl.gradients.step_jacobians(LSTM, params, carry, inputs)
    pieces = 0
    blocks = dict(
        zip("ifgo", np.split(np.asarray(params.recurrent_kernel), 4, axis=1), strict=True)
    )
    slopes = {n: gates[n] * (1 - gates[n]) for n in "ifo"} | {"g": 1 - gates["g"] ** 2}
    partner = {"i": gates["g"], "f": np.asarray(carry.cell), "g": gates["i"]}
    for kept in "ifg":
        cut = [name for name in "ifgo" if name != kept]
        jacobian = jl.gradients.step_jacobians(LSTM, params, carry, inputs, cut=cut)
        wanted = (partner[kept] * slopes[kept])[:, None] * blocks[kept].T
        np.testing.assert_allclose(jacobian[4:, :4], wanted, rtol=1e-10)
        pieces = pieces + np.asarray(jacobian[4:, :4])
    np.testing.assert_allclose(pieces, whole[4:, :4], rtol=1e-9)
    alone = jl.gradients.step_jacobians(LSTM, params, carry, inputs, cut=None)
    np.testing.assert_allclose(alone[4:, 4:], np.diag(gates["f"]), rtol=1e-12)
    assert not np.any(alone[:4])
    assert not np.any(alone[4:, :4])


@pytest.mark.usefixtures("x64")
def test_gates_are_those_of_the_equations():
    params, inputs = random_params(LSTM), random_inputs(LSTM, B, T)
    lengths = jnp.array([7, 4, 0])
    found = jl.gradients.gates(LSTM, params, inputs.at[1, 5].set(jnp.nan), lengths=lengths)
    weights = [np.asarray(leaf) for leaf in params]
    for row, length in enumerate(lengths):
        wanted = reference.lstm_forward(
            *weights, np.asarray(inputs[row]), np.zeros(4), np.zeros(4)
        )[2]
        for index, name in enumerate("ifgo"):
            np.testing.assert_allclose(
                found[name][row, :length], wanted[:length, index], rtol=1e-10
            )
            assert not np.any(found[name][row, length:])


@pytest.mark.parametrize(
    ("name", "gates"),
    {
        "rnn": "h",
        "indrnn": "h",
        "lstm": "f g i o psi",
        "lstm-coupled-peepholes": "f g o psi",
        "layer-norm-lstm": "f g i o psi",
        "lstm-1997": "g i o psi",
        "conv-lstm": "f g i o psi",
        "gru": "n r z",
        "gru-reset-before": "n r z",
        "mgu": "f n",
        "slstm": "f g i o",
        "mlstm": "f i o",
        "min-lstm": "f",
        "min-gru": "z",
    }.items(),
)
def test_every_cell_names_its_gates_as_its_equations_do(name, gates):
    cell, found = CELLS[name], {}

    def step(key):
        params = cell.init(key)
        x = jnp.zeros(cell.input_shape)
        found.update(step_with_sites(cell, params, cell.initial_carry(params), x)[2])

    jax.eval_shape(step, jax.random.key(0))
    assert sorted(found) == gates.split()


@pytest.mark.usefixtures("x64")
def test_gates_within_a_jitted_function_are_found_and_cut():
    cell = jl.rnn(input_size=3, hidden_size=4)
    within = jl.Cell(cell.init, cell.initial_carry, jax.jit(cell.step), cell.input_shape)
    params, inputs = random_params(cell), random_inputs(cell, T)
    plain, found = (jl.gradients.gates(each, params, inputs) for each in (cell, within))
    assert set(found) == set(plain) == {"h"}
    np.testing.assert_allclose(found["h"], plain["h"], rtol=1e-12)
    first = cell.initial_carry(params), inputs[0]
    assert np.all(jl.gradients.step_jacobians(within, params, *first, cut=tuple(found)) == 0)


@pytest.mark.usefixtures("x64")
def test_saturation_counts_what_numpy_counts():
    params = jax.tree.map(lambda leaf: 4 * leaf, random_params(LSTM))
    inputs, lengths = random_inputs(LSTM, B, 30), np.array([30, 11, 0])
    options = {"lengths": jnp.asarray(lengths)}
    gates = jl.gradients.gates(LSTM, params, inputs, **options)
    found = jl.gradients.saturation(LSTM, params, inputs, bins=8, **options)
    for name, (low, high) in {"f": (0.1, 0.9), "g": (-0.8, 0.8)}.items():
        values = np.concatenate([gates[name][row, :n] for row, n in enumerate(lengths)])
        np.testing.assert_allclose(found[name].low, (values <= low).mean(axis=0))
        np.testing.assert_allclose(found[name].high, (values >= high).mean(axis=0))
        np.testing.assert_allclose(found[name].mean, values.mean(axis=0))
        counts, edges = np.histogram(values, bins=8, range=(-1 if name == "g" else 0, 1))
        np.testing.assert_allclose(found[name].histogram, counts / values.size)
        np.testing.assert_allclose(found[name].edges, edges)
        assert 0.05 < found[name].low.mean() + found[name].high.mean() < 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("cell", "part", "factor"),
    [(LSTM, "cell", lambda g: g["f"]), (GRU, "hidden", lambda g: g["z"]),
     (jl.mgu(input_size=3, hidden_size=4), "hidden", lambda g: 1 - g["f"]),
     pytest.param(CELLS["min-gru"], "hidden", lambda g: 1 - g["z"], marks=pytest.mark.slow),
     pytest.param(CELLS["conv-lstm"], "cell", lambda g: g["f"], marks=pytest.mark.slow),
     (CELLS["lstm-1997"], "cell", None),
     (CELLS["rnn"], "hidden", lambda g: 0 * g["h"])],
    ids=["lstm", "gru", "mgu", "min-gru", "conv-lstm", "lstm-1997", "rnn"],
)  # fmt: skip
def test_time_constants_are_found_without_knowing_the_cell(cell, part, factor):
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    options = {"lengths": jnp.array([7, 4, 0])}
    found = jl.gradients.memory_timescales(cell, params, inputs, **options)
    if factor is None:
        assert np.all(np.isinf(found.units.cell))  # the constant error carousel of 1997
        return
    values = np.asarray(factor(jl.gradients.gates(cell, params, inputs, **options)))
    factors = np.asarray(getattr(found.factors, part))
    np.testing.assert_allclose(factors[0], values[0], rtol=1e-12)
    assert np.isnan(factors[1, 4:]).all()
    assert np.isnan(factors[2]).all()
    with np.errstate(divide="ignore"):
        logs = np.log(np.concatenate([values[0], values[1, :4]]))
    units = getattr(found.units, part)
    np.testing.assert_allclose(units, -1 / logs.mean(axis=0), rtol=1e-10)
    wanted = np.quantile(units, np.linspace(0, 1, 5), method="lower")
    np.testing.assert_allclose(getattr(found.quantiles, part), wanted)


@pytest.mark.usefixtures("x64")
def test_bounds_hold_and_say_when():
    params, inputs = random_params(LSTM), random_inputs(LSTM, B, T)
    options = {"lengths": jnp.array([7, 4, 0])}
    found = jl.gradients.bounds(LSTM, params, inputs, **options)
    norms = jl.gradients.jacobian_norms(LSTM, params, inputs, log=True, **options)
    assert np.all(norms <= found.log_products + 1e-12)
    alone = [np.linalg.norm(j, 2) for j in steps_of(LSTM, params, inputs[1, :4])]
    np.testing.assert_allclose(found.log_norms[1], [*np.log(alone), 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found.log_products[1, 0], np.sum(np.log(alone)), rtol=1e-10)
    np.testing.assert_array_equal(found.may_explode, np.any(found.log_norms > 0, axis=1))
    for scale in (0.5, 3.0):
        cell = jl.rnn(input_size=3, hidden_size=4, activation="sigmoid")
        params = random_params(cell)
        kernel = scale * params.recurrent_kernel / np.linalg.norm(params.recurrent_kernel, 2)
        params = params._replace(recurrent_kernel=kernel)
        weights = jl.gradients.weight_bound(kernel, "sigmoid")
        np.testing.assert_allclose(weights.log_rate, np.log(scale / 4))
        assert weights.vanishes
        steps = jl.gradients.bounds(cell, params, inputs[0])
        assert np.all(steps.log_norms <= weights.log_rate + 1e-12)
        assert bool(steps.vanishes)
        tanh = jl.gradients.weight_bound(kernel)
        assert bool(tanh.may_explode) == (scale > 1)


def test_the_effective_rank():
    values = np.array([3.0, 1.0, 0.5, 0.0])
    shares = values / values.sum()
    wanted = np.exp(-np.sum(shares[:3] * np.log(shares[:3])))
    with np.errstate(divide="ignore"):
        logs = jnp.asarray(np.log(values, dtype="float32"))
    for shift in (-3000.0, 0.0, 3000.0):
        assert jl.gradients.effective_rank(logs + shift) == pytest.approx(wanted, rel=1e-3)


def test_a_stack_numbers_its_gates_and_mistakes_are_named():
    cell = jl.stack(LSTM, jl.lstm(input_size=4, hidden_size=2))
    params, inputs = cell.init(jax.random.key(0)), jnp.zeros((T, 3))
    found = jl.gradients.gates(cell, params, inputs)
    assert found["f.0"].shape == (T, 4)
    assert found["f.1"].shape == (T, 2)
    carry, x = cell.initial_carry(params), inputs[0]
    upper = jl.gradients.step_jacobians(cell, params, carry, x, cut=("f.1",))
    both = jl.gradients.step_jacobians(cell, params, carry, x, cut="f")
    assert upper.shape == both.shape == (12, 12)
    with pytest.raises(ValueError, match=r"`cut` must name activations, \['g', .*\], got 'q'"):
        jl.gradients.jacobian_norms(LSTM, LSTM.init(jax.random.key(0)), inputs, cut=("q",))
    with pytest.raises(ValueError, match=r"`margin` must lie in \[0, 0.5\), got 0.5"):
        jl.gradients.saturation(cell, params, inputs, margin=0.5)
    with pytest.raises(TypeError, match=r"`margin` must be a number, got 'a'"):
        jl.gradients.saturation(cell, params, inputs, margin="a")
    for bins in (0, -1):
        with pytest.raises(ValueError, match=f"`bins` must be positive, got {bins}"):
            jl.gradients.saturation(cell, params, inputs, bins=bins)
    with pytest.raises(ValueError, match=r"`recurrent_kernel` must have shape \[H, H\]"):
        jl.gradients.weight_bound(jnp.zeros((2, 3)))
    both_ways = jl.bidirectional(LSTM, LSTM)
    for measure in (jl.gradients.bounds, jl.gradients.jacobian_spectrum, jl.gradients.gates):
        with pytest.raises(ValueError, match="`cell` must be one that can be stepped"):
            measure(both_ways, both_ways.init(jax.random.key(0)), inputs)


def gradient_of(cell, params, inputs, loss, **options):
    return jax.grad(lambda p: loss(jl.unroll(cell, p, inputs, **options).outputs))(params)


def assert_sums_to(found, wanted):
    total = jax.tree.map(lambda steps, first: steps.sum(axis=0) + first, found.steps, found.initial)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    for a, b in zip(jax.tree.leaves(total), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * scale)


def looked_at(seed):
    """A loss that looks at every output differently."""

    def loss(outputs):
        weights = np.random.default_rng(seed).normal(size=outputs.shape)
        return jnp.sum(outputs**2 * weights)

    return loss


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("rnn", "lstm", "stack") else pytest.param(name, marks=pytest.mark.slow)
        for name in CELLS
    ],
)
def test_what_the_steps_teach_adds_up_to_the_gradient(name):
    cell = CELLS[name]
    params, inputs, loss = random_params(cell), random_inputs(cell, 2, 5), looked_at(3)
    options = {"lengths": jnp.array([5, 2])}
    found = jax.jit(lambda p, x: jl.gradients.weight_flow(cell, p, x, loss, **options))(
        params, inputs
    )
    assert_sums_to(found, gradient_of(cell, params, inputs, loss, **options))
    assert all(leaf.shape[0] == 5 for leaf in jax.tree.leaves(found.steps))


@pytest.mark.usefixtures("x64")
def test_each_step_teaches_what_backpropagation_by_hand_says():
    params, inputs = random_params(LSTM), random_inputs(LSTM, T)
    weights = [np.asarray(leaf) for leaf in params]
    loss = lambda outputs: jnp.sum(outputs**2)  # noqa: E731
    hidden, cell, gates = reference.lstm_forward(
        *weights, np.asarray(inputs), np.zeros(4), np.zeros(4)
    )
    back = reference.lstm_backward(
        *weights, np.asarray(inputs), np.zeros(4), np.zeros(4), 2 * hidden[1:]
    )
    found = jl.gradients.weight_flow(LSTM, params, inputs, loss)
    norms = jl.gradients.gate_norms(found.steps, LSTM.gates)
    for t in range(T):
        i, f, g, o = gates[t]
        dh, dc = back["hidden"][t], back["cell"][t]
        dz = [
            dc * g * i * (1 - i),
            dc * cell[t] * f * (1 - f),
            dc * i * (1 - g**2),
            dh * np.tanh(cell[t + 1]) * o * (1 - o),
        ]
        wanted = np.outer(hidden[t], np.concatenate(dz))
        np.testing.assert_allclose(found.steps.recurrent_kernel[t], wanted, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(
            norms.recurrent_kernel[t],
            [np.linalg.norm(np.outer(hidden[t], block)) for block in dz],
            rtol=1e-10,
            atol=1e-14,
        )
        np.testing.assert_allclose(found.steps.bias[t], np.concatenate(dz), rtol=1e-10, atol=1e-14)
    with pytest.raises(ValueError, match=r"`contributions` must have leaves \[T, …, 3 · H\]"):
        jl.gradients.gate_norms(found.steps, 3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("reverse", "time_major"),
    [(True, True), pytest.param(False, False, marks=pytest.mark.slow)],
)
def test_what_the_steps_teach_in_both_directions_under_masks_and_resets(reverse, time_major):
    cell = jl.bidirectional(LSTM, jl.stack(GRU, jl.rnn(input_size=4, hidden_size=2)))
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    numbers = np.random.default_rng(5)
    mask, resets = (jnp.asarray(numbers.random((B, T)) < share) for share in (0.7, 0.3))
    inputs = jnp.where(mask[..., None], inputs, jnp.nan)
    if time_major:
        inputs, mask, resets = (jnp.moveaxis(a, 1, 0) for a in (inputs, mask, resets))
    options = {"mask": mask, "resets": resets, "reverse": reverse, "time_major": time_major}
    loss = looked_at(3)
    found = jl.gradients.weight_flow(cell, params, inputs, loss, **options)
    assert_sums_to(found, gradient_of(cell, params, inputs, loss, **options))
    assert found.steps.forward.kernel.shape == (T, 3, 16)


@pytest.mark.usefixtures("x64")
def test_a_learnt_initial_carry_is_taught_before_the_first_step():
    learnt = jl.Cell(
        init=lambda key: jnp.ones(2),
        initial_carry=lambda params, batch_shape=(): jnp.broadcast_to(params, (*batch_shape, 2)),
        step=lambda params, carry, x: (jnp.tanh(0.5 * carry + x), 2 * carry),
        input_shape=(2,),
    )
    params, inputs, loss = jnp.array([0.3, -0.7]), random_inputs(learnt, T), looked_at(1)
    found = jl.gradients.weight_flow(learnt, params, inputs, loss)
    assert not np.any(found.steps)
    np.testing.assert_allclose(found.initial, gradient_of(learnt, params, inputs, loss))
    noisy = jl.dropout(LSTM, rate=0.5)
    with pytest.raises(ValueError, match="`key` must be None where there is a batch"):
        jl.gradients.weight_flow(
            noisy, random_params(noisy), random_inputs(noisy, B, T), loss, key=jax.random.key(0)
        )


def test_norms_of_gates_reach_as_far_down_as_floats_do():
    """In float32 the square of 1e-25 is zero."""
    found = jl.gradients.gate_norms(jnp.full((1, 2, 4), 1e-25), 2)
    np.testing.assert_allclose(found, [[2e-25, 2e-25]], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_all_exponents_together_are_the_mean_log_determinant():
    cell = CELLS["rnn"]
    params, noise = random_params(cell), random_inputs(cell, 60)
    found = jl.gradients.lyapunov_spectrum(cell, params, noise, count=4, blocks=6)
    jacobians = steps_of(cell, params, noise)
    logs = np.array([np.linalg.slogdet(jacobian)[1] for jacobian in jacobians])
    np.testing.assert_allclose(found.exponents.sum(), logs.mean(), rtol=1e-10)
    np.testing.assert_allclose(found.blocks.sum(axis=1), logs.reshape(6, 10).mean(axis=1))
    np.testing.assert_allclose(
        found.standard_errors, np.std(found.blocks, axis=0, ddof=1) / np.sqrt(6)
    )
    # Few exponents are the first of many, in any order of directions.
    few = jl.gradients.lyapunov_spectrum(cell, params, noise, count=2, blocks=6)
    np.testing.assert_allclose(few.exponents, found.exponents[:2], rtol=1e-10)
    final = jl.unroll(cell, params, noise).carry
    np.testing.assert_allclose(few.carry.hidden, final.hidden)


@pytest.mark.parametrize(
    "types",
    [{"param_dtype": "bfloat16"}, {"dtype": "bfloat16"}],
    ids=["memory-in-half", "memory-in-single"],
)
def test_cells_of_half_precision_are_measured_in_float32(types):
    cell = jl.lstm(input_size=3, hidden_size=4, **types)
    rough = random_params(cell, dtype=types.get("param_dtype", "float32"))
    fine = jax.tree.map(lambda leaf: leaf.astype("float32"), rough)
    noise = random_inputs(cell, 20, dtype="bfloat16")
    lab = jl.gradients
    measures = [
        lambda cell, *given: lab.jacobian_norms(cell, *given, log=True),
        lambda cell, *given: lab.jacobian_norms(cell, *given, log=True, norm="frobenius"),
        lambda cell, *given: lab.jacobian_spectrum(cell, *given, every=10).log_values[..., :2],
        lambda cell, *given: lab.bounds(cell, *given).log_products,
        lambda cell, *given: lab.lyapunov_spectrum(cell, *given, count=2).exponents,
        lambda cell, params, _: lab.weight_bound(params.recurrent_kernel[:, :4]).log_rate,
        lambda cell, *given: lab.norm_penalty(cell, *given, lambda outputs: jnp.sum(outputs**2)),
    ]
    for measure in measures:
        found = measure(cell, rough, noise)
        wanted = measure(LSTM, fine, noise.astype("float32"))
        assert found.dtype == jnp.float32
        # Steps of three digits: what is left after 20 of them is known to a tenth or so.
        np.testing.assert_allclose(found, wanted, rtol=0.02, atol=0.3)


@pytest.mark.usefixtures("x64")
def test_the_error_bar_of_an_exponent_covers_the_truth():
    """A unit x_t = a_t x_{t-1}: its exponent is the mean of ln a, here −1/2, for any noise."""
    cell = jl.Cell(
        init=lambda key: jnp.zeros(1),
        initial_carry=lambda params, batch_shape=(): jnp.ones((*batch_shape, 1)),
        step=lambda params, carry, x: (carry * jnp.exp(x), carry),
        input_shape=(1,),
    )
    noise = np.random.default_rng(0).normal(-0.5, 1.0, size=(200, 500, 1))
    found = jax.vmap(lambda x: jl.gradients.lyapunov_spectrum(cell, jnp.zeros(1), x))(noise)
    errors = np.abs(found.exponents[:, 0] + 0.5)
    # Of ten blocks: 95 % lie within 2.26 standard errors (Student's t with 9 degrees of freedom).
    covered = np.mean(errors < 2.26 * found.standard_errors[:, 0])
    assert 0.91 <= covered <= 0.98


def test_exponents_are_the_largest_even_of_units_that_do_not_meet():
    """Independent units: each unit's own mean log slope is an exponent, in any order."""
    cell = jl.rnn(input_size=1, hidden_size=3, activation="identity")
    params = cell.init(jax.random.key(0))._replace(
        recurrent_kernel=jnp.diag(jnp.array([0.2, 0.5, 0.9]))
    )
    inputs = jnp.zeros((400, 1))
    found = jl.gradients.lyapunov_spectrum(cell, params, inputs, count=3, warmup=100)
    np.testing.assert_allclose(found.exponents, np.log([0.9, 0.5, 0.2]), atol=1e-5)
    few = jl.gradients.lyapunov_spectrum(cell, params, inputs, warmup=100)
    np.testing.assert_allclose(few.exponents, np.log([0.9]), atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gates_in_half_precision_are_counted_in_whole_numbers(dtype):
    cell = jl.lstm(input_size=1, hidden_size=2, forget_bias=5.0, param_dtype=dtype)
    params, inputs = cell.init(jax.random.key(0)), jnp.zeros((700, 100, 1), dtype)
    found = jl.gradients.saturation(cell, params, inputs, bins=4)["f"]
    np.testing.assert_array_equal(found.histogram, [0, 0, 0, 1])
    np.testing.assert_array_equal(found.high, [1, 1])
    held = jl.gradients.memory_timescales(cell, params, inputs).units.cell
    np.testing.assert_allclose(held, theory_of(dtype), rtol=1e-3)


def theory_of(dtype):
    """The time constant of σ(5), rounded as the gate is."""
    gate = jnp.array(1 / (1 + np.exp(-5.0)), dtype).astype("float32")
    return -1 / np.log(gate)


def test_nothing_that_gets_through_has_no_rank():
    logs = jnp.array([[-jnp.inf, -jnp.inf], [0.0, -jnp.inf]])
    np.testing.assert_array_equal(jl.gradients.effective_rank(logs), [0, 1])
    assert np.isnan(jl.gradients.effective_rank(jnp.array([jnp.nan, 0.0])))
