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
    "memory": "experiments/memory/README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
}
KNOWN = {ROOT / path: name for name, path in PAGES.items()} | {
    ROOT / "docs" / "abilities.md": "../abilities",
    ROOT / "docs" / "promises.md": "../promises",
}
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
        if readme in KNOWN:
            return f"[{words}]({KNOWN[readme]}.md{anchor or ''})"
        report = path / "report.html" if path.is_dir() else path
        if report.name == "report.html" and report.exists():
            return f"[{words}](../runs/{report.parent.name}.html)"
        return words

    return LINK.sub(moved, text)


def write(app: Sphinx) -> None:
    """Write the pages that there are, and the reports of the runs beside them."""
    folder = Path(app.srcdir) / "results"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, path in PAGES.items():
        source = ROOT / path
        if source.exists():
            text = rewrite(source.read_text(encoding="utf-8"), source.parent)
            (folder / f"{name}.md").write_text(text, encoding="utf-8")


def copy_reports(app: Sphinx, error: Exception | None) -> None:
    """Put the reports of the published runs where the pages link to."""
    if error is None and app.builder.format == "html":
        target = Path(app.outdir) / "runs"
        target.mkdir(exist_ok=True)
        for report in sorted((ROOT / "experiments").glob("*/report.html")):
            shutil.copy(report, target / f"{report.parent.name}.html")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write before anything is read."""
    app.connect("builder-inited", write)
    app.connect("build-finished", copy_reports)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
