"""An engine on JAX, and two of them: this library, and a scan as one writes it by hand."""

import contextlib
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm as jl


def cell_of(case):
    """The network of a case as a cell of this library."""
    layers = []
    for size in case.sizes:
        layer = jl.lstm(input_size=size, hidden_size=case.hidden, param_dtype=case.dtype)
        layers.append(jl.bidirectional(layer, layer) if case.bidirectional else layer)
    return layers[0] if case.layers == 1 else jl.stack(*layers)


def weights_of(case):
    """Random weights of that cell, the same in every process."""
    numbers = np.random.default_rng(7)
    shapes = jax.eval_shape(cell_of(case).init, jax.random.key(0))

    def draw(leaf):
        return (numbers.normal(size=leaf.shape) / np.sqrt(leaf.shape[0])).astype("float32")

    return jax.tree.map(draw, shapes)


def parts(params):
    """The `LSTMParams` of a network in order."""
    return jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, jl.LSTMParams))


class OnJax:
    """What is compiled and timed in the same way for every framework on JAX."""

    context = contextlib.nullcontext

    def __init__(self, case):
        self.case, self.params = case, weights_of(case)
        inputs, lengths = case.arrays()
        # Copies are made where the context computes; `asarray` may leave them where they were.
        place = functools.partial(jnp.array, dtype=case.dtype, copy=True)
        self.inputs = place(inputs)
        self.lengths = jnp.asarray(lengths) if case.ragged else None
        self.weights = jax.tree.map(place, self.build())
        self.mask = jnp.asarray(np.arange(case.length)[None] < lengths[:, None])[..., None]

    def compile(self):
        """Compile both programs; the time of the gradient's, and its temporary memory."""

        def loss(weights, inputs):
            outputs = self.apply(weights, inputs)
            return jnp.sum(jnp.square(outputs * self.mask if self.case.ragged else outputs))

        forward = jax.jit(self.apply)
        gradient = jax.jit(jax.grad(loss))
        begin = time.perf_counter()
        compiled = gradient.lower(self.weights, self.inputs).compile()
        seconds = time.perf_counter() - begin
        self.forward = lambda: jax.block_until_ready(forward(self.weights, self.inputs))
        self.gradient = lambda: jax.block_until_ready(gradient(self.weights, self.inputs))
        return seconds, compiled.memory_analysis().temp_size_in_bytes

    def results(self):
        """Outputs, zero in the padding, and gradients in the layout of this library."""
        single = functools.partial(jax.tree.map, lambda a: np.asarray(a, "float32"))
        gradients = self.back(single(self.gradient()))
        return [single(self.forward() * self.mask), *jax.tree.leaves(gradients)]

    def stepper(self):
        """A function that does one step of one row, waiting for its result."""
        state = self.begin()
        step = jax.jit(self.step)
        x = self.inputs[:, 0]

        def advance():
            nonlocal state
            state, output = step(self.weights, state, x)
            output.block_until_ready()

        return advance


class Ours(OnJax):
    """This library on a single device."""

    backend = "auto"

    def build(self):
        self.cell = cell_of(self.case)
        return self.params

    def apply(self, weights, inputs):
        options = {"lengths": self.lengths, "backend": self.backend}
        return jl.unroll(self.cell, weights, inputs, **options).outputs

    def begin(self):
        return self.cell.initial_carry(self.weights, (self.case.batch,))

    def step(self, weights, carry, x):
        return self.cell.step(weights, carry, x)

    def back(self, gradients):
        return gradients


class OursSpread(Ours):
    """This library as a user gets it."""

    context = jl.spread


class OursCudnn(Ours):
    """This library with the kernels of cuDNN."""

    backend = "cudnn"


class Plain(OnJax):
    """A scan as one writes it by hand."""

    def build(self):
        return [tuple(layer) for layer in parts(self.params)]

    def apply(self, weights, inputs):
        x, weights = jnp.moveaxis(inputs, 1, 0), list(weights)
        for _ in range(self.case.layers):
            both = [self._scan(weights.pop(0), x, False)]
            if self.case.bidirectional:
                both.append(self._scan(weights.pop(0), x, True))
            x = jnp.concatenate(both, axis=-1)
        return jnp.moveaxis(x, 0, 1)

    def _scan(self, weights, xs, reverse):
        zeros = jnp.zeros((xs.shape[1], self.case.hidden), xs.dtype)

        def body(state, now):
            new = self.cell(weights, *state, now[0])
            if now[1] is not None:
                new = tuple(jnp.where(now[1], a, b) for a, b in zip(new, state, strict=True))
            return new, new[0]

        masks = jnp.moveaxis(self.mask, 1, 0) if self.case.ragged else None
        return jax.lax.scan(body, (zeros, zeros), (xs, masks), reverse=reverse)[1]

    def cell(self, weights, h, c, x):
        kernel, recurrent, bias = weights
        i, f, g, o = jnp.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def begin(self):
        return (jnp.zeros((1, self.case.hidden), self.case.dtype),) * 2

    def step(self, weights, state, x):
        state = self.cell(weights[0], *state, x)
        return state, state[0]

    def back(self, gradients):
        structure = jax.tree.structure(self.params)
        return structure.unflatten([leaf for layer in gradients for leaf in layer])
