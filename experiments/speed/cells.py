"""Every cell by itself: "auto" against a scan of its step, and a ConvLSTM against that of Keras.

    make bench-cells

Each in a process of its own, with the same weights and batch, equal before anything is timed, in
turns, on a single device. What differs is how derivatives are made; for an mLSTM the forward pass
too.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import worker
from engines import OnJax
from measure import CROWD, Engine, about, measure
from page import milliseconds

import jaxlstm as jl

FOLDER = Path(__file__).parent
WIDE = {"input_size": 64, "hidden_size": 128}
MAKERS: dict[str, Callable[[], jl.Cell]] = {
    "rnn": lambda: jl.rnn(**WIDE),
    "indrnn": lambda: jl.indrnn(**WIDE),
    "gru": lambda: jl.gru(**WIDE),
    "gru, reset before": lambda: jl.gru(**WIDE, reset_after=False),
    "mgu": lambda: jl.mgu(**WIDE),
    "lstm": lambda: jl.lstm(**WIDE),
    "lstm, peepholes": lambda: jl.lstm(**WIDE, peepholes=True),
    "lstm, full gate recurrence": lambda: jl.lstm(**WIDE, full_gate_recurrence=True),
    "lstmp": lambda: jl.lstmp(**WIDE, projection_size=64),
    "lstm_1997": lambda: jl.lstm_1997(input_size=64, blocks=64, block_size=2),
    "layer_norm_lstm": lambda: jl.layer_norm_lstm(**WIDE),
    "slstm": lambda: jl.slstm(**WIDE),
    "mlstm": lambda: jl.mlstm(**WIDE),
    "mlstm, 4 heads": lambda: jl.mlstm(**WIDE, heads=4),
    "min_gru": lambda: jl.min_gru(**WIDE),
    "min_lstm": lambda: jl.min_lstm(**WIDE),
    "conv_lstm, 16 × 16": lambda: jl.conv_lstm(input_shape=(16, 16, 1), filters=16),
    "conv_lstm, 32 × 32": lambda: jl.conv_lstm(input_shape=(32, 32, 4), filters=16),
}
TITLES = {"auto": "auto", "scan": "scan", "keras": "Keras on JAX"}
TOLERANCE = 1e-3
"""Largest difference of outputs or gradients, against the largest of their entries."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One cell over one batch."""

    name: str
    ragged = False
    dtype = "float32"
    flops = None

    @property
    def frames(self) -> bool:
        """Whether inputs are images."""
        return self.name.startswith("conv")

    @property
    def batch(self) -> tuple[int, int]:
        """Rows and steps."""
        return (16, 20) if self.frames else (32, 100)


CASES = {name: Case(name) for name in MAKERS}


class Cell(OnJax):
    """A cell in `unroll`."""

    backend = "auto"

    def __init__(self, case):
        self.case, self.cell, numbers = case, MAKERS[case.name](), np.random.default_rng(7)
        shape = (*case.batch, *self.cell.input_shape)
        self.inputs = jnp.asarray(numbers.normal(size=shape), jnp.float32)
        self.params = self.cell.init(jax.random.key(0))
        self.mask = jnp.float32(1)
        self.weights = self.build()

    def build(self):
        return self.params

    def apply(self, weights, inputs):
        return jl.unroll(self.cell, weights, inputs, backend=self.backend).outputs

    def back(self, gradients):
        return gradients


class Scan(Cell):
    """The same, one step after the other."""

    backend = "scan"


class Keras(Cell):
    """keras.layers.ConvLSTM2D, stateless."""

    def build(self):
        os.environ["KERAS_BACKEND"] = "jax"
        import keras

        filters = self.params.recurrent_kernel.shape[-2]
        self.layer = keras.layers.ConvLSTM2D(filters, 3, padding="same", return_sequences=True)
        self.layer.build(self.inputs.shape)
        return jl.convert.keras.dump(self.cell, self.params)

    def apply(self, weights, inputs):
        others = [variable.value for variable in self.layer.non_trainable_variables]
        return self.layer.stateless_call(weights, others, inputs)[0]


ENGINES: dict[str, Any] = {"auto": Cell, "scan": Scan, "keras": Keras}


def page(data):
    """The table."""
    yield f"""# Speed, cell by cell

Outputs, and gradients of the weights (of the sum of squares of all outputs), float32, in
milliseconds: median of the rounds, lowest and highest in brackets. 32 rows of 100 steps of 64
features, 128 units; images in 16 rows of 20 steps, 16 filters of 3 × 3. One device, no `spread`.
"auto" is what `unroll` takes by itself, "scan" the step in a loop, differentiated by JAX. They
agree to {TOLERANCE:g} of the largest entry. Memory is the temporary one of a gradient.
"""
    yield "| cell | by | forward | gradient | MB | compile, s |"
    yield "|---|---|---:|---:|---:|---:|"
    for row in data["rows"]:
        for name, found in row["engines"].items():
            cells = [milliseconds(found.get(call)) for call in ("forward", "gradient")]
            if "error" in found:
                cells += [found["error"], ""]
            else:
                cells += [f"{found['memory'] / 1e6:.1f}", f"{found['compile']:.1f}"]
            yield f"| {row['case']} | {TITLES[name]} | " + " | ".join(cells) + " |"
    made = data["made"]
    yield ""
    yield (
        f"`make bench-cells`, {made['date']}, commit {made['revision']}, {data['rounds']} rounds, "
        f"{data['seconds'] / 60:.0f} minutes. {made['machine']}, Python {made['python']}, "
        f"{made['packages']}."
    )


def main():
    """Measure, and write the data and the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("serve", nargs="?", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return worker.main(given.serve, ENGINES, CASES)
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for case in map(CASES.get, given.cells):
            names = [name for name in ENGINES if name != "keras" or case.frames]
            engines = {name: Engine(name, "cells.py") for name in names}
            try:
                rows.append(measure(case, engines, given.rounds, Path(folder), TOLERANCE))
            finally:
                for engine in engines.values():
                    engine.end()
    data = {
        "made": about() | {"command": "make bench-cells"},
        "seconds": time.perf_counter() - begin,
        "rounds": given.rounds,
        "crowd": CROWD,
        "rows": rows,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "cells.json").write_text(json.dumps(data, indent=1) + "\n")
    (given.out / "cells.md").write_text("\n".join(page(data)) + "\n")
    sys.stdout.write((given.out / "cells.md").read_text())


if __name__ == "__main__":
    main()
