"""Pages that the project makes elsewhere, brought into the guide: results, and how to contribute.

They are written anew into `results/` at every build, with links that lead to where things are in
the guide: pages to pages, pictures and reports to the files themselves, other files to their names.
"""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
PAGES = {
    "studies": "experiments/README.md",
    "reproductions": "experiments/reproductions/README.md",
    "speed": "experiments/speed/README.md",
    "parts": "experiments/speed/parts.md",
    "training": "experiments/speed/training.md",
    "cells": "experiments/speed/cells.md",
    "gpu": "experiments/speed/gpu.md",
    "memory": "experiments/memory/README.md",
    "abilities": "docs/abilities.md",
    "promises": "docs/promises.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
}
INDEX = """# Results and tables

As they were generated or measured, each with the command that makes it again.

```{{toctree}}
:maxdepth: 1

{}
```
"""
KNOWN = {ROOT / path: name for name, path in PAGES.items()}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def rewrite(text: str, folder: Path) -> str:
    """Turn the links of a page that lies in `folder` into those of the guide."""

    def moved(match: re.Match) -> str:
        picture, words, target, anchor = match.groups()
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = (folder / target).resolve()
        if picture:
            return f"![{words}](../../{path.relative_to(ROOT)})"
        readme = path / "README.md" if path.is_dir() else path
        if readme in KNOWN and readme.exists():
            return f"[{words}]({KNOWN[readme]}.md{anchor or ''})"
        report = path / "report.html" if path.is_dir() else path
        if report.name == "report.html" and report.exists():
            # A page that is no source of Sphinx's, so that Markdown's own link would be refused.
            return f'<a href="../runs/{_name(report)}">{words}</a>'
        return words

    return LINK.sub(moved, text)


def write(app: Sphinx) -> None:
    """Write the pages that there are, and the reports of the runs beside them."""
    folder = Path(app.srcdir) / "results"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found = {name: ROOT / path for name, path in PAGES.items() if (ROOT / path).exists()}
    for name, source in found.items():
        text = rewrite(source.read_text(encoding="utf-8"), source.parent)
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / "index.md").write_text(INDEX.format("\n".join(found)), encoding="utf-8")


def copy_reports(app: Sphinx, error: Exception | None) -> None:
    """Put the reports of the published runs where the pages link to."""
    if error is None and app.builder.format == "html":
        target = Path(app.outdir) / "runs"
        target.mkdir(exist_ok=True)
        for report in sorted((ROOT / "experiments").glob("**/report.html")):
            shutil.copy(report, target / _name(report))


def _name(report: Path) -> str:
    """What the report of a run is called in the guide: the trainings of a run lie in its folder."""
    return "-".join(report.relative_to(ROOT / "experiments").parts[:-1]) + ".html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Write before anything is read."""
    app.connect("builder-inited", write)
    app.connect("build-finished", copy_reports)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
