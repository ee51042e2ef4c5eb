"""Real processes, really struck: SIGKILL at any moment, SIGINT and SIGTERM, two in one folder."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlstm import cli, config, locks, runs, training
from jaxlstm.errors import UserError
from jaxlstm.training import checkpoints

pytestmark = pytest.mark.promise
TESTS = Path(__file__).parent
CONFIG = """
kind = "training"
name = "struck"
question = "?"
expected = "!"
seeds = 2
task = {{ kind = "characters", path = "text.txt", window = 4 }}
model = {{ cell = "rnn", hidden_size = 3 }}
optimizer = {{ kind = "adam", learning_rate = 1e-2, clip_norm = 1.0 }}
sample = {{ every = 8, characters = 5 }}
train = {{ steps = {steps}, batch_size = 2, log_every = 2, steps_per_dispatch = 3, \
evaluate_every = 4, checkpoint_every = 5 }}
"""


class Room:
    """A folder with a small training, and what its processes compiled."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        (folder / "struck.toml").write_text(CONFIG.format(steps=steps))
        (folder / "text.txt").write_text("to be or not to be\n" * 40)
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            # Compiled programs are read from a cache made for another number of features.
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

    def start(self, *arguments: str, strike: tuple[int, str, int] | None = None):
        """Start `jaxlstm run`, struck by a signal at the COUNTth time of a moment."""
        command = [sys.executable, "-m", "jaxlstm"]
        if strike is not None:
            number, moment, count = strike
            command = [sys.executable, str(TESTS / "struck.py"), str(int(number)), moment]
            command.append(str(count))
        return subprocess.Popen(
            [*command, "run", *arguments, "--quiet"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, strike: tuple[int, str, int] | None = None):
        """Run it to its end: exit status, stdout, stderr."""
        process = self.start(*arguments, strike=strike)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def begin(self, name: str, **options):
        """Begin a run, or go on with it where it has a manifest."""
        run = self.folder / name
        if (run / "manifest.json").exists():
            return self.start("--resume", name, **options)
        return self.start("struck.toml", "--out", name, **options)

    def finish(self, name: str) -> None:
        """Go on until the end."""
        process = self.begin(name)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, ""), out + err

    def same(self, one: str, other: str) -> None:
        """Hold two runs against each other, bit for bit but for the seconds."""
        made = config.load(self.folder / "struck.toml", [("task.path", self.text())])
        shapes = training.prepare(made).shapes()
        first, second = (checkpoints.latest(self.folder / run, shapes) for run in (one, other))
        assert first.step == second.step == made.train.steps
        assert not first.skipped
        assert not second.skipped
        for a, b in zip(*map(leaves, (first, second)), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        for name in ("metrics.jsonl", "samples.jsonl"):
            texts = [(self.folder / run / name).read_text() for run in (one, other)]
            assert texts[0].endswith("\n")
            timeless = [re.sub(r'"seconds":[\d.]+', "", text) for text in texts]
            assert timeless[0] == timeless[1]
        assert [runs.read_manifest(self.folder / run).state for run in (one, other)] == [
            "finished"
        ] * 2
        found = {path.name for path in (self.folder / other / "checkpoints").iterdir()}
        assert len(found) == 2
        assert all(name.isdigit() for name in found)

    def text(self) -> str:
        return str(self.folder / "text.txt")


def leaves(found):
    return map(np.asarray, jax.tree.leaves(checkpoints.plain(found.states)))


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    room = Room(tmp_path_factory.mktemp("room"), steps=24)
    room.finish("whole")
    return room


# The moments of a checkpoint, of a line and of a file that is replaced, one after the other.
MOMENTS = [
    ("half a line of metrics.jsonl", 4),
    (r"os.rename .*\.part .*/\d+$", 1),
]
MORE = [
    (r"os.rename .*checkpoint-tmp .*\.part", 1),
    ("half a line of samples.jsonl", 1),
    (r"open .*\.lock", 1),
    (r"open .*/\.config.toml", 1),
    (r"os.rename .*config.toml", 1),
    (r"os.rename .*manifest.json", 1),
    (r"open .*000000005.part.*_METADATA w", 1),
    (r"open .*sha256.json", 1),
    (r"os.rename .*sha256.json", 1),
    (r"shutil.rmtree .*/00000000\d", 1),
    (r"os.rename .*metrics.jsonl", 1),
    (r"open .*metrics.jsonl ab?", 7),
    (r"open .*/report.html|open .*\.svg", 1),
]


def test_a_run_killed_at_every_kind_of_moment_ends_with_the_same_bits(room):
    for moment, count in MOMENTS:
        process = room.begin("killed", strike=(signal.SIGKILL, moment, count))
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, moment
    assert (room.folder / "killed" / "checkpoints" / "000000010.part").is_dir()
    room.finish("killed")
    room.same("whole", "killed")


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "count"), MORE)
def test_a_run_killed_at_this_moment_ends_with_the_same_bits(room, seen, moment, count):
    name = f"killed-{MORE.index((moment, count))}"
    if "metrics.jsonl" in moment and "rename" in moment:  # lines are taken back at a resume
        room.begin(name, strike=(signal.SIGKILL, r"open .*metrics.jsonl", 5)).communicate()
    process = room.begin(name, strike=(signal.SIGKILL, moment, count))
    out, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, out + err
    room.finish(name)
    room.same("whole", name)
    seen("kill", "kills at named moments survived", 1)


@pytest.mark.slow
def test_fifty_kills_by_the_clock_change_no_bit(tmp_path, seen):
    """A third at any moment, a third in a checkpoint, a third as a line is written."""
    room, chance = Room(tmp_path, steps=250), random.Random(7)
    room.finish("whole")
    kills, halves, number = 0, 0, 0
    while kills < 50:
        run = tmp_path / f"killed-{number}"
        before = parts(run)
        process = room.begin(run.name)
        kind = ("checkpoint", "line", "anywhere")[kills % 3]
        nth, grown = chance.randint(1, 6), growth(run / "metrics.jsonl")
        while kind != "anywhere" and nth and process.poll() is None:
            if kind == "checkpoint":
                now = parts(run)
                nth -= bool(now - before)
                before |= now
            else:
                nth -= grown()
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 8) if kind == "anywhere" else chance.uniform(0, 0.05))
        process.kill()
        out, err = process.communicate()
        kills += process.returncode == -signal.SIGKILL
        halves += bool(parts(run) - before) or (kind == "checkpoint" and bool(parts(run)))
        if process.returncode == 0:
            room.same("whole", run.name)
            number += 1
        else:
            assert process.returncode == -signal.SIGKILL, out + err
    room.finish(run.name)
    room.same("whole", run.name)
    seen("kill", "kills by the clock survived", kills)
    seen("kill", "of them left a checkpoint half-written", halves)


def parts(run: Path) -> set[int]:
    """The checkpoints that are being written, or were."""
    found = set()
    for path in run.glob("checkpoints/*.part*"):
        with contextlib.suppress(FileNotFoundError):
            found.add(path.stat().st_ino)
    return found


def growth(path: Path):
    """A sign that a file has been appended to."""
    before = path.stat().st_size if path.exists() else 0

    def grown() -> bool:
        nonlocal before
        size = path.stat().st_size if path.exists() else 0
        grew, before = size > before, size
        return grew

    return grown


# Compiling comes right after the manifest; the second is in a checkpoint; the third between steps.
STRIKES = [r"os.rename .*manifest.json", r"open .*000000005.part.*_METADATA w", "metrics.jsonl"]


@pytest.mark.slow  # one of them is in tests/test_cli.py
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(number, moment, id=f"{number.name}-{index}")
        for number in (signal.SIGINT, signal.SIGTERM)
        for index, moment in enumerate(STRIKES)
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(room, seen, number, moment):
    name = f"signalled-{number.name}-{STRIKES.index(moment)}"
    status, out, err = room.run("struck.toml", "--out", name, strike=(number, moment, 1))
    assert (status, err) == (130, "")
    assert f"interrupted; go on with: jaxlstm run --resume {name}" in out.splitlines()
    assert runs.read_manifest(room.folder / name).state == "interrupted"
    assert len([*(room.folder / name).glob("checkpoints/*")]) == 1
    room.finish(name)
    room.same("whole", name)
    seen("signal", "signals that saved", 1)


def test_a_second_process_in_a_folder_is_refused_while_reading_goes_on(
    room, seen, monkeypatch, capsys
):
    monkeypatch.chdir(room.folder)
    shutil.copytree("whole", "shared")
    runs.update_manifest("shared", state="interrupted")
    hold = "import sys, jaxlstm.locks as l\nwith l.alone('shared'): print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", hold], env=room.environment, stdin=subprocess.PIPE, stdout=-1
    )
    try:
        process.stdout.readline()
        assert cli.main(["run", "--resume", "shared"]) == 2
        assert capsys.readouterr() == (
            "",
            "jaxlstm: 'shared' is in use by another process; wait until that has ended, or stop "
            "it\n",
        )
        with pytest.raises(UserError, match="'shared' is in use"), locks.alone("shared"):
            pass
        assert cli.main(["report", "shared"]) == 0
        assert locks.in_use("shared")
    finally:
        process.kill()
        process.communicate()
    assert not locks.in_use("shared")
    seen("lock", "second processes refused", 2)
