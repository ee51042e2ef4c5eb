"""The one recurrent layer: any cell over time, as a Flax NNX module."""

from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxlstm.cells import Cell
from jaxlstm.cells.base import Carry, Params, check_cell, check_size
from jaxlstm.cells.trees import check_tree, layout
from jaxlstm.unroll import unroll as run
from jaxlstm.unroll.checks import check_array, check_bool, check_inputs, chunk_length


class Options(TypedDict, total=False):
    """The keyword arguments that every layer shares; `RNN` says what they do."""

    return_sequences: bool
    return_state: bool
    go_backwards: bool
    zero_output_for_mask: bool
    time_major: bool
    truncate: int | None
    remat: str | int
    unroll: int


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
        truncate: stop gradients through time every so many steps, as in `jaxlstm.unroll`.
        remat: memory for time in the backward pass, as in `jaxlstm.unroll`.
        unroll: steps in one turn of the compiled loop, as in `jaxlstm.unroll`.
        rngs: draws the parameters, from its stream `params`; not kept.

    Attributes:
        cell: the cell.
        weights: the parameters, an `nnx.Param` in the place of every array of `cell.init`.
        params: the same pytree of plain arrays, as `cell.step` and `jaxlstm.unroll` take it.

    Raises:
        TypeError: when an argument is of the wrong type.
        ValueError: when an option is out of range.

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
        truncate: int | None = None,
        remat: str | int = "none",
        unroll: int = 1,
        rngs: nnx.Rngs,
    ):
        check_cell("cell", cell)
        for name, flag in (
            ("return_sequences", return_sequences),
            ("return_state", return_state),
            ("go_backwards", go_backwards),
            ("zero_output_for_mask", zero_output_for_mask),
            ("time_major", time_major),
        ):
            check_bool(name, flag)
        if cell.run is not None and not return_sequences:
            # Its last output is no summary: a backward cell has only just begun there.
            raise ValueError(f"`return_sequences` must be True for {cell!r}, got False")
        if truncate is not None:
            check_size("truncate", truncate)
        chunk_length(remat, 1)
        check_size("unroll", unroll)
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"`rngs` must be a flax.nnx.Rngs, got {rngs!r}")
        self.cell = cell
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.zero_output_for_mask = zero_output_for_mask
        self.time_major = time_major
        self.truncate = truncate
        self.remat = remat
        self.unroll = unroll
        self.weights = nnx.data(jax.tree.map(nnx.Param, cell.init(rngs.params())))

    @property
    def params(self) -> Params:
        """The parameters as plain arrays, in the pytree of `cell.init`."""
        return jax.tree.map(
            lambda param: param[...], self.weights, is_leaf=lambda x: isinstance(x, nnx.Param)
        )

    def __call__(
        self,
        inputs: Array,
        *,
        mask: Array | None = None,
        lengths: Array | None = None,
        resets: Array | None = None,
        initial_state: Any = None,
        key: Array | None = None,
    ) -> Any:
        """Run the cell over `inputs`.

        Args:
            inputs: `[*batch, T, *input_shape]`, or time-major; floating point.
            mask: `[*batch, T]` bool, true where a step is valid.
            lengths: `[*batch]` int, the number of valid steps of each sequence.
            resets: `[*batch, T]` bool, true where a new sequence begins.
            initial_state: the carry to begin with, or its arrays in a list, as `return_state` gives
                them; zeros if None.
            key: randomness for cells that drop out; without a key nothing is dropped.

        Returns:
            The outputs, or with `return_state` a tuple of the outputs and the parts of the carry
            after the last valid step. Without `return_sequences` a sequence that has no valid step
            gives zeros.

        Raises:
            TypeError, ValueError: when an argument does not fit; the message names it.
        """
        params, inputs = self.params, check_array("inputs", inputs)
        batch_shape, _ = check_inputs(self.cell, inputs, self.time_major)
        axis = 0 if self.time_major else len(batch_shape)
        if initial_state is not None:
            initial_state = self._carry(initial_state, batch_shape)
        outputs, carry, _ = run(
            self.cell,
            params,
            inputs,
            carry=initial_state,
            lengths=lengths,
            mask=mask,
            resets=resets,
            reverse=self.go_backwards,
            time_major=self.time_major,
            masked_outputs="zero" if self._zero_masked else "hold",
            truncate=self.truncate,
            remat=self.remat,
            unroll=self.unroll,
            key=key,
        )
        if self.go_backwards:
            outputs = jax.tree.map(lambda leaf: jnp.flip(leaf, axis), outputs)
        if not self.return_sequences:
            outputs = jax.tree.map(lambda leaf: _last(leaf, axis), outputs)
        if not self.return_state:
            return outputs
        return (outputs, *carry) if isinstance(carry, tuple) else (outputs, carry)

    @property
    def _zero_masked(self) -> bool:
        # The last valid output is the one held to the end, whatever the sequences show.
        return self.zero_output_for_mask and self.return_sequences

    def _carry(self, state: Any, batch_shape: tuple[int, ...]) -> Carry:
        """The state given, be it a carry or a list of its arrays, as a carry."""
        initial = jax.eval_shape(lambda: self.cell.initial_carry(self.params, batch_shape))
        leaves, structure = jax.tree.leaves(state), jax.tree.structure(initial)
        if len(leaves) != structure.num_leaves:
            raise ValueError(f"`initial_state` must be {layout(initial)}, got {layout(state)}")
        carry = jax.tree.unflatten(structure, leaves)
        check_tree("initial_state", carry, initial)
        return carry


def _last(outputs: Array, axis: int) -> Array:
    """The last of the outputs; of no outputs, zeros."""
    if outputs.shape[axis] == 0:
        return outputs.sum(axis)
    return lax.index_in_dim(outputs, -1, axis, keepdims=False)
