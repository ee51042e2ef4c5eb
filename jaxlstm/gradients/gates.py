"""What gates do on a sequence: their values, how often they are stuck, and how long they hold."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.cells.base import Carry, Cell, Params, check_size, wide
from jaxlstm.gradients.trace import RANGES, is_inexact, step_with_sites
from jaxlstm.gradients.walk import Walk, walk, where_valid


def gates(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    carry: Carry | None = None,
    lengths: Array | None = None,
) -> dict[str, Array]:
    """Give every activation of every step by name, of any cell.

    The cells of this library name their gates as their equations do; ψ(c) of an LSTM is "psi". In
    any other cell each logistic function and each tanh of a step is found by itself and called
    "sigmoid.0", "tanh.0", …; `jax.ad_checkpoint.checkpoint_name(value, "f")` names it. Costs a
    forward pass twice over.

    Args:
        cell: a cell that can be stepped; the layers of a `stack` are numbered, "f.0", "f.1".
        params: its parameters.
        inputs: `[*batch, T, *input_shape]`.
        carry: the carry to begin with; the initial one if None.
        lengths: `[*batch]`, valid steps.

    Returns:
        Arrays `[*batch, T, …]`; zero at steps that are not valid.

    Raises:
        TypeError: when `cell` is no `Cell`.
        ValueError: when the cell cannot be stepped, or `carry` brings noise.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstm(input_size=2, hidden_size=3)
        >>> params = cell.init(jax.random.key(0))
        >>> found = jl.gradients.gates(cell, params, jnp.ones((5, 2)))
        >>> sorted(found), found["f"].shape
        (['f', 'g', 'i', 'o', 'psi'], (5, 3))
    """
    along = walk(cell, params, inputs, carry, lengths)
    sites = step_with_sites(cell, params, along.carries, along.inputs)[2]
    return {name: where_valid(along.valid, site.value, 0) for name, site in sites.items()}


class Saturation(NamedTuple):
    """What `saturation` measures of one gate.

    Args:
        low: [*units], the share of valid steps at which a unit is within `margin` of its lower end.
        high: [*units], the same at the upper end.
        mean: [*units], the mean value.
        histogram: [bins], the share of values in each of `bins` equal parts of the range.
        edges: [bins + 1], where the parts end.
    """

    low: Array
    high: Array
    mean: Array
    histogram: Array
    edges: Array


def saturation(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    carry: Carry | None = None,
    lengths: Array | None = None,
    margin: float = 0.1,
    bins: int = 20,
) -> dict[str, Saturation]:
    """Measure how often each gate is shut or fully open, where its own gradient is nearly zero.

    A logistic gate is saturated below `margin` and above 1 − `margin`, a tanh within twice that of
    −1 and 1, so that both are at the same share of their range (Karpathy, Johnson, Fei-Fei 2015,
    "Visualizing and understanding recurrent networks", with a margin of 0.1). Activations without
    ends, such as ReLU, are left out. Costs a forward pass twice over.

    Args:
        cell: as `gates` takes it.
        params: its parameters.
        inputs: `[*batch, T, *input_shape]`.
        carry: the carry to begin with; the initial one if None.
        lengths: `[*batch]`, valid steps.
        margin: share of the range, below ½.
        bins: of the histograms.

    Returns:
        A `Saturation` for each name that `gates` gives. NaN where no step is valid.

    Raises:
        TypeError: when `cell` is no `Cell`, `margin` no number or `bins` no int.
        ValueError: when the cell cannot be stepped, `margin` is no share below ½, `bins` is not
            positive, or `carry` brings noise.

    Examples:
        A gate with a bias of 5 is open, whatever comes in:

        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstm(input_size=2, hidden_size=3, forget_bias=5.0)
        >>> params = cell.init(jax.random.key(0))
        >>> found = jl.gradients.saturation(cell, params, jnp.ones((5, 2)), bins=4)["f"]
        >>> found.high, found.histogram
        (Array([1., 1., 1.], dtype=float32), Array([0., 0., 0., 1.], dtype=float32))
    """
    check_size("bins", bins)
    if isinstance(margin, bool) or not isinstance(margin, int | float | np.number):
        raise TypeError(f"`margin` must be a number, got {margin!r}")
    if not 0 <= margin < 0.5:
        raise ValueError(f"`margin` must lie in [0, 0.5), got {margin}")
    along = walk(cell, params, inputs, carry, lengths)
    sites = step_with_sites(cell, params, along.carries, along.inputs)[2]

    def measure(value: Array, ends: tuple[float, float]) -> Saturation:
        value, (bottom, top) = wide(value), ends
        slack = margin * (top - bottom)
        leading = tuple(range(along.axis + 1))

        def mean(what: Array) -> Array:
            total = jnp.sum(where_valid(along.valid, what.astype(value.dtype), 0), axis=leading)
            return total / jnp.sum(along.valid).astype(value.dtype)

        edges = jnp.linspace(bottom, top, bins + 1, dtype=value.dtype)
        place = jnp.clip((value - bottom) / (top - bottom) * bins, 0, bins - 1).astype(int)
        # In whole numbers: a float32 that counts stops at 2^24.
        weight = where_valid(along.valid, jnp.ones_like(place), 0)
        counts = jnp.zeros(bins, place.dtype).at[place].add(weight).astype(value.dtype)
        return Saturation(
            mean(value <= bottom + slack),
            mean(value >= top - slack),
            mean(value),
            counts / jnp.sum(weight).astype(value.dtype),
            edges,
        )

    return {
        name: measure(site.value, RANGES[site.kind])
        for name, site in sites.items()
        if site.kind in RANGES
    }


class Timescales(NamedTuple):
    """What `memory_timescales` measures, each a pytree like the carry.

    Args:
        factors: [*batch, T, *units], what each unit keeps of itself at each step: f.
        steps: [*batch, T, *units], −1 / ln f of each.
        units: [*units], −1 / mean(ln f) over all valid steps: in so many steps a unit forgets to
            1 / e, since what is left after a while is the product of the factors.
        quantiles: [5], of `units`: the smallest, the quartiles and the largest.
    """

    factors: Carry
    steps: Carry
    units: Carry
    quantiles: Carry


def memory_timescales(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    carry: Carry | None = None,
    lengths: Array | None = None,
) -> Timescales:
    """Measure how long each unit holds what it knows, τ = −1 / ln f ≈ 1 / (1 − f) steps.

    What is measured is the direct path from a part of the carry to itself, with no gradient through
    any activation: for the memory of an LSTM that is the forget gate f, for a GRU z, for a minimal
    gated unit 1 − f, for a leaky integrator its constant, found without knowing the cell. A part
    that has no such path, as the state of a simple RNN or the `hidden` of an LSTM, holds for 0
    steps; a carousel without a forget gate holds forever, inf. The path must act unit by unit, as
    it does in every gated cell; of a dense one the row sums are given.

    One forward pass, and one forward derivative of each step for each part of the carry.

    Args:
        cell: as `gates` takes it.
        params: its parameters.
        inputs: `[*batch, T, *input_shape]`.
        carry: the carry to begin with; the initial one if None.
        lengths: `[*batch]`, valid steps.

    Returns:
        `Timescales(factors, steps, units, quantiles)`. NaN where a step, or none, is valid. A part
        of the carry that is no floating-point array, such as a counter, is left out as None.

    Raises:
        TypeError: when `cell` is no `Cell`.
        ValueError: when the cell cannot be stepped, or `carry` brings noise.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstm(input_size=1, hidden_size=2, forget_bias=float(jnp.log(99.0)),
        ...                recurrent_init=jl.initializers.identity(scale=0.0))
        >>> params = cell.init(jax.random.key(0))
        >>> jl.gradients.memory_timescales(cell, params, jnp.zeros((4, 1))).units.cell.round(2)
        Array([99.5, 99.5], dtype=float32)

    References:
        Tallec & Ollivier (2018), "Can recurrent neural networks warp time?"; Mahto, Vo, Turek, Huth
        (2021), "Multi-timescale representation learning in LSTM language models".
    """
    along = walk(cell, params, inputs, carry, lengths)
    factors = direct_factors(cell, params, along)
    leading = tuple(range(along.axis + 1))

    def over_steps(factor: Array) -> Array:
        logs = jnp.log(where_valid(along.valid, jnp.abs(wide(factor)), 1))
        return jnp.sum(logs, axis=leading) / jnp.sum(along.valid).astype(logs.dtype)

    def quantiles(unit: Array) -> Array:
        # By order, not by interpolation, which makes NaN of what lies beside inf.
        at = jnp.linspace(0, 1, 5, dtype=unit.dtype)
        return jnp.quantile(unit, at, method="lower")

    units = jax.tree.map(lambda factor: _holds(over_steps(factor)), factors)
    return Timescales(
        jax.tree.map(lambda factor: where_valid(along.valid, factor, jnp.nan), factors),
        jax.tree.map(
            lambda factor: where_valid(along.valid, _holds(jnp.log(jnp.abs(factor))), jnp.nan),
            factors,
        ),
        units,
        jax.tree.map(quantiles, units),
    )


def direct_factors(cell: Cell, params: Params, along: Walk) -> Carry:
    """What each part of the carry keeps of itself along a walk, with every activation cut."""
    leaves, structure = jax.tree.flatten(along.carries)

    def step(leaves: Sequence[Array]) -> list[Array]:
        carry = structure.unflatten(leaves)
        return jax.tree.leaves(step_with_sites(cell, params, carry, along.inputs, None)[0])

    def keep(index: int) -> Array | None:
        if not is_inexact(leaves[index]):
            return None

        def part(leaf: Array) -> Array:
            return step([*leaves[:index], leaf, *leaves[index + 1 :]])[index]

        return jax.jvp(part, (leaves[index],), (jnp.ones_like(leaves[index]),))[1]

    return structure.unflatten([keep(index) for index in range(len(leaves))])


def _holds(log_factor: Any) -> Array:
    """−1 / ln f: 0 where f = 0, inf where f = 1."""
    return jnp.where(log_factor == 0, jnp.inf, -1 / jnp.where(log_factor == 0, 1, log_factor))
