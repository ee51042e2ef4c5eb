"""The closed forms against published values and against adaptive quadrature."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from scipy import integrate, special

import jaxlstm as jl
from jaxlstm.gradients import theory

pytestmark = pytest.mark.usefixtures("compile_fast")


def gaussian_mean(function):
    density = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    return integrate.quad(lambda z: function(z) * density(z), -12, 12, limit=500)[0]


@pytest.mark.parametrize(
    ("gain", "published", "slack"),
    # At g = 3 and 5 the published digits differ from adaptive quadrature, which the next test uses.
    [(0.5, -0.6931, 1e-4), (0.9, -0.1054, 1e-4), (1.25, 0.02353, 1e-5), (1.5, 0.06522, 1e-5),
     (2, 0.15472, 1e-5), (3, 0.31028, 1e-4)],
)  # fmt: skip
def test_tanh_exponents_are_those_published(gain, published, slack):
    assert theory.tanh_exponent(gain) == pytest.approx(published, abs=slack)


@pytest.mark.parametrize("gain", [1.25, 2.0, 5.0])
@pytest.mark.parametrize("input_variance", [0.0, 0.5])
def test_tanh_theory_solves_its_equations(gain, input_variance):
    q = theory.tanh_variance(gain, input_variance)
    second = gaussian_mean(lambda z: math.tanh(math.sqrt(q) * z) ** 2)
    assert gain**2 * second + input_variance == pytest.approx(q, abs=1e-9)
    slope = gaussian_mean(lambda z: math.cosh(math.sqrt(q) * z) ** -4)
    wanted = 0.5 * math.log(gain**2 * slope)
    assert theory.tanh_exponent(gain, input_variance) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("variance", "gain"), [(0.0, 1.0), (0.1, 1.4093), (0.5, 1.6862), (1.0, 1.8556)]
)
def test_critical_gains(variance, gain):
    assert theory.critical_gain(variance) == pytest.approx(gain, abs=1e-4)


@pytest.mark.parametrize("variance", [1e4, 1e5, 1e10])
def test_large_inputs_have_a_critical_gain_too(variance):
    gain = theory.critical_gain(variance)
    scale = math.sqrt(theory.tanh_variance(gain, variance))
    density = lambda u: math.exp(-((u / scale) ** 2) / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    slope = integrate.quad(lambda u: density(u) * math.cosh(u) ** -4, -30, 30)[0] / scale
    assert gain**2 * slope == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("found", "limit"),
    [
        (lambda: theory.weight_gradient(0.0, 0), 0.0),
        (lambda: theory.weight_gradient(2.0, 5000), math.inf),
        (lambda: theory.weight_gradient(-2.0, 5000), -math.inf),
        (lambda: theory.weight_curvature(0.0, 1), 0.0),
        (lambda: theory.jacobian_bound(2.0, 5000), math.inf),
        (lambda: theory.forget_factor(-1000, 3), 0.0),
        (lambda: theory.forget_time(1000), math.inf),
        (lambda: theory.forget_time(-1000), 1e-3),
        (lambda: theory.lstm_radius(1.0, -1000), 0.25),
        (lambda: theory.lstm_critical_gain(1000), 0.0),
        (lambda: theory.tanh_exponent(0.0), -math.inf),
        (lambda: theory.relu_exponent(0.0), -math.inf),
        (lambda: theory.linear_exponent(0.0), -math.inf),
    ],
)
def test_closed_forms_at_their_ends(found, limit):
    assert found() == limit


def _nearest(exact):
    """The float nearest to a fraction, infinite where there is none, within its last place."""
    try:
        return pytest.approx(float(exact), rel=2**-52, abs=5e-324)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


@pytest.mark.parametrize("w", [2.0, -2.0, 1.1, 0.5, -0.3, 0.0])
@pytest.mark.parametrize("steps", [0, 1, 2, 7, 1024, 1030, 5000])
@pytest.mark.parametrize("x0", [0.0, 1.0, -1e-300, 1e300])
def test_a_linear_unit_has_the_gradients_of_exact_arithmetic(w, steps, x0):
    exact = Fraction(w) ** abs(steps - 1) * steps * Fraction(x0)
    assert theory.weight_gradient(w, steps, x0) == _nearest(exact)
    exact = Fraction(w) ** abs(steps - 2) * steps * (steps - 1) * Fraction(x0)
    assert theory.weight_curvature(w, steps, x0) == _nearest(exact)


@pytest.mark.parametrize("activation", ["tanh", "relu", "linear"])
def test_negative_gains_and_variances_are_refused(activation):
    for what in ("variance", "exponent"):
        with pytest.raises(ValueError, match=r"`gain` must not be negative, got -2\.0"):
            getattr(theory, f"{activation}_{what}")(-2.0)
    with pytest.raises(ValueError, match=r"`input_variance` must not be negative, got -1\.0"):
        getattr(theory, f"{activation}_variance")(1.0, -1.0)


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (lambda: theory.weight_gradient(0.5, -1), "steps"),
        (lambda: theory.weight_curvature(0.5, -1), "steps"),
        (lambda: theory.jacobian_bound(0.5, -1), "steps"),
        (lambda: theory.jacobian_bound(-1, 3), "spectral_norm"),
        (lambda: theory.forget_factor(0.0, -1), "steps"),
        (lambda: theory.critical_gain(-1, "relu"), "input_variance"),
        (lambda: theory.critical_gain(-1), "input_variance"),
        (lambda: theory.ginibre_radius(-1), "gain"),
        (lambda: theory.ginibre_norm(-1), "gain"),
        (lambda: theory.lstm_radius(-1), "gain"),
        (lambda: theory.gru_radius(-1), "gain"),
    ],
)
def test_no_radius_norm_variance_or_time_is_negative(found, name):
    with pytest.raises(ValueError, match=f"`{name}` must not be negative, got -1"):
        found()


def test_chrono_units_keep_e2_of_one_on_average():
    assert theory.chrono_mean() == pytest.approx(special.expn(2, 1), abs=1e-12)
    bias = jl.initializers.chrono(t_max=1000)(jax.random.key(0), (40_000,))
    forget = np.asarray(bias[10_000:20_000], np.float64)
    kept = special.expit(forget) ** 1000
    assert kept.mean() == pytest.approx(theory.chrono_mean(), abs=0.01)
    assert forget.min() >= 0
    assert forget.max() <= math.log(999)


def test_forget_factors():
    assert theory.forget_factor(0.0, 100) == pytest.approx(7.889e-31, rel=1e-3)
    assert theory.forget_factor(1.0, 100) == pytest.approx(2.484e-14, rel=1e-3)
    assert theory.forget_factor(math.log(99), 100) == pytest.approx(0.3660, rel=1e-3)
    f = special.expit(3.0)
    assert theory.forget_time(3.0) == pytest.approx(-1 / math.log(f))


def test_critical_gains_of_gated_units_by_their_jacobians():
    """At zero state and input, eigenvalues reach one at the gain that theory names."""
    with jax.enable_x64(True):
        for bias, gain in ((0.0, 2.0), (1.0, 1.0758)):
            assert theory.lstm_critical_gain(bias) == pytest.approx(gain, abs=1e-4)
            cell = jl.lstm(
                input_size=1,
                hidden_size=200,
                forget_bias=bias,
                recurrent_init=jl.initializers.ginibre(gain=gain),
                param_dtype="float64",
            )
            assert abs(_radius(cell) - 1) < 0.04
        cell = jl.gru(
            input_size=1,
            hidden_size=200,
            recurrent_init=jl.initializers.ginibre(gain=theory.gru_critical_gain()),
            param_dtype="float64",
        )
        assert abs(_radius(cell) - 1) < 0.06


def _radius(cell):
    params = cell.init(jax.random.key(3))
    carry = cell.initial_carry(params)
    jacobian = jl.gradients.step_jacobians(cell, params, carry, np.zeros(1))
    return np.abs(np.linalg.eigvals(np.asarray(jacobian))).max()


def test_the_ginibre_matrix_has_radius_g_and_norm_2g():
    matrix = np.asarray(jl.initializers.ginibre(gain=1.5)(jax.random.key(0), (500, 500)))
    assert np.abs(np.linalg.eigvals(matrix)).max() == pytest.approx(1.5, abs=0.08)
    assert np.linalg.norm(matrix, 2) == pytest.approx(3.0, abs=0.08)


def test_the_jacobian_bound_holds():
    cell = jl.rnn(input_size=3, hidden_size=8, recurrent_init=jl.initializers.ginibre(gain=0.8))
    params = cell.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (20, 3))
    norms = np.asarray(jl.gradients.jacobian_norms(cell, params, inputs))
    largest = np.linalg.norm(params.recurrent_kernel, 2)
    for t, norm in enumerate(norms):
        assert norm <= theory.jacobian_bound(largest, 20 - t) * (1 + 1e-5)


def test_relu():
    assert theory.relu_exponent(2**0.5) == pytest.approx(0, abs=1e-12)
    assert theory.relu_exponent(2.0) == pytest.approx(0.5 * math.log(2))
