"""The contract for sequences, for every cell of the table, in double precision."""

import contextlib
import functools
import sys

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import CELLS, CORE, random_carry, random_inputs, random_like, random_params
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("x64", "compile_fast")
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
core_cells = pytest.mark.parametrize("cell", CORE.values(), ids=CORE)
# What depends on the scan and hardly on the cell: the other cells when there is time.
core_cells_first = pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=name, marks=() if name in CORE else pytest.mark.slow)
        for name, cell in CELLS.items()
    ],
)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])

B, T = 4, 6
LENGTHS = np.array([6, 4, 0, 5])
MASK = np.array(
    [
        [1, 0, 1, 1, 0, 1],
        [0, 1, 1, 0, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 0, 0, 1, 0],
    ],
    bool,
)
RESETS = np.array(
    [
        [0, 1, 0, 1, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 1],
        [0, 0, 0, 0, 1, 1],
    ],
    bool,
)
VALID = MASK & (np.arange(T) < LENGTHS[:, None])


def run(cell, params, inputs, **options):
    """`unroll`, its results in NumPy."""
    return jax.device_get(jl.unroll(cell, params, inputs, **options))


def close(a, b, tolerance=1e-12):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_flatten_with_path(a)[0], jax.tree.leaves(b), strict=True
    ):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=where)


def equal(a, b):
    close(a, b, 0)


def take(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def join(a, b, axis=1):
    return jax.tree.map(lambda x, y: np.concatenate([x, y], axis), a, b)


def pooled(tree, seed=7):
    """A scalar to which every number of the tree contributes with a weight of its own."""
    numbers = np.random.default_rng(seed)
    return sum((leaf * numbers.normal(size=leaf.shape)).sum() for leaf in jax.tree.leaves(tree))


# The contract as a whole, against plain Python.


def check_by_hand(cell, reverse, masked_outputs, time_major):
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    carry = random_carry(cell, params, B)

    def swap(tree):
        return jax.tree.map(lambda a: np.swapaxes(a, 0, 1) if time_major else a, tree)

    out = run(
        cell,
        params,
        swap(inputs),
        carry=carry,
        lengths=LENGTHS,
        mask=swap(MASK),
        resets=swap(RESETS),
        reverse=reverse,
        time_major=time_major,
        masked_outputs=masked_outputs,
        return_carries=True,
    )
    hold = masked_outputs == "hold"
    outputs, last, carries = by_hand.batch(
        cell, params, inputs, carry, LENGTHS, MASK, RESETS, reverse=reverse, hold=hold
    )
    close(swap(out.outputs), outputs)
    close(out.carry, last)
    close(swap(out.carries), carries)


@pytest.mark.ability("mask")
@every_cell
def test_forward_equals_the_steps_by_hand(cell):
    check_by_hand(cell, reverse=False, masked_outputs="zero", time_major=False)


@pytest.mark.ability("reverse")
@every_cell
def test_reverse_equals_the_steps_by_hand(cell):
    check_by_hand(cell, reverse=True, masked_outputs="hold", time_major=True)


@core_cells
@both_ways
@pytest.mark.parametrize("time_major", [False, True], ids=["batch-major", "time-major"])
@pytest.mark.parametrize("masked_outputs", ["zero", "hold"])
def test_every_layout_equals_the_steps_by_hand(cell, reverse, masked_outputs, time_major):
    check_by_hand(cell, reverse, masked_outputs, time_major)


@pytest.mark.ability("streaming")
@every_cell
def test_steps_stream_what_unroll_gives(cell):
    params, inputs = random_params(cell), np.asarray(random_inputs(cell, B, T))
    step = jax.jit(cell.step)
    carry, outputs = cell.initial_carry(params, (B,)), []
    for t in range(T):
        carry, output = step(params, carry, inputs[:, t])
        outputs.append(output)
    out = run(cell, params, inputs)
    close(out.outputs, np.stack(outputs, axis=1))
    close(out.carry, carry)


# What is masked reaches nothing.


def check_poison(cell, reverse):
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    carry = random_carry(cell, params, B)
    where = VALID.reshape(*VALID.shape, *(1,) * len(cell.input_shape))
    poison = np.resize([np.nan, np.inf, -np.inf], inputs.shape)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def loss(params, inputs, carry):
        out = jl.unroll(
            cell,
            params,
            inputs,
            carry=carry,
            lengths=LENGTHS,
            mask=MASK,
            resets=RESETS,
            reverse=reverse,
            return_carries=True,
        )
        return pooled(out)

    clean = jax.device_get(loss(params, np.where(where, inputs, 0.0), carry))
    equal(loss(params, np.where(where, inputs, poison), carry), clean)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    at_inputs = clean[1][1].reshape(B, T, -1)
    assert (at_inputs[~VALID] == 0).all()
    assert (at_inputs[VALID] != 0).any(axis=-1).all()


@pytest.mark.ability("mask")
@every_cell
def test_nan_in_masked_steps_reaches_neither_values_nor_gradients(cell):
    check_poison(cell, reverse=False)


@core_cells_first
def test_nan_in_masked_steps_reaches_nothing_in_reverse(cell):
    check_poison(cell, reverse=True)


@core_cells
@both_ways
def test_padding_changes_no_parameter_gradient(cell, reverse):
    params, inputs = random_params(cell), random_inputs(cell, T)
    padded = np.concatenate([inputs, np.full_like(inputs[:3], np.nan)])

    @jax.jit
    @jax.grad
    def gradient(params, inputs, length):
        out = jl.unroll(cell, params, inputs, lengths=length, reverse=reverse)
        return (out.outputs**2).sum() + pooled(out.carry)

    close(gradient(params, padded, T), gradient(params, inputs, T))


# Nothing to do.


@pytest.mark.parametrize(
    "cell",
    [*CELLS.values(), jl.lstm(input_size=1, hidden_size=2)],
    ids=[*CELLS, "one-feature"],
)
def test_no_steps_return_the_carry_and_finite_gradients(cell):
    params, inputs = random_params(cell), random_inputs(cell, B, 0)
    carry = random_carry(cell, params, B)
    out = run(
        cell,
        params,
        inputs,
        carry=carry,
        lengths=np.zeros(B, int),
        resets=np.zeros((B, 0), bool),
        masked_outputs="hold",
        return_carries=True,
        include_initial=True,
        truncate=2,
        remat=2,
    )
    assert out.outputs.shape == (B, 0, *jl.output_shape(cell))
    equal(out.carry, carry)
    equal(take(out.carries, np.s_[:, 0]), carry)
    gradient = jax.grad(lambda p: pooled(jl.unroll(cell, p, inputs, reverse=True)))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(jax.jit(gradient)(params)))


@every_cell
def test_an_empty_batch_gives_an_empty_batch(cell):
    params, inputs = random_params(cell), random_inputs(cell, 0, T)
    out = run(cell, params, inputs, lengths=np.zeros(0, int), remat=2)
    assert out.outputs.shape == (0, T, *jl.output_shape(cell))
    assert all(leaf.shape[0] == 0 for leaf in jax.tree.leaves(out.carry))


def test_lengths_of_narrow_integers_do_not_wrap():
    cell = CELLS["rnn"]
    params, inputs = random_params(cell), random_inputs(cell, 1, 300)
    outputs = run(cell, params, inputs, lengths=np.array([100], np.int8)).outputs
    assert (outputs != 0).all(axis=-1).sum() == 100


# Packing and chunking.


@pytest.mark.ability("reset")
@core_cells_first
@both_ways
def test_packed_sequences_equal_the_separate_ones(cell, reverse):
    params, inputs, first = random_params(cell), random_inputs(cell, B, T), T // 2
    resets = np.zeros((B, T), bool)
    resets[:, first] = True
    options = {"reverse": reverse, "return_carries": True}
    packed = run(cell, params, inputs, resets=resets, **options)
    a = run(cell, params, np.asarray(inputs)[:, :first], **options)
    b = run(cell, params, np.asarray(inputs)[:, first:], **options)
    close(packed.outputs, join(a.outputs, b.outputs))
    close(packed.carries, join(a.carries, b.carries))
    close(packed.carry, (a if reverse else b).carry)


@core_cells_first
@both_ways
def test_chunks_that_hand_on_their_carry_equal_the_whole(cell, reverse):
    params, inputs, first = random_params(cell), random_inputs(cell, B, T), T // 2
    zeros = jax.device_get(cell.initial_carry(params, (B,)))
    whole = run(cell, params, inputs, carry=zeros, lengths=LENGTHS, reverse=reverse)
    parts = [
        (np.asarray(inputs)[:, :first], np.minimum(LENGTHS, first)),
        (np.asarray(inputs)[:, first:], np.maximum(LENGTHS - first, 0)),
    ]
    outs, carry = [], zeros
    for chunk, lengths in reversed(parts) if reverse else parts:
        outs.append(run(cell, params, chunk, carry=carry, lengths=lengths, reverse=reverse))
        carry = outs[-1].carry
    a, b = reversed(outs) if reverse else outs
    close(whole.outputs, join(a.outputs, b.outputs))
    close(whole.carry, carry)


@core_cells
@both_ways
def test_carries_can_be_run_on_from(cell, reverse):
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    carry, options = random_carry(cell, params, B), {"reverse": reverse, "return_carries": True}
    out = run(cell, params, inputs, carry=carry, include_initial=True, **options)
    assert {leaf.shape[1] for leaf in jax.tree.leaves(out.carries)} == {T + 1}
    equal(take(out.carries, np.s_[:, T if reverse else 0]), carry)
    equal(take(out.carries, np.s_[:, 0 if reverse else T]), out.carry)
    # The carry at index t is the one between step t − 1 and step t, in either direction.
    part = np.s_[:, :3] if reverse else np.s_[:, 3:]
    rest = run(
        cell, params, np.asarray(inputs)[part], carry=take(out.carries, np.s_[:, 3]), **options
    )
    close(rest.outputs, out.outputs[part])
    close(rest.carry, out.carry)


# Layouts.


@every_cell
def test_a_grid_of_rows_equals_the_rows(cell):
    params, inputs = random_params(cell), np.asarray(random_inputs(cell, B, T))

    def grid(a):
        return a.reshape(2, 2, *a.shape[1:])

    got = run(cell, params, grid(inputs), lengths=grid(LENGTHS))
    close(got, jax.tree.map(grid, run(cell, params, inputs, lengths=LENGTHS)))


@core_cells
@both_ways
def test_one_row_equals_its_place_in_the_batch(cell, reverse):
    params, inputs = random_params(cell), np.asarray(random_inputs(cell, B, T))
    ragged = {"lengths": LENGTHS, "mask": MASK, "resets": RESETS}
    options = {"reverse": reverse, "return_carries": True, "include_initial": True}
    batch = run(cell, params, inputs, **ragged, **options)
    row = {name: value[3] for name, value in ragged.items()}
    close(run(cell, params, inputs[3], **row, **options), take(batch, 3))


# Gradients through time: cut, or computed again.


@pytest.mark.ability("truncate")
@core_cells_first
@both_ways
def test_truncation_equals_chunks_whose_carry_is_cut(cell, reverse):
    params, inputs, every = random_params(cell), random_inputs(cell, B, T), 4

    def unrolled(params, inputs, **options):
        out = jl.unroll(cell, params, inputs, reverse=reverse, **options)
        return pooled((out.outputs, out.carry))

    def chunked(params, inputs):
        a, b = inputs[:, :every], inputs[:, every:]
        if reverse:
            a, b = inputs[:, T - every :], inputs[:, : T - every]
        a = jl.unroll(cell, params, a, reverse=reverse)
        cut = jax.tree.map(jax.lax.stop_gradient, a.carry)
        b = jl.unroll(cell, params, b, carry=cut, reverse=reverse)
        outputs = [b.outputs, a.outputs] if reverse else [a.outputs, b.outputs]
        return pooled((jnp.concatenate(outputs, axis=1), b.carry))

    @jax.jit
    def all_three(*arguments):
        truncated = functools.partial(unrolled, truncate=every)
        return [
            jax.value_and_grad(f, argnums=(0, 1))(*arguments)
            for f in (truncated, chunked, unrolled)
        ]

    got, wanted, full = jax.device_get(all_three(params, inputs))
    close(got, wanted)
    close(got[0], full[0])
    cut_off = jax.tree.map(lambda a, b: abs(a - b).max(), got[1], full[1])
    assert max(jax.tree.leaves(cut_off)) > 1e-3


def value_and_gradients(cell, **options):
    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def loss(params, inputs):
        out = jl.unroll(
            cell, params, inputs, lengths=LENGTHS, resets=RESETS, return_carries=True, **options
        )
        return pooled(out), out

    return jax.device_get(loss(random_params(cell), random_inputs(cell, B, T)))


@pytest.mark.ability("remat")
@core_cells_first
def test_computing_again_in_the_backward_pass_changes_no_number(cell):
    close(value_and_gradients(cell, remat="sqrt"), value_and_gradients(cell))


@pytest.mark.parametrize(
    "options",
    [
        {"remat": "chunk"},
        {"remat": 1},
        {"remat": 4},
        {"remat": 4, "reverse": True},
        {"remat": T},
        {"remat": T + 1},
        {"remat": 3, "unroll": 2, "truncate": 2},
        {"unroll": 4},
        {"unroll": T + 1},
        {"backend": "scan"},
    ],
    ids=str,
)
def test_how_it_is_run_changes_no_number(options):
    cell = CELLS["stack"]
    meaning = {name: options[name] for name in ("reverse", "truncate") if name in options}
    close(value_and_gradients(cell, **options), value_and_gradients(cell, **meaning))


@pytest.mark.usefixtures("fresh_programs")
@pytest.mark.parametrize(
    ("steps", "turn"), [(0, 8), (1, 8), (5, 5), (7, 7), (97, 8), (98, 7), (100, 10)]
)
def test_a_loop_on_a_gpu_does_several_steps_in_one_turn(steps, turn, monkeypatch):
    cell, lengths = CELLS["lstm"], np.arange(B) * steps // B
    params, inputs = random_params(cell), random_inputs(cell, B, steps)

    def loss(params, inputs, **options):
        out = jl.unroll(cell, params, inputs, lengths=lengths, **options)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(out))

    def program(**options):
        return str(jax.make_jaxpr(functools.partial(loss, **options))(params, inputs))

    gradient = jax.value_and_grad(loss, (0, 1))
    wanted = gradient(params, inputs, backend="scan")
    assert "unroll=1\n" in program()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.clear_caches()
    assert f"unroll={turn}\n" in program()
    assert "unroll=3\n" in program(unroll=3)
    close(gradient(params, inputs), wanted, 1e-10)


def test_computing_again_stores_less_for_the_backward_pass():
    cell, steps = CELLS["lstm"], 400
    params, inputs = random_params(cell), random_inputs(cell, steps)

    def stored(remat):
        def loss(params, inputs):
            out = jl.unroll(cell, params, inputs, remat=remat, backend="scan")
            return (out.carry.hidden**2).sum()

        compiled = jax.jit(jax.grad(loss)).lower(params, inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert stored("sqrt") < stored("none") / 4


# Transformations of JAX.


@every_cell
def test_derivatives_in_both_modes_equal_differences(cell):
    params, inputs = random_params(cell), random_inputs(cell, 2, 3)
    point = params, inputs, random_carry(cell, params, 2)
    direction, epsilon = random_like(point, 5), 1e-6

    @jax.jit
    def along(point, direction):
        def loss(point):
            params, inputs, carry = point
            return pooled(jl.unroll(cell, params, inputs, carry=carry, lengths=np.array([3, 2])))

        def at(shift):
            return loss(jax.tree.map(lambda p, d: p + shift * d, point, direction))

        _, forward = jax.jvp(loss, (point,), (direction,))
        products = jax.tree.map(lambda g, d: (g * d).sum(), jax.grad(loss)(point), direction)
        difference = (at(epsilon) - at(-epsilon)) / (2 * epsilon)
        return forward, sum(jax.tree.leaves(products)), difference

    forward, backward, difference = along(point, direction)
    close(forward, backward)
    close(forward, difference, 1e-7)


@core_cells
def test_derivatives_in_both_modes(cell):
    params, inputs = random_params(cell), random_inputs(cell, 2, 3)

    @jax.jit
    def outputs(params, inputs):
        return jl.unroll(cell, params, inputs, lengths=np.array([3, 2]), reverse=True).outputs

    arguments = params, inputs
    check_grads(outputs, arguments, order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@core_cells_first
def test_second_derivatives_in_both_modes(cell):
    params, inputs = random_params(cell), random_inputs(cell, 2, 3)

    @jax.jit
    def outputs(params, inputs):
        return jl.unroll(cell, params, inputs, lengths=np.array([3, 2])).outputs

    check_grads(outputs, (params, inputs), order=2, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5)


@core_cells_first
def test_vmap_over_everything_equals_a_loop(cell):
    rows = [random_params(cell, seed) for seed in (0, 1)]
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    inputs, lengths = random_inputs(cell, 2, B, T), np.stack([LENGTHS, LENGTHS[::-1]])

    @jax.jit
    def outputs(params, inputs, lengths):
        return tuple(jl.unroll(cell, params, inputs, lengths=lengths, reverse=True))

    def measure(params, inputs, lengths):
        found = outputs(params, inputs, lengths)
        return pooled(found), found

    def loss(params, inputs, lengths):
        each, found = jax.vmap(measure)(params, inputs, lengths)
        return jnp.sum(each), found

    together = jax.jit(jax.grad(loss, has_aux=True))(params, inputs, lengths)
    slope = jax.jit(jax.grad(measure, has_aux=True))
    for i in range(2):
        close(take(together, i), slope(rows[i], np.asarray(inputs)[i], lengths[i]))


def test_hessian_checkpoint_and_nested_jit_agree():
    cell = CELLS["lstm"]
    params, inputs = random_params(cell), random_inputs(cell, T)
    kernel = params.recurrent_kernel
    direction = random_like(kernel, 3)

    def loss(kernel):
        weights = params._replace(recurrent_kernel=kernel)
        return pooled(jl.unroll(cell, weights, inputs, lengths=np.array(5)).carry)

    @jax.jit
    def derivatives(kernel, direction):
        hessian = jax.hessian(loss)(kernel).reshape(kernel.size, kernel.size)
        gradient, along = jax.jvp(jax.grad(loss), (kernel,), (direction,))
        others = [jax.grad(wrap(loss))(kernel) for wrap in (jax.checkpoint, jax.jit)]
        return hessian, gradient, along, others

    hessian, gradient, along, others = jax.device_get(derivatives(kernel, direction))
    close(hessian, hessian.T)
    close((hessian @ np.ravel(direction)).reshape(kernel.shape), along)
    close(others, [gradient, gradient])


def sharded(f, *in_specs):
    if len(jax.devices()) < 2:
        pytest.skip("one device only")
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("batch")
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=rows))


@core_cells_first
def test_shard_map_over_the_batch_equals_one_device(cell):
    params, inputs = random_params(cell), random_inputs(cell, B, T)
    rows, same = PartitionSpec("batch"), PartitionSpec()

    def outputs(params, inputs, lengths, mask, resets):
        out = jl.unroll(
            cell,
            params,
            inputs,
            lengths=lengths,
            mask=mask,
            resets=resets,
            masked_outputs="hold",
        )
        return out.outputs, out.carry

    arguments = params, inputs, LENGTHS, MASK, RESETS
    got = sharded(outputs, same, rows, rows, rows, rows)(*arguments)
    close(got, jax.jit(outputs)(*arguments))


def test_shard_map_with_ragged_rows_over_inputs_that_the_devices_share():
    cell = CELLS["lstm"]
    params, inputs = random_params(cell), random_inputs(cell, 2, T)
    rows, same = PartitionSpec("batch"), PartitionSpec()

    def outputs(params, inputs, lengths, mask):
        out = jl.unroll(cell, params, inputs, lengths=lengths, mask=mask, masked_outputs="hold")
        return out.outputs

    got = sharded(outputs, same, same, rows, rows)(params, inputs, LENGTHS, MASK)
    close(got, outputs(params, np.concatenate([inputs, inputs]), LENGTHS, MASK))


@pytest.mark.parametrize("name", ["gru", "min-gru", "slstm", "layer-norm-lstm"])
def test_gradients_of_outputs_that_are_held_within_shard_map(name):
    """What these give at a step varies by another array than their carry at first."""
    cell = CELLS[name]
    params, inputs = random_params(cell), random_inputs(cell, B, T)

    def outputs(params, inputs, lengths):
        return jl.unroll(cell, params, inputs, lengths=lengths, masked_outputs="hold").outputs

    rows = PartitionSpec("batch")
    spread = sharded(outputs, PartitionSpec(), rows, rows)
    found, wanted = (
        jax.grad(lambda params, of=of: jnp.sum(of(params, inputs, LENGTHS) ** 2))(params)
        for of in (spread, outputs)
    )
    close(found, wanted)


# Compilation and precision.


def test_a_call_compiles_once_per_shape():
    traced, inner = [], CELLS["lstm"]

    @jl.described
    def counting():
        def step(params, carry, x):
            traced.append(x.shape)
            return inner.step(params, carry, x)

        return jl.Cell(inner.init, inner.initial_carry, step, inner.input_shape)

    params = random_params(inner)

    def traces(*leading, **options):
        before = len(traced)
        inputs = random_inputs(inner, *leading, seed=before)
        jl.unroll(counting(), params, inputs, **options)  # an equal cell, not the same one
        return len(traced) - before

    assert traces(B, T, lengths=LENGTHS) > 0
    assert traces(B, T, lengths=LENGTHS // 2) == 0
    assert traces(B, T, lengths=list(LENGTHS)) == 0
    assert traces(B, T + 1, lengths=LENGTHS) > 0

    inside = jax.jit(lambda params, inputs: jl.unroll(counting(), params, inputs).outputs)
    inside(params, random_inputs(inner, B, T))
    before = len(traced)
    inside(params, random_inputs(inner, B, T, seed=3))
    assert len(traced) == before


def test_a_cell_is_a_static_argument_of_jit():
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def outputs(cell, params, inputs):
        traced.append(cell)
        return jl.unroll(cell, params, inputs).outputs

    for _ in range(2):
        cell = jl.lstm(input_size=3, hidden_size=4)
        outputs(cell, random_params(cell), random_inputs(cell, B, T))
    assert len(traced) == 1


def test_half_precision_compute_remembers_in_single():
    half = jl.lstm(input_size=3, hidden_size=4, dtype="bfloat16")
    params = random_params(half, dtype="float32")
    inputs = random_inputs(half, B, T, dtype="float32")

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def loss(params):
        out = jl.unroll(half, params, inputs, lengths=LENGTHS, return_carries=True)
        return out.outputs.astype("float32").sum(), out

    gradient, out = loss(params)
    assert out.outputs.dtype == out.carry.hidden.dtype == jnp.bfloat16
    assert out.carry.cell.dtype == out.carries.cell.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    exact = run(CELLS["lstm"], params, inputs, lengths=LENGTHS).outputs
    assert 0 < abs(np.asarray(out.outputs, "float32") - exact).max() < 0.05


def test_a_memory_in_single_precision_keeps_what_half_precision_forgets():
    # One unit that adds 1/512 at every step behind open gates: bfloat16 has 8 bits.
    unit = {"input_size": 1, "hidden_size": 1, "activation": "identity", "dtype": "bfloat16"}
    params = jl.LSTMParams(
        kernel=np.array([[0.0, 0.0, 1.0, 0.0]], "float32"),
        recurrent_kernel=np.zeros((1, 4), "float32"),
        bias=np.array([50.0, 50.0, 0.0, 50.0], "float32"),
    )
    inputs = np.full((1024, 1), 1 / 512, "float32")
    assert run(jl.lstm(**unit), params, inputs).carry.cell == 2.0
    narrow = run(jl.lstm(**unit, cell_dtype="bfloat16"), params, inputs)
    assert narrow.carry.cell.astype("float32") < 1.0


@pytest.mark.parametrize("backend", ["scan", "fused"])
def test_gradients_of_half_parameters_are_added_up_in_single_precision(backend, monkeypatch):
    """So many equal parts: bfloat16 has 8 bits, and stops after 256 steps, or as many chunks."""
    steps, unit = 1 << 12, {"input_size": 1, "hidden_size": 1, "activation": "identity"}
    monkeypatch.setattr(sys.modules["jaxlstm.unroll.fused"], "LONG", 8)
    cell = jl.rnn(**unit, param_dtype="bfloat16")
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))

    def mean(params):
        inputs = jnp.zeros((steps, 1), "bfloat16")
        return jl.unroll(cell, params, inputs, backend=backend).outputs.astype("float32").mean()

    gradient = jax.jit(jax.grad(mean))(params).bias
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype("float32"), 1, rtol=1e-2)


@pytest.mark.parametrize("given", ["bfloat16", "float16", "float64"])
def test_inputs_of_any_floating_type_are_computed_in_the_type_of_the_parameters(given):
    cell = CELLS["lstm"]
    params = random_params(cell, dtype="float32")
    out = run(cell, params, random_inputs(cell, B, T, dtype=given), lengths=LENGTHS)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype("float32")}


@pytest.mark.parametrize("given", ["float64", "int32", "bfloat16"])
def test_a_carry_of_another_type_is_taken_in_the_type_of_the_cell(given):
    cell = CELLS["lstm"]
    params = random_params(cell, dtype="float32")
    inputs = random_inputs(cell, B, T, dtype="float32")
    ones = np.ones((B, 4))
    out = run(cell, params, inputs, carry=jl.LSTMCarry(ones.astype(jnp.dtype(given)), ones))
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype("float32")}
    ones = jl.LSTMCarry(ones.astype("float32"), ones.astype("float32"))
    equal(out, run(cell, params, inputs, carry=ones))


def test_lists_and_numpy_are_inputs():
    cell = CELLS["rnn"]
    params, inputs = random_params(cell), [[1.0, 2.0, 3.0]]
    equal(
        run(cell, params, inputs, lengths=1, mask=[True]),
        run(cell, params, np.array(inputs), lengths=np.array(1), mask=np.array([True])),
    )


EXPLICIT = [
    (jl.lstm(input_size=3, hidden_size=4), ["auto", "fused", "newton"]),
    (jl.gru(input_size=3, hidden_size=4), ["auto", "quasi-newton"]),
    (jl.min_gru(input_size=3, hidden_size=4), ["auto", "associative"]),
    (jl.mlstm(input_size=3, hidden_size=4), ["auto"]),
    (jl.recurrent_dropout(jl.lstm(input_size=3, hidden_size=4), rate=0.5), ["auto", "scan"]),
    (
        jl.stack(jl.lstm(input_size=3, hidden_size=4), jl.rnn(input_size=4, hidden_size=4)),
        ["auto"],
    ),
]


def explicit_mesh(**axes):
    kinds = (jax.sharding.AxisType.Explicit,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds)


@pytest.mark.parametrize(
    ("cell", "backend"), [(cell, each) for cell, backends in EXPLICIT for each in backends]
)
def test_inputs_may_lie_on_the_explicit_axes_of_a_mesh(cell, backend):
    # 6 steps: of 5 an associative scan leaves arrays of size 0, at which JAX 0.11 crashes here.
    params, inputs = cell.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (8, 6, 3))
    lengths = jnp.array([0, 6, 3, 1, 2, 5, 4, 6])
    key = jax.random.key(2) if cell.stochastic else None
    options = {"backend": backend, "key": key}

    @functools.partial(jax.grad, has_aux=True)
    def gradient(params, inputs, lengths):
        out = jl.unroll(cell, params, inputs, lengths=lengths, **options)
        return jnp.sum(out.outputs**2), (out.outputs, out.carry)

    wanted = gradient(params, inputs, lengths)
    with jax.set_mesh(explicit_mesh(data=2)):
        laid = [jax.device_put(a, PartitionSpec("data")) for a in (inputs, lengths)]
        found = jax.jit(gradient)(jax.device_put(params, PartitionSpec()), *laid)
    leaves = jax.tree.leaves(found)
    rows = [leaf for leaf in leaves[len(jax.tree.leaves(params)) :] if leaf.shape[:1] == (8,)]
    assert rows
    for leaf in rows:
        assert leaf.sharding.spec[0] == "data"
    for a, b in zip(leaves, jax.tree.leaves(wanted), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_on_explicit_axes_a_batch_is_spread_and_its_gradient_the_fast_one():
    cell, inputs = jl.lstm(input_size=3, hidden_size=4), jnp.ones((2, 300, 3))
    params = cell.init(jax.random.key(0))

    @jax.jit
    @jax.grad
    def gradient(params, inputs):
        return jnp.sum(jl.unroll(cell, params, inputs).outputs ** 2)

    def programs(context, inputs):
        with context:
            return gradient.lower(params, inputs).compile().as_text().count(" while(")

    laid = jax.device_put(inputs, NamedSharding(explicit_mesh(data=2), PartitionSpec("data")))
    alone, spread = contextlib.nullcontext(), jl.spread(2)
    assert programs(alone, laid) == programs(spread, inputs) == 3


def test_columns_of_parameters_may_lie_on_another_axis_and_steps_on_none():
    cell = jl.lstm(input_size=3, hidden_size=4)
    params, inputs = cell.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 5, 3))
    run = functools.partial(jl.unroll, cell, return_carries=True, include_initial=True)
    with jax.set_mesh(explicit_mesh(steps=1, hidden=2)):
        columns = lambda a: PartitionSpec(*[None] * (a.ndim - 1), "hidden")  # noqa: E731
        laid = jax.tree.map(lambda a: jax.device_put(a, columns(a)), params)
        found = run(laid, jax.device_put(inputs, PartitionSpec(None, "steps")))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(run(params, inputs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_parameters_need_not_lie_on_the_mesh_of_the_inputs():
    cell = jl.conv_lstm(input_shape=(3, 1), filters=2, param_dtype="bfloat16")
    params, inputs = cell.init(jax.random.key(0)), jnp.ones((2, 4, 3, 1), "bfloat16")

    def loss(params, inputs):
        return jnp.sum(jl.unroll(cell, params, inputs).outputs.astype("float32"))

    wanted = jax.grad(loss)(params, inputs)
    with jax.set_mesh(explicit_mesh(data=1)):
        found = jax.grad(loss)(params, jax.device_put(inputs, PartitionSpec("data")))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("shape", ["b, 7, 3", "2, t, 3"])
def test_a_size_may_be_left_open_to_an_exported_function(shape):
    cell = jl.lstm(input_size=3, hidden_size=4)
    params = cell.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (2, 7, 3), "float32")
    open_ = jax.export.symbolic_shape(shape)

    def run(inputs):
        return jax.value_and_grad(lambda p: jl.unroll(cell, p, inputs).outputs.sum())(params)[1]

    made = jax.export.export(jax.jit(lambda x: jax.tree.leaves(run(x))))
    found = made(jax.ShapeDtypeStruct(open_, "float32")).call(inputs)
    for a, b in zip(found, jax.tree.leaves(run(inputs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_an_exported_function_of_parameters_and_carries_can_be_written_down():
    cell = jl.bidirectional(
        jl.lstm(input_size=3, hidden_size=4), jl.gru(input_size=3, hidden_size=4)
    )
    params, inputs = cell.init(jax.random.key(0)), jnp.ones((2, 5, 3), "float32")
    run = jax.jit(functools.partial(jl.unroll, cell))
    written = jax.export.export(run)(params, inputs).serialize()
    found, wanted = jax.export.deserialize(written).call(params, inputs), run(params, inputs)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
