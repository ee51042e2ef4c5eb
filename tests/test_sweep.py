"""Sweeps: what is refused, what a run that dies costs the others, and who goes on where."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxlstm import cli, config, locks, runs, sweeps
from jaxlstm.sweeps import engines, tries

ROOT = Path(__file__).parent.parent
SMALL = """
kind = "training"
name = "small"
question = "?"
expected = "!"
task = { kind = "adding", length = 4 }
model = { cell = "rnn", hidden_size = 3 }
optimizer = { kind = "sgd", learning_rate = 1e-3 }
train = { steps = 40, batch_size = 2, log_every = 2, steps_per_dispatch = 4, checkpoint_every = 8 }
"""
SWEEP = """
kind = "sweep"
name = "both"
question = "?"
expected = "!"
from = "small.toml"
[training]
seeds = 2
train.steps = 20
[grid]
model.hidden_size = [3, 4]
[[cases]]
optimizer.learning_rate = 1e-3
train.batch_size = 2
[[cases]]
optimizer = { kind = "adam", learning_rate = 1e-2 }
train.batch_size = 3
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def room(tmp_path, monkeypatch, compiled):
    """A working folder with the config of a training, and a cache of what runs compile."""
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL)
    Path("both.toml").write_text(SWEEP)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(compiled))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    return tmp_path


def of(*options, path="small.toml"):
    loaded = config.load_sweep(path, list(options))
    assert isinstance(loaded, config.Sweep)
    assert config.loads(config.dumps(loaded)) == loaded
    return loaded


# What is run.


def test_lists_make_a_grid_and_the_last_key_changes_fastest(room):
    made = of(("model.hidden-size", "[3, 4]"), ("optimizer.learning_rate", "[1e-3, 1e-2]"))
    found = [
        (s.experiment.model.hidden_size, s.experiment.optimizer.learning_rate)
        for s in made.settings
    ]
    assert found == [(3, 1e-3), (3, 1e-2), (4, 1e-3), (4, 1e-2)]
    plan = sweeps.plan(of(("model.hidden_size", "[3, 4]"), ("seeds", "[5, 7]")))
    assert list(plan.trainings) == [
        "hidden_size-3_seed-5",
        "hidden_size-3_seed-7",
        "hidden_size-4_seed-5",
        "hidden_size-4_seed-7",
    ]
    assert plan.trainings["hidden_size-4_seed-7"].seed_list == (7,)


def test_cases_go_with_the_whole_grid_and_a_table_with_a_kind_is_a_new_one(room):
    made = of(path="both.toml")
    assert [
        (s.experiment.optimizer.learning_rate, s.experiment.train.batch_size, s.values)
        for s in made.settings
    ][2:3] == [
        (
            1e-2,
            3,
            {
                "optimizer": {"kind": "adam", "learning_rate": 1e-2},
                "train.batch_size": 3,
                "model.hidden_size": 3,
            },
        )
    ]
    labels = [setting.label for setting in sweeps.plan(made).settings]
    assert labels[2] == "optimizer adam learning_rate 0.01, batch_size 3, hidden_size 3"
    assert len(sweeps.plan(made).trainings) == 8
    typed = of(("model.hidden_size", "9"), ("train.steps", "30"), path="both.toml")
    assert {s.experiment.model.hidden_size for s in typed.settings} == {9}
    assert {s.experiment.train.steps for s in typed.settings} == {30}


def test_a_key_that_takes_a_list_is_swept_by_a_list_of_lists(room):
    model = 'model = { cell = "lstm-1997", blocks = 2, block_size = 2 }'
    Path("old.toml").write_text(re.sub("model = .*", model, SMALL))
    one = of(("model.input_gate_bias", "[-3, -6]"), path="old.toml")
    assert not one.grid
    two = of(("model.input_gate_bias", "[[-3, -6], [-1, -2]]"), path="old.toml")
    biases = [setting.experiment.model.input_gate_bias for setting in two.settings]
    assert biases == [(-3, -6), (-1, -2)]


def test_runs_have_names_of_their_own_whatever_the_values_are(room):
    values = json.dumps(["a b", "a/b", "a+b", "x" * 200, "x" * 201])
    Path("text.toml").write_text(
        SMALL.replace('kind = "adding", length = 4', 'kind = "characters", path = "t"')
    )
    names = list(sweeps.plan(of(("task.path", values), path="text.toml")).trainings)
    assert len(set(names)) == len(names) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) for name in names)
    both = [("model.hidden_size", "[3, 4]"), ("train.steps", "[8]")]
    assert sweeps.plan(of(*both)).settings[0].label == "hidden_size 3, steps 8"


def test_all_seeds_of_a_setting_in_one_run_where_that_is_asked_for(room):
    Path("both.toml").write_text(SWEEP.replace('"both"', '"both"\nseeds_apart = false'))
    plan = sweeps.plan(of(path="both.toml"))
    assert len(plan.trainings) == 4
    assert all(one.seed_list == (0, 1) for one in plan.trainings.values())


def test_cores_are_shared_out_among_workers():
    assert [slot.cores for slot in engines.slots(4, range(8))] == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert [slot.cores for slot in engines.slots(3, [5, 9])] == [(5,), (9,), (5,)]
    assert [slot.cores for slot in engines.slots(None, [5, 9])] == [(5,), (9,)]


# What is refused, before anything is written.

MISTAKES = [
    (["--model.hiden_size", "[1]"], "--model.hiden_size: no such key; did you mean `hidden_size`?"),
    (["--model.hidden_size", "[1, 0]"], "--model.hidden_size: expected int >= 1, got 0"),
    (["--grid.model.hidden_size", "[1, 0]"], "--model.hidden_size: expected int >= 1, got 0"),
    (["--training.train.steps", "x"], "--train.steps: expected int, got 'x'"),
    (["--model.hidden_size", "[]"], "small.toml: expected one or more values in grid.model.hidden"),
    (["--model.hidden_size", "[8, 8]"], "small.toml: expected different values in grid.model.hid"),
    (["--optimizer.learning_rate", "[inf]"], "grid.optimizer.learning_rate[0]: expected a finite"),
    (["--model.cell.x", "[1]"], "--model.cell.x: `model.cell` holds no other keys"),
    (["--train.steps", str([*range(1, 10_002)])], "expected at most 10,000 settings, got 10,001"),
    (["--seeds", "10000", "--train.steps", "[1, 2]"], "expected at most 10,000 runs, got 20,000"),
    (["--seeds", "0"], "--seeds: expected int >= 1, got 0"),
    (["--workers", "0"], "--workers: expected int >= 1, got 0"),
    (["--retries", "-1"], "--retries: expected int >= 0, got -1"),
    (["--workers", "1", "--scheduler", "x"], "--workers: expected none with --scheduler"),
    (["--out", "small.toml"], "--out: expected a new or empty folder"),
    (
        ["--goal.below", "1", "--goal.split", "test"],
        "small.toml: with as configured: goal.split: e",
    ),
]
BAD = [
    (
        "hidden_size = [3, 4]",
        "hidden_size = 3",
        "grid.model.hidden_size: expected a list of values",
    ),
    ("hidden_size = [3, 4]", "hidden_size = [3, 'x']", "grid.model.hidden_size: expected int, got"),
    ("[grid]", "[grid]\nseeds = [1]", "expected no `seeds` in grid: all settings share it"),
    ("[grid]", "[grid]\ntrain.batch_size = [1]", "expected `train.batch_size` in grid or in cases"),
    ("[grid]", "[gird]", "gird: no such key; did you mean `grid`?"),
    (
        "train.steps = 20",
        "train.step = 20",
        "training.train.step: no such key; did you mean `steps`",
    ),
    ('"small.toml"', '"no.toml"', "no.toml: cannot read this config file (No such file"),
    ('"small.toml"', '"both.toml"', "from: expected the config of a training, got 'both.toml'"),
    ("batch_size = 3", "batch_size = 0", "cases: train.batch_size: expected int >= 1, got 0"),
    (
        "[grid]",
        '[grid]\ntask = [{ kind = "adding", length = 4 }, { kind = "copy", delay = 1 }]',
        "goal: expected a low validation mse, by which the first setting is ranked, got a high",
    ),
]


def refused(room, capsys, arguments):
    before = {path.name for path in room.rglob("*")}
    assert cli.main(["sweep", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxlstm: ")
    assert err.count("\n") == 1
    assert {path.name for path in room.rglob("*")} == before
    return err


@pytest.mark.parametrize(("options", "line"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_in_any_setting_is_one_line_and_writes_nothing(room, capsys, options, line):
    assert line in refused(room, capsys, ["small.toml", *options])


@pytest.mark.parametrize(("old", "new", "line"), BAD, ids=range(len(BAD)))
def test_a_mistake_in_a_config_is_one_line(room, capsys, old, new, line):
    assert old in SWEEP
    Path("both.toml").write_text(SWEEP.replace(old, new))
    assert line in refused(room, capsys, ["both.toml"])


def test_configs_of_other_commands_and_folders_of_other_runs_are_refused(room, capsys):
    assert cli.main(["run", "both.toml"]) == 2
    assert "both.toml: this config is for `jaxlstm sweep`" in capsys.readouterr().err
    study = str(ROOT / "configs" / "studies" / "vanishing.toml")
    assert "this config is for `jaxlstm study`" in refused(room, capsys, [study])
    folder = Path("s")
    made = of(("model.hidden_size", "[3, 4]"))
    first = next(iter(sweeps.plan(made).trainings))
    shutil.copytree(ROOT / "tests" / "data" / "run-v1", folder)
    assert "expected a new folder or that of a sweep" in refused(
        room, capsys, ["small.toml", "--out", "s"]
    )
    runs.update_manifest(folder, kind="sweep")
    (folder / first).mkdir()
    (folder / first / "config.toml").write_text(SMALL)
    given = ["small.toml", "--model.hidden_size", "[3, 4]", "--out", "s"]
    assert f"'s' holds the run '{first}' of another config" in refused(room, capsys, given)


def test_a_scheduler_that_is_not_there_is_one_line(room, capsys, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(engines, "PATIENCE", 0.5)
    monkeypatch.setattr(sweeps, "check", lambda plan, source: [])
    line = refused(room, capsys, ["small.toml", "--scheduler", "tcp://127.0.0.1:9"])
    assert "--scheduler: no scheduler of Dask at 'tcp://127.0.0.1:9'" in line


# What dies.


def strike(folder: Path, name: str, after: int, number: int = signal.SIGKILL) -> threading.Thread:
    """Send a run a signal once it has a checkpoint at or after a step."""

    def work() -> None:
        while not any(
            int(path.name) >= after
            for path in (folder / name / "checkpoints").glob("[0-9]*")
            if path.name.isdigit()
        ):
            time.sleep(0.02)
        os.kill(tries._tries(folder, name)[-1].pid, number)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def lines(folder: Path) -> list[dict]:
    found = runs.read_jsonl(folder, "metrics.jsonl")
    return [{key: value for key, value in one.items() if key != "seconds"} for one in found]


@pytest.mark.slow
@pytest.mark.promise
def test_a_run_that_is_killed_goes_on_one_that_fails_is_named_and_no_other_is_lost(
    room, seen, capsys
):
    given = ["small.toml", "--optimizer.learning_rate", "[1e-3, 1e30]", "--train.steps", "6000"]
    given += ["--train.steps_per_dispatch", "400", "--train.log_every", "400"]
    given += ["--train.checkpoint_every", "400"]
    killed, failed = "learning_rate-0.001_seed-0", "learning_rate-1e30_seed-0"
    strike(Path("s"), killed, after=800)
    assert cli.main(["sweep", *given, "--out", "s", "--retries", "1"]) == 1
    out, err = capsys.readouterr()
    assert f"{killed}: killed by SIGKILL; tried again" in out
    assert [tries.count(Path("s"), name) for name in (killed, failed)] == [2, 2]
    assert re.fullmatch(rf"jaxlstm: s/{failed}: failed after 2 tries: the loss .*\n", err)
    *_, header, first, second, last = out.splitlines()
    assert header == "setting\tvalidation mse\truns"
    assert re.fullmatch(r"learning_rate 0\.001\t[\d.e-]+\t1 of 1", first)
    assert second == "learning_rate 1e+30\tnone finished\t0 of 1"
    assert last == str(Path("s") / "report.html")
    assert "not finite" in Path(last).read_text()

    manifest = runs.read_manifest("s")
    assert (manifest.state, manifest.kind) == ("failed", "sweep")
    assert runs.read_manifest(Path("s") / killed).state == "finished"
    assert cli.main(["list", "."]) == 0
    listed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in listed] == [["s", "failed"]]
    assert listed[0][2].endswith(" with learning_rate 0.001")
    seen("sweep", "killed runs gone on with", 1)
    seen("sweep", "failed runs named", 1)


LONG = ["--train.steps", "150000", "--train.steps_per_dispatch", "1000"]
LONG += ["--train.log_every", "20000", "--train.checkpoint_every", "10000"]


def until(condition, seconds=200.0):
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def begun(folder: Path, name: str) -> bool:
    return any((folder / name / "checkpoints").glob("[0-9]*"))


@pytest.mark.slow
@pytest.mark.promise
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_stopped_leaves_no_run_behind_and_goes_on(room, seen, number):
    names = ["hidden_size-3_seed-0", "hidden_size-4_seed-0"]
    given = ["small.toml", "--model.hidden_size", "[3, 4]", "--out", "s", "--workers", "1"]
    command = [sys.executable, "-m", "jaxlstm", "sweep", *given, *LONG]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
    until(lambda: begun(Path("s"), names[0]))
    process.send_signal(number)
    out, err = process.communicate(timeout=200)
    if number != signal.SIGKILL:
        assert (process.returncode, err) == (130, "")
        assert "interrupted with 2 runs left; go on with the same command: jaxlstm sweep" in out
        assert out.splitlines()[-1] == "s/report.html"
        assert runs.read_manifest("s").state == "interrupted"
    until(lambda: not locks.in_use(Path("s") / names[0]))
    assert runs.read_manifest(Path("s") / names[0]).state == "interrupted"
    assert not (Path("s") / names[1]).exists()
    assert cli.main(["sweep", *given, *LONG, "--quiet"]) == 0
    assert [runs.read_manifest(Path("s") / name).state for name in names] == ["finished"] * 2
    assert [tries.count(Path("s"), name) for name in names] == [2, 1]
    seen("sweep", "stopped sweeps gone on with", 1)


@pytest.fixture
def scheduler(room):
    """A scheduler of Dask and two workers of one thread, all processes of their own."""
    pytest.importorskip("distributed")
    place = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    processes = [
        subprocess.Popen(
            [
                *place,
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--no-dashboard",
                "--no-show",
                "--scheduler-file",
                "scheduler.json",
            ],
            stderr=subprocess.DEVNULL,
        )
    ]
    until(lambda: Path("scheduler.json").exists() and Path("scheduler.json").read_text())
    address = json.loads(Path("scheduler.json").read_text())["address"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
    worker += ["--no-nanny", "--no-dashboard", "--local-directory", "scratch"]
    for _ in range(2):
        processes.append(subprocess.Popen(worker, stderr=subprocess.DEVNULL))
    yield address, processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.promise
@pytest.mark.usefixtures("lenient")
def test_a_cluster_that_loses_a_worker_loses_no_run(room, scheduler, seen, capsys):
    address, processes = scheduler
    given = ["small.toml", "--model.hidden_size", "[3, 4, 5]", "--out", "s"]
    given += ["--train.steps", "6000", "--train.steps_per_dispatch", "400"]
    given += ["--train.log_every", "400", "--train.checkpoint_every", "400"]
    names = [f"hidden_size-{size}_seed-0" for size in (3, 4, 5)]

    def kill() -> None:
        until(lambda: begun(Path("s"), names[0]))
        processes[1].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    assert cli.main(["sweep", *given, "--scheduler", address, "--quiet"]) == 0
    thread.join()
    assert [runs.read_manifest(Path("s") / name).state for name in names] == ["finished"] * 3
    assert sum(tries.count(Path("s"), name) for name in names) >= 4
    assert capsys.readouterr().out.splitlines()[-1] == "s/report.html"
    # What went on elsewhere ends with the bits of one that was never lost.
    command = [sys.executable, "-m", "jaxlstm.cli.leash", "", "run", f"s/configs/{names[0]}.toml"]
    process = subprocess.Popen([*command, "--out", "whole", "--quiet"], stdin=subprocess.PIPE)
    assert process.wait(300) == 0
    process.stdin.close()
    assert lines(Path("s") / names[0]) == lines(Path("whole"))
    seen("sweep", "lost workers", 1)
