"""Where the time of a gradient goes: each part of it as a program of its own, on one device.

    make bench-parts

Every part does what the whole does there and nothing else: the products with the recurrent kernel
step by step, forward and backward; the gates step by step, without a product; what is done for
many steps at once. Each is in a process of its own: what one leaves behind in memory changes what
the fresh pages of the next cost. What the whole takes beyond their sum is lost between them:
slices, copies, the loop itself. A compiled kernel would have the products at the machine's rate and
the gates in one pass over memory; what is left of the whole then is what it could gain.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from cases import MAIN
from engines import cell_of, weights_of
from jax import lax
from measure import Engine, about, busy, sgemm

import jaxlstm as jl

FOLDER = Path(__file__).parent
ROUNDS, LEAST = 5, 0.15
"""How often each part has its turn, and the seconds that its calls take then at least."""
WHOLES = ("forward", "gradient", "alone")
PARTS = {
    "recurrent": "h U, step by step",
    "backward": "dz Uᵀ, step by step",
    "gates": "gates, step by step",
    "inputs": "x W, at once",
    "again": "h U again, at once",
    "weights": "dW and dU, at once",
    "slopes": "slopes of the gates, at once",
}


def gates(z, cell):
    """The new hidden and cell state, from [B, 4H] and [B, H]."""
    i, f, g, o = jnp.split(z, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


def programs(case, params):
    """The whole and its parts: functions and their arguments."""
    b, t, h = case.batch, case.length, case.hidden
    w, u = params.kernel, params.recurrent_kernel
    inputs = jnp.asarray(case.arrays()[0])
    cell = cell_of(case)
    numbers = np.random.default_rng(3)

    def some(*shape):
        return jnp.asarray(numbers.normal(size=shape).astype("float32"))

    x, states, z = some(t * b, case.inputs), some(t * b, h), some(t, b, 4 * h)

    def forward(params, inputs, backend="auto"):
        return jl.unroll(cell, params, inputs, backend=backend).outputs

    def gradient(backend):
        return jax.grad(lambda params, x: jnp.sum(jnp.square(forward(params, x, backend))))

    def recurrent(u):
        return lax.scan(lambda s, _: (0.5 * (s @ u)[:, :h], s), states[:b], None, length=t)

    def backward(turned):
        def step(dz, _):
            dh = dz @ turned
            return jnp.concatenate([dh] * 4, axis=1) * 0.1, dh

        return lax.scan(step, z[0], None, length=t)

    def only_gates(z):
        # Each step fetches the z of the next: where gates read from the whole sequence, XLA does
        # not vectorise them, and beside a product they do not.
        def step(carry, ahead):
            hidden, cell, z = carry
            hidden, cell = gates(z + jnp.tile(hidden, 4), cell)
            return (hidden, cell, ahead), (hidden, cell)

        return lax.scan(step, (states[:b], states[:b], z[0]), jnp.roll(z, -1, axis=0))

    def slopes(z):
        i, f, g, o = jnp.split(z, 4, axis=-1)
        i, f, o, g = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o), jnp.tanh(g)
        return jnp.concatenate(
            [g * i * (1 - i), f * (1 - f), i * (1 - g * g), o * (1 - o)], axis=-1
        )

    rows = z.reshape(t * b, 4 * h)
    return {
        "forward": (forward, params, inputs),
        "gradient": (gradient("auto"), params, inputs),
        "alone": (gradient("fused"), params, inputs),
        "recurrent": (recurrent, u),
        "backward": (backward, jnp.array(u.T)),
        "gates": (only_gates, z),
        "inputs": (lambda x: x @ w, x),
        "again": (lambda states: states @ u, states),
        "weights": (lambda rows: (x.T @ rows, states.T @ rows), rows),
        "slopes": (slopes, z),
    }


def serve(part):
    """Time a part of a case whenever asked to, until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        if "case" in request:
            case = next(case for case in MAIN if case.name == request["case"])
            params = jax.tree.map(jnp.asarray, weights_of(case))
            function, *args = programs(case, params)[part]
            call = jax.jit(function)
            jax.block_until_ready(call(*args))
        found = []
        while sum(found) < LEAST or len(found) < 3:
            begin = time.perf_counter()
            jax.block_until_ready(call(*args))
            found.append(time.perf_counter() - begin)
        sys.stdout.write(json.dumps({"seconds": statistics.median(found)}) + "\n")
        sys.stdout.flush()


def seconds(case):
    """Median time of a call of each part, of rounds in which they take turns."""
    workers = [Engine(name, "parts.py") for name in (*WHOLES, *PARTS)]
    try:
        for worker in workers:
            worker.ask(case=case.name)
        found = [[worker.timed()["seconds"] for worker in workers] for _ in range(ROUNDS)]
    finally:
        for worker in workers:
            worker.end()
    medians = map(statistics.median, zip(*found, strict=True))
    return {worker.name: median for worker, median in zip(workers, medians, strict=True)}


def page(data):
    """The table."""
    lines = [
        "# Where the time goes",
        "",
        "The gradient of the weights of an LSTM, float32, on one device, and each of its parts as",
        f"a program and a process of its own, in milliseconds, median of {ROUNDS} rounds in turns.",
        "`whole` is what `auto` makes of it, `fused` keeps the carries alone and has `h U` to do",
        "again. `between` is what the whole takes beyond the sum of its parts, `h U` again left",
        "out; `kernel` what is left if all products, each done once, ran at the machine's rate for",
        f"large ones, {data['sgemm'] / 1e9:.0f} GFLOP/s, and the gates and their slopes took what",
        "the slopes take at once. These write all they give to memory, into fresh pages where that",
        "is large: there a compiled kernel, through XLA's foreign function interface, that kept",
        "them in a core's cache would be faster still. `gain` is the whole over `kernel`.",
        "",
        f"| B, T, I, H | whole | fused | {' | '.join(PARTS.values())} | between | kernel | gain |",
        "|---|" + "---:|" * (len(PARTS) + 5),
    ]
    for row in data["rows"]:
        parts = [row[name] for name in PARTS]
        kernel = row["flops"] * 3 / data["sgemm"] + 2 * row["slopes"]
        between = row["gradient"] - sum(parts) + row["again"]
        cells = [row["gradient"], row["alone"], *parts, between, kernel]
        words = [f"{1e3 * cell:.1f}" for cell in cells] + [f"{row['gradient'] / kernel:.1f}"]
        lines.append(f"| {row['case']} | " + " | ".join(words) + " |")
    made = data["made"]
    lines += ["", f"`make bench-parts`, {made['date']}, commit {made['revision']}, "]
    lines[-1] += f"{made['machine']}, Python {made['python']}, {made['packages']}. While it ran all"
    lines += [f"processes of the machine together used {data['cores']:.2f} cores in the mean."]
    return "\n".join(lines) + "\n"


def main():
    """Measure, and write the data and the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", nargs="*", default=[case.name for case in MAIN])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("part", nargs="?", choices=(*WHOLES, *PARTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        return serve(given.part)
    rate, rows, begin = sgemm(), [], (time.perf_counter(), busy())
    for case in [case for case in MAIN if case.name in given.cases]:
        row = seconds(case)
        rows.append({"case": case.name, "flops": case.flops} | row)
        whole, parts = row["gradient"], sum(row[name] for name in PARTS)
        sys.stdout.write(f"{case.name}: {1e3 * whole:.1f} ms, parts {1e3 * parts:.1f} ms\n")
    cores = (busy() - begin[1]) / (time.perf_counter() - begin[0])
    made = about() | {"command": "make bench-parts"}
    data = {"made": made, "sgemm": max(rate, sgemm()), "cores": cores, "rows": rows}
    (given.out / "parts.json").write_text(json.dumps(data, indent=1) + "\n")
    (given.out / "parts.md").write_text(page(data))


if __name__ == "__main__":
    main()
