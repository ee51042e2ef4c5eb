"""Why a config is refused, in one line: the key's path, what was expected, and what came."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect

Path = tuple[str | int, ...]


def refusal(error: msgspec.ValidationError, data: Any, spec: Any) -> tuple[Path, str]:
    """Say where and why `data` does not fit `spec`.

    Args:
        error: what msgspec raised for it.
        data: the plain data that were to be converted.
        spec: the type that they were to be converted to.

    Returns:
        The path of the offending key, and the reason.
    """
    match = re.fullmatch(r"(.*?)(?: - at `(key in )?\$([^`]*)`)?", str(error), re.DOTALL)
    text, path = (match[1], _parse(match[3] or "")) if match else (str(error), ())
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL):
        return (*path, unknown[1]), f"no such key; {_instead(unknown[1], spec, data, path)}"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
        path = (*path, missing[1])
        return path, f"missing, expected {_expected(spec, data, path)}"
    got = value_at(data, path)
    of_choices = re.match(r"Expected `", text) and _choices(spec, data, path)
    if of_choices or re.match(r"Invalid (value|enum value) ", text):
        expected, near = _expected(spec, data, path), _near(got, spec, data, path)
        return path, f"expected {expected}, got {shown(got)}{near}"
    if re.match(r"Expected `", text):
        wanted = re.sub(r", got `\w+`$", "", text.removeprefix("Expected ")).replace("`", "")
        wanted = wanted.replace("object", "a table").replace(" | null", "")
        if "matching regex" in wanted:
            wanted = "letters, digits, '.', '_' and '-', 1 to 100 of them"
        return path, f"expected {wanted}, got {shown(got)}"
    # A sentence of ours, from a check over several keys, which may name its key itself.
    named = re.match(r"([a-z_]+(?:\.[a-z_]+)*): (.*)", text, re.DOTALL)
    if named:
        return (*path, *named[1].split(".")), named[2]
    return path, text


def not_finite(data: Any, path: Path = ()) -> Iterator[tuple[Path, float]]:
    """Find the numbers of plain data that are infinite or no number at all."""
    if isinstance(data, float) and not math.isfinite(data):
        yield path, data
    items = (
        data.items()
        if isinstance(data, Mapping)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in items:
        yield from not_finite(value, (*path, key))


def dotted(path: Path) -> str:
    """Write a path as a user does: `("seeds", 1)` is `seeds[1]`.

    Examples:
        >>> dotted(("task", "length")), dotted(("seeds", 1))
        ('task.length', 'seeds[1]')
    """
    text = ""
    for part in path:
        text += (
            f"[{part}]" if isinstance(part, int) else f".{_plain(part)}" if text else _plain(part)
        )
    return text


def shown(value: Any) -> str:
    """Write a value on one line, shortened where it is long.

    Examples:
        >>> shown("a" * 100)
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...'"
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a table"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:54]}...{text[-1]}"


def value_at(data: Any, path: Path) -> Any:
    """Look a value up by its path; None where there is none."""
    for part in path:
        try:
            data = data[part]
        except (LookupError, TypeError):
            return None
    return data


def type_at(spec: Any, data: Any, path: Path) -> inspect.Type | None:
    """Find the type that belongs at a path, choosing among kinds by what `data` says."""
    found: inspect.Type | None = inspect.type_info(spec)
    for index, part in enumerate(path):
        if isinstance(part, int) and isinstance(found, inspect.VarTupleType):
            found = found.item_type
            continue
        struct = _struct(found, value_at(data, path[:index]))
        if struct is None:
            return None
        found = next((f.type for f in struct.fields if f.encode_name == part), None)
    return found


def _struct(spec: inspect.Type | None, data: Any) -> inspect.StructType | None:
    """The table that a type stands for: the one of several that `data` names by its tag."""
    structs = _structs(spec)
    if len(structs) == 1:
        return structs[0]
    given = data if isinstance(data, Mapping) else {}
    return next((s for s in structs if given.get(s.tag_field) == s.tag), None)


def _structs(spec: inspect.Type | None) -> list[inspect.StructType]:
    return [option for option in kinds(spec) if isinstance(option, inspect.StructType)]


def kinds(spec: inspect.Type | None) -> tuple[inspect.Type | None, ...]:
    """The types of which a value may be."""
    return spec.types if isinstance(spec, inspect.UnionType) else (spec,)


def _choices(spec: Any, data: Any, path: Path) -> list[Any]:
    """The values that may stand at a path: the tags of a table's kinds, or a literal's values."""
    tagged = [s for s in _structs(type_at(spec, data, path[:-1])) if s.tag_field == path[-1]]
    if tagged:
        return [table.tag for table in tagged]
    options = kinds(type_at(spec, data, path))
    return [v for one in options if isinstance(one, inspect.LiteralType) for v in one.values]


def _expected(spec: Any, data: Any, path: Path) -> str:
    choices = [f'"{c}"' if isinstance(c, str) else str(c) for c in _choices(spec, data, path)]
    found = type_at(spec, data, path)
    if choices:
        words = ("one of " if len(choices) > 1 else "") + ", ".join(choices)
        return f"{words} or a table" if _structs(found) else words
    names = {
        inspect.IntType: "int",
        inspect.FloatType: "float",
        inspect.StrType: "str",
        inspect.BoolType: "bool",
    }
    return "a table" if _structs(found) else names.get(type(found), "a value")


def _near(value: Any, spec: Any, data: Any, path: Path) -> str:
    known = [choice for choice in _choices(spec, data, path) if isinstance(choice, str)]
    near = difflib.get_close_matches(str(value), known, 1)
    return f'; did you mean "{near[0]}"?' if near else ""


def _instead(name: str, spec: Any, data: Any, path: Path) -> str:
    struct = _struct(type_at(spec, data, path), value_at(data, path))
    known = [field.encode_name for field in struct.fields] if struct else []
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"expected one of {', '.join(known)}" if known else "expected none"


def _parse(text: str) -> Path:
    parts = re.findall(r"\.([^.\[]+)|\[(\d+)\]", text)
    return tuple(name or int(index) for name, index in parts)


def _plain(text: str) -> str:
    return text if re.fullmatch(r"[\w-]+", text) else shown(text)
