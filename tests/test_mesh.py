"""Trainings on a mesh: the numbers of one device, parts of the parameters, several processes."""

import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxlstm import config, runs, training
from jaxlstm.cli import main
from jaxlstm.config import Mesh
from jaxlstm.errors import UserError
from jaxlstm.training import mesh, processes

pytestmark = pytest.mark.usefixtures("lenient")  # optax promotes

CONFIG = """
kind = "training"
name = "small"
question = "?"
expected = "?"
seeds = 1
task = { kind = "adding", length = 12 }
model = { cell = "lstm", hidden_size = 8, layers = 2 }
optimizer = { kind = "adam", learning_rate = 1e-2, clip_norm = 1.0 }

[train]
steps = 24
batch_size = 8
steps_per_dispatch = 4
log_every = 4
evaluate_every = 12
checkpoint_every = 8
"""


def losses(folder):
    """The loss of every record of a training."""
    return [
        value
        for record in runs.read_jsonl(folder, "metrics.jsonl")
        for value in record["metrics"]["loss"]
    ]


def go(folder, shape, steps=24):
    sides = f"{{data={shape[0]}, hidden={shape[1]}}}"
    given = config.loads(CONFIG, overrides=[("train.mesh", sides), ("train.steps", str(steps))])
    training.run(training.prepare(given), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of the training on one device."""
    with jax.numpy_dtype_promotion("standard"):
        return losses(go(tmp_path_factory.mktemp("mesh") / "alone", (1, 1)))


@pytest.mark.promise
@pytest.mark.parametrize("shape", [(2, 1), (1, 2)])
def test_a_mesh_has_the_losses_of_one_device(alone, shape, tmp_path, seen):
    np.testing.assert_allclose(losses(go(tmp_path / "r", shape)), alone, rtol=1e-4)
    assert runs.read_manifest(tmp_path / "r").device == "cpu x 2"
    seen("devices", "meshes of two devices", 1)


def test_the_hidden_side_halves_parameters_and_optimiser():
    made = training.prepare(config.loads(CONFIG))
    with mesh.over(Mesh(hidden=2)) as on:
        state = mesh.place(made.states()[0], on)
        after = jax.jit(lambda s, n: mesh.kept(made.update.advance(s, made.task.data, n), on))(
            state, np.int32(2)
        )
    for name in ("kernel", "recurrent_kernel", "bias"):
        for tree in (after.params, after.opt_state[1][0].mu, after.opt_state[1][0].nu):
            for layer in tree.cell:
                leaf = getattr(layer, name)
                sizes = {shard.data.size for shard in leaf.addressable_shards}
                assert sizes == {leaf.size // 2}, name
    readout = after.params.readout.kernel
    assert {shard.data.shape for shard in readout.addressable_shards} == {(4, 1)}


def test_what_does_not_go_up_in_devices_is_whole():
    tree = {"cell": np.ones((4, 7)), "readout": {"kernel": np.ones((5, 2))}}
    kinds = (AxisType.Auto,) * 2
    found = mesh.place(tree, jax.make_mesh((1, 2), ("data", "hidden"), axis_types=kinds))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(found))


def test_old_configs_say_devices():
    text = CONFIG.replace("steps = 24", "steps = 24\ndevices = 3")
    assert config.loads(text).train.mesh == Mesh(data=3)
    assert config.loads(
        CONFIG.replace("steps = 24", 'steps = 24\ndevices = "auto"')
    ).train.mesh == ("auto")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((None, 2, 0), "--coordinator: expected --processes and --process-id with it"),
        (("here:1", 2, 2), r"--process-id: expected int in \[0, 1\], got 2"),
    ],
)
def test_processes_are_told_who_they_are(arguments, line):
    with pytest.raises(UserError, match=line):
        processes.join(*arguments)


@pytest.mark.slow
def test_a_run_goes_on_over_another_mesh(alone, tmp_path, capsys):
    out = go(tmp_path / "r", (2, 1), steps=16)
    more = ["--train.mesh", "{hidden=2}", "--train.steps", "24"]
    assert main(["run", "--resume", str(out), *more, "--quiet"]) == 0
    np.testing.assert_allclose(losses(out)[:4], alone[:4], rtol=1e-4)
    assert config.load(out / "config.toml").train.mesh == Mesh(data=2)
    assert main(["run", "--resume", str(out), "--train.batch-size", "3"]) == 2
    assert "--train.mesh, --train.steps and --task.path excepted" in capsys.readouterr().err


# -- several processes


def port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


class Team:
    """`jaxlstm run` in processes that train together; the first has the arguments of its own."""

    def __init__(self, folder, count, *arguments, first=()):
        address, self.logs = f"localhost:{port()}", []
        self.members = []
        for index in range(count):
            own = ["--coordinator", address, "--processes", str(count), "--process-id", str(index)]
            log = folder / f"log-{index}.txt"
            command = [sys.executable, "-m", "jaxlstm", "run", *arguments, *own, "--quiet"]
            with log.open("w") as file:
                self.members.append(
                    subprocess.Popen(
                        [*command, *(first if index == 0 else ())], stdout=file, stderr=file
                    )
                )
            self.logs.append(log)

    def wait(self, timeout=240):
        """The exit status of each."""
        return [member.wait(timeout) for member in self.members]

    def until_saved(self, out, timeout=200):
        """Wait for the first checkpoint."""
        until = time.monotonic() + timeout
        while not list(out.glob("checkpoints/*[0-9]")):
            assert time.monotonic() < until, self.said(0)
            time.sleep(0.1)

    def said(self, index):
        """The last line of a member that is not the network's."""
        lines = self.logs[index].read_text().splitlines()
        return next((line for line in reversed(lines) if "peer ranks" not in line), "")


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.toml").write_text(CONFIG)
    return tmp_path / "small.toml"


@pytest.mark.slow
@pytest.mark.promise
@pytest.mark.parametrize("shape", ["{data=8}", "{data=2, hidden=4}"])
def test_two_processes_have_the_losses_of_one_device(alone, small, shape, tmp_path, seen):
    out = tmp_path / "r"
    team = Team(tmp_path, 2, str(small), "--train.mesh", shape, first=("--out", str(out)))
    assert team.wait() == [0, 0], team.said(0)
    np.testing.assert_allclose(losses(out), alone, rtol=1e-4)
    assert "in 2 processes" in runs.read_manifest(out).device
    seen("devices", "meshes of 8 devices in 2 processes", 1)


@pytest.mark.slow
@pytest.mark.promise
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(
    alone, small, victim, tmp_path, seen
):
    out, endless = tmp_path / "r", ["--train.steps", "1000000"]
    mesh_of = ["--train.mesh", "{data=8}"]
    team = Team(tmp_path, 2, str(small), *mesh_of, *endless, first=("--out", str(out)))
    team.until_saved(out)
    began = time.monotonic()
    team.members[victim].send_signal(signal.SIGKILL)
    other = 1 - victim
    assert team.members[other].wait(60) == 2, team.logs[other].read_text()
    seconds = time.monotonic() - began
    assert "jaxlstm: another process of this training has ended" in team.logs[other].read_text()
    seen("processes", "processes killed", 1)
    # With the end that was meant, on one device, in one process and in three.
    text = (out / "config.toml").read_text()
    step = max(int(path.name) for path in out.glob("checkpoints/*[0-9]"))
    (out / "config.toml").write_text(re.sub(r"steps = 1000000", f"steps = {step + 16}", text))
    if victim == 0:
        command = [sys.executable, "-m", "jaxlstm", "run", "--resume", str(out), "--quiet"]
        assert subprocess.run(command, capture_output=True, timeout=200).returncode == 0
        seen("processes", "goings on in one process", 1)
    else:
        team = Team(tmp_path, 3, "--resume", str(out), "--train.mesh", "{data=3}")
        assert team.wait() == [0, 0, 0], team.said(0)
        seen("processes", "goings on in three processes", 1)
    assert runs.read_manifest(out).state == "finished"
    np.testing.assert_allclose(losses(out)[:4], alone[:4], rtol=1e-4)
    assert seconds < 60


@pytest.mark.slow
def test_a_signal_to_one_process_lets_all_save_and_leave_however_late(small, tmp_path):
    """A line between processes that nothing is said on for long is not taken for a death."""
    out, endless = tmp_path / "r", ["--train.steps", "1000000"]
    mesh_of = ["--train.mesh", "{data=2}"]
    team = Team(tmp_path, 2, str(small), *mesh_of, *endless, first=("--out", str(out)))
    team.until_saved(out)
    time.sleep(processes.PATIENCE + 5)
    assert [member.poll() for member in team.members] == [None, None], team.said(1)
    team.members[1].send_signal(signal.SIGTERM)
    assert team.wait(60) == [130, 130]
    assert runs.read_manifest(out).state == "interrupted"


@pytest.mark.slow
def test_numbers_that_stop_being_finite_end_two_processes_in_a_line(tmp_path):
    diverging = CONFIG.replace('cell = "lstm"', 'cell = "rnn", activation = "identity"')
    diverging = diverging.replace('"adam", learning_rate = 1e-2', '"sgd", learning_rate = 1e12')
    path, out = tmp_path / "small.toml", tmp_path / "r"
    path.write_text(diverging.replace(", clip_norm = 1.0", ""))
    mesh_of = ["--train.mesh", "{data=2}", "--debug-nans"]
    team = Team(tmp_path, 2, str(path), *mesh_of, first=("--out", str(out)))
    assert team.wait() == [1, 1], team.said(0)
    assert runs.read_manifest(out).state == "failed"
    assert "not finite at step" in runs.read_manifest(out).reason
    assert "Traceback" not in team.logs[0].read_text() + team.logs[1].read_text()


JOINED = """
import os, signal, sys, time
from jaxlstm import cli
from jaxlstm.training import processes
with cli._terminable():
    processes.join(sys.argv[1], 1, 0)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except KeyboardInterrupt:
        processes.leave(130)
processes.leave(0)
"""


@pytest.mark.slow
def test_sigterm_still_ends_a_process_that_has_joined_others_and_does_not_train_yet():
    command = [sys.executable, "-c", JOINED, f"localhost:{port()}"]
    assert subprocess.run(command, capture_output=True, timeout=100).returncode == 130
