"""Combinators that drop: their noise travels in the carry, so a chunked run equals a whole one.

Each takes the noise from the `key` that `initial_carry` (or `unroll`) is given, and drops nothing
without one. The same key gives the same result under `jit`, `vmap`, rematerialisation, streaming
and chunking, because the key, or the mask drawn from it, is a part of the carry.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import (
    Carry,
    Cell,
    Noisy,
    Params,
    check_cell,
    described,
    shapes_of,
    start,
    wide,
)
from jaxlstm.cells.shapes import blank_input, type_of


@described
def dropout(cell: Cell, *, rate: float, constant: bool = False) -> Cell:
    """Drop features of the inputs, and scale those that stay by 1 / (1 − rate).

    Between two layers it is the upper one that is wrapped: `stack(a, dropout(b, rate=0.5))`.
    Zaremba, Sutskever, Vinyals (2014), "Recurrent neural network regularization", draw a new mask
    at each step; Gal & Ghahramani (2016), "A theoretically grounded application of dropout in
    recurrent neural networks", keep one mask for the whole sequence (`constant`).

    Args:
        cell: the cell whose inputs are dropped.
        rate: the probability of dropping a feature, in [0, 1).
        constant: one mask for each sequence, not for each step.

    Returns:
        A `Cell` with the params of `cell` and the carry `Noisy(carry, noise)`.

    Raises:
        TypeError: when `cell` is no `Cell`.
        ValueError: when the rate is out of range, or the cell cannot be stepped.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.dropout(jl.lstm(input_size=8, hidden_size=4), rate=0.5)
        >>> params, inputs = cell.init(jax.random.key(0)), jnp.ones((2, 5, 8))
        >>> noisy = jl.unroll(cell, params, inputs, key=jax.random.key(1)).outputs
        >>> plain = jl.unroll(cell, params, inputs).outputs
        >>> bool((noisy == plain).all())
        False
    """
    _check("dropout", cell, rate)
    if constant and None in cell.input_shape:
        raise ValueError(f"`constant` needs a known input shape, got {cell.input_shape}")

    def noise(key: Array, params: Params, carry: Carry, batch_shape: tuple[int, ...]) -> Any:
        shape: Any = (*batch_shape, *cell.input_shape)
        return _mask(key, shape, rate, type_of(params)) if constant else key

    def step(params: Params, carry: Noisy, x: Array) -> tuple[Noisy, Any]:
        mask, rest = carry.noise, carry.noise
        if carry.noise is not None:
            if not constant:
                rest, now = jax.random.split(carry.noise)
                mask = _mask(now, x.shape, rate, x.dtype)
            x = x * mask.astype(x.dtype)
        inner, output = cell.step(params, carry.carry, x)
        return Noisy(inner, rest), output

    return _noisy(cell, noise, step)


@described
def recurrent_dropout(cell: Cell, *, rate: float) -> Cell:
    """Drop what the gates see of the last state: one mask for each gate, constant over time.

    The state itself is not touched, so nothing is forgotten. Gal & Ghahramani (2016), "A
    theoretically grounded application of dropout in recurrent neural networks". The gates must not
    share one mask: that broke convergence where it was tried.

    Args:
        cell: a cell with a `gated_step`: the RNN, GRU and LSTM families, convolutional ones too.
        rate: the probability of dropping a unit, in [0, 1).

    Returns:
        A `Cell` with the params of `cell` and the carry `Noisy(carry, masks)`, the masks
        [*batch, gates, *state].

    Raises:
        TypeError: when `cell` is no `Cell`.
        ValueError: when the rate is out of range, or the cell has no `gated_step`.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.recurrent_dropout(jl.lstm(input_size=8, hidden_size=4), rate=0.25)
        >>> params = cell.init(jax.random.key(0))
        >>> out = jl.unroll(cell, params, jnp.ones((2, 5, 8)), key=jax.random.key(1))
        >>> out.carry.noise.shape
        (2, 4, 4)
    """
    _check("recurrent_dropout", cell, rate)
    gated_step = cell.gated_step
    if gated_step is None:
        raise ValueError(f"`cell` must have a `gated_step` for recurrent_dropout, got {cell!r}")

    def noise(key: Array, params: Params, carry: Carry, batch_shape: tuple[int, ...]) -> Array:
        shape = (*batch_shape, cell.gates, *carry.hidden.shape[len(batch_shape) :])
        return _mask(key, shape, rate, carry.hidden.dtype)

    def step(params: Params, carry: Noisy, x: Array) -> tuple[Noisy, Any]:
        if carry.noise is None:
            inner, output = cell.step(params, carry.carry, x)
        else:
            axis = x.ndim - len(cell.input_shape)
            seen = jnp.expand_dims(carry.carry.hidden, axis) * carry.noise
            seen = tuple(jnp.take(seen, gate, axis) for gate in range(cell.gates))
            inner, output = gated_step(params, carry.carry, x, seen)
        return Noisy(inner, carry.noise), output

    return _noisy(cell, noise, step)


@described
def zoneout(cell: Cell, *, hidden_rate: float = 0.05, cell_rate: float = 0.5) -> Cell:
    """Let units keep their last value: h_t = m ⊙ h_{t−1} + (1 − m) ⊙ h'_t, and likewise c_t.

    With a key m is drawn anew at each step, 1 with the probability of the rate. Without a key
    nothing is drawn, and m is replaced by its expectation, the rate, as in the paper: Krueger et
    al. (2017), "Zoneout: regularizing RNNs by randomly preserving hidden activations".

    Args:
        cell: a cell whose output is its carry's `hidden`.
        hidden_rate: the rate for `hidden`, in [0, 1).
        cell_rate: the rate for every other part of the carry, in [0, 1).

    Returns:
        A `Cell` with the params of `cell` and the carry `Noisy(carry, key)`.

    Raises:
        TypeError: when `cell` is no `Cell`.
        ValueError: when a rate is out of range, the carry has no `hidden`, the output is another
            array, or parts of the carry are in units of a `stabilizer`.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.zoneout(jl.lstm(input_size=8, hidden_size=4))
        >>> params = cell.init(jax.random.key(0))
        >>> jl.unroll(cell, params, jnp.ones((2, 5, 8)), key=jax.random.key(1)).outputs.shape
        (2, 5, 4)
    """
    _check("zoneout", cell, hidden_rate, "hidden_rate")
    _check("zoneout", cell, cell_rate, "cell_rate")
    carry = jax.eval_shape(cell.initial_carry, shapes_of(cell))
    if not hasattr(carry, "hidden"):
        raise ValueError(f"`cell` must have `hidden` in its carry for zoneout, got {cell!r}")
    if hasattr(carry, "stabilizer"):
        raise ValueError(f"`cell` must have a carry without units for zoneout, got {cell!r}")
    if not _shows_hidden(cell):
        raise ValueError(f"`cell` must give out its `hidden` for zoneout, got {cell!r}")

    def step(params: Params, carry: Noisy, x: Array) -> tuple[Noisy, Any]:
        old, rest = carry.carry, carry.noise
        new, _ = cell.step(params, old, x)
        keys: list[Any] = [None] * len(old)
        if carry.noise is not None:
            rest, *keys = jax.random.split(carry.noise, 1 + len(old))

        def keep(name: str, key: Array | None, before: Array, after: Array) -> Array:
            rate = hidden_rate if name == "hidden" else cell_rate
            if key is None:
                return (rate * wide(before) + (1 - rate) * wide(after)).astype(after.dtype)
            return jnp.where(jax.random.bernoulli(key, rate, before.shape), before, after)

        new = type(old)(*map(keep, old._fields, keys, old, new))
        return Noisy(new, rest), new.hidden

    return _noisy(cell, _key_alone, step)


@described
def weight_drop(cell: Cell, *, rate: float) -> Cell:
    """Drop entries of the recurrent kernel: one mask for the sequence and the whole batch.

    Merity, Keskar, Socher (2018), "Regularizing and optimizing LSTM language models", after
    DropConnect (Wan et al. 2013). Entries that stay are scaled by 1 / (1 − rate).

    Args:
        cell: a cell whose params have a `recurrent_kernel`.
        rate: the probability of dropping an entry, in [0, 1).

    Returns:
        A `Cell` with the params of `cell` and the carry `Noisy(carry, key)`.

    Raises:
        TypeError: when `cell` is no `Cell`.
        ValueError: when the rate is out of range, or there is no `recurrent_kernel`.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.weight_drop(jl.lstm(input_size=8, hidden_size=4), rate=0.5)
        >>> params = cell.init(jax.random.key(0))
        >>> jl.unroll(cell, params, jnp.ones((2, 5, 8)), key=jax.random.key(1)).outputs.shape
        (2, 5, 4)
    """
    _check("weight_drop", cell, rate)
    if not hasattr(shapes_of(cell), "recurrent_kernel"):
        raise ValueError(f"`cell` must have a `recurrent_kernel` for weight_drop, got {cell!r}")

    def step(params: Any, carry: Noisy, x: Array) -> tuple[Noisy, Any]:
        if carry.noise is not None:
            kernel = params.recurrent_kernel
            mask = _mask(carry.noise, kernel.shape, rate, kernel.dtype)
            params = params._replace(recurrent_kernel=kernel * mask)
        inner, output = cell.step(params, carry.carry, x)
        return Noisy(inner, carry.noise), output

    return _noisy(cell, _key_alone, step)


def without_noise(carry: Carry) -> Carry:
    """The carry of the cells within, for any nesting of stochastic cells."""
    return jax.tree.map(
        lambda node: without_noise(node.carry) if isinstance(node, Noisy) else node,
        carry,
        is_leaf=lambda node: isinstance(node, Noisy),
    )


def with_noise(carry: Carry, initial: Carry) -> Carry:
    """A carry without noise, given the noise of an initial carry of the same cell."""
    return jax.tree.map(
        lambda node, inner: (
            Noisy(with_noise(inner, node.carry), node.noise) if isinstance(node, Noisy) else inner
        ),
        initial,
        carry,
        is_leaf=lambda node: isinstance(node, Noisy),
    )


def _shows_hidden(cell: Cell) -> bool:
    """Whether the output of a step is the `hidden` of its carry, as far as its input is known."""
    found: list[bool] = []

    def step(key: Array) -> None:
        params = cell.init(key)
        x = blank_input(cell, params)
        carry, output = cell.step(params, cell.initial_carry(params), x)
        found.append(output is carry.hidden)

    if None not in cell.input_shape:
        with jax.disable_jit():  # or the two come out of a step that is compiled as two arrays
            jax.eval_shape(step, jax.random.key(0))
    return all(found)


def _mask(key: Array, shape: tuple[int, ...], rate: float, dtype: Any) -> Array:
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return kept.astype(dtype) * jnp.asarray(1 / (1 - rate), dtype)


def _key_alone(key: Array, params: Params, carry: Carry, batch_shape: tuple[int, ...]) -> Array:
    return key


def _noisy(cell: Cell, noise: Any, step: Any) -> Cell:
    """A stochastic cell with the params of `cell`, and its carry beside the noise."""

    def initial_carry(
        params: Params, batch_shape: tuple[int, ...] = (), *, key: Array | None = None
    ) -> Noisy:
        if key is None:
            return Noisy(cell.initial_carry(params, batch_shape), None)
        ours, inner = jax.random.split(key)
        carry = start(cell, params, batch_shape, inner)
        return Noisy(carry, noise(ours, params, carry, batch_shape))

    return Cell(cell.init, initial_carry, step, cell.input_shape, stochastic=True)


def _check(combinator: str, cell: Any, rate: Any, name: str = "rate") -> None:
    check_cell("cell", cell)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ValueError(f"`{name}` must lie in [0, 1), got {rate!r}")
    if cell.whole:
        raise ValueError(
            f"`cell` of {combinator} must be one that can be stepped, got {cell!r}: "
            f"wrap its parts instead"
        )
