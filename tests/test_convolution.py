"""The convolution of cells, whose derivatives are products with patches on a CPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import random_like

import jaxlstm as jl
from jaxlstm.cells import convolution
from jaxlstm.cells.convolution import Window, convolve

pytestmark = pytest.mark.usefixtures("compile_fast")

CASES = [
    ((7,), (3,), Window((1,), "same", (1,))),
    ((8,), (2,), Window((3,), "valid", (2,))),
    ((6, 5), (3, 2), Window((1, 1), "same", (1, 1))),
    ((9, 6), (2, 3), Window((2, 1), "same", (1, 2))),
    ((9, 6), (4, 1), Window((2, 3), "valid", (2, 1))),
    ((4, 3, 5), (2, 3, 1), Window((1, 2, 2), "same", (1, 1, 1))),
]


@pytest.mark.parametrize(("space", "sizes", "window"), CASES)
def test_every_derivative_is_that_of_a_convolution(space, sizes, window):
    with jax.enable_x64(True):
        shapes = jnp.zeros((2, *space, 3)), jnp.zeros((*sizes, 3, 4))
        given, tangents, more = (random_like(shapes, at, jnp.float64) for at in range(3))

        def plain(x, kernel):
            return convolution._plain(window, None, x, kernel)

        def derivatives(by):
            gradient = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(by(x, kernel))), (0, 1))
            forward = functools.partial(jax.jvp, gradient, given)
            return (
                by(*given),
                jax.jvp(by, given, tangents),
                forward(tangents),
                jax.vjp(lambda *at: forward(at)[1], *tangents)[1](more),
                jax.vmap(by, (None, 0))(given[0], jnp.stack([given[1], tangents[1]])),
            )

        found = derivatives(functools.partial(convolve, window=window))
        equal = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
        jax.tree.map(equal, found, derivatives(plain))


def test_the_types_are_those_of_a_convolution():
    window, shapes = CASES[2][2], (jnp.zeros((2, 6, 5, 3)), jnp.zeros((3, 2, 3, 4)))
    x, kernel = random_like(shapes, 0, jnp.bfloat16)
    for preferred in (None, jnp.float32):
        options = {"window": window, "preferred_element_type": preferred}
        value, tangent = jax.jvp(functools.partial(convolve, **options), (x, kernel), (x, kernel))
        assert value.dtype == tangent.dtype == (preferred or jnp.bfloat16)
        np.testing.assert_allclose(
            tangent.astype("float32"), 2 * value.astype("float32"), rtol=0.05, atol=0.1
        )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA on a CPU")
def test_on_a_cpu_a_gradient_has_only_the_convolutions_that_are_fast_there():
    cell = jl.conv_lstm(input_shape=(8, 8, 2), filters=4)
    params = cell.init(jax.random.key(0))
    inputs = jnp.ones((2, 5, 8, 8, 2))

    def loss(params, inputs):
        return jnp.sum(jl.unroll(cell, params, inputs).outputs ** 2)

    program = jax.jit(jax.grad(loss, (0, 1))).lower(params, inputs).compile().as_text()
    found = set(re.findall(r"convolution\(.*dim_labels=(\S+?)[, ]", program))
    assert found == {"b01f_01io->b01f"}


def test_the_patches_are_not_kept():
    window, shapes = CASES[2][2], (jnp.zeros((2, 6, 5, 3)), jnp.zeros((3, 2, 3, 4)))
    x, kernel = random_like(shapes, 0, jnp.float32)
    push = jax.linearize(lambda kernel: convolve(x, kernel, window=window), kernel)[1]
    kept = sum(leaf.size for leaf in jax.tree.leaves(push) if hasattr(leaf, "size"))
    assert 0 < kept <= x.size
