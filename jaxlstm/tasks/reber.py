r"""The embedded Reber grammar: which symbols may come next?

A Reber string is B, a walk through five states, each leaving by one of two symbols with even
chances, and E:

    state 0: T → 1, P → 2        state 3: X → 2, S → the end
    state 1: S → 1, X → 3        state 4: P → 3, V → the end
    state 2: T → 2, V → 4

Embedded, it stands between two equal symbols, B T … T E or B P … P E, evenly: at the last symbol
but one the network must remember the second. Reber, "Implicit learning of artificial grammars",
1967; Smith and Zipser, "Learning sequential structure with the real-time recurrent learning
algorithm", 1989; Fahlman, "The recurrent cascade-correlation architecture", 1991; experiment 1 of
Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997.

The network reads all symbols but the last, and after each tells the next by seven logistic units
y = σ(z), whose targets t are 1 for the symbol that came, or for each that might have come
(`targets`), and 0 for the others. The loss of a string is Σ ½ (y − t)² over units and steps (or the
mean over steps, `over_steps`; the paper does not say which). Each update draws strings from a fixed
training set, evenly. A string is `wrong` when at any step some symbol that may not come is at least
as active as one that may. `wrong_steps` is the share of a string's steps at which that is so,
`squared_error` the mean over its steps of Σ (y − t)².

Both sets are drawn at random from `data_seed`; as in 1997 a test string that is in the training set
is drawn again (`disjoint`), while a set may hold a string twice unless `distinct`. Solved: no
string of both sets is wrong. A network that knows the inner grammar by heart but not the second
symbol gets half of the strings right.
"""

import functools
from collections.abc import Collection, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.cells.base import wide
from jaxlstm.config import Reber
from jaxlstm.tasks.base import Batch, Goal, Task

SYMBOLS = "BTPSXVE"
STATES = (
    {"T": 1, "P": 2},
    {"S": 1, "X": 3},
    {"T": 2, "V": 4},
    {"X": 2, "S": 5},
    {"P": 3, "V": 5},
)
LAST = len(STATES)


def build(config: Reber) -> Task:
    """Build the task from a training set and a test set.

    Args:
        config: `strings`, `data_seed`, `disjoint`, `distinct`, `targets`, `over_steps`.

    Returns:
        A task with inputs `[B, T]` int32 of 7 symbols, `lengths` `[B]`, seven outputs for each
        step, and the sets `"training"`, `"test"` and both together, `"all"`. Targets `[B, T]` int32
        hold the next symbol in the three lowest bits, and in the seven above one bit for each
        symbol that may come. Metrics: `wrong`, `wrong_steps`, `squared_error`.

    Examples:
        >>> from jaxlstm.config import Reber
        >>> task = build(Reber(strings=3))
        >>> batch = task.evaluation["training"]
        >>> "".join(SYMBOLS[symbol] for symbol in batch.inputs[0, : batch.lengths[0]])
        'BPBPVPXTTTTVVEP'
    """
    coins, taken = toss(config.data_seed), set()
    train = draw(coins, config.strings, taken, config.distinct)
    test = draw(coins, config.strings, train if config.disjoint else taken, config.distinct)
    steps = max(map(len, train + test)) - 1
    sets = {name: encode(each, steps) for name, each in (("training", train), ("test", test))}

    def sample(data: Batch, key: Array, batch_size: int) -> Batch:
        rows = jax.random.randint(key, (batch_size,), 0, config.strings, jnp.int32)
        return jax.tree.map(lambda leaf: leaf[rows], data)

    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), sets["training"], sets["test"])
    return Task(
        name="embedded Reber grammar",
        input_size=len(SYMBOLS),
        output_size=len(SYMBOLS),
        tokens=True,
        every_step=True,
        data=sets["training"],
        sample=sample,
        evaluation={"all": both, **sets},
        loss=functools.partial(loss, aim=config.targets, over_steps=config.over_steps),
        unit="squared error",
        goal=Goal("all", "wrong", below=0.5 / (2 * config.strings)),
        baselines={"short-memory wrong": 0.5},
    )


def toss(seed: int) -> Iterator[int]:
    """Toss a coin for ever, in blocks: one at a time NumPy takes twenty times as long."""
    generator = np.random.default_rng(seed)
    while True:
        yield from generator.integers(2, size=4096).tolist()


def draw(coins: Iterator[int], count: int, avoided: Collection[str], distinct: bool) -> list[str]:
    """Draw strings of the grammar, none of them in `avoided`, and none twice if `distinct`."""
    found: list[str] = []
    seen = set(avoided)
    while len(found) < count:
        string = draw_one(coins)
        if string not in seen:
            found.append(string)
            if distinct:
                seen.add(string)
    return found


def draw_one(coins: Iterator[int]) -> str:
    """Draw one string.

    Examples:
        >>> draw_one(toss(1))
        'BTBPVVETE'
    """
    outer, inner, state = "TP"[next(coins)], "", 0
    while state != LAST:
        symbol = tuple(STATES[state])[next(coins)]
        inner, state = inner + symbol, STATES[state][symbol]
    return f"B{outer}B{inner}E{outer}E"


def may_follow(string: str) -> list[str]:
    """Say for each symbol of a string but the last which symbols may follow it there.

    Examples:
        >>> may_follow("BPBPVVEPE")
        ['TP', 'B', 'TP', 'TV', 'PV', 'E', 'P', 'E']
    """
    outer, inner = string[1], string[3:-3]
    legal, state = ["TP", "B", "TP"], 0
    for symbol in inner:
        state = STATES[state][symbol]
        legal.append("E" if state == LAST else "".join(STATES[state]))
    return [*legal, outer, "E"]


def encode(strings: list[str], steps: int) -> Batch:
    """Write strings into rows of so many steps, zero behind their end."""
    inputs = np.zeros((2, len(strings), steps), np.int32)
    for row, string in enumerate(strings):
        symbols = [SYMBOLS.index(symbol) for symbol in string]
        sets = [sum(8 << SYMBOLS.index(symbol) for symbol in legal) for legal in may_follow(string)]
        inputs[0, row, : len(sets)] = symbols[:-1]
        inputs[1, row, : len(sets)] = np.add(symbols[1:], sets)
    lengths = np.array([len(string) - 1 for string in strings], np.int32)
    return Batch(*map(jnp.asarray, (*inputs, lengths)))


def loss(
    outputs: Array, batch: Batch, aim: str = "next", over_steps: str = "sum"
) -> tuple[Array, dict[str, Array]]:
    """Half the squared error of logistic units, from `[B, T, 7]` before σ; the metrics above."""
    logits, lengths = wide(outputs), batch.lengths
    if lengths is None:
        raise ValueError("`batch` must have lengths, got None")
    units = jnp.arange(len(SYMBOLS), dtype=jnp.int32)
    legal = (batch.targets[..., None] >> (3 + units)[None, None]) & 1 == 1
    came = jax.nn.one_hot(batch.targets & 7, len(SYMBOLS), dtype=logits.dtype)
    valid = jnp.arange(logits.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
    aims = came if aim == "next" else legal.astype(logits.dtype)
    squares = jnp.sum(jnp.square(jax.nn.sigmoid(logits) - aims), axis=-1)
    squares = jnp.sum(jnp.where(valid, squares, 0), axis=1)
    count = lengths.astype(logits.dtype)
    least = jnp.min(jnp.where(legal, logits, jnp.inf), axis=-1)
    most = jnp.max(jnp.where(legal, -jnp.inf, logits), axis=-1)
    # A compiled maximum may pass over what is no number.
    wrong = valid & (jnp.any(jnp.isnan(logits), axis=-1) | (least <= most))
    return jnp.mean(squares if over_steps == "sum" else squares / count) / 2, {
        "wrong": jnp.mean(jnp.any(wrong, axis=1), dtype=logits.dtype),
        "wrong_steps": jnp.mean(jnp.sum(wrong, axis=1, dtype=logits.dtype) / count),
        "squared_error": jnp.mean(squares / count),
    }
