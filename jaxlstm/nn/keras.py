"""What Keras calls things: initialisers by name, dropout as an argument of the layer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxlstm.cells import Cell, dropout, initializers, recurrent_dropout
from jaxlstm.cells.base import check_choice
from jaxlstm.unroll.checks import check_bool

Initializer = str | Callable[..., Any]
INITIALIZERS = {
    "glorot_uniform": initializers.glorot_uniform(),
    "orthogonal": initializers.orthogonal(),
    "identity": initializers.identity(),
    "zeros": initializers.constant(value=0.0),
    "ones": initializers.constant(value=1.0),
}


def named(
    options: Any, kernel: Initializer, recurrent: Initializer, bias: Initializer
) -> tuple[dict[str, Any], Any]:
    """Look the initialisers of a layer up.

    Args:
        options: the keyword arguments of `RNN`.
        kernel: `kernel_initializer`.
        recurrent: `recurrent_initializer`.
        bias: `bias_initializer`.

    Returns:
        The arguments `kernel_init`, `recurrent_init` and `bias_init` of a cell's factory, and the
        options with the metadata of initialisers that were wrapped by `nnx.with_partitioning`.
    """
    draw, metadata = {}, {}
    for parameter, short, value in (
        ("kernel", "kernel", kernel),
        ("recurrent_kernel", "recurrent", recurrent),
        ("bias", "bias", bias),
    ):
        init = initializer(value, f"{short}_initializer")
        if found := _metadata(init):
            init = _Bare(init)
            metadata[parameter] = found
        draw[f"{short}_init"] = init
    if not metadata:
        return draw, options
    return draw, {**options, "metadata": {**metadata, **(options.get("metadata") or {})}}


def initializer(value: Initializer, argument: str) -> Callable[..., Any]:
    """Look an initialiser up by name; `argument` is what the error calls it."""
    if isinstance(value, str):
        check_choice(argument, value, INITIALIZERS)
        return INITIALIZERS[value]
    if not callable(value):
        raise TypeError(f"`{argument}` must be a name or a function, got {value!r}")
    return value


def forget_initializer(bias: Callable[..., Array], unit_forget_bias: bool) -> Callable[..., Array]:
    """The initialiser of an LSTM's bias, with ones for the forget gate where that is asked for."""
    check_bool("unit_forget_bias", unit_forget_bias)
    if unit_forget_bias and not getattr(bias, "joint", False):
        return initializers.forget_bias(value=1.0, others=bias)
    return bias


def dropped(cell: Cell, inputs: float, recurrent: float) -> Cell:
    """A cell that drops out as the layers of Keras do: one mask a sequence, and one a gate."""
    # A rate that is no number is refused by the combinator, which names it.
    if recurrent != 0:
        cell = _renamed("recurrent_dropout", recurrent_dropout, cell, rate=recurrent)
    if inputs != 0:
        cell = _renamed("dropout", dropout, cell, rate=inputs, constant=True)
    return cell


def _renamed(argument: str, combinator: Callable[..., Cell], cell: Cell, **options: Any) -> Cell:
    try:
        return combinator(cell, **options)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("`rate`", f"`{argument}`")) from None


@dataclasses.dataclass(frozen=True)
class _Bare:
    """An initialiser without the metadata that it was wrapped with."""

    wrapped: Callable[..., Any]

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: Any = "float32") -> Array:
        return self.wrapped(key, shape, dtype).raw_value


def _metadata(init: Callable[..., Any]) -> dict[str, Any]:
    """The metadata that a wrapped initialiser gives to its variable."""
    if isinstance(init, initializers.Initializer):
        return {}
    drawn: list[Any] = []
    jax.eval_shape(lambda key: drawn.append(init(key, (4, 4), jnp.float32)), jax.random.key(0))
    wrapped = drawn[0]
    return dict(wrapped.metadata) if isinstance(wrapped, nnx.VariableMetadata) else {}
