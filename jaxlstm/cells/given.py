"""What the functions of a cell are given: refused where it does not fit, in words that name it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from jaxlstm.cells.trees import check_tree, layout


def check_key(key: Any) -> Array:
    """One random key, new or old style, as a new one: the words of an old one look like rows."""
    if isinstance(key, np.ndarray):
        key = jnp.asarray(key)
    typed = isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = isinstance(key, Array) and key.dtype == jnp.uint32
    if not (typed or raw):
        raise TypeError(f"`key` must come from `jax.random.key`, got {key!r}")
    wanted = jax.eval_shape(jax.random.PRNGKey, 0).shape if raw else ()
    if key.shape != wanted:
        raise ValueError(
            f"`key` must be one key of shape {list(wanted)}, got {key.dtype} of shape "
            f"{list(key.shape)}"
        )
    return jax.random.wrap_key_data(key) if raw else key


def check_batch_shape(shape: Any) -> tuple[int, ...]:
    """Refuse what is no tuple of sizes; those that `jax.export` leaves open are."""
    if not isinstance(shape, tuple | list) or not all(map(_is_size, shape)):
        raise TypeError(f"`batch_shape` must be a tuple of ints, got {shape!r}")
    if any(isinstance(size, int) and size < 0 for size in shape):
        raise ValueError(f"`batch_shape` must hold no negative size, got {shape!r}")
    return tuple(shape)


def _is_size(size: Any) -> bool:
    if isinstance(size, int | np.integer):
        return not isinstance(size, bool)
    return export.is_symbolic_dim(size)


def shapes_drawn(init: Callable[[Array], Any]) -> Any:
    """The parameters that a cell's `init` draws, as shapes alone.

    They are kept: to trace what draws them takes a tenth of the time in which JAX traces a whole
    gradient, and it does that anew within every `shard_map`.
    """
    return _shapes_drawn(init, jnp.result_type(float))


@functools.lru_cache
def _shapes_drawn(init: Callable[[Array], Any], floats: Any) -> Any:
    """The same, for this type of floats where none is named; they lie on no mesh."""
    # Within the function even the key is a shape alone: JAX does not begin with it.
    drawn = jax.eval_shape(lambda: init(jax.random.key(0)))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), drawn)


def leading(
    name: str, shape: tuple[int, ...], order: tuple[str, ...], wanted: tuple[int | None, ...]
) -> tuple[int, ...]:
    """What a shape begins with, "*batch" and what else; refuse one that does not end as wanted."""
    count = len(shape) - len(wanted)
    fits = count >= len(order) - 1 and all(
        size is None or size == given for size, given in zip(wanted, shape[count:], strict=True)
    )
    if not fits:
        sizes = [*order, *("any" if size is None else str(size) for size in wanted)]
        raise ValueError(f"`{name}` must have shape [{', '.join(sizes)}], got {list(shape)}")
    return shape[:count]


def checked(
    init: Callable[..., Any],
    initial_carry: Callable[..., Any],
    step: Callable[..., Any],
    input_shape: tuple[int | None, ...],
    silent: Callable[[Any], Any],
) -> dict[str, Callable[..., Any]]:
    """The functions of a cell, each of which looks at what it is given first.

    Args:
        init: that of `Cell`.
        initial_carry: likewise.
        step: likewise.
        input_shape: likewise.
        silent: leaves the noise of a carry out, which may be there or not.

    Returns:
        The three by name.
    """

    @functools.wraps(init)
    def checked_init(key: Array) -> Any:
        return init(check_key(key))

    @functools.lru_cache
    def shapes(batch_shape: tuple[int, ...] = ()) -> tuple[Any, Any]:
        params = shapes_drawn(checked_init)
        carry = jax.eval_shape(lambda params: silent(initial_carry(params, batch_shape)), params)
        return params, carry

    @functools.wraps(initial_carry)
    def checked_carry(params: Any, batch_shape: Any = (), **noise: Any) -> Any:
        check_tree("params", params, shapes()[0])
        if noise.get("key") is not None:
            noise["key"] = check_key(noise["key"])
        return initial_carry(params, check_batch_shape(batch_shape), **noise)

    @functools.wraps(step)
    def checked_step(params: Any, carry: Any, x: Array) -> Any:
        if not isinstance(x, np.ndarray | Array):
            raise TypeError(f"`x` must be an array, got {type(x).__name__}")
        wanted, before = shapes(leading("x", x.shape, ("*batch",), input_shape))
        check_tree("params", params, wanted)
        check_tree("carry", silent(carry), before)
        return step(params, carry, x)

    return {"init": checked_init, "initial_carry": checked_carry, "step": checked_step}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """An initialiser, as an argument of a factory, held to the shape that it is asked for.

    Args:
        name: of the argument.
        draw: the initialiser.
    """

    name: str
    draw: Callable[..., Any]

    @property
    def joint(self) -> bool:
        """Whether it draws the blocks of all gates as one array."""
        return getattr(self.draw, "joint", False)

    @property
    def blocks(self) -> int | None:
        """Of how many gates the bias is that it draws; None where that is all the same."""
        return getattr(self.draw, "blocks", None)

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: Any = "float32") -> Any:
        """What is drawn."""
        try:
            found = self.draw(key, shape, dtype)
        except ValueError as error:
            raise ValueError(f"`{self.name}`: {error}") from error
        if getattr(found, "shape", None) != tuple(shape):
            raise ValueError(
                f"`{self.name}` must give an array of shape {list(shape)}, got {layout(found)}"
            )
        return found
