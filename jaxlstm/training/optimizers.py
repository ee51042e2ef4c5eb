"""Optimisers and learning rates as configs describe them, from optax."""

from typing import Any

import jax
import optax

from jaxlstm import config


def build(spec: config.Optimizer, steps: int) -> optax.GradientTransformation:
    """Build an optimiser: clipping first, where it is asked for, then the update.

    Clipping by the global norm keeps the direction: g ← g · min(1, c / ‖g‖) (Pascanu, Mikolov,
    Bengio 2013, "On the difficulty of training recurrent neural networks").

    Args:
        spec: the `[optimizer]` table.
        steps: how many updates the training has, the length of a cosine schedule.

    Returns:
        An optax transformation.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxlstm.config import SGD
        >>> optimizer = build(SGD(learning_rate=1.0, clip_norm=1.0), steps=10)
        >>> updates, _ = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(jnp.zeros(2)))
        >>> updates
        Array([-0.6, -0.8], dtype=float32)
    """
    rate = schedule(spec.learning_rate, spec.schedule, steps)
    match spec:
        case config.Adam():
            update = optax.adam(rate, b1=spec.b1, b2=spec.b2, eps=spec.eps)
        case config.AdamW():
            update = optax.adamw(
                rate,
                b1=spec.b1,
                b2=spec.b2,
                eps=spec.eps,
                weight_decay=spec.weight_decay,
                mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
            )
        case config.RMSprop():
            momentum = spec.momentum or None
            update = optax.rmsprop(rate, decay=spec.decay, eps=spec.eps, momentum=momentum)
        case config.SGD():
            update = optax.sgd(rate, momentum=spec.momentum or None)
    if spec.clip_norm is not None:
        update = optax.chain(optax.clip_by_global_norm(spec.clip_norm), update)
    if spec.clip_value is not None:
        update = optax.chain(optax.clip(spec.clip_value), update)
    return _promoting(update)


def _promoting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let optax mix types, as its bias correction does, where the caller's JAX is strict."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def schedule(rate: float, spec: config.Schedule, steps: int) -> optax.Schedule:
    """Build the course of the learning rate over `steps` updates.

    Args:
        rate: the highest learning rate.
        spec: the `schedule` table.
        steps: how many updates there are.

    Returns:
        A function from the number of updates done to the learning rate.

    Examples:
        >>> from jaxlstm.config import Cosine
        >>> course = schedule(0.1, Cosine(warmup_steps=10), steps=110)
        >>> [round(float(course(step)), 3) for step in (0, 5, 10, 60, 110)]
        [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    warmup = spec.warmup_steps
    match spec:
        case config.Constant():
            course = optax.constant_schedule(rate)
        case config.Cosine():
            course = optax.cosine_decay_schedule(rate, steps - warmup, alpha=spec.final)
    if warmup == 0:
        return course
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), course], [warmup])
