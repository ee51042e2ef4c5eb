"""The network: cells, how many of them, how they begin."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from jaxlstm.config.base import Kind, Part, Positive, Share, Width


class Orthogonal(Kind, frozen=True, tag="orthogonal"):
    """Recurrent weights with all singular values equal to `scale`, each gate by itself.

    Args:
        scale: the singular values.
        joint: draw the gates as one matrix, as Keras does; each gate is then far from orthogonal.
    """

    scale: Positive = 1.0
    joint: bool = False


class Identity(Kind, frozen=True, tag="identity"):
    """Recurrent weights of `scale` times the identity.

    Args:
        scale: the value on the diagonal.
    """

    scale: Positive = 1.0


class Ginibre(Kind, frozen=True, tag="ginibre"):
    """Independent normal recurrent weights of standard deviation `gain / sqrt(hidden_size)`.

    Args:
        gain: the spectral radius for a wide network.
    """

    gain: Positive = 1.0


class GlorotUniform(Kind, frozen=True, tag="glorot_uniform"):
    """Uniform weights whose limit follows from the numbers of rows and columns."""


class Uniform(Kind, frozen=True, tag="uniform"):
    """Uniform weights.

    Args:
        limit: the largest absolute value.
    """

    limit: Positive = 0.1


class Normal(Kind, frozen=True, tag="normal"):
    """Independent normal weights.

    Args:
        stddev: the standard deviation.
    """

    stddev: Positive = 1.0


KernelInit = GlorotUniform | Uniform | Normal
RecurrentInit = Orthogonal | Identity | Ginibre | GlorotUniform | Uniform | Normal
Precision = Literal["float32", "bfloat16"]
Depth = Annotated[int, Meta(ge=1, le=64)]


class _Cell(Part, frozen=True, tag_field="cell"):
    """A network, of the kind of cell that its key `cell` names."""


class _Common(_Cell, frozen=True, kw_only=True):
    """What stands behind the keys of the cells themselves, as keyword-only fields do.

    Args:
        kernel_init: how the weights of the inputs begin, those from layer to layer among them.
        recurrent_init: how the recurrent weights begin.
        embedding_size: learn a vector of this size for each symbol of a token task; symbols come
            in one-hot if left out.
        dropout: while it trains, the share of outputs that are dropped at each step, between two
            layers and before the readout (Zaremba, Sutskever, Vinyals 2014).
        dtype: type of what is multiplied, of states and of outputs. With "bfloat16" what is learnt,
            the memory, the gates, the activations and the loss stay in float32.
    """

    kernel_init: KernelInit = GlorotUniform()
    recurrent_init: RecurrentInit = Orthogonal()
    embedding_size: Width | None = None
    dropout: Share = 0.0
    dtype: Precision = "float32"


class _Recurrent(_Common, frozen=True):
    """What stands before them.

    Args:
        hidden_size: units of a layer.
        layers: cells on top of each other.
    """

    hidden_size: Width
    layers: Depth = 1


class LSTM(_Recurrent, frozen=True, tag="lstm"):
    """Long short-term memory cells and a linear readout.

    Args:
        forget_bias: where the bias of the forget gate starts; 1 if left out.
        chrono_t_max: draw the gate biases for memories of 1 to so many steps instead (Tallec &
            Ollivier 2018); not together with `forget_bias`.
    """

    forget_bias: float | None = None
    chrono_t_max: Annotated[int, Meta(ge=3, le=10_000_000)] | None = None

    def __post_init__(self) -> None:
        if self.forget_bias is not None and self.chrono_t_max is not None:
            raise ValueError("expected one of `forget_bias` and `chrono_t_max`, got both")


class RNN(_Recurrent, frozen=True, tag="rnn"):
    """Simple recurrent cells (Elman 1990) and a linear readout.

    Args:
        activation: the nonlinearity.
    """

    activation: Literal["tanh", "relu", "identity", "sigmoid"] = "tanh"


class GRU(_Recurrent, frozen=True, tag="gru"):
    """Gated recurrent units (Cho et al. 2014) and a linear readout.

    Args:
        reset_after: whether the reset gate acts after the product with the state, as in cuDNN and
            torch, or before it, as in the paper.
    """

    reset_after: bool = True


class LSTM1997(_Cell, frozen=True, tag="lstm-1997"):
    """Memory blocks as Hochreiter & Schmidhuber published them, and a linear readout.

    The inputs reach the hidden units alone, and the readout reads the cells alone.

    Args:
        blocks: memory blocks, each with one input gate and one output gate.
        block_size: cells of a block.
        input_gate_bias: where the biases of the input gates start: one number, or one for each
            block; as `biases` says if left out.
        output_gate_bias: likewise for the output gates.
        cell_bias: whether the cells' inputs have biases.
        readout_bias: whether the readout has one.
        truncated: the paper's truncated gradients, or full backpropagation through time.
        limit: all weights, those of the readout too, begin uniform within ±limit.
        biases: where biases begin that no number is given for: "drawn" like the weights, since in
            1997 a bias is the weight of a unit that is always on, or "zero".
    """

    layers: ClassVar[int] = 1
    embedding_size: ClassVar[None] = None
    dropout: ClassVar[float] = 0.0

    blocks: Width
    block_size: Width = 1
    input_gate_bias: float | tuple[float, ...] | None = None
    output_gate_bias: float | tuple[float, ...] | None = None
    cell_bias: bool = True
    readout_bias: bool = True
    truncated: bool = True
    limit: Positive = 0.1
    biases: Literal["drawn", "zero"] = "drawn"

    def __post_init__(self) -> None:
        for name in ("input_gate_bias", "output_gate_bias"):
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) != self.blocks:
                raise ValueError(
                    f"{name}: expected one number for each of blocks = {self.blocks}, got "
                    f"{len(given)}"
                )

    @property
    def hidden_size(self) -> int:
        """The cells of all blocks."""
        return self.blocks * self.block_size


class ConvLSTM(_Cell, frozen=True, tag="conv-lstm"):
    """Convolutional LSTM cells (Shi et al. 2015) and a readout of 1 x 1, for tasks over frames.

    Args:
        filters: channels of a layer.
        kernel_size: the side of the window that a pixel sees, of the layer below and of the past.
        layers: cells on top of each other.
        forget_bias: where the bias of the forget gate starts.
        peepholes: whether the gates see the memory, each pixel by weights of its own.
        dtype: type of what is multiplied, of states and of outputs. With "bfloat16" what is learnt,
            the memory, the gates and the loss stay in float32.
    """

    embedding_size: ClassVar[None] = None

    filters: Width
    kernel_size: Annotated[int, Meta(ge=1, le=1024)] = 3
    layers: Depth = 1
    forget_bias: float = 1.0
    peepholes: bool = False
    dtype: Precision = "float32"


FeatureModel = LSTM | RNN | GRU | LSTM1997
Model = FeatureModel | ConvLSTM
