"""Activation functions by name, which can be saved as plain data, or as they are."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Activation = str | Callable[[Array], Array]
"""The name of an activation, or a function of one's own: a cell is equal to another by it."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "identity": lambda x: x,
}


def function_of(given: Activation, argument: str) -> Callable[[Array], Array]:
    """Look an activation up by name, or take it as it is; errors call it by `argument`."""
    if isinstance(given, str) and given in ACTIVATIONS:
        return ACTIVATIONS[given]
    if not callable(given):
        raise ValueError(
            f"`{argument}` must be one of {list(ACTIVATIONS)} or a function, got {given!r}"
        )
    return given
