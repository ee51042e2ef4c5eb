"""The one recurrent layer: any cell over time, as a Flax NNX module."""

from collections.abc import Mapping
from typing import Any, TypedDict

import jax
from flax import nnx
from jax import Array

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Params, check_cell, check_choice, check_size, shapes_of
from jaxlstm.cells.trees import check_tree, name_of
from jaxlstm.nn.travel import draw_key, plain_arrays, travel
from jaxlstm.unroll.checks import check_bool, chunk_length
from jaxlstm.unroll.engine import BACKENDS


class Options(TypedDict, total=False):
    """The keyword arguments that every layer shares; `RNN` says what they do."""

    return_sequences: bool
    return_state: bool
    go_backwards: bool
    zero_output_for_mask: bool
    time_major: bool
    stateful: bool
    truncate: int | None
    remat: str | int
    unroll: int | None
    backend: str
    metadata: Mapping[str, Mapping[str, Any]]


class RNN(nnx.Module):
    """A cell over sequences, called as a Keras layer is.

        outputs = layer(inputs)                       # [B, H], the last valid output
        outputs = layer(inputs)                       # [B, T, H] with return_sequences
        outputs, *state = layer(inputs)               # with return_state

    Args:
        cell: any `jaxlstm.Cell`, a `jaxlstm.stack` for instance.
        return_sequences: give the output of every step, not only the last valid one. A cell that
            sees whole sequences, such as `jaxlstm.bidirectional`, gives nothing else.
        return_state: give the parts of the last carry too, after the outputs: `hidden, cell` for an
            LSTM, one carry for each layer of a stack.
        go_backwards: travel from the last step to the first and give the outputs in that order, as
            Keras does.
        zero_output_for_mask: what a masked step gives among the sequences: zeros, or else the last
            valid output (zeros before the first).
        time_major: inputs, masks and sequences lead with time: `[T, B, …]`.
        stateful: begin each call with the carry that the last one ended with, until `reset_state`.
            The carry is kept in `state`, so `nnx.jit` hands it on; under plain `jax.jit` return the
            layer beside the outputs.
        truncate: stop gradients through time every so many steps, as in `jaxlstm.unroll`.
        remat: memory for time in the backward pass, as in `jaxlstm.unroll`.
        unroll: steps in one turn of the compiled loop, as in `jaxlstm.unroll`.
        backend: how the sequence is run, as in `jaxlstm.unroll`.
        params: the parameters to begin with, such as `jaxlstm.convert` gives them; drawn if None.
        metadata: of the parameters by name, given to their `nnx.Param`s, for instance
            `{"kernel": {"out_sharding": (None, "model")}}`.
        rngs: draws the parameters, from its stream `params`; not kept. Not needed with `params`.

    Attributes:
        cell: the cell.
        weights: the parameters, an `nnx.Param` in the place of every array of `cell.init`.
        params: the same pytree of plain arrays, as `cell.step` and `jaxlstm.unroll` take it.
        deterministic: whether nothing is dropped though a key comes; `eval()` and `train()` of Flax
            set it.
        state: the carry of a stateful layer, an `RNNState` in the place of every array; or None.

    Raises:
        TypeError: when an argument is of the wrong type.
        ValueError: when an option is out of range, `rngs` has no stream to draw from, or no
            parameter has a name in `metadata`.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> from flax import nnx
        >>> cell = jl.stack(
        ...     jl.lstm(input_size=8, hidden_size=4), jl.rnn(input_size=4, hidden_size=3)
        ... )
        >>> layer = jl.nn.RNN(cell, return_state=True, rngs=nnx.Rngs(0))
        >>> outputs, below, above = layer(jnp.ones((32, 10, 8)))
        >>> outputs.shape, below.cell.shape, bool((outputs == above.hidden).all())
        ((32, 3), (32, 4), True)

        It is a pytree, so plain `jax.grad` gives gradients in the shape of the layer:

        >>> gradient = jax.grad(lambda layer: layer(jnp.ones((32, 10, 8)))[0].sum())(layer)
        >>> gradient.params[0].kernel.shape
        (8, 16)
    """

    def __init__(
        self,
        cell: Cell,
        *,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
        time_major: bool = False,
        stateful: bool = False,
        truncate: int | None = None,
        remat: str | int = "none",
        unroll: int | None = None,
        backend: str = "auto",
        params: Params | None = None,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        check_cell("cell", cell)
        for name, flag in (
            ("return_sequences", return_sequences),
            ("return_state", return_state),
            ("go_backwards", go_backwards),
            ("zero_output_for_mask", zero_output_for_mask),
            ("time_major", time_major),
            ("stateful", stateful),
        ):
            check_bool(name, flag)
        if cell.whole and not return_sequences:
            # Its last output is no summary: a backward cell has only just begun there.
            raise ValueError(f"`return_sequences` must be True for {cell!r}, got False")
        if truncate is not None:
            check_size("truncate", truncate)
        chunk_length(remat, 1)
        if unroll is not None:
            check_size("unroll", unroll)
        check_choice("backend", backend, BACKENDS)
        if params is None:
            params = cell.init(draw_key(check_rngs(rngs), "params"))
        else:
            check_tree("params", params, shapes_of(cell))
        self.cell = cell
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.zero_output_for_mask = zero_output_for_mask
        self.time_major = time_major
        self.stateful = stateful
        self.truncate = truncate
        self.remat = remat
        self.unroll = unroll
        self.backend = backend
        self.deterministic = False
        self.weights = nnx.data(_variables(params, metadata or {}))
        self.state = nnx.data(None)

    @property
    def params(self) -> Params:
        """The parameters as plain arrays, in the pytree of `cell.init`."""
        return plain_arrays(self.weights)

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
        """Run the cell over `inputs`.

        Args:
            inputs: `[*batch, T, *input_shape]`, or time-major; floating point.
            mask: `[*batch, T]` bool, true where a step is valid.
            lengths: `[*batch]` int, the number of valid steps of each sequence.
            resets: `[*batch, T]` bool, true where a new sequence begins.
            initial_state: the carry to begin with, or its arrays in a list, as `return_state` gives
                them, or by name in a dict; if None, the carried state of a stateful layer, or else
                zeros.
            key: randomness for cells that drop out. Without `key` and `rngs` nothing is dropped.
            rngs: draws the key, from its stream `dropout`.

        Returns:
            The outputs, or with `return_state` a tuple of the outputs and the parts of the carry
            after the last valid step, without the noise of cells that drop out. Without
            `return_sequences` a sequence that has no valid step gives zeros.

        Raises:
            TypeError, ValueError: when an argument does not fit; the message names it.
        """
        return travel(
            self,
            inputs,
            self.zero_output_for_mask,
            mask=mask,
            lengths=lengths,
            resets=resets,
            initial_state=initial_state,
            key=key,
            rngs=rngs,
        )

    def reset_state(self) -> None:
        """Let a stateful layer begin anew with the next call, with any batch shape."""
        self.state = nnx.data(None)


def fresh(layer: RNN, rngs: nnx.Rngs) -> RNN:
    """A layer like another, with weights of its own and nothing carried yet."""
    new = nnx.clone(layer)
    new.reset_state()
    variables = jax.tree.leaves(new.weights, is_leaf=lambda x: isinstance(x, nnx.Param))
    drawn = jax.tree.leaves(layer.cell.init(draw_key(rngs, "params")))
    for variable, value in zip(variables, drawn, strict=True):
        variable[...] = value
    return new


def count_states(layer: RNN) -> int:
    """The number of arrays in the carry of a layer."""
    return len(jax.tree.leaves(jax.eval_shape(layer.cell.initial_carry, layer.params)))


def check_rngs(rngs: Any) -> nnx.Rngs:
    """Refuse what draws no parameters."""
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"`rngs` must be a flax.nnx.Rngs, got {rngs!r}")
    return rngs


def _variables(params: Params, metadata: Mapping[str, Mapping[str, Any]]) -> Any:
    """An `nnx.Param` for every array, with the metadata of its name."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [name_of(path) for path, _ in leaves]
    for name in metadata:
        if name not in names:
            raise ValueError(f"`metadata` must name parameters among {names}, got {name!r}")
    variables = [
        nnx.Param(leaf, **metadata.get(name, {}))
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, variables)
