"""The README's figures are those of the run folders it links to, and its links lead somewhere."""

import json
import re
import statistics
from pathlib import Path

import pytest

from jaxlstm import runs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RUNS = list((ROOT / "experiments").glob("*/manifest.json"))


def scores(name):
    manifest = runs.read_manifest(ROOT / "experiments" / name)
    assert manifest.state == "finished"
    assert manifest.command
    return manifest.summary[0].values, manifest


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing


def test_first_screen_has_both_commands():
    screen = "\n".join(README.splitlines()[:24])
    assert "make run" in screen
    assert "make test" in screen


def test_adding():
    lstm, _ = scores("adding")
    rnn, _ = scores("adding-rnn")
    assert len(lstm) == len(rnn) == 5
    assert f"{min(lstm):.4f} to {max(lstm):.4f} mean squared error" in README
    assert f"{statistics.median(rnn):.3f}, that of a network without memory" in README


def test_vowels():
    values, _ = scores("vowels")
    assert len(values) == 5
    shown = [f"{v:.3f}".lstrip("0") for v in (statistics.median(values), min(values), max(values))]
    assert "{} in the median, {} to {}".format(*shown) in README


def test_shakespeare():
    (value,), manifest = scores("shakespeare")
    assert f"[{value:.2f} bits per character]" in README
    assert f"needs {manifest.baselines['bigram bits_per_character']:.2f}" in README


def test_speed_and_memory():
    data = json.loads((ROOT / "experiments" / "speed" / "data.json").read_text())
    rows = [row["engines"] for row in data["rows"] if row["case"][0].isdigit()]
    times = [{name: found["gradient"]["median"] for name, found in row.items()} for row in rows]
    peers = ("scan", "keras", "flax", "haiku", "equinox")
    over_jax = [min(row[peer] for peer in peers) / row["jaxlstm"] for row in times]
    over_torch = [row["torch"] / row["jaxlstm"] for row in times]
    assert len(times) == 6
    found = statistics.geometric_mean(over_jax), statistics.geometric_mean(over_torch)
    words = "{:.2f} times as fast as the best JAX peer, {:.2f} times as fast as torch"
    assert words.format(*found) in README
    memory = json.loads((ROOT / "experiments" / "memory" / "data.json").read_text())
    long = {row["choice"]: row for row in memory["rows"] if row["T"] == 10_000}
    fused = long['backend="fused"']
    assert 1 / fused["memory_ratio"] == pytest.approx(5, abs=0.5)
    assert f"at {fused['time_ratio']:.2f} of its".replace("0.", ".") in README
    ratio = 1 / long['remat="sqrt"']["memory_ratio"]
    assert f"1/{ratio:.0f} with" in README


def test_the_study_met_its_predictions():
    _, manifest = scores("vanishing")
    assert {score.verdict for score in manifest.summary} == {"met"}


def test_the_gallery_shows_every_figure_of_the_studies():
    page = (ROOT / "experiments" / "README.md").read_text()
    shown = re.findall(r"\]\(([^)#]+)\)", page)
    assert all((ROOT / "experiments" / target).exists() for target in shown)
    for manifest in sorted((ROOT / "experiments").glob("*/manifest.json")):
        if runs.read_manifest(manifest.parent).kind != "study":
            continue
        for figure in sorted((manifest.parent / "figures").glob("*.svg")):
            assert figure.relative_to(ROOT / "experiments").as_posix() in shown


@pytest.mark.parametrize("name", sorted(p.parent.name for p in RUNS))
def test_results_hold_no_path_of_the_machine(name):
    for path in (ROOT / "experiments" / name).rglob("*"):
        if path.is_file():
            assert not re.search(r"/(?:work|root|home|tmp)/", path.read_text())
