"""Configs: what is refused and how, and what comes back equal."""

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlstm import config
from jaxlstm.errors import UserError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/**/*.toml"))
COMMANDS = {
    "configs": "run",
    "configs/studies": "study",
    "configs/reproductions": "reproduce",
    "configs/sweeps": "sweep",
}

GOOD = """
kind = "training"
name = "good"
question = "?"
expected = "!"
seeds = 2
task = { kind = "adding", length = 10 }
model = { cell = "lstm", hidden_size = 8 }
optimizer = { kind = "adam", learning_rate = 1e-3 }
train = { steps = 10, batch_size = 4 }
"""


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_in_the_repository_comes_back_equal(path):
    loaded = config.load(ROOT / path)
    assert config.loads(config.dumps(loaded)) == loaded
    assert hash(loaded) == hash(config.load(ROOT / path))


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_says_its_question_command_score_and_time(path):
    header = (ROOT / path).read_text().split("\n\n")[0].split("\nkind")[0]
    command = COMMANDS[Path(path).parent.as_posix()]
    given = Path(path).stem if command == "reproduce" else path
    for word in ("Question:", f"Command:  jaxlstm {command} {given}", "Expected:", "Time:"):
        assert word in header


KINDS = ", ".join(f'"{kind.__struct_config__.tag}"' for kind in get_args(config.Task))

# (what is changed in GOOD, the line that must come of it)
REFUSED = [
    ("length = 10", "lenght = 10", "task.lenght: no such key; did you mean `length`?"),
    ("length = 10", "length = 0", "task.length: expected int >= 2, got 0"),
    ("length = 10", "length = 2.5", "task.length: expected int, got 2.5"),
    ("length = 10", 'length = "10"', "task.length: expected int, got '10'"),
    ("length = 10", "length = true", "task.length: expected int, got true"),
    ("length = 10", "zzz = 1", "task.zzz: no such key; expected one of length"),
    (
        '"adding", length = 10',
        '"temporal-order", length = 20, events = 4',
        "task.events: expected one of 2, 3, got 4",
    ),
    (
        '"adding", length = 10',
        '"temporal-order", length = 20, events = "3"',
        "task.events: expected one of 2, 3, got '3'",
    ),
    (
        '"adding", length = 10',
        '"temporal-order", evaluate_lengths = [15, 20, 15]',
        "task.evaluate_lengths: expected different lengths, got [15, 20, 15]",
    ),
    (
        "steps = 10",
        'steps = 10, mesh = "atuo"',
        'train.mesh: expected "auto" or a table, got \'atuo\'; did you mean "auto"?',
    ),
    ("steps = 10", "steps = 10, mesh = 2", 'train.mesh: expected "auto" or a table, got 2'),
    ("steps = 10", "steps = 10, stop = 2", "train.stop: expected a table, got 2"),
    (
        'kind = "adding"',
        'kind = "adding "',
        f"task.kind: expected one of {KINDS}, got 'adding '; did you mean \"adding\"?",
    ),
    (
        'kind = "adding", length = 10',
        "length = 10",
        f"task.kind: missing, expected one of {KINDS}",
    ),
    ('cell = "lstm", hidden_size = 8', 'cell = "lstm"', "model.hidden_size: missing, expected int"),
    (
        'cell = "lstm"',
        'cell = "rnn", forget_bias = 1',
        "model.forget_bias: no such key; expected one of hidden_size, layers, activation, "
        "kernel_init, recurrent_init, embedding_size",
    ),
    (
        "hidden_size = 8",
        "hidden_size = 8, forget_bias = 1.0, chrono_t_max = 10",
        "model: expected one of `forget_bias` and `chrono_t_max`, got both",
    ),
    (
        'kind = "adam"',
        'kind = "sgdd"',
        'optimizer.kind: expected one of "adam", "adamw", "rmsprop", "sgd", got \'sgdd\'; '
        'did you mean "sgd"?',
    ),
    ("1e-3", "0.0", "optimizer.learning_rate: expected float > 0.0, got 0.0"),
    ("1e-3", "1e300", "optimizer.learning_rate: expected float <= 1e+30, got 1e+300"),
    ("1e-3", "nan", "optimizer.learning_rate: expected a finite number, got nan"),
    ("1e-3", "inf", "optimizer.learning_rate: expected a finite number, got inf"),
    (
        "1e-3",
        '1, schedule = { kind = "cosine", warmup_steps = 10 }',
        "optimizer.schedule.warmup_steps: expected int < train.steps = 10, got 10",
    ),
    ("seeds = 2", "seeds = 0", "seeds: expected int >= 1, got 0"),
    ("seeds = 2", "seeds = []", "seeds: expected one or more different seeds, got []"),
    ("seeds = 2", "seeds = [1, 1]", "seeds: expected one or more different seeds, got [1, 1]"),
    ("seeds = 2", "seeds = [1, -1]", "seeds[1]: expected int >= 0, got -1"),
    ('name = "good"', 'name = "../evil"', "name: expected letters, digits,"),
    ('name = "good"', "", "name: missing, expected str"),
    ("seeds = 2", "goal = {}", "goal: expected exactly one of `below` and `above`, got nei"),
    ("steps = 10", "steps = 99999999999999999999", "train.steps: expected int <= 2147483647"),
    ('kind = "training"', 'kind = "trainnig"', 'did you mean "training"?'),
    ("task = ", "[[task", "expected TOML: "),
    ('question = "?"', "question = 1979-05-27", "question: expected str, got datetime.date"),
]


@pytest.mark.parametrize(("before", "after", "line"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_with_its_path(before, after, line, tmp_path):
    assert before in GOOD
    path = tmp_path / "x.toml"
    path.write_text(GOOD.replace(before, after, 1))
    with pytest.raises(UserError) as refused:
        config.load(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert line in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("task.lenght", "3", "--task.lenght: no such key; did you mean `length`?"),
        ("task.length", "0", "--task.length: expected int >= 2, got 0"),
        ("task.length", "", "--task.length: expected int, got ''"),
        ("model.hidden-size", "many", "--model.hidden_size: expected int, got 'many'"),
        ("task.length.more", "3", "--task.length.more: `task.length` holds no other keys"),
        ("nothing.at_all", "3", "--nothing: no such key"),
        ("task.path", "\udcff.txt", "--task.path: expected UTF-8 text, got '\\udcff.txt'"),
        ("train.steps", "1\nseeds = 3", "--train.steps: expected int, got"),
    ],
)
def test_an_override_that_does_not_fit_is_named_as_it_was_typed(name, value, line):
    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        config.loads(GOOD, "x.toml", [(name, value)])


def test_overrides_reach_every_depth_and_leave_text_as_it_is():
    loaded = config.loads(
        GOOD.replace('kind = "adding", length = 10', 'kind = "characters"'),
        "x.toml",
        [
            ("task.path", "123"),
            ("model.hidden-size", "16"),
            ("model.recurrent-init.kind", "identity"),
            ("model.recurrent-init.scale", "2"),
            ("optimizer.learning_rate", "3e-2"),
            ("seeds", "[3, 7]"),
            ("sample.prompt", "true"),
        ],
    )
    assert loaded.task == config.Characters(path="123")
    assert loaded.model == config.LSTM(hidden_size=16, recurrent_init=config.Identity(scale=2.0))
    assert loaded.optimizer.learning_rate == 0.03
    assert loaded.seed_list == (3, 7)
    assert loaded.sample == config.Sample(prompt="true")


@pytest.mark.parametrize(
    ("typed", "wanted"), [(".5", 0.5), ("5.", 5.0), ("+.5e-1", 0.05), ("1e-3", 1e-3), ("1", 1.0)]
)
def test_numbers_are_read_as_they_are_typed_in_a_shell(typed, wanted):
    loaded = config.loads(GOOD, "x.toml", [("optimizer.learning_rate", typed)])
    assert loaded.optimizer.learning_rate == wanted


@pytest.mark.parametrize(
    "task",
    [
        'kind = "characters", path = "my data"',
        'kind = "forecast", target = "x", path = "my data"',
        'kind = "moving-digits", path = "my data"',
    ],
)
def test_a_path_is_that_of_the_working_folder_from_then_on(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = GOOD.replace('kind = "adding", length = 10', task)
    loaded = config.loads(text)
    assert loaded.task.path == str(tmp_path / "my data")
    monkeypatch.chdir("/")
    assert config.loads(config.dumps(loaded)) == loaded
    assert config.loads(text.replace("my data", "~/x")).task.path == str(Path.home() / "x")


def test_files_that_are_no_configs(tmp_path):
    path = tmp_path / "x.toml"
    with pytest.raises(UserError, match=r"cannot read this config file \(No such file"):
        config.load(path)
    with pytest.raises(UserError, match=r"cannot read this config file \(Is a directory"):
        config.load(tmp_path)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(UserError, match="expected UTF-8 text, got a bad byte at 8"):
        config.load(path)
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UserError, match="more than 1000000 bytes"):
        config.load(path)
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(UserError, match="expected TOML"):
        config.load(path)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, len(GOOD) - 1),
    st.integers(0, 30),
    st.text(st.characters(codec="utf-8"), max_size=10),
)
def test_a_damaged_config_loads_or_is_refused_in_one_line(start, removed, inserted):
    damaged = GOOD[:start] + inserted + GOOD[start + removed :]
    assert "\n" not in refusal_of(damaged)


def refusal_of(text: str) -> str:
    try:
        config.loads(text)
    except UserError as error:
        return str(error)
    return ""
