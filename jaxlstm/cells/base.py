"""What a recurrent cell is: three pure functions and the description they were made from."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

Params = Any
Carry = Any
P = ParamSpec("P")
D = TypeVar("D", bound="Described")


@dataclasses.dataclass(frozen=True)
class Description:
    """The factory and the arguments that an object was made with: its identity.

    Args:
        factory: the name of the factory, as in `jaxlstm.lstm`.
        arguments: all arguments in the order of the signature, defaults included.
        defaults: the default values, left out when the description is printed.
    """

    factory: str
    arguments: tuple[tuple[str, Any], ...]
    defaults: tuple[tuple[str, Any], ...] = dataclasses.field(default=(), compare=False)

    def __repr__(self) -> str:
        default = dict(self.defaults)
        shown = []
        for name, value in self.arguments:
            if name.startswith("*"):
                shown.extend(repr(item) for item in value)
            elif name not in default or default[name] != value:
                shown.append(f"{name}={value!r}")
        return f"{self.factory}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Described:
    """An object that is equal to, and hashes like, any other made with the same arguments."""

    description: Description | None = None

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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cell(Described):
    """A recurrent cell: a bundle of pure functions that `jaxlstm.unroll` scans over time.

    A cell holds no parameters and no state. Decorate its factory with `jaxlstm.described` and two
    cells made with the same arguments are equal and hash equal, print as the call that made them,
    and may be static arguments of `jax.jit`.

    Args:
        init: `init(key) -> params`, any pytree of arrays.
        initial_carry: `initial_carry(params, batch_shape=()) -> carry`, a pytree whose leaves lead
            with `batch_shape`. A stochastic cell takes `key=` as well.
        step: `step(params, carry, x) -> (carry, output)` for x of shape
            `[*batch, *input_shape]`: one step in time, also the streaming interface.
        input_shape: the shape of one input without batch and time; `None` stands for any size.
        stochastic: whether `initial_carry` takes `key=` (the noise then travels in the carry).
        gated_step: optional, `gated_step(params, carry, x, hidden)`: a step whose gates are given
            what they see of the last state: one array for all of them, or a tuple with one for
            each. `recurrent_dropout` needs it.
        gates: the number of gates that `gated_step` tells apart.
        linear: optional, `linear(params, x) -> (decay, input)` of a cell whose step is
            carry_t = decay ⊙ carry_{t−1} + input, and whose output is its carry's only leaf, for
            any leading shape of x, time included: such a cell can run in parallel over time.
        run: optional, `run(unroll, params, inputs, carry, options) -> Unrolled` of a cell that sees
            whole sequences and so cannot be stepped, such as `bidirectional`.

    Examples:
        A leaky integrator, complete:

        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> @jl.described
        ... def leaky(*, size: int, rate: float = 0.1) -> jl.Cell:
        ...     def step(params, carry, x):
        ...         carry = (1 - params) * carry + params * x
        ...         return carry, carry
        ...     return jl.Cell(
        ...         init=lambda key: jnp.full(size, rate),
        ...         initial_carry=lambda params, batch_shape=(): jnp.zeros((*batch_shape, size)),
        ...         step=step,
        ...         input_shape=(size,),
        ...     )
        >>> cell = leaky(size=1)
        >>> cell
        leaky(size=1)
        >>> cell == leaky(size=1, rate=0.1)
        True
        >>> jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((3, 1))).outputs.ravel()
        Array([0.1  , 0.19 , 0.271], dtype=float32)
    """

    init: Callable[[Array], Params]
    initial_carry: Callable[..., Carry]
    step: Callable[[Params, Carry, Array], tuple[Carry, Any]]
    input_shape: tuple[int | None, ...] = (None,)
    stochastic: bool = False
    gated_step: Callable[[Params, Carry, Array, Any], tuple[Carry, Any]] | None = None
    gates: int = 1
    linear: Callable[[Params, Array], tuple[Array, Array]] | None = None
    run: Callable[..., Any] | None = None


class Noisy(NamedTuple):
    """The carry of a stochastic cell: that of the cell within, and the noise.

    Args:
        carry: the carry of the cell within.
        noise: a key or a mask, or None where no key was given. It is neither held by a masked step
            nor put back by a reset.
    """

    carry: Carry
    noise: Any


def start(cell: Cell, params: Params, batch_shape: tuple[int, ...], key: Array | None) -> Carry:
    """The initial carry of a cell, with its noise where the cell is stochastic and a key came."""
    if cell.stochastic and key is not None:
        return cell.initial_carry(params, batch_shape, key=key)
    return cell.initial_carry(params, batch_shape)


def split_key(key: Array | None, count: int) -> list[Array | None]:
    """So many keys out of one, or as many Nones out of none."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def described(factory: Callable[P, D]) -> Callable[P, D]:
    """Give what a factory makes its identity: the factory's name and arguments.

    Arguments must be hashable; a dtype may be given in any of its spellings.

    Args:
        factory: a function that returns a `Cell` or an `Initializer`.

    Returns:
        The factory, whose results are equal when their arguments are.

    Raises:
        TypeError: when an argument cannot be hashed.

    Examples:
        >>> import jaxlstm as jl
        >>> jl.lstm(input_size=8, hidden_size=4) == jl.lstm(input_size=8, hidden_size=4)
        True
        >>> jl.lstm(input_size=8, hidden_size=4, forget_bias=0.0)
        lstm(input_size=8, hidden_size=4, forget_bias=0.0)
    """
    signature = inspect.signature(factory)
    kinds = {p.name: p.kind for p in signature.parameters.values()}
    defaults = tuple(
        (p.name, _canonical(p.name, p.default))
        for p in signature.parameters.values()
        if p.default is not p.empty
    )

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> D:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments: list[tuple[str, Any]] = []
        for name, value in bound.arguments.items():
            if kinds[name] is inspect.Parameter.VAR_KEYWORD:
                value = {n: _canonical(n, v) for n, v in sorted(value.items())}
                arguments.extend(value.items())
            else:
                value = _canonical(name, value)
                starred = kinds[name] is inspect.Parameter.VAR_POSITIONAL
                arguments.append((f"*{name}" if starred else name, value))
            bound.arguments[name] = value
        for name, value in arguments:
            try:
                hash(value)
            except TypeError:
                raise TypeError(
                    f"`{name}` of {factory.__name__} must be hashable, got {type(value).__name__}"
                ) from None
        made = factory(*bound.args, **bound.kwargs)
        description = Description(factory.__name__, tuple(arguments), defaults)
        return dataclasses.replace(made, description=description)

    return make


def _canonical(name: str, value: Any) -> Any:
    """One spelling for each value, so that equal arguments compare equal."""
    if name.endswith("dtype") and value is not None:
        return jnp.dtype(value).name
    return tuple(value) if isinstance(value, list) else value


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

    name = data["factory"]
    if name not in factories:
        raise ValueError(f"`factory` must be one of {sorted(factories)}, got {name!r}")
    arguments = {key: build(value) for key, value in data["arguments"].items()}
    positional = [item for key in arguments if key.startswith("*") for item in arguments[key]]
    named = {key: value for key, value in arguments.items() if not key.startswith("*")}
    return factories[name](*positional, **named)


def check_size(name: str, value: Any) -> None:
    """Refuse a size that is not a positive int, naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"`{name}` must be positive, got {value}")


def check_cell(name: str, value: Any) -> None:
    """Refuse what is no `Cell`, naming the argument."""
    if not isinstance(value, Cell):
        raise TypeError(f"`{name}` must be a Cell, got {type(value).__name__}")


def check_choice(name: str, value: Any, choices: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Refuse a name that is not among the choices, naming the argument and listing them."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {list(choices)}, got {value!r}")


def check_last(name: str, x: Array, size: int) -> None:
    """Refuse an array whose last dimension is not `size`, naming the argument."""
    if jnp.ndim(x) < 1 or x.shape[-1] != size:
        raise ValueError(f"`{name}` must have shape [..., {size}], got {list(jnp.shape(x))}")


def affine(x: Array, kernel: Array, bias: Array | None, dtype: Any) -> Array:
    """`x @ kernel + bias` in `dtype`, for any leading batch shape, without rank promotion."""
    product = jnp.matmul(x.astype(dtype), kernel.astype(dtype))
    if bias is None:
        return product
    return product + jnp.broadcast_to(bias.astype(dtype), product.shape)


def gated_affine(hidden: Any, kernel: Array, gates: int, dtype: Any) -> Array:
    """`hidden @ kernel`; where `hidden` is a tuple, each gate's block gets an input of its own."""
    if not isinstance(hidden, tuple):
        return affine(hidden, kernel, None, dtype)
    parts = zip(hidden, jnp.split(kernel, gates, axis=-1), strict=True)
    return jnp.concatenate([affine(h, block, None, dtype) for h, block in parts], axis=-1)


def output_shape(cell: Cell) -> tuple[int, ...]:
    """Give the shape of one output of a cell, without batch and time.

    Args:
        cell: a cell whose `input_shape` has no `None`.

    Returns:
        The shape of `output` of an unbatched `cell.step`.

    Raises:
        ValueError: when the cell takes inputs of any size.

    Examples:
        >>> import jaxlstm as jl
        >>> jl.output_shape(jl.lstm(input_size=8, hidden_size=4))
        (4,)
    """
    if None in cell.input_shape:
        raise ValueError(f"`cell` must have a known input shape, got {cell.input_shape}")

    def outputs(key: Array) -> Any:
        params = cell.init(key)
        leaves = jax.tree.leaves(params)
        dtype = leaves[0].dtype if leaves else jnp.float32
        inputs = jnp.zeros((1, *cell.input_shape), dtype)  # type: ignore[arg-type]
        return _one_step(cell, params, inputs).outputs

    return jax.eval_shape(outputs, jax.random.key(0)).shape[1:]


def _one_step(cell: Cell, params: Params, inputs: Array, **options: Any) -> Any:
    """What `unroll` does with one unbatched input, for the shapes alone."""
    if cell.run is not None:
        options = {"carry": None, "key": None, "reverse": False}
        outputs, carry, carries = cell.run(_one_step, params, inputs, **options)
        return types.SimpleNamespace(outputs=outputs, carry=carry, carries=carries)
    carry, output = cell.step(params, cell.initial_carry(params), inputs[0])
    outputs = jax.tree.map(lambda y: y[None], output)
    return types.SimpleNamespace(outputs=outputs, carry=carry, carries=None)
