"""The chunked backend: many steps of an mLSTM at once equal the scan, with all its derivatives."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import random_like

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("compile_fast")

B, T = 3, 29
LENGTHS = jnp.array([0, T, 17], jnp.int32)
MASK = jax.random.bernoulli(jax.random.key(4), 0.7, (B, T))
RESETS = jax.random.bernoulli(jax.random.key(3), 0.15, (B, T))
OPTIONS = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "resets": {"resets": RESETS},
    "reverse": {"lengths": LENGTHS, "resets": RESETS, "reverse": True},
    "all": {"lengths": LENGTHS, "mask": MASK, "resets": RESETS},
}
CELLS = [
    jl.mlstm(input_size=3, hidden_size=4, heads=2),
    jl.mlstm(input_size=3, hidden_size=2, forget_activation="exp"),
]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(sys.modules["jaxlstm.unroll.chunked"], "CHUNK", 8)
    jax.clear_caches()


def given(cell, options, dtype, *, empty, scale=1):
    """Weights, inputs that are zero at first and NaN where not valid, and a carry."""
    params = jax.eval_shape(cell.init, jax.random.key(0))
    params = jax.tree.map(lambda a: scale * a, random_like(params, 1, dtype))
    inputs = jax.random.normal(jax.random.key(2), (B, T, 3), dtype)
    inputs = inputs.at[0, :11].set(0)
    if empty:  # such inputs write nothing either
        params = params._replace(bias=jnp.zeros_like(params.bias))
    if "lengths" in options:
        valid = jnp.arange(T, dtype=jnp.int32)[None] < LENGTHS[:, None]
        inputs = jnp.where((valid & options.get("mask", valid))[..., None], inputs, jnp.nan)
    carry = cell.initial_carry(params, (B,))
    return params, inputs, carry if empty else random_like(carry, 5, dtype)


def loss(cell, options, backend, *at):
    params, inputs, carry = at
    out = jl.unroll(cell, params, inputs, carry=carry, backend=backend, **options)
    leaves = (leaf.astype(inputs.dtype) for leaf in jax.tree.leaves(out))
    total = sum(jnp.sum(jnp.sin((i + 1) * leaf)) for i, leaf in enumerate(leaves))
    return total, out


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize(
    ("cell", "name"), [*((CELLS[0], name) for name in OPTIONS), (CELLS[1], "all")]
)
def test_values_and_gradients_are_those_of_the_scan(cell, name, empty):
    with jax.enable_x64(True):
        at = given(cell, OPTIONS[name], jnp.float64, empty=empty)
        scan, chunked = (
            jax.value_and_grad(
                functools.partial(loss, cell, OPTIONS[name], backend), (0, 1, 2), True
            )(*at)
            for backend in ("scan", "chunked")
        )
        close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-9)
        jax.tree.map(close, chunked, scan)


@pytest.mark.parametrize("scale", [0.3, 30])
def test_it_is_as_exact_as_the_scan(scale):
    """Also where gates are far from one another, and where much is forgotten."""
    cell, options = CELLS[0], OPTIONS["resets"]
    with jax.enable_x64(True):
        at = given(cell, options, jnp.float64, empty=False, scale=scale)
        wanted = loss(cell, options, "scan", *at)[1].outputs
    single = jax.tree.map(lambda a: a.astype("float32"), at)
    scan, chunked = (loss(cell, options, b, *single)[1].outputs for b in ("scan", "chunked"))
    assert jnp.all(jnp.isfinite(chunked))
    far = [float(np.max(np.abs(np.asarray(a) - np.asarray(wanted)))) for a in (scan, chunked)]
    assert far[1] < 3 * far[0] + 1e-6, far


def test_second_derivatives_in_both_modes():
    cell, options = CELLS[0], OPTIONS["lengths"]
    with jax.enable_x64(True):
        at = given(cell, options, jnp.float64, empty=False)
        tangents = random_like(at, 6, jnp.float64)

        def derivatives(backend):
            f = functools.partial(loss, cell, options, backend)
            gradient = jax.grad(lambda *at: f(*at)[0], (0, 1, 2))
            return jax.jvp(lambda *at: f(*at)[0], at, tangents), jax.jvp(gradient, at, tangents)[1]

        close = functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-8)
        jax.tree.map(close, derivatives("chunked"), derivatives("scan"))


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (8, 3), (9, 3), (0, 5, 3), (2, 2, 9, 3)])
def test_any_batch_and_length(shape):
    params = CELLS[0].init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), shape)
    scan, chunked = (jl.unroll(CELLS[0], params, inputs, backend=b) for b in ("scan", "chunked"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), chunked, scan)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types(dtype):
    cell = jl.mlstm(input_size=3, hidden_size=4, dtype=dtype)
    at = given(cell, {}, jnp.float32, empty=True)
    scan, chunked = (loss(cell, {}, backend, *at)[1] for backend in ("scan", "chunked"))
    assert [a.dtype for a in jax.tree.leaves(scan)] == [a.dtype for a in jax.tree.leaves(chunked)]
    np.testing.assert_allclose(
        chunked.outputs.astype("float32"), scan.outputs.astype("float32"), atol=0.02
    )


def test_gradients_of_half_parameters_are_added_up_in_single_precision():
    cell, wide = (
        jl.mlstm(input_size=3, hidden_size=4, param_dtype=t) for t in ("bfloat16", "float32")
    )
    params = cell.init(jax.random.key(0))
    inputs = jnp.ones((1, 4_000, 3))

    def gradient(cell, params):
        return jax.grad(lambda p: jnp.sum(jl.unroll(cell, p, inputs).outputs.astype("float32")))(
            params
        )

    single = gradient(wide, jax.tree.map(lambda a: a.astype("float32"), params))
    half = gradient(cell, params)
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(a.astype("float32"), b, atol=0.05 * float(jnp.max(jnp.abs(b))))


def test_auto_takes_it_and_keeps_less():
    cell = jl.mlstm(input_size=8, hidden_size=32)
    params, inputs = cell.init(jax.random.key(0)), jnp.ones((2, 160, 8))

    def temporary(**options):
        gradient = jax.grad(lambda p: jnp.sum(jl.unroll(cell, p, inputs, **options).outputs))
        analysis = jax.jit(gradient).lower(params).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert temporary() == temporary(backend="chunked") < temporary(backend="scan") / 4
    assert temporary(truncate=160) > temporary(backend="scan") / 2


@pytest.mark.parametrize(
    ("cell", "options", "line"),
    [
        (jl.min_gru(input_size=3, hidden_size=4), {}, "needs a cell that does many steps"),
        (CELLS[0], {"return_carries": True}, "`return_carries` is given"),
        (CELLS[0], {"truncate": 3}, "`truncate` has no parallel form"),
        (CELLS[0], {"remat": "sqrt"}, "`remat` has no parallel form"),
    ],
)
def test_what_it_cannot_do_is_refused(cell, options, line):
    params = cell.init(jax.random.key(0))
    with pytest.raises(ValueError, match=line):
        jl.unroll(cell, params, jnp.ones((B, T, 3)), backend="chunked", **options)
