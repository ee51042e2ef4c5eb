"""The directive `{api}`: public objects by name, from their docstrings, which are Markdown.

    ```{api}
    jaxlstm.lstm
    jaxlstm.LSTMCarry
    ```

A docstring is read as those of the code are written: Markdown, in the sections of Google's style.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
PLAIN = {"returns_named_value": False, "returns_multiple_items": False}
HEADS = {
    "parameters": "Arguments",
    "attributes": "Attributes",
    "returns": "Returns",
    "yields": "Yields",
    "raises": "Raises",
}


def find(path: str) -> Any:
    """The object that a dotted name stands for."""
    parts = path.split(".")
    found = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(".".join(parts[:i]))
    return found


def entry(path: str, value: Any) -> list[str]:
    """The Markdown of one object: its signature, its docstring, and its methods."""
    name = path.split(".")[-1]
    if inspect.isclass(value):
        body = _docstring(inspect.getdoc(value) or "")
        for method in _methods(value):
            body += ["", *entry(f"{path}.{method}", getattr(value, method))]
        return _block("class", path, _signature(value), body)
    if callable(value):
        kind = "method" if inspect.isclass(find(path.rpartition(".")[0])) else "function"
        return _block(kind, path, _signature(value), _docstring(inspect.getdoc(value) or ""))
    body = [f"`{name} = {value!r}`", "", *_docstring(_attribute(path))]
    return _block("data", path, "", body)


def _block(kind: str, path: str, signature: str, body: list[str]) -> list[str]:
    fence = ":" * (
        3 + max((len(m[0]) for line in body if (m := re.match(":{3,}", line))), default=0)
    )
    return [f"{fence}{{py:{kind}}} {path}{signature}", "", *body, fence, ""]


def _signature(value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "()"
    bare = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
        if p.name != "self"
    ]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    # A function as a default prints with its address.
    return re.sub(r"<function (?:\w+\.)*(\w+) at 0x\w+>", r"\1", text)


def _methods(value: type) -> Iterator[str]:
    """The methods that a class of ours documents itself."""
    for name, member in vars(value).items():
        public = not name.startswith("_") or name == "__call__"
        if public and inspect.isfunction(member) and member.__doc__:
            yield name


def _attribute(path: str) -> str:
    """The docstring below a constant, which only the source knows."""
    package = griffe.load("jaxlstm", search_paths=[str(ROOT)])
    found: Any = package[path.removeprefix("jaxlstm.")]
    found = found.final_target if found.is_alias else found
    return found.docstring.value if found.docstring else ""


def _docstring(text: str) -> list[str]:
    lines: list[str] = []
    for section in griffe.Docstring(text, lineno=1).parse("google", **PLAIN, warnings=False):
        kind = section.kind.value
        if kind == "text":
            lines += [*_fenced(section.value), ""]
        elif kind == "examples":
            lines += ["**Examples**", ""]
            for part, words in section.value:
                inner = words if part.value == "text" else f"```pycon\n{words}\n```"
                lines += [*inner.splitlines(), ""]
        elif kind == "admonition":
            lines += [f"**{section.title}**", "", *section.value.description.splitlines(), ""]
        elif kind in ("returns", "yields"):
            words = "\n".join(item.description for item in section.value)
            lines += [f"**{HEADS[kind]}**", "", *words.splitlines(), ""]
        else:
            lines += [f"**{HEADS[kind]}**", ""]
            for item in section.value:
                lines += _item(item)
    return lines


def _item(item: Any) -> list[str]:
    name = getattr(item, "name", None) or str(item.annotation)
    first, *rest = item.description.splitlines() or [""]
    return [f"`{name}`", f": {first}", *(f"  {line}" if line else "" for line in rest), ""]


def _fenced(text: str) -> list[str]:
    """Prose; a doctest in it stands in a fence."""
    lines, inside = [], False
    for line in text.splitlines():
        if line.startswith(">>> ") and not inside:
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return [*lines, "```"] if inside else lines


class Api(SphinxDirective):
    """Entries for the names that stand in the block, one a line."""

    has_content = True

    def run(self) -> list[Any]:
        """Parse what the docstrings say."""
        text: list[str] = []
        for path in filter(None, map(str.strip, self.content)):
            text += entry(path, find(path))
        return self.parse_text_to_nodes(StringList(text, source=self.get_source_info()[0]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("api", Api)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
