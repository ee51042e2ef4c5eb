"""What cells and initialisers were made from: their identity, their print, their plain data."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.given import Drawing

P = ParamSpec("P")
D = TypeVar("D", bound="Described")


@dataclasses.dataclass(frozen=True)
class Description:
    """The factory and the arguments that an object was made with: its identity.

    Args:
        make: the factory itself: one that is defined again, with the same name, is another.
        arguments: all arguments in the order of the signature, defaults included.
        defaults: the default values, left out when the description is printed.
    """

    make: Callable[..., Any]
    arguments: tuple[tuple[str, Any], ...]
    defaults: tuple[tuple[str, Any], ...] = dataclasses.field(default=(), compare=False)

    @property
    def factory(self) -> str:
        """The name of the factory, as in `jaxlstm.lstm`."""
        return self.make.__name__

    def again(self) -> Any:
        """What the factory makes of the same arguments."""
        return called(self.make, dict(self.arguments))

    def __repr__(self) -> str:
        default = dict(self.defaults)
        shown = []
        for name, value in self.arguments:
            if name.startswith("*"):
                shown.extend(repr(item) for item in value)
            elif name not in default or default[name] != value:
                shown.append(f"{name}={written(value)}")
        return f"{self.factory}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Described:
    """An object that is equal to, and hashes like, any other made with the same arguments.

    A copy with other contents, from `dataclasses.replace`, has no description: it is itself only.
    """

    description: Description | None = dataclasses.field(default=None, init=False)

    def checked(self: D) -> D:
        """A copy whose functions look at what they are given."""
        return dataclasses.replace(self)

    def _identity(self) -> Any:
        if self.description is not None:
            return self.description
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._identity() == other._identity()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return repr(self.description) if self.description else object.__repr__(self)

    def __deepcopy__(self: D, memo: Any) -> D:
        # Nothing in it changes; and a copy of a function that JAX has compiled is another function.
        return self

    def __reduce__(self) -> Any:
        # Functions within a factory cannot be pickled; the factory, by its name, can.
        return (
            (Description.again, (self.description,)) if self.description else super().__reduce__()
        )


def described(factory: Callable[P, D]) -> Callable[P, D]:
    """Give what a factory makes its identity: the factory and the arguments.

    Arguments must be hashable; a dtype may be given in any of its spellings. Besides, the kind of
    an argument is checked where its annotation (`bool`, `float`) or its name (`…dtype`, `…_init`)
    tells it, and what an initialiser `…_init` draws is held to the shape that it was asked for.
    What a factory makes that can be imported by its name can be pickled.

    Args:
        factory: a function that returns a `Cell` or an `Initializer`.

    Returns:
        The factory, whose results are equal when their arguments are.

    Raises:
        TypeError: when an argument is missing, unknown, of the wrong kind, or cannot be hashed.

    Examples:
        >>> import jaxlstm as jl
        >>> jl.lstm(input_size=8, hidden_size=4) == jl.lstm(input_size=8, hidden_size=4)
        True
        >>> jl.lstm(input_size=8, hidden_size=4, forget_bias=0.0)
        lstm(input_size=8, hidden_size=4, forget_bias=0.0)
    """
    signature = inspect.signature(factory)
    parameters = signature.parameters
    defaults = {
        name: _canonical(name, p.default)
        for name, p in parameters.items()
        if p.default is not p.empty
    }

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> D:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"`{factory.__name__}`: {error}") from None
        bound.apply_defaults()
        arguments: list[tuple[str, Any]] = []
        for name, value in bound.arguments.items():
            if parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                value = {n: _canonical(n, v) for n, v in sorted(value.items())}
                arguments.extend(value.items())
            else:
                value = _canonical(name, value, parameters[name].annotation)
                starred = parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
                arguments.append((f"*{name}" if starred else name, value))
            bound.arguments[name] = value
        for name, value in arguments:
            if name.startswith("*"):  # the factory names the one that is wrong
                continue
            try:
                hash(value)
            except TypeError:
                raise TypeError(
                    f"`{name}` of {factory.__name__} must be hashable, got {type(value).__name__}"
                ) from None
        for name, value in arguments:
            if name.endswith("_init") and name in bound.arguments and value is not None:
                bound.arguments[name] = Drawing(name, value)
        found = factory(*bound.args, **bound.kwargs)
        if not isinstance(found, Described):
            raise TypeError(
                f"`{factory.__name__}` must return a Cell or an Initializer, got {found!r}"
            )
        made = found.checked()
        description = Description(make, tuple(arguments), tuple(defaults.items()))
        object.__setattr__(made, "description", description)
        return made

    return make


def written(value: Any) -> str:
    """A value as it is written; a function by its name."""
    named = callable(value) and not isinstance(value, Described)
    return getattr(value, "__name__", repr(value)) if named else repr(value)


def _canonical(name: str, value: Any, annotation: Any = None) -> Any:
    """One spelling for each value, so that equal arguments compare equal; refuse wrong kinds."""
    if name.endswith("dtype") and value is not None:
        return _dtype_name(name, value)
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, np.generic):
        value = value.item()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation in (bool, "bool") and not isinstance(value, bool):
        raise TypeError(f"`{name}` must be a bool, got {value!r}")
    optional = annotation in (float | None, "float | None") and value is not None
    if (annotation in (float, "float") or optional) and not number:
        raise TypeError(f"`{name}` must be a number, got {value!r}")
    if name.endswith("_init") and value is not None and not callable(value):
        raise TypeError(f"`{name}` must be a function (key, shape, dtype), got {value!r}")
    return value


def _dtype_name(name: str, value: Any) -> str:
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`{name}` must be a floating point type, got {value!r}")
    return dtype.name


def to_dict(cell: Described) -> dict[str, Any]:
    """Describe a cell (or initialiser) as plain data, to be saved beside its weights.

    Args:
        cell: an object whose factory is `described`.

    Returns:
        `{"factory": name, "arguments": {…}}`, nested where an argument is itself described; only
        strings, numbers, booleans, None, lists and dicts, so JSON and TOML take it.

    Raises:
        TypeError: when the cell, or an argument of it, has no description.

    Examples:
        >>> import jaxlstm as jl
        >>> jl.to_dict(jl.initializers.orthogonal(scale=2.0))
        {'factory': 'orthogonal', 'arguments': {'scale': 2.0, 'joint': False}}
    """
    if not isinstance(cell, Described):
        raise TypeError(f"`cell` must be a Cell or an Initializer, got {type(cell).__name__}")
    if cell.description is None:
        raise TypeError("`cell` has no description: decorate its factory with `jaxlstm.described`")
    arguments = cell.description.arguments
    return {
        "factory": cell.description.factory,
        "arguments": {name: _plain(name, value) for name, value in arguments},
    }


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Described):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(name, item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"`{name}` cannot be described as plain data, got {value!r}")


def rebuild(data: Mapping[str, Any], factories: Mapping[str, Callable[..., Any]]) -> Any:
    """Build what `to_dict` described, calling the given factories and nothing else."""

    def build(value: Any) -> Any:
        if isinstance(value, Mapping):
            return rebuild(value, factories)
        return tuple(build(item) for item in value) if isinstance(value, list) else value

    given = data if isinstance(data, Mapping) else {}
    name, arguments = given.get("factory"), given.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise ValueError(f"`data` must hold 'factory' and 'arguments', got {data!r}")
    if name not in factories:
        raise ValueError(f"`factory` must be one of {sorted(factories)}, got {name!r}")
    for argument, value in arguments.items():
        if argument.startswith("*") and not isinstance(value, list):
            raise ValueError(f"`{argument}` must be a list, got {value!r}")
    return called(factories[name], {k: build(value) for k, value in arguments.items()})


def called(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a factory with arguments by name; those of a name with a star are positional."""
    positional = [item for key in arguments if key.startswith("*") for item in arguments[key]]
    named = {key: value for key, value in arguments.items() if not key.startswith("*")}
    return factory(*positional, **named)
