"""The report, read back from what it wrote: pages and drawings are parsed."""

import ast
import base64
import html
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import PIL.Image
import pytest
import report_folders
from hypothesis import given
from hypothesis import strategies as st

from jaxlstm import report, runs
from jaxlstm.errors import UserError
from jaxlstm.report import axes, curves, draw, figures, lines
from jaxlstm.report.style import DARK, LIGHT, look

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Every element's tag and attributes, and all text that a reader sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def panels(self, name: str) -> list[ElementTree.Element]:
        figure = self.source.split(f'<figure id="{name}">')[1].split("</figure>")[0]
        found = re.findall(r'<div class="panel">(<svg.*?</svg>)</div>', figure, re.DOTALL)
        return [ElementTree.fromstring(svg) for svg in found]

    def legend(self, name: str) -> list[str]:
        figure = self.source.split(f'<figure id="{name}">')[1].split("</figure>")[0]
        return [html.unescape(t) for t in re.findall(r"</svg><span>(.*?)</span></li>", figure)]


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Path:
    folder = report_folders.training(tmp_path_factory.mktemp("runs") / "training", steps=1200)
    report.write(folder)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = report_folders.study(tmp_path_factory.mktemp("runs") / "study")
    report.write(folder)
    return folder


@pytest.fixture
def bare(tmp_path) -> Path:
    """The smallest run: a manifest and nothing else."""
    (tmp_path / "bare").mkdir()
    report_folders.manifest(tmp_path / "bare", kind="study", name="bare", question="")
    return tmp_path / "bare"


def add_figure(folder: Path, name: str, **fields) -> None:
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / f"{name}.json").write_text(json.dumps({"kind": "lines"} | fields))


def one_panel(x, y, *, scale="linear", **more) -> dict:
    series = {"label": "line", "role": "measured", "x": list(x), "y": list(y)} | more
    return {"x": {"label": "x"}, "y": {"label": "y", "scale": scale}, "series": [series]}


def series_groups(svg: ElementTree.Element) -> list[ElementTree.Element]:
    return [group for group in svg.iter("g") if "data-name" in group.attrib]


def vertices(group: ElementTree.Element) -> list[np.ndarray]:
    """The pieces of a drawn line, `[N, 2]` each: a gap starts a new piece."""
    d = next(path.get("d") for path in group if path.tag == "path")
    pieces = [re.findall(r"-?[\d.]+", piece) for piece in d.split("M")[1:]]
    return [np.array(piece, float).reshape(-1, 2) for piece in pieces]


# -- the page


@pytest.mark.parametrize("name", ["training", "study"])
def test_same_folder_same_bytes_wherever_it_lies(name, request, tmp_path, monkeypatch):
    folder = request.getfixturevalue(name)
    moved = tmp_path / "moved elsewhere"
    shutil.copytree(folder, moved)
    for made in (*moved.glob("*.html"), *moved.glob("figures/*.svg")):
        made.unlink()
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(matplotlib.rcParams, "xtick.direction", "in")
    before = dict(matplotlib.rcParams)
    path = report.write(moved)
    assert dict(matplotlib.rcParams) == before
    assert path == moved / "report.html"
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(moved) for p in moved.rglob("*") if p.is_file())
    assert {p.suffix for p in files} >= {".html", ".svg", ".json", ".toml"}
    for file in files:
        assert (folder / file).read_bytes() == (moved / file).read_bytes(), file
    assert str(folder.parent) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["training", "study"])
def test_page_needs_nothing_but_itself(name, request):
    page = Page(request.getfixturevalue(name) / "report.html")
    assert not page.open, "an element is not closed"
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "img", "object"}
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for key, value in attrs.items():
            if key in ("src", "href", "xlink:href", "srcset", "action"):
                assert value[0] == "#" or value.startswith("data:image/png;base64"), (key, value)
                assert value[0] != "#" or value[1:] in ids
            for target in re.findall(r"url\((.*?)\)", value or ""):
                assert target[1:] in ids, target
    style = page.source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


@pytest.mark.parametrize("name", ["training", "study"])
def test_users_words_are_escaped(name, request):
    page = Page(request.getfixturevalue(name) / "report.html")
    assert report_folders.HOSTILE not in page.source
    assert report_folders.HOSTILE in page.text


def test_names_labels_and_titles_are_escaped(bare):
    hostile = report_folders.HOSTILE
    report_folders.manifest(bare, kind="study", name=hostile, question=hostile, device=hostile)
    panel = one_panel([1, 2], [1, 2], label=hostile) | {"title": hostile}
    panel["x"]["label"] = panel["y"]["label"] = hostile
    add_figure(bare, "a", title=hostile, caption=hostile, panels=[panel])
    page = Page(report.write(bare))
    assert "<script" not in page.source
    assert page.text.count(hostile) >= 10
    whole = ElementTree.parse(bare / "figures" / "a.svg")
    assert hostile in "".join(whole.getroot().itertext()).replace("\n", "")


def test_training_page_says_what_the_manifest_says(training):
    text = Page(training / "report.html").text
    for expected in (
        "How many bits does a three-layer character LSTM need",
        "validation bits per character 2.266 interval 2.234 to 2.298",
        "seeds 2.24, 2.27, 2.31, 2.22, 2.29",
        "met expected < 2.7",
        "missed expected > 0.6",
        "81,234",
        "reported",
        "1 of 2 expectations met",
        "287,041 parameters",
        "0123456789ab-dirty",
        "jaxlstm run configs/shakespeare.toml --seeds 5",
        "2026-01-31 12:34 UTC",
        "3 min 7 s",
        "jaxlib 0.10.2",
        "Linux x86_64, 2 cores",
        "forget_bias = 1.0",
        "What light the morning of the sea is come,",
        "step 4,000, seed 0, temperature 0.5",
        "step 1,000, seed 0, temperature 0.8",
    ):
        assert expected in text, expected
    assert text.index("step 4,000") < text.index("Earlier samples") < text.index("step 1,000")


def test_study_page_has_every_cell_of_its_table(study):
    page = Page(study / "report.html")
    table = json.loads((study / "tables" / "theory.json").read_text())
    cells = re.findall(r"<td.*?>(.*?)</td>", page.source)
    assert len(cells) == sum(len(row) for row in table["rows"])
    assert [re.sub("<.*?>", "", cell) for cell in cells[:8]] == [
        *("slope of ln‖∂L/∂h_t‖", "RNN, g = 0.9"),
        *("−0.1054", "−0.1049", "−0.11", "−0.0998"),
        *("", "met"),
    ]
    assert "7.889×10⁻³¹" in page.text
    assert page.source.count('class="badge missed"') == 1 + 2  # in the table, and on cards


def test_many_scores_are_counted_and_the_missed_are_named(bare):
    scores = [
        {"metric": f"metric_{i}", "values": [i], "mean": float(i), "low": None, "high": None}
        | {"expected": "> 1.5", "verdict": "met" if i > 1 else "missed"}
        for i in range(9)
    ]
    report_folders.manifest(bare, kind="training", name="many", question="", summary=scores)
    text = Page(report.write(bare)).text
    assert "7 of 9 expectations met. Missed: metric 0: 0, expected > 1.5 metric 1: 1" in text
    assert "metric mean low high expected verdict metric 0 0 – – > 1.5 missed" in text


def test_failed_and_running_runs_say_so(bare):
    fields = {"kind": "training", "name": "n", "question": ""}
    report_folders.manifest(bare, state="failed", reason="the loss was not finite", **fields)
    assert "not whole (failed: the loss was not finite)" in Page(report.write(bare)).text
    report_folders.manifest(bare, state="running", seconds=0.0, **fields)
    text = Page(report.write(bare)).text
    assert "had not ended" in text
    assert "took" not in text  # it is not known yet


def test_a_manifest_alone_makes_a_page(bare):
    page = Page(report.write(bare))
    assert "bare" in page.text
    assert not {"table", "figure", "pre"} & {tag for tag, _ in page.elements}
    assert not (bare / "figures").exists()


# -- figures in the page


@pytest.mark.parametrize("name", ["training", "study"])
def test_every_series_label_and_axis_is_drawn(name, request):
    folder = request.getfixturevalue(name)
    page = Page(folder / "report.html")
    paths = sorted(folder.glob("figures/*.json"))
    assert len(paths) == 3
    for path in paths:
        figure = json.loads(path.read_text())
        panels = page.panels(path.stem)
        assert len(panels) == len(figure["panels"])
        whole = "".join(ElementTree.parse(path.with_suffix(".svg")).getroot().itertext())
        assert figure["title"] in page.text
        assert figure.get("caption", "") in page.text
        labels = {}
        for panel, svg in zip(figure["panels"], panels, strict=True):
            drawn = [group.get("data-name") for group in series_groups(svg)]
            assert sorted(drawn) == sorted(series["label"] for series in panel.get("series", []))
            texts = ["".join(text.itertext()) for text in svg.iter("text")]
            for label in (panel["x"]["label"], panel["y"]["label"], panel.get("title", "")):
                assert not label or label in texts
                assert label in whole
            labels |= dict.fromkeys(drawn)
        assert sorted(page.legend(path.stem)) == sorted(labels)
        for label in labels:
            assert label in whole.replace("\n", " ") or len(label) > 60


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_points_lie_where_the_numbers_say(bare, scale):
    rng = np.random.default_rng(3)
    x = np.cumsum(rng.uniform(0.1, 2, 50))
    y = 10 ** rng.uniform(-8, 3, 50)
    gappy = [None if i in (7, 20, 21) else float(v) for i, v in enumerate(y)]
    add_figure(bare, "a", panels=[one_panel(x.tolist(), gappy, scale=scale)])
    (svg,) = Page(report.write(bare)).panels("a")
    (group,) = series_groups(svg)
    pieces = vertices(group)
    assert [len(piece) for piece in pieces] == [7, 12, 28]
    points = np.concatenate(pieces)
    real = [i for i in range(50) if gappy[i] is not None]
    heights = np.log10(y[real]) if scale == "log" else y[real]
    for drawn, value in ((points[:, 0], x[real]), (points[:, 1], heights)):
        slope, offset = np.polyfit(value, drawn, 1)
        np.testing.assert_allclose(slope * value + offset, drawn, atol=0.02)
    assert points[np.argmax(y[real]), 1] == points[:, 1].min()  # up is more


def test_long_lines_are_thinned_in_the_drawing_only(bare):
    y = np.zeros(20_000)
    y[12_345] = 7.0
    add_figure(bare, "a", panels=[one_panel(range(20_000), y.tolist())])
    (svg,) = Page(report.write(bare)).panels("a")
    points = np.concatenate(vertices(series_groups(svg)[0]))
    assert 100 < len(points) <= lines.MOST_POINTS
    assert (points[:, 1] < points[:, 1].max() - 50).sum() == 1
    assert (
        len(json.loads((bare / "figures" / "a.json").read_text())["panels"][0]["series"][0]["y"])
        == 20_000
    )


@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=400),
    st.integers(5, 60),
)
def test_thinning_keeps_ends_extremes_and_gaps(values, limit):
    line = np.array(values)
    kept = lines.thin(line, limit)
    assert len(kept) <= limit
    assert kept[0] == 0
    assert kept[-1] == len(line) - 1
    assert np.all(np.diff(kept) > 0)
    if np.isfinite(line).any():
        assert np.nanmax(line[kept]) == np.nanmax(line)
        assert np.nanmin(line[kept]) == np.nanmin(line)
    assert np.isnan(line[kept]).any() == np.isnan(line).any()


def test_colours_follow_the_page(study):
    page = Page(study / "report.html")
    drawn = page.source.split("</style>")[1]
    for name, colour in LIGHT.items():
        assert colour not in drawn.lower(), name
        assert f"--{name}: {colour}" in page.source
        assert f"--{name}: {DARK[name]}" in page.source
    assert "var(--series-0)" in drawn
    assert "font-family" not in drawn


def test_series_differ_in_grey_too():
    looks = [look("measured", i) for i in range(24)]
    assert len({(str(each.dash), each.marker) for each in looks}) == 24
    assert len({(each.colour, str(each.dash)) for each in looks}) == 24
    assert look("theory", 0).dash != "solid"
    assert look("reference", 0).dash != "solid"


def test_panels_of_the_same_measure_share_their_range(study):
    panels = Page(study / "report.html").panels("1-flow")
    ticks = [
        [t for t in ("".join(e.itertext()) for e in svg.iter("text")) if "10" in t]
        for svg in panels
    ]
    assert len(ticks[0]) > 3
    assert ticks[0] == ticks[1] == ticks[2]


@pytest.mark.parametrize("steps", [[1], [0, 1], [7, 8, 9]])
def test_steps_have_whole_ticks(steps):
    """Of a training of one step the ticks were .95 and 1.05."""
    line = figures.Series("m", steps, [0.5] * len(steps))
    figure = figures.Lines([figures.Panel(figures.Axis("updates"), figures.Axis("loss"), [line])])
    drawn = ElementTree.fromstring(draw.panel(figure, 0, "salt"))
    side = next(e for e in drawn.iter() if e.get("id") == "matplotlib.axis_1")
    ticks = ["".join(e.itertext()) for e in side.iter() if e.tag.endswith("text")]
    assert set(map(str, steps)) <= {tick.strip() for tick in ticks}
    assert not any("." in tick for tick in ticks)


def test_theory_cannot_press_the_measurements_flat():
    axis = figures.Axis("y", "log")
    measured = figures.Series("m", [1, 2], [1e-4, 1.0])
    theory = figures.Series("t", [1, 2], [1e-300, 1.0], role="theory")
    baseline = figures.Series("b", [1, 2], [1e-20, 1.0], role="reference")
    low, high = axes.upright([measured, theory], axis)
    assert 1e-9 < low < 1e-7
    assert 1.0 < high < 10.0
    assert axes.upright([measured, baseline], axis)[0] < 1e-20
    assert axes.upright([theory], axis)[0] < 1e-299


def test_heatmap_shows_every_cell(study):
    small, large = Page(study / "report.html").panels("3-map")
    texts = {"".join(text.itertext()) for text in small.iter("text")}
    data = json.loads((study / "figures" / "3-map.json").read_text())["panels"]
    for row in data[0]["z"]["values"]:
        for value in row:
            assert f"{value:.3g}".replace("-", "−") if value is not None else "–" in texts
    for svg, panel in ((small, data[0]), (large, data[1])):
        pictures = [
            PIL.Image.open(io.BytesIO(base64.b64decode(image.get("href").partition(",")[2])))
            for image in svg.iter("image")
        ]
        shape = (len(panel["x"]["values"]), len(panel["y"]["values"]))
        assert shape in [picture.size for picture in pictures]
        picture = next(p for p in pictures if p.size == shape)
        grid = np.array(panel["z"]["values"], float)
        alpha = np.array(picture.convert("RGBA"))[..., 3]
        assert (alpha == 0).sum() == np.isnan(grid).sum()
        assert len(np.unique(np.array(picture).reshape(-1, 4), axis=0)) > 10
    # The last row is the topmost: its first number stands above the first row's, and so do pixels.
    height = {"".join(text.itertext()): float(text.get("y")) for text in small.iter("text")}
    assert height["−0.9"] < height["−0.8"] < height["−0.71"] < height["−0.693"]
    image = next(image for image in small.iter("image") if image.get("width") == "6")
    pixels = np.array(PIL.Image.open(io.BytesIO(base64.b64decode(image.get("href")[22:]))))
    flipped = float(re.findall(r"-?[\d.]+", image.get("transform"))[3]) < 0
    top_left = pixels[-1 if flipped else 0, 0]
    assert tuple(top_left[:3]) == (68, 1, 84)  # the darkest of viridis: −0.9 is the least


@pytest.mark.parametrize(
    "panel",
    [
        one_panel([], []),
        one_panel([1.0], [2.0]),
        one_panel([1, 2, 3], [None, None, None]),
        one_panel([1, 2, 3], [5.0, 5.0, 5.0]),
        one_panel([1, 2, 3], [0.0, -1.0, 0.0], scale="log"),
        one_panel([1, 2, 3], [1e-300, 1.0, 1e300], scale="log"),
        one_panel([1, 2, 3], [1e-300, 1.0, 1e300]),
        one_panel([1, None, 3], [1.0, 2.0, 3.0]),
        one_panel([3, 1, 2], [1.0, 2.0, 3.0]),
        one_panel([1, 2], [1.0, 2.0], scale="log", low=[0.0, -1.0], high=[2.0, None]),
        one_panel([1, 2], [1.0, 2.0], label="_hidden $x^2$ 時間"),
        one_panel([1, 2], [1.0, 2.0]) | {"title": "a title without end " * 20},
        {"x": {"label": ""}, "y": {"label": ""}, "series": []},
    ],
    ids=str,
)
def test_strange_panels_are_drawn(panel):
    data = json.dumps({"kind": "lines", "title": "t", "panels": [panel] * 2})
    figure = figures.msgspec.json.decode(data, type=figures.Figure)
    for document in (draw.whole(figure, "a"), draw.panel(figure, 0, "a")):
        root = ElementTree.fromstring(document)
        for path in root.iter("{http://www.w3.org/2000/svg}path"):
            assert not re.search("nan|inf", path.get("d", ""))
    if panel["series"] and panel["series"][0]["label"] != "line":
        assert "_hidden $x^2$ 時間" in draw.whole(figure, "a")


def test_a_lone_point_between_gaps_gets_a_marker(bare):
    y = [1.0] * 40
    y[20] = y[22] = None
    panel = one_panel(range(40), y)
    panel["series"].append({"label": "b", "x": [0, 39], "y": [0, 2]})
    add_figure(bare, "a", panels=[panel])
    (svg,) = Page(report.write(bare)).panels("a")
    group = series_groups(svg)[0]
    path = np.concatenate(vertices(group))
    left, right = path[:, 0].min(), path[:, 0].max()
    marks = [float(use.get("x")) for use in group.iter("use")]
    assert any(abs(mark - (left + (right - left) * 21 / 39)) < 0.05 for mark in marks)


# -- curves of a training


def rows(folder: Path, metric: str, split: str) -> tuple[list[int], np.ndarray]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [r for r in records if r["split"] == split and metric in r["metrics"]]
    return [r["step"] for r in kept], np.array([r["metrics"][metric] for r in kept], float)


def test_curves_are_numpys_mean_and_range_over_the_finite_seeds(training):
    figure = json.loads((training / "figures" / "scores.json").read_text())
    panels = {panel["y"]["label"]: panel for panel in figure["panels"]}
    assert list(panels) == ["loss", "accuracy", "bits per character"]
    for metric in ("loss", "bits_per_character"):
        series = panels[metric.replace("_", " ")]["series"]
        assert [s["label"] for s in series][:2] == ["train", "validation"]
        for each in series[:2]:
            steps, values = rows(training, metric, each["label"])
            assert np.isnan(values).any()
            assert each["x"] == steps
            np.testing.assert_allclose(each["y"], np.nanmean(values, axis=1), rtol=1e-12)
            np.testing.assert_array_equal(each["low"], np.nanmin(values, axis=1))
            np.testing.assert_array_equal(each["high"], np.nanmax(values, axis=1))
            np.testing.assert_array_equal(np.array(each["seeds"], float), values.T)
    assert "From step 960 on, 1 of 5 seeds are not always finite" in figure["caption"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([None, 1.0], "1 of 2 seeds are not always finite; the mean is over the others."),
        ([None, None], "2 of 2 seeds are not always finite."),
        ([None], "values are not always finite."),
    ],
)
def test_where_no_seed_is_finite_there_are_no_others(values, words):
    records = [curves.Record(4, "train", {"loss": values})]
    assert curves.figures(records, {})["scores"].caption.endswith(f"From step 4 on, {words}")


def test_baselines_stand_in_the_panel_of_their_metric(training):
    figure = json.loads((training / "figures" / "scores.json").read_text())
    found = {
        panel["y"]["label"]: [(s["label"], s["y"]) for s in panel["series"] if s.get("role")]
        for panel in figure["panels"]
    }
    assert found == {
        "loss": [],
        "accuracy": [],
        "bits per character": [
            ("unigram (4.79)", [4.79, 4.79]),
            ("bigram (3.59)", [3.59, 3.59]),
        ],
    }


def test_a_predictor_has_one_look_in_all_panels():
    metrics = {"mae": [1.0], "mse": [2.0], "nmse": [0.5]}
    records = [curves.Record(step=40, split="validation", metrics=metrics)]
    baselines = {"persistence mae": 3.0, "persistence mse": 4.0, "AR(2) mae": 0.5}
    figure = curves.figures(records, baselines)["scores"]
    found = {panel.y.label: panel.series[1:] for panel in figure.panels}
    assert [s.label for s in found["mae"]] == ["persistence", "AR(2) (0.5)"]
    assert [s.label for s in found["mse"]] == ["persistence"]
    assert found["mse"][0].x == [0, 40]


def test_leaves_share_a_log_panel(training):
    figure = json.loads((training / "figures" / "norms_by_leaf.json").read_text())
    (panel,) = figure["panels"]
    assert panel["y"] == {"label": "gradient norm", "scale": "log"}
    assert {s["label"] for s in panel["series"]} == set(report_folders.LEAVES)
    for series in panel["series"]:
        _, values = rows(training, f"gradient_norm.{series['label']}", "train")
        np.testing.assert_allclose(series["y"], values.mean(axis=1), rtol=1e-12)


def test_band_gaps_only_where_no_seed_is_left():
    values = np.array([[1.0, math.nan], [math.nan, math.inf], [3.0, 5.0]])
    mean, low, high = curves.band(values)
    np.testing.assert_array_equal(mean, [1.0, math.nan, 4.0])
    np.testing.assert_array_equal(low, [1.0, math.nan, 3.0])
    np.testing.assert_array_equal(high, [1.0, math.nan, 5.0])


def test_one_seed_has_no_band_and_many_have_no_threads():
    def curve(seeds: int) -> figures.Series:
        records = [
            curves.Record(step, "train", {"loss": [float(step + s) for s in range(seeds)]})
            for step in range(3)
        ]
        figure = curves.figures(records, {})["scores"]
        assert ("band" in figure.caption) == (seeds > 1)
        return figure.panels[0].series[0]

    assert curve(1) == figures.Series("train", [0, 1, 2], [0.0, 1.0, 2.0])
    assert len(curve(5).seeds) == 5
    assert curve(6).seeds == []
    assert curve(6).high == [5.0, 6.0, 7.0]


def test_of_a_step_written_twice_the_later_record_holds():
    records = [
        curves.Record(2, "train", {"loss": [1.0]}),
        curves.Record(4, "train", {"loss": [9.0]}),
        curves.Record(4, "train", {"loss": [3.0]}),
        curves.Record(3, "train", {"loss": [2.0]}),
    ]
    (series,) = curves.figures(records, {})["scores"].panels[0].series
    assert (series.x, series.y) == ([2, 3, 4], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("name", "values", "scale"),
    [
        ("loss", [2.0, 1.5, 1.2], "linear"),
        ("mse", [0.2, 0.02, 0.001], "log"),
        ("mse", [0.2, 0.02, 0.0], "linear"),
        ("accuracy", [0.01, 0.5, 1.0], "linear"),
    ],
)
def test_scale_of_a_metric(name, values, scale):
    records = [curves.Record(i, "train", {name: [v]}) for i, v in enumerate(values)]
    assert curves.figures(records, {})["scores"].panels[0].y.scale == scale


# -- folders that are not as they should be


def test_a_line_cut_short_is_not_read(training, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(training, copy)
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (copy / name).open("a") as file:
            file.write('{"step": 99999, "split": "tra')
    report.write(copy)
    for name in ("report.html", "figures/scores.svg", "figures/scores.json"):
        assert (copy / name).read_bytes() == (training / name).read_bytes()


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        report.write(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_no_run_is_refused(bare, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no run folder" in refused(tmp_path / "empty")
    assert "no run folder" in refused(tmp_path / "nowhere")
    later = runs.FORMAT_VERSION + 1
    report_folders.manifest(bare, kind="study", name="n", question="", format_version=later)
    assert f"format version {later}" in refused(bare)
    assert not (bare / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("figures/a.json", '{"kind": "pie"}', "figures/a.json is no figure"),
        ("figures/a.json", '{"kind": "lines", "panels": [{}]}', "`$.panels[0]`"),
        (
            "figures/a.json",
            json.dumps({"kind": "lines", "panels": [one_panel([1, 2], [1])]}),
            "series 'line' has 1 `y` for 2 `x`",
        ),
        (
            "figures/a.json",
            json.dumps({"kind": "lines", "panels": [one_panel([1], [1], low=[1])]}),
            "one of `low` and `high`",
        ),
        (
            "figures/a.json",
            '{"kind":"heatmap","panels":[{"x":{"label":"","values":[1]},"y":{"label":"","values":'
            '[1]},"z":{"label":"","values":[[1,2]]}}]}',
            "(1, 2), not (1, 1)",
        ),
        ("tables/t.json", "[]", "tables/t.json is no table"),
        ("tables/t.json", '{"title":"t","columns":["a"],"rows":[[1,2]]}', "row 0 has 2 cells"),
        ("metrics.jsonl", '{"step": 1}\n{"step": 2}\n', "metrics.jsonl"),
        ("metrics.jsonl", '{"step"\n{"step": 2}\n', "line 1"),
        ("samples.jsonl", '{"step": "one", "text": ""}\n', "samples.jsonl"),
    ],
)
def test_files_that_cannot_be_read_are_named(bare, file, content, message):
    (bare / file).parent.mkdir(exist_ok=True)
    (bare / file).write_text(content)
    assert message in refused(bare)


def test_a_folder_that_cannot_be_written_is_refused(bare):
    (bare / "figures").write_text("in the way")
    (bare / "metrics.jsonl").write_text('{"step":1,"split":"train","metrics":{"loss":[1]}}\n')
    assert "figures/scores.json" in refused(bare)


# -- the room


def test_the_room_imports_no_jax():
    allowed = {"jaxlstm.errors", "jaxlstm.wording", "jaxlstm.runs", "jaxlstm.report"}
    sources = list(Path(report.__file__).parent.glob("*.py"))
    assert len(sources) > 5
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "jaxlstm":
                names = [f"jaxlstm.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module]
            for name in names:
                assert name.split(".")[0] not in ("jax", "jaxlib", "flax", "optax"), (source, name)
                if name.split(".")[0] == "jaxlstm":
                    assert ".".join(name.split(".")[:2]) in allowed, (source, name)
                assert name != "matplotlib.pyplot", source
