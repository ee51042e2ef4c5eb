"""Disks that are full or read-only, files that were damaged, folders of earlier versions."""

import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlstm import cli, config, locks, runs, training
from jaxlstm.errors import UserError
from jaxlstm.training import checkpoints

pytestmark = [pytest.mark.promise, pytest.mark.usefixtures("compile_fast")]
OLD = Path(__file__).parent / "data" / "run-v1"
SMALL = config.load(OLD / "config.toml")


@pytest.fixture(scope="module")
def prepared(compile_fast):
    return training.prepare(SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert training.run(prepared, folder, quiet=True).state == "finished"
    return folder


def timeless(folder: Path) -> str:
    return re.sub(r'"seconds":[\d.]+', "", (folder / "metrics.jsonl").read_text())


def same(one: Path, other: Path, prepared) -> bool:
    found = [checkpoints.latest(folder, prepared.shapes()).states for folder in (one, other)]
    a, b = (jax.tree.leaves(checkpoints.plain(states)) for states in found)
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@contextmanager
def disk(folder: Path, size: str):
    """A file system of its own, and what mounts it anew with other options."""

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    folder.mkdir()
    mount(f"size={size}")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def one_line(capfd, arguments: list[str]) -> str:
    """What the command says of a mistake: one line of stderr, exit status 2."""
    capfd.readouterr()
    assert cli.main(arguments) == 2
    err = capfd.readouterr().err
    assert err.startswith("jaxlstm: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("kept", [1, 0])
@pytest.mark.parametrize("left", ["0k", "24k"])
def test_a_full_disk_is_one_line_and_what_was_saved_goes_on(
    left, kept, whole, prepared, tmp_path, capfd, seen, monkeypatch
):
    save, saves = checkpoints.save, 0

    # What a checkpoint takes is not the same twice: the disk is filled when so many stand on it.
    def until_full(*arguments):
        nonlocal saves
        if saves == kept:
            used = shutil.disk_usage(tmp_path / "disk").used
            again(f"size={used + 1024 * int(left[:-1])}")
        saves += 1
        return save(*arguments)

    with disk(tmp_path / "disk", "40m") as again:
        run = tmp_path / "disk" / "run"
        monkeypatch.setattr(checkpoints, "save", until_full)
        with pytest.raises(UserError, match=r"^cannot write .*\(No space left on device\)$"):
            training.run(prepared, run, quiet=True)
        assert capfd.readouterr().err == ""
        lines = (run / "metrics.jsonl").read_bytes()
        assert not lines or lines.endswith(b"\n")
        saved = checkpoints.latest(run, prepared.shapes())
        assert (saved is not None) == (kept == 1)
        assert runs.read_manifest(run).state in ("interrupted", "running")  # it goes on, either way
        assert "cannot write" in one_line(capfd, ["run", "--resume", str(run), "--quiet"])
        again("size=40m")
        assert training.resume(run, quiet=True).state == "finished"
        assert timeless(run) == timeless(whole)
        assert same(run, whole, prepared)
    seen("disk", "full disks gone on from", 1)


# At these sizes orbax gives up in the middle, and threads of its go on reporting to it. Three
# checkpoints stand at once, each of 36 kB at least: neither disk holds them.
@pytest.mark.parametrize("size", ["88k", "100k"])
def test_a_full_disk_is_one_line_in_a_process_of_its_own(size, tmp_path):
    with disk(tmp_path / "disk", size):
        command = [sys.executable, "-m", "jaxlstm", "run", str(OLD / "config.toml"), "--quiet"]
        command += ["--out", str(tmp_path / "disk" / "run"), "--train.steps", "24"]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"jaxlstm: cannot write .*\(No space left on device\)\n", done.stderr)


def test_a_disk_that_may_only_be_read_is_one_line(whole, tmp_path, capfd, seen):
    config_file = whole / "config.toml"
    with disk(tmp_path / "disk", "40m") as again:
        run = shutil.copytree(whole, tmp_path / "disk" / "run")
        runs.update_manifest(run, state="running")
        (run / locks.NAME).touch()
        again("ro")
        for arguments in (
            ["run", str(config_file), "--out", str(tmp_path / "disk" / "new")],
            ["run", "--resume", str(run)],
            ["report", str(run)],
        ):
            assert "(Read-only file system)" in one_line(capfd, arguments)
            seen("disk", "commands on a read-only disk refused", 1)
        assert cli.main(["list", str(run.parent)]) == 0
        assert "dead" in capfd.readouterr().out
        assert cli.main(["watch", str(run)]) == 0
        assert "its process is gone" in capfd.readouterr().out


def test_a_lock_is_seen_on_a_file_that_may_only_be_read(tmp_path):
    with locks.alone(tmp_path):
        assert locks._held(tmp_path / locks.NAME) is True
    assert locks._held(tmp_path / locks.NAME) is False


def damage(path: Path, way: str) -> None:
    content = bytearray(path.read_bytes())
    if way == "gone":
        path.unlink()
    elif way == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


WAYS = ("cut", "changed", "gone")


@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["each once", "each way"]
)
def test_every_damaged_file_of_a_checkpoint_is_noticed(
    every, whole, prepared, tmp_path, capfd, seen
):
    last = whole / "checkpoints" / "000000012"
    files = sorted(path.relative_to(last) for path in last.rglob("*") if path.is_file())
    assert len(files) > 8
    for index, name in enumerate(files):
        for way in WAYS if every else [WAYS[index % 3]]:
            run = shutil.copytree(whole, tmp_path / f"{index}-{way}")
            damage(run / "checkpoints" / last.name / name, way)
            found = checkpoints.latest(run, prepared.shapes())
            if name.name == checkpoints.SUMS and way == "gone":
                assert found.step == 12  # as a folder of version 1, with all its numbers
                continue
            assert [path.name for path in found.skipped] == [last.name], (name, way)
            assert found.step == 6
            seen("damage", "damaged files noticed", 1)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_checkpoint_is_said_set_aside_and_made_again(
    whole, prepared, tmp_path, capsys, seen
):
    run = shutil.copytree(whole, tmp_path / "run")
    damage(next((run / "checkpoints" / "000000012" / "d").iterdir()), "changed")
    runs.update_manifest(run, state="interrupted")
    assert training.resume(run).state == "finished"
    assert "000000012 cannot be read and is passed over" in capsys.readouterr().out
    assert timeless(run) == timeless(whole)
    assert same(run, whole, prepared)
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"000000006", "000000012", "000000012.damaged"}
    seen("damage", "runs that went on from the one before", 1)


def test_where_no_checkpoint_is_good_nothing_is_touched(whole, tmp_path, capfd):
    run = shutil.copytree(whole, tmp_path / "run")
    for path in run.glob("checkpoints/*/manifest.ocdbt"):
        damage(path, "cut")
    runs.update_manifest(run, state="interrupted")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said = one_line(capfd, ["run", "--resume", str(run)])
    assert "no checkpoint in" in said
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_folder_of_version_1_is_listed_reported_and_gone_on_with(whole, tmp_path, capsys, seen):
    run = shutil.copytree(OLD, tmp_path / "runs" / "old")
    assert runs.read_manifest(run).format_version == 1
    assert cli.main(["list", str(run.parent)]) == 0
    assert "interrupted" in capsys.readouterr().out
    assert cli.main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()
    assert cli.main(["run", "--resume", str(run), "--quiet"]) == 0
    assert runs.read_manifest(run).format_version == runs.FORMAT_VERSION
    for one, other in zip(
        *(runs.read_jsonl(r, "metrics.jsonl") for r in (run, whole)), strict=True
    ):
        assert (one["step"], one["split"]) == (other["step"], other["split"])
        for name, values in one["metrics"].items():  # the machine that made it rounded otherwise
            assert values == pytest.approx(other["metrics"][name], rel=1e-3), name
    seen("format", "earlier format versions read", 1)
