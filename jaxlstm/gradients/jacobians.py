"""State Jacobians: what really multiplies as gradients travel through time.

The lecture's product of N equal factors is not ∂ℓ/∂w but ∂state_T/∂state_t, the product of all
∂state_{s+1}/∂state_s. The products are kept in a scaled form, so that neither 10,000 vanishing nor
10,000 exploding steps leave the range of a float.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxlstm.cells.base import Carry, Cell, Params, check_choice
from jaxlstm.cells.trees import name_of
from jaxlstm.cells.vectors import flattened, numbers
from jaxlstm.gradients.trace import step_with_sites
from jaxlstm.gradients.walk import walk

NORMS = ("spectral", "frobenius")


def step_jacobians(
    cell: Cell,
    params: Params,
    carries: Carry,
    inputs: Array,
    path: Sequence[str] | None = None,
    cut: Sequence[str] | None = (),
) -> Array:
    """Give ∂state_{t+1}/∂state_t of one step, or of many by `vmap`.

    Args:
        cell: a cell that can be stepped.
        params: its parameters.
        carries: one unbatched carry, state_t.
        inputs: one unbatched input, x_t.
        path: names of parts of the carry, such as `("cell",)`. The Jacobian is then cut down to the
            rows and columns of these parts: everything else is held fixed. None for the whole.
        cut: names of gates, as `gates` gives them, that no gradient passes; None for all.

    Returns:
        `[S, S]`, S the numbers in the carry (or in the parts of the path), in the order of the
        flattened pytree; in float32 at least. A complex part counts as two: its real parts, then
        its imaginary ones.

    Raises:
        ValueError: when no part of the carry has a name in the path, or no gate one to be cut.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstm(input_size=2, hidden_size=3)
        >>> params = cell.init(jax.random.key(0))
        >>> carry = cell.initial_carry(params)
        >>> jl.gradients.step_jacobians(cell, params, carry, jnp.ones(2)).shape
        (6, 6)
        >>> path = ("cell",)
        >>> J = jl.gradients.step_jacobians(cell, params, carry, jnp.ones(2), path)
        >>> bool((J == jnp.diag(jnp.diag(J))).all())  # the cell path is diagonal: the forget gates
        True
    """
    flat, restore = flattened(carries)
    chosen = _chosen(carries, path)

    def step(part: Array) -> Array:
        state = part if chosen is None else flat.at[chosen].set(part)
        if cut is None or cut:
            carry = step_with_sites(cell, params, restore(state), inputs, cut)[0]
        else:
            carry, _ = cell.step(params, restore(state), inputs)
        new = flattened(carry)[0]
        return new if chosen is None else new[chosen]

    return jax.jacfwd(step)(flat if chosen is None else flat[chosen])


def jacobian_norms(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    carry: Carry | None = None,
    lengths: Array | None = None,
    path: Sequence[str] | None = None,
    cut: Sequence[str] | None = (),
    norm: str = "spectral",
    log: bool = False,
) -> Array:
    """Measure ‖∂state_T/∂state_t‖ for every t from 0 to T.

    With the whole carry this is the full Jacobian. With a `path` only the parts named there are
    followed from step to step, the others being held fixed: for an LSTM `path=("cell",)` gives the
    constant error carousel alone, ∂c_T/∂c_t = diag(∏ f_s) exactly, and the difference to the whole
    is what goes through h.

    The cost is that of S directional derivatives of each step, S the numbers in the carry, and for
    the spectral norm of an SVD of [S, S] at each step; memory O(T S + S²).

    Args:
        cell: a cell that can be stepped.
        params: its parameters.
        inputs: `[*batch, T, *input_shape]`.
        carry: the carry to begin with; the initial one if None.
        lengths: `[*batch]`, valid steps; T is then each sequence's own last valid step.
        path: names of parts of the carry; None for the whole.
        cut: names of gates, as `gates` gives them, that no gradient passes; None for all.
        norm: "spectral", the largest singular value, or "frobenius".
        log: return natural logarithms, which neither under- nor overflow.

    Returns:
        `[*batch, T + 1]`: entry t belongs to state_t, state_0 being the initial carry; the last is
        the norm of the identity.

    Raises:
        TypeError: when `cell` is no `Cell`.
        ValueError: when the cell cannot be stepped, a name is unknown, or `carry` brings noise.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.rnn(input_size=1, hidden_size=2, activation="identity",
        ...               recurrent_init=jl.initializers.orthogonal(scale=0.5))
        >>> params = cell.init(jax.random.key(0))
        >>> jl.gradients.jacobian_norms(cell, params, jnp.zeros((3, 1))).round(4)
        Array([0.125, 0.25 , 0.5  , 1.   ], dtype=float32)

    References:
        Pascanu, Mikolov, Bengio (2013), "On the difficulty of training recurrent neural networks";
        Hochreiter & Schmidhuber (1997), "Long short-term memory", for the carousel.
    """
    check_choice("norm", norm, NORMS)
    along = walk(cell, params, inputs, carry, lengths)

    def measure(carries: Carry, inputs: Array, valid: Array) -> Array:
        size, dtype = state_size(cell, params, path)
        start = jnp.eye(size, dtype=dtype), jnp.zeros((), dtype)

        def back(state: tuple[Array, Array], now: Any) -> tuple[Any, Array]:
            product, scale = state
            carry, x, is_valid = now
            jacobian = step_jacobians(cell, params, carry, x, path, cut)
            product = jnp.where(is_valid, product @ jacobian, product)
            largest = jnp.max(jnp.abs(product))
            unit = jnp.where(largest > 0, largest, jnp.ones_like(largest))
            product = product / unit
            scale = scale + jnp.log(unit)
            return (product, scale), scale + jnp.log(_norm(product, norm))

        _, found = lax.scan(back, start, (carries, inputs, valid), reverse=True)
        last = jnp.log(_norm(start[0], norm))
        return jnp.concatenate([found, last[None]])

    logs = along.rows(measure)(along.carries, along.inputs, along.valid)
    return logs if log else jnp.exp(logs)


def _norm(matrix: Array, norm: str) -> Array:
    if norm == "frobenius":
        return jnp.sqrt(jnp.sum(jnp.square(matrix)))
    return jnp.linalg.svd(matrix, compute_uv=False)[0]


def state_size(cell: Cell, params: Params, path: Sequence[str] | None) -> tuple[int, Any]:
    """How many numbers the carry, or the parts of a path, hold, and the type of their products."""
    carry = jax.eval_shape(lambda: cell.initial_carry(params))
    flat = jax.eval_shape(lambda carry: flattened(carry)[0], carry)
    chosen = _chosen(carry, path)
    return flat.size if chosen is None else chosen.size, flat.dtype


def _chosen(carry: Carry, path: Sequence[str] | None) -> np.ndarray | None:
    """Where the parts named in the path lie in the flattened carry."""
    if path is None:
        return None
    if isinstance(path, str):
        path = (path,)
    indices, names, offset = [], set(), 0
    for keys, leaf in jax.tree_util.tree_leaves_with_path(carry):
        name = name_of(keys)
        names.add(name)
        size = numbers(leaf.shape, leaf.dtype)
        if name in path:
            indices.append(np.arange(offset, offset + size))
        offset += size
    if wrong := sorted(set(path) - names) if path else [path]:
        raise ValueError(f"`path` must name parts of the carry, {sorted(names)}, got {wrong[0]!r}")
    return np.concatenate(indices)
