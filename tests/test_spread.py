"""A batch over several devices gives what one device gives, derivatives too."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import random_params

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("x64", "compile_fast")

SOME = {
    "rnn": jl.rnn(input_size=3, hidden_size=4),
    "gru": jl.gru(input_size=3, hidden_size=4),
    "stack": jl.stack(jl.lstm(input_size=3, hidden_size=4), jl.lstm(input_size=4, hidden_size=2)),
    "bidirectional": jl.bidirectional(*[jl.lstm(input_size=3, hidden_size=4)] * 2),
    "one feature": jl.lstm(input_size=1, hidden_size=4),
    "video": jl.conv_lstm(input_shape=(3, 2, 1), filters=2),
    "masks": jl.recurrent_dropout(jl.gru(input_size=3, hidden_size=4), rate=0.5),
    "noise": jl.dropout(jl.lstm(input_size=3, hidden_size=4), rate=0.5),
}
KEY = jax.random.key(7)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def is_spread(a):
    return len(a.sharding.device_set) == 2 and not a.sharding.is_fully_replicated


def case(cell, rows, steps=7):
    inputs = jax.random.normal(jax.random.key(1), (rows, steps, *cell.input_shape), jnp.float64)
    options = {
        "lengths": jnp.arange(rows) % (steps + 1),
        "resets": jax.random.bernoulli(jax.random.key(2), 0.2, (rows, steps)),
    }
    return random_params(cell), inputs, options


def derivatives(cell, backend="auto", **options):
    key = KEY if cell.stochastic else None

    def loss(params, inputs):
        out = jl.unroll(cell, params, inputs, backend=backend, key=key, **options)
        floats = [a for a in jax.tree.leaves(out) if jnp.issubdtype(a.dtype, jnp.floating)]
        return sum(jnp.sum(jnp.sin((i + 1) * a)) for i, a in enumerate(floats)), out.outputs

    def both(params, inputs):
        found = jax.value_and_grad(loss, (0, 1), has_aux=True)
        ones = jax.tree.map(jnp.ones_like, (params, inputs))
        return found(params, inputs), jax.jvp(lambda *a: loss(*a)[0], (params, inputs), ones)

    return jax.jit(both)


@pytest.mark.parametrize("rows", [8, 5, 1])
@pytest.mark.parametrize("name", SOME)
def test_spread_equals_one_device(name, rows):
    cell = SOME[name]
    params, inputs, options = case(cell, rows)
    run = derivatives(cell, reverse=True, return_carries=True, **options)
    alone = run(params, inputs)
    with jl.spread():
        over = run(params, inputs)
    assert not is_spread(alone[0][0][1])
    assert is_spread(over[0][0][1]) == (name != "noise" and rows == 8)
    jax.tree.map(close, over, alone)


@pytest.mark.parametrize("backend", ["scan", "fused"])
def test_the_devices_do_not_wait_for_each_other_within_the_scan(backend):
    cell = jl.lstm(input_size=3, hidden_size=4)
    params, inputs, options = case(cell, 8, steps=40)
    run = derivatives(cell, backend, **options)
    with jl.spread():
        text = run.lower(params, inputs).compile().as_text()
        over = run(params, inputs)
    jax.tree.map(close, over, run(params, inputs))
    # Every exchange stands in the main computation, none in the body of a loop.
    before, main = text.split("\nENTRY ")
    assert "all-reduce" in main
    for word in ("all-reduce(", "all-gather(", "collective-permute(", "all-to-all("):
        assert word not in before


WIDE = {
    "lstm": (jl.lstm(input_size=5, hidden_size=6), 16),
    "one feature": (jl.lstm(input_size=1, hidden_size=6), 1 + 8),
    "relu": (jl.rnn(input_size=5, hidden_size=6, activation="relu"), 4),
    "gru": (jl.gru(input_size=5, hidden_size=6), 4 + 8),
    "variants": (
        jl.lstmp(input_size=5, hidden_size=6, projection_size=3, peepholes=True, dtype="float32"),
        5 + 3 + 1,
    ),
}


@pytest.mark.parametrize("name", WIDE)
def test_large_products_of_a_share_come_in_parts(name, monkeypatch):
    """So that XLA does not divide them among threads that the devices share.

    The two of an LSTM or a plain network become one before.
    """
    cell, products = WIDE[name]
    monkeypatch.setattr(sys.modules["jaxlstm.unroll.devices"], "PRODUCT", 100)
    params, inputs, options = case(cell, 8)

    def run(inputs):  # one of a new shape: not one that has been compiled
        return jl.unroll(cell, params, inputs, backend="auto", **options).outputs

    def slope(inputs):
        return jax.grad(lambda x: jnp.sum(run(x) ** 2))(inputs)

    alone, back = run(inputs), slope(inputs)
    with jl.spread():
        text = str(jax.make_jaxpr(run)(inputs))
        np.testing.assert_allclose(slope(inputs), back, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run(inputs), alone, rtol=1e-5, atol=1e-6)
        assert is_spread(run(inputs))
    assert not is_spread(alone)
    assert text.count("dot_general") == products
    with jl.spread(1):
        assert str(jax.make_jaxpr(run)(inputs)).count("dot_general") < products
    # Parameters that no cache holds come from memory whatever the product.
    monkeypatch.setattr(sys.modules["jaxlstm.unroll.devices"], "LARGEST", 0)
    with jl.spread():
        narrow = inputs.astype(jnp.bfloat16)  # a new type: not what has been compiled
        assert str(jax.make_jaxpr(run)(narrow)).count("dot_general") < products


def test_mapped_and_with_a_carry_and_time_major():
    cell = jl.lstm(input_size=3, hidden_size=4)
    params, inputs, _ = case(cell, 6)
    seeds = jnp.stack([inputs, 2 * inputs])
    carry = jl.LSTMCarry(*jax.random.normal(jax.random.key(3), (2, 6, 4), jnp.float64))

    def run(inputs):
        x = jnp.moveaxis(inputs, 1, 0)
        return jl.unroll(cell, params, x, carry=carry, time_major=True)

    alone = jax.vmap(run)(seeds)
    with jl.spread():
        jax.tree.map(close, jax.vmap(run)(seeds), alone)
        jax.tree.map(close, run(inputs), jax.tree.map(lambda a: a[0], alone))


def test_what_cannot_be_spread_is_left_alone():
    cell = jl.lstm(input_size=3, hidden_size=4)
    params, inputs, _ = case(cell, 2)
    with jl.spread():
        for x in (inputs[0], inputs[:1]):
            assert not is_spread(jl.unroll(cell, params, x).outputs)
        assert is_spread(jl.unroll(cell, params, inputs).outputs)
    with jl.spread(1):
        assert not is_spread(jl.unroll(cell, params, inputs).outputs)


def test_an_old_key_is_no_row_of_the_batch():
    cell = jl.dropout(jl.lstm(input_size=3, hidden_size=4), rate=0.5)
    params, inputs = cell.init(jax.random.key(0)), jnp.ones((2, 5, 3))
    with jl.spread(2):
        found = jl.unroll(cell, params, inputs, key=jax.random.PRNGKey(1)).outputs
    wanted = jl.unroll(cell, params, inputs, key=jax.random.key(1)).outputs
    np.testing.assert_array_equal(found, wanted)


def test_a_device_without_rows_does_nothing():
    cell = jl.lstm(input_size=3, hidden_size=4)
    params, inputs, _ = case(cell, 3)

    def branches(run, rows):
        return str(jax.make_jaxpr(run)(inputs[:rows])).count("cond[")

    def outputs(x):
        return jl.unroll(cell, params, x).outputs

    def slope(x):
        return jax.jvp(outputs, (x,), (x,))

    with jl.spread():
        assert [branches(slope, rows) for rows in (1, 2, 3)] == [1, 0, 0]
        # Forward all do the same, which takes as long, and none has to be told.
        assert [branches(outputs, rows) for rows in (1, 2, 3)] == [0, 0, 0]
        lowered = jax.jit(outputs).lower(inputs[:1])
        assert "all-reduce" not in lowered.compile().as_text()


def test_a_row_and_its_derivatives_mapped_and_of_second_order():
    cell = jl.lstm(input_size=3, hidden_size=4)
    params, inputs, _ = case(cell, 6)
    rows, lengths = inputs[:, None], jnp.arange(6)[:, None]

    def loss(params, x, length):
        return jnp.sum(jl.unroll(cell, params, x, lengths=length).outputs ** 2)

    def all_of(params):
        return jnp.sum(jnp.sin(jax.vmap(loss, (None, 0, 0))(params, rows, lengths)))

    def both():
        twice = jax.grad(lambda p: sum(jnp.sum(a**2) for a in jax.tree.leaves(jax.grad(all_of)(p))))
        return jax.jit(jax.grad(all_of))(params), jax.jit(twice)(params)

    alone = both()
    with jl.spread():
        jax.tree.map(close, both(), alone)


def test_a_mesh_of_ones_own():
    cell = jl.lstm(input_size=3, hidden_size=4)
    params, inputs, _ = case(cell, 4)
    mesh = jax.make_mesh((1, 2), ("model", "data"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    alone = jl.unroll(cell, params, inputs)
    with jax.set_mesh(mesh):
        over = jl.unroll(cell, params, inputs)
    assert is_spread(over.outputs)
    jax.tree.map(close, over, alone)


@pytest.mark.parametrize(
    ("devices", "kind", "line"),
    [
        (0, ValueError, "`devices` must be positive, got 0"),
        (1.5, TypeError, "`devices` must be an int, got 1.5"),
        (
            99,
            ValueError,
            "`devices` must be at most 2, the devices that JAX has begun with, got 99: enter "
            "`spread` before the first computation",
        ),
    ],
)
def test_mistakes(devices, kind, line):
    with pytest.raises(kind) as caught, jl.spread(devices):
        pass
    assert str(caught.value) == line


def alone(code, **more):
    """What Python prints of some code in a process of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **more}
    done = subprocess.run(
        [sys.executable, "-c", "import jax, jaxlstm as jl\n" + code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_a_cpu_has_a_device_for_each_core_where_jax_has_not_begun():
    assert alone("with jl.spread() as mesh: print(mesh.size)").strip() == str(
        len(os.sched_getaffinity(0))
    )
    late = alone("jax.devices()\nwith jl.spread() as mesh: print(mesh.size)")
    assert late.startswith("1\n")
    assert "because JAX had begun before: enter it before the first computation" in late
    assert alone("with jl.spread(3) as mesh: print(mesh.size)").strip() == "3"


def test_a_mesh_with_rows_for_some_and_weights_over_all():
    """Where XLA lets all devices exchange parts of the weights, none may do nothing."""
    printed = alone(
        """
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
cell = jl.lstm(input_size=3, hidden_size=8)
params, inputs = cell.init(jax.random.key(0)), jnp.ones((1, 5, 3))
slope = jax.grad(lambda params: jnp.sum(jl.unroll(cell, params, inputs).outputs ** 2))
mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
with jax.set_mesh(mesh):
    over = NamedSharding(mesh, PartitionSpec(None, "model"))
    shared = params._replace(
        kernel=jax.device_put(params.kernel, over),
        recurrent_kernel=jax.device_put(params.recurrent_kernel, over),
    )
    found = jax.device_get(jax.jit(slope)(shared))
close = jax.tree.map(lambda a, b: bool(jnp.allclose(a, b, 1e-4)), slope(params), found)
print(all(jax.tree.leaves(close)))
""",
        JAX_NUM_CPU_DEVICES="4",
    )
    assert printed == "True\n"
