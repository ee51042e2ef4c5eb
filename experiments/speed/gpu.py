"""How fast on a GPU, against torch with cuDNN and a scan as one writes it by hand.

    make bench-gpu PYTHON=python3

That Python is to be one whose JAX and torch both see the GPU; nothing is installed. Shapes,
weights and turns are those of `make bench`, in float32 as every framework computes it by default
there, products in TF32, and in bfloat16. Beside the times stands the floor: the products at the
rate, or the arrays at the bandwidth, that the device reached in the same run. Then what runs in
parallel over time against the same cell in a scan. What is done so far is written after each case.
An engine that fails, hangs or ends says so in its row.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from cases import CASES, HALF, MAIN, MORE
from measure import CROWD, Engine, about, engines_of, latency, measure, spread
from page import CALLS, geometric, median, milliseconds, trouble
from worker import burst

import jaxlstm as jl

FOLDER = Path(__file__).parent
TITLES = {
    "jaxlstm-one": "jaxlstm, auto",
    "jaxlstm-cudnn": "jaxlstm, cudnn",
    "scan": "plain scan",
    "torch": "torch nn.LSTM",
}
TOLERANCES = {"float32": 1e-2, "bfloat16": 1e-1}
"""Largest difference against the plain scan, of the largest entry: TF32 has 10 bits, bfloat16 7."""
PARALLEL = [
    ("gru", 16, 1, 10_000, ("scan", "newton", "quasi-newton")),
    ("min_gru", 64, 8, 10_000, ("scan", "associative")),
    ("min_lstm", 64, 8, 10_000, ("scan", "associative")),
]
"""Cell, units, rows, steps, and what they are run with."""


def calls(function, rounds=3):
    """Seconds of a compiled call in each round."""

    def call():
        jax.block_until_ready(function())

    call()
    return spread([burst(call)["seconds"] for _ in range(rounds)])


def rates(dtype):
    """FLOP/s of large products, and bytes/s of reading and writing a large array."""
    n, size = (8192, 1 << 28) if jax.devices()[0].platform == "gpu" else (1024, 1 << 24)
    a, b = (jax.random.normal(key, (n, n), dtype) for key in jax.random.split(jax.random.key(0)))
    product, long = jax.jit(jnp.matmul), jnp.zeros(size, dtype)
    add = jax.jit(lambda x: x + 1)
    return {
        "flops": 2 * n**3 / calls(lambda: product(a, b))["low"],
        "bytes": 2 * long.nbytes / calls(lambda: add(long))["low"],
    }


def parallel(factory, units, rows, steps, backend, rounds):
    """Seconds of a forward pass and of a gradient, and how far outputs are from a scan's."""
    cell = getattr(jl, factory)(input_size=units, hidden_size=units)
    params = cell.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (rows, steps, units))

    def outputs(params, backend=backend):
        return jl.unroll(cell, params, inputs, backend=backend).outputs

    forward = jax.jit(outputs)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(jnp.square(outputs(params)))))
    with jax.default_matmul_precision("highest"):
        apart = jnp.max(jnp.abs(forward(params) - outputs(params, "scan")))
    return {
        "difference": float(apart),
        "forward": calls(lambda: forward(params), rounds),
        "gradient": calls(lambda: gradient(params), rounds),
    }


def in_parallel(helper, rounds):
    """What each of `PARALLEL` takes, in the process that is asked."""
    for factory, units, rows, steps, backends in PARALLEL:
        asked = {"factory": factory, "units": units, "rows": rows, "steps": steps}
        for backend in backends:
            row = asked | {"backend": backend, "rounds": rounds}
            yield row | helper.ask(do="parallel", **row)


def serve():
    """Answer what is asked, until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        function = {"rates": rates, "parallel": parallel}[request.pop("do")]
        try:
            found = function(**request)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def bytes_moved(case, call):
    """What must be read and written once at least, with weights and states kept on the chip.

    Forward: weights, inputs, outputs. With the gradient: the memory c too, then all of it again,
    and the gradients.
    """
    each = sum((size + case.hidden + 1) * 4 * case.hidden for size in case.sizes)
    weights, steps = case.directions * each, case.batch * case.length
    inputs, states = steps * sum(case.sizes), steps * case.hidden * case.directions * case.layers
    forward = weights + inputs + states
    numbers = forward if call == "forward" else 2 * (forward + states) + weights
    return numbers * (2 if case.dtype == "bfloat16" else 4)


def floor(case, call, rates):
    """Seconds that the products, or the arrays, take at least; None where no rate is known."""
    if "error" in rates[case.dtype]:
        return None
    products = case.flops * (3 if call == "gradient" else 1) / rates[case.dtype]["flops"]
    return max(products, bytes_moved(case, call) / rates[case.dtype]["bytes"])


def table(data, rows, call):
    """Milliseconds by engine and case, the floor, and the ratios."""
    names = data["titles"]
    yield f"| B, T, I, H | {' | '.join(names.values())} | floor | auto: plain scan | auto: torch |"
    yield "|---|" + "---:|" * (len(names) + 3)
    ratios = {"scan": [], "torch": []}
    for row in rows:
        cells = [milliseconds(row["engines"].get(name, {}).get(call)) for name in names]
        least = row["floor"][call]
        cells.append(f"{1e3 * least:.2f}" if least else "–")
        mine = median(row, "jaxlstm-one", call)
        for peer, found in ratios.items():
            other = median(row, peer, call)
            cells.append(f"{other / mine:.2f}" if mine and other else "–")
            if mine and other and row["case"][0].isdigit():
                found.append(other / mine)
        yield f"| {row['case']} | " + " | ".join(cells) + " |"
    means = [f"**{geometric(found):.2f}**" if found else "–" for found in ratios.values()]
    title = f"geometric mean of {len(ratios['scan'])} shapes"
    yield f"| **{title}** |{' |' * (len(names) + 1)} {' | '.join(means)} |"


def page(data):
    """The tables."""
    lines = [
        f"# Speed on {data['device'].partition(',')[0]}",
        "",
        "An LSTM, forward and with the gradients of its weights, in milliseconds: median of the",
        "rounds, lowest and highest in brackets. The last two columns say how many times as fast",
        "`auto` is. float32 is what each framework makes of it there by default, products in TF32;",
        f"outputs and gradients agree with those of the plain scan to {TOLERANCES['float32']:g} of",
        f"the largest entry, in bfloat16 to {TOLERANCES['bfloat16']:g}. The floor is the longer of",
        "two: the matrix products at the device's rate for large ones, and every array read or",
        "written once at its bandwidth. No engine can reach it on small shapes: T steps wait for",
        "each other.",
        "",
    ]
    for dtype, found in data["rates"].items():
        words = found.get("error")
        words = words or f"{found['flops'] / 1e12:.1f} TFLOP/s, {found['bytes'] / 1e9:.0f} GB/s"
        lines.append(f"- {dtype}: {words}")
    for dtype in TOLERANCES:
        rows = [row for row in data["rows"] if row["dtype"] == dtype]
        rows.sort(key=lambda row: list(CASES).index(row["case"]))
        for call, words in CALLS.items() if rows else ():
            lines += ["", f"## {dtype}, {words}", "", *table(data, rows, call)]
    lines += ["", "## Compiling a gradient, in seconds, and its temporary memory, in MB", ""]
    lines += ["| B, T, I, H | auto | plain scan | auto | plain scan |", "|---|---:|---:|---:|---:|"]
    for row in data["rows"]:
        both = [row["engines"].get(name, {}) for name in ("jaxlstm-one", "scan")]
        cells = [f"{found['compile']:.1f}" if "compile" in found else "–" for found in both]
        cells += [f"{found['memory'] / 1e6:.0f}" if "memory" in found else "–" for found in both]
        lines.append(f"| {row['case']} | " + " | ".join(cells) + " |")
    if data["step"]:
        lines += ["", "## One step of one row, with the call from Python", ""]
        lines += ["| engine | microseconds |", "|---|---:|"]
        for name, found in data["step"].items():
            lines.append(f"| {data['titles'][name]} | {1e6 * found['median']:.0f} |")
    if data["parallel"]:
        lines += ["", "## Parallel in time, in milliseconds", ""]
        lines += ["| cell | units | rows | steps | backend | forward | gradient | difference |"]
        lines += ["|---|---:|---:|---:|---|---:|---:|---:|"]
        for row in data["parallel"]:
            cells = [str(row[key]) for key in ("factory", "units", "rows", "steps", "backend")]
            cells += [milliseconds(row.get(call)) for call in CALLS]
            cells.append(f"{row['difference']:.0e}" if "difference" in row else row["error"])
            lines.append("| " + " | ".join(cells) + " |")
    problems = list(trouble(data))
    lines += ["", "## Not timed, or disturbed", "", *problems] if problems else []
    made = data["made"]
    lines += ["", f"`{made['command']}`, {made['date']}, commit {made['revision']}, "]
    lines[-1] += f"{data['rounds']} rounds, {data['seconds'] / 60:.0f} minutes. {data['device']}, "
    lines[-1] += f"{made['machine']}, Python {made['python']}, {made['packages']}."
    return "\n".join(lines) + "\n"


def device():
    """What the numbers are of."""
    ask = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "a CPU"
    name, driver = found.splitlines()[0].split(", ")
    return f"{name}, driver {driver}"


def command(given, names):
    """What was run, but for where it was to write."""
    parts = ["python3", "experiments/speed/gpu.py", "--rounds", given.rounds]
    parts += ["--minutes", f"{given.minutes:g}"] + ["--cpu"] * given.cpu
    parts += ["--cases", *given.cases] if given.cases != names else []
    return shlex.join(map(str, parts))


def main():
    """Measure, and write the data and the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    names = [case.name for case in MAIN + HALF + MORE] + ["step", "parallel"]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=names, choices=names, metavar="CASE")
    parser.add_argument("--minutes", type=float, default=8, help="begin nothing more after these")
    parser.add_argument("--cpu", action="store_true", help="the same on a CPU, to try it out")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("serve", nargs="?", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve()
    os.environ["JAX_PLATFORMS"] = "cpu" if given.cpu else "cuda"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several processes share the memory
    begin = time.perf_counter()
    helper = Engine("serve", "gpu.py")
    found = {dtype: helper.ask(do="rates", dtype=dtype) for dtype in TOLERANCES}
    if "error" in found["float32"]:
        helper.end()
        raise SystemExit(f"JAX finds no GPU here: {found['float32']['error']}".rstrip(": "))
    data = {
        "made": about() | {"command": command(given, names)},
        "device": "a CPU" if given.cpu else device(),
        "rounds": given.rounds,
        "crowd": CROWD,
        "titles": TITLES,
        "rates": found,
        "rows": [],
        "parallel": [],
        "step": {},
    }
    given.out.mkdir(parents=True, exist_ok=True)

    def late():
        data["seconds"] = time.perf_counter() - begin
        (given.out / "gpu.json").write_text(json.dumps(data, indent=1) + "\n")
        (given.out / "gpu.md").write_text(page(data))
        return data["seconds"] > 60 * given.minutes

    with tempfile.TemporaryDirectory() as folder, engines_of(TITLES) as engines:
        for name in given.cases:
            if late():
                break
            if name == "step":
                timed = [engine for engine in TITLES if engine != "jaxlstm-cudnn"]
                data["step"] = latency(timed, given.rounds)
            elif name == "parallel":
                for row in in_parallel(helper, given.rounds):
                    data["parallel"].append(row)
                    if late():
                        break
            else:
                case = CASES[name]
                row = measure(case, engines, given.rounds, Path(folder), TOLERANCES[case.dtype])
                row |= {"dtype": case.dtype, "floor": {c: floor(case, c, found) for c in CALLS}}
                data["rows"].append(row)
    helper.end()
    late()
    sys.stdout.write(page(data))


if __name__ == "__main__":
    main()
