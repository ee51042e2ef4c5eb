r"""Forecasting: what does a series do next? Any table of numbers over time, real gaps and all.

At each step the network reads a row of the table and gives one forecast of the target column for
each horizon h, h steps ahead. Two data sets are built in, which are values of the same options:

- `source = "laser"`: data set A of the Santa Fe competition (Weigend and Gershenfeld 1994), the
  intensity of a chaotic laser, 10,093 integers; the first 5000 for training, the rest for testing,
  one step ahead.
- `source = "weather"`: the hourly weather at three airports of New York in 2013 (in the public
  domain), with real gaps; the temperature in °F 1 and 24 hours ahead, from all variables and the
  hour.

**Parts.** Each series is cut by time into training, validation and test. A forecast belongs to a
part when it is made within the part, of a step within the part; what the network has read before it
may lie in earlier parts.

**Scaling.** Every input column is standardised with the mean and deviation of its training rows
over all series, and so is the target of each horizon. With `predict = "change"` the target is the
change from the last known value.

**Missing values.** A missing input enters as zero after scaling, and beside every column stands an
indicator, 1 where it is missing. A forecast of a missing value, or before any value of the target
is known, is not asked for: it counts in no loss and in no score.

**Batches.** Windows of `window` steps that lie within the training part of one series, at even
random offsets. The first half of each warms the network up and is not scored. The validation and
test parts are cut into windows of the same kind such that each forecast is scored once, in one
second half; beyond a series' ends everything is missing.

**Scores.** The loss is the mean squared error of the scaled targets, every horizon counting the
same. `mae` and `mse` are in the target's own unit, `nmse` is `mse` over the variance of the targets
of the test part; with several horizons these are means over them, and `mae_at_24` belongs to one.

The baselines are measured on the forecasts of the test part: `persistence`, the last known value,
and `AR(p)`, least squares on the last p values and a constant, fitted for each horizon to those
training rows where all p are known; where one is missing in the test part the last known value
stands in for it. Solved: `mae` on the test part below both.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxlstm.cells.base import wide
from jaxlstm.config import Forecast
from jaxlstm.errors import UserError
from jaxlstm.tasks import autoregression, sources, tables
from jaxlstm.tasks.base import Batch, Goal, Task

PARTS = ("training", "validation", "test")


class Windows(NamedTuple):
    """The training part of all series, one after the other, and where windows may start.

    Args:
        features: `[N, 2C]` float32.
        targets: `[N, H, 2]` float32: the scaled target, and the weight of its error.
        starts: `[K]` int32.
    """

    features: Array
    targets: Array
    starts: Array


class Asked(NamedTuple):
    """What one series is asked.

    Args:
        ahead: `[T, H]` the value of the target h steps ahead, NaN where it is missing.
        known: `[T]` the last known value of the target, NaN before there is one.
        present: `[T]` whether the value of that step is there.
        scored: for each part, `[T, H]` bool: the forecasts that count in it.
        cuts: the first steps of validation and test, and the length of the series.
    """

    ahead: np.ndarray
    known: np.ndarray
    present: np.ndarray
    scored: tuple[np.ndarray, ...]
    cuts: tuple[int, int, int]


def build(config: Forecast) -> Task:
    """Build the task from a CSV file or from a built-in source.

    Args:
        config: the `[task]` table; see `jaxlstm.config.Forecast`.

    Returns:
        A task with inputs `[B, window, 2C]` float32 (C scaled columns, C indicators of what is
        missing) and targets `[B, window, H, 2]` float32 (scaled target, weight of its error, whose
        mean over a part is 1), H outputs for every step, a `"test"` set and, unless it is empty, a
        `"validation"` set. Metrics: `mae`, `mse`, `nmse`, and with several horizons each of them
        for each.

    Raises:
        UserError: when the file is missing, malformed or too short for the windows, has no such
            column, or the carrier can neither be found nor fetched.

    Examples:
        >>> import pathlib, tempfile
        >>> from jaxlstm.config import Forecast
        >>> lines = ["x", *(str(t % 7) for t in range(200))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "my.csv"
        ...     _ = path.write_text(chr(10).join(lines))
        ...     task = build(Forecast(path=str(path), target="x", window=8, order=7))
        >>> batch = task.sample(task.data, jax.random.key(0), 3)
        >>> batch.inputs.shape, batch.targets.shape
        ((3, 8, 2), (3, 8, 1, 2))
        >>> round(task.baselines["persistence mae"], 2), abs(task.baselines["AR(7) mae"]) < 1e-6
        (1.77, True)
    """
    config = sources.with_defaults(config)
    table = sources.table(config)
    if config.target not in table.columns:
        raise UserError(
            f"task.target: expected one of {', '.join(table.columns)[:200]}, got {config.target!r}"
        )
    target, horizons = table.columns.index(config.target), tuple(config.horizons or (1,))
    inputs = [name in (config.columns or table.columns) for name in table.columns]
    cuts = sources.cuts(config, table)
    asked = [
        ask(series.values[:, target], horizons, cut)
        for series, cut in zip(table.series, cuts, strict=True)
    ]
    window = config.window or 64
    _check(config, asked, window)

    mean, deviation = _scaling(table, asked, inputs)
    features = [_features(series.values[:, inputs], mean, deviation) for series in table.series]
    change = config.predict == "change"
    wanted = [a.ahead - a.known[:, None] if change else a.ahead for a in asked]
    trained = [np.where(a.scored[0], w, np.nan) for a, w in zip(asked, wanted, strict=True)]
    centre, unit = tables.scaling(np.concatenate(trained))
    scaled = [(w - centre) / unit for w in wanted]

    evaluation = {
        part: _evaluation(features, scaled, asked, index, window)
        for index, part in enumerate(PARTS)
        if index and any(a.scored[index].any() for a in asked)
    }
    tested = np.concatenate([np.where(a.scored[2], a.ahead, np.nan) for a in asked])
    variance = np.nanvar(tested, axis=0)
    if (np.nanmax(tested, axis=0) == np.nanmin(tested, axis=0)).any():
        raise UserError(f"task.target: {config.target!r} never changes in the test part")
    baselines = autoregression.baselines(asked, horizons, config.order, variance)
    ahead = ", ".join(map(str, horizons))
    best = min(value for name, value in baselines.items() if name.endswith(" mae"))
    return Task(
        name=f"forecast of {config.target}, {ahead} step{'s' * (ahead != '1')} ahead",
        input_size=features[0].shape[1],
        output_size=len(horizons),
        tokens=False,
        every_step=True,
        data=_training(features, scaled, asked, window),
        sample=_sampler(window),
        evaluation=evaluation,
        loss=_loss(horizons, unit, variance),
        unit="squared error",
        goal=Goal.beating("test", "mae", best),
        baselines=baselines,
    )


def ask(values: np.ndarray, horizons: tuple[int, ...], cuts: tuple[int, int, int]) -> Asked:
    """Say which forecasts of one series are asked for, in which part.

    Args:
        values: `[T]` the target, NaN where missing.
        horizons: H numbers of steps.
        cuts: the first steps of validation and test, and T.

    Examples:
        >>> asked = ask(np.array([1.0, np.nan, 3.0, 4.0]), (1,), (2, 2, 4))
        >>> asked.known.tolist(), [scored[:, 0].tolist() for scored in asked.scored[::2]]
        ([1.0, 1.0, 3.0, 4.0], [[False, False, False, False], [False, False, True, False]])
    """
    steps = np.arange(len(values))
    ahead = np.full((len(values), len(horizons)), np.nan)
    for column, horizon in enumerate(horizons):
        ahead[: max(0, len(values) - horizon), column] = values[horizon:]
    latest = np.maximum.accumulate(np.where(np.isnan(values), -1, steps))
    known = np.where(latest >= 0, values[latest], np.nan)
    possible = np.isfinite(ahead) & np.isfinite(known)[:, None]
    reached = steps[:, None] + np.array(horizons)
    scored = tuple(
        possible & (steps[:, None] >= begin) & (reached < end)
        for begin, end in zip((0, *cuts), cuts, strict=False)
    )
    return Asked(ahead, known, latest == steps, scored, cuts)


def _check(config: Forecast, asked: list[Asked], window: int) -> None:
    longest = max(a.cuts[0] for a in asked)
    if longest < window:
        raise UserError(
            f"task.window: {window} steps do not fit into the training part, whose longest series "
            f"has {longest}; give a longer file, a smaller window, or smaller other parts"
        )
    for index in (0, 2):
        scored = np.sum([a.scored[index].sum(axis=0) for a in asked], axis=0)
        for horizon, count in zip(config.horizons or (1,), scored, strict=True):
            if count < 2:
                raise UserError(
                    f"task.horizons: the {PARTS[index]} part holds {count} forecasts of "
                    f"{config.target!r} {horizon} steps ahead, expected at least 2; its longest "
                    f"series has {max(a.cuts[index] - (0, *a.cuts)[index] for a in asked)} steps"
                )


def _scaling(
    table: tables.Table, asked: list[Asked], inputs: list[bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the input columns over the training rows."""
    pairs = zip(table.series, asked, strict=True)
    rows = np.concatenate([series.values[: a.cuts[0], inputs] for series, a in pairs])
    names = [name for name, taken in zip(table.columns, inputs, strict=True) if taken]
    for name, values in zip(names, rows.T, strict=True):
        if np.isnan(values).all():
            raise UserError(f"task.columns: {name!r} has no value in the training part")
    return tables.scaling(rows)


def _features(values: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Scale, put zeros where values are missing, and say where: `[T, C]` to `[T, 2C]`."""
    missing = np.isnan(values)
    scaled = np.where(missing, 0, (values - mean) / deviation)
    return np.concatenate([scaled, missing], axis=1).astype(np.float32)


def _training(
    features: list[np.ndarray], scaled: list[np.ndarray], asked: list[Asked], window: int
) -> Windows:
    firsts = np.cumsum([0, *(a.cuts[0] for a in asked)])
    starts = [
        first + np.arange(a.cuts[0] - window + 1) for first, a in zip(firsts, asked, strict=False)
    ]
    starts = np.concatenate(starts)
    counts = np.concatenate([a.scored[0][: a.cuts[0]] for a in asked])
    values = np.concatenate([s[: a.cuts[0]] for s, a in zip(scaled, asked, strict=True)])
    # Weights have the mean 1 over all windows, so that a mean over any batch needs no count.
    sums = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(counts, axis=0)])
    inside = np.mean(sums[starts + window] - sums[starts + window // 2], axis=0)
    weights = counts * window / np.where(inside > 0, inside, 1)
    targets = np.stack([np.where(counts, values, 0), weights], axis=-1)
    return Windows(
        jnp.asarray(np.concatenate([f[: a.cuts[0]] for f, a in zip(features, asked, strict=True)])),
        jnp.asarray(targets.astype(np.float32)),
        jnp.asarray(starts.astype(np.int32)),
    )


def _sampler(window: int) -> Any:
    def sample(data: Windows, key: Array, batch_size: int) -> Batch:
        chosen = jax.random.randint(key, (batch_size,), 0, data.starts.shape[0], jnp.int32)
        steps = jnp.arange(window, dtype=jnp.int32)
        places = data.starts[chosen][:, None] + steps[None]
        targets = data.targets[places]
        scored = (steps >= window // 2)[None, :, None, None]
        weights = jnp.where(scored, targets[..., 1:], 0)
        return Batch(data.features[places], jnp.concatenate([targets[..., :1], weights], axis=-1))

    return sample


def _evaluation(
    features: list[np.ndarray], scaled: list[np.ndarray], asked: list[Asked], part: int, window: int
) -> Batch:
    """Cut a part into windows whose second halves lie side by side."""
    warm = window // 2
    inputs, targets = [], []
    for feature, value, a in zip(features, scaled, asked, strict=True):
        begin, end = a.cuts[part - 1], a.cuts[part]
        starts = np.arange(begin, end, window - warm)
        places = starts[:, None] - warm + np.arange(window)
        inside = (places >= 0) & (places < len(feature))
        at = np.clip(places, 0, len(feature) - 1)
        missing = np.repeat(np.array([0, 1], np.float32), feature.shape[1] // 2)
        inputs.append(np.where(inside[..., None], feature[at], missing))
        scored = a.scored[part][at] & (inside & (np.arange(window) >= warm))[..., None]
        targets.append(np.stack([np.where(scored, value[at], 0), scored], axis=-1))
    together = np.concatenate(targets)
    share = together[..., 1].mean(axis=(0, 1))
    together[..., 1] /= np.where(share > 0, share, 1)
    return Batch(jnp.asarray(np.concatenate(inputs)), jnp.asarray(together.astype(np.float32)))


def _loss(horizons: tuple[int, ...], unit: np.ndarray, variance: np.ndarray) -> Any:
    def loss(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        outputs = wide(outputs)
        wanted, weight = jnp.moveaxis(batch.targets.astype(outputs.dtype), -1, 0)
        error = outputs - wanted
        scale, share = (jnp.asarray(a, error.dtype) for a in (unit, unit * (unit / variance)))
        squares = jnp.mean(weight * jnp.square(error), axis=(0, 1))
        mae = scale * jnp.mean(weight * jnp.abs(error), axis=(0, 1))
        each = {"mae": mae, "mse": jnp.square(scale) * squares}
        each["nmse"] = share * squares
        metrics = {name: jnp.mean(values) for name, values in each.items()}
        for index, horizon in enumerate(horizons if len(horizons) > 1 else ()):
            metrics |= {f"{name}_at_{horizon}": values[index] for name, values in each.items()}
        return jnp.mean(squares), metrics

    return loss
