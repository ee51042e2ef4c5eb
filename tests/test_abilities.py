"""What every cell gets for nothing: combinators, half precision, the Flax face, gradient flow."""

import functools
import re
from pathlib import Path

import abilities
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import CELLS, HALF, random_inputs, random_params, within
from flax import nnx

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("x64", "compile_fast")
close = within(1e-10)


every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
B, T = 3, 5
RAGGED = {
    "lengths": np.array([5, 3, 0]),
    "resets": np.array([[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool),
}


@pytest.mark.ability("bidirectional")
@every_cell
def test_every_cell_runs_in_both_directions(cell):
    both = jl.bidirectional(cell, cell, merge="sum")
    params, inputs = random_params(both), random_inputs(cell, B, T)
    found = jl.unroll(both, params, inputs, **RAGGED)
    a = jl.unroll(cell, params.forward, inputs, **RAGGED)
    b = jl.unroll(cell, params.backward, inputs, reverse=True, **RAGGED)
    close(found.outputs, a.outputs + b.outputs)
    close(found.carry, jl.Bidirectional(a.carry, b.carry))


@pytest.mark.ability("stack")
@every_cell
def test_every_cell_can_stand_on_another_and_below_one(cell):
    @jl.described
    def doubled():
        return jl.Cell(
            init=lambda key: jnp.zeros(()),
            initial_carry=lambda params, batch_shape=(): jnp.zeros(batch_shape),
            step=lambda params, carry, x: (carry, params * x),
            input_shape=cell.input_shape,
        )

    deep = jl.stack(doubled(), cell)
    if jl.output_shape(cell) == cell.input_shape:
        deep = jl.stack(deep, cell)
    params, inputs = random_params(deep), random_inputs(cell, B, T)
    found = jl.unroll(deep, params, inputs, **RAGGED)
    lower = params if len(params) == 2 and not isinstance(params[0], tuple) else params[0]
    below = jl.unroll(cell, lower[1], lower[0] * inputs, **RAGGED)
    if lower is not params:
        below = jl.unroll(cell, params[1], below.outputs, **RAGGED)
    close(found.outputs, below.outputs)


@pytest.mark.ability("bf16")
@pytest.mark.parametrize("cell", HALF.values(), ids=HALF)
def test_every_cell_computes_in_half_precision_and_remembers_in_single(cell):
    full = CELLS[abilities.name_of(cell)]
    params = random_params(cell, dtype="float32")
    inputs = random_inputs(cell, B, T, dtype="float32")
    half = jl.unroll(cell, params, inputs, lengths=RAGGED["lengths"])
    exact = jl.unroll(full, params, inputs, lengths=RAGGED["lengths"]).outputs
    assert half.outputs.dtype == jnp.bfloat16
    for path, leaf in jax.tree_util.tree_leaves_with_path(half.carry):
        name = getattr(path[-1], "name", "")
        assert leaf.dtype == (jnp.float32 if name == "cell" else leaf.dtype), name
    off = np.abs(np.asarray(half.outputs, "float32") - np.asarray(exact)).max()
    assert 0 < off < 0.05 * max(1.0, float(jnp.abs(exact).max()))


@pytest.mark.ability("layer")
@every_cell
def test_every_cell_is_a_layer(cell):
    layer = jl.nn.RNN(cell, return_sequences=True, rngs=nnx.Rngs(0))
    inputs = random_inputs(cell, B, T, dtype="float32")
    found = layer(inputs, lengths=RAGGED["lengths"])
    options = {"lengths": RAGGED["lengths"], "masked_outputs": "hold"}
    close(found, jl.unroll(cell, layer.params, inputs, **options).outputs, 1e-6)

    @jax.jit
    @jax.grad
    def gradient(layer):
        return (layer(inputs) ** 2).sum()

    found = jax.tree.leaves(gradient(layer).params)
    assert all(np.isfinite(leaf).all() for leaf in found)
    assert any(abs(leaf).max() > 0 for leaf in found)


@pytest.mark.ability("flow")
@every_cell
def test_gradients_flow_through_every_cell(cell):
    params, inputs = random_params(cell), random_inputs(cell, B, T)

    def loss(outputs):
        return (outputs[:, -1] ** 2).sum()

    norms = jl.gradients.flow(cell, params, inputs, loss).norms
    leaves = jax.tree.leaves(norms)
    assert all(leaf.shape == (B, T) and np.isfinite(leaf).all() for leaf in leaves)

    def of_carry(carry):
        return loss(jl.unroll(cell, params, inputs[:, -1:], carry=carry).outputs)

    # The gradient at the carry before the last step, by another way: at the part of it that no
    # other part is made from within a step, since `flow` gives total derivatives.
    last = jl.unroll(cell, params, inputs[:, :-1]).carry
    wanted = jax.tree_util.tree_leaves_with_path(jax.grad(of_carry)(last))
    names = [getattr(path[-1], "name", "") for path, _ in wanted]
    index = len(names) - 1 - names[::-1].index("hidden") if "hidden" in names else 0
    flat = wanted[index][1].reshape(B, -1)
    close(leaves[index][:, T - 2], jnp.sqrt((flat**2).sum(axis=1)))


LSTM, GRU = CELLS["lstm"], CELLS["gru"]
OPTIONS = {
    "reset": {"resets": RAGGED["resets"]},
    "reverse": {"reverse": True, "lengths": RAGGED["lengths"]},
    "remat": {"remat": 2},
    "truncate": {"truncate": 2},
    "bf16": {},
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, marks=pytest.mark.ability(name, cell="bidirectional"), id=name)
        for name, options in OPTIONS.items()
    ],
)
def test_options_reach_both_directions(name, options):
    one, two = (HALF["lstm"], HALF["gru"]) if name == "bf16" else (LSTM, GRU)
    both = jl.bidirectional(one, two)
    params, inputs = random_params(both, dtype="float32"), random_inputs(both, B, T)

    def whole(params):
        return jl.unroll(both, params, inputs, **options).outputs

    def parts(params):
        back = {**options, "reverse": not options.get("reverse", False)}
        a = jl.unroll(one, params.forward, inputs, **options).outputs
        b = jl.unroll(two, params.backward, inputs, **back).outputs
        return jnp.concatenate([a, b], axis=-1)

    def pooled(outputs, params):
        return (outputs(params).astype("float64") ** 2).sum()

    close(whole(params), parts(params), 1e-6)
    close(
        jax.grad(functools.partial(pooled, whole))(params),
        jax.grad(functools.partial(pooled, parts))(params),
        1e-5,
    )


@pytest.mark.ability("layer", cell="bidirectional")
def test_both_directions_are_a_layer():
    both = jl.bidirectional(LSTM, GRU)
    layer = jl.nn.RNN(both, return_sequences=True, rngs=nnx.Rngs(0))
    inputs = random_inputs(both, B, T, dtype="float32")
    found = layer(inputs, lengths=RAGGED["lengths"])
    options = {"lengths": RAGGED["lengths"], "masked_outputs": "hold"}
    close(found, jl.unroll(both, layer.params, inputs, **options).outputs, 1e-6)


def test_the_table_of_abilities_has_every_cell_and_explains_every_hole():
    page = (Path(__file__).parent.parent / "docs" / "abilities.md").read_text(encoding="utf-8")
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    header, _, *body = ([cell.strip() for cell in line] for line in lines)
    assert tuple(header[1:]) == abilities.ABILITIES
    assert [row[0] for row in body] == abilities.rows()
    for name, *shown in body:
        for ability, mark in zip(abilities.ABILITIES, shown, strict=True):
            if mark == "✓":
                assert abilities.explanation(name, ability) is None
            else:
                note = re.search(rf"^{re.escape(mark)} (.*)\.", page, re.MULTILINE).group(1)
                assert note == abilities.explanation(name, ability)
