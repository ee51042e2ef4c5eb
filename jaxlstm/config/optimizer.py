"""The optimiser and the course of its learning rate."""

from typing import Annotated

from msgspec import Meta

from jaxlstm.config.base import LARGEST, Kind, Positive, Share

Warmup = Annotated[int, Meta(ge=0, le=LARGEST)]


class Constant(Kind, frozen=True, tag="constant"):
    """The same learning rate throughout, after a linear rise from 0.

    Args:
        warmup_steps: steps of the rise.
    """

    warmup_steps: Warmup = 0


class Cosine(Kind, frozen=True, tag="cosine"):
    """A linear rise from 0, then half a cosine down to the end of the training.

    Args:
        warmup_steps: steps of the rise.
        final: the learning rate at the end, as a share of the highest.
    """

    warmup_steps: Warmup = 0
    final: Annotated[float, Meta(ge=0, le=1)] = 0.0


Schedule = Constant | Cosine


class _Optimizer(Kind, frozen=True, kw_only=True):
    """What every optimiser has.

    Args:
        learning_rate: the highest learning rate.
        schedule: its course.
        clip_norm: scale the gradient down to this norm, over all parameters, where it is larger
            (Pascanu, Mikolov, Bengio 2013); never if left out.
        clip_value: clip every number of the gradient to plus or minus this, before the norm is
            looked at (Mikolov 2012); never if left out. It changes the direction.
    """

    learning_rate: Positive
    schedule: Schedule = Constant()
    clip_norm: Positive | None = None
    clip_value: Positive | None = None


class Adam(_Optimizer, frozen=True, tag="adam"):
    """Adam (Kingma & Ba 2015).

    Args:
        b1: decay of the mean of the gradient.
        b2: decay of the mean of its square.
        eps: what keeps the quotient finite.
    """

    b1: Share = 0.9
    b2: Share = 0.999
    eps: Positive = 1e-8


class AdamW(_Optimizer, frozen=True, tag="adamw"):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), of matrices, not of biases.

    Args:
        weight_decay: the decay, in units of the learning rate.
        b1: decay of the mean of the gradient.
        b2: decay of the mean of its square.
        eps: what keeps the quotient finite.
    """

    weight_decay: Annotated[float, Meta(ge=0, le=1e30)]
    b1: Share = 0.9
    b2: Share = 0.999
    eps: Positive = 1e-8


class RMSprop(_Optimizer, frozen=True, tag="rmsprop"):
    """RMSprop (Tieleman & Hinton 2012).

    Args:
        decay: decay of the mean of the squared gradient.
        momentum: share of the last update that is taken again.
        eps: what keeps the quotient finite.
    """

    decay: Share = 0.9
    momentum: Share = 0.0
    eps: Positive = 1e-8


class SGD(_Optimizer, frozen=True, tag="sgd"):
    """Stochastic gradient descent.

    Args:
        momentum: share of the last update that is taken again.
    """

    momentum: Share = 0.0


Optimizer = Adam | AdamW | RMSprop | SGD
