"""What a network is trained on."""

from typing import Annotated, Literal

from msgspec import Meta

from jaxlstm.config.base import Kind


class Adding(Kind, frozen=True, tag="adding"):
    """The adding problem: the sum of two marked numbers (`jaxlstm.tasks.adding`).

    Args:
        length: steps of a sequence; in 1997 the fewest, the most being a tenth more.
        protocol: "2016" (Arjovsky, Shah, Bengio) or "1997" (Hochreiter & Schmidhuber).
    """

    length: Annotated[int, Meta(ge=2, le=1_000_000)] = 100
    protocol: Literal["1997", "2016"] = "2016"

    def __post_init__(self) -> None:
        if self.protocol == "1997" and self.length < 11:
            raise ValueError(
                f'length: expected int >= 11 with protocol = "1997", got {self.length}'
            )


class CopyMemory(Kind, frozen=True, tag="copy"):
    """Copy memory: give a message back after a delay (`jaxlstm.tasks.copy_memory`).

    Args:
        delay: blank steps between the message and its copy.
        symbols: how many symbols a message is made of.
        payload: symbols in a message.
    """

    delay: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    symbols: Annotated[int, Meta(ge=2, le=65_536)] = 8
    payload: Annotated[int, Meta(ge=1, le=65_536)] = 10


class TemporalOrder(Kind, frozen=True, tag="temporal-order"):
    """Temporal order: which of two events came first (`jaxlstm.tasks.temporal_order`).

    Args:
        length: steps of a sequence; in 1997 the shortest, the longest being a tenth longer.
        events: how many events there are: 2, or in 1997 also 3.
        protocol: "1997" (Hochreiter & Schmidhuber) or "2013" (Pascanu, Mikolov, Bengio).
        outputs: "softmax", trained by cross-entropy, or "logistic", one unit for each class,
            trained by squared error as in 1997.
        evaluation_size: sequences of an evaluation set.
        evaluate_lengths: lengths of more evaluation sets, called "length-1000" and so on.
    """

    length: Annotated[int, Meta(ge=10, le=1_000_000)] = 100
    events: Literal[2, 3] = 2
    protocol: Literal["1997", "2013"] = "1997"
    outputs: Literal["softmax", "logistic"] = "softmax"
    evaluation_size: Annotated[int, Meta(ge=1, le=100_000)] = 2560
    evaluate_lengths: tuple[Annotated[int, Meta(ge=10, le=1_000_000)], ...] = ()

    def __post_init__(self) -> None:
        if self.events == 3 and self.protocol == "2013":
            raise ValueError('events: expected 2 with protocol = "2013", got 3')


class Characters(Kind, frozen=True, tag="characters"):
    """A character language model (`jaxlstm.tasks.characters`).

    Args:
        path: a UTF-8 text file; the plays of Shakespeare if left out.
        window: steps of a training sequence.
        holdout: the share of the text that is kept from training.
    """

    path: str | None = None
    window: Annotated[int, Meta(ge=1, le=1_000_000)] = 128
    holdout: Annotated[float, Meta(gt=0, lt=1)] = 0.1


class JapaneseVowels(Kind, frozen=True, tag="vowels"):
    """Japanese Vowels: which of nine speakers said it (`jaxlstm.tasks.vowels`).

    Args:
        path: a folder with the two files of the data set; the carrier's if left out.
    """

    path: str | None = None


Task = Adding | CopyMemory | TemporalOrder | Characters | JapaneseVowels
