"""A study: measurements on networks as they are, trained or not."""

from typing import Annotated

from msgspec import Meta

from jaxlstm.config.base import Kind, Name, Positive, Seeds, Steps, Width, check_seeds, seed_list

# What lies further out is no number any more once it is squared, or its logarithm is taken.
Gain = Annotated[float, Meta(ge=1e-6, le=1e6)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Gains = Annotated[tuple[Gain, ...], Meta(min_length=1, max_length=8)]
Biases = Annotated[tuple[Bias, ...], Meta(min_length=1, max_length=8)]
Units = Annotated[int, Meta(ge=2, le=512)]
Updates = Annotated[int, Meta(ge=1, le=1_000_000)]
Rows = Annotated[int, Meta(ge=1, le=4096)]
Lags = Annotated[int, Meta(ge=20, le=10_000)]
# The adding problem has two numbers to add.
Length = Annotated[int, Meta(ge=2, le=1_000_000)]


class Vanishing(Kind, frozen=True, kw_only=True, tag="vanishing"):
    """How gradients vanish and explode in a simple RNN, and what an LSTM does about it.

    Args:
        steps: how far back gradients are followed.
        hidden_size: units of the networks that are followed closely.
        large_size: units of the random tanh network held against mean-field theory.
        gains: of the scalar unit and of the orthogonal networks.
        random_gains: of the large random tanh network.
        forget_biases: of the LSTM; chrono initialisation is measured besides.
        lengths: sequence lengths at which the gradient at the first step is compared.
    """

    steps: Lags = 100
    hidden_size: Units = 32
    large_size: Width = 1024
    gains: Gains = (0.9, 1.0, 1.1)
    random_gains: Gains = (0.5, 1.5, 3.0)
    forget_biases: Biases = (0.0, 1.0)
    lengths: Annotated[tuple[Steps, ...], Meta(min_length=1, max_length=8)] = (25, 50, 100, 200)


class MeanField(Kind, frozen=True, kw_only=True, tag="mean-field"):
    """How fast gradients grow or shrink in random networks, against mean-field theory.

    Args:
        steps: how far back gradients are followed.
        sizes: numbers of units; theory is that of very many.
        tanh_gains: standard deviation of the recurrent weights times √N, for tanh.
        other_gains: for linear networks; times √2 for ReLU, where that is critical.
    """

    steps: Lags = 100
    sizes: Annotated[tuple[Width, ...], Meta(min_length=1, max_length=5)] = (64, 256, 1024)
    tanh_gains: Gains = (0.5, 0.9, 1.25, 1.5, 2.0, 3.0)
    other_gains: Gains = (0.5, 0.8, 0.9, 1.1, 1.25, 1.5)


class PhaseDiagram(Kind, frozen=True, kw_only=True, tag="phase-diagram"):
    """Where an LSTM can be trained: recurrent gain by forget bias, with its Lyapunov exponent.

    Args:
        hidden_size: units.
        gains: of every gate's recurrent weights, standard deviation times √H.
        forget_biases: where the bias of the forget gate starts.
        length: steps of the adding problem.
        driven_steps: steps over which the exponent is measured.
        updates: of each training.
        batch_size: sequences in a batch.
        learning_rate: of Adam; gradients are clipped to norm 1.
    """

    hidden_size: Units = 32
    gains: Gains = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
    forget_biases: Annotated[tuple[Bias, ...], Meta(min_length=1, max_length=12)] = (
        -2.0,
        0.0,
        1.0,
        2.0,
        4.0,
    )
    length: Length = 40
    driven_steps: Annotated[int, Meta(ge=20, le=100_000)] = 400
    updates: Updates = 400
    batch_size: Rows = 32
    learning_rate: Positive = 5e-3

    def __post_init__(self) -> None:
        if len(self.gains) * len(self.forget_biases) < 2:
            raise ValueError(
                f"gains: expected two or more, or as many forget_biases, got {list(self.gains)}"
            )


class Gates(Kind, frozen=True, kw_only=True, tag="gates"):
    """Which gate of an LSTM matters: variants trained on adding and on copying.

    Args:
        hidden_size: units.
        length: steps of the adding problem.
        delay: steps between a message and its copy.
        symbols: how many symbols there are.
        payload: symbols of a message.
        updates: of each training.
        batch_size: sequences in a batch.
        learning_rate: of Adam; gradients are clipped to norm 1.
    """

    hidden_size: Units = 16
    length: Length = 30
    delay: Steps = 15
    symbols: Annotated[int, Meta(ge=2, le=64)] = 4
    payload: Annotated[int, Meta(ge=1, le=64)] = 3
    updates: Updates = 2000
    batch_size: Rows = 32
    learning_rate: Positive = 5e-3


class Carousel(Kind, frozen=True, kw_only=True, tag="carousel"):
    """The memory's own path against all paths, through a training, and what truncation leaves out.

    Args:
        hidden_size: units of the LSTMs.
        blocks: memory blocks of two cells in the networks of 1997.
        length: steps of the adding problem.
        forget_biases: where the bias of the forget gate starts; chrono initialisation besides.
        stages: how often a training is looked into; `updates` is a multiple of it.
        updates: of each training.
        batch_size: sequences in a batch.
        learning_rate: of Adam; gradients are clipped to norm 1.
    """

    hidden_size: Units = 16
    blocks: Annotated[int, Meta(ge=1, le=64)] = 4
    length: Length = 50
    forget_biases: Biases = (0.0, 1.0)
    stages: Annotated[int, Meta(ge=1, le=100)] = 5
    updates: Updates = 2000
    batch_size: Rows = 32
    learning_rate: Positive = 5e-3

    def __post_init__(self) -> None:
        if self.updates % self.stages:
            raise ValueError(
                f"updates: expected a multiple of stages = {self.stages}, got {self.updates}"
            )


class Interventions(Kind, frozen=True, kw_only=True, tag="interventions"):
    """What clipping, penalties and initialisers do to the spectrum of a tanh RNN and to success.

    Args:
        hidden_size: units.
        length: steps of the temporal order problem of 2013.
        gains: of the random recurrent weights: fading below 1, chaotic well above it.
        clip_norm: where the norm of the gradient is clipped.
        clip_value: where each number of the gradient is clipped.
        penalty_weight: of the regulariser of Pascanu, Mikolov, Bengio (2013).
        floss_exponents: how many exponents flossing pushes to zero.
        floss_updates: how long, before the training; it divides `updates`.
        updates: of each training.
        batch_size: sequences in a batch.
        learning_rate: of stochastic gradient descent.
    """

    hidden_size: Units = 50
    length: Annotated[int, Meta(ge=10, le=10_000)] = 30
    gains: Gains = (0.7, 1.6)
    clip_norm: Positive = 1.0
    clip_value: Positive = 0.1
    penalty_weight: Positive = 1.0
    floss_exponents: Annotated[int, Meta(ge=1, le=512)] = 8
    floss_updates: Updates = 200
    updates: Updates = 4000
    batch_size: Rows = 20
    learning_rate: Positive = 0.1

    def __post_init__(self) -> None:
        if self.updates % self.floss_updates:
            raise ValueError(
                f"updates: expected a multiple of floss_updates = {self.floss_updates}, got "
                f"{self.updates}"
            )
        if self.floss_exponents > self.hidden_size:
            raise ValueError(
                f"floss_exponents: expected at most hidden_size = {self.hidden_size}, got "
                f"{self.floss_exponents}"
            )


class Reach(Kind, frozen=True, kw_only=True, tag="reach"):
    """Where the gradients of trained networks go: contribution by lag, and the context that counts.

    Args:
        trainings: configs of trainings, which are run with the study's seeds, or folders of
            finished runs, which are taken as they are. Each is followed from its last step, which
            its task must be able to ask about alone. What context is worth is held against a bound
            where the loss is in nats, a negative log-likelihood; else it is drawn alone.
        length: steps of a sequence that are looked at, where the task has an output at every step.
        sequences: how many are looked at.
        contexts: how many last inputs a network is shown, to see what the earlier ones are worth.
    """

    trainings: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)] = (
        "configs/shakespeare.toml",
        "configs/vowels.toml",
    )
    length: Annotated[int, Meta(ge=2, le=1000)] = 96
    sequences: Annotated[int, Meta(ge=1, le=1000)] = 16
    contexts: Annotated[tuple[Steps, ...], Meta(min_length=1, max_length=32)] = (
        1,
        2,
        4,
        8,
        16,
        32,
        64,
    )


class Study(Kind, frozen=True, kw_only=True, tag="study"):
    """What every study has.

    Args:
        name: what the run folder is called after.
        question: what the study asks.
        expected: the result and the time to expect, in words.
        seeds: how many (0, 1, …), or a list of them.
        study: what is measured.
    """

    name: Name
    question: str
    expected: str
    study: Vanishing | MeanField | Carousel | Gates | PhaseDiagram | Reach | Interventions
    seeds: Seeds = 1

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        for key in self.study.__struct_fields__:
            values = getattr(self.study, key)
            # What is measured is told apart by its label, in which a number has six digits.
            if isinstance(values, tuple) and len({_label(value) for value in values}) < len(values):
                raise ValueError(f"study.{key}: expected different values, got {list(values)}")

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds, one by one."""
        return seed_list(self.seeds)


def _label(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
