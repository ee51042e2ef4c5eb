"""What all parts of a config have in common: they are frozen and refuse keys they do not know."""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

LARGEST = 2**31 - 1
"""The largest count: what an int32 holds."""

Steps = Annotated[int, Meta(ge=1, le=LARGEST)]
Width = Annotated[int, Meta(ge=1, le=65_536)]
Positive = Annotated[float, Meta(gt=0, le=1e30)]
"""A number that float32 holds, with room for what it is multiplied with."""
Share = Annotated[float, Meta(ge=0, lt=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
Seed = Annotated[int, Meta(ge=0, le=LARGEST)]
Seeds = Annotated[int, Meta(ge=1, le=10_000)] | tuple[Seed, ...]


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a config file."""


class Kind(Part, frozen=True, tag_field="kind"):
    """A table that is one of several kinds, told apart by its key `kind`."""


def check_different(key: str, values: Sequence[Any], what: str) -> None:
    """Refuse a list that has one of its values twice.

    Examples:
        >>> check_different("evaluate_lengths", (15, 15), "lengths")
        Traceback (most recent call last):
        ...
        ValueError: evaluate_lengths: expected different lengths, got [15, 15]
    """
    if len(set(values)) != len(values):
        raise ValueError(f"{key}: expected different {what}, got {list(values)}")


def seed_list(seeds: Seeds) -> tuple[int, ...]:
    """Give the seeds one by one: a number N stands for 0, 1, …, N − 1."""
    return tuple(range(seeds)) if isinstance(seeds, int) else seeds


def check_seeds(seeds: Seeds) -> None:
    """Refuse an empty list of seeds, or one that names a seed twice."""
    if not isinstance(seeds, int) and (not seeds or len(set(seeds)) != len(seeds)):
        raise ValueError(f"seeds: expected one or more different seeds, got {list(seeds)}")
