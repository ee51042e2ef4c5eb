"""The network: cells, how many of them, how they begin."""

from typing import Annotated, Literal

from msgspec import Meta

from jaxlstm.config.base import Kind, Part, Positive, Width


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
    """Uniform recurrent weights whose limit follows from the number of units."""


class Uniform(Kind, frozen=True, tag="uniform"):
    """Uniform recurrent weights.

    Args:
        limit: the largest absolute value.
    """

    limit: Positive = 0.1


RecurrentInit = Orthogonal | Identity | Ginibre | GlorotUniform | Uniform


class LSTM(Part, frozen=True, tag_field="cell", tag="lstm"):
    """Long short-term memory cells and a linear readout.

    Args:
        hidden_size: units of a layer.
        layers: cells on top of each other.
        forget_bias: where the bias of the forget gate starts; 1 if left out.
        chrono_t_max: draw the gate biases for memories of 1 to so many steps instead (Tallec &
            Ollivier 2018); not together with `forget_bias`.
        recurrent_init: how the recurrent weights begin.
        embedding_size: learn a vector of this size for each symbol of a token task; symbols come
            in one-hot if left out.
    """

    hidden_size: Width
    layers: Annotated[int, Meta(ge=1, le=64)] = 1
    forget_bias: float | None = None
    chrono_t_max: Annotated[int, Meta(ge=3, le=10_000_000)] | None = None
    recurrent_init: RecurrentInit = Orthogonal()
    embedding_size: Width | None = None

    def __post_init__(self) -> None:
        if self.forget_bias is not None and self.chrono_t_max is not None:
            raise ValueError("expected one of `forget_bias` and `chrono_t_max`, got both")


class RNN(Part, frozen=True, tag_field="cell", tag="rnn"):
    """Simple recurrent cells (Elman 1990) and a linear readout.

    Args:
        hidden_size: units of a layer.
        layers: cells on top of each other.
        activation: the nonlinearity.
        recurrent_init: how the recurrent weights begin.
        embedding_size: learn a vector of this size for each symbol of a token task; symbols come
            in one-hot if left out.
    """

    hidden_size: Width
    layers: Annotated[int, Meta(ge=1, le=64)] = 1
    activation: Literal["tanh", "relu", "identity", "sigmoid"] = "tanh"
    recurrent_init: RecurrentInit = Orthogonal()
    embedding_size: Width | None = None


Model = LSTM | RNN
