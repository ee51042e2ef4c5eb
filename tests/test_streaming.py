"""Steps in a loop and the scan, to the last bit or some, compiled as users have them compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cells_table import CELLS

COMPARE = """
import sys
import jax, numpy as np
import jaxlstm as jl
from cells_table import CELLS, random_inputs, random_params

size = {"input_size": 32, "hidden_size": 64}
wide = {"wide lstm": jl.lstm(**size), "wide gru": jl.gru(**size)}
wide["wide stack"] = jl.stack(jl.rnn(**size), jl.lstm(input_size=64, hidden_size=16))
cells = CELLS | wide
for name in sys.argv[1:]:
    cell = cells[name]
    for batch in (1, 4):
        params = random_params(cell, dtype="float32")
        inputs = random_inputs(cell, batch, 30, dtype="float32")
        step, carry = jax.jit(cell.step), cell.initial_carry(params, (batch,))
        outputs = []
        for t in range(30):
            carry, output = step(params, carry, inputs[:, t])
            outputs.append(np.asarray(output))
        outputs = np.stack(outputs, axis=1)
        out = jl.unroll(cell, params, inputs)
        off = np.abs(outputs - out.outputs).max()
        # Tiny products are fused with what follows, and rounded as this program has it.
        units = 0 if name in wide else 8
        assert off <= units * np.spacing(np.abs(outputs).max()), (name, batch, off)
        if not units:
            jax.tree.map(np.testing.assert_array_equal, out.carry, carry)
print("equal")
"""
FEW = ["wide lstm", "wide gru", "wide stack", "rnn", "stack"]


@pytest.mark.parametrize(
    "names",
    [FEW, pytest.param([name for name in CELLS if name not in FEW], marks=pytest.mark.slow)],
    ids=["few", "others"],
)
def test_steps_that_are_compiled_stream_the_bits_of_unroll(names):
    tests = Path(__file__).parent
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tests), str(tests.parent)])
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, *names], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
