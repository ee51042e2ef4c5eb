"""How fast, against everything else: each engine in a process of its own, in turns.

    make bench

For each case every engine gets the same weights and the same batch. Its outputs and gradients must
equal those of the plain scan before anything is timed. Then the engines take turns: a burst of
forward passes, a burst of gradients of the weights, round after round; all processes but one are
stopped, since the threads of torch spin while they wait. A burst in which anything else used more
than a twentieth of the machine is done again.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import page
from cases import HALF, MAIN, MORE, STREAM

FOLDER = Path(__file__).parent
TITLES = {
    "jaxlstm": "jaxlstm",
    "jaxlstm-one": "jaxlstm, one device",
    "scan": "plain scan",
    "torch": "torch nn.LSTM",
    "keras": "Keras on JAX",
    "flax": "flax nnx.RNN",
    "haiku": "haiku",
    "equinox": "equinox + scan",
}
SINGLE = ("haiku", "equinox")
WITH_HALF = ("jaxlstm", "jaxlstm-one", "scan", "torch")
CALLS = ("forward", "gradient")
TOLERANCES = {"float32": 2e-3, "bfloat16": 1e-1}
"""Largest difference of outputs or gradients, against the largest of their entries."""
TRIES, CROWD = 4, 0.05
"""How often a burst is tried, and the share of the machine above which something disturbed it."""
PATIENCE = 120
"""Seconds that a process has for an answer: one that hangs is ended."""


class Engine:
    """A worker process that is stopped while it has nothing to do; one that ended begins anew."""

    def __init__(self, name, script="worker.py"):
        self.name, self.script = name, script
        self.begin()

    def begin(self):
        self.process = subprocess.Popen(
            [sys.executable, FOLDER / self.script, self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **request):
        """Let it go on, ask, wait for the answer, stop it."""
        if self.process.poll() is not None:
            self.begin()
        self.process.send_signal(signal.SIGCONT)
        late = threading.Timer(PATIENCE, self.process.kill)
        late.start()
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except OSError:  # it ended before it could be asked
            line = ""
        late.cancel()
        if not line.endswith("\n"):
            self.end()
            ended = {"error": f"the process ended, status {self.process.returncode}"}
            self.begin()
            return ended
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(line)

    def timed(self, **request):
        """The answer to a request during which the machine was quiet, or the quietest one."""
        found = []
        for _ in range(TRIES):
            before = time.perf_counter(), busy(), self.used()
            answer = self.ask(**request)
            if "error" in answer:
                return answer
            wall, others = time.perf_counter() - before[0], busy() - before[1]
            others = (others - (self.used() - before[2])) / wall / len(os.sched_getaffinity(0))
            found.append((others, answer))
            if others < CROWD:
                break
        others, answer = min(found, key=lambda pair: pair[0])
        return answer | {"others": others}

    def used(self):
        """Seconds of CPU that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def engines_of(names):
    """A process of each engine."""
    engines = {name: Engine(name) for name in names}
    try:
        yield engines
    finally:
        for engine in engines.values():
            engine.end()


def busy():
    """Seconds that the machine's cores have worked, in all."""
    fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def sgemm():
    """The machine's rate of large matrix products in float32, in FLOP/s."""
    n = 2048
    a, b = (np.random.default_rng(s).normal(size=(n, n)).astype("float32") for s in (0, 1))
    best = float("inf")
    for _ in range(12):
        begin = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begin)
    return 2 * n**3 / best


def prepared(engines, case, folder, tolerance):
    """What compiling took, by engine; those that fail, or differ from the first, say so.

    The first is the plain scan, unless that has failed.
    """
    found, wanted, first = {}, None, None
    order = sorted(engines, key=lambda name: name != "scan")
    for name in order:
        file = folder / f"{name}.npz"
        found[name] = engines[name].ask(do="prepare", engine=name, case=case.name, file=str(file))
        if "error" in found[name]:
            continue
        with np.load(file) as arrays:
            results = [arrays[key] for key in arrays.files]
        if wanted is None:
            wanted, first = results, name
        apart = max(
            float(np.max(np.abs(a - b)) / np.max(np.abs(b)))
            for a, b in zip(results, wanted, strict=True)
        )
        found[name]["difference"] = apart
        if not apart < tolerance:
            found[name]["error"] = f"differs from {TITLES.get(first, first)} by {apart:.1e}"
    return found


def measure(case, engines, rounds, folder, tolerance):
    """All numbers of one case."""
    names = list(engines)
    ready = prepared(engines, case, folder, tolerance)
    times = {name: {call: [] for call in CALLS} for name in names}
    others = 0.0
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if "error" in ready[name]:
                continue
            for call in CALLS:
                answer = engines[name].timed(do="time", call=call)
                if "error" in answer:
                    ready[name]["error"] = answer["error"]
                    break
                times[name][call].append(answer["seconds"])
                others = max(others, answer["others"])
    row = {"case": case.name, "flops": case.flops, "others": others, "engines": {}}
    for name in names:
        row["engines"][name] = ready[name] | {
            call: spread(times[name][call]) for call in CALLS if times[name][call]
        }
        say(case, name, row["engines"][name])
    return row


def latency(names, rounds):
    """Seconds of one step of one row, by engine."""
    found = {}
    for name in names:
        engine = Engine(name)
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = str(Path(folder) / "r.npz")
                engine.ask(do="prepare", engine=name, case=STREAM.name, file=file)
            answers = [engine.timed(do="stream") for _ in range(rounds)]
        finally:
            engine.end()
        if not any("error" in answer for answer in answers):
            found[name] = spread([answer["seconds"] for answer in answers])
            sys.stdout.write(f"one step, {name}: {1e6 * found[name]['median']:.0f} µs\n")
    return found


def spread(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def takes(name, case):
    """Whether an engine is measured on a case."""
    if case in HALF:
        return name in WITH_HALF
    return case in MAIN or name not in SINGLE


def say(case, name, found):
    if "error" in found:
        words = found["error"]
    else:
        words = ", ".join(f"{call} {1e3 * found[call]['median']:.1f} ms" for call in CALLS)
    sys.stdout.write(f"{case.name}, {name}: {words}\n")
    sys.stdout.flush()


def main():
    """Measure, and write the data, the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", nargs="*", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--cases", nargs="*", default=[c.name for c in MAIN + MORE + HALF])
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    begin, rate, rows = time.perf_counter(), sgemm(), {"float32": [], "bfloat16": []}
    with tempfile.TemporaryDirectory() as folder:
        for case in [case for case in MAIN + MORE + HALF if case.name in given.cases]:
            names = [name for name in given.engines if takes(name, case)]
            with engines_of(names) as engines:
                found = measure(case, engines, given.rounds, Path(folder), TOLERANCES[case.dtype])
            rows[case.dtype].append(found)
    steps = latency([n for n in given.engines if n != "jaxlstm"], given.rounds)
    rate = max(rate, sgemm())
    data = {
        "made": about(),
        "seconds": time.perf_counter() - begin,
        "rounds": given.rounds,
        "sgemm": rate,
        "crowd": CROWD,
        "rows": rows["float32"],
        "half": rows["bfloat16"],
        "step": steps,
        "titles": TITLES,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "data.json").write_text(json.dumps(data, indent=1) + "\n")
    page.write(given.out, data)


def about():
    """The command, the commit and the machine."""
    from importlib.metadata import PackageNotFoundError, version

    def of(name):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"no {name}"

    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=FOLDER, capture_output=True, text=True
        ).stdout.strip()
    except OSError:
        revision = "unknown"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    packages = ("jax", "torch", "keras", "flax", "dm-haiku", "equinox")
    return {
        "command": "make bench",
        "date": str(datetime.date.today()),
        "revision": revision,
        "python": platform.python_version(),
        "packages": ", ".join(map(of, packages)),
        "machine": f"{len(os.sched_getaffinity(0))} cores of {model}, {platform.machine()}",
    }


if __name__ == "__main__":
    main()
