"""Terms added to the loss of a training, which keep gradients from vanishing or exploding."""

from typing import Annotated

from msgspec import Meta

from jaxlstm.config.base import LARGEST, Kind, Positive, Steps


class _Penalty(Kind, frozen=True, kw_only=True):
    """What every penalty has.

    Args:
        weight: what the term is multiplied by.
        alone_steps: updates at the beginning that minimise the term alone, without the task.
        steps: updates after which the term is left out, and costs nothing; never if left out.
    """

    weight: Positive = 1.0
    alone_steps: Annotated[int, Meta(ge=0, le=LARGEST)] = 0
    steps: Steps | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < self.alone_steps:
            raise ValueError(
                f"steps: expected at least alone_steps = {self.alone_steps}, got {self.steps}"
            )


class NormPenalty(_Penalty, frozen=True, kw_only=True, tag="norm"):
    """Errors shall keep their norm from step to step (Pascanu, Mikolov, Bengio 2013).

    Args:
        exact: take the true gradient of the term; the paper holds states and errors fixed.
    """

    exact: bool = False


class Flossing(_Penalty, frozen=True, kw_only=True, tag="flossing"):
    """The first Lyapunov exponents shall be zero: gradient flossing (Engelken 2023).

    Args:
        count: how many exponents.
        warmup: time steps of a sequence that are run but not counted. Padding counts, as zeros.
        sequences: how many sequences of a batch; all if left out.
        length: the first time steps of a sequence, those of the warmup among them; all if left out.
    """

    count: Annotated[int, Meta(ge=1, le=65_536)]
    warmup: Annotated[int, Meta(ge=0, le=LARGEST)] = 0
    sequences: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    length: Annotated[int, Meta(ge=1, le=LARGEST)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length is not None and self.length <= self.warmup:
            raise ValueError(f"length: expected int > warmup = {self.warmup}, got {self.length}")


Penalty = NormPenalty | Flossing
