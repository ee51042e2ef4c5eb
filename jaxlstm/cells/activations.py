"""Activation functions by name, so that a cell that uses one stays printable and hashable."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import check_choice

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "identity": lambda x: x,
}


def activation(name: str, argument: str) -> Callable[[Array], Array]:
    """Look an activation up by name; `argument` is what the error calls it."""
    check_choice(argument, name, ACTIVATIONS)
    return ACTIVATIONS[name]
