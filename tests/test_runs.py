"""Run folders: whole files, lines that survive, and what cannot be read is said."""

import json
import math

import pytest

from jaxlstm import runs
from jaxlstm.errors import UserError


def make(folder, **changes):
    given = {
        "config": 'kind = "training"\n',
        "kind": "training",
        "name": "n",
        "question": "?",
        "command": "jaxlstm run n.toml",
        "seeds": (0, 3),
        "device": "cpu",
        "parameters": 5,
        "baselines": {"memoryless mse": 1 / 6},
    }
    return runs.create(folder, **(given | changes))


def test_a_manifest_comes_back_equal_and_holds_what_the_format_says(tmp_path):
    made = make(tmp_path / "r")
    assert runs.read_manifest(tmp_path / "r") == made
    plain = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert plain["format_version"] == runs.FORMAT_VERSION
    assert plain["state"] == "running"
    assert plain["seeds"] == [0, 3]
    assert plain["started"].endswith("+00:00")
    assert {"python", "jax", "jaxlib"} <= set(plain["versions"])
    assert (tmp_path / "r" / "config.toml").read_text() == 'kind = "training"\n'


def test_not_a_number_is_null(tmp_path):
    make(tmp_path)
    score = runs.Score("m", [1.0, math.nan], math.inf)
    runs.update_manifest(tmp_path, state="failed", summary=[score])
    plain = json.loads((tmp_path / "manifest.json").read_text())
    assert plain["summary"][0]["values"] == [1.0, None]
    assert plain["summary"][0]["mean"] is None
    runs.append(tmp_path, "metrics.jsonl", {"step": 1, "metrics": {"loss": [math.nan, 2.0]}})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["metrics"] == {"loss": [None, 2.0]}


def test_baselines_that_are_not_finite_are_left_out(tmp_path):
    make(tmp_path / "r", baselines={"persistence mse": math.inf, "persistence mae": 2.0})
    assert runs.read_manifest(tmp_path / "r").baselines == {"persistence mae": 2.0}


def test_a_line_cut_short_is_dropped_and_later_steps_are_taken_back(tmp_path):
    for step in (1, 2, 3):
        runs.append(tmp_path, "metrics.jsonl", {"step": step})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "spl')
    assert [r["step"] for r in runs.read_jsonl(tmp_path, "metrics.jsonl")] == [1, 2, 3]
    runs.truncate_jsonl(tmp_path, "metrics.jsonl", 2)
    runs.append(tmp_path, "metrics.jsonl", {"step": 3, "again": True})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "again": True},
    ]


def test_a_damaged_line_in_the_middle_is_said(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nxx\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2: expected a JSON object"):
        runs.read_jsonl(tmp_path, "metrics.jsonl")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "is no run folder: it has no manifest.json"),
        ("{", "is no manifest"),
        ("[]", "is no manifest"),
        ('{"format_version": 1}', "is no manifest"),
        ('{"format_version": 99}', "has format version 99, this jaxlstm reads up to 2"),
        ("{}", "has format version None"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, content, line):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=line):
        runs.read_manifest(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    make(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(
        UserError, match=r"cannot write .*manifest.json' \(No space left on device\)"
    ):
        runs.update_manifest(tmp_path, state="finished")
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "manifest.json"]


def test_a_new_folder_is_free_and_a_taken_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = runs.free_folder("n")
    make(first)
    assert runs.free_folder("n") != first
    assert not runs.free_folder("n").exists()
    with pytest.raises(UserError, match="--out: expected a new or empty folder"):
        runs.free_folder("n", first)
    assert runs.find() == [first]


def test_tables_are_whole_and_names_stay_in_the_folder(tmp_path):
    runs.write_table(tmp_path, "t", title="T", caption="", columns=["a", "b"], rows=[[1, None]])
    assert json.loads((tmp_path / "tables" / "t.json").read_text())["rows"] == [[1, None]]
    with pytest.raises(ValueError, match=r"`rows\[0\]` must have 2 cells, got 1"):
        runs.write_table(tmp_path, "t", title="T", caption="", columns=["a", "b"], rows=[[1]])
    with pytest.raises(ValueError, match="`name` must be letters"):
        runs.write_figure(tmp_path, "../evil", {})
