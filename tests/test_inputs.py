"""Every wrong shape, type, rank or value of every argument of `unroll`, for all cells and backends.

Nothing is computed: what is wrong must be refused while tracing, and what is right be traced.
"""

import functools
import re

import jax
import numpy as np
import pytest
from cells_table import CELLS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxlstm as jl
from jaxlstm.unroll.engine import BACKENDS

pytestmark = pytest.mark.promise
PARALLEL = ("associative", "chunked", "newton", "quasi-newton")
count = st.integers(0, 3)
flag = st.booleans()


def shaped(shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


@functools.cache
def params_of(name):
    return jax.eval_shape(CELLS[name].init, jax.random.key(0))


def carry_of(name, batch):
    return jax.eval_shape(lambda p: CELLS[name].initial_carry(p, batch), params_of(name))


def traced(name, arguments, options):
    """Trace `unroll`; arrays of shapes alone come in as arguments, all else as it is."""
    whole = {**arguments, **options}
    leaves, tree = jax.tree.flatten(whole, is_leaf=lambda leaf: leaf is None)
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]

    def call(*arrays):
        filled = list(leaves)
        for index, array in zip(at, arrays, strict=True):
            filled[index] = array
        given = jax.tree.unflatten(tree, filled)
        out = jl.unroll(CELLS[name], given.pop("params"), given.pop("inputs"), **given)
        return out.outputs, out.carry

    return jax.eval_shape(call, *(leaves[i] for i in at))


@st.composite
def calls(draw):
    """A call of `unroll` without a mistake: cell, arguments, options, batch shape and steps."""
    name, backend = draw(st.sampled_from(sorted(CELLS))), draw(st.sampled_from(BACKENDS))
    batch, steps = tuple(draw(st.lists(count, max_size=2))), draw(st.integers(0, 4))
    major = draw(flag)
    time = (steps, *batch) if major else (*batch, steps)
    inputs = shaped((*time, *CELLS[name].input_shape))
    options = {"backend": backend, "time_major": major, "reverse": draw(flag)}
    for flags in ("mask", "resets"):
        if draw(flag):
            options[flags] = shaped(time, bool)
    if draw(flag):
        lengths = draw(st.lists(st.integers(0, steps), min_size=2, max_size=2))
        options["lengths"] = np.resize(np.array(lengths, "int32"), batch)
    if draw(flag):
        options["carry"] = carry_of(name, batch)
    if backend not in PARALLEL and draw(flag):
        options |= {"truncate": 2, "masked_outputs": "hold"}
    return name, {"params": params_of(name), "inputs": inputs}, options, batch, time


def changed_leaf(tree, draw, change):
    leaves, structure = jax.tree.flatten(tree)
    index = draw(st.integers(0, len(leaves) - 1))
    leaves[index] = change(leaves[index])
    return jax.tree.unflatten(structure, leaves)


LEAVES = [
    lambda leaf: shaped((*leaf.shape, 7), leaf.dtype),
    lambda leaf: shaped(tuple(n + 1 for n in leaf.shape) or (2,), leaf.dtype),
    lambda leaf: shaped(leaf.shape, "complex64"),
    lambda leaf: "a word",
    lambda leaf: None,
    lambda leaf: [leaf],
]
ARRAYS = ["a word", object(), {"a": 1}, [[1.0], [1.0, 2.0]]]
OPTIONS = {
    "reverse": ["no", 1, None],
    "time_major": ["no", 1],
    "return_carries": [1, "yes"],
    "include_initial": [True, 0],
    "truncate": [0, -1, True, 1.5, "2"],
    "remat": ["log", 0, -3, True, 2.5],
    "unroll": [0, -1, True, 1.5],
    "masked_outputs": ["last", 0, None],
    "backend": ["cuda", 0, None],
    "key": [0, "seed", np.zeros(3, "float32")],
}


@st.composite
def mistakes(draw):
    """A call with one mistake, and the argument that it is in."""
    name, arguments, options, batch, time = draw(calls())
    inputs = arguments["inputs"]
    where = draw(
        st.sampled_from(["params", "inputs", "carry", "mask", "resets", "lengths", *OPTIONS])
    )
    wrong: object
    if where in OPTIONS:
        wrong = draw(st.sampled_from(OPTIONS[where]))
        if where == "include_initial":
            options.pop("return_carries", None)
    elif where in ("params", "carry"):
        right = arguments["params"] if where == "params" else carry_of(name, batch)
        one = st.just(lambda: changed_leaf(right, draw, draw(st.sampled_from(LEAVES))))
        odd = st.sampled_from([lambda: (right, right), lambda: "a word", lambda: shaped((2, 2))])
        wrong = draw(one | odd)()
    elif where == "inputs":
        wrong = draw(
            st.sampled_from([
                shaped((*inputs.shape[:-1], inputs.shape[-1] + 1)),
                shaped(inputs.shape[-len(CELLS[name].input_shape) :]),
                *(shaped(inputs.shape, dtype) for dtype in ("int32", "bool", "complex64")),
                *ARRAYS,
                None,
            ])
        )  # fmt: skip
    elif where == "lengths":
        wrong = draw(
            st.sampled_from([
                shaped(batch, "float32"),
                shaped(batch, "bool"),
                shaped((*batch, 2), "int32"),
                np.full(batch or (), max(time) + 9, "int32"),
                np.full(batch or (), -1, "int32"),
                *ARRAYS,
            ])
        )  # fmt: skip
        if isinstance(wrong, np.ndarray) and wrong.size == 0:
            wrong = shaped((*batch, 2), "int32")  # no row, no wrong value
    else:
        wrong = draw(
            st.sampled_from([
                shaped(time, "int32"),
                shaped(time, "float32"),
                shaped((*time, 2), "bool"),
                shaped(tuple(n + 1 for n in time), "bool"),
                *ARRAYS,
            ])
        )  # fmt: skip
    if where in arguments:
        arguments[where] = wrong
    else:
        options[where] = wrong
    return name, arguments, options, where


def examples(number):
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


NAMED = re.compile(r"`([a-z_]+)[\w.\[\]']*`")


def hold_a_mistake(mistake):
    name, arguments, options, where = mistake
    with pytest.raises((ValueError, TypeError)) as caught:
        traced(name, arguments, options)
    said = str(caught.value)
    named = NAMED.match(said)
    assert named, (where, said)
    assert "\n" not in said
    # A backend that cannot take the call at all may say that first.
    allowed = {where, "backend", "cell"} | ({"truncate", "masked_outputs"} & set(options))
    assert named[1] in allowed or f"`{where}`" in said, (where, said)


def hold_a_call(call):
    name, arguments, options, batch, time = call
    backend = options["backend"]
    try:
        outputs, carry = traced(name, arguments, options)
    except ValueError as error:
        said = str(error)
    else:
        said = ""
    if said:  # a backend that cannot take this cell, or these options, says so
        assert backend not in ("auto", "scan"), said
        assert NAMED.match(said), said
        assert "\n" not in said
        return
    wanted = jl.output_shape(CELLS[name])
    assert outputs.shape == (*time, *wanted)
    assert jax.tree.map(lambda leaf: leaf.shape, carry) == jax.tree.map(
        lambda leaf: leaf.shape, carry_of(name, batch)
    )


@pytest.mark.parametrize(
    "number", [60, pytest.param(4000, marks=pytest.mark.slow)], ids=["short", "whole"]
)
def test_a_mistake_in_any_argument_is_named_while_tracing(number, seen):
    examples(number)(given(mistakes())(hold_a_mistake))()
    seen("input", "mistakes named", number)


@pytest.mark.parametrize(
    "number", [20, pytest.param(1000, marks=pytest.mark.slow)], ids=["short", "whole"]
)
def test_any_call_without_a_mistake_is_traced_with_its_shapes(number, seen):
    examples(number)(given(calls())(hold_a_call))()
    seen("input", "calls without one traced", number)
