"""Moving digits: shrinking, moving, bouncing, what is seen, and the baselines."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.config import MovingDigits
from jaxlstm.tasks import build, digits, moving_digits

pytestmark = pytest.mark.usefixtures("compile_fast")


@pytest.fixture
def folder(tmp_path):
    """Training images whose bytes are at most 100, test images whose are more."""
    draw = np.random.default_rng(0)
    for part, low, high in (("train", 1, 100), ("test", 150, 256)):
        images = draw.integers(low, high, size=(12, 6, 6))
        for file, array in zip(digits.FILES[part], (images, np.zeros(12)), strict=True):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (tmp_path / file).write_bytes(header + array.astype(np.uint8).tobytes())
    return str(tmp_path)


def test_frames_by_hand():
    """Every frame is the brighter of the digits at their places, which bounce as a walk says."""
    images = np.random.default_rng(1).random((5, 3, 3)).astype(np.float32)
    key, batch, canvas, count, frames, speed = jax.random.key(3), 6, 8, 2, 30, 1.7
    drawn = moving_digits.draw(jnp.asarray(images), key, batch, canvas, count, frames, speed)
    assert drawn.shape == (batch, frames, canvas, canvas)
    k_image, k_start, k_angle = jax.random.split(key, 3)
    which = np.asarray(jax.random.randint(k_image, (batch, count), 0, 5, jnp.int32))
    start = np.asarray(jax.random.uniform(k_start, (batch, count, 2), jnp.float32, 0, 5))
    angle = np.asarray(jax.random.uniform(k_angle, (batch, count), jnp.float32, 0, 2 * jnp.pi))
    for sequence in range(batch):
        expected = np.zeros((frames, canvas, canvas), np.float32)
        for digit in range(count):
            place = start[sequence, digit].astype(float)
            toward = speed * np.array(
                [np.cos(angle[sequence, digit]), np.sin(angle[sequence, digit])]
            )
            for frame in range(frames):
                y, x = np.rint(place).astype(int)
                window = expected[frame, y : y + 3, x : x + 3]
                np.maximum(window, images[which[sequence, digit]], out=window)
                place = place + toward
                for axis in (0, 1):  # off the walls at 0 and 5
                    if not 0 <= place[axis] <= 5:
                        place[axis] = -place[axis] if place[axis] < 0 else 10 - place[axis]
                        toward[axis] = -toward[axis]
        np.testing.assert_allclose(drawn[sequence], expected, atol=1e-6)


def test_a_digit_that_fills_the_canvas_stands_still():
    images = jnp.asarray(np.random.default_rng(1).random((1, 4, 4)), jnp.float32)
    drawn = moving_digits.draw(images, jax.random.key(0), 2, 4, 1, 3, 2.0)
    np.testing.assert_allclose(drawn, np.broadcast_to(images[0], (2, 3, 4, 4)))


def test_shrinking_keeps_the_area():
    image = np.random.default_rng(2).integers(0, 256, size=(2, 28, 28))
    small = moving_digits.shrink(image, 8)
    np.testing.assert_allclose(small.mean(axis=(1, 2)), image.mean(axis=(1, 2)) / 255, rtol=1e-6)
    fine = np.kron(image, np.ones((1, 2, 2)))  # 56 = 8 × 7
    by_hand = fine.reshape(2, 8, 7, 8, 7).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(small, by_hand, rtol=1e-5)
    np.testing.assert_allclose(moving_digits.shrink(image, 28), image / 255, rtol=1e-6)


def test_the_next_frame_is_asked_for_of_digits_that_training_never_draws(folder):
    task = build(MovingDigits(canvas=8, size=3, frames=5, path=folder))
    batch = jax.jit(task.sample, static_argnums=2)(task.data, jax.random.key(0), 20)
    test = task.evaluation["test"]
    assert batch.inputs.shape == batch.targets.shape == (20, 4, 64)
    assert test.inputs.shape == (500, 4, 64)
    for part in (batch, test):
        np.testing.assert_array_equal(part.inputs[:, 1:], part.targets[:, :-1])
    assert 0 < np.asarray(batch.inputs).max() < 100 / 255
    assert np.asarray(test.inputs)[np.asarray(test.inputs) > 0].min() > 149 / 255
    assert (task.input_size, task.output_size, task.every_step) == (64, 64, True)


def test_loss_and_baselines_against_numpy(folder):
    task = build(MovingDigits(canvas=6, size=3, digits=1, frames=4, path=folder))
    test = task.evaluation["test"]
    wanted = np.asarray(test.targets, float)
    logits = np.random.default_rng(4).normal(size=wanted.shape)
    chance = 1 / (1 + np.exp(-logits))
    loss, metrics = jax.jit(task.loss)(jnp.asarray(logits, jnp.float32), test)
    nats = -(wanted * np.log(chance) + (1 - wanted) * np.log(1 - chance)).sum(axis=-1)
    assert float(loss) == pytest.approx(nats.mean(), rel=1e-5)
    assert metrics["cross_entropy"] == loss
    assert float(metrics["mse"]) == pytest.approx(np.square(chance - wanted).mean(), rel=1e-5)
    copied = np.square(np.asarray(test.inputs) - wanted).mean()
    assert task.baselines["copy last mse"] == pytest.approx(copied, rel=1e-5)
    # The mean frame, from draws of its own: brightest where every digit passes, dark at no edge.
    many = task.sample(task.data, jax.random.key(9), 5000).targets
    mean = np.asarray(many).mean(axis=(0, 1))
    assert task.baselines["mean frame mse"] == pytest.approx(
        np.square(mean - wanted).mean(), rel=0.02
    )
    assert task.goal.below == pytest.approx(
        min(task.baselines["copy last mse"], task.baselines["mean frame mse"]), rel=1e-3
    )
