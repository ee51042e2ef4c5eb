"""What `fused` and `remat` save: memory and time of a gradient through long sequences.

    python experiments/memory/measure.py

compiles the gradient of an LSTM (float32, I = 64, H = 128, B = 8) with respect to its weights at
several lengths T, asks the compiled program how much temporary memory it takes, and times the
programs in turns, each against the plain scan in the same round. Writes the table of README.md.
"""

import datetime
import functools
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm as jl

BATCH, INPUTS, HIDDEN = 8, 64, 128
ROUNDS = {100: 7, 1_000: 7, 10_000: 7, 100_000: 1}
CHOICES = {
    "plain scan": {"backend": "scan"},
    'backend="fused"': {"backend": "fused"},
    'remat="chunk"': {"remat": "chunk"},
    'remat="sqrt"': {"remat": "sqrt"},
}
PLAIN = "plain scan"
FOLDER = Path(__file__).parent


def gradient(options, cell, length):
    """The compiled gradient of a sum of squares of the last state."""

    def loss(params, inputs):
        return (jl.unroll(cell, params, inputs, **options).carry.hidden ** 2).sum()

    params = jax.eval_shape(cell.init, jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((BATCH, length, INPUTS), jnp.float32)
    lowered = jax.jit(jax.grad(loss)).lower(params, inputs)
    begin = time.perf_counter()
    return lowered.compile(), time.perf_counter() - begin


def seconds(program, *arguments):
    """The time of one call."""
    begin = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return time.perf_counter() - begin


def measure(length):
    """Memory and time of each choice, checked for equal gradients first."""
    cell = jl.lstm(input_size=INPUTS, hidden_size=HIDDEN)
    params = cell.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (BATCH, length, INPUTS))
    compiled = {name: gradient(options, cell, length) for name, options in CHOICES.items()}
    programs = {name: program for name, (program, _) in compiled.items()}
    plain = programs[PLAIN](params, inputs)
    for program in programs.values():
        close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
        jax.tree.map(close, program(params, inputs), plain)
    times = {name: [] for name in CHOICES}
    for _ in range(ROUNDS[length]):
        for name, program in programs.items():
            times[name].append(seconds(program, params, inputs))
    memory = {name: p.memory_analysis().temp_size_in_bytes for name, p in programs.items()}
    for name in CHOICES:
        ratios = [a / b for a, b in zip(times[name], times[PLAIN], strict=True)]
        yield {
            "T": length,
            "choice": name,
            "temporary_bytes": memory[name],
            "memory_ratio": memory[name] / memory[PLAIN],
            "seconds": statistics.median(times[name]),
            "time_ratio": statistics.median(ratios),
            "time_ratio_range": [min(ratios), max(ratios)],
            "compile_seconds": compiled[name][1],
        }


def table(rows):
    """The measurements in Markdown."""
    yield "| T | | temporary memory | of the plain one | time | of the plain one | compiling |"
    yield "|---:|---|---:|---:|---:|---:|---:|"
    for row in rows:
        low, high = row["time_ratio_range"]
        yield (
            f"| {row['T']:,} | {row['choice']} | {row['temporary_bytes'] / 2**20:.2f} MiB | "
            f"1/{1 / row['memory_ratio']:.1f} | {1e3 * row['seconds']:.0f} ms | "
            f"{row['time_ratio']:.2f} ({low:.2f} to {high:.2f}) | {row['compile_seconds']:.2f} s |"
        )


def main():
    """Measure, and write the data and the page."""
    rows = [row for length in ROUNDS for row in measure(length)]
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=FOLDER, capture_output=True, text=True
    ).stdout.strip()
    made = (
        f"{datetime.date.today()}, revision {revision}, jax {jax.__version__}, Python "
        f"{sys.version.split()[0]}, {platform.machine()} with {len(jax.devices())} "
        f"{jax.devices()[0].platform} device"
    )
    (FOLDER / "data.json").write_text(json.dumps({"made": made, "rows": rows}, indent=1) + "\n")
    page = [
        "# What `fused` and `remat` save",
        "",
        f"The gradient of an LSTM, float32, I = {INPUTS}, H = {HIDDEN}, B = {BATCH}: temporary",
        "memory as the compiled program states it, and time in turns with the plain scan,",
        f"median and range of {ROUNDS[100]} rounds ({ROUNDS[100_000]} at 100,000 steps). The",
        "gradients are checked to be equal first. Compiling is the time of XLA alone, once.",
        "",
        *table(rows),
        "",
        f"Command: `python experiments/memory/measure.py`. Measured {made}.",
        "",
    ]
    (FOLDER / "README.md").write_text("\n".join(page))
    sys.stdout.write("\n".join(page))


if __name__ == "__main__":
    main()
