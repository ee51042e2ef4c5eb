"""What is timed: the shapes, and the numbers that every engine is given."""

import dataclasses
import zlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One network over one batch: B rows of T steps of I features, H units."""

    name: str
    batch: int
    length: int
    inputs: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False
    ragged: bool = False
    dtype: str = "float32"

    @property
    def directions(self):
        """How many ways each layer goes."""
        return 2 if self.bidirectional else 1

    @property
    def sizes(self):
        """The features that each layer is given."""
        return [self.inputs] + [self.hidden * self.directions] * (self.layers - 1)

    @property
    def flops(self):
        """Floating-point operations of the matrix products of a forward pass."""
        rows = sum(2 * (size + self.hidden) * 4 * self.hidden for size in self.sizes)
        return self.directions * self.batch * self.length * rows

    def arrays(self):
        """Inputs [B, T, I] and lengths [B], from the name alone."""
        numbers = np.random.default_rng(zlib.crc32(self.name.encode()))
        inputs = numbers.normal(size=(self.batch, self.length, self.inputs)).astype("float32")
        lengths = np.full(self.batch, self.length)
        if self.ragged:
            lengths = np.sort(numbers.integers(1, self.length + 1, self.batch))[::-1].copy()
        return inputs, lengths.astype("int32")


SHAPES = [
    (32, 100, 64, 128),
    (32, 200, 128, 256),
    (64, 100, 256, 512),
    (1, 1000, 32, 128),
    (128, 784, 1, 128),
    (50, 400, 2, 128),
]
MAIN = [Case(",".join(map(str, shape)), *shape) for shape in SHAPES]
MORE = [
    Case("two layers", 32, 100, 64, 128, layers=2),
    Case("bidirectional", 32, 100, 64, 128, bidirectional=True),
    Case("ragged", 32, 100, 64, 128, ragged=True),
]
STREAM = Case("stream", 1, 1, 32, 128)
HALF = [
    dataclasses.replace(case, name=f"{case.name} bfloat16", dtype="bfloat16") for case in MAIN[:3]
]
"""Where the plain scan is right to a tenth: over more steps its own sums in bfloat16 are not."""
CASES = {case.name: case for case in [*MAIN, *MORE, *HALF, STREAM]}
