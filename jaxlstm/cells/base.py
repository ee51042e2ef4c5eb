"""What a recurrent cell is: three pure functions, and the parts that cells are made of."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from jaxlstm.cells.describe import Described as Described
from jaxlstm.cells.describe import described as described
from jaxlstm.cells.given import checked, shapes_drawn

Params = Any
Carry = Any
T = TypeVar("T", bound=type)


def serialized(kind: T) -> T:
    """Let what `jax.export` makes of functions of such parameters or carries be written down."""
    export.register_namedtuple_serialization(kind, serialized_name=f"jaxlstm.{kind.__name__}")
    return kind


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cell(Described):
    """A recurrent cell: a bundle of pure functions that `jaxlstm.unroll` scans over time.

    A cell holds no parameters and no state. Decorate its factory with `jaxlstm.described` and two
    cells made with the same arguments are equal and hash equal, print as the call that made them,
    and may be static arguments of `jax.jit`. Its three functions then refuse a key, params, a batch
    shape, a carry or an input that does not fit, and say which and why.

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
        split: optional, the step in parts, from which `unroll` makes a faster backward pass.
        many: optional, `many(params, carry, span, initial) -> (carry, outputs)`: all steps of a
            `Span` at once, as products between them; `initial` is what a reset puts the carry back
            to. For `backend="chunked"`.
        run: optional, `run(unroll, params, inputs, *, carry, key, reverse) -> (outputs, carry,
            carries)` of a cell made of others: it runs each over the whole sequence, with the
            `unroll` that it is given.
        whole: whether the cell sees whole sequences and so cannot be stepped, such as
            `bidirectional`.

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
    split: "Split | None" = None
    many: "Callable[[Params, Carry, Span, Carry], tuple[Carry, Any]] | None" = None
    run: Callable[..., Any] | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.input_shape, tuple):
            raise TypeError(f"`input_shape` must be a tuple, got {self.input_shape!r}")

    def checked(self) -> "Cell":
        """A copy whose functions refuse what does not fit, and name it."""
        functions = checked(self.init, self.initial_carry, self.step, self.input_shape, silent)
        return dataclasses.replace(self, **functions)


class Split(NamedTuple):
    """A step in parts, from which `backend="fused"` makes its products of many steps at once.

    `step(params, carry, x)` is `after(params, merge(extra(params), carry, net))`, where `net` holds
    by name what `inputs(params, x)` and `states(params, carry)` give, summed where both give the
    name. Each part takes any leading shape, time included.

    Args:
        inputs: `inputs(params, x)`: what the step makes of its input alone, such as x W + b.
        states: `states(params, carry)`: what it makes of the carry with a product, such as h U; it
            must be affine in the carry.
        merge: `merge(extra, carry, net) -> (carry, output)`: the rest, which mixes no rows:
            elementwise, or a norm of each row.
        extra: `extra(params)`: the parameters that `merge` sees, such as peepholes; none by
            default.
        after: `after(params, (carry, output)) -> (carry, output)`: what the step makes of that with
            a product, such as a projection; it must be affine in it. None for nothing.
    """

    inputs: Callable[[Params, Array], dict[str, Array]]
    states: Callable[[Params, Carry], dict[str, Array]]
    merge: Callable[[Any, Carry, dict[str, Array]], tuple[Carry, Any]]
    extra: Callable[[Params], Any] = lambda params: ()
    after: Callable[[Params, tuple[Carry, Any]], tuple[Carry, Any]] | None = None

    def net(self, params: Params, carry: Carry, x: Array) -> dict[str, Array]:
        """What `merge` is given."""
        return net_of(self.inputs(params, x), self.states(params, carry))

    def finish(self, params: Params, carry: Carry, net: dict[str, Array]) -> tuple[Carry, Any]:
        """What follows it: the next carry and the output."""
        merged = self.merge(self.extra(params), carry, net)
        return self.after(params, merged) if self.after else merged

    def step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Any]:
        """The `step` of a `Cell`."""
        return self.finish(params, carry, self.net(params, carry, x))

    def gated_step(self, params: Params, carry: Carry, x: Array, hidden: Any) -> tuple[Carry, Any]:
        """The `gated_step` of a cell whose `states` take such a `hidden` in the carry."""
        seen = carry._replace(hidden=hidden)
        return self.finish(params, carry, self.net(params, seen, x))


class Span(NamedTuple):
    """Some steps of a batch, time leading.

    Args:
        x: [T, *batch, *input_shape], zero where a step is not valid.
        valid: [T, *batch] bool, or None where every step is valid. One that is not holds the carry.
        reset: [T, *batch] bool, whether a sequence begins with this step, or None.
    """

    x: Array
    valid: Array | None
    reset: Array | None


def net_of(inputs: Mapping[str, Array], states: Mapping[str, Array]) -> dict[str, Array]:
    """What `Split.merge` takes: both parts by name, summed where both have the name."""
    both = {name: inputs[name] + states[name] for name in inputs if name in states}
    return {**inputs, **states, **both}


@serialized
class Noisy(NamedTuple):
    """The carry of a stochastic cell: that of the cell within, and the noise.

    Args:
        carry: the carry of the cell within.
        noise: a key or a mask, or None where no key was given. It is neither held by a masked step
            nor put back by a reset.
    """

    carry: Carry
    noise: Any


def silent(carry: Carry) -> Carry:
    """A carry without its noise: a key, a mask or None in its place are all None."""
    return jax.tree.map(
        lambda node: Noisy(silent(node.carry), None) if isinstance(node, Noisy) else node,
        carry,
        is_leaf=lambda node: isinstance(node, Noisy),
    )


def ungated(gated_step: Callable[..., tuple[Carry, Any]]) -> Callable[..., tuple[Carry, Any]]:
    """The step whose gates all see the last state as it is."""

    def step(params: Params, carry: Any, x: Array) -> tuple[Carry, Any]:
        return gated_step(params, carry, x, carry.hidden)

    return step


def shapes_of(cell: Cell) -> Params:
    """The parameters of a cell, as shapes alone."""
    return shapes_drawn(cell.init)


def start(cell: Cell, params: Params, batch_shape: tuple[int, ...], key: Array | None) -> Carry:
    """The initial carry of a cell, with its noise where the cell is stochastic and a key came."""
    if cell.stochastic and key is not None:
        return cell.initial_carry(params, batch_shape, key=key)
    return cell.initial_carry(params, batch_shape)


def split_key(key: Array | None, count: int) -> list[Array | None]:
    """So many keys out of one, or as many Nones out of none."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def check_size(name: str, value: Any) -> None:
    """Refuse a size that is not a positive int, naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
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


def check_keywords(name: str, given: Iterable[str], function: Callable[..., Any]) -> None:
    """Refuse what the function, which it is passed on to, does not take, naming who was called."""
    known = inspect.signature(function).parameters
    for keyword in given:
        if keyword not in known:
            raise TypeError(f"`{name}`: got an unexpected keyword argument {keyword!r}")


def wide(a: Array) -> Array:
    """An array in float32 at least: shorter types cannot count, and no decomposition takes them."""
    return a.astype(wide_type(a.dtype))


def wide_type(dtype: Any) -> Any:
    """The type that `wide` makes of another."""
    return jnp.dtype("float32") if dtype.itemsize < 4 else dtype


def like(new: Carry, carry: Carry) -> Carry:
    """A carry, or any pytree, in the types of the one before; keys have no other."""
    return jax.tree.map(lambda a, b: a if a.dtype == b.dtype else a.astype(b.dtype), new, carry)
