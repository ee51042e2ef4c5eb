"""The command line: one clear line and nothing written for a mistake, a report for the rest."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxlstm import cli, runs
from jaxlstm.cli.arguments import parse
from jaxlstm.errors import UserError

SMALL = """
kind = "training"
name = "small"
question = "?"
expected = "!"
task = { kind = "adding", length = 4 }
model = { cell = "lstm", hidden_size = 3 }
optimizer = { kind = "adam", learning_rate = 1e-3 }
train = { steps = 4, batch_size = 2, log_every = 2 }
"""


@pytest.fixture
def room(tmp_path, monkeypatch):
    """An empty working folder with a small config."""
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL)
    return tmp_path


def written(room) -> set[str]:
    return {path.relative_to(room).as_posix() for path in room.rglob("*")}


MISTAKES = [
    ([], "Expected one of {run, study, reproduce, sweep, report, list, watch, sample, export}"),
    (["fly"], "Unrecognized options: fly"),
    (["run"], "run: expected a CONFIG"),
    (
        ["run", "--sedes", "3", "small.toml"],
        "Unrecognized options: --sedes, 3, small.toml; did you mean --seeds?",
    ),
    (["run", "missing.toml"], "missing.toml: cannot read this config file (No such file"),
    (["run", "."], ".: cannot read this config file (Is a directory)"),
    (["run", "small.toml", "--task.lenght", "3"], "--task.lenght: no such key; did you mean `leng"),
    (["run", "small.toml", "--task.length", "0"], "--task.length: expected int >= 2, got 0"),
    (["run", "small.toml", "--task.length=1.5"], "--task.length: expected int, got 1.5"),
    (["run", "small.toml", "--task.length"], "--task.length: expected a value after it"),
    (["run", "small.toml", "--task.length", "--model.layers", "2"], "--task.length: expected a va"),
    (["run", "small.toml", "--seeds", "0"], "--seeds: expected int >= 1, got 0"),
    (["run", "small.toml", "--seeds", "[1,1]"], "--seeds: expected one or more different seeds"),
    (
        ["run", "small.toml", "--goal.split", "test", "--goal.below", "1"],
        "small.toml: goal.split: ",
    ),
    (["run", "small.toml", "bad.toml"], "bad.toml: cannot read"),
    (["run", "small.toml", "small.toml", "--out", "x"], "--out: expected one config with it"),
    (["run", "small.toml", "--out", "."], "--out: expected a new or empty folder, got '.'"),
    (["run", "small.toml", "--out", "small.toml"], "--out: expected a new or empty folder"),
    (["run", "small.toml", "--out", "small.toml/x"], "cannot write in 'small.toml/x' (Not a"),
    (["run", "--resume", "."], "'.' is no run folder"),
    (["run", "small.toml", "--resume", "."], "--resume: expected run folders alone"),
    (["run", "small.toml", "--task.kind", "characters", "--task.path", "x"], "task.length"),
    (["study"], "study: expected a CONFIG"),
    (["study", "small.toml"], "small.toml: this config is for `jaxlstm run`"),
    (["report"], "report: expected a RUN"),
    (["report", "runs/none"], "'runs/none' is no run folder"),
    (["list", "none"], "list: there is no folder 'none'"),
    (["sample", "x", "--characters", "abc"], "--characters: expected an integer, got 'abc'"),
    (["sample", "x", "--temperature", "hot"], "--temperature: expected a number, got 'hot'"),
    (["sample", "x", "--draw", "1.5"], "--draw: expected an integer, got '1.5'"),
    (["list", "--a.b", "3"], "--a.b: only `run`, `study`, `reproduce` and `sweep` take"),
]


@pytest.mark.parametrize(("arguments", "line"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_line_and_writes_nothing(room, capsys, arguments, line):
    before = written(room)
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxlstm: ")
    assert line in err
    assert err.count("\n") == 1
    assert written(room) == before


def test_a_text_that_is_not_there_is_named_before_anything_is_written(room, capsys):
    text = SMALL.replace('kind = "adding", length = 4', 'kind = "characters", path = "no.txt"')
    Path("text.toml").write_text(text)
    before = written(room)
    assert cli.main(["run", "small.toml", "text.toml"]) == 2
    missing = Path("no.txt").absolute()
    assert f"text.toml: task.path: cannot read '{missing}'" in capsys.readouterr().err
    assert written(room) == before


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_misspelt_option_is_named_whatever_the_terminal_can_draw(encoding, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(UserError, match=r"^Unrecognized options: --sedes, 3; did you mean --seeds"):
        parse(["run", "--sedes", "3"])


@pytest.mark.parametrize("command", [[], ["run"], ["study"], ["report"], ["list"]])
def test_help_is_given(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code == 0
    assert "usage: jaxlstm" in capsys.readouterr().out


def test_options_with_dots_go_to_the_config_wherever_they_stand():
    command, overrides = parse(
        ["run", "--a.b", "-3", "x.toml", "--c.d-e.f=1 2", "y.toml", "--seeds", "2"]
    )
    assert command.configs == ("x.toml", "y.toml")
    assert command.seeds == "2"
    assert overrides == [("a.b", "-3"), ("c.d-e.f", "1 2")]


def test_a_run_ends_with_its_report_and_can_be_listed(room, capsys):
    assert cli.main(["run", "small.toml", "--seeds", "2", "--train.batch-size", "3"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    report = Path(lines[-1])
    assert report.name == "report.html"
    assert report.is_file()
    assert any(line.startswith("validation mse: ") for line in lines)
    assert any("4/4 steps" in line and "sequences/s" in line for line in lines)
    manifest = runs.read_manifest(report.parent)
    assert manifest.command == "jaxlstm run small.toml --seeds 2 --train.batch-size 3"
    assert "batch_size = 3" in (report.parent / "config.toml").read_text()

    assert cli.main(["list"]) == 0
    folder, state, score, _, size = capsys.readouterr().out.strip().split("\t")
    assert (folder, state) == (str(report.parent), "finished")
    assert size.endswith(" kB")
    assert "expected median < 0.01: missed" in score

    report.unlink()
    assert cli.main(["report", str(report.parent)]) == 0
    assert capsys.readouterr().out.strip() == str(report)
    assert report.is_file()

    assert cli.main(["run", "--resume", str(report.parent), "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(report)


def test_a_run_that_fails_says_so_and_leaves_with_one(room, capsys):
    arguments = [
        "run",
        "small.toml",
        "--optimizer.kind",
        "sgd",
        "--optimizer.learning_rate",
        "1e30",
    ]
    assert cli.main([*arguments, "--out", "r", "--train.steps", "50"]) == 1
    out, err = capsys.readouterr()
    assert "not finite at step" in err
    assert err.count("\n") == 1
    assert out.splitlines()[-1] == str(Path("r") / "report.html")
    assert runs.read_manifest("r").state == "failed"


def test_what_follows_a_run_that_fails_is_run_and_reported_too(room, capsys):
    failing = ["--optimizer.kind", "sgd", "--optimizer.learning_rate", "1e30"]
    configs = ["run", "small.toml", "small.toml", "--quiet"]
    assert cli.main([*configs, *failing, "--train.steps", "50"]) == 1
    out, err = capsys.readouterr()
    assert err.count("not finite at step") == 2
    reports = [Path(line) for line in out.splitlines() if line.endswith("report.html")]
    assert len(set(reports)) == 2
    assert all(report.is_file() for report in reports)


@pytest.mark.parametrize(
    ("into", "status", "line"),
    [
        ("> /dev/full", 2, "jaxlstm: cannot write the output (No space left on device)\n"),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("| head -n 1", 0, ""),
    ],
)
def test_an_output_that_nobody_reads_is_no_traceback(room, into, status, line):
    for index in range(200):
        Path(f"runs/{index}").mkdir(parents=True)
        Path(f"runs/{index}/manifest.json").write_text("{")
    command = f"set -o pipefail; {sys.executable} -m jaxlstm list {into}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = ["bash", "-c", command]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (status, line)


def test_characters_that_the_output_does_not_have_are_escaped(room):
    Path("é").mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "jaxlstm", "list", "é"]
    given = {"capture_output": True, "env": environment | {"PYTHONIOENCODING": "ascii"}}
    assert subprocess.run(command, **given).stdout == b"no runs in '\\xe9'\n"


@pytest.mark.parametrize(("into", "status"), [("| head -n 1", 0), ("> /dev/full", 2)])
def test_a_run_goes_on_where_nobody_reads_on(room, into, status):
    command = f"set -o pipefail; {sys.executable} -m jaxlstm run small.toml --out r {into}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert done.returncode == status
    assert done.stderr.count("\n") == (status == 2)
    assert runs.read_manifest("r").state == "finished"
    assert Path("r/report.html").exists()


def test_list_survives_a_folder_it_cannot_read(room, capsys):
    Path("runs/odd").mkdir(parents=True)
    Path("runs/odd/manifest.json").write_text("{")
    assert cli.main(["list"]) == 0
    assert "unreadable" in capsys.readouterr().out


def test_ctrl_c_saves_says_how_to_go_on_and_the_run_goes_on(room):
    command = [sys.executable, "-m", "jaxlstm", "run"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    arguments = ["small.toml", "--out", "r", "--train.steps", "1000000000"]
    process = subprocess.Popen(
        [*command, *arguments, "--train.log-every", "1000", "--train.steps-per-dispatch", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        deadline = time.monotonic() + 120
        while not Path("r/metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "")
    assert "interrupted; go on with: jaxlstm run --resume r" in out.splitlines()
    assert out.splitlines()[-1] == str(Path("r") / "report.html")
    assert runs.read_manifest("r").state == "interrupted"
    assert len(list(Path("r/checkpoints").iterdir())) == 1
