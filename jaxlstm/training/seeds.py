"""Several seeds at once: the same function on the state of each.

Measured for an LSTM of 128 units on 100 steps of 64 sequences, on two cores, in updates a second
over all of four seeds: one after the other 26, `lax.map` 28, `vmap` 20 to 27, two threads 48. A
product of matrices of this size does not keep two cores busy, and the batched product that `vmap`
makes of it is no faster; two programs beside each other do. The threads also give each seed the
very program that it would run alone, so that its numbers do not depend on which others run beside
it. On an accelerator one program must fill the device, so `vmap` is the way there.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxlstm.errors import UserError

Mapped = Callable[..., list[Any]]


def choose(how: str) -> str:
    """Resolve "auto" to "threads" on a CPU and "vmap" elsewhere."""
    if how != "auto":
        return how
    return "threads" if jax.default_backend() == "cpu" else "vmap"


def may_spread(wanted: Literal["auto"] | int, seeds: int) -> bool:
    """Whether a batch is spread over more than one device, where there are more.

    On a CPU that is asked for one device per core, one device alone computes with one core.
    """
    return seeds == 1 if wanted == "auto" else wanted > 1


def devices(wanted: Literal["auto"] | int, seeds: int) -> int:
    """Resolve over how many devices each batch is spread.

    Raises:
        UserError: when there are not so many.
    """
    there = len(jax.devices())
    if wanted == "auto":
        return there if may_spread(wanted, seeds) else 1
    if wanted > there:
        raise UserError(f"train.devices: expected int <= {there}, the devices here, got {wanted}")
    return wanted


def over_seeds(function: Callable[..., Any], states: Sequence[Any], *rest: Any, how: str) -> Mapped:
    """Compile `function(state, *rest)` and map it over the states of the seeds.

    Args:
        function: a pure function of the state of one seed and of arguments that all share.
        states: the states it will be called with, or any of their shapes and types.
        *rest: the shared arguments, or any of their shapes and types.
        how: "threads" or "vmap".

    Returns:
        `mapped(states, *rest)`, which gives a list with one result for each seed when all are done.

    Examples:
        >>> import jax.numpy as jnp
        >>> mapped = over_seeds(jnp.add, [jnp.ones(()), jnp.ones(())], jnp.ones(()), how="threads")
        >>> mapped([jnp.array(1.0), jnp.array(2.0)], jnp.array(10.0))
        [Array(11., dtype=float32), Array(12., dtype=float32)]
    """
    # Compiled before any thread runs: threads that meet an uncompiled function would each compile.
    if how == "threads":
        program = jax.jit(function).lower(states[0], *rest).compile()
        workers = min(len(states), os.cpu_count() or 1)

        def run(state: Any, rest: Sequence[Any]) -> Any:
            return jax.block_until_ready(program(state, *rest))

        def threaded(states: Sequence[Any], *rest: Any) -> list[Any]:
            if len(states) == 1:
                return [run(states[0], rest)]
            with ThreadPoolExecutor(workers) as pool:
                return list(pool.map(lambda state: run(state, rest), states))

        return threaded

    def stacked(states: list[Any], *rest: Any) -> list[Any]:
        together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        results = jax.vmap(lambda state: function(state, *rest))(together)
        return [_take(results, index) for index in range(len(states))]

    batched = jax.jit(stacked).lower(list(states), *rest).compile()
    return lambda states, *rest: jax.block_until_ready(batched(list(states), *rest))


def _take(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)
