"""How a layer runs its cell over sequences, from the state that it is given or carries."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxlstm.cells.base import Carry, start
from jaxlstm.cells.noise import with_noise, without_noise
from jaxlstm.cells.trees import check_tree, layout
from jaxlstm.unroll import unroll as run
from jaxlstm.unroll.checks import check_array, check_inputs

if TYPE_CHECKING:
    from jaxlstm.nn.rnn import RNN


class RNNState(nnx.Variable):
    """A part of the carry that a stateful layer goes on from."""


def travel(
    layer: "RNN",
    inputs: Array,
    zero_masked: bool,
    *,
    mask: Array | None,
    lengths: Array | None,
    resets: Array | None,
    initial_state: Any,
    key: Array | None,
    rngs: nnx.Rngs | nnx.RngStream | None,
) -> Any:
    """What a call of a layer gives, with `zero_masked` for its own `zero_output_for_mask`."""
    params, inputs = layer.params, check_array("inputs", inputs)
    batch_shape, _ = check_inputs(layer.cell, inputs, layer.time_major)
    axis = time_axis(layer, inputs.ndim)
    key = None if layer.deterministic else _key(key, rngs)
    # The last valid output is the one held to the end, whatever the sequences show.
    ragged = mask is not None or lengths is not None
    hold = ragged and not (zero_masked and layer.return_sequences)
    outputs, carry, _ = run(
        layer.cell,
        params,
        inputs,
        carry=_first(layer, initial_state, batch_shape, key),
        lengths=lengths,
        mask=mask,
        resets=resets,
        reverse=layer.go_backwards,
        time_major=layer.time_major,
        masked_outputs="hold" if hold else "zero",
        truncate=layer.truncate,
        remat=layer.remat,
        unroll=layer.unroll,
        backend=layer.backend,
        key=key,
    )
    carry = without_noise(carry)
    if layer.stateful:
        _keep(layer, carry)
    if layer.go_backwards:
        outputs = jax.tree.map(lambda leaf: jnp.flip(leaf, axis), outputs)
    if not layer.return_sequences:
        outputs = jax.tree.map(lambda leaf: _last(leaf, axis), outputs)
    if not layer.return_state:
        return outputs
    return (outputs, *carry) if isinstance(carry, tuple) else (outputs, carry)


def time_axis(layer: "RNN", ndim: int) -> int:
    """Which axis of inputs with so many dimensions is time."""
    return 0 if layer.time_major else ndim - 1 - len(layer.cell.input_shape)


def plain_arrays(tree: Any) -> Any:
    """A pytree of variables as a pytree of their arrays."""
    return jax.tree.map(lambda v: v[...], tree, is_leaf=lambda x: isinstance(x, nnx.Variable))


def draw_key(rngs: nnx.Rngs, stream: str) -> Array:
    """The next key of a stream, or of the one named `default`."""
    if stream not in rngs and "default" not in rngs:
        raise ValueError(f"`rngs` must have a stream `{stream}` or `default`, got {list(rngs)}")
    return rngs[stream]()


def _first(
    layer: "RNN", state: Any, batch_shape: tuple[int, ...], key: Array | None
) -> Carry | None:
    """The carry to begin with, noise and all; None for that of the cell."""
    if state is None and layer.state is None:
        return None
    initial = start(layer.cell, layer.params, batch_shape, key)
    plain = without_noise(initial)
    if state is None:
        state = plain_arrays(layer.state)
        if jax.tree.map(jnp.shape, state) != jax.tree.map(jnp.shape, plain):
            raise ValueError(
                f"`inputs` must have the batch shape of the state that is carried, "
                f"{layout(state)}, got {list(batch_shape)}: call `reset_state` first"
            )
    # By name: JAX takes the parts of a dict in the order of its keys.
    if isinstance(state, Mapping) and set(state) == set(getattr(plain, "_fields", ())):
        state = plain._replace(**state)
    leaves, structure = jax.tree.leaves(state), jax.tree.structure(plain)
    other = isinstance(state, Mapping) and jax.tree.structure(state) != structure
    if len(leaves) != structure.num_leaves or other:
        raise ValueError(f"`initial_state` must be {layout(plain)}, got {layout(state)}")
    carry = jax.tree.unflatten(structure, leaves)
    check_tree("initial_state", carry, plain)
    return with_noise(carry, initial)


def _keep(layer: "RNN", carry: Carry) -> None:
    """Keep the carry for the next call."""
    if layer.state is None:
        layer.state = nnx.data(jax.tree.map(RNNState, carry))
        return
    kept = jax.tree.leaves(layer.state, is_leaf=lambda x: isinstance(x, RNNState))
    for variable, value in zip(kept, jax.tree.leaves(carry), strict=True):
        variable[...] = value


def _key(key: Array | None, rngs: Any) -> Array | None:
    if rngs is None:
        return key
    if key is not None:
        raise ValueError("`key` and `rngs` both bring randomness: give one of them")
    if not isinstance(rngs, nnx.Rngs | nnx.RngStream):
        raise TypeError(f"`rngs` must be a flax.nnx.Rngs or RngStream, got {rngs!r}")
    return draw_key(rngs, "dropout") if isinstance(rngs, nnx.Rngs) else rngs()


def _last(outputs: Array, axis: int) -> Array:
    """The last of the outputs; of no outputs, zeros."""
    if outputs.shape[axis] == 0:
        return outputs.sum(axis)
    return lax.index_in_dim(outputs, -1, axis, keepdims=False)
