"""Forecasts: the file, the parts, the scaling, what is missing, the baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.config import Forecast
from jaxlstm.errors import UserError
from jaxlstm.tasks import autoregression, build, carriers, forecast, tables

HORIZONS = (1, 3)
LENGTH = 120


@pytest.fixture
def table():
    """Two series of two columns with gaps, and a place for each row."""
    draw = np.random.default_rng(0)
    series = {}
    for place, shift in (("a", 0), ("b", 50)):
        values = shift + np.cumsum(draw.normal(size=(LENGTH, 2)), axis=0)
        values[draw.random((LENGTH, 2)) < 0.1] = np.nan
        series[place] = values
    return series


@pytest.fixture
def task(tmp_path):
    def make(series, **options):
        lines = ["place,x,y"]
        # Rows of the two series come in turns, as in many files.
        for row in range(LENGTH):
            for place, values in series.items():
                fields = ["" if np.isnan(v) else repr(float(v)) for v in values[row]]
                lines.append(",".join([place, *fields]))
        path = tmp_path / "table.csv"
        path.write_text("\n".join(lines) + "\n")
        given = {"target": "y", "group": "place", "horizons": HORIZONS, "window": 8, "order": 2}
        return build(Forecast(path=str(path), **(given | options)))

    return make


def by_hand(series):
    """All forecasts of the three parts, one by one, in the order of series, steps, horizons."""
    cuts = (LENGTH - 24 - 12, LENGTH - 24, LENGTH)
    found = {part: {h: [] for h in HORIZONS} for part in range(3)}
    for place, values in series.items():
        y = values[:, 1]
        for step in range(LENGTH):
            before = [v for v in y[: step + 1] if not np.isnan(v)]
            for h in HORIZONS:
                if step + h >= LENGTH or np.isnan(y[step + h]) or not before:
                    continue
                for part, (begin, end) in enumerate(zip((0, *cuts), cuts, strict=False)):
                    if begin <= step and step + h < end:
                        found[part][h].append((place, step, before[-1], y[step + h]))
    return found


def test_persistence_by_hand(task, table):
    made = task(table)
    maes, nmses = [], []
    for h in HORIZONS:
        known, ahead = np.array([[k, a] for _, _, k, a in by_hand(table)[2][h]]).T
        maes.append(np.abs(known - ahead).mean())
        nmses.append(np.square(known - ahead).mean() / ahead.var())
        assert made.baselines[f"persistence mae_at_{h}"] == pytest.approx(maes[-1])
    assert made.baselines["persistence mae"] == pytest.approx(np.mean(maes))
    assert made.baselines["persistence nmse"] == pytest.approx(np.mean(nmses))
    assert made.goal.below == pytest.approx(
        min(v for k, v in made.baselines.items() if k.endswith(" mae")), rel=1e-3
    )


def test_autoregression_by_hand(task, table):
    made = task(table)
    cases = by_hand(table)
    for h in HORIZONS:
        design, answers = [], []
        for place, step, _, ahead in cases[0][h]:
            lags = table[place][max(step - 1, 0) : step + 1, 1]
            if len(lags) == 2 and not np.isnan(lags).any():
                design.append([*lags[::-1], 1])
                answers.append(ahead)
        design, answers = np.array(design), np.array(answers)
        weights = np.linalg.solve(design.T @ design, design.T @ answers)
        errors = []
        for place, step, known, ahead in cases[2][h]:
            earlier = [v for v in table[place][:step, 1] if not np.isnan(v)]
            errors.append(np.dot([known, earlier[-1], 1], weights) - ahead)
        assert made.baselines[f"AR(2) mae_at_{h}"] == pytest.approx(np.abs(errors).mean())


def test_an_autoregression_finds_its_own_coefficients():
    values = [1.0, 2.0]
    for _ in range(60):
        values.append(1.5 * values[-1] - 0.9 * values[-2] + 0.3)
    asked = forecast.ask(np.array(values), (1,), (40, 40, len(values)))
    found = autoregression.baselines([asked], (1,), 2, np.ones(1))
    assert found["AR(2) mae"] < 1e-9 < found["persistence mae"]
    assert "AR(39) mae" not in autoregression.baselines([asked], (1,), 39, np.ones(1))


def test_the_windows_score_what_the_baselines_are_scored_on(task, table):
    """Persistence, given as the network's outputs, gets the score of the baseline."""
    for predict in ("change", "value"):
        made = task(table, predict=predict)
        test = made.evaluation["test"]
        cases = by_hand(table)[2]
        assert int((np.asarray(test.targets)[..., 1] > 0).sum()) == sum(map(len, cases.values()))
    made = task(table, predict="change")
    changes = {
        h: [a - k for _, _, k, a in by_hand(table)[0][h]] for h in HORIZONS
    }  # what the targets are scaled with
    centre = np.array([np.mean(changes[h]) for h in HORIZONS])
    unit = np.array([np.std(changes[h]) for h in HORIZONS])
    nothing = np.broadcast_to(-centre / unit, (*test.inputs.shape[:2], 2)).astype(np.float32)
    _, metrics = jax.jit(made.loss)(jnp.asarray(nothing), made.evaluation["test"])
    for name, value in metrics.items():
        assert float(value) == pytest.approx(made.baselines[f"persistence {name}"], rel=1e-5)


def test_scaling_knows_the_training_part_alone(task, table):
    made = task(table)
    other = {place: values.copy() for place, values in table.items()}
    for values in other.values():
        values[84:] = 1000 * np.arange(2 * 36).reshape(36, 2)
    changed = task(other)
    jax.tree.map(np.testing.assert_array_equal, made.data, changed.data)
    rows = np.concatenate([values[:84] for values in table.values()])
    expected = (rows - np.nanmean(rows, axis=0)) / np.nanstd(rows, axis=0)
    missing = np.isnan(expected)
    np.testing.assert_allclose(
        made.data.features[:, :2], np.where(missing, 0, expected), 1e-4, 1e-5
    )
    np.testing.assert_array_equal(made.data.features[:, 2:], missing)


def test_what_is_missing_reaches_nothing(task, table):
    made = task(table)
    batch = jax.jit(made.sample, static_argnums=2)(made.data, jax.random.key(0), 50)
    for part in (batch, *made.evaluation.values()):
        assert all(np.isfinite(array).all() for array in (part.inputs, part.targets))
        weight = np.asarray(part.targets)[..., 1]
        assert (weight == 0).any()
        outputs = np.random.default_rng(1).normal(size=weight.shape).astype(np.float32)
        poisoned = np.where(weight > 0, outputs, 1e6)
        differentiate = jax.jit(jax.grad(lambda o, part=part: made.loss(o, part)[0]))
        assert np.all(np.asarray(differentiate(jnp.asarray(poisoned)))[weight == 0] == 0)
        score = jax.jit(lambda o, part=part: made.loss(o, part)[1])
        assert score(jnp.asarray(outputs)) == score(jnp.asarray(poisoned))


def test_weights_have_the_mean_1(task, table):
    made = task(table)
    for part in made.evaluation.values():
        np.testing.assert_allclose(np.asarray(part.targets)[..., 1].mean((0, 1)), 1, rtol=1e-5)
    weights = np.asarray(made.data.targets)[..., 1]
    whole = np.stack([weights[s : s + 8] for s in np.asarray(made.data.starts)])
    whole[:, :4] = 0  # the first half warms up
    np.testing.assert_allclose(whole.mean((0, 1)), 1, rtol=1e-5)
    batch = made.sample(made.data, jax.random.key(0), 9)
    assert np.all(np.asarray(batch.targets)[:, :4, :, 1] == 0)
    assert np.any(np.asarray(batch.targets)[:, 4:, :, 1] > 0)


def test_no_window_holds_two_series(task, table):
    assert len(task(table).data.starts) == 2 * (84 - 7)
    made = task({"a": np.zeros((LENGTH, 2)) + np.arange(LENGTH)[:, None] % 5, "b": table["b"]})
    tall = np.asarray(made.data.features[:, 0])
    first = set(tall[:84].tolist())
    batch = made.sample(made.data, jax.random.key(3), 500)
    for part in (batch, *made.evaluation.values()):
        for window in np.asarray(part.inputs):
            valid = window[window[:, 2] == 0, 0].tolist()
            inside = [value in first for value in valid]
            assert all(inside) or not any(inside)


def test_a_series_alone_is_what_it_is_beside_others(task, table):
    made = task({"a": table["a"], "b": table["a"]})
    alone = task(table, groups=("a",))
    assert alone.baselines == pytest.approx(made.baselines)
    np.testing.assert_array_equal(alone.data.features, made.data.features[:84])


def test_times_make_a_grid(tmp_path):
    hours = [0, 1, 2, 4, 5, 9, *range(10, 60)]
    lines = [f"2013-01-{1 + h // 24:02d}T{h % 24:02d}:00:00Z;{h * h}" for h in hours]
    path = tmp_path / "t.csv"
    path.write_text("﻿when;v\n" + "\n".join(lines))
    table = tables.parse(tables.read(str(path)), "t", time="when")
    expected = np.array([h * h if h in hours else np.nan for h in range(60)])
    np.testing.assert_array_equal(table.series[0].values[:, 0], expected)
    options = {"target": "v", "time": "when", "window": 4, "order": 1, "test_from": "2013-01-03"}
    task = build(Forecast(path=str(path), **options))
    assert task.baselines["persistence mae"] == pytest.approx(
        np.mean([(h + 1) ** 2 - h**2 for h in range(48, 59)])
    )
    rows = build(Forecast(path=str(path), target="v", columns=("v",), window=4, test_from=45))
    assert rows.baselines["persistence mae"] == pytest.approx(
        np.mean([(h + 1) ** 2 - h**2 for h in hours[45:-1]])
    )


MONTHS = "x,y\n" + "".join(f"2013-{m:02}-01,{m}\n" for m in range(1, 13))
PLAIN = "x,y\n" + "".join(f"{t},{t % 3}\n" for t in range(40))


@pytest.mark.parametrize(
    ("content", "options", "wanted"),
    [
        ("", {}, "expected a line of names and lines of numbers, got none"),
        ("\n \n", {}, "expected a line of names and lines of numbers, got none"),
        ("x,y\n", {}, "expected lines of numbers after the first line"),
        (PLAIN, {"target": "z"}, "task.target: expected one of x, y, got 'z'"),
        (PLAIN, {"columns": ("x", "w")}, "task.columns: expected a column of"),
        (PLAIN, {"time": "when"}, "task.time: expected a column of"),
        (PLAIN, {"group": "who"}, "task.group: expected a column of"),
        (PLAIN, {"groups": ("a",)}, "task.groups: expected none without task.group"),
        (PLAIN, {"group": "x", "groups": ("a",)}, "task.groups: expected values of the column 'x'"),
        (PLAIN + "1,2,3\n", {}, "line 42: expected 2 fields, as the first line has, got 3"),
        (PLAIN + "1\n", {}, "line 42: expected 2 fields, as the first line has, got 1"),
        (PLAIN + "1,two\n", {}, "line 42: expected a number up to 1e+18 in column 'y'"),
        (PLAIN + "1,inf\n", {}, "line 42: expected a number up to 1e+18 in column 'y'"),
        (PLAIN + "1,1e30\n", {}, "line 42: expected a number up to 1e+18 in column 'y'"),
        (PLAIN, {"test": 0.95}, "task.test: expected less than 1 together with validation = 0.1"),
        (PLAIN, {"validation": 0.9}, "together with validation = 0.9, got 0.2"),
        (PLAIN, {"test_from": 0}, "task.test_from: expected a place between the first and the"),
        (PLAIN, {"test_from": 400}, "task.test_from: expected a place between the first and the"),
        ("x,x\n1,2\n", {}, "line 1: expected different names, got 'x' twice"),
        (PLAIN, {"window": 60}, "task.window: 60 steps do not fit into the training part"),
        (PLAIN, {"horizons": (1, 9)}, "task.horizons: the test part holds 0 forecasts of 'y' 9"),
        ("x,y\n1,2\n", {}, "task.window: 4 steps do not fit"),
        ("y\n" + "1\n" * 40, {}, "task.target: 'y' never changes in the test part"),
        ("y,e\n" + "1,\n2,\n" * 20, {}, "task.columns: 'e' has no value in the training part"),
        ("y\n" + "NA\n" * 40, {}, "holds 0 forecasts"),
        (PLAIN + "30,1\n", {"time": "x"}, "line 42: expected times that grow"),
        (PLAIN + "40.5,1\n", {"time": "x"}, "task.time: expected times on a grid of 1"),
        (PLAIN + "9999999,1\n", {"time": "x"}, "task.time: expected times on a grid of 1"),
        (PLAIN + "40.5,1\n", {"time": "x"}, "got one of 1.5 at line 42 (seconds where"),
        (PLAIN + "9999999,1\n", {"time": "x"}, "got one of 9999960 at line 42 (seconds"),
        (MONTHS, {"time": "x"}, "expected times on a grid of 2678400, the most frequent"),
        (MONTHS, {"time": "x"}, "at line 4 (seconds where times are dates, so months and years"),
        (PLAIN.replace(",", "|"), {}, "line 2: expected numbers in the one column 'x|y', or"),
        (PLAIN.replace(",", " "), {"time": "x"}, "columns with ',', ';' or tabs between them"),
        ("x|y\n0,5|1\n", {"columns": ("y",)}, "or tabs between them, got '0,5|1'"),
        ("y\n\n1 2\n", {}, "line 3: expected numbers in the one column 'y', or columns with"),
        ("y\n\nmany\n", {}, "line 3: expected a number up to 1e+18 in column 'y'"),
        ("y\n1\nmany\n", {}, "line 3: expected a number up to 1e+18 in column 'y'"),
        (PLAIN + "noon,1\n", {"time": "x"}, "line 42: expected a number or a date and time"),
        (PLAIN, {"test_from": "noon"}, "task.test_from: expected a row number, got 'noon'"),
        (PLAIN, {"test_from": 20, "validation_from": 30}, "task.validation_from: expected a place"),
        (b"x,y\n1,\xff\n", {}, "task.path: expected UTF-8 text, got byte 0xff at offset 6"),
        (None, {}, "task.path: cannot read"),
    ],
)
def test_faults_of_a_file_are_one_line(tmp_path, content, options, wanted):
    path = tmp_path / "mine.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = {"target": "y", "window": 4} | options
    with pytest.raises(UserError) as caught:
        build(Forecast(path=str(path), **options))
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def carried(**options):
    try:
        return build(Forecast(**options))
    except UserError as error:
        if "cannot download" not in str(error):
            raise
        pytest.skip(f"{options['source']} cannot be fetched here: {error}")


def test_the_laser_of_santa_fe():
    task = carried(source="laser")
    assert set(task.evaluation) == {"test"}
    assert task.data.features.shape == (5000, 2)
    assert task.baselines["persistence nmse"] == pytest.approx(0.9274, abs=5e-4)
    assert task.baselines["AR(20) nmse"] == pytest.approx(0.191, abs=5e-4)


def test_the_weather_of_new_york():
    """Seen before this task was written, on the rows of the last fifth: 1.15 and 6.52 °F."""
    task = carried(source="weather", groups=("JFK",), time="")
    assert task.baselines["persistence mae_at_1"] == pytest.approx(1.15, abs=0.006)
    assert task.baselines["persistence mae_at_24"] == pytest.approx(6.52, abs=0.006)


def test_a_path_gives_what_the_carrier_gives(tmp_path):
    task = carried(source="weather", groups=("JFK",))  # on the grid of hours
    (content,) = carriers.read(carriers.WEATHER, lambda name: name.endswith("weather.csv")).values()
    (tmp_path / "mine.csv").write_bytes(content)
    mine = build(Forecast(source="weather", groups=("JFK",), path=str(tmp_path / "mine.csv")))
    jax.tree.map(np.testing.assert_array_equal, task.data, mine.data)
    assert task.evaluation["test"].inputs.shape[1:] == (96, 20)
    assert all(np.isfinite(task.data.features).ravel())
    assert 0.7 < np.asarray(task.data.features[:, 10 + 6]).mean() < 0.9  # gusts are mostly missing


@pytest.mark.parametrize("value", [0.1, 0.7, 21.3])
def test_a_column_that_is_constant_in_training_is_not_blown_up(tmp_path, value):
    """The deviation of 0.1, 700 times, is 3e-17 and not 0."""
    steps = np.arange(1000)
    other = np.where(steps < 850, value, value + 0.1)
    lines = [f"{np.sin(t / 5)},{c}" for t, c in zip(steps, other, strict=True)]
    path = tmp_path / "constant.csv"
    path.write_text("y,c\n" + "\n".join(lines))
    task = build(Forecast(path=str(path), target="y", window=16))
    scaled = np.asarray(task.evaluation["test"].inputs)[..., 1]
    np.testing.assert_allclose(scaled.max(), 0.1, rtol=1e-4)
    path.write_text("y\n" + "\n".join(f"{np.sin(t)}" for t in range(500)) + f"\n{value}" * 58)
    with pytest.raises(UserError, match="never changes in the test part"):
        build(Forecast(path=str(path), target="y", window=16, validation=0.0, test_from=500))


def test_numbers_are_written_without_underscores_and_names_may_hold_a_comma(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('"a, b";c\n' + "\n".join(f"{t};{t % 3}" for t in range(60)))
    assert build(Forecast(path=str(path), target="a, b", window=4)).input_size == 4
    path.write_text("day,a\n" + "\n".join(f"2013-01-{t % 28 + 1:02},{t}" for t in range(60)))
    with pytest.raises(UserError, match=r"got '2013-01-01'; task.time names a column of dates, or"):
        build(Forecast(path=str(path), target="a", window=4))
    path.write_text("a\n" + "\n".join(["1_000"] * 60))
    with pytest.raises(UserError, match=r"expected a number up to .*, got '1_000'"):
        build(Forecast(path=str(path), target="a", window=4))


@pytest.mark.parametrize("lineend", ["\n", "\r\n"])
def test_a_row_with_nothing_in_it_is_a_step_unless_the_file_ends(lineend):
    wide = lineend.join(["a,b", "1,2", ",", "3,4", ",", ""])
    found = tables.parse(wide, "wide.csv").series[0].values
    np.testing.assert_array_equal(found, [[1, 2], [np.nan, np.nan], [3, 4]])
    blank = lineend.join(["a,b", "1,2", "", "3,4", "", ""])
    np.testing.assert_array_equal(
        tables.parse(blank, "blank.csv").series[0].values, [[1, 2], [3, 4]]
    )
    for gap in ("", '""', "NA"):
        alone = lineend.join(["a", "1", gap, "3", "", ""])
        found = tables.parse(alone, "alone.csv").series[0].values
        np.testing.assert_array_equal(found, [[1], [np.nan], [3]])
    timed = lineend.join(["t,a", "0,1", ",", "1,3"])
    assert len(tables.parse(timed, "timed.csv", time="t").series[0].values) == 2


def test_days_without_hyphens_are_days():
    days = ["20240130", "20240131", "20240201", "20240203"]
    text = "t,a\n" + "".join(f"{day},{k}\n" for k, day in enumerate(days))
    found = tables.parse(text, "days.csv", time="t").series[0].values.ravel()
    np.testing.assert_array_equal(found, [0, 1, 2, np.nan, 3])
    assert tables.parse_time("20241345") == 20241345  # no month has that number
    assert tables.parse_time("17000101") == 17000101


def test_a_group_that_is_not_there_is_told_those_that_are():
    with pytest.raises(UserError) as caught:
        tables.parse("g,a\nx,1\ny,2\n", "some.csv", group="g", groups=["x", "q"])
    said = "task.groups: expected values of the column 'g' (x, y), got 'q'"
    assert str(caught.value) == said


@pytest.mark.parametrize("steps", [4, 5, 7, 8])
def test_a_series_shorter_than_a_horizon_asks_for_nothing_there(steps):
    asked = forecast.ask(np.arange(float(steps)), (1, 8), (steps, steps, steps))
    assert np.isnan(asked.ahead[:, 1]).all()
    np.testing.assert_array_equal(asked.ahead[:-1, 0], np.arange(1.0, steps))
