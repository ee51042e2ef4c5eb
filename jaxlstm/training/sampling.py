"""Text written by a network, one character after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.training.model import Model, Params


def build(model: Model, characters: int) -> Callable[[Params, Array, Array, Array], Array]:
    """Build `write(params, key, prompt, temperature)`, a pure function for `jax.jit`.

    The network reads the prompt `[P]` step by step, then each symbol is drawn from
    softmax(logits / temperature) and read in its turn.

    Args:
        model: a network over symbols with an output for every step.
        characters: how many symbols to write.

    Returns:
        The function; its result are the symbols `[characters]` int32.
    """

    def write(params: Params, key: Array, prompt: Array, temperature: Array) -> Array:
        def hear(carry: Any, symbol: Array) -> tuple[Any, Array]:
            return model.step(params, carry, symbol)

        def speak(state: tuple[Any, Array], key: Array) -> tuple[tuple[Any, Array], Array]:
            carry, logits = state
            symbol = jax.random.categorical(key, logits / temperature).astype(jnp.int32)
            return model.step(params, carry, symbol), symbol

        carry = model.cell.initial_carry(params.cell, ())
        carry, logits = lax.scan(hear, carry, prompt)
        return lax.scan(speak, (carry, logits[-1]), jax.random.split(key, characters))[1]

    return write


def unknown(prompt: str, symbols: str) -> str:
    """The characters of a prompt that a network does not know, in order; it reads a stand-in.

    Examples:
        >>> unknown("banana!?", "abn")
        '!?'
    """
    return "".join(sorted(set(prompt) - set(symbols)))
