"""What config files are made of: TOML text and plain tables, read, typed and put together."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from jaxlstm import storage
from jaxlstm.config import refusal
from jaxlstm.errors import UserError

LARGEST_FILE = 1_000_000
WHOLE = ("kind", "cell")
"""A table with one of these keys says what it is, and takes the place of another as a whole."""


def read(path: Path) -> str:
    """Read the text of a config file."""
    with storage.reading(f"{path}: cannot read this config file"):
        content = storage.read(path, LARGEST_FILE)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, got a bad byte at {error.start}") from None


def parse(text: str, source: str) -> dict[str, Any]:
    """Read TOML text; `source` is what errors call it."""
    check_text(text, source)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        reason = "too many brackets" if isinstance(error, RecursionError) else error
        raise UserError(f"{source}: expected TOML: {reason}") from None


def check_text(text: str, source: str) -> None:
    """Refuse what a terminal or a file name holds besides UTF-8: it comes in as lone surrogates."""
    if re.search("[\ud800-\udfff]", text):
        raise UserError(f"{source}: expected UTF-8 text, got {refusal.shown(text)}")


def value(text: str, wanted: msgspec.inspect.Type | None) -> Any:
    """Read what a user typed: TOML where it is TOML and no string is wanted, else the text."""
    if any(isinstance(kind, msgspec.inspect.StrType) for kind in refusal.kinds(wanted)):
        return text
    if re.fullmatch(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
        return float(text)  # .5 and 5. are no TOML
    try:
        found = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return text
    plain = isinstance(found["value"], bool | int | float | str | list | dict)
    return found["value"] if plain and len(found) == 1 else text


def elsewhere(path: Any, place: str) -> dict[str, Any]:
    """The keys of another config file, from which an arm or a sweep begins."""
    if not isinstance(path, str):
        raise UserError(f"{place}: expected the path of a config file, got {path!r}")
    try:
        return parse(read(Path(path)), path)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def merge(data: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put keys in place; a table that says its kind is a new one, else its keys are."""
    for name, value in changes.items():
        whole = not isinstance(value, dict) or says_kind(value)
        if not whole and isinstance(data.get(name), dict):
            merge(data[name], value)
        else:
            data[name] = value


def says_kind(table: dict[str, Any]) -> bool:
    """Whether a table says what it is."""
    return any(key in table for key in WHOLE)
