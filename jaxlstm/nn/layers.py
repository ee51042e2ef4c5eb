"""Layers by name: each only chooses the cell of an `RNN`, in the words of Keras."""

from typing import Any, Unpack

from flax import nnx

from jaxlstm.cells import gru, lstm, rnn
from jaxlstm.cells.activations import Activation
from jaxlstm.cells.base import check_keywords, check_size
from jaxlstm.nn.keras import Initializer, dropped, forget_initializer, named
from jaxlstm.nn.rnn import RNN, Options


class LSTM(RNN):
    """Long short-term memory; the equations are those of `jaxlstm.lstm`.

    Args:
        in_features: I, the number of features of an input.
        units: H, the number of units.
        activation: of the candidate and the output: "tanh", "relu", "identity", "sigmoid" or a
            function.
        recurrent_activation: of the gates, likewise.
        use_bias: whether there is a bias.
        unit_forget_bias: start the forget gate's bias at one, whatever `bias_initializer` draws.
        kernel_initializer: of `kernel` [I, 4H]: a name, or a function `(key, shape, dtype)` such as
            those of `jaxlstm.initializers`. Names: "glorot_uniform", "orthogonal", "identity",
            "zeros", "ones".
        recurrent_initializer: of each gate's block of `recurrent_kernel` [H, 4H]. "orthogonal" is
            orthogonal per gate; the way of Keras is `initializers.orthogonal(joint=True)`.
            Initialisers wrapped in `nnx.with_partitioning` give their metadata to the parameters.
        bias_initializer: of `bias` [4H].
        dropout: the rate at which features of the inputs are dropped, one mask a sequence, where a
            call brings `key` or `rngs`.
        recurrent_dropout: likewise of what each gate sees of the last output, one mask a gate.
        param_dtype: type of the parameters.
        dtype: type of the factors of products and the outputs; that of the parameters if None.
            Gates are computed in float32 at least.
        cell_dtype: type of the memory; that of the parameters if None.
        rngs: draws the parameters.
        **options: `return_sequences`, `return_state`, `go_backwards` and the others of `RNN`.

    Raises:
        TypeError: when a size is no int, or another argument of the wrong type.
        ValueError: when a size is not positive, a rate not in [0, 1), or a name is unknown.

    Examples:
        >>> import jax.numpy as jnp, jaxlstm as jl
        >>> from flax import nnx
        >>> inputs = jnp.ones((32, 10, 8))
        >>> jl.nn.LSTM(8, 4, rngs=nnx.Rngs(0))(inputs).shape
        (32, 4)
        >>> layer = jl.nn.LSTM(8, 4, return_sequences=True, return_state=True, rngs=nnx.Rngs(0))
        >>> outputs, hidden, cell = layer(inputs)
        >>> outputs.shape, hidden.shape, cell.shape
        ((32, 10, 4), (32, 4), (32, 4))
        >>> layer.kernel.shape, layer.recurrent_kernel.shape, layer.bias.shape
        ((8, 16), (4, 16), (16,))
    """

    def __init__(
        self,
        in_features: int,
        units: int,
        *,
        activation: Activation = "tanh",
        recurrent_activation: Activation = "sigmoid",
        use_bias: bool = True,
        unit_forget_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        param_dtype: Any = "float32",
        dtype: Any = None,
        cell_dtype: Any = None,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        check_size("in_features", in_features)
        check_size("units", units)
        check_keywords(type(self).__name__, options, RNN.__init__)
        draw, options = named(options, kernel_initializer, recurrent_initializer, bias_initializer)
        draw["bias_init"] = forget_initializer(draw["bias_init"], unit_forget_bias)
        cell = lstm(
            input_size=in_features,
            hidden_size=units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            **draw,
            param_dtype=param_dtype,
            dtype=dtype,
            cell_dtype=cell_dtype,
        )
        super().__init__(dropped(cell, dropout, recurrent_dropout), rngs=rngs, **options)

    kernel = property(lambda self: self.weights.kernel, doc="`nnx.Param` [I, 4H].")
    recurrent_kernel = property(
        lambda self: self.weights.recurrent_kernel, doc="`nnx.Param` [H, 4H]."
    )
    bias = property(lambda self: self.weights.bias, doc="`nnx.Param` [4H], or None.")


class SimpleRNN(RNN):
    """The simple recurrent network, h_t = φ(x_t W + h_{t−1} U + b); see `jaxlstm.rnn`.

    Args:
        in_features: I, the number of features of an input.
        units: H, the number of units.
        activation: φ: "tanh", "relu", "identity", "sigmoid" or a function.
        use_bias: whether there is a bias.
        kernel_initializer: of `kernel` [I, H], a name or a function, as for `LSTM`.
        recurrent_initializer: of `recurrent_kernel` [H, H].
        bias_initializer: of `bias` [H].
        dropout: of the inputs, as for `LSTM`.
        recurrent_dropout: of the last output, as for `LSTM`.
        param_dtype: type of the parameters.
        dtype: type of the factors of products and the outputs; that of the parameters if None.
            Gates are computed in float32 at least.
        rngs: draws the parameters.
        **options: `return_sequences`, `return_state`, `go_backwards` and the others of `RNN`.

    Raises:
        TypeError: when a size is no int, or another argument of the wrong type.
        ValueError: when a size is not positive, a rate not in [0, 1), or a name is unknown.

    Examples:
        >>> import jax.numpy as jnp, jaxlstm as jl
        >>> from flax import nnx
        >>> layer = jl.nn.SimpleRNN(8, 4, return_state=True, rngs=nnx.Rngs(0))
        >>> outputs, hidden = layer(jnp.ones((32, 10, 8)))
        >>> outputs.shape, bool((outputs == hidden).all())
        ((32, 4), True)
    """

    def __init__(
        self,
        in_features: int,
        units: int,
        *,
        activation: Activation = "tanh",
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        param_dtype: Any = "float32",
        dtype: Any = None,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        check_size("in_features", in_features)
        check_size("units", units)
        check_keywords(type(self).__name__, options, RNN.__init__)
        draw, options = named(options, kernel_initializer, recurrent_initializer, bias_initializer)
        cell = rnn(
            input_size=in_features,
            hidden_size=units,
            activation=activation,
            use_bias=use_bias,
            **draw,
            param_dtype=param_dtype,
            dtype=dtype,
        )
        super().__init__(dropped(cell, dropout, recurrent_dropout), rngs=rngs, **options)

    kernel = property(lambda self: self.weights.kernel, doc="`nnx.Param` [I, H].")
    recurrent_kernel = property(
        lambda self: self.weights.recurrent_kernel, doc="`nnx.Param` [H, H]."
    )
    bias = property(lambda self: self.weights.bias, doc="`nnx.Param` [H], or None.")


class GRU(RNN):
    """Gated recurrent unit; the equations are those of `jaxlstm.gru`.

    The blocks of the kernels are in the order r, z, n; Keras has z, r, n.

    Args:
        in_features: I, the number of features of an input.
        units: H, the number of units.
        activation: of the candidate: "tanh", "relu", "identity", "sigmoid" or a
            function.
        recurrent_activation: of the gates, likewise.
        use_bias: whether there are biases.
        reset_after: whether the reset gate acts after the product with the recurrent kernel, with a
            second bias, or before it.
        kernel_initializer: of `kernel` [I, 3H], a name or a function, as for `LSTM`.
        recurrent_initializer: of each gate's block of `recurrent_kernel` [H, 3H].
        bias_initializer: of `bias` and `recurrent_bias` [3H].
        dropout: of the inputs, as for `LSTM`.
        recurrent_dropout: of what each gate sees of the last output, as for `LSTM`.
        param_dtype: type of the parameters.
        dtype: type of the factors of products and the outputs; that of the parameters if None.
            Gates are computed in float32 at least.
        rngs: draws the parameters.
        **options: `return_sequences`, `return_state`, `go_backwards` and the others of `RNN`.

    Raises:
        TypeError: when a size is no int, or another argument of the wrong type.
        ValueError: when a size is not positive, a rate not in [0, 1), or a name is unknown.

    Examples:
        >>> import jax.numpy as jnp, jaxlstm as jl
        >>> from flax import nnx
        >>> layer = jl.nn.GRU(8, 4, return_sequences=True, return_state=True, rngs=nnx.Rngs(0))
        >>> outputs, hidden = layer(jnp.ones((32, 10, 8)))
        >>> outputs.shape, hidden.shape, layer.recurrent_bias.shape
        ((32, 10, 4), (32, 4), (12,))
    """

    def __init__(
        self,
        in_features: int,
        units: int,
        *,
        activation: Activation = "tanh",
        recurrent_activation: Activation = "sigmoid",
        use_bias: bool = True,
        reset_after: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        param_dtype: Any = "float32",
        dtype: Any = None,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        check_size("in_features", in_features)
        check_size("units", units)
        check_keywords(type(self).__name__, options, RNN.__init__)
        draw, options = named(options, kernel_initializer, recurrent_initializer, bias_initializer)
        cell = gru(
            input_size=in_features,
            hidden_size=units,
            reset_after=reset_after,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            **draw,
            param_dtype=param_dtype,
            dtype=dtype,
        )
        super().__init__(dropped(cell, dropout, recurrent_dropout), rngs=rngs, **options)

    kernel = property(lambda self: self.weights.kernel, doc="`nnx.Param` [I, 3H].")
    recurrent_kernel = property(
        lambda self: self.weights.recurrent_kernel, doc="`nnx.Param` [H, 3H]."
    )
    bias = property(lambda self: self.weights.bias, doc="`nnx.Param` [3H], or None.")
    recurrent_bias = property(
        lambda self: self.weights.recurrent_bias, doc="`nnx.Param` [3H], or None."
    )
