"""A cell of thirty lines, which knows nothing of the instruments, goes through all of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import random_inputs, random_params
from flax import nnx

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("compile_fast")
T, B, I, H = 6, 3, 2, 3


class FastParams(NamedTuple):
    kernel: jax.Array
    recurrent_kernel: jax.Array
    alpha: jax.Array
    beta: jax.Array


class FastCarry(NamedTuple):
    hidden: jax.Array


@jl.described
def fast_gated(*, input_size: int, hidden_size: int) -> jl.Cell:
    """h = (α (1 − z) + β) tanh(s) + z h, z = σ(s), s = x W + h U; the output is 2h."""

    def init(key):
        k1, k2 = jax.random.split(key)
        return FastParams(
            jax.random.normal(k1, (input_size, hidden_size)),
            jax.random.normal(k2, (hidden_size, hidden_size)),
            jnp.array(0.9),
            jnp.array(0.1),
        )

    def initial_carry(params, batch_shape=()):
        return FastCarry(jnp.zeros((*batch_shape, hidden_size), params.kernel.dtype))

    @jax.jit
    def step(params, carry, x):
        s = x @ params.kernel + carry.hidden @ params.recurrent_kernel
        z = jax.nn.sigmoid(s)
        hidden = (params.alpha * (1 - z) + params.beta) * jnp.tanh(s) + z * carry.hidden
        return FastCarry(hidden), 2 * hidden

    return jl.Cell(init, initial_carry, step, input_shape=(input_size,))


CELL = fast_gated(input_size=I, hidden_size=H)


def by_hand(params, inputs):
    """States, gates and step Jacobians of one sequence."""
    kernel, recurrent, alpha, beta = (np.asarray(leaf) for leaf in params)
    h, states, gates, jacobians = np.zeros(H), [], [], []
    for x in np.asarray(inputs):
        s = x @ kernel + h @ recurrent
        z, n = 1 / (1 + np.exp(-s)), np.tanh(s)
        slope = -alpha * z * (1 - z) * n + (alpha * (1 - z) + beta) * (1 - n**2) + z * (1 - z) * h
        jacobians.append(np.diag(z) + slope[:, None] * recurrent.T)
        h = (alpha * (1 - z) + beta) * n + z * h
        states.append(h)
        gates.append(z)
    return np.reshape(states, (-1, H)), np.reshape(gates, (-1, H)), jacobians


@pytest.mark.usefixtures("x64")
def test_a_users_cell_goes_through_all_measurements():
    params, inputs = random_params(CELL), random_inputs(CELL, B, T)
    lengths = np.array([T, 4, 0])
    options = {"lengths": jnp.asarray(lengths)}
    loss = lambda outputs: jnp.sum(outputs**2) / 2  # noqa: E731

    @jax.jit
    def measure(params, inputs):
        given = CELL, params, inputs
        return (
            jl.gradients.flow(*given, loss, **options),
            jl.gradients.weight_flow(*given, loss, **options),
            jl.gradients.jacobian_norms(*given, **options),
            jl.gradients.jacobian_spectrum(*given, every=2, **options),
            jl.gradients.bounds(*given, **options),
            jl.gradients.gates(*given, **options),
            jl.gradients.saturation(*given, **options),
            jl.gradients.memory_timescales(*given, **options),
            jl.gradients.norm_penalty(*given, loss, **options),
            jax.grad(lambda p: loss(jl.unroll(CELL, p, inputs, **options).outputs))(params),
        )

    flow, taught, norms, spectrum, found_bounds, found_gates, stuck, times, penalty, total = (
        jax.device_get(measure(params, inputs))
    )
    omega = 0.0
    for row, length in enumerate(lengths):
        states, gates, jacobians = by_hand(params, inputs[row, :length])
        errors, arriving, error = [], [], np.zeros(H)
        for t in reversed(range(length)):
            error = 4 * states[t] + error
            errors.insert(0, error)
            error = jacobians[t].T @ error
            arriving.insert(0, error)
        if length:
            np.testing.assert_allclose(flow.gradients.hidden[row, :length], errors, rtol=1e-9)
            ratios = np.linalg.norm(arriving, axis=1) / np.linalg.norm(errors, axis=1)
            omega += np.sum((ratios - 1) ** 2) / B
        product = np.eye(H)
        for jacobian in jacobians:
            product = jacobian @ product
        values = np.linalg.svd(product, compute_uv=False)
        np.testing.assert_allclose(np.exp(spectrum.log_values[row, 0]), values, rtol=1e-7)
        np.testing.assert_allclose(norms[row, 0], values[0], rtol=1e-9)
        steps = [np.linalg.norm(jacobian, 2) for jacobian in jacobians]
        np.testing.assert_allclose(found_bounds.log_products[row, 0], np.sum(np.log(steps)))
        np.testing.assert_allclose(found_gates["sigmoid.0"][row, :length], gates, rtol=1e-9)
        # Without a gradient through its two activations the cell is a leaky integrator.
        np.testing.assert_allclose(times.factors.hidden[row, :length], gates, rtol=1e-9)
    np.testing.assert_allclose(penalty, omega, rtol=1e-9)
    gates = np.concatenate(
        [np.asarray(found_gates["sigmoid.0"])[r, :n] for r, n in enumerate(lengths)]
    )
    np.testing.assert_allclose(stuck["sigmoid.0"].mean, gates.mean(axis=0))
    assert set(stuck) == {"sigmoid.0", "tanh.0"}
    for steps, whole in zip(taught.steps, total, strict=True):
        np.testing.assert_allclose(steps.sum(axis=0), whole, rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_a_users_cell_has_exponents_and_can_be_flossed():
    params, inputs = random_params(CELL), random_inputs(CELL, 40)
    found = jl.gradients.lyapunov_spectrum(CELL, params, inputs, count=H)
    logs = [np.linalg.slogdet(jacobian)[1] for jacobian in by_hand(params, inputs)[2]]
    np.testing.assert_allclose(found.exponents.sum(), np.mean(logs), rtol=1e-9)
    value = jl.gradients.flossing(CELL, params, inputs, count=H)
    np.testing.assert_allclose(value, np.mean(found.exponents**2), rtol=1e-9)


@pytest.mark.slow
def test_every_measurement_may_be_jitted_and_mapped():
    """Over seeds, with nothing but `jit` and `vmap` around the call."""
    inputs, loss = jnp.ones((4, I)), lambda outputs: jnp.sum(outputs**2)
    measures = {
        "flow": lambda p: jl.gradients.flow(CELL, p, inputs, loss).norms,
        "weight_flow": lambda p: jl.gradients.weight_flow(CELL, p, inputs, loss).steps,
        "norms": lambda p: jl.gradients.jacobian_norms(CELL, p, inputs, log=True),
        "spectrum": lambda p: jl.gradients.jacobian_spectrum(CELL, p, inputs).log_values,
        "lyapunov": lambda p: jl.gradients.lyapunov_spectrum(CELL, p, inputs, blocks=2).exponents,
        "bounds": lambda p: jl.gradients.bounds(CELL, p, inputs).log_products,
        "gates": lambda p: jl.gradients.gates(CELL, p, inputs),
        "saturation": lambda p: jl.gradients.saturation(CELL, p, inputs),
        "timescales": lambda p: jl.gradients.memory_timescales(CELL, p, inputs).units,
        "penalty": lambda p: jl.gradients.norm_penalty(CELL, p, inputs, loss),
        "flossing": lambda p: jl.gradients.flossing(CELL, p, inputs, count=1),
    }
    seeds = jax.vmap(CELL.init)(jax.random.split(jax.random.key(0), 2))

    def all_of_them(params):
        return {name: measure(params) for name, measure in measures.items()}

    mapped = jax.jit(jax.vmap(all_of_them))(seeds)
    alone = all_of_them(jax.tree.map(lambda leaf: leaf[1], seeds))
    for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(mapped), strict=True):
        np.testing.assert_allclose(many[1], one, rtol=2e-4, atol=1e-5)


def test_a_users_cell_refuses_what_does_not_fit_without_a_line_of_its_own():
    params, x = random_params(CELL, dtype="float32"), jnp.ones((B, I))
    with pytest.raises(ValueError, match=rf"`carry.hidden` must have shape \[{B}, {H}\], got \[1"):
        CELL.step(params, CELL.initial_carry(params, (1,)), x)
    with pytest.raises(ValueError, match=rf"`x` must have shape \[\*batch, {I}\], got"):
        CELL.step(params, CELL.initial_carry(params, (B,)), x[:, :1])
    with pytest.raises(TypeError, match=r"`key` must come from `jax\.random\.key`, got 0"):
        CELL.init(0)
    with pytest.raises(TypeError, match="`batch_shape` must be a tuple of ints, got 3"):
        CELL.initial_carry(params, B)


@pytest.mark.parametrize("backend", ["auto", "newton"])
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda _, c, x: (x, c), r"a carry like the one given, float32\[2,4\], got float32\[2,3\]"),
        (lambda _, c, x: (c > 0, c), r"a carry like the one given, float32.*, got bool\[2,4\]"),
        (lambda _, c, x: ((c, c), c), r"a carry like the one given, float32.*, got \(float32"),
        (lambda _, c, x: c, r"a carry and an output, got float32\[2,4\]"),
        (lambda *_: jnp.ones(2) @ jnp.ones(3), "dot_general requires"),  # its own words stay
    ],
)
def test_a_step_that_does_not_keep_its_carry_is_refused_in_words(step, message, backend):
    cell = jl.Cell(
        init=lambda key: jnp.zeros(()),
        initial_carry=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 4)),
        step=step,
        input_shape=(3,),
    )
    with pytest.raises(TypeError, match=message):
        jl.unroll(cell, jnp.zeros(()), jnp.ones((2, 5, 3)), backend=backend)


class RotatingParams(NamedTuple):
    kernel: jax.Array
    decay: jax.Array
    readout: jax.Array


class RotatingCarry(NamedTuple):
    hidden: jax.Array


@jl.described
def rotating(*, size: int) -> jl.Cell:
    """h = λ h + x W, complex, whose output is Re h V."""

    def init(key):
        parts = jax.random.normal(key, (2, 3, size))
        kernel, decay, readout = jax.lax.complex(*parts) / 2
        return RotatingParams(kernel[None], decay, readout[:, None])

    def initial_carry(params, batch_shape=()):
        return RotatingCarry(jnp.zeros((*batch_shape, size), params.decay.dtype))

    def step(params, carry, x):
        product = x.astype(params.kernel.dtype) @ params.kernel
        hidden = jnp.broadcast_to(params.decay, product.shape) * carry.hidden + product
        return RotatingCarry(hidden), (hidden @ params.readout).real

    return jl.Cell(init, initial_carry, step, input_shape=(1,))


@pytest.mark.usefixtures("x64")
def test_a_cell_with_a_complex_state_is_measured_as_one_of_twice_as_many_real_numbers():
    cell = rotating(size=3)
    params, inputs = cell.init(jax.random.key(0)), random_inputs(cell, B, T)
    last = lambda outputs: jnp.sum(outputs[:, -1])  # noqa: E731
    decay, lags = np.asarray(params.decay), np.arange(T)[::-1, None]
    adjoint = decay**lags * np.asarray(params.readout).T

    found = jl.gradients.flow(cell, params, inputs, last)
    np.testing.assert_allclose(found.gradients.hidden, np.stack([adjoint] * B), atol=1e-12)
    norms = np.linalg.norm(adjoint, axis=-1)
    np.testing.assert_allclose(found.norms.hidden, np.stack([norms] * B), atol=1e-12)

    taught = jl.gradients.weight_flow(cell, params, inputs, last)
    gradient = jax.grad(lambda params: last(jl.unroll(cell, params, inputs).outputs))(params)
    for steps, whole in zip(taught.steps, gradient, strict=True):
        np.testing.assert_allclose(steps.sum(axis=0), whole, atol=1e-12)

    sizes = np.sort(np.abs(decay))[::-1]
    powers = sizes[0] ** np.arange(T, -1, -1)
    found = jl.gradients.jacobian_norms(cell, params, inputs[0], path=("hidden",))
    np.testing.assert_allclose(found, powers, rtol=1e-9)
    found = jl.gradients.jacobian_spectrum(cell, params, inputs[0]).log_values[0]
    np.testing.assert_allclose(found, T * np.log(np.repeat(sizes, 2)), rtol=1e-9)
    found = jl.gradients.lyapunov_spectrum(cell, params, inputs[0], count=6, blocks=1).exponents
    np.testing.assert_allclose(found.sum(), 2 * np.log(sizes).sum(), rtol=1e-9)

    kept = np.linalg.norm(adjoint * decay, axis=-1) / norms
    found = jl.gradients.norm_penalty(cell, params, inputs, last)
    np.testing.assert_allclose(found, np.sum((kept - 1) ** 2), rtol=1e-9)


class CountedCarry(NamedTuple):
    hidden: jax.Array
    steps: jax.Array


@jl.described
def counted(*, cell: jl.Cell) -> jl.Cell:
    """A cell that counts its steps, in whole numbers."""

    def initial_carry(params, batch_shape=()):
        return CountedCarry(*cell.initial_carry(params, batch_shape), jnp.zeros(batch_shape, int))

    def step(params, carry, x):
        new, output = cell.step(params, FastCarry(carry.hidden), x)
        return CountedCarry(*new, carry.steps + 1), output

    return jl.Cell(cell.init, initial_carry, step, cell.input_shape)


@pytest.mark.usefixtures("x64")
def test_whole_numbers_in_a_state_are_left_out_of_what_is_measured():
    params, inputs, loss = random_params(CELL), random_inputs(CELL, B, T), jnp.sum
    plain, more = [
        (
            jl.gradients.memory_timescales(cell, params, inputs),
            jl.gradients.flow(cell, params, inputs, loss)[:2],
            jl.gradients.norm_penalty(cell, params, inputs, loss),
            jl.gradients.jacobian_norms(cell, params, inputs),
        )
        for cell in (CELL, counted(cell=CELL))
    ]
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(more), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
    assert more[0].units.steps is None


@jl.described
def in_dicts(*, cell: jl.Cell) -> jl.Cell:
    """A cell whose parameters and carry are dictionaries."""

    def step(params, carry, x):
        new, output = cell.step(FastParams(**params), FastCarry(**carry), x)
        return new._asdict(), output

    return jl.Cell(
        lambda key: cell.init(key)._asdict(),
        lambda params, batch=(): cell.initial_carry(FastParams(**params), batch)._asdict(),
        step,
        cell.input_shape,
    )


@pytest.mark.usefixtures("x64")
def test_parts_of_dictionaries_are_named_by_their_keys():
    cell, inputs = in_dicts(cell=CELL), random_inputs(CELL, B, T)
    layer = jl.nn.RNN(cell, metadata={"alpha": {"mine": 1}}, rngs=nnx.Rngs(0))
    assert layer.weights["alpha"].mine == 1
    whole, part = [
        jl.gradients.jacobian_norms(cell, layer.params, inputs, path=path)
        for path in (None, ("hidden",))
    ]
    np.testing.assert_allclose(part, whole, rtol=1e-6)
    with pytest.raises(ValueError, match=r"parts of the carry, \['hidden'\], got 'memory'"):
        jl.gradients.jacobian_norms(cell, layer.params, inputs, path=("memory",))
