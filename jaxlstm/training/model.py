"""The network of a training: symbols or features in, cells over time, a linear readout."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import jaxlstm as jl
from jaxlstm import config
from jaxlstm.cells.products import affine
from jaxlstm.training import blocks

# A one-hot product has a matrix product for its gradient, an indexed read a scatter, which is slow
# on a CPU; for a large vocabulary the product costs more.
LARGEST_ONE_HOT = 1024


class Readout(NamedTuple):
    """The linear readout: `kernel` [H, O] and `bias` [O] or None."""

    kernel: Array
    bias: Array | None


class Params(NamedTuple):
    """All that is learnt: `embedding` [V, E] or None, the parameters of the cell, the readout."""

    embedding: Array | None
    cell: Any
    readout: Readout


@dataclass(frozen=True)
class Model:
    """A network as pure functions.

    Args:
        cell: the recurrent cell, a stack where there are several layers.
        init: `init(key) -> Params`.
        encode: `encode(params, inputs)`: what the cell reads, `[…, E]`, from symbols `[…]` or from
            features `[…, I]`.
        every_step: whether `apply` gives an output for every step.
        layers: the cells one by one, from the input upwards.
        dropout: the share of outputs that `apply` drops above each layer when it gets a key.
    """

    cell: jl.Cell
    init: Callable[[Array], Any]
    encode: Callable[[Params, Array], Array]
    every_step: bool
    layers: tuple[jl.Cell, ...] = ()
    dropout: float = 0.0

    def apply(
        self,
        params: Params,
        inputs: Array,
        lengths: Array | None = None,
        *,
        key: Array | None = None,
    ) -> Array:
        """Run the network over whole sequences.

        Args:
            params: from `init`.
            inputs: `[B, T]` symbols or `[B, T, I]` features.
            lengths: `[B]` valid steps; all if None.
            key: what the outputs to be dropped are drawn from; nothing is dropped if None.

        Returns:
            `[B, T, O]`, or `[B, O]` from the last valid step.
        """
        encoded, hold = self.encode(params, inputs), self.masked_outputs
        if key is not None and self.dropout:
            return self._dropping(params, encoded, lengths, key)
        out = jl.unroll(self.cell, params.cell, encoded, lengths=lengths, masked_outputs=hold)
        return self.readout(params, out.outputs)

    def _dropping(self, params: Params, inputs: Array, lengths: Array | None, key: Array) -> Array:
        """Layer by layer, so that the backward pass is as fast as without noise in a carry."""
        cells = (params.cell,) if len(self.layers) == 1 else params.cell
        hold = self.masked_outputs
        for index, (layer, weights) in enumerate(zip(self.layers, cells, strict=True)):
            out = jl.unroll(layer, weights, inputs, lengths=lengths, masked_outputs=hold)
            inputs = dropped(jax.random.fold_in(key, index), out.outputs, self.dropout)
        return self.readout(params, inputs)

    @property
    def masked_outputs(self) -> str:
        """What `unroll` is to give behind a sequence's end, for `readout` to read."""
        return "zero" if self.every_step else "hold"

    def readout(self, params: Params, outputs: Array) -> Array:
        """From the cell's outputs `[B, T, H]` to the network's."""
        return read(params, outputs if self.every_step else outputs[:, -1])

    def step(self, params: Params, carry: Any, inputs: Array) -> tuple[Any, Array]:
        """Take one step, streaming: `[B]` symbols or `[B, I]` features to `[B, O]`."""
        carry, output = self.cell.step(params.cell, carry, self.encode(params, inputs))
        return carry, read(params, output)


def build(
    spec: config.FeatureModel, *, input_size: int, output_size: int, tokens: bool, every_step: bool
) -> Model:
    """Build the network that a config describes, for a task of the given sizes.

    Args:
        spec: the `[model]` table.
        input_size: features of a step, or the number of symbols.
        output_size: outputs of a step.
        tokens: whether inputs are symbols.
        every_step: whether there is an output for every step.

    Returns:
        A `Model`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxlstm.config import LSTM
        >>> model = build(
        ...     LSTM(hidden_size=4, layers=2), input_size=3, output_size=5, tokens=True,
        ...     every_step=True,
        ... )
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.zeros((2, 7), jnp.int32)).shape
        (2, 7, 5)
    """
    embedding_size = spec.embedding_size if tokens else None
    sizes = [embedding_size or input_size, *[spec.hidden_size] * spec.layers]
    layers = tuple(_cell(spec, below, above) for below, above in itertools.pairwise(sizes))
    cell = layers[0] if len(layers) == 1 else jl.stack(*layers)

    def init(key: Array) -> Params:
        k_embedding, k_cell, k_readout = jax.random.split(key, 3)
        embedding = None
        if embedding_size is not None:
            embedding = jax.random.normal(k_embedding, (input_size, embedding_size), jnp.float32)
        if isinstance(spec, config.LSTM1997):
            weights = blocks.init(spec, cell, k_cell)
            return Params(
                embedding, weights, Readout(*blocks.readout(spec, k_readout, output_size))
            )
        return Params(embedding, *begun(cell, (k_cell, k_readout), (sizes[-1], output_size)))

    def encode(params: Params, inputs: Array) -> Array:
        if not tokens:
            return inputs
        if params.embedding is not None and input_size > LARGEST_ONE_HOT:
            return params.embedding[inputs]
        one_hot = jax.nn.one_hot(inputs, input_size, dtype=jnp.float32)
        return one_hot if params.embedding is None else one_hot @ params.embedding

    return Model(cell, init, encode, every_step, layers, spec.dropout)


def begun(
    cell: jl.Cell, keys: Array | tuple[Array, Array], shape: tuple[int, int]
) -> tuple[Any, Readout]:
    """Draw the parameters of a cell, and a readout: Glorot's uniform weights `shape`, biases of 0.

    Examples:
        >>> import jax
        >>> cell, keys = jl.rnn(input_size=2, hidden_size=3), jax.random.split(jax.random.key(0))
        >>> begun(cell, keys, (3, 1))[1].bias
        Array([0.], dtype=float32)
    """
    k_cell, k_readout = keys
    kernel = jl.initializers.glorot_uniform()(k_readout, shape, jnp.float32)
    return cell.init(k_cell), Readout(kernel, jnp.zeros(shape[1]))


def read(params: Params, hidden: Array) -> Array:
    """Apply the readout to hidden states `[…, H]`."""
    return affine(hidden, params.readout.kernel, params.readout.bias, hidden.dtype)


def dropped(key: Array, outputs: Array, rate: float) -> Array:
    """Drop outputs, each by itself, and scale those that stay by 1 / (1 − rate).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> found = dropped(jax.random.key(0), jnp.ones((100, 10)), 0.2)
        >>> sorted(set(found.ravel().tolist())), 150 < int((found == 0).sum()) < 250
        ([0.0, 1.25], True)
    """
    kept = jax.random.bernoulli(key, 1 - rate, outputs.shape)
    return jnp.where(kept, outputs / (1 - rate), 0)


def count(params: Any) -> int:
    """Count the numbers in a pytree of arrays, or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _cell(spec: config.FeatureModel, input_size: int, hidden_size: int) -> jl.Cell:
    if isinstance(spec, config.LSTM1997):
        return blocks.cell(spec, input_size)
    sizes: dict[str, Any] = {"input_size": input_size, "hidden_size": hidden_size}
    sizes["dtype"] = dtype_of(spec)
    sizes["kernel_init"] = _initializer(spec.kernel_init)
    sizes["recurrent_init"] = _initializer(spec.recurrent_init)
    if isinstance(spec, config.RNN):
        return jl.rnn(**sizes, activation=spec.activation)
    if isinstance(spec, config.GRU):
        return jl.gru(**sizes, reset_after=spec.reset_after)
    if spec.chrono_t_max is not None:
        return jl.lstm(**sizes, bias_init=jl.initializers.chrono(t_max=spec.chrono_t_max))
    return jl.lstm(**sizes, forget_bias=1.0 if spec.forget_bias is None else spec.forget_bias)


def dtype_of(spec: config.LSTM | config.RNN | config.GRU | config.ConvLSTM) -> str | None:
    """The type to compute in where it is not that of the parameters, which is float32."""
    return None if spec.dtype == "float32" else spec.dtype


def _initializer(spec: config.KernelInit | config.RecurrentInit) -> Callable[..., Array]:
    match spec:
        case config.Orthogonal():
            return jl.initializers.orthogonal(scale=spec.scale, joint=spec.joint)
        case config.Identity():
            return jl.initializers.identity(scale=spec.scale)
        case config.Ginibre():
            return jl.initializers.ginibre(gain=spec.gain)
        case config.GlorotUniform():
            return jl.initializers.glorot_uniform()
        case config.Uniform():
            return jl.initializers.uniform(limit=spec.limit)
        case config.Normal():
            return jl.initializers.normal(stddev=spec.stddev)
