"""What a network is trained on."""

import contextlib
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import force_setattr

from jaxlstm.config.base import Kind, Seed, Share, check_different


class _Own(Kind, frozen=True):
    """A task whose data may be the user's own, at `path`: of the working folder, once and for all.

    So a run goes on from wherever it is called, and from wherever its folder has been moved.
    """

    def __post_init__(self) -> None:
        path = getattr(self, "path", None)
        if path is not None:
            with contextlib.suppress(OSError, RuntimeError):  # no working folder, nobody's home
                force_setattr(self, "path", str(Path(path).expanduser().absolute()))


class Adding(Kind, frozen=True, tag="adding"):
    """The adding problem: the sum of two marked numbers (`jaxlstm.tasks.adding`).

    Args:
        length: steps of a sequence; in 1997 the fewest, the most being a tenth more.
        protocol: "2016" (Arjovsky, Shah, Bengio) or "1997" (Hochreiter & Schmidhuber).
        outputs: in 1997 the output unit is "logistic", if left out, or "linear".
    """

    length: Annotated[int, Meta(ge=2, le=1_000_000)] = 100
    protocol: Literal["1997", "2016"] = "2016"
    outputs: Literal["logistic", "linear"] | None = None

    def __post_init__(self) -> None:
        if self.protocol == "2016" and self.outputs is not None:
            raise ValueError(f'outputs: expected none with protocol = "2016", got {self.outputs!r}')
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
        length: steps of a sequence, or the fewest; in 1997 the most are a tenth more.
        longest: the most steps of a sequence of 2013, the lengths being drawn evenly; `length` if
            left out.
        events: how many events there are: 2, or in 1997 also 3.
        protocol: "1997" (Hochreiter & Schmidhuber) or "2013" (Pascanu, Mikolov, Bengio).
        outputs: "softmax", trained by cross-entropy, or "logistic", one unit for each class,
            trained by squared error as in 1997.
        evaluation_size: sequences of an evaluation set.
        evaluate_lengths: lengths of more evaluation sets, called "length-1000" and so on.
    """

    length: Annotated[int, Meta(ge=10, le=1_000_000)] = 100
    longest: Annotated[int, Meta(ge=10, le=1_000_000)] | None = None
    events: Literal[2, 3] = 2
    protocol: Literal["1997", "2013"] = "1997"
    outputs: Literal["softmax", "logistic"] = "softmax"
    evaluation_size: Annotated[int, Meta(ge=1, le=100_000)] = 2560
    evaluate_lengths: tuple[Annotated[int, Meta(ge=10, le=1_000_000)], ...] = ()

    def __post_init__(self) -> None:
        if self.events == 3 and self.protocol == "2013":
            raise ValueError('events: expected 2 with protocol = "2013", got 3')
        if self.longest is not None and self.protocol == "1997":
            raise ValueError(f'longest: expected none with protocol = "1997", got {self.longest}')
        if self.longest is not None and self.longest < self.length:
            raise ValueError(f"longest: expected int >= length = {self.length}, got {self.longest}")
        check_different("evaluate_lengths", self.evaluate_lengths, "lengths")


class Reber(Kind, frozen=True, tag="reber"):
    """The embedded Reber grammar: which symbols may come next (`jaxlstm.tasks.reber`).

    Args:
        strings: strings of the training set, and of the test set.
        data_seed: the seed of both sets.
        disjoint: whether no string of the training set is in the test set.
        distinct: whether no string is in a set twice.
        targets: the symbol that comes "next", or all "legal" ones, those that may come.
        over_steps: the loss of a string is the "sum" over its steps, or their "mean".
    """

    strings: Annotated[int, Meta(ge=1, le=10_000)] = 256
    data_seed: Seed = 0
    disjoint: bool = True
    distinct: bool = False
    targets: Literal["next", "legal"] = "next"
    over_steps: Literal["sum", "mean"] = "sum"


class Counting(Kind, frozen=True, tag="counting"):
    """Counting: n times a, then as many b, then the end (`jaxlstm.tasks.counting`).

    Args:
        longest: in training n is drawn from 1 to this.
        tested: n runs from 1 to this in the evaluation set.
    """

    longest: Annotated[int, Meta(ge=1, le=100_000)] = 100
    tested: Annotated[int, Meta(ge=2, le=4096)] = 512

    def __post_init__(self) -> None:
        if self.tested <= self.longest:
            raise ValueError(f"tested: expected int > longest = {self.longest}, got {self.tested}")


class DelayedXOR(Kind, frozen=True, tag="delayed-xor"):
    """Delayed XOR: whether two bits of the past differ (`jaxlstm.tasks.delayed_xor`).

    Args:
        length: steps of a sequence.
        delay: steps back to the nearer bit; the farther one is twice as far back.
    """

    length: Annotated[int, Meta(ge=3, le=1_000_000)] = 300
    delay: Annotated[int, Meta(ge=1, le=100_000)] = 10

    def __post_init__(self) -> None:
        if self.length <= 2 * self.delay:
            raise ValueError(
                f"length: expected int > 2 * delay = {2 * self.delay}, got {self.length}"
            )


class Characters(_Own, frozen=True, tag="characters"):
    """A character language model (`jaxlstm.tasks.characters`).

    Args:
        path: a UTF-8 text file; the plays of Shakespeare if left out.
        window: steps of a training sequence.
        holdout: the share of the text that is kept from training.
    """

    path: str | None = None
    window: Annotated[int, Meta(ge=1, le=1_000_000)] = 128
    holdout: Annotated[float, Meta(gt=0, lt=1)] = 0.1


class JapaneseVowels(_Own, frozen=True, tag="vowels"):
    """Japanese Vowels: which of nine speakers said it (`jaxlstm.tasks.vowels`).

    Args:
        path: a folder with the two files of the data set; the carrier's if left out.
    """

    path: str | None = None


class Forecast(_Own, frozen=True, kw_only=True, tag="forecast"):
    """Forecasts from a table of numbers over time (`jaxlstm.tasks.forecast`).

    Args:
        source: "laser" or "weather": a data set and its values for the other keys, each of which
            may still be given; none if left out.
        path: a CSV file with names in its first line; that of the source if left out.
        columns: the columns that the network reads; all numbers if left out.
        target: the column that is forecast.
        time: a column of times, which puts rows on a regular grid; rows are steps if left out, or
            if it is "".
        group: a column that tells several series of one file apart; one series if left out.
        groups: the series that are taken; all if left out.
        horizons: how many steps ahead, one forecast for each; (1,) if left out.
        predict: whether the network gives the "value" or its "change" from the last known one.
        window: steps of a training sequence, whose first half is not scored; 64 if left out.
        validation: the share of all rows that lie before the test part; .1 if left out, may be 0.
        test: the share of all rows at the end; .2 if left out.
        validation_from: where the validation part begins, a time, or a row where there are no
            times; as the share says if left out.
        test_from: where the test part begins.
        order: how many steps back the autoregression looks that is the baseline.
    """

    source: Literal["laser", "weather"] | None = None
    path: str | None = None
    columns: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    target: str | None = None
    time: str | None = None
    group: str | None = None
    groups: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    horizons: (
        Annotated[tuple[Annotated[int, Meta(ge=1, le=1_000_000)], ...], Meta(min_length=1)] | None
    ) = None
    predict: Literal["value", "change"] | None = None
    window: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    validation: Share | None = None
    test: Annotated[float, Meta(gt=0, lt=1)] | None = None
    validation_from: str | int | None = None
    test_from: str | int | None = None
    order: Annotated[int, Meta(ge=1, le=10_000)] = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source is None and self.path is None:
            raise ValueError("expected `source` or `path`, got neither")
        if self.source is None and self.target is None:
            raise ValueError("target: missing, expected the name of a column")
        for key, words in (("horizons", "numbers"), ("columns", "names"), ("groups", "names")):
            check_different(key, getattr(self, key) or (), words)
        for share, start in (("test", "test_from"), ("validation", "validation_from")):
            if getattr(self, share) is not None and getattr(self, start) is not None:
                raise ValueError(f"expected one of `{share}` and `{start}`, got both")
        if (self.validation or 0) + (self.test or 0) >= 1:
            raise ValueError(
                f"test: expected less than 1 together with validation = {self.validation or 0:g}, "
                f"got {self.test or 0:g}"
            )


class Music(_Own, frozen=True, tag="music"):
    """Polyphonic music: which of 88 keys sound next (`jaxlstm.tasks.music`).

    Args:
        path: a MATLAB file with `traindata`, `validdata` and `testdata`, lists of piano rolls;
            chorales of Bach if left out.
        window: frames of a training sequence; whole pieces if left out.
    """

    path: str | None = None
    window: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class Digits(_Own, frozen=True, tag="digits"):
    """Images as sequences: which digit is it (`jaxlstm.tasks.digits`).

    Args:
        path: a folder with the idx files of MNIST or the like; 5,000 digits if left out.
        by: what a step is, a "row" or a "pixel".
        permuted: whether pixels come in an order that is drawn once for all images.
    """

    path: str | None = None
    by: Literal["row", "pixel"] = "row"
    permuted: bool = False


class MovingDigits(_Own, frozen=True, tag="moving-digits"):
    """Moving digits: the next frame of a small video (`jaxlstm.tasks.moving_digits`).

    Args:
        canvas: the side of a frame in pixels.
        size: the side of a digit.
        digits: how many digits move.
        frames: how many frames a sequence has, the last of which is only predicted.
        speed: how many pixels a digit moves from frame to frame.
        path: a folder with the idx files of MNIST or the like; 5,000 digits if left out.
    """

    canvas: Annotated[int, Meta(ge=2, le=1024)] = 16
    size: Annotated[int, Meta(ge=1, le=1024)] = 8
    digits: Annotated[int, Meta(ge=1, le=100)] = 2
    frames: Annotated[int, Meta(ge=2, le=10_000)] = 11
    speed: Annotated[float, Meta(gt=0, le=1024)] = 1.0
    path: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size > self.canvas:
            raise ValueError(f"size: expected int <= canvas = {self.canvas}, got {self.size}")


Task = (
    Adding
    | CopyMemory
    | TemporalOrder
    | Characters
    | JapaneseVowels
    | Forecast
    | Reber
    | Counting
    | DelayedXOR
    | Music
    | Digits
    | MovingDigits
)
