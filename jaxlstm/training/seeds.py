"""Several seeds at once: the same function on the state of each.

Measured for an LSTM of 128 units on 100 steps of 64 sequences, on two cores, in updates a second
over all of four seeds: one after the other 26, `lax.map` 28, `vmap` 20 to 27, two threads 48. A
product of matrices of this size does not keep two cores busy, and the batched product that `vmap`
makes of it is no faster; two programs beside each other do. The threads also give each seed the
very program that it would run alone, so that its numbers do not depend on which others run beside
it. On an accelerator one program must fill the device, so `vmap` is the way there.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

Mapped = Callable[..., list[Any]]


def choose(how: str) -> str:
    """Resolve "auto" to "threads" on a CPU and "vmap" elsewhere."""
    if how != "auto":
        return how
    return "threads" if jax.default_backend() == "cpu" else "vmap"


def over_seeds(function: Callable[..., Any], *, how: str, workers: int | None = None) -> Mapped:
    """Map `function(state, *rest)` over the states of the seeds, compiled at the first call.

    Args:
        function: a pure function of the state of one seed and of arguments that all share.
        how: "threads" or "vmap".
        workers: threads at most; one for each core if None. One alone for a function that calls
            LAPACK, or that runs on several devices: two such programs at a time were seen to wait
            for each other without end (jax 0.10.2 on two cores, QR decompositions in a scan).

    Returns:
        `mapped(states, *rest)`, which gives a list with one result for each seed when all are done.
        Another number of states is compiled for anew where they are mapped together.

    Examples:
        >>> import jax.numpy as jnp
        >>> mapped = over_seeds(jnp.add, how="threads")
        >>> list(map(float, mapped([jnp.array(1.0), jnp.array(2.0)], jnp.array(10.0))))
        [11.0, 12.0]
    """
    workers = workers or os.cpu_count() or 1
    if how == "threads":
        return _grouped(lambda group, *rest: [function(group[0], *rest)], 1, workers)
    on_cpu = jax.default_backend() == "cpu"
    return _grouped(functools.partial(_stacked, function), None, workers if on_cpu else 1)


def _stacked(function: Callable[..., Any], states: list[Any], *rest: Any) -> list[Any]:
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    results = jax.vmap(lambda state: function(state, *rest))(together)
    leaves, tree = jax.tree.flatten(results)
    return [tree.unflatten([leaf[index] for leaf in leaves]) for index in range(len(states))]


def _grouped(function: Callable[..., list[Any]], size: int | None, workers: int) -> Mapped:
    """Map groups of states over threads; without a `size` there is a group for each thread."""
    program = jax.jit(function)
    compiled: dict[int, Any] = {}

    def mapped(states: Sequence[Any], *rest: Any) -> list[Any]:
        each = size or -(-len(states) // workers)
        groups = [list(states[i : i + each]) for i in range(0, len(states), each)]
        # Compiled before any thread runs: threads that meet a new shape would each compile it.
        for group in groups:
            if len(group) not in compiled:
                compiled[len(group)] = program.lower(group, *rest).compile()

        def run(group: list[Any]) -> list[Any]:
            return jax.block_until_ready(compiled[len(group)](group, *rest))

        if len(groups) == 1:
            return run(groups[0])
        with ThreadPoolExecutor(workers) as pool:
            return [result for found in pool.map(run, groups) for result in found]

    return mapped
