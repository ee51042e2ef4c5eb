"""Convolutional LSTM layers in the words of Keras: series, images and volumes over time."""

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

from flax import nnx

from jaxlstm.cells import conv_lstm
from jaxlstm.cells.activations import Activation
from jaxlstm.nn.keras import Initializer, dropped, forget_initializer, named
from jaxlstm.nn.rnn import RNN, Options


class _ConvLSTM(RNN):
    """What the layers of 1, 2 and 3 dimensions share; `ConvLSTM2D` describes the arguments."""

    dims: ClassVar[int]

    def __init__(
        self,
        in_shape: Sequence[int],
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        dilation_rate: int | Sequence[int] = 1,
        activation: Activation = "tanh",
        recurrent_activation: Activation = "sigmoid",
        use_bias: bool = True,
        unit_forget_bias: bool = True,
        peepholes: bool = False,
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
        if not isinstance(in_shape, Sequence) or len(in_shape) != self.dims + 1:
            raise ValueError(
                f"`in_shape` must be {self.dims} sizes of space and one of channels, got "
                f"{in_shape!r}"
            )
        draw, options = named(options, kernel_initializer, recurrent_initializer, bias_initializer)
        draw["bias_init"] = forget_initializer(draw["bias_init"], unit_forget_bias)
        cell = conv_lstm(
            input_shape=tuple(in_shape),
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation_rate,
            peepholes=peepholes,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            **draw,
            param_dtype=param_dtype,
            dtype=dtype,
            cell_dtype=cell_dtype,
        )
        super().__init__(dropped(cell, dropout, recurrent_dropout), rngs=rngs, **options)

    kernel = property(lambda self: self.weights.kernel, doc="`nnx.Param` [*kernel_size, C, 4F].")
    recurrent_kernel = property(
        lambda self: self.weights.recurrent_kernel, doc="`nnx.Param` [*kernel_size, F, 4F]."
    )
    bias = property(lambda self: self.weights.bias, doc="`nnx.Param` [4F], or None.")


class ConvLSTM1D(_ConvLSTM):
    """A convolutional LSTM over series: inputs `[B, T, L, C]`; arguments as for `ConvLSTM2D`.

    Examples:
        >>> import jax.numpy as jnp, jaxlstm as jl
        >>> from flax import nnx
        >>> jl.nn.ConvLSTM1D((16, 2), 4, 3, rngs=nnx.Rngs(0))(jnp.ones((2, 5, 16, 2))).shape
        (2, 14, 4)
    """

    dims = 1


class ConvLSTM2D(_ConvLSTM):
    """A convolutional LSTM over images, such as those of a video; see `jaxlstm.conv_lstm`.

    Args:
        in_shape: `(height, width, C)` of an input, channels last.
        filters: F, the channels of the state and of the outputs.
        kernel_size: the window, one int or one for each dimension.
        strides: of the convolution of the input.
        padding: "valid" or "same", of the convolution of the input; the state is padded "same".
        dilation_rate: of the convolution of the input.
        activation: of the candidate and the output: "tanh", "relu", "identity", "sigmoid" or a
            function.
        recurrent_activation: of the gates, likewise.
        use_bias: whether there is a bias.
        unit_forget_bias: start the forget gate's bias at one.
        peepholes: whether the gates see the memory (Shi 2015); Keras has none.
        kernel_initializer: of `kernel` [*kernel_size, C, 4F], as for `LSTM`.
        recurrent_initializer: of each gate's block of `recurrent_kernel` [*kernel_size, F, 4F].
        bias_initializer: of `bias` [4F].
        dropout: of the inputs, as for `LSTM`.
        recurrent_dropout: of what each gate sees of the last output, as for `LSTM`.
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
        >>> layer = jl.nn.ConvLSTM2D(
        ...     (16, 16, 1), 4, 3, padding="same", return_state=True, rngs=nnx.Rngs(0)
        ... )
        >>> outputs, hidden, cell = layer(jnp.ones((2, 5, 16, 16, 1)))
        >>> outputs.shape, cell.shape
        ((2, 16, 16, 4), (2, 16, 16, 4))
    """

    dims = 2


class ConvLSTM3D(_ConvLSTM):
    """A convolutional LSTM over volumes: `[B, T, D, H, W, C]`; arguments as for `ConvLSTM2D`.

    Examples:
        >>> import jax.numpy as jnp, jaxlstm as jl
        >>> from flax import nnx
        >>> layer = jl.nn.ConvLSTM3D((4, 6, 6, 1), 2, (2, 3, 3), rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 3, 4, 6, 6, 1))).shape
        (2, 3, 4, 4, 2)
    """

    dims = 3
