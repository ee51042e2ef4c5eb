r"""Moving digits: what does the next frame of a small video show?

Handwritten digits move over a square canvas in straight lines and bounce off its walls. The task is
of Srivastava, Mansimov and Salakhutdinov, "Unsupervised Learning of Video Representations using
LSTMs", 2015, and was the first of the convolutional LSTM (Shi et al. 2015). Here frames are small
and only the next one is predicted, at every step.

**Frames.** Each digit is an image of `jaxlstm.tasks.digits`, drawn evenly and shrunk to `size` ×
`size` pixels by area. Its corner starts anywhere in [0, L]², L = canvas − size, evenly; its
direction θ is drawn evenly, its speed is `speed` pixels a frame. With x₀ a start and v = speed
times cos θ (sin θ in the other direction), it is drawn at the nearest whole pixel of

    x_t = L − |((x₀ + v t) mod 2L) − L|

which is the way of a point that bounces between 0 and L. Where digits overlap the brighter pixel is
seen. Training draws fresh sequences of the training digits, forever; the test set is fixed, 500
sequences of digits that training never draws.

**Loss.** With s the logits of the next frame x in [0, 1], the cross-entropy in nats summed over the
pixels and averaged over frames, Σ [log(1 + exp(s)) − x s]; `mse` is the mean square of σ(s) − x
over the pixels. Both are smallest for the mean of x. The first frame is given and not predicted.

The baselines on the test set: `copy last` shows the last frame once more, `mean frame` what
training shows on average at each pixel. Solved: `mse` below both.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.cells.base import wide
from jaxlstm.config import MovingDigits
from jaxlstm.tasks import digits
from jaxlstm.tasks.base import Batch, Goal, Task, fixed_key

EVALUATION_SIZE, EVALUATION_SEED = 500, 2015
MEAN_SIZE, MEAN_SEED = 1000, 2016


def build(config: MovingDigits) -> Task:
    """Build the task from the carrier's digits or from a folder of idx files.

    Args:
        config: `canvas` and `size`, the sides of a frame and of a digit; `digits`, how many move;
            `frames` of a sequence, of which the last is only predicted; `speed`; `path`, a folder
            as of the task `digits`.

    Returns:
        A task with inputs and targets `[B, frames − 1, canvas²]` float32 in [0, 1], as many logits
        for every step, and a `"test"` set. Metrics: `cross_entropy` in nats per frame, `mse`.

    Raises:
        UserError: when a file is missing or malformed, or the carrier can neither be found nor
            fetched.
    """
    train, test = (
        jnp.asarray(shrink(part.images, config.size)) for part in digits.load(config.path)
    )

    def sample(data: Array, key: Array, batch_size: int) -> Batch:
        options = (config.canvas, config.digits, config.frames, config.speed)
        frames = draw(data, key, batch_size, *options)
        frames = frames.reshape(*frames.shape[:2], -1)
        return Batch(frames[:, :-1], frames[:, 1:])

    testing = sample(test, fixed_key(EVALUATION_SEED), EVALUATION_SIZE)
    mean = jnp.mean(sample(train, fixed_key(MEAN_SEED), MEAN_SIZE).targets, axis=(0, 1))
    found = baselines(np.asarray(testing.inputs), np.asarray(testing.targets), np.asarray(mean))
    best = min(value for name, value in found.items() if name.endswith(" mse"))
    return Task(
        name=f"{config.digits} moving digits on {config.canvas} x {config.canvas} pixels",
        input_size=config.canvas**2,
        output_size=config.canvas**2,
        tokens=False,
        every_step=True,
        data=train,
        sample=sample,
        evaluation={"test": testing},
        loss=loss,
        goal=Goal.beating("test", "mse", best),
        baselines=found,
        frame=(config.canvas, config.canvas),
    )


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def draw(
    images: Array, key: Array, batch_size: int, canvas: int, count: int, frames: int, speed: float
) -> Array:
    """Draw sequences: images `[N, d, d]` in [0, 1] to frames `[B, T, canvas, canvas]`."""
    k_image, k_start, k_angle = jax.random.split(key, 3)
    size, shape = images.shape[-1], (batch_size, count)
    room = canvas - size
    chosen = images[jax.random.randint(k_image, shape, 0, images.shape[0], jnp.int32)]
    start = jax.random.uniform(k_start, (*shape, 2), jnp.float32, 0, room)
    angle = jax.random.uniform(k_angle, shape, jnp.float32, 0, 2 * jnp.pi)
    velocity = jnp.float32(speed) * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    corners = jnp.rint(ways(start, velocity, frames, room)).astype(jnp.int32)
    # Row y of the canvas shows row y − corner of the digit, and a column likewise.
    rows = jnp.arange(canvas, dtype=jnp.int32)[:, None] - jnp.arange(size, dtype=jnp.int32)[None]
    shown = (corners[..., None, None] == rows[None, None, None, None]).astype(jnp.float32)
    down, across = shown[:, :, :, 0], shown[:, :, :, 1]
    return jnp.max(jnp.einsum("bktyi,bkij,bktxj->bktyx", down, chosen, across), axis=1)


def ways(start: Array, velocity: Array, frames: int, room: int) -> Array:
    """Move and bounce: `[B, K, 2]` starts and velocities to `[B, K, T, 2]` places in [0, room].

    Examples:
        >>> import jax.numpy as jnp
        >>> start, velocity = jnp.array([[[1.0, 0.0]]]), jnp.array([[[1.0, 0.5]]])
        >>> ways(start, velocity, 5, 2)[0, 0].T.tolist()
        [[1.0, 2.0, 1.0, 0.0, 1.0], [0.0, 0.5, 1.0, 1.5, 2.0]]
    """
    if room == 0:
        return jnp.zeros((*start.shape[:2], frames, 2), start.dtype)
    time = jnp.arange(frames).astype(start.dtype)[None, None, :, None]
    free = start[:, :, None] + velocity[:, :, None] * time
    return room - jnp.abs(free % (2 * room) - room)


def loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy in nats per frame of `[B, T, canvas²]` logits, and the metric `mse`."""
    outputs = wide(outputs)
    wanted = batch.targets.astype(outputs.dtype)
    nats = jnp.mean(jnp.sum(jax.nn.softplus(outputs) - wanted * outputs, axis=-1))
    mse = jnp.mean(jnp.square(jax.nn.sigmoid(outputs) - wanted))
    return nats, {"cross_entropy": nats, "mse": mse}


def baselines(inputs: np.ndarray, targets: np.ndarray, mean: np.ndarray) -> dict[str, float]:
    """Scores of the last frame, and of the mean frame of training."""
    likely = np.clip(mean.astype(float), 1e-6, 1 - 1e-6)
    nats = -(targets * np.log(likely) + (1 - targets) * np.log(1 - likely)).sum(axis=-1)
    return {
        "copy last mse": float(np.square(inputs - targets).mean()),
        "mean frame mse": float(np.square(mean - targets).mean()),
        "mean frame cross_entropy": float(nats.mean()),
    }


def shrink(images: np.ndarray, size: int) -> np.ndarray:
    """Shrink by area: `[N, H, W]` uint8 to `[N, size, size]` float32 in [0, 1].

    Examples:
        >>> shrink(np.array([[[0, 255], [255, 255]]], np.uint8), 1).tolist()
        [[[0.75]]]
    """
    down, across = (_shares(size, length) for length in images.shape[1:])
    return (down @ (images / 255) @ across.T).astype(np.float32)


def _shares(size: int, length: int) -> np.ndarray:
    """How much of each of `length` pixels lies in each of `size` larger ones, `[size, length]`."""
    edges = np.arange(size + 1) * length / size
    begin, end = np.arange(length)[None], np.arange(1, length + 1)[None]
    covered = np.minimum(end, edges[1:, None]) - np.maximum(begin, edges[:-1, None])
    return np.maximum(covered, 0) * size / length
