"""A study, small: its predictions hold, its numbers are in the files, a false one is missed."""

import itertools
import json
import re
import types
from pathlib import Path

import jax
import msgspec
import numpy as np
import optax
import pytest
from scipy import stats

import jaxlstm as jl
from jaxlstm import config, runs, studies, tasks, training
from jaxlstm.errors import UserError
from jaxlstm.progress import Bar
from jaxlstm.studies import carousel, findings, interventions, phase_diagram, reach, trials
from jaxlstm.studies.findings import Prediction, slope

pytestmark = pytest.mark.usefixtures("compile_fast")


def measured(folder, name, small):
    """Run a study of a config with smaller sizes."""
    study = config.load(f"configs/studies/{name}.toml", list(small.items()))
    progress = lambda *a, **k: Bar(*a, **k, quiet=True)  # noqa: E731
    studies.record(study, folder, command="", progress=progress)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    small = {
        "seeds": "2",
        "study.steps": "24",
        "study.hidden_size": "4",
        "study.large_size": "128",
        "study.gains": "[0.9]",
        "study.random_gains": "[3.0]",
        "study.forget_biases": "[0.12345678]",  # labels have six digits, the law has all
        "study.lengths": "[5, 20]",
    }
    return measured(tmp_path_factory.mktemp("study"), "vanishing", small)


def test_exact_predictions_hold_at_any_size(folder):
    verdicts = {score.metric: score.verdict for score in runs.read_manifest(folder).summary}
    exact = [name for name in verdicts if "cell path" in name or "linear" in name or "dx_N" in name]
    assert len(exact) >= 5
    assert {verdicts[name] for name in exact if "powers of ten" not in name} == {"met"}


def test_figures_hold_what_theory_says(folder):
    figure = json.loads((folder / "figures" / "2-rnn.json").read_text())
    measured, theory = figure["panels"][0]["series"]
    assert theory["role"] == "theory"
    np.testing.assert_allclose(theory["y"], 0.9 ** np.arange(24), rtol=1e-12)
    share = np.array(measured["y"]) / measured["y"][0]
    np.testing.assert_allclose(share, theory["y"], rtol=1e-9)
    names = {path.stem for path in (folder / "figures").glob("*.json")}
    assert names == {"1-scalar", "2-rnn", "3-lstm", "4-paths", "5-lengths"}


def test_the_table_says_what_the_summary_says(folder):
    table = json.loads((folder / "tables" / "predictions.json").read_text())
    summary = runs.read_manifest(folder).summary
    assert [row[0] for row in table["rows"]] == [score.metric for score in summary]
    assert [row[-1] for row in table["rows"]] == [score.verdict for score in summary]


def test_a_false_prediction_is_missed():
    assert not Prediction("", 1.0, [1.2, 1.3], tolerance=0.1).holds
    assert Prediction("", 1.0, [0.8, 1.1], tolerance=0.1).holds
    assert not Prediction("", 1.0, [0.9, 1.1], "at most").holds
    assert not Prediction("", 1.0, [0.9, 1.1], "at least").holds
    assert not Prediction("", 1.0, [1.0, float("nan")], tolerance=1.0).holds
    assert Prediction("", 2.0, [2.1], tolerance=0.1, relative=True).holds
    for rule in ("within", "at most", "at least"):
        assert not Prediction("", 1.0, [], rule, tolerance=1.0).holds


def test_ranks_share_ties_and_have_no_place_for_what_is_no_number():
    nan, line = float("nan"), np.arange(5.0)
    for values in ([3.0, 1.0, 4.0, 1.0, 5.0], [[2.0, 2.0], [1.0, 3.0]]):
        a = np.array(values)
        b = line[: a.size].reshape(a.shape)
        wanted = stats.spearmanr(a.ravel(), b.ravel()).statistic
        assert phase_diagram._ranks(a, b) == pytest.approx(wanted, abs=1e-12)
    for none in (np.full(5, nan), np.array([0.1, nan, 0.3, 0.4, 0.5]), np.zeros(5)):
        assert not Prediction("", -1.0, [phase_diagram._ranks(line, none)], "at least").holds


def test_a_context_that_is_never_enough_has_no_length():
    truncation = np.array([[0.5, 0.05, 0.0], [0.5, np.nan, np.nan]])
    assert reach._first(truncation < 0.1, np.array([1, 2, 3]))[0] == 2
    assert np.isnan(reach._first(truncation < 0.1, np.array([1, 2, 3]))[1])
    lost = np.full((2, 3), np.nan)
    names = ("memory", "contribution", "truncation", "loss")
    found = {f"{name} {when}": lost for name in names for when in ("before", "after")}
    found |= {f"sum {when}": lost[:, 0] for when in ("before", "after")}
    found |= {"contexts": np.array([[1, 2, 3]])}
    for every, unit in itertools.product((False, True), ("nats", "squared error")):
        task = types.SimpleNamespace(every_step=every, unit=unit)
        made = list(reach._predictions({"a": found}, {"a": task}))
        assert not any(one.holds for one in made)
        # What has a scale of its own is not held against a bound in nats.
        assert any("nats" in one.what for one in made) == (unit == "nats")


def test_slope_is_a_least_squares_fit():
    rows = np.array([3 - 0.5 * np.arange(10), 1 + 2 * np.arange(10)])
    np.testing.assert_allclose(slope(rows, 2, 9), [-0.5, 2.0])


def test_mean_field_small(tmp_path):
    small = {
        "seeds": "2",
        "study.sizes": "[256]",
        "study.tanh_gains": "[0.5, 0.8]",
        "study.other_gains": "[0.7, 1.4]",
    }
    folder = measured(tmp_path, "mean-field", small)
    scores = {score.metric: score for score in runs.read_manifest(folder).summary}
    assert len(scores) == 6 + 3
    sign = scores["gain at which the sign changes, relu, N = 256"]
    assert sign.mean == pytest.approx(2**0.5, rel=0.1)
    figure = json.loads((folder / "figures" / "2-rates.json").read_text())
    assert [panel["title"] for panel in figure["panels"]] == ["tanh", "relu", "identity"]
    for series, law in zip(figure["panels"][2]["series"], (0.05, 1e-12), strict=True):
        np.testing.assert_allclose(series["y"], np.log(series["x"]), atol=law)


@pytest.mark.usefixtures("lenient")  # optax promotes
def test_phase_diagram_small(tmp_path):
    small = {
        "seeds": "2",
        "study.hidden_size": "64",
        "study.gains": "[0.5, 3.0]",
        "study.forget_biases": "[0.0, 4.0]",
        "study.length": "5",
        "study.driven_steps": "60",
        "study.updates": "3",
        "study.batch_size": "4",
    }
    folder = measured(tmp_path, "phase-diagram", small)
    scores = {score.metric: score for score in runs.read_manifest(folder).summary}
    radii = [score for name, score in scores.items() if "radius" in name]
    assert len(radii) == 4
    assert radii[0].mean == pytest.approx(0.5 + 0.5 / 4, rel=0.15)
    figure = json.loads((folder / "figures" / "map.json").read_text())
    exponents = np.array(figure["panels"][0]["z"]["values"])
    assert exponents.shape == (2, 2)
    assert (exponents[1] > exponents[0]).all()  # a more open gate keeps more


def test_the_exponent_of_the_open_gate_can_miss():
    """At a forget bias of 4 the law is so near zero that an absolute tolerance lets zero pass."""
    spec = config.load("configs/studies/phase-diagram.toml").study
    shape = (len(spec.forget_biases), len(spec.gains), 3)
    for exponent, holds in ((np.log(1 / (1 + np.exp(-4.0))), True), (0.0, False), (-0.05, False)):
        maps = {"exponent": np.full(shape, exponent), "error": np.ones(shape)}
        found = phase_diagram._predictions(spec, {**maps, "radius": np.ones(shape)})
        (law,) = [one for one in found if "the open gate alone" in one.what]
        assert law.holds == holds


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")  # optax promotes
def test_gates_small(tmp_path):
    small = {
        "seeds": "2",
        "study.hidden_size": "4",
        "study.length": "8",
        "study.delay": "2",
        "study.payload": "1",
        "study.updates": "20",
        "study.batch_size": "4",
    }
    folder = measured(tmp_path, "gates", small)
    verdicts = {score.metric: score.verdict for score in runs.read_manifest(folder).summary}
    exact = [name for name in verdicts if "at rest" in name and "opens" not in name]
    assert len(exact) == 2
    assert {verdicts[name] for name in exact} == {"met"}
    table = json.loads((folder / "tables" / "variants.json").read_text())
    assert len(table["rows"]) == 9
    names = {path.stem for path in (folder / "figures").glob("*.json")}
    assert names == {"adding", "copy"}


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")
def test_a_trial_trains_each_seed_as_it_would_alone():
    task = tasks.build(config.Adding(length=6))
    model = trials.network(jl.lstm(input_size=2, hidden_size=4), task)
    keys = jax.random.split(jax.random.key(0), 2)
    options = {"optimizer": optax.adam(1e-2), "updates": 30, "batch_size": 16}
    both = trials.train(model, task, keys, **options)
    one = trials.train(model, task, keys[1:], **options)
    np.testing.assert_allclose(both.losses[1], one.losses[0], rtol=1e-3)
    assert both.losses[:, -5:].mean() < both.losses[:, :5].mean()
    assert trials.score(model, task, both.last)["mse"].shape == (2,)
    assert (jax.tree.leaves(both.stages)[0].shape[:2]) == (2, 2)
    stages = trials.train(model, task, keys, stages=3, **options).stages
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:, 3], b, rtol=1e-3), stages, both.last)
    short = trials.train(model, task, keys, **(options | {"updates": 10}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:, 1], b, rtol=1e-3), stages, short.last)
    floss = config.Flossing(count=2, weight=10.0, alone_steps=30)
    alone = trials.train(model, task, keys, penalty=floss, **options)
    np.testing.assert_array_equal(alone.first.readout.kernel, alone.last.readout.kernel)
    assert not (alone.first.cell.kernel == alone.last.cell.kernel).all()


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")  # optax promotes
def test_carousel_small(tmp_path):
    small = {
        "seeds": "2",
        "study.hidden_size": "3",
        "study.blocks": "2",
        "study.length": "12",
        "study.forget_biases": "[0.0]",
        "study.stages": "2",
        "study.updates": "20",
        "study.batch_size": "4",
    }
    folder = measured(tmp_path, "carousel", small)
    verdicts = {score.metric: score.verdict for score in runs.read_manifest(folder).summary}
    exact = [name for name in verdicts if "Σ ln f" in name or "∂c_0" in name or "set to 0" in name]
    assert len(exact) == 8
    assert {verdicts[name] for name in exact} == {"met"}
    paths = json.loads((folder / "figures" / "1-paths.json").read_text())
    for panel, bias in zip(paths["panels"], (0.0, None), strict=True):
        cell_path, whole = (series["y"] for series in panel["series"][:2])
        assert cell_path[0] == pytest.approx(1.0)
        assert (np.diff(cell_path) < 0).all()
        assert whole[0] == pytest.approx(1.0)
        if bias == 0.0:
            assert np.log(cell_path[-1]) == pytest.approx(12 * np.log(0.5), rel=0.2)
    truncated, every = json.loads((folder / "figures" / "2-training.json").read_text())["panels"][
        1
    ]["series"]
    assert truncated["x"] == [0, 10, 20]
    assert truncated["y"][0] == pytest.approx(every["y"][0])  # the same weights before training
    assert truncated["y"][0] > 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")  # optax promotes
def test_interventions_small(tmp_path):
    small = {
        "seeds": "2",
        "study.hidden_size": "10",
        "study.length": "12",
        "study.floss_exponents": "3",
        "study.floss_updates": "100",
        "study.updates": "300",
    }
    folder = measured(tmp_path, "interventions", small)
    scores = {score.metric: score for score in runs.read_manifest(folder).summary}
    assert scores["clipping by norm: cosine to the gradient"].verdict == "met"
    assert scores["clipping by norm: norm over the bound"].verdict == "met"
    flossed = [score for name, score in scores.items() if "flossed: largest" in name]
    assert len(flossed) == 2
    assert max(score.mean for score in flossed) < 0.3  # .7 and more at first
    figure = json.loads((folder / "figures" / "1-spectrum.json").read_text())
    for panel in figure["panels"]:
        for series in panel["series"]:
            assert (np.diff(series["y"]) < 0.05).all()  # by rank
            assert (np.array(series["y"]) > 0).all()
    first = figure["panels"][0]["series"][-1]
    assert first["label"] == "as initialised"
    assert first["y"][0] < figure["panels"][1]["series"][-1]["y"][0]  # gain .7 fades, 1.6 does not
    table = json.loads((folder / "tables" / "arms.json").read_text())
    assert len(table["rows"]) == 5 * 2 + 2


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")  # optax promotes
def test_reach_small(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    short = config.load(
        "configs/shakespeare.toml",
        [
            ("task.path", str(text)),
            ("task.window", "16"),
            ("model.hidden_size", "6"),
            ("train.steps", "60"),
            ("train.batch_size", "4"),
            ("sample.characters", "5"),
            ("optimizer.schedule.warmup_steps", "5"),
        ],
    )
    (tmp_path / "text.toml").write_text(config.dumps(short))
    small = {
        "seeds": "2",
        "study.trainings": f"['{tmp_path / 'text.toml'}']",
        "study.length": "20",
        "study.sequences": "3",
        "study.contexts": "[1, 4]",
    }
    folder = measured(tmp_path / "study", "reach", small)
    verdicts = {score.metric: score.verdict for score in runs.read_manifest(folder).summary}
    sums = [verdict for name, verdict in verdicts.items() if "less the gradient" in name]
    assert sums == ["met", "met"]
    panel = json.loads((folder / "figures" / "3-truncation.json").read_text())["panels"][0]
    truncation, worth = panel["series"]
    assert truncation["x"] == list(range(1, 21))
    assert truncation["y"][-1] == 0  # nothing is left out
    assert worth["x"] == [1, 4, 20]
    assert worth["y"][-1] == 0

    # The same from the run that was trained, and independently at one lag.
    room = folder / "trainings" / "shakespeare"
    again = measured(tmp_path / "again", "reach", small | {"study.trainings": f"['{room}']"})
    for name in ("1-memory", "2-contribution", "3-truncation"):
        figures = [(f / "figures" / f"{name}.json").read_text() for f in (folder, again)]
        assert figures[0] == figures[1]
    made, states = training.restore(room)
    batch = made.task.evaluation["validation"]
    inputs, targets = (np.asarray(leaf).reshape(-1)[: leaf.size // 20 * 20] for leaf in batch[:2])
    params, cell = states[0].params, made.network.cell
    losses = []
    for row in range(len(inputs) // 20):
        x = jax.nn.one_hot(inputs.reshape(-1, 20)[row], made.task.input_size)
        out = jl.unroll(cell, params.cell, x).outputs[-1]
        logits = out @ params.readout.kernel + params.readout.bias
        losses.append(-jax.nn.log_softmax(logits)[targets.reshape(-1, 20)[row, -1]])
        alone = jl.unroll(cell, params.cell, x[-1:]).outputs[-1]
        logits = alone @ params.readout.kernel + params.readout.bias
        losses[-1] += jax.nn.log_softmax(logits)[targets.reshape(-1, 20)[row, -1]]
    assert worth["low"][0] <= -np.mean(losses) + 1e-4
    assert worth["high"][0] >= -np.mean(losses) - 1e-4


TINY = [
    ("task.length", "4"),
    ("model.hidden_size", "2"),
    ("train.steps", "2"),
    ("train.batch_size", "2"),
    ("train.log_every", "1"),
    ("train.evaluate_every", "2"),
    ("optimizer.schedule.warmup_steps", "1"),
]


@pytest.mark.usefixtures("lenient")  # optax promotes
def test_networks_of_one_name_are_told_apart_and_contexts_ascend(tmp_path):
    tiny = config.dumps(config.load("configs/adding.toml", TINY))
    given = [str(tmp_path / f"{name}.toml") for name in ("a", "b")]
    for path in given:
        Path(path).write_text(tiny)
    small = {"seeds": "1", "study.sequences": "1", "study.contexts": "[3, 1]"}
    folder = measured(tmp_path / "study", "reach", small | {"study.trainings": str(given)})
    panels = json.loads((folder / "figures" / "3-truncation.json").read_text())["panels"]
    assert [panel["title"] for panel in panels] == [f"adding, {path}" for path in given]
    assert [panel["series"][1]["x"] for panel in panels] == [[1, 3, 4]] * 2
    rooms = [str(folder / "trainings" / "adding" / number) for number in "12"]
    assert all(runs.read_manifest(room).state == "finished" for room in rooms)
    study = config.load("configs/studies/reach.toml", [("study.trainings", str(rooms))])
    labels = [made.label for made in reach.prepare(study.study, (0,))]
    assert labels == [f"adding, {room}" for room in rooms]


def refused(folder, given, line):
    study = config.load("configs/studies/reach.toml", [("study.trainings", f"['{given}']")])
    key = f"study.trainings: expected configs of trainings or run folders, got '{given}': "
    with pytest.raises(UserError, match=f"^{re.escape(key)}.*{re.escape(line)}"):
        studies.record(study, folder, command="", progress=Bar)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("configs/studies/reach.toml", "it is no config of a training"),
        ("nowhere.toml", "nowhere.toml: cannot read this config file (No such file or directory)"),
        ("tests", "manifest"),
    ],
)
def test_what_the_reach_of_cannot_be_read_is_refused_before_anything_runs(tmp_path, given, line):
    refused(tmp_path / "study", given, line)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("reber", config.Reber(strings=20)),
        ("counting", config.Counting()),
        ("delayed-xor", config.DelayedXOR()),
    ],
)
def test_the_reach_of_a_task_that_cannot_ask_at_the_end_is_refused(tmp_path, kind, task):
    adding = config.load("configs/adding.toml")
    path = tmp_path / "own.toml"
    path.write_text(config.dumps(msgspec.structs.replace(adding, task=task, goal=None)))
    line = f"its task is {kind}, expected one that can ask about the last step alone"
    refused(tmp_path / "study", path, line)


@pytest.mark.parametrize(
    ("name", "key", "given", "line"),
    [
        ("vanishing", "random_gains", "[1e300]", "[0]: expected float <= 1000000.0, got 1e+300"),
        ("mean-field", "tanh_gains", "[1e-300]", "[0]: expected float >= 1e-06, got 1e-300"),
        ("phase-diagram", "gains", "[1e39]", "[0]: expected float <= 1000000.0, got 1e+39"),
        ("vanishing", "forget_biases", "[-800.0]", "[0]: expected float >= -100.0, got -800.0"),
        ("carousel", "forget_biases", "[-800.0]", "[0]: expected float >= -100.0, got -800.0"),
        ("phase-diagram", "forget_biases", "[800.0]", "[0]: expected float <= 100.0, got 800.0"),
        ("phase-diagram", "length", "1", ": expected int >= 2, got 1"),
        ("mean-field", "other_gains", "[0.5, 0.5]", ": expected different values, got [0.5, 0.5]"),
        ("mean-field", "sizes", "[8, 8]", ": expected different values, got [8, 8]"),
        ("vanishing", "forget_biases", "[1, 1.0000001]", ": expected different values, got [1.0"),
        ("vanishing", "lengths", "[5, 5]", ": expected different values, got [5, 5]"),
        ("reach", "contexts", "[1, 4, 1]", ": expected different values, got [1, 4, 1]"),
        ("reach", "trainings", "['a', 'a']", ": expected different values, got ['a', 'a']"),
        ("interventions", "gains", "[1, 1]", ": expected different values, got [1.0, 1.0]"),
    ],
)
def test_a_setting_that_cannot_be_measured_is_refused(name, key, given, line):
    with pytest.raises(UserError, match=f"^--study.{key}{re.escape(line)}"):
        config.load(f"configs/studies/{name}.toml", [(f"study.{key}", given)])


def test_one_point_is_no_map():
    point = [("study.gains", "[1.0]"), ("study.forget_biases", "[1.0]")]
    line = "study.gains: expected two or more, or as many forget_biases, got [1.0]"
    with pytest.raises(UserError, match=f"{re.escape(line)}$"):
        config.load("configs/studies/phase-diagram.toml", point)
    assert config.load("configs/studies/phase-diagram.toml", point[:1])


def test_the_carousel_of_the_shortest_sequences_is_built(tmp_path):
    class Built(Exception):
        pass

    def progress(*args, **options):
        raise Built

    with pytest.raises(Built):
        carousel.measure(config.Carousel(length=2), (0,), tmp_path, progress)


def test_a_gain_of_one_is_a_gain(tmp_path):
    spec = config.Interventions(gains=(1.0, 2.0), updates=200)
    one = {name: np.zeros((1, 16)) for name in ("first", "flossed", "last")}
    one |= {"losses": np.ones((1, 200)), "error": np.zeros(1)}
    arms = interventions._arms(spec)
    found = {(arm.name, gain): one for arm in arms for gain in interventions._inits(spec, arm)}
    names = [p.what for p in interventions._predictions(spec, found, ([1.0], [1.0]))]
    for name in (interventions.PENALTY, interventions.FLOSSING):
        assert f"gain 1, {name}: error, 0.01 being solved" in names
    interventions._draw(spec, found, tmp_path)
    panels = json.loads((tmp_path / "figures" / "1-spectrum.json").read_text())["panels"]
    assert [len(panel["series"]) for panel in panels] == [6, 6, 2]
    interventions._table(found, tmp_path)
    rows = json.loads((tmp_path / "tables" / "arms.json").read_text())["rows"]
    assert [row[1] for row in rows] == ["1", "2"] * 5 + ["", ""]


STUDIES = sorted(path.stem for path in Path("configs/studies").glob("*.toml"))


@pytest.mark.parametrize("name", STUDIES)
def test_the_longer_version_is_longer(name):
    path = f"configs/studies/{name}.toml"
    short, long = (config.load(path, version=version) for version in ("", "full"))
    assert len(STUDIES) == 7
    assert len(long.seed_list) > len(short.seed_list)
    assert long.study != short.study
    changed = config.load(path, [("seeds", "[7]")], version="full")
    assert changed == msgspec.structs.replace(long, seeds=(7,))


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("[full.study]\nlenght = 3", "full.study.lenght: no such key; did you mean `length`?"),
        ("[full]\nseeds = 0", "full.seeds: expected int >= 1, got 0"),
        ("", "full: missing, there is no such version of this config"),
    ],
)
def test_a_longer_version_that_does_not_fit_is_refused(table, line):
    text = Path("configs/studies/carousel.toml").read_text().split("[full]")[0]
    with pytest.raises(UserError, match=f"^my.toml: {re.escape(line)}"):
        config.loads(f"{text}\n{table}", "my.toml", version="full")
    if table:
        assert config.loads(f"{text}\n{table}") == config.loads(text)


def test_what_is_not_finite_is_missed_and_no_number_of_a_summary(tmp_path):
    lost = Prediction("x", 1.0, [np.nan, 1.0])
    (score,) = findings.write(tmp_path, "c", [lost])
    assert (score.values, score.mean, score.verdict) == ([None, 1.0], None, "missed")
    (table,) = tmp_path.rglob("predictions.json")
    assert json.loads(table.read_text())["rows"][0][2] == "not finite"
