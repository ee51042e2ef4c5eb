"""Properties of `unroll` that hold for any lengths, masks, resets, cuts and orders of rows."""

import functools

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import CELLS, random_carry, random_inputs, random_params
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jaxlstm as jl

B, T = 3, 5  # few shapes, so that little is compiled
CELL = CELLS["stack"]
properties = settings(max_examples=40, deadline=None, derandomize=True, database=None)

flags = hnp.arrays(bool, (B, T))
lengths = hnp.arrays(np.int32, B, elements=st.integers(0, T))
ways = st.booleans()


@pytest.fixture(autouse=True, scope="module")
def double_precision(compile_fast):
    with jax.enable_x64(True):
        yield


@functools.cache
def data():
    params = random_params(CELL)
    arrays = params, random_inputs(CELL, B, T), random_carry(CELL, params, B)
    return jax.device_get(arrays)


def run(inputs, **options):
    return jax.device_get(jl.unroll(CELL, data()[0], inputs, **options))


def close(a, b, tolerance=1e-12):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def take(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def valid_steps(lengths, mask):
    return mask & (np.arange(T) < lengths[:, None])


@properties
@given(lengths, flags, flags, ways, ways)
def test_any_mask_and_resets_equal_the_steps_by_hand(lengths, mask, resets, reverse, hold):
    params, inputs, carry = data()
    out = run(
        inputs,
        carry=carry,
        lengths=lengths,
        mask=mask,
        resets=resets,
        reverse=reverse,
        masked_outputs="hold" if hold else "zero",
        return_carries=True,
    )
    wanted = by_hand.batch(
        CELL, params, inputs, carry, lengths, mask, resets, reverse=reverse, hold=hold
    )
    close(tuple(out), wanted)


@properties
@given(st.integers(0, T), lengths, flags, ways)
def test_a_run_in_chunks_equals_the_whole(first, lengths, resets, reverse):
    _, inputs, carry = data()
    whole = run(inputs, carry=carry, lengths=lengths, resets=resets, reverse=reverse)
    parts = [
        (np.s_[:, :first], np.minimum(lengths, first)),
        (np.s_[:, first:], np.maximum(lengths - first, 0)),
    ]
    # In reverse a reset comes after its step, so one that opens the later chunk acts between them.
    outputs = [None, None]
    for i in (1, 0) if reverse else (0, 1):
        at, own = parts[i]
        chunk = run(inputs[at], carry=carry, lengths=own, resets=resets[at], reverse=reverse)
        outputs[i], carry = chunk.outputs, chunk.carry
        if reverse and i == 1 and 0 < first < T:
            fresh = jax.device_get(CELL.initial_carry(data()[0], (B,)))
            carry = jax.tree.map(
                lambda new, old: np.where(resets[:, first, None], new, old), fresh, carry
            )
    close(np.concatenate(outputs, axis=1), whole.outputs)
    close(carry, whole.carry)


@properties
@given(lengths, ways, st.sampled_from([0.0, 1e6, np.nan, np.inf]))
def test_padding_never_changes_what_is_valid(lengths, reverse, junk):
    inputs = data()[1]
    padded = np.where((np.arange(T) < lengths[:, None])[..., None], inputs, junk)
    out = run(padded, lengths=lengths, reverse=reverse)
    for row, length in enumerate(lengths):
        alone = run(inputs[row, :length], reverse=reverse)
        close(out.outputs[row, :length], alone.outputs)
        assert not out.outputs[row, length:].any()
        close(take(out.carry, row), alone.carry)


@properties
@given(flags, ways)
def test_masked_steps_may_be_left_out(mask, reverse):
    inputs = data()[1]
    out = run(inputs, mask=mask, reverse=reverse)
    for row in range(B):
        alone = run(inputs[row, mask[row]], reverse=reverse)
        close(out.outputs[row, mask[row]], alone.outputs)
        close(take(out.carry, row), alone.carry)


@properties
@given(st.permutations(range(B)), lengths, flags, flags, ways)
def test_rows_know_nothing_of_each_other(order, lengths, mask, resets, reverse):
    _, inputs, carry = data()
    given = {"carry": carry, "lengths": lengths, "mask": mask, "resets": resets}
    out = run(inputs, reverse=reverse, **given)
    moved = run(inputs[order], reverse=reverse, **take(given, order))
    close(tuple(moved)[:2], take(tuple(out)[:2], order))


@properties
@given(lengths, flags)
def test_reverse_is_forward_over_the_mirror(lengths, mask):
    inputs = data()[1]
    valid = valid_steps(lengths, mask)
    out = run(inputs, lengths=lengths, mask=mask, reverse=True)
    mirror = run(inputs[:, ::-1], mask=valid[:, ::-1])
    close(out.outputs, mirror.outputs[:, ::-1])
    close(out.carry, mirror.carry)


@functools.partial(jax.jit, static_argnames="reverse")
@functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
def loss(params, inputs, carry, lengths, mask, resets, *, reverse):
    out = jl.unroll(
        CELL,
        params,
        inputs,
        carry=carry,
        lengths=lengths,
        mask=mask,
        resets=resets,
        reverse=reverse,
        return_carries=True,
    )
    return sum(jnp.sin(leaf + 1.0).sum() for leaf in jax.tree.leaves(out))


@properties
@given(lengths, flags, flags, ways, st.sampled_from([np.nan, np.inf, -np.inf]))
def test_nan_in_masked_steps_reaches_nothing(lengths, mask, resets, reverse, junk):
    params, inputs, carry = data()
    valid = valid_steps(lengths, mask)[..., None]
    clean, dirty = (
        jax.device_get(
            loss(
                params,
                np.where(valid, inputs, filler),
                carry,
                lengths,
                mask,
                resets,
                reverse=reverse,
            )
        )
        for filler in (0.0, junk)
    )
    close(clean, dirty, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    assert not clean[1][1][~valid[..., 0]].any()


numbers = st.floats(-10, 10, allow_nan=False)


@properties
@given(
    st.fixed_dictionaries(
        {"input_size": st.integers(1, 99), "hidden_size": st.integers(1, 99)},
        optional={
            "activation": st.sampled_from(["tanh", "relu", "identity", "sigmoid"]),
            "use_bias": ways,
            "forget_bias": numbers,
            "coupled": ways,
            "peepholes": ways,
            "recurrent_init": st.builds(jl.initializers.orthogonal, scale=numbers, joint=ways),
            "param_dtype": st.sampled_from(["float32", "bfloat16", np.float16, jnp.float32]),
        },
    )
)
def test_any_lstm_can_be_described_printed_and_built_again(arguments):
    cell = jl.lstm(**arguments)
    again = jl.from_dict(jl.to_dict(cell))
    assert (again, hash(again), repr(again)) == (cell, hash(cell), repr(cell))
    assert eval(repr(cell), {"lstm": jl.lstm, **vars(jl.initializers)}) == cell
