"""`jaxlstm sample`: a trained network writes more, from its run folder alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import cli, config, runs, training
from jaxlstm.tasks import characters
from jaxlstm.training import checkpoints, sampling
from jaxlstm.training.restore import trained as trained_network

TEXT = """
kind = "training"
name = "text"
question = "?"
expected = "!"
seeds = 2
task = { kind = "characters", path = "my.txt", window = 8 }
model = { cell = "lstm", hidden_size = 32 }
optimizer = { kind = "adam", learning_rate = 3e-2 }
train = { steps = 100, batch_size = 8, log_every = 50, steps_per_dispatch = 50 }
sample = { characters = 7, temperature = 0.5, prompt = "bé" }
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run on a text of one word, and no text any more."""
    room = tmp_path_factory.mktemp("room")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        Path("my.txt").write_text("abécd\n" * 60, encoding="utf-8")
        Path("text.toml").write_text(TEXT, encoding="utf-8")
        assert cli.main(["run", "text.toml", "--out", "run", "--quiet"]) == 0
        Path("my.txt").unlink()
    return room


@pytest.fixture
def said(trained, monkeypatch, capsys):
    """A function that calls the command in that folder and gives what it printed."""
    monkeypatch.chdir(trained)

    def call(*arguments):
        assert cli.main(["sample", "run", *arguments]) == 0
        out, err = capsys.readouterr()
        return out, err

    return call


def test_it_writes_what_it_has_learnt_without_its_text(said):
    assert said("--temperature", "0.1", "--characters", "16") == ("bécd\nabécd\nabécd\na\n", "")


def test_what_is_left_out_is_as_the_run_has_it(said):
    given = ("--prompt", "bé", "--characters", "7", "--temperature", "0.5", "--draw", "0")
    assert said() == said(*given)
    assert len(said()[0]) == len("bé") + 7 + 1


def test_dice_and_seeds_make_another_text(said):
    bold = ("--temperature", "30", "--characters", "40")
    assert len({said(*bold), said(*bold, "--draw", "1"), said(*bold, "--seed", "1")}) == 3


def test_its_letters_are_drawn_from_what_the_network_predicts(trained, monkeypatch):
    """Letter by letter: the frequencies of many draws against softmax over whole sequences."""
    monkeypatch.chdir(trained)
    ready = trained_network("run")
    prompt, params = characters.Vocabulary(ready.symbols).encode("ab"), ready.params(None)
    logits = ready.network.apply(params, jnp.asarray(prompt)[None])[0, -1]
    wanted = np.asarray(jax.nn.softmax(logits / 4.0))
    speak = sampling.build(ready.network, 1)
    keys = jax.random.split(jax.random.key(5), 4000)
    draw = jax.jit(jax.vmap(lambda key: speak(params, key, jnp.asarray(prompt), 4.0)))
    many = draw(keys)
    found = np.bincount(np.asarray(many).ravel(), minlength=len(wanted)) / 4000
    assert abs(found - wanted).max() < 5 * 0.5 / np.sqrt(4000)
    assert wanted.max() < 0.9


def test_a_letter_that_the_text_has_not_is_named(said):
    out, err = said("--prompt", "bzxz", "--characters", "1")
    assert out.startswith("bzxz")
    assert err == "jaxlstm: --prompt: read as unknown, since the text has none of them: 'xz'\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--temperature", "0"], "--temperature: expected float >= 1e-06, got 0.0"),
        (["--characters", "0"], "--characters: expected int >= 1, got 0"),
        (["--prompt", ""], "--prompt: expected"),
        (["--seed", "7"], "--seed: expected one of 0, 1, got 7"),
        (["--draw", "-1"], "--draw: expected int >= 0"),
    ],
)
def test_a_mistake_is_one_line(trained, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(trained)
    assert cli.main(["sample", "run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"jaxlstm: {line}")
    assert err.count("\n") == 1


def test_only_a_run_on_text_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = 'task = { kind = "adding", length = 4 }'
    lines = [line for line in TEXT.splitlines() if not line.startswith(("task", "sample"))]
    ready = training.prepare(config.loads("\n".join([*lines, task])))
    runs.create(
        "run", config=config.dumps(ready.experiment), kind="training", name="text", question="?",
        command="", seeds=[0, 1], device="",
    )  # fmt: skip
    assert cli.main(["sample", "run"]) == 2
    assert "sample: there is no checkpoint in 'run'" in capsys.readouterr().err
    checkpoints.save("run", 1, ready.states(), 0.0)
    assert cli.main(["sample", "run"]) == 2
    assert "sample: expected a run that was trained on text, got one on" in capsys.readouterr().err
    assert cli.main(["sample", "no"]) == 2
    assert "'no' is no run folder" in capsys.readouterr().err


def test_the_characters_are_kept_in_the_order_of_their_numbers(trained):
    symbols = json.loads((trained / "run" / "symbols.json").read_text(encoding="utf-8"))
    assert symbols == "\nabcdé" + characters.STAND_IN


def test_a_run_without_them_asks_for_its_text(trained, tmp_path, monkeypatch, capsys):
    """Folders of before it was written down have the text alone."""
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run" / "symbols.json").unlink()
    runs.update_manifest(tmp_path / "run", sizes=None)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sample", "run"]) == 2
    line = f"sample: task.path: cannot read '{trained / 'my.txt'}'"
    assert line in capsys.readouterr().err
    (tmp_path / "run" / "symbols.json").write_text("[1]")
    assert cli.main(["sample", "run"]) == 2
    assert "symbols.json': expected a JSON string" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_another_alphabet(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    runs.update_manifest("run", state="interrupted")
    Path("my.txt").write_text("abxcd\n" * 60, encoding="utf-8")
    assert cli.main(["run", "--resume", "run", "--quiet", "--task.path", "my.txt"]) == 2
    assert "that 'run' is trained on has other characters now" in capsys.readouterr().err


def test_a_folder_of_before_does_without_its_text_too(said, trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "run", tmp_path / "run")
    wanted = said()
    monkeypatch.chdir(tmp_path)
    runs.update_manifest("run", sizes=None)
    assert said() == wanted


def test_a_prompt_that_the_text_has_not_is_told_by_the_run_too(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    Path("line.txt").write_text("abécd " * 60, encoding="utf-8")
    short = ["--train.steps", "2", "--task.path", "line.txt", "--sample.prompt", "b\n"]
    assert cli.main(["run", "text.toml", "--out", "line", *short]) == 0
    told = "sample.prompt: read as unknown, since the text has none of them: '\\n'"
    assert capsys.readouterr().out.count(told) == 1


@pytest.mark.slow
def test_what_several_devices_saved_is_read_by_a_program_that_has_one(tmp_path):
    """A run of a single seed spreads over the cores; the study of it does not."""
    root = Path(__file__).parent.parent
    script = """
import sys, jax
from jaxlstm import config, training
from jaxlstm.training import checkpoints
ready = training.prepare(config.load(sys.argv[1], [("model.hidden_size", "4"), ("seeds", "1")]))
mesh = jax.make_mesh((2,), ("batch",))
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
checkpoints.save(sys.argv[2], 3, jax.device_put(ready.states(), everywhere), 0.1)
"""
    spec = root / "configs" / "adding.toml"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", script, str(spec), str(tmp_path)]
    subprocess.run(command, check=True, env=environment | {"PYTHONPATH": str(root)}, timeout=300)
    ready = training.prepare(config.load(spec, [("model.hidden_size", "4"), ("seeds", "1")]))
    found = checkpoints.latest(tmp_path, ready.shapes())
    assert (found.step, found.seconds) == (3, 0.1)
    for here, there in zip(
        jax.tree.leaves(found.states[0].params),
        jax.tree.leaves(ready.states()[0].params),
        strict=True,
    ):
        np.testing.assert_array_equal(here, there)


def test_a_run_does_not_go_on_with_another_text(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    text = Path("elsewhere/my.txt")
    text.write_text("abécd\n" * 60, encoding="utf-8")
    runs.update_manifest("run", state="interrupted")
    resume = ["run", "--resume", "run", "--quiet", "--task.path"]
    assert cli.main([*resume, str(text)]) == 0
    runs.update_manifest("run", state="interrupted")
    monkeypatch.chdir("elsewhere")
    resume[2] = "../run"
    assert cli.main([*resume, "my.txt"]) == 0
    runs.update_manifest("../run", state="interrupted")
    with Path("my.txt").open("a", encoding="utf-8") as file:
        file.write("abécd\n")
    capsys.readouterr()
    assert cli.main([*resume, "my.txt"]) == 2
    assert "the data that '../run' is trained on are others now" in capsys.readouterr().err
