"""What a step computes on the way, seen without touching the cell: its jaxpr, evaluated by us.

`flow` adds a zero to every part of a carry at the place where it is computed, or where it is
returned if it is an old state handed on; `norm_penalty` holds every part where it is computed.
The measurements of gates look at every activation, or cut its gradient. An activation is every
logistic function and every tanh of the step, and whatever the cell has named with
`jax.ad_checkpoint.checkpoint_name`; the cells of this library name their gates as their equations
do. All follow JAX's documented pattern of a custom interpreter.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core

from jaxlstm.cells.base import Carry, Cell, Noisy, Params

RANGES = {"logistic": (0.0, 1.0), "tanh": (-1.0, 1.0)}
"""Between which values each squashing function lies."""
ENTERED = ("jit", "pjit", "remat2")
"""Calls that compute what stands in them, and nothing else."""


@dataclasses.dataclass
class Site:
    """An activation within a step.

    Args:
        kind: the function, "logistic" or "tanh", or "other" for a value that only has a name.
        name: what the cell calls it, or None.
        value: what came out.
    """

    kind: str
    name: str | None
    value: Any


def check_steps(cell: Cell) -> None:
    """Refuse a cell that sees whole sequences, which has no step to look into."""
    if cell.whole:
        raise ValueError(f"`cell` must be one that can be stepped, got {cell!r}")


def check_state(carry: Carry | None) -> None:
    """Refuse a carry with noise, which is no state: nothing that a step computes changes it."""
    nodes = jax.tree.leaves(carry, is_leaf=lambda node: isinstance(node, Noisy))
    if any(isinstance(node, Noisy) and node.noise is not None for node in nodes):
        raise ValueError("`carry` must bring no noise, got that of a key")


def step_with_sites(
    cell: Cell, params: Params, carry: Carry, x: Array, cut: Sequence[str] | None = ()
) -> tuple[Carry, Any, dict[str, Site]]:
    """One step, and its activations by name.

    A name that occurs twice, as in a `stack`, is numbered: "f.0", "f.1". What has no name is called
    "sigmoid.0", "tanh.0", …, in the order of the computation.

    Args:
        cell: a cell that can be stepped.
        params: its parameters.
        carry: its carry.
        x: one input.
        cut: names of activations that no gradient passes, "f" standing for "f.0" and "f.1" too;
            None for all activations.

    Raises:
        ValueError: when no activation has a name that is to be cut.
    """
    closed, shapes = jax.make_jaxpr(cell.step, return_shape=True)(params, carry, x)
    arguments = jax.tree.leaves((params, carry, x))

    def trace(wanted: set[int] | None, *arguments: Any) -> tuple[list[Any], list[Site]]:
        watch = _Watch(wanted)
        leaves = evaluate(closed.jaxpr, closed.consts, arguments, watch=watch)
        return leaves, watch.sites

    wanted = None
    if cut is not None:
        found: list[Site] = []
        jax.eval_shape(lambda *a: found.extend(trace(set(), *a)[1]), *arguments)
        names = _names(found)
        chosen = (cut,) if isinstance(cut, str) else cut
        for name in chosen:
            if not any(_matches(name, other) for other in names):
                raise ValueError(f"`cut` must name activations, {names}, got {name!r}")
        wanted = {
            index
            for index, other in enumerate(names)
            if any(_matches(name, other) for name in chosen)
        }
    leaves, sites = trace(wanted, *arguments)
    carry, output = jax.tree.structure(shapes).unflatten(leaves)
    return carry, output, dict(zip(_names(sites), sites, strict=True))


def step_with_probes(
    cell: Cell, params: Params, carry: Carry, x: Array, probes: list[Array]
) -> tuple[Carry, Any]:
    """One step of a cell that adds a probe to each part of the new carry where it is computed.

    What only hands on a part of the old carry gets its probe where it is returned, since the old
    part itself is a state of the step before.

    Args:
        cell: a cell that can be stepped.
        params: its parameters.
        carry: its carry.
        x: one input.
        probes: for every floating-point leaf of the carry, what is added, of that leaf's size.
    """
    closed, shapes = jax.make_jaxpr(cell.step, return_shape=True)(params, carry, x)
    leaves, structure = jax.tree.flatten(shapes)
    parts = len(jax.tree.leaves(shapes[0]))
    rest = iter(probes)
    added = [
        next(rest).reshape(leaf.shape).astype(leaf.dtype)
        if index < parts and is_inexact(leaf)
        else None
        for index, leaf in enumerate(leaves)
    ]
    arguments = jax.tree.leaves((params, carry, x))
    return structure.unflatten(evaluate(closed.jaxpr, closed.consts, arguments, added))


def step_apart(cell: Cell, params: Params, carry: Carry, x: Array, seen: Carry) -> Carry:
    """The new carry of one step, in which what depends on another part of it sees that in `seen`.

    Its derivative by the old carry is what takes the adjoints that `flow` gives one step back: they
    are total, so that the way from one part to another within the step is already in them.
    """
    closed, shapes = jax.make_jaxpr(cell.step, return_shape=True)(params, carry, x)
    leaves, structure = jax.tree.flatten(shapes)
    parts = jax.tree.leaves(seen)
    held = [part if is_inexact(part) else None for part in parts]
    held += [None] * (len(leaves) - len(parts))
    arguments = jax.tree.leaves((params, carry, x))
    found = evaluate(closed.jaxpr, closed.consts, arguments, held=held)
    return structure.unflatten(found)[0]


def evaluate(
    jaxpr: core.Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    added: Sequence[Any] | None = None,
    watch: Callable[[Any, list[Any], list[Any]], list[Any]] | None = None,
    held: Sequence[Any] | None = None,
) -> list[Any]:
    """Evaluate a jaxpr, adding to its outputs where they are computed, not where they are returned.

    An output that is an argument or a constant is not computed here: what is added to it is added
    to what is returned alone, and nothing is held in its place. One that is a value rounded to a
    shorter type is computed where that value is, which all the rest may see unrounded.

    Args:
        jaxpr: what to evaluate.
        consts: its constants.
        arguments: its arguments.
        added: for each output what is added to it, or None.
        watch: `watch(equation, given, results) -> results` sees every equation. A call of `jit` or
            `jax.checkpoint` within is entered where there is one, or where one of its results is
            added to. Any other call, such as a branch or a function with a derivative of its own,
            is one operation.
        held: for each output None, or what is seen in its place by all that is computed from it
            within the jaxpr.
    """
    added = [None] * len(jaxpr.outvars) if added is None else added
    held = [None] * len(jaxpr.outvars) if held is None else held
    values: dict[Any, Any] = {}
    whole: dict[Any, Any] = {}
    source = _sources(jaxpr)

    def is_computed(variable: Any) -> bool:
        return not isinstance(variable, core.Literal) and variable in source

    seen = {
        source[variable]: value.astype(source[variable].aval.dtype)
        for variable, value in zip(jaxpr.outvars, held, strict=True)
        if value is not None and is_computed(variable)
    }
    extra: dict[Any, Any] = {}
    for variable, probe in zip(jaxpr.outvars, added, strict=True):
        if probe is not None and is_computed(variable):
            place = source[variable]
            probe = probe.astype(place.aval.dtype)
            extra[place] = extra[place] + probe if place in extra else probe

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    def write(variable: Any, value: Any, entered: bool = False) -> None:
        if variable in extra and not entered:
            value = value + extra[variable]
        if variable in seen:
            whole[variable], value = value, seen[variable]
        values[variable] = value

    for variable, value in zip(jaxpr.constvars, consts, strict=True):
        values[variable] = value
    for variable, value in zip(jaxpr.invars, arguments, strict=True):
        values[variable] = value
    for equation in jaxpr.eqns:
        given = [read(variable) for variable in equation.invars]
        inner: Any = equation.params.get("jaxpr")
        if equation.primitive.name in ENTERED and (
            watch is not None
            or any(variable in extra or variable in seen for variable in equation.outvars)
        ):
            probes = [extra.get(variable) for variable in equation.outvars]
            known = [seen.get(variable) for variable in equation.outvars]
            body, constants = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            results = evaluate(body, constants, given, probes, watch, known)
            for variable, result in zip(equation.outvars, results, strict=True):
                write(variable, result, entered=True)
            continue
        bound = equation.primitive.get_bind_params(equation.params)
        results = equation.primitive.bind(*given, **bound)
        results = results if equation.primitive.multiple_results else [results]
        if watch is not None:
            results = watch(equation, given, results)
        for variable, result in zip(equation.outvars, results, strict=True):
            write(variable, result)

    def result(variable: Any, probe: Any) -> Any:
        if is_computed(variable):
            place = source[variable]
            return whole[place].astype(variable.aval.dtype) if place in whole else values[variable]
        return read(variable) if probe is None else read(variable) + probe

    return [result(*pair) for pair in zip(jaxpr.outvars, added, strict=True)]


def _sources(jaxpr: core.Jaxpr) -> dict[Any, Any]:
    """Every variable that is computed, and the one that it is, or that it is rounded from."""
    sources: dict[Any, Any] = {}
    for equation in jaxpr.eqns:
        sources |= {variable: variable for variable in equation.outvars}
        if equation.primitive.name == "convert_element_type":
            (given,), (rounded,) = equation.invars, equation.outvars
            exact = None if isinstance(given, core.Literal) else sources.get(given)
            if exact is not None and _is_shorter(rounded.aval, exact.aval):
                sources[rounded] = exact
    return sources


def _is_shorter(a: Any, b: Any) -> bool:
    real = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in (a, b))
    return real and a.dtype.itemsize < b.dtype.itemsize


def is_inexact(leaf: Any) -> bool:
    """Whether an array, or its shape, is of floating-point numbers, real or complex."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


class _Watch:
    """Collects the activations of a step in order, and cuts those of the given indices."""

    def __init__(self, cut: set[int] | None) -> None:
        self.sites: list[Site] = []
        self._cut = cut

    def __call__(self, equation: Any, given: list[Any], results: list[Any]) -> list[Any]:
        kind = equation.primitive.name
        if kind in RANGES:
            return [self._add(Site(kind, None, results[0]))]
        if kind == "name":
            for site in self.sites:
                if site.value is given[0]:
                    site.name = equation.params["name"]
                    return given
            return [self._add(Site("other", equation.params["name"], results[0]))]
        return results

    def _add(self, site: Site) -> Any:
        if self._cut is None or len(self.sites) in self._cut:
            site.value = lax.stop_gradient(site.value)
        self.sites.append(site)
        return site.value


def _names(sites: Sequence[Site]) -> list[str]:
    plain = {"logistic": "sigmoid"}
    bases = [site.name or plain.get(site.kind, site.kind) for site in sites]
    alone = {
        base
        for base, count in collections.Counter(bases).items()
        if count == 1 and base not in ("sigmoid", "tanh")
    }
    seen: collections.Counter[str] = collections.Counter()
    names = []
    for base in bases:
        names.append(base if base in alone else f"{base}.{seen[base]}")
        seen[base] += 1
    return names


def _matches(name: str, full: str) -> bool:
    return full == name or full.rpartition(".")[0] == name
