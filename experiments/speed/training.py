"""Whole trainings, end to end: `jaxlstm run` of three configs against the same written in torch.

    make bench-training

The first updates of both are held against each other before anything is timed: the same weights
and batches must give the same parameters. Then they take turns, each run a process of its own, and
what is timed is all of it: starting Python, reading the data, compiling, every update, the scores,
samples and checkpoints on the way. Beside it the seconds of the training alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import about, busy, spread

from jaxlstm import config, runs
from jaxlstm.training.prepare import Training, prepare

FOLDER = Path(__file__).parent
NAMES = ("adding", "shakespeare", "vowels")
TOLERANCE = 1e-4
"""Largest difference of a parameter after some updates of .01 at most."""


def plan_of(training: Training) -> dict:
    """What torch needs to know of a training."""
    experiment, task = training.experiment, training.task
    train, optimizer, sample = experiment.train, experiment.optimizer, experiment.sample
    return {
        "sizes": {
            "input": task.input_size,
            "hidden": experiment.model.hidden_size,
            "output": task.output_size,
            "tokens": task.tokens,
            "every_step": task.every_step,
        },
        "length": getattr(experiment.task, "window", None) or getattr(experiment.task, "length", 0),
        "seeds": len(experiment.seed_list),
        "batch": train.batch_size,
        "steps": train.steps,
        "rate": optimizer.learning_rate,
        "clip": optimizer.clip_norm,
        "warmup": optimizer.schedule.warmup_steps,
        "log_every": train.log_every,
        "evaluate_every": train.evaluate_every,
        "checkpoint_every": train.checkpoint_every,
        "sample_every": sample.every if sample else None,
        "characters": sample.characters if sample else 0,
        "temperature": sample.temperature if sample else 1.0,
    }


def data_for_torch(training: Training, file: Path) -> None:
    """Write the plan and the data of a training."""
    task = training.task
    scored = task.evaluation[training.goal.split]
    parts = {"eval inputs": scored.inputs, "eval targets": scored.targets}
    if scored.lengths is not None:
        parts["eval lengths"] = scored.lengths
    if task.encode is not None:
        parts |= {"text": task.data, "prompt": training.prompt}
    elif task.data:
        data = task.data
        parts |= {"inputs": data.inputs, "targets": data.targets, "lengths": data.lengths}
    parts = {name: np.asarray(array) for name, array in parts.items()}
    parts = {n: a.astype(np.int32) if a.dtype == np.uint8 else a for n, a in parts.items()}
    np.savez(file, plan=json.dumps(plan_of(training)), **parts)


def ask(*words: str) -> dict:
    """Run the torch program, and read the line it ends with."""
    command = [sys.executable, str(FOLDER / "training_torch.py"), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def ours(name: str, folder: Path) -> dict:
    """Run a config as a user does."""
    out = folder / name
    command = [sys.executable, "-m", "jaxlstm", "run", f"configs/{name}.toml", "--quiet"]
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    manifest = runs.read_manifest(out)
    scores = {score.metric: score.mean for score in manifest.summary}
    return {"seconds": manifest.seconds, "scores": scores}


def timed(function, *args) -> dict:
    """What a function gives, the wall time of it, and how many cores all that runs used."""
    begin, before = time.perf_counter(), busy()
    found = function(*args)
    wall = time.perf_counter() - begin
    return found | {"wall": wall, "cores": (busy() - before) / wall}


def measure(name: str, rounds: int) -> dict:
    """All of one config."""
    apart = ask("check", name)["difference"]
    if not apart < TOLERANCE:
        raise SystemExit(f"{name}: the parameters differ by {apart:.1e} after the first updates")
    found = {"jaxlstm": [], "torch": []}
    training = prepare(config.load(f"configs/{name}.toml"))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "data.npz"
            data_for_torch(training, file)
            found["jaxlstm"].append(timed(ours, name, Path(folder)))
            found["torch"].append(timed(ask, "run", name, str(file)))
    row = {"name": name, "seeds": len(training.experiment.seed_list), "difference": apart}
    for engine, each in found.items():
        row[engine] = {
            key: spread([one[key] for one in each]) for key in ("wall", "seconds", "cores")
        } | {"scores": each[-1]["scores"]}
    sys.stdout.write(f"{name}: " + ", ".join(said(row, key) for key in ("wall", "seconds")) + "\n")
    return row


def said(row: dict, key: str) -> str:
    return f"{key} " + " / ".join(f"{row[e][key]['median']:.1f} s" for e in ("jaxlstm", "torch"))


def page(data: dict) -> str:
    """The table."""
    lines = [
        "# Trainings, end to end",
        "",
        "Three configs as `jaxlstm run` trains them, against the same training written in torch",
        "(`training_torch.py`), in seconds: median of the rounds, lowest and highest in brackets.",
        "`all` is the whole program, from its start; `training` what it says of itself, compiling",
        "and the scores, samples and checkpoints on the way among it. Several seeds run side by",
        "side here, and one after the other, each on all cores, there.",
        "",
        "| config | seeds | all: jaxlstm | all: torch | times as fast | training: jaxlstm "
        "| training: torch | times as fast |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in data["rows"]:
        cells = [row["name"], str(row["seeds"])]
        for key in ("wall", "seconds"):
            mine, theirs = row["jaxlstm"][key], row["torch"][key]
            cells += [show(mine), show(theirs), f"{theirs['median'] / mine['median']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    made = data["made"]
    lines += ["", f"`make bench-training`, {data['rounds']} rounds, {made['date']}, commit "]
    lines[-1] += f"{made['revision']}, {made['machine']}, Python {made['python']}, "
    lines[-1] += f"{made['packages']}."
    crowded = max(row[e]["cores"]["high"] for row in data["rows"] for e in ("jaxlstm", "torch"))
    lines += [
        "",
        "Before anything was timed, the parameters of both were equal after five updates on the",
        "same batches, to within "
        + ", ".join(f"{row['difference']:.0e} ({row['name']})" for row in data["rows"])
        + f". All processes of the machine together used at most {crowded:.2f} cores.",
    ]
    return "\n".join(lines) + "\n"


def show(found: dict) -> str:
    return f"{found['median']:.1f} ({found['low']:.1f}–{found['high']:.1f})"


def main() -> None:
    """Measure, and write the data and the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--names", nargs="*", default=list(NAMES), choices=NAMES)
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    rows = [measure(name, given.rounds) for name in given.names]
    made = about() | {"command": "make bench-training"}
    data = {"made": made, "rounds": given.rounds, "rows": rows}
    (given.out / "training.json").write_text(json.dumps(data, indent=1) + "\n")
    (given.out / "training.md").write_text(page(data))


if __name__ == "__main__":
    main()
