"""What theory says of gradients through time: closed forms and mean-field integrals, in float64.

All functions take and give plain numbers and need no device.
"""

import decimal
import functools
import math
from collections.abc import Callable

import numpy as np

from jaxlstm.cells.base import check_choice

SLOPES = {"tanh": 1.0, "relu": 1.0, "identity": 1.0, "sigmoid": 0.25}
"""The largest slope γ of each activation."""

# Trapezoids on a smooth, fast-decaying integrand converge faster than any power of the step. They
# are of one width in t, z = 10⁻¹⁰ sinh t: at zero a function may be as steep as tanh(10⁹ z).
_STEP = math.asinh(12e10) / 2000
_T = _STEP * np.arange(-2000, 2001)
_Z = 1e-10 * np.sinh(_T)
_WEIGHTS = np.exp(-0.5 * _Z**2) / math.sqrt(2 * math.pi) * 1e-10 * np.cosh(_T) * _STEP


def weight_gradient(w: float, steps: int, x0: float = 1.0) -> float:
    """The scalar linear unit x_t = w x_{t−1}: dx_N/dw = N w^{N−1} x_0.

    The lecture writes (∂ℓ/∂w)^N; what is a power of N is the state Jacobian ∂x_N/∂x_0 = w^N. At
    w = 1 the gradient of the shared weight grows linearly, it neither vanishes nor explodes.

    Args:
        w: the recurrent weight.
        steps: N.
        x0: the first state.

    Raises:
        ValueError: when the number of steps is negative.

    Examples:
        >>> weight_gradient(1.0, 100)
        100.0
    """
    _check_not_negative(steps=steps)
    # Where the exponent would be negative, the factor before it is zero.
    return _power(w, abs(steps - 1), steps, x0)


def weight_curvature(w: float, steps: int, x0: float = 1.0) -> float:
    """The scalar linear unit: d²x_N/dw² = N (N − 1) w^{N−2} x_0.

    Args:
        w: the recurrent weight.
        steps: N.
        x0: the first state.

    Raises:
        ValueError: when the number of steps is negative.

    Examples:
        >>> weight_curvature(1.0, 10)
        90.0
    """
    _check_not_negative(steps=steps)
    return _power(w, abs(steps - 2), steps, steps - 1, x0)


def jacobian_bound(spectral_norm: float, steps: int, activation: str = "tanh") -> float:
    """The bound ‖∂x_t/∂x_k‖ ≤ (γ ‖W‖₂)^{t−k} of a simple RNN (Pascanu, Mikolov, Bengio 2013).

    Below one it proves vanishing; above one it permits exploding and proves nothing.

    Args:
        spectral_norm: ‖W‖₂, the largest singular value of the recurrent kernel.
        steps: t − k.
        activation: its largest slope is γ: 1 for tanh, 1/4 for the logistic function.

    Raises:
        ValueError: when the activation is unknown, or a number negative.

    Examples:
        >>> jacobian_bound(2.0, 3, "sigmoid")
        0.125
    """
    check_choice("activation", activation, SLOPES)
    _check_not_negative(spectral_norm=spectral_norm, steps=steps)
    return _power(SLOPES[activation] * spectral_norm, steps)


def forget_factor(bias: float, steps: int) -> float:
    """What a constant error carousel keeps after so many steps, f^N with f = σ(bias).

    Args:
        bias: of the forget gate, the rest of its input being zero.
        steps: N.

    Raises:
        ValueError: when the number of steps is negative.

    Examples:
        >>> f"{forget_factor(0.0, 100):.3e} {forget_factor(1.0, 100):.3e}"
        '7.889e-31 2.484e-14'
    """
    _check_not_negative(steps=steps)
    return math.exp(-steps * _forget_rate(bias))


def forget_time(bias: float) -> float:
    """The time constant −1 / ln f of a forget gate f = σ(bias), about 1 / (1 − f), in steps.

    Args:
        bias: of the forget gate.

    Returns:
        The number of steps; infinite where it is too large for a float.

    Examples:
        >>> round(forget_time(math.log(99)), 2)
        99.5
    """
    rate = _forget_rate(bias)
    return 1 / rate if rate else math.inf


def _forget_rate(bias: float) -> float:
    """−ln σ(bias)."""
    return max(-bias, 0.0) + math.log1p(math.exp(-abs(bias)))


def chrono_mean() -> float:
    """The mean of f^{t_max} over units with chrono initialisation, ∫₀¹ e^{−1/x} dx = E₂(1).

    In the limit of large t_max (Tallec & Ollivier 2018).

    Examples:
        >>> round(chrono_mean(), 6)
        0.148496
    """
    # E₂(1) = e⁻¹ − E₁(1), by the series of E₁.
    euler = 0.57721566490153286061
    e1 = -euler - sum((-1) ** k / (k * math.factorial(k)) for k in range(1, 30))
    return math.exp(-1) - e1


def tanh_variance(gain: float, input_variance: float = 0.0) -> float:
    """The mean-field fixed point q = g² ∫ tanh²(√q z) Dz + σ² of a large random tanh network.

    Sompolinsky, Crisanti, Sommers (1988), "Chaos in random neural networks"; Poole et al. (2016).

    Args:
        gain: g, the recurrent entries having standard deviation g / √N.
        input_variance: σ², the variance that inputs or biases add to each unit's sum at each step.

    Returns:
        q, the variance of a unit's sum; zero where the network falls silent.

    Raises:
        ValueError: when a number is negative.

    Examples:
        >>> tanh_variance(0.9)
        0.0
        >>> round(tanh_variance(1.5), 4)
        0.7934
    """
    _check_not_negative(gain=gain, input_variance=input_variance)

    def excess(q: float) -> float:
        return gain**2 * _mean(lambda z: np.tanh(math.sqrt(q) * z) ** 2) + input_variance - q

    low, high = (0.0, gain**2 + input_variance + 1.0)
    if input_variance == 0.0:
        if gain <= 1:
            return 0.0
        low = 1e-12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


def tanh_exponent(gain: float, input_variance: float = 0.0) -> float:
    """The mean-field Lyapunov exponent λ₁ = ½ ln[g² ∫ sech⁴(√q z) Dz] of a tanh network.

    Gradients change by e^λ₁ at each step: they vanish below zero and explode above.

    Args:
        gain: g.
        input_variance: σ², as in `tanh_variance`; inputs must be fresh at each step.

    Returns:
        λ₁; −inf where nothing is passed on, at g = 0.

    Raises:
        ValueError: when a number is negative.

    Examples:
        >>> [round(tanh_exponent(g), 4) for g in (0.5, 1.5, 3.0)]
        [-0.6931, 0.0652, 0.3102]
    """
    q = tanh_variance(gain, input_variance)
    return 0.5 * _log(gain**2 * _mean(lambda z: (1 - np.tanh(math.sqrt(q) * z) ** 2) ** 2))


def relu_exponent(gain: float) -> float:
    """The mean-field exponent ½ ln(g² / 2) of a random ReLU network; zero at g = √2.

    Args:
        gain: g; at zero the exponent is −inf.

    Raises:
        ValueError: when the gain is negative.

    Examples:
        >>> round(relu_exponent(2**0.5), 12)
        0.0
    """
    _check_not_negative(gain=gain)
    return 0.5 * _log(gain**2 / 2)


def relu_variance(gain: float, input_variance: float = 0.0) -> float:
    """The mean-field fixed point q = g² q / 2 + σ² of a random ReLU network, σ² / (1 − g² / 2).

    Half of all units are silent at any time, so that half the variance is passed on.

    Args:
        gain: g; from √2 on the activity grows without end.
        input_variance: σ², as in `tanh_variance`.

    Returns:
        q, infinite from g = √2 on.

    Raises:
        ValueError: when a number is negative.

    Examples:
        >>> relu_variance(1.0, 0.5), relu_variance(2.0)
        (1.0, inf)
    """
    _check_not_negative(gain=gain, input_variance=input_variance)
    return input_variance / (1 - gain**2 / 2) if gain**2 < 2 else math.inf


def linear_variance(gain: float, input_variance: float = 0.0) -> float:
    """The mean-field fixed point q = g² q + σ² of a random linear network, σ² / (1 − g²).

    Args:
        gain: g; from 1 on the activity grows without end.
        input_variance: σ², as in `tanh_variance`.

    Returns:
        q, infinite from g = 1 on.

    Raises:
        ValueError: when a number is negative.

    Examples:
        >>> round(linear_variance(0.5, 0.75), 12)
        1.0
    """
    _check_not_negative(gain=gain, input_variance=input_variance)
    return input_variance / (1 - gain**2) if gain < 1 else math.inf


def linear_exponent(gain: float) -> float:
    """The mean-field exponent ln g of a random linear network; zero at g = 1.

    Args:
        gain: g; at zero the exponent is −inf.

    Raises:
        ValueError: when the gain is negative.

    Examples:
        >>> linear_exponent(1.0)
        0.0
    """
    _check_not_negative(gain=gain)
    return _log(gain)


def critical_gain(input_variance: float = 0.0, activation: str = "tanh") -> float:
    """The gain at which the exponent of a random network with such inputs is zero.

    For ReLU √2 and for a linear network 1, whatever comes in; inputs push a tanh network into its
    flat parts, so that it turns chaotic later.

    Args:
        input_variance: σ², as in `tanh_variance`.
        activation: "tanh", "relu" or "identity".

    Raises:
        ValueError: when the activation is unknown or the variance negative.

    Examples:
        >>> critical_gain(), round(critical_gain(0.5), 4), round(critical_gain(0.5, "relu"), 4)
        (1.0, 1.6862, 1.4142)
    """
    check_choice("activation", activation, ("tanh", "relu", "identity"))
    _check_not_negative(input_variance=input_variance)
    if activation != "tanh":
        return math.sqrt(2) if activation == "relu" else 1.0
    if input_variance == 0.0:
        return 1.0
    low, high = 1.0, 20.0
    while tanh_exponent(high, input_variance) < 0:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        rising = tanh_exponent(middle, input_variance) < 0
        low, high = (middle, high) if rising else (low, middle)
    return (low + high) / 2


def ginibre_radius(gain: float) -> float:
    """The spectral radius g of a large matrix of independent entries of deviation g / √N.

    Ginibre (1965); its eigenvalues fill the disc evenly.

    Args:
        gain: g.

    Raises:
        ValueError: when the gain is negative.

    Examples:
        >>> ginibre_radius(1.5)
        1.5
    """
    _check_not_negative(gain=gain)
    return gain


def ginibre_norm(gain: float) -> float:
    """The largest singular value 2g of the same matrix: one step may stretch twice the radius.

    Marchenko & Pastur (1967). That is why ‖U‖₂ > 1 does not yet explode.

    Args:
        gain: g.

    Raises:
        ValueError: when the gain is negative.

    Examples:
        >>> ginibre_norm(1.5)
        3.0
    """
    return 2 * ginibre_radius(gain)


def lstm_radius(gain: float, forget_bias: float = 1.0) -> float:
    """The spectral radius f + g / 4 of dc'/dc of an LSTM at zero state and input.

    There the eigenvalues are f + i·o·eig(U_g) with i = o = ½, U_g a Ginibre block of gain g.

    Args:
        gain: g, of the candidate's block of the recurrent kernel.
        forget_bias: f = σ(forget_bias).

    Raises:
        ValueError: when the gain is negative.

    Examples:
        >>> lstm_radius(2.0, 0.0)
        1.0
    """
    return _sigmoid(forget_bias) + ginibre_radius(gain) / 4


def lstm_critical_gain(forget_bias: float = 1.0) -> float:
    """The recurrent gain at which an LSTM at zero state and input turns unstable, 4 (1 − f).

    Where `lstm_radius` is one.

    Args:
        forget_bias: f = σ(forget_bias).

    Examples:
        >>> lstm_critical_gain(0.0), round(lstm_critical_gain(1.0), 4)
        (2.0, 1.0758)
    """
    return 4 * _sigmoid(-forget_bias)


def gru_radius(gain: float) -> float:
    """The spectral radius ½ + g / 4 of dh'/dh of a GRU at zero state and input.

    There the eigenvalues are z + (1 − z)·r·eig(U_n) with z = r = ½.

    Args:
        gain: g, of the candidate's block of the recurrent kernel.

    Raises:
        ValueError: when the gain is negative.

    Examples:
        >>> gru_radius(2.0)
        1.0
    """
    return 0.5 + ginibre_radius(gain) / 4


def gru_critical_gain() -> float:
    """The recurrent gain at which a GRU at zero state and input turns unstable: ½ + g / 4 = 1.

    Examples:
        >>> gru_critical_gain()
        2.0
    """
    return 2.0


def _mean(function: Callable[[np.ndarray], np.ndarray]) -> float:
    """The mean of a function of a standard normal variable."""
    return float(np.sum(_WEIGHTS * function(_Z)))


def _power(base: float, exponent: int, *factors: float) -> float:
    """`base ** exponent` times the factors, infinite where that is too large for a float."""
    # The power alone may be too large, or too small, where the product is neither.
    context = decimal.Context(prec=40, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[])
    exact = [decimal.Decimal(float(number)) for number in (base, exponent, *factors)]
    power = context.power(*exact[:2]) if exponent else decimal.Decimal(1)
    return float(functools.reduce(context.multiply, exact[2:], power))


def _sigmoid(x: float) -> float:
    return math.exp(min(x, 0.0)) / (1 + math.exp(-abs(x)))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def _check_not_negative(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number >= 0:
            raise ValueError(f"`{name}` must not be negative, got {number}")
