"""The guide: its cells run, and its reference leaves no public name out."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import jaxlstm as jl

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(
    page.relative_to(DOCS).as_posix()
    for folder in ("lecture", "howto")
    for page in (DOCS / folder).glob("*.md")
    if "{code-cell}" in page.read_text(encoding="utf-8")
)
QUICK = ("lecture/unfolding.md", "lecture/keras.md")
CELL = re.compile(r"^```\{code-cell\}\n(?::[^\n]*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL)


def cells(page):
    return CELL.findall((DOCS / page).read_text(encoding="utf-8"))


@pytest.mark.usefixtures("lenient")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras
@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow) for p in PAGES]
)
def test_the_cells_of_a_page_run(page, monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    monkeypatch.chdir((DOCS / page).parent)
    names = {}
    for code in cells(page):
        exec(compile(code, page, "exec"), names)


def test_every_cell_is_found():
    for page in PAGES:
        assert len(cells(page)) == (DOCS / page).read_text(encoding="utf-8").count("{code-cell}")


def test_the_citation_is_of_this_version():
    lines = (DOCS.parent / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {jl.__version__}" in lines


def public(module):
    """The names that a module hands on by `as`, or else those that are its own."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    hands_on = Path(module.__file__).name == "__init__.py"
    for name, value in vars(module).items():
        own = getattr(value, "__module__", module.__name__) == module.__name__
        if name.startswith("_") or inspect.ismodule(value):
            continue
        if f" as {name}\n" in source if hands_on else own:
            yield f"{module.__name__}.{name}"


def expected():
    for name in ("jaxlstm", "jaxlstm.nn", "jaxlstm.gradients", "jaxlstm.gradients.theory"):
        yield from public(importlib.import_module(name))
    for path in public(jl.initializers):
        yield path.replace("jaxlstm.cells.", "jaxlstm.")
    for neighbour in jl.convert.NEIGHBOURS:
        module = getattr(jl.convert, neighbour)
        for name in ("load", "dump", "read", "write"):
            if getattr(getattr(module, name, None), "__module__", "") == module.__name__:
                yield f"jaxlstm.convert.{neighbour}.{name}"


def test_no_public_name_is_missing_from_the_reference():
    shown = []
    for page in (DOCS / "reference").glob("*.md"):
        for block in re.findall(
            r"```\{api\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
        ):
            shown += block.split()
    assert len(shown) == len(set(shown))
    wanted = set(expected())
    assert len(wanted) > 100
    assert {"jaxlstm.unroll", "jaxlstm.nn.LSTM", "jaxlstm.gradients.flow"} <= wanted
    assert not wanted - set(shown)
