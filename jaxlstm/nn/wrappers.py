"""Layers made of layers: both directions, and one on top of the other."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxlstm.cells.base import Cell
from jaxlstm.cells.combine import MERGES, bidirectional, check_chain, check_directions
from jaxlstm.nn.rnn import RNN, check_rngs, count_states, fresh
from jaxlstm.nn.travel import time_axis, travel

MERGE_MODES = {None if name == "none" else name: merge for name, merge in MERGES.items()}


class Bidirectional(nnx.Module):
    """One layer from the first step to the last, another back, and their outputs merged.

    With `return_sequences` each step has what the two directions gave there; without it, what each
    gave at the end of its way. Each travels within the valid steps of each sequence, and among the
    sequences a masked step gives zeros in both, whatever their `zero_output_for_mask`, as in Keras.
    Schuster & Paliwal (1997), "Bidirectional recurrent neural networks"; the interface of Keras.

    Args:
        layer: the layer that runs forward, an `RNN` such as `LSTM`.
        backward_layer: the one that runs backward, with `go_backwards=True`; if None, one like
            `layer` with weights of its own.
        merge_mode: "concat" on the last axis, "sum", "mul", "ave", or None for both outputs.
        rngs: draws the weights of the backward layer where none is given.

    Attributes:
        forward_layer: the layer that runs forward.
        backward_layer: the one that runs backward.

    Raises:
        TypeError: when a layer is no `RNN`, or `rngs` is missing.
        ValueError: when the two layers do not go opposite ways, return different things, or differ
            in `time_major`, `stateful` or their inputs, or the merge is unknown or needs outputs of
            equal shape.

    Examples:
        >>> import jax.numpy as jnp, jaxlstm as jl
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> layer = jl.nn.Bidirectional(jl.nn.LSTM(8, 4, return_state=True, rngs=rngs), rngs=rngs)
        >>> outputs, hidden, cell, back_hidden, back_cell = layer(jnp.ones((32, 10, 8)))
        >>> outputs.shape, back_cell.shape
        ((32, 8), (32, 4))
    """

    def __init__(
        self,
        layer: RNN,
        backward_layer: RNN | None = None,
        *,
        merge_mode: str | None = "concat",
        rngs: nnx.Rngs | None = None,
    ):
        _check_layer("layer", layer, RNN)
        if merge_mode not in list(MERGE_MODES):
            raise ValueError(f"`merge_mode` must be one of {list(MERGE_MODES)}, got {merge_mode!r}")
        if backward_layer is None:
            backward_layer = fresh(layer, check_rngs(rngs))
            backward_layer.go_backwards = not layer.go_backwards
        _check_layer("backward_layer", backward_layer, RNN)
        for name, wanted in (
            ("go_backwards", not layer.go_backwards),
            ("return_sequences", layer.return_sequences),
            ("return_state", layer.return_state),
            ("time_major", layer.time_major),
            ("stateful", layer.stateful),
        ):
            if (given := getattr(backward_layer, name)) != wanted:
                raise ValueError(f"`backward_layer` must have `{name}={wanted}`, got {given}")
        cells = layer.cell, backward_layer.cell
        check_directions(*cells, merge_mode or "none", ("backward_layer", "merge_mode"))
        self.forward_layer = layer
        self.backward_layer = backward_layer
        self.merge_mode = merge_mode

    return_sequences = property(lambda self: self.forward_layer.return_sequences)
    return_state = property(lambda self: self.forward_layer.return_state)
    time_major = property(lambda self: self.forward_layer.time_major)
    go_backwards = property(lambda self: self.forward_layer.go_backwards)

    def __call__(
        self,
        inputs: Array,
        *,
        mask: Array | None = None,
        lengths: Array | None = None,
        resets: Array | None = None,
        initial_state: Any = None,
        key: Array | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """Run both directions over `inputs`.

        Args:
            inputs: `[*batch, T, *input_shape]`, or time-major; floating point.
            mask: `[*batch, T]` bool, true where a step is valid.
            lengths: `[*batch]` int, the number of valid steps of each sequence.
            resets: `[*batch, T]` bool, true where a new sequence begins.
            initial_state: the states to begin with, those of the forward layer before those of the
                backward layer, as `return_state` gives them; zeros if None.
            key: randomness for layers that drop out.
            rngs: draws the key, from its stream `dropout`.

        Returns:
            The merged outputs, or with `return_state` a tuple of them and the parts of both
            carries. With `merge_mode=None` the two outputs stand in the place of one.

        Raises:
            TypeError, ValueError: when an argument does not fit; the message names it.
        """
        layers = (self.forward_layer, self.backward_layer)
        ragged = {"mask": mask, "lengths": lengths, "resets": resets}
        keys = (None, None) if key is None else jax.random.split(key)
        states = _split("initial_state", initial_state, layers)
        found = [
            travel(layer, inputs, True, initial_state=state, key=k, rngs=rngs, **ragged)
            for layer, state, k in zip(layers, states, keys, strict=True)
        ]
        (ahead, *ahead_state), (back, *back_state) = (
            each if self.return_state else (each,) for each in found
        )
        if self.return_sequences:
            axis = time_axis(self.forward_layer, jnp.ndim(inputs))
            back = jax.tree.map(lambda leaf: jnp.flip(leaf, axis), back)
        merged = MERGE_MODES[self.merge_mode](ahead, back)
        if not self.return_state:
            return merged
        outputs = merged if self.merge_mode is None else (merged,)
        return (*outputs, *ahead_state, *back_state)

    def reset_state(self) -> None:
        """Let stateful layers begin anew with the next call."""
        self.forward_layer.reset_state()
        self.backward_layer.reset_state()


class Stacked(nnx.Module):
    """Layers on top of each other: each reads the sequences of the one below.

    Args:
        *layers: from the input upwards, `RNN`s or `Bidirectional`s. All but the last must return
            sequences, in the order of the inputs, and time leads in all of them or in none.

    Attributes:
        layers: the layers, in an `nnx.List`.

    Raises:
        TypeError: when one is no layer.
        ValueError: when there is none, one below the last returns no sequences, time leads in some
            only, or the sizes of two neighbours do not fit.

    Examples:
        >>> import jax.numpy as jnp, jaxlstm as jl
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> layer = jl.nn.Stacked(
        ...     jl.nn.LSTM(8, 16, return_sequences=True, rngs=rngs), jl.nn.GRU(16, 4, rngs=rngs)
        ... )
        >>> layer(jnp.ones((32, 10, 8)), lengths=jnp.full(32, 7)).shape
        (32, 4)
    """

    def __init__(self, *layers: RNN | Bidirectional):
        if not layers:
            raise ValueError("`layers` must hold at least one layer, got none")
        for index, layer in enumerate(layers):
            name = f"layers[{index}]"
            _check_layer(name, layer, RNN | Bidirectional)
            if layer.time_major != (wanted := layers[0].time_major):
                raise ValueError(
                    f"`{name}` must have `time_major={wanted}`, got {layer.time_major}"
                )
            if index == len(layers) - 1:
                continue
            if not layer.return_sequences:
                raise ValueError(f"`{name}` must have `return_sequences=True`, got False")
            if layer.go_backwards:
                raise ValueError(f"`{name}` must have `go_backwards=False`, got True")
            if isinstance(layer, Bidirectional) and layer.merge_mode is None:
                raise ValueError(f"`{name}` must have a `merge_mode`, got None")
        check_chain("layers", [_cell(layer) for layer in layers])
        self.layers = nnx.List(layers)

    def __call__(
        self,
        inputs: Array,
        *,
        mask: Array | None = None,
        lengths: Array | None = None,
        resets: Array | None = None,
        initial_state: Any = None,
        key: Array | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """Run the layers over `inputs`.

        Args:
            inputs: what the first layer takes.
            mask: `[*batch, T]` bool, true where a step is valid, for every layer.
            lengths: `[*batch]` int, the number of valid steps of each sequence, likewise.
            resets: `[*batch, T]` bool, true where a new sequence begins, likewise.
            initial_state: the states to begin with, one entry for each layer; zeros if None.
            key: randomness for layers that drop out.
            rngs: draws the key, from its stream `dropout`.

        Returns:
            What the last layer returns. If any layer has `return_state`, a tuple of its outputs and
            the state of each such layer, a tuple each.

        Raises:
            TypeError, ValueError: when an argument does not fit; the message names it.
        """
        count = len(self.layers)
        ragged: Any = {"mask": mask, "lengths": lengths, "resets": resets}
        keys = [None] * count if key is None else list(jax.random.split(key, count))
        given = [None] * count if initial_state is None else initial_state
        if not isinstance(given, Sequence):
            raise TypeError(
                f"`initial_state` must be a list with an entry for each of {count} layers, got "
                f"{type(given).__name__}"
            )
        if len(given) != count:
            raise ValueError(
                f"`initial_state` must have an entry for each of {count} layers, got {len(given)}"
            )
        states = []
        for layer, state, k in zip(self.layers, given, keys, strict=True):
            inputs = layer(inputs, initial_state=state, key=k, rngs=rngs, **ragged)
            if layer.return_state:
                inputs, *parts = inputs
                states.append(tuple(parts))
        return (inputs, *states) if states else inputs

    def reset_state(self) -> None:
        """Let stateful layers begin anew with the next call."""
        for layer in self.layers:
            layer.reset_state()


def _check_layer(name: str, layer: Any, kinds: Any) -> None:
    if not isinstance(layer, kinds):
        given = type(layer).__name__
        raise TypeError(f"`{name}` must be a layer such as `jl.nn.LSTM`, got {given}")


def _cell(layer: RNN | Bidirectional) -> Cell:
    """The cell of a layer; that of both directions is one."""
    if isinstance(layer, RNN):
        return layer.cell
    cells = layer.forward_layer.cell, layer.backward_layer.cell
    return bidirectional(*cells, merge=layer.merge_mode or "none")


def _split(name: str, state: Any, layers: tuple[RNN, RNN]) -> tuple[Any, Any]:
    """The states of two layers, out of the arrays of both in a row."""
    if state is None:
        return None, None
    leaves = jax.tree.leaves(state)
    first, second = (count_states(layer) for layer in layers)
    if len(leaves) != first + second:
        raise ValueError(
            f"`{name}` must have {first} arrays of the forward layer and {second} of the backward "
            f"layer, got {len(leaves)}"
        )
    return leaves[:first], leaves[first:]
