"""The directives `{command-line}`, `{config-keys}` and `{task-definitions}`, from the code.

The commands are the dataclasses of `jaxlstm.cli.arguments`, the keys the structs of
`jaxlstm.config`; their words are those structs' own docstrings, and those of the tasks are their
modules'.
"""

import dataclasses
import inspect
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import griffe
import msgspec
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


def commands() -> list[str]:
    """Every command with its arguments and options, as Markdown."""
    from jaxlstm.cli import arguments

    source = griffe.load("jaxlstm", search_paths=[str(ROOT)])
    lines: list[str] = []
    for choice in typing.get_args(arguments.Command):
        command, setting = typing.get_args(choice)
        written = source[f"cli.arguments.{command.__name__}"]
        lines += [f"## `jaxlstm {setting.name}`", "", inspect.cleandoc(command.__doc__), ""]
        for field in dataclasses.fields(command):
            lines += [f"`{_option(command, field)}`", f": {_prose(written[field.name])}", ""]
    return lines


def _option(command: type, field: dataclasses.Field) -> str:
    hint = typing.get_type_hints(command, include_extras=True)[field.name]
    parts = [hint, *_metadata(hint)]
    shown = next((str(p.metavar) for p in parts if getattr(p, "metavar", None)), "")
    kind = _bare(hint)
    if typing.get_origin(kind) is Literal:
        shown = "|".join(map(str, typing.get_args(kind)))
    if "Positional" in str(hint) or any("POSITIONAL" in str(p).upper() for p in parts):
        return shown
    return f"--{field.name.replace('_', '-')} {shown}".rstrip()


def _metadata(hint: Any) -> list[Any]:
    found = []
    while typing.get_origin(hint) is Annotated:
        first, *rest = typing.get_args(hint)
        found += rest
        hint = first
    return found


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _prose(member: Any) -> str:
    return " ".join(member.docstring.value.split()) if member.docstring else ""


def structs() -> list[str]:
    """Every table of a config file with its keys, as Markdown."""
    from jaxlstm import config

    lines: list[str] = []
    seen: set[type] = set()
    for title, kind in (
        ("A training", config.Experiment),
        ("A study", config.Study),
        ("A reproduction", config.Reproduction),
        ("A sweep", config.Sweep),
    ):
        lines += [f"## {title}", "", *_struct("", kind, seen)]
    return lines


def _struct(name: str, kind: type, seen: set[type]) -> list[str]:
    seen.add(kind)
    told = _sections(kind)
    lines = [*told["text"], ""]
    inner: list[tuple[str, type]] = []
    for field in msgspec.structs.fields(kind):
        parts = _structs_in(field.type)
        inner += [(f"{name}.{field.encode_name}".lstrip("."), part) for part in parts]
        key = f"{name}.{field.encode_name}".lstrip(".")
        words = " ".join(told["keys"][field.name].split())
        lines += [f"`{key}` {_type(field)}", f": {words}", ""]
    for key, part in inner:
        if part not in seen:
            said = part.__struct_config__
            head = f'`[{key}]` with `{said.tag_field} = "{said.tag}"`' if said.tag else f"`[{key}]`"
            lines += [f"### {head}", "", *_struct(key, part, seen)]
    return lines


def _structs_in(hint: Any) -> list[type]:
    if inspect.isclass(hint) and issubclass(hint, msgspec.Struct):
        return [hint]
    parts = [_structs_in(part) for part in typing.get_args(hint)]
    return [each for part in parts for each in part]


def _sections(kind: type) -> dict[str, Any]:
    text, keys = [], {}
    for table in reversed(kind.__mro__):  # the words of a key stand where it is declared
        text = []
        for section in griffe.Docstring(inspect.cleandoc(table.__doc__ or ""), lineno=1).parse(
            "google", warnings=False
        ):
            if section.kind.value == "text":
                text += section.value.splitlines()
            if section.kind.value in ("parameters", "attributes"):
                keys |= {item.name: item.description for item in section.value}
    return {"text": text, "keys": keys}


def _type(field: Any) -> str:
    words = _spoken(field.type)
    if field.required:
        return f"({words}, needed)"
    default = field.default
    if default is msgspec.NODEFAULT:
        default = field.default_factory()
    if default is None or isinstance(default, msgspec.Struct):
        return f"({words})" if words else ""
    shown = msgspec.json.encode(default).decode()
    return f"({words}, `{shown}` if left out)"


def _spoken(hint: Any) -> str:
    """A type in words: int ≥ 1, "a" or "b", a table."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        limits = [_limits(extra) for extra in parts[1:] if isinstance(extra, msgspec.Meta)]
        return " ".join(filter(None, [_spoken(parts[0]), *limits]))
    if origin is Literal:
        return " or ".join(
            f'`"{part}"`' if isinstance(part, str) else f"`{part}`" for part in parts
        )
    if origin in (types.UnionType, typing.Union):
        words = [_spoken(part) for part in parts if part is not type(None)]
        return " or ".join(dict.fromkeys(words))
    if origin in (tuple, list):
        return f"list of {_spoken(parts[0])}"
    if origin is dict:
        return "table"
    if inspect.isclass(hint) and issubclass(hint, msgspec.Struct):
        return "table"
    return {"str": "text", "bool": "true or false"}.get(hint.__name__, hint.__name__)


def _limits(meta: msgspec.Meta) -> str:
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    found = [
        f"{sign} {value:,}" for name, sign in signs if (value := getattr(meta, name)) is not None
    ]
    return ", ".join(found)


def tasks() -> list[str]:
    """Every task as its module defines it, as Markdown."""
    from jaxlstm.tasks import BUILDERS

    lines: list[str] = []
    for kind, build in BUILDERS.items():
        text = inspect.cleandoc(inspect.getmodule(build).__doc__)
        title, _, rest = text.partition("\n")
        lines += [f'## `kind = "{kind.__struct_config__.tag}"`', "", title, rest, ""]
    return lines


class Typed(SphinxDirective):
    """A directive whose content a function writes."""

    write: Any = None

    def run(self) -> list[Any]:
        """Parse what it writes."""
        lines = type(self).write()
        return self.parse_text_to_nodes(
            StringList(lines, source=self.get_source_info()[0]), allow_section_headings=True
        )


class Commands(Typed):
    """The command line."""

    write = staticmethod(commands)


class Keys(Typed):
    """The keys of config files."""

    write = staticmethod(structs)


class Tasks(Typed):
    """The tasks."""

    write = staticmethod(tasks)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("command-line", Commands)
    app.add_directive("config-keys", Keys)
    app.add_directive("task-definitions", Tasks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
