"""Initialisers of the recurrent weights and biases: frozen, hashable, printable.

Every initialiser is called as `init(key, shape, dtype)`. The last two dimensions of a shape are a
matrix, those before them the window of a convolution. Those of a recurrent kernel fill one square
block `[H, H]` at a time: a cell calls them once for each gate, so that an orthogonal kernel
is orthogonal **per gate**. Drawing one orthogonal `[H, 4H]` matrix instead, as Keras does, leaves
each gate's block far from orthogonal; that way stays available as `orthogonal(joint=True)`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.cells.base import check_size
from jaxlstm.cells.describe import Described, described


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Initializer(Described):
    """A function `(key, shape, dtype) -> Array` that knows what it was made from.

    Args:
        draw: the function.
        joint: whether it draws the blocks of all gates as one array, not one by one.
        blocks: of how many gates the bias is that it draws; None where that is all the same.
    """

    draw: Callable[..., Array]
    joint: bool = False
    blocks: int | None = None

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: Any = "float32") -> Array:
        """Draw an array of `shape` and `dtype`; a ValueError where none has such a shape."""
        return self.draw(key, shape, dtype)


@described
def orthogonal(*, scale: float = 1.0, joint: bool = False) -> Initializer:
    """Scaled orthogonal matrices: all singular values equal `scale`.

    Saxe, McClelland, Ganguli (2014), "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks".

    Args:
        scale: the singular values; the gain of the recurrence.
        joint: one orthogonal matrix for the gates together, as Keras draws it, not one per gate.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> w = jl.initializers.orthogonal(scale=2.0)(jax.random.key(0), (3, 3))
        >>> bool(jnp.allclose(w @ w.T, 4 * jnp.eye(3), atol=1e-5))
        True
    """
    wide_draw = jax.nn.initializers.orthogonal(scale)

    def draw(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        _check_matrix("orthogonal", shape)
        half = jnp.finfo(dtype).bits < 32  # has no QR decomposition
        wide = "float32" if half else dtype
        return wide_draw(key, shape, wide).astype(dtype)

    return Initializer(draw, joint=joint)


@described
def identity(*, scale: float = 1.0) -> Initializer:
    """`scale` times the identity matrix; of a convolution, in the middle of its window.

    Le, Jaitly, Hinton (2015), "A simple way to initialize recurrent networks of rectified linear
    units".

    Args:
        scale: the value on the diagonal.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> jl.initializers.identity(scale=0.5)(jax.random.key(0), (2, 2))
        Array([[0.5, 0. ],
               [0. , 0.5]], dtype=float32)
    """

    def draw(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        _check_matrix("identity", shape)
        *window, rows, columns = shape
        middle = tuple((size - 1) // 2 for size in window)
        ones = jnp.asarray(scale, dtype) * jnp.eye(rows, columns, dtype=dtype)
        return jnp.zeros(shape, dtype).at[middle].set(ones)

    return Initializer(draw)


@described
def ginibre(*, gain: float = 1.0) -> Initializer:
    """Independent normal entries of standard deviation `gain / sqrt(N)`, N the number of rows.

    Of a convolution, N counts the rows of the matrices of its whole window.

    The spectral radius tends to `gain`, the largest singular value to `2 * gain` as N grows
    (Ginibre 1965): the matrix of mean-field theory.

    Args:
        gain: the spectral radius in the limit.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> jl.initializers.ginibre(gain=1.5)(jax.random.key(0), (64, 64)).shape
        (64, 64)
    """

    def draw(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        _check_matrix("ginibre", shape)
        deviation = gain / math.prod(shape[:-1]) ** 0.5
        return jnp.asarray(deviation, dtype) * jax.random.normal(key, shape, dtype)

    return Initializer(draw)


@described
def glorot_uniform() -> Initializer:
    """Uniform on ±√(6 / (fan_in + fan_out)) (Glorot & Bengio 2010).

    Examples:
        >>> import jax, jaxlstm as jl
        >>> float(abs(jl.initializers.glorot_uniform()(jax.random.key(0), (3, 3))).max()) < 1.0
        True
    """
    wide_draw = jax.nn.initializers.glorot_uniform()

    def draw(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        _check_matrix("glorot_uniform", shape)
        return wide_draw(key, shape, dtype)

    return Initializer(draw)


@described
def normal(*, stddev: float = 1.0) -> Initializer:
    """Independent normal entries of standard deviation `stddev`.

    Args:
        stddev: the standard deviation.

    Raises:
        ValueError: when `stddev` is negative.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> jl.initializers.normal(stddev=0.1)(jax.random.key(0), (2, 3)).shape
        (2, 3)
    """
    _check_not_negative("stddev", stddev)
    return Initializer(jax.nn.initializers.normal(stddev))


@described
def uniform(*, limit: float = 1.0) -> Initializer:
    """Uniform on [-limit, limit), as torch (limit = 1/√H) and the 1997 experiments (0.1) draw.

    Args:
        limit: the bound.

    Raises:
        ValueError: when `limit` is negative.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> float(abs(jl.initializers.uniform(limit=0.1)(jax.random.key(0), (9, 9))).max()) <= 0.1
        True
    """
    _check_not_negative("limit", limit)

    def draw(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return Initializer(draw)


@described
def constant(*, value: float = 0.0) -> Initializer:
    """Every entry equal to `value`.

    Args:
        value: the entry.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> jl.initializers.constant(value=2.0)(jax.random.key(0), (2,))
        Array([2., 2.], dtype=float32)
    """
    return Initializer(lambda key, shape, dtype: jnp.full(shape, value, dtype))


@described
def forget_bias(*, value: float = 1.0, others: Callable[..., Array] | None = None) -> Initializer:
    """LSTM bias `[4H]`: `value` at the forget gate, zero or another choice at i, g and o.

    A forget gate that starts open (value 1) lets the error flow back from the first update on:
    Gers, Schmidhuber, Cummins (2000), "Learning to forget"; Jozefowicz, Zaremba, Sutskever (2015),
    "An empirical exploration of recurrent network architectures", measured how much it matters.

    Args:
        value: the bias of the forget gate; the memory lasts about `1 + exp(value)` steps.
        others: initialiser of the rest; zero if None.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> jl.initializers.forget_bias(value=1.0)(jax.random.key(0), (8,))
        Array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32)
    """

    def draw(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        _check_bias("forget_bias", shape)
        size = shape[0] // 4
        bias = jnp.zeros(shape, dtype) if others is None else others(key, shape, dtype)
        return bias.at[size : 2 * size].set(value)

    return Initializer(draw, joint=True, blocks=4)


@described
def chrono(*, t_max: int) -> Initializer:
    """LSTM bias `[4H]` whose memories last from 1 to `t_max` steps: b_f ~ log U(1, t_max − 1).

    The input gate gets b_i = −b_f; g and o get zero. Tallec & Ollivier (2018), "Can recurrent
    neural networks warp time?".

    Args:
        t_max: the longest dependency expected, in steps, at least 3.

    Raises:
        ValueError: when `t_max` is less than 3.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> i, f, g, o = jl.initializers.chrono(t_max=100)(jax.random.key(0), (8,)).reshape(4, 2)
        >>> bool((i == -f).all()), bool((f >= 0).all()), g
        (True, True, Array([0., 0.], dtype=float32))
    """
    check_size("t_max", t_max)
    if t_max < 3:
        raise ValueError(f"`t_max` must be at least 3, got {t_max}")

    def draw(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        _check_bias("chrono", shape)
        forget = jnp.log(jax.random.uniform(key, (shape[0] // 4,), dtype, 1.0, t_max - 1.0))
        zeros = jnp.zeros_like(forget)
        return jnp.concatenate([-forget, forget, zeros, zeros])

    return Initializer(draw, joint=True, blocks=4)


def _check_matrix(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(f"`{name}` draws a matrix, got the shape {list(shape)}")


def _check_bias(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 1 or shape[0] % 4:
        raise ValueError(f"`{name}` draws the bias [4H] of an LSTM, got {list(shape)}")


def _check_not_negative(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"`{name}` must not be negative, got {value}")


def bias_blocks(init: Callable[..., Array], key: Array, size: int, gates: int, dtype: Any) -> Array:
    """A bias of `size` numbers for each gate, side by side.

    Refuses what knows the gates of an LSTM where there are others: `[3H]` is often a `[4H]` too.

    Args:
        init: the initialiser, of the whole bias.
        key: a random key.
        size: H, the numbers of a gate.
        gates: n, how many gates.
        dtype: type of the bias.

    Returns:
        `[nH]`.

    Raises:
        ValueError: when the initialiser draws the bias of another number of gates.

    Examples:
        >>> import jax, jaxlstm as jl
        >>> key, one = jax.random.key(0), jl.initializers.constant(value=1.0)
        >>> jl.initializers.bias_blocks(one, key, 2, 3, "float32")
        Array([1., 1., 1., 1., 1., 1.], dtype=float32)
    """
    blocks = getattr(init, "blocks", None)
    if blocks not in (None, gates):
        raise ValueError(
            f"`bias_init` must draw the bias of {gates} blocks of {size}, got an initialiser for "
            f"the {blocks} gates of an LSTM"
        )
    return init(key, (gates * size,), dtype)


def recurrent_blocks(
    init: Callable[..., Array], key: Array, shape: tuple[int, ...], gates: int, dtype: Any
) -> Array:
    """A recurrent kernel of one block of `shape` for each gate, side by side.

    Drawn block by block or, where the initialiser asks for it, as one matrix.
    """
    *rows, columns = shape
    if getattr(init, "joint", False):
        return init(key, (*rows, gates * columns), dtype)
    keys = jax.random.split(key, gates)
    return jnp.concatenate([init(k, shape, dtype) for k in keys], axis=-1)
