"""What holds exactly: the state Jacobians of random networks against their equations.

The other identities are in `test_theory.py` (mean field, critical gains, forget factors, chrono),
`test_gradients.py` (the scalar unit, the orthogonal network, the 1997 carousel),
`test_interventions.py` (clipping), `test_steps.py` (parameter counts) and `test_tasks.py`
(memoryless baselines).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import random_inputs, random_params

import jaxlstm as jl
from jaxlstm.gradients import theory

pytestmark = pytest.mark.usefixtures("compile_fast")


def sorted_eigenvalues(matrix):
    return np.sort_complex(np.linalg.eigvals(np.asarray(matrix)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_an_lstm_at_zero_has_the_eigenvalues_of_its_candidate(bias):
    cell = jl.lstm(
        input_size=1,
        hidden_size=12,
        forget_bias=bias,
        recurrent_init=jl.initializers.ginibre(gain=1.3),
        param_dtype="float64",
    )
    params = cell.init(jax.random.key(0))
    jacobian = jl.gradients.step_jacobians(cell, params, cell.initial_carry(params), jnp.zeros(1))
    # At rest h = o tanh(c), so that what c sends on through h is dh/dc = 1/2 of it.
    hidden_to_cell, cell_to_cell = jacobian[12:, :12], jacobian[12:, 12:]
    f = 1 / (1 + np.exp(-bias))
    np.testing.assert_allclose(cell_to_cell, f * np.eye(12), atol=1e-15)
    candidate = np.asarray(params.recurrent_kernel[:, 24:36])
    np.testing.assert_allclose(hidden_to_cell, 0.5 * candidate.T, atol=1e-15)
    found = sorted_eigenvalues(cell_to_cell + 0.5 * hidden_to_cell)
    wanted = np.sort_complex(f + 0.25 * np.linalg.eigvals(candidate))
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    # The whole step has these eigenvalues, and as many that are zero.
    whole = sorted_eigenvalues(jacobian)
    for value in wanted:
        assert np.abs(whole - value).min() < 1e-7
    assert theory.lstm_radius(theory.lstm_critical_gain(bias), bias) == pytest.approx(1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reset_after", [False, True])
def test_a_gru_at_zero_has_the_eigenvalues_of_its_candidate(reset_after):
    cell = jl.gru(
        input_size=1,
        hidden_size=12,
        reset_after=reset_after,
        recurrent_init=jl.initializers.ginibre(gain=1.3),
        param_dtype="float64",
    )
    params = cell.init(jax.random.key(0))
    jacobian = jl.gradients.step_jacobians(cell, params, cell.initial_carry(params), jnp.zeros(1))
    candidate = np.asarray(params.recurrent_kernel[:, 24:])
    wanted = np.sort_complex(0.5 + 0.25 * np.linalg.eigvals(candidate))
    np.testing.assert_allclose(sorted_eigenvalues(jacobian), wanted, atol=1e-12)
    assert theory.gru_radius(theory.gru_critical_gain()) == 1


@pytest.mark.usefixtures("x64")
def test_the_carousel_with_a_forget_gate_and_the_hidden_path_cut():
    cell = jl.lstm(input_size=3, hidden_size=4)
    params, inputs = random_params(cell), random_inputs(cell, 50)

    def step(params, carry, x):
        return cell.step(params, carry._replace(hidden=jax.lax.stop_gradient(carry.hidden)), x)

    cut = jl.Cell(cell.init, cell.initial_carry, step, cell.input_shape)

    def last(memory, cell):
        carry = cell.initial_carry(params)._replace(cell=memory)
        return jl.unroll(cell, params, inputs, carry=carry).carry.cell

    kept = np.prod(jl.gradients.gates(cell, params, inputs)["f"], axis=0)
    zeros = jnp.zeros(4)
    np.testing.assert_allclose(
        jax.jacobian(last)(zeros, cut), np.diag(kept), rtol=1e-10, atol=1e-300
    )
    # The full Jacobian adds the way through h, here orders of magnitude larger.
    assert np.abs(jax.jacobian(last)(zeros, cell)).max() > 1e3 * kept.max()


@pytest.mark.usefixtures("x64")
def test_truncation_changes_the_gradient_unless_nothing_recurs():
    sizes = {"input_size": 3, "blocks": 2, "block_size": 2}
    cells = [jl.lstm_1997(**sizes, truncated=truncated) for truncated in (True, False)]
    params, inputs = random_params(cells[0]), random_inputs(cells[0], 20)

    def gradients(params):
        return [
            jax.grad(lambda p, c=cell: jnp.sum(jl.unroll(c, p, inputs).outputs[-1]))(params).kernel
            for cell in cells
        ]

    short, full = gradients(params)
    assert np.abs(short - full).max() > 1e-3 * np.abs(full).max()
    short, full = gradients(params._replace(recurrent_kernel=0 * params.recurrent_kernel))
    np.testing.assert_allclose(short, full, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("activation", "slope"), [("tanh", 1.0), ("sigmoid", 0.25)])
def test_the_jacobian_is_bounded_by_slope_and_weights(activation, slope):
    cell = jl.rnn(input_size=3, hidden_size=8, activation=activation)
    params, inputs = random_params(cell), random_inputs(cell, 20)
    norms = jl.gradients.jacobian_norms(cell, params, inputs)
    largest = np.linalg.norm(params.recurrent_kernel, 2)
    for t, norm in enumerate(norms):
        assert norm <= (slope * largest) ** (20 - t) * (1 + 1e-12)
        bound = theory.jacobian_bound(largest, 20 - t, activation)
        assert bound == pytest.approx((slope * largest) ** (20 - t))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("activation", "gains", "theory_of"),
    [
        ("relu", (1.1, 2**0.5), theory.relu_exponent),
        ("identity", (0.7, 1.0), theory.linear_exponent),
    ],
)
def test_random_networks_without_a_ceiling_grow_as_mean_field_theory_says(
    activation, gains, theory_of
):
    """The mean square stretch over ten steps, over all directions: e^{2 · 10 · exponent}."""
    for gain in gains:
        cell = jl.rnn(
            input_size=1,
            hidden_size=512,
            activation=activation,
            recurrent_init=jl.initializers.ginibre(gain=gain),
            param_dtype="float64",
        )

        @jax.jit
        def stretch(key, cell=cell):
            k1, k2 = jax.random.split(key)
            carry = jl.RNNCarry(jax.random.normal(k2, (512,)))
            norms = jl.gradients.jacobian_norms(
                cell, cell.init(k1), jnp.zeros((10, 1)), carry=carry, norm="frobenius", log=True
            )
            return norms[0] - norms[-1]

        found = np.mean([stretch(jax.random.key(seed)) for seed in range(4)]) / 10
        assert found == pytest.approx(theory_of(gain), abs=0.02)
    assert theory.critical_gain(0.7, activation) == pytest.approx(gains[1])


def test_fixed_points_without_a_ceiling():
    for gain in (0.3, 0.9):
        q = theory.linear_variance(gain, 0.4)
        assert gain**2 * q + 0.4 == pytest.approx(q)
        q = theory.relu_variance(gain, 0.4)
        assert gain**2 * q / 2 + 0.4 == pytest.approx(q)
    assert theory.linear_variance(1.0, 0.4) == theory.relu_variance(2**0.5 + 1e-9) == np.inf
    matrix = np.asarray(jl.initializers.ginibre(gain=0.7)(jax.random.key(0), (200, 200)))
    assert np.abs(np.linalg.eigvals(matrix)).max() == pytest.approx(
        theory.ginibre_radius(0.7), abs=0.07
    )
    assert np.linalg.norm(matrix, 2) == pytest.approx(theory.ginibre_norm(0.7), abs=0.07)
