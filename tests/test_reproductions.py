"""Reproductions: intervals against published ones, verdicts, and a table that survives a stop."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxlstm import cli, config, reproductions, runs, training
from jaxlstm.errors import UserError
from jaxlstm.reproductions import checks, table
from jaxlstm.training import model

pytestmark = pytest.mark.usefixtures("compile_fast")

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(ROOT.glob("configs/reproductions/*.toml"))

TINY = """
kind = "reproduction"
name = "tiny"
row = 3
question = "?"
expected = "!"
paper = "Nobody 1900"
protocol = "adding"
published = "1"
readings = ["a reading"]

[shared]
seeds = 2
task = { kind = "adding", length = 6 }
optimizer = { kind = "adam", learning_rate = 1e-2 }

[shared.train]
steps = 24
batch_size = 4
steps_per_dispatch = 4
log_every = 8
evaluate_every = 8
checkpoint_every = 8

[[arms]]
name = "lstm"
model = { cell = "lstm", hidden_size = 4 }

[[arms]]
name = "rnn"
model = { cell = "rnn", hidden_size = 4 }
train.stop = { kind = "goal" }
goal = { metric = "mse", below = 1e9 }

[[checks]]
what = "error"
metric = "validation mse"
arms = ["lstm"]
beats = "memoryless mse"

[[checks]]
what = "stopped"
metric = "stop stopped"
arms = ["rnn"]
statistic = "count"
share = true
low = 1.0

[quick]
shared.seeds = 1
"""


def check(**given) -> config.Check:
    return config.Check(**({"what": "w", "metric": "validation mse"} | given))


def folder(tmp_path, name: str, *records) -> Path:
    """A run folder with records `(split, step, {metric: values})`."""
    place = tmp_path / name
    runs.create(
        place,
        config="",
        kind="training",
        name=name,
        question="",
        command="",
        seeds=[0],
        device="",
        baselines={"naive mse": 0.5},
    )
    for split, at, metrics in records:
        runs.append(place, "metrics.jsonl", {"split": split, "step": at, "metrics": metrics})
    return place


def judged(tmp_path, values, others=(), **given) -> runs.Score:
    folders = {"a": folder(tmp_path, "a", ("validation", 9, {"mse": list(values)}))}
    if others:
        folders["b"] = folder(tmp_path, "b", ("validation", 9, {"mse": list(others)}))
        given = {"arms": ("a",), "against": ("b",)} | given
    return checks.judge(check(**given), folders)


def test_counts_have_the_interval_of_wilson(tmp_path):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I."""
    score = judged(tmp_path, [1.0] * 81 + [0.0] * 182, statistic="count", above=0.5)
    assert score.mean == 81
    np.testing.assert_allclose([score.low / 263, score.high / 263], [0.2553, 0.3662], atol=5e-5)


def test_differences_of_shares_have_the_interval_of_newcombe(tmp_path):
    """Newcombe 1998, "Interval estimation for the difference", table II, method 10, case (a)."""
    score = judged(
        tmp_path,
        [1.0] * 56 + [0.0] * 14,
        [1.0] * 48 + [0.0] * 32,
        statistic="share difference",
        low=0,
        rule="interval",
    )
    np.testing.assert_allclose(
        [score.mean, score.low, score.high], [0.2, 0.0524, 0.3339], atol=1e-4
    )
    assert score.verdict == "met"


def test_the_interval_of_a_mean_is_about_that_of_student(tmp_path):
    values = np.random.default_rng(0).normal(10, 2, 200)
    score = judged(tmp_path, values.tolist())
    low, high = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    np.testing.assert_allclose([score.low, score.high], [low, high], atol=0.02)
    assert score.mean == pytest.approx(values.mean())
    assert score.verdict == "reported"
    assert score.expected is None


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [("mean", 3.0), ("median", 2.0), ("smallest", 1.0), ("largest", 6.0), ("count", 3.0)],
)
def test_statistics_are_what_they_are_called(tmp_path, statistic, expected):
    assert judged(tmp_path, [6.0, 1.0, 2.0], statistic=statistic).mean == expected


@pytest.mark.parametrize(("statistic", "expected"), [("difference", 2.0), ("ratio", 2.0)])
def test_comparisons_are_of_means(tmp_path, statistic, expected):
    ours, others = [3.0, 5.0, 4.0, 4.0, 4.0], [1.0, 3.0, 2.0, 2.0, 2.0]
    score = judged(tmp_path, ours, others, statistic=statistic)
    assert score.mean == expected
    assert score.low <= expected <= score.high
    assert score.values == [*ours, *others]


def test_a_few_seeds_have_the_interval_of_student_or_of_welch_or_none(tmp_path):
    ours, others = [3.0, 5.0, 4.5, 7.0], [1.0, 1.5, 3.0]
    score = judged(tmp_path / "1", ours)
    expected = stats.t.interval(0.95, 3, np.mean(ours), stats.sem(ours))
    np.testing.assert_allclose([score.low, score.high], expected)
    score = judged(tmp_path / "2", ours, others, statistic="difference")
    expected = stats.ttest_ind(ours, others, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose([score.low, score.high], expected)
    for k, given in enumerate([{"statistic": "ratio"}, {"statistic": "median"}]):
        compared = others if given["statistic"] == "ratio" else ()
        score = judged(tmp_path / f"3{k}", ours, compared, low=0.1, rule="interval", **given)
        assert (score.low, score.high, score.verdict) == (None, None, "missed")


# values 1 to 9: mean 5, interval about 3.4 to 6.6
@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({"low": 5.0, "high": 5.0}, "met"),
        ({"low": 5.1}, "missed"),
        ({"high": 4.9}, "missed"),
        ({"low": 5.1, "rule": "overlap"}, "met"),
        ({"low": 7.0, "rule": "overlap"}, "missed"),
        ({"high": 3.0, "rule": "overlap"}, "missed"),
        ({"low": 3.0, "high": 7.0, "rule": "interval"}, "met"),
        ({"low": 4.9, "rule": "interval"}, "missed"),
        ({"beats": "naive mse"}, "missed"),
        ({}, "reported"),
    ],
)
def test_a_verdict_is_by_the_band(tmp_path, given, verdict):
    assert judged(tmp_path, range(1, 10), **given).verdict == verdict


@pytest.mark.parametrize(("value", "verdict"), [(0.49, "met"), (0.5, "missed"), (None, "missed")])
def test_a_baseline_must_be_beaten_and_what_is_not_finite_beats_none(tmp_path, value, verdict):
    assert judged(tmp_path, [value, value], beats="naive mse").verdict == verdict


def test_where_higher_is_better_a_baseline_is_beaten_from_above(tmp_path):
    better = {"beats": "naive mse", "better": "higher", "statistic": "smallest"}
    score = judged(tmp_path, [0.6, 0.9], **better)
    assert (score.verdict, score.expected) == ("met", "> 0.5, naive mse")
    assert judged(tmp_path / "2", [0.5, 0.9], **better).verdict == "missed"


def test_an_interval_that_is_to_exclude_a_number_may_not_touch_it(tmp_path):
    assert judged(tmp_path, [1.0, 1.0], low=1.0, rule="interval").verdict == "missed"
    assert judged(tmp_path / "2", [1.0, 1.0], low=1.0).verdict == "met"


def test_only_stopped_seeds_and_the_best_evaluation_can_be_taken(tmp_path):
    place = folder(
        tmp_path,
        "a",
        ("validation", 5, {"mse": [3.0, 1.0, 9.0]}),
        ("test", 5, {"mse": [30.0, 10.0, 90.0]}),
        ("validation", 9, {"mse": [2.0, 4.0, 8.0]}),
        ("test", 9, {"mse": [20.0, 40.0, 80.0]}),
        ("stop", 9, {"updates": [7.0, 9.0, 8.0], "stopped": [1.0, 0.0, 1.0]}),
    )
    best = check(metric="test mse", lowest="validation mse")
    assert checks.judge(best, {"a": place}).values == [20.0, 10.0, 80.0]
    lost = ("validation", 1, {"mse": [None, 0.5, None]})
    of_lost = ("test", 1, {"mse": [1.0, 2.0, 3.0]})
    ready = ("validation", 5, {"mse": [3.0, 1.0, 9.0]}), ("test", 5, {"mse": [30.0, 10.0, 90.0]})
    broken = folder(tmp_path, "b", lost, of_lost, *ready)
    assert checks.judge(best, {"a": broken}).values == [30.0, 2.0, 90.0]
    done = check(metric="stop updates", stopped=True)
    assert checks.judge(done, {"a": place}).values == [7.0, 8.0]
    shares = check(metric="stop stopped", statistic="count", share=True, low=0.6)
    score = checks.judge(shares, {"a": place})
    assert (score.mean, score.expected, score.verdict) == (2.0, "≥ 1.8 of 3", "met")


def test_where_no_seed_stopped_a_mean_is_missed_and_a_count_is_none(tmp_path):
    stop = ("stop", 9, {"updates": [9.0], "stopped": [0.0]})
    place = folder(tmp_path, "a", stop)
    mean = check(metric="stop updates", stopped=True, low=0.0)
    assert checks.judge(mean, {"a": place}).verdict == "missed"
    count = check(metric="stop stopped", statistic="count", high=0)
    assert checks.judge(count, {"a": place}).verdict == "met"


@pytest.mark.parametrize("failing", ["a", "b"])
def test_no_band_is_met_by_a_training_that_failed(tmp_path, failing):
    """Fewer than one of its seeds is below 0.5, and it differs by less than any other, but why?"""
    places = {
        name: folder(tmp_path, name, ("validation", 9, {"mse": [1.0, None]})) for name in "ab"
    }
    several = [
        check(statistic="count", below=0.5, high=0, arms=("a", "b")),
        check(statistic="share difference", below=0.5, high=0, arms=("a",), against=("b",)),
    ]
    before = [checks.judge(one, places) for one in several]
    assert [(score.mean, score.verdict) for score in before] == [(0.0, "met")] * 2
    runs.update_manifest(places[failing], state="failed")
    after = [checks.judge(one, places) for one in several]
    assert [(score.mean, score.low, score.verdict) for score in after] == [
        (None, None, "missed")
    ] * 2


def test_a_reproduction_without_a_band_is_reported(tmp_path):
    place = folder(tmp_path, "a", ("validation", 9, {"mse": [1.0]}))
    scores = [checks.judge(check(), {"a": place})]
    runs.update_manifest(place, state="finished", summary=scores)
    assert table.verdict(runs.read_manifest(place)) == "reported"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"metric": "test mse"}, r"expected a metric of 'a' \(validation mse\), got 'test mse'"),
        ({"beats": "none mse"}, r"expected a baseline of the task \(naive mse\), got 'none mse'"),
    ],
)
def test_what_a_training_has_not_is_named(tmp_path, given, line):
    with pytest.raises(UserError, match=line):
        judged(tmp_path, [1.0], **given)


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    return tmp_path


def reproduce(*more: str) -> int:
    return cli.main(["reproduce", "tiny.toml", "--out", "out", "--quiet", *more])


def records(place) -> list:
    return [
        {k: v for k, v in record.items() if k != "seconds"}
        for record in runs.read_jsonl(place, "metrics.jsonl")
    ]


def test_a_reproduction_that_was_stopped_goes_on_and_leaves_a_table(room, monkeypatch, capsys):
    assert reproduce("--out", "whole") == 0
    dispatch, steps = training.sitting.Sitting._dispatch, []

    def interrupted(self, advance, until):
        steps.append(until)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        dispatch(self, advance, until)

    monkeypatch.setattr(training.sitting.Sitting, "_dispatch", interrupted)
    assert reproduce() == 130
    assert "go on with: the same command" in capsys.readouterr().out
    assert "**interrupted**" in Path("out/README.md").read_text()
    assert not Path("out/tiny/rnn").exists()
    assert reproduce() == 0
    for arm in ("lstm", "rnn"):
        assert records(Path("out/tiny") / arm) == records(Path("whole/tiny") / arm)
    done = len(steps)
    assert reproduce() == 0
    assert len(steps) == done
    table = Path("out/README.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| [tiny](tiny/report.html)"))
    manifest = runs.read_manifest("out/tiny")
    assert manifest.kind == "reproduction"
    assert [score.verdict for score in manifest.summary] == ["met", "met"]
    assert f"error: {manifest.summary[0].mean:.4g}" in row
    assert "| 2 | **met** |" in row
    assert "Reading: a reading" in table
    page = Path("out/tiny/report.html").read_text()
    assert "Nobody 1900" in page
    assert "a reading" in page
    assert Path("out/tiny/figures/learning.json").exists()
    stop = records(Path("out/tiny/rnn"))[-1]
    assert stop["metrics"] == {"updates": [8.0, 8.0], "stopped": [1.0, 1.0]}
    assert cli.main(["list", "out"]) == 0


def test_a_training_that_failed_has_no_number_and_is_named(room, capsys):
    wild = 'optimizer = { kind = "sgd", learning_rate = 1e30 }\n'
    head, _, tail = TINY.partition("optimizer = ")
    Path("tiny.toml").write_text(head + wild + tail.partition("\n")[2])
    assert reproduce() == 1
    out, err = capsys.readouterr()
    assert "error: not finite" in out
    assert "missed" in out
    assert "lstm: the loss or its gradient was not finite" in err
    assert "**failed**" in Path("out/README.md").read_text()
    assert reproduce() == 1


def test_the_short_version_has_another_folder_and_another_config_is_refused(room, capsys):
    assert cli.main(["reproduce", "tiny.toml", "--quick", "--quiet"]) == 0
    assert runs.read_manifest("runs/quick/tiny").seeds == [0]
    capsys.readouterr()
    assert cli.main(["reproduce", "tiny.toml", "--out", "runs/quick"]) == 2
    assert "holds a reproduction of another config" in capsys.readouterr().err
    assert cli.main(["reproduce", "tinny"]) == 2
    assert cli.main(["reproduce"]) == 2


def test_of_all_those_without_their_data_are_left_out(room, capsys):
    Path("configs/reproductions").mkdir(parents=True)
    Path("configs/reproductions/tiny.toml").write_text(TINY)
    task = 'task = { kind = "characters", path = "none.txt" }'
    other = TINY.replace("row = 3", "row = 1").replace('name = "tiny"', 'name = "other"')
    other = other.replace('task = { kind = "adding", length = 6 }', task)
    Path("configs/reproductions/other.toml").write_text(other)
    assert cli.main(["reproduce", "--quick", "--quiet"]) == 0
    said = capsys.readouterr()
    assert "other is left out: " in said.err
    assert said.out.splitlines()[-1] == "runs/quick/README.md"
    assert not Path("runs/quick/other").exists()
    assert cli.main(["reproduce", "other", "--quick", "--quiet"]) == 2
    assert "other: task.path: cannot read '" in capsys.readouterr().err
    assert cli.main(["reproduce", "other", "--quick", "--shared.task.path", "elsewhere.txt"]) == 2
    assert "elsewhere.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('arms = ["lstm"]', 'arms = ["lstn"]', "arms of number 1: expected one of lstm, rnn, got"),
        ('arms = ["lstm"]', 'arms = ["lstm", "lstm"]', "arms of number 1: expected different"),
        ('statistic = "count"', 'statistic = "ratio"', "against: expected one or more arms with"),
        ("low = 1.0", 'low = 1.0\nagainst = ["lstm"]', "against: expected none with statistic = "),
        ('beats = "mem', 'high = 1\nbeats = "mem', "expected a band or `beats`, got both"),
        ('name = "rnn"', 'name = "lstm"', "arms: expected different names, got"),
        ("[quick]", "[quack]", "quack: no such key"),
        ("shared.seeds = 1", "shared.seds = 1", "arms[0].seds: no such key; did you mean `seeds`"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(old, new, line):
    text = TINY.replace(old, new)
    assert text != TINY
    version = "" if "quack" in new else "quick"
    with pytest.raises(UserError) as refused:
        config.loads(text, "my.toml", version=version)
    assert line in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("shared.seeds", "0", "--seeds: expected int >= 1, got 0"),
        ("shared.task.path", "x", "--shared.task.path: no such key"),
    ],
)
def test_what_all_arms_are_given_is_named_as_it_was_typed(name, value, line):
    with pytest.raises(UserError) as refused:
        config.loads(TINY, "my.toml", [(name, value)])
    assert str(refused.value).startswith(line)


def test_arms_have_what_is_shared_and_a_table_of_another_kind_replaces_it():
    text = TINY.replace("[[arms]]", '[[arms]]\ntask = { kind = "copy", delay = 5 }', 1)
    made = config.loads(text)
    assert made.arms[0].task == config.CopyMemory(delay=5)
    assert made.arms[1].task == config.Adding(length=6)
    assert made.arms[1].train.stop == config.Reached()
    assert made.arms[0].train.steps == made.arms[1].train.steps == 24
    assert config.loads(config.dumps(made)) == made


def test_an_arm_begins_from_another_config(room):
    Path("other.toml").write_text((ROOT / "configs/adding.toml").read_text())
    text = TINY.replace('name = "lstm"', 'name = "lstm"\nfrom = "other.toml"\nseeds = 7')
    arm = config.loads(text).arms[0]
    assert (arm.name, arm.seeds, arm.task.length) == ("lstm", 7, 100)
    assert arm.model == config.LSTM(hidden_size=4)
    for old, line in (('"other.toml"', "3"), ("other.toml", "none.toml")):
        with pytest.raises(UserError, match=r"from: expected the path|cannot read this config"):
            config.loads(text.replace(old, line))


def weights(arm: config.Experiment) -> int:
    return model.count(training.prepare(arm).shapes()[0].params)


@pytest.mark.parametrize(
    ("name", "arm", "count"),
    [("temporal-order-1997", 0, 156), ("adding-1997", 0, 93), ("reber-1997", 0, 276)],
)
def test_the_networks_of_1997_have_their_weights(name, arm, count):
    made = config.load(ROOT / f"configs/reproductions/{name}.toml")
    assert weights(made.arms[arm]) == count


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_reproduction_has_a_short_version_and_a_place_in_the_table(path):
    whole, quick = config.load(path), config.load(path, version="quick")
    assert whole.name == quick.name == path.stem
    assert quick != whole


def test_a_stop_rule_counts_the_updates_as_python_does():
    """The streak of a seed against its own list of values."""
    stop = config.Streak(window=5, metric="mse", below=0.16, right="wrong")
    recent = training.step.Recent(np.zeros(5, np.float32), np.int32(0))
    rng, seen = np.random.default_rng(1), []
    for t in range(200):
        value, wrong = np.float32(rng.uniform(0, 0.4)), np.float32(rng.uniform() < 0.05)
        seen.append((value, wrong))
        measured = {"mse": value, "wrong": wrong}
        recent = training.step._remember(stop, recent, np.int32(t), measured)
        last = seen[-5:]
        enough = (
            len(last) == 5 and not any(w for _, w in last) and np.mean([v for v, _ in last]) < 0.16
        )
        assert bool(training.step._enough(stop, recent)) == enough
    assert reproductions.prepare(config.loads(TINY), Path("nowhere")) is None
