"""The fused backend: the scan's values to the last bit, its derivatives in every mode and order."""

import functools
import itertools
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import CELLS as EVERY
from cells_table import random_like, random_params

import jaxlstm as jl
from jaxlstm.unroll.folding import folded

pytestmark = pytest.mark.usefixtures("compile_fast")

CELLS = [
    jl.lstm(input_size=3, hidden_size=4),
    jl.lstm(input_size=3, hidden_size=4, coupled=True, peepholes=True, recurrent_bias=True),
    jl.lstm(input_size=3, hidden_size=4, output_gate=False, cell_clip=0.4, use_bias=False),
    jl.gru(input_size=3, hidden_size=4),
    jl.rnn(input_size=3, hidden_size=4, recurrent_bias=True),
    jl.lstmp(input_size=3, hidden_size=4, projection_size=2, peepholes=True),
    jl.stack(jl.rnn(input_size=3, hidden_size=2), jl.residual(jl.gru(input_size=2, hidden_size=2))),
    jl.conv_lstm(input_shape=(4, 1), filters=2, strides=2, peepholes=True),
    jl.lstm(input_size=3, hidden_size=4, full_gate_recurrence=True, projection_size=2),
    jl.lstm_1997(input_size=3, blocks=2, block_size=2, truncated=False, cell_bias=True),
    jl.lstm_1997(input_size=3, blocks=2),
    jl.layer_norm_lstm(input_size=3, hidden_size=4),
    jl.slstm(input_size=3, hidden_size=4),
    jl.min_gru(input_size=3, hidden_size=4),
    jl.min_lstm(input_size=3, hidden_size=4),
]
B, T = 3, 47
LENGTHS = jnp.array([0, T, 20], jnp.int32)
RESETS = jax.random.bernoulli(jax.random.key(3), 0.1, (B, T))
MASK = jax.random.bernoulli(jax.random.key(4), 0.7, (B, T))
OPTIONS = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "hold, reverse": {"lengths": LENGTHS, "reverse": True, "masked_outputs": "hold"},
    "resets": {"resets": RESETS, "return_carries": True},
    "all": {"resets": RESETS, "reverse": True, "mask": MASK, "return_carries": True},
    "truncate": {"truncate": 7},
}


def case(cell, dtype, options):
    params = random_params(cell, dtype=dtype)
    inputs = jax.random.normal(jax.random.key(2), (B, T, *cell.input_shape), dtype)
    if "lengths" in options:
        valid = jnp.arange(T, dtype=jnp.int32)[None] < LENGTHS[:, None]
        valid = valid.reshape(B, T, *(1,) * len(cell.input_shape))
        inputs = jnp.where(valid, inputs, jnp.nan)
    carry = random_like(cell.initial_carry(params, (B,)), 5, dtype)
    return params, inputs, carry


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def derivatives(cell, backend, name, given, tangents):
    def loss(params, inputs, carry):
        out = jl.unroll(cell, params, inputs, carry=carry, backend=backend, **OPTIONS[name])
        leaves = enumerate(jax.tree.leaves(out))
        return sum((jnp.sum(jnp.sin((i + 1) * leaf)) for i, leaf in leaves), jnp.zeros(()))

    gradient = jax.grad(loss, (0, 1, 2))
    return gradient(*given), jax.jvp(loss, given, tangents), jax.jvp(gradient, given, tangents)[1]


def quick(cell, backend, name):
    """One cell with every option and one backend, one option with every cell and the other."""
    return (cell is CELLS[0]) if backend == "auto" else name == "all"


@pytest.mark.parametrize(
    ("cell", "backend", "name"),
    [
        pytest.param(*case, marks=[] if quick(*case) else pytest.mark.slow)
        for case in itertools.product(CELLS, ("auto", "fused"), OPTIONS)
    ],
)
def test_every_derivative_is_that_of_the_scan(cell, backend, name):
    with jax.enable_x64(True):
        given = case(cell, jnp.float64, OPTIONS[name])
        tangents = random_like(given, 6, jnp.float64)
        scan, fused = (derivatives(cell, each, name, given, tangents) for each in ("scan", backend))
        assert len(jax.tree.leaves(fused)) == len(jax.tree.leaves(scan)) > 8
        for a, b in zip(jax.tree.leaves(scan), jax.tree.leaves(fused), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-10)


def test_the_cells_that_have_it_not_are_those_that_unroll_names():
    names = {name for name, cell in EVERY.items() if cell.split is None and cell.run is None}
    noisy = {name for name in names if EVERY[name].stochastic}
    assert names - noisy == {"indrnn", "mgu", "mlstm", "gru-reset-before"}


@pytest.mark.parametrize(
    ("steps", "length", "name"), [(1, 1, "all"), (3, 3, "hold, reverse"), (5, 4, "resets")]
)
def test_chunks_of_few_steps_have_every_derivative(steps, length, name, monkeypatch):
    module = sys.modules["jaxlstm.unroll.fused"]
    monkeypatch.setattr(module, "LONG", steps)
    monkeypatch.setattr(module, "SHORT", steps)
    cell = jl.lstm(input_size=3, hidden_size=4, forget_bias=steps / 7)
    with jax.enable_x64(True):
        given = case(cell, jnp.float64, OPTIONS[name])
        tangents = random_like(given, 6, jnp.float64)
        scan, fused = (derivatives(cell, each, name, given, tangents) for each in ("scan", "fused"))
        for a, b in zip(jax.tree.leaves(scan), jax.tree.leaves(fused), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-10)
    assert module._chunk(T, B, 0) == length


@pytest.mark.usefixtures("fresh_programs")
@pytest.mark.parametrize(
    ("platform", "rows", "chunk"),
    [
        *(("cpu", *each) for each in [(1, 100), (32, 10), (256, 10), (1024, 4), (8192, 1)]),
        *(("gpu", *each) for each in [(1, 100), (1024, 100), (8192, 50)]),
        ("tpu", 8192, 10),
    ],
)
def test_a_chunk_has_so_many_rows_that_its_arrays_stay_small(platform, rows, chunk, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    cell = jl.lstm(input_size=2, hidden_size=32)
    params = cell.init(jax.random.key(0))

    def loss(params, inputs):
        return jnp.sum(jl.unroll(cell, params, inputs, backend="fused").outputs)

    inputs = jax.ShapeDtypeStruct((rows, 200, 2), jnp.float32)
    text = str(jax.make_jaxpr(jax.grad(loss))(params, inputs))
    lengths = set(map(int, re.findall(r"length=(\d+)", text)))
    assert {chunk, 200 // chunk} <= lengths <= {chunk, 200 // chunk, 200}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_values_are_the_bits_of_the_scan(name, dtype):
    cell = jl.lstm(input_size=3, hidden_size=4, dtype=dtype)
    params, inputs, carry = case(cell, jnp.float32, OPTIONS[name])
    carry = carry._replace(hidden=carry.hidden.astype(dtype))
    scan, fused = (
        jl.unroll(cell, params, inputs, carry=carry, backend=backend, **OPTIONS[name])
        for backend in ("scan", "fused")
    )
    jax.tree.map(np.testing.assert_array_equal, fused, scan)
    gradients = [
        jax.grad(
            lambda p, b=backend: jnp.sum(
                jl.unroll(cell, p, inputs, carry=carry, backend=b, **OPTIONS[name]).carry.cell ** 2
            )
        )(params)
        for backend in ("scan", "fused")
    ]
    close = {"float32": 1e-4, "bfloat16": 0.1}[dtype]
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, atol=close * float(jnp.max(jnp.abs(a))))


@pytest.mark.parametrize("batch_shape", [(1,), (1, 1), (1, 2), (0,)])
def test_one_row_is_a_sequence_without_a_batch(batch_shape):
    cell, lengths = CELLS[0], jnp.full(batch_shape, 5)
    params = cell.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (*batch_shape, 7, *cell.input_shape))

    def run(params, inputs, backend):
        return jl.unroll(
            cell, params, inputs, lengths=lengths, return_carries=True, backend=backend
        )

    def loss(*given):
        return sum(jnp.sum(a**2) for a in jax.tree.leaves(run(*given)))

    values, gradients = zip(
        *((f(params, inputs, b) for f in (run, jax.grad(loss, (0, 1)))) for b in ("scan", "fused")),
        strict=True,
    )
    jax.tree.map(np.testing.assert_array_equal, *values)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, 1e-5, 1e-6), *gradients)
    step = str(jax.make_jaxpr(lambda x: run(params, x, "fused"))(inputs))
    assert (":f32[16] = dot_general" in step) == (set(batch_shape) == {1})


@pytest.mark.parametrize("length", [0, 1, 20, 41])
def test_any_length_mapped_and_in_both_directions(length):
    layer = jl.bidirectional(CELLS[0], CELLS[3])
    params = layer.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (5, 2, length, 3))

    def loss(params, inputs, backend):
        return jnp.sum(jl.unroll(layer, params, inputs, backend=backend).outputs ** 2)

    scan, fused = (
        jax.vmap(lambda x, b=b: jax.grad(loss)(params, x, b))(inputs) for b in ("scan", "fused")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5), scan, fused)


@pytest.mark.parametrize("rows", [2, 5])
def test_a_loss_of_each_row_mapped_with_its_length_and_then_differentiated(rows):
    """Of 5 rows and 5 steps, one in the place of the other is no error but a wrong number."""
    params = CELLS[3].init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (rows, 5, 3))
    lengths = jnp.array([3, 5, 0, 1, 4])[:rows]

    def loss(backend, params):
        def of_row(x, length):
            outputs = jl.unroll(CELLS[3], params, x, lengths=length, backend=backend).outputs
            return jnp.arange(5.0) @ jnp.sin(outputs).sum(axis=-1)

        return jax.vmap(of_row)(inputs, lengths).sum()

    scan, fused = (
        jax.value_and_grad(functools.partial(loss, b))(params) for b in ("scan", "fused")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5), scan, fused)


def test_what_is_known_is_multiplied_together():
    def merge(state, gate):
        opened, new = jnp.split(gate, 2)
        kept = jax.nn.sigmoid(-opened) * state
        return jnp.where(state > 0, kept - jnp.tanh(new) * jax.nn.sigmoid(opened), -2 * kept), kept

    with jax.enable_x64(True):
        at = random_like((jnp.zeros(5), jnp.zeros(10)), 0, jnp.float64)
        tangents = random_like(at, 1, jnp.float64)
        linear = jax.linearize(merge, *at)[1]
        short = folded(linear, *at)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-12),
            short(*tangents),
            linear(*tangents),
        )
        transposed = [jax.linear_transpose(f, *at)(linear(*tangents)) for f in (linear, short)]
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), *transposed)
        # The gate and the state for `kept`, both again times −2, two for the rest, the condition.
        assert len(jax.tree.leaves(short)) <= 7 < len(jax.tree.leaves(linear))


@pytest.mark.parametrize(("most", "products"), [(math.inf, 5), (240, 5), (200, 7), (100, 11)])
def test_products_that_are_added_up_are_one_in_parts(most, products):
    def step(carry, x):
        hidden, cell = carry
        z = x @ w + jnp.sin(2 * b)[None] + (2 * hidden) @ u
        twice = x @ w
        return (jnp.tanh(z) * cell[:, :1], jnp.cos(z)), (
            twice * twice + 1,
            hidden @ v + x @ w[:, :4],
        )

    with jax.enable_x64(True):
        w, u, v, b = random_like(
            (jnp.zeros((5, 8)), jnp.zeros((3, 8)), jnp.zeros((3, 4)), jnp.zeros(8)), 0, jnp.float64
        )
        at = random_like(
            ((jnp.zeros((6, 3)), jnp.zeros((6, 8))), jnp.zeros((6, 5))), 1, jnp.float64
        )
        parted = folded(step, *at, linear=False, most=most)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-12), parted(*at), step(*at)
        )
        assert str(jax.make_jaxpr(parted)(*at)).count("dot_general") == products


@pytest.mark.parametrize(("most", "products"), [(209, 2), (60, 4), (1, 7)])
def test_parts_may_be_of_two_widths_and_are_not_empty(most, products):
    matrix, x = random_like((jnp.zeros((5, 7)), jnp.zeros((6, 5))), 0, jnp.float32)
    parted = folded(lambda x: x @ matrix, x, linear=False, most=most)
    np.testing.assert_allclose(parted(x), x @ matrix, rtol=1e-5, atol=1e-6)
    assert str(jax.make_jaxpr(parted)(x)).count("dot_general") == products


def test_the_gradients_of_kernels_and_bias_are_one_product():
    def net(w, u, b, x):
        return x @ w + jnp.broadcast_to(b, (7, 2, 8)) + hidden @ u

    with jax.enable_x64(True):
        *at, hidden = random_like(
            (*map(jnp.zeros, ((5, 8), (3, 8), 8, (7, 2, 5))), jnp.zeros((7, 2, 3))), 0, jnp.float64
        )
        tangents = random_like(tuple(at), 1, jnp.float64)
        linear = jax.linearize(net, *at)[1]
        short = folded(linear, *at)
        equal = functools.partial(np.testing.assert_allclose, rtol=1e-12)
        jax.tree.map(equal, short(*tangents), linear(*tangents))
        turned = [jax.linear_transpose(f, *at) for f in (linear, short)]
        jax.tree.map(equal, *(turn(linear(*tangents)) for turn in turned))
        program = str(jax.make_jaxpr(turned[1])(linear(*tangents)))
    # One of all weights, one of the inputs, and no sum over rows beside them.
    assert program.count("dot_general") == 2
    assert "reduce_sum[axes=(0, 1)" not in program


def test_a_single_number_may_be_added_to_a_product():
    def net(w, number):
        return rows @ w + jax.lax.broadcast_in_dim(number, (7, 8), (1,))

    *at, rows = random_like((jnp.zeros((5, 8)), jnp.zeros(1), jnp.zeros((7, 5))), 0, jnp.float32)
    linear = jax.linearize(net, *at)[1]
    np.testing.assert_allclose(folded(linear, *at)(*at), linear(*at), rtol=1e-5)


def temporary(backend, length):
    """The bytes that a gradient takes while it runs."""
    cell = jl.lstm(input_size=8, hidden_size=32)
    params = cell.init(jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((4, length, 8), jnp.float32)

    def loss(params, inputs):
        return jnp.mean(jl.unroll(cell, params, inputs, backend=backend).carry.hidden ** 2)

    analysis = jax.jit(jax.grad(loss)).lower(params, inputs).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def test_it_keeps_carries_alone():
    assert temporary("fused", 10_000) < temporary("scan", 10_000) / 3


def test_auto_keeps_more_while_it_is_little():
    net = 4 * 4_000 * 4 * 32 * 4
    assert temporary("auto", 4_000) > temporary("fused", 4_000) + 0.9 * net
    assert temporary("auto", 10_000) == temporary("fused", 10_000)


def test_the_product_back_is_with_a_matrix_that_lies_row_by_row():
    cell = jl.lstm(input_size=8, hidden_size=32)
    params, inputs = cell.init(jax.random.key(0)), jnp.ones((4, 40, 8))
    gradient = jax.grad(lambda params: jnp.sum(jl.unroll(cell, params, inputs).outputs ** 2))
    program = jax.jit(gradient).lower(params).compile().as_text()
    back = [line for line in program.splitlines() if re.search(r"f32\[4,32\]\S* dot\(", line)]
    assert back
    assert all("rhs_contracting_dims={0}" in line for line in back), back


@pytest.mark.parametrize(
    ("cell", "options", "line"),
    [
        (jl.gru(input_size=3, hidden_size=4, reset_after=False), {}, "`backend` 'fused' needs"),
        (jl.indrnn(input_size=3, hidden_size=4), {}, "`backend` 'fused' needs"),
        (
            jl.stack(CELLS[0], jl.mgu(input_size=4, hidden_size=4)),
            {},
            r"`backend` 'fused' needs a cell whose step is split, got mgu\(",
        ),
        (CELLS[0], {"remat": "sqrt"}, "`remat` must be 'none' for `backend` 'fused'"),
    ],
)
def test_what_has_no_parts_is_refused(cell, options, line):
    params = cell.init(jax.random.key(0))
    with pytest.raises(ValueError, match=line):
        jl.unroll(cell, params, jnp.ones((2, 5, 3)), backend="fused", **options)


@pytest.mark.parametrize(
    "cell",
    [
        jl.residual(jl.lstmp(input_size=2, hidden_size=3, projection_size=2)),
        jl.residual(jl.stack(*[jl.lstm(input_size=2, hidden_size=2)] * 2)),
    ],
    ids=["projection", "stack"],
)
def test_what_is_residual_is_fused_within(cell):
    params = random_params(cell, dtype=float)
    inputs = jax.random.normal(jax.random.key(1), (2, 9, 2)).at[1, 5:].set(jnp.nan)

    def loss(params, backend):
        out = jl.unroll(cell, params, inputs, lengths=jnp.array([9, 5]), backend=backend)
        return jnp.sum(out.outputs**2)

    fused, scan = (jax.value_and_grad(loss)(params, name) for name in ("fused", "scan"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), fused, scan)
