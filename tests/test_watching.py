"""Runs seen from outside: their list, one of them followed, and event files read back."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxlstm import cli, config, locks, runs

SMALL = config.load(Path(__file__).parent / "data" / "run-v1" / "config.toml")


def make(folder, state="running", **changes):
    runs.create(
        folder,
        config=config.dumps(SMALL),
        kind="training",
        name="n",
        question="?",
        command="",
        seeds=(0, 1),
        device="cpu",
    )
    for step, values in ((2, [0.5, 0.3]), (4, [0.2, 0.1]), (6, [0.3, None])):
        for split in ("train", "validation"):
            record = {"step": step, "split": split, "seconds": 0.1}
            metrics = {"loss": values, "mse": values, "gradient_norm.cell": [1.0]}
            runs.append(folder, "metrics.jsonl", {**record, "metrics": metrics})
    runs.update_manifest(folder, state=state, **changes)


def test_a_run_whose_process_is_gone_is_dead_and_its_best_score_stands(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("held", "gone"):
        make(Path("runs") / name)
    make(Path("runs") / "cut", state="interrupted")
    (Path("runs") / "gone" / "big").write_bytes(bytes(2_000_000))
    with locks.alone("runs/held"):
        assert cli.main(["list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    states = {row[0]: row[1] for row in rows}
    assert states == {"runs/held": "running", "runs/gone": "dead", "runs/cut": "interrupted"}
    assert {row[2] for row in rows} == {"validation mse 0.15 at step 4"}
    assert {row[0]: row[4] for row in rows}["runs/gone"] == "2 MB"
    assert not (Path("runs") / "cut" / ".lock").exists()


def test_the_best_score_is_of_what_the_training_goes_for(tmp_path, capsys):
    make(tmp_path / "r", state="interrupted")
    runs.update_manifest(tmp_path / "r", aim=runs.Aim("validation", "loss", larger=True))
    assert cli.main(["list", str(tmp_path)]) == 0
    assert "validation loss 0.4 at step 2" in capsys.readouterr().out


def test_records_that_are_damaged_are_passed_over(tmp_path, capsys):
    make(tmp_path / "r", state="failed")
    for metrics in ({"mse": [1, "a"]}, {"mse": "a"}, ["mse"]):
        record = {"step": 8, "split": 3, "metrics": metrics}
        runs.append(tmp_path / "r", "metrics.jsonl", record)
    assert cli.main(["list", str(tmp_path)]) == 0
    assert "validation mse 0.15 at step 4" in capsys.readouterr().out
    assert cli.main(["watch", str(tmp_path / "r")]) == 0
    assert "step 8  3  mse 1\n" in capsys.readouterr().out


def test_a_run_is_followed_line_by_line_until_it_ends(tmp_path):
    make(tmp_path / "r")
    command = [sys.executable, "-m", "jaxlstm", "watch", str(tmp_path / "r"), "--every", "0.05"]
    with locks.alone(tmp_path / "r"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        first = [process.stdout.readline() for _ in range(6)]
        assert first[0] == "step 2  train  loss 0.4  mse 0.4\n"
        assert first[5] == "step 6  validation  loss 0.3  mse 0.3\n"
        record = {"step": 8, "split": "validation", "seconds": 1, "metrics": {"mse": [None]}}
        runs.append(tmp_path / "r", "metrics.jsonl", record)
        assert process.stdout.readline() == "step 8  validation  mse not finite\n"
        assert process.poll() is None
        score = runs.Score("validation mse", [0.1], 0.1)
        runs.update_manifest(tmp_path / "r", state="finished", seconds=65, summary=[score])
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.splitlines() == ["validation mse: 0.1", "n: finished after 1 min 5 s"]


def test_a_dead_run_ends_the_watch_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(Path("r"))
    assert cli.main(["watch", "r"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "n: dead, its process is gone",
        "go on with: jaxlstm run --resume r",
    ]
    assert cli.main(["watch", "none"]) == 2
    for every in ("0", "inf", "nan", "1e6"):
        assert cli.main(["watch", "r", "--every", every]) == 2
        assert "--every: expected a number of seconds > 0 and <= 86400" in capsys.readouterr().err


def test_a_watch_ends_when_nobody_reads_on(tmp_path):
    make(tmp_path / "r")
    command = [sys.executable, "-m", "jaxlstm", "watch", str(tmp_path / "r"), "--every", "0.05"]
    with locks.alone(tmp_path / "r"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
        record = {"step": 8, "split": "validation", "seconds": 1, "metrics": {"mse": [0.1]}}
        runs.append(tmp_path / "r", "metrics.jsonl", record)
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""
        process.stderr.close()


def test_on_a_terminal_the_latest_of_each_set_stands_in_a_table(tmp_path, monkeypatch, capsys):
    make(tmp_path / "r", state="finished")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert cli.main(["watch", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert "n: step 6 of 12" in out
    assert "validation" in out


def crc32c(data: bytes) -> int:
    """Castagnoli's cyclic redundancy check, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def events(folder: Path):
    """The events of all files, each length and content held against its check sum."""
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            body = content[at + 12 : at + 12 + length]
            for data, place in ((content[at : at + 8], at + 8), (body, at + 12 + length)):
                (masked,) = struct.unpack_from("<I", content, place)
                crc = crc32c(data)
                assert masked == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
            yield Event.FromString(body)
            at += 16 + length


@pytest.mark.usefixtures("compile_fast")
def test_event_files_say_what_the_records_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.toml").write_text(config.dumps(SMALL))
    command = ["run", "x.toml", "--seeds", "[3,5]", "--out", "r", "--tensorboard", "--quiet"]
    assert cli.main(command) == 0
    wanted = {}
    for line in Path("r/metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, values in record["metrics"].items():
            for seed, value in zip((3, 5), values, strict=True):
                wanted[f"{record['split']}/{name}/seed_{seed}", record["step"]] = value
    found = {
        (value.tag, event.step): value.simple_value
        for event in events(Path("r/tensorboard"))
        for value in event.summary.value
    }
    assert found.keys() == wanted.keys()
    assert all(found[key] == pytest.approx(value, rel=1e-6) for key, value in wanted.items())
