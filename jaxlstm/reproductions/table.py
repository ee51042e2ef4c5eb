"""The one table: what was published, what was measured, and the verdict, from the run folders."""

from collections.abc import Sequence
from pathlib import Path

from jaxlstm import config, runs
from jaxlstm.wording import duration, number, typeset

HEAD = "| | paper | protocol | published | ours, with 95 % intervals | seeds | verdict | time |"


def write(folder: str | Path) -> Path:
    """Write `README.md` of a folder of reproductions: one table, made from what lies in it.

    Args:
        folder: the folder that holds a run folder for each reproduction, finished or not.

    Returns:
        The path of the page.

    Raises:
        UserError: when a run cannot be read, or the page cannot be written.
    """
    folder = Path(folder)
    found = [(path, runs.read_manifest(path)) for path in runs.find(folder)]
    made = [
        (loaded, path, manifest)
        for path, manifest in found
        if manifest.kind == "reproduction"
        and isinstance(loaded := config.load(path / "config.toml"), config.Reproduction)
    ]
    made.sort(key=lambda one: (one[0].row, one[0].name))
    lines = ["# Reproductions", "", *_introduction([m for _, _, m in made]), "", HEAD]
    lines += ["|---|---|---|---|---|---|---|---|", *(_row(*one) for one in made), ""]
    lines += ["## Readings, and where each was measured", ""]
    for loaded, path, manifest in made:
        lines += _details(loaded, path, manifest)
    page = folder / "README.md"
    runs.write_text(page, "\n".join(lines).rstrip() + "\n")
    return page


def write_protocol(folder: Path, reproduction: config.Reproduction) -> None:
    """Write what was published and how it is measured again into its run folder."""
    rows = [
        ["paper", reproduction.paper],
        ["protocol", reproduction.protocol],
        ["published", reproduction.published],
        *(["reading", reading] for reading in reproduction.readings),
    ]
    runs.write_table(
        folder,
        "0-protocol",
        title="Protocol",
        caption="Where the paper leaves something open, a reading says what was taken.",
        columns=["", "what"],
        rows=rows,
    )


def write_rows(folder: Path, scores: Sequence[runs.Score], taken: Sequence[str]) -> None:
    """Write the table of one reproduction's checks, and what each is taken of."""
    rows = [
        [
            score.metric,
            of,
            score.mean,
            _span(score),
            score.expected or "",
            score.verdict,
        ]
        for score, of in zip(scores, taken, strict=True)
    ]
    runs.write_table(
        folder,
        "checks",
        title="Checks",
        caption="What was measured again, and the band that it must lie in.",
        columns=["quantity", "trainings", "measured", "95 % interval", "band", "verdict"],
        rows=rows,
    )


def verdict(manifest: runs.Manifest) -> str:
    """Say whether a reproduction met all its bands; how it stands where it is not finished.

    One without a band is "reported".
    """
    if manifest.state != "finished":
        return manifest.state
    banded = [score.verdict for score in manifest.summary if score.verdict != "reported"]
    if not banded:
        return "reported"
    met = banded.count("met")
    return "met" if met == len(banded) else f"missed ({met} of {len(banded)})"


def _introduction(manifests: Sequence[runs.Manifest]) -> list[str]:
    verdicts = [verdict(manifest) for manifest in manifests]
    met, banded = verdicts.count("met"), len(verdicts) - verdicts.count("reported")
    ended = sum(manifest.state == "finished" for manifest in manifests)
    return [
        f"{met} of {banded} met within their bands"
        + (f", {len(manifests) - ended} not finished." if ended < len(manifests) else "."),
        "",
        "Made by `jaxlstm reproduce` from the run folders beside this page; no number here is",
        "typed by hand. A row is met when every quantity with a band lies in it.",
    ]


def _row(loaded: config.Reproduction, path: Path, manifest: runs.Manifest) -> str:
    ours = "<br>".join(_measured(score) for score in manifest.summary) or "–"
    counts = [len(arm.seed_list) for arm in loaded.arms] or [len(manifest.seeds)]
    seeds = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    cells = [
        f"[{loaded.name}]({path.name}/report.html)",
        loaded.paper,
        loaded.protocol,
        loaded.published,
        ours,
        seeds,
        f"**{verdict(manifest)}**",
        duration(manifest.seconds),
    ]
    return f"| {' | '.join(cell.replace('|', '∣').replace(chr(10), ' ') for cell in cells)} |"


def _measured(score: runs.Score) -> str:
    text = f"{score.metric}: {number(score.mean)}"
    if span := _span(score):
        text += f" [{span}]"
    if score.expected is not None:
        text += f"; {typeset(score.expected)}: {score.verdict}"
    return text


def _span(score: runs.Score) -> str:
    if score.low is None or score.high is None:
        return ""
    return f"{number(score.low)}, {number(score.high)}"


def _training(path: Path, name: str) -> str:
    text = f"[{name}]({path.name}/{name}/report.html)"
    if not (path / name).exists():
        return name
    rate = runs.read_manifest(path / name).cell_steps_per_second
    return text if rate is None else f"{text} ({number(rate / 1e6, 3)} million cell-steps/s)"


def _details(loaded: config.Reproduction, path: Path, manifest: runs.Manifest) -> list[str]:
    revision = manifest.git_revision or "no checkout"
    lines = [f"**{loaded.name}.** {loaded.question}", ""]
    lines += [f"- Reading: {reading}" for reading in loaded.readings]
    trainings = ", ".join(_training(path, arm.name) for arm in loaded.arms)
    lines += [f"- Trainings: {trainings}"] if trainings else []
    lines += [
        f"- `{manifest.command}`, commit {revision}, {manifest.machine}, {manifest.device}, "
        f"begun {manifest.started}",
        "",
    ]
    return lines
