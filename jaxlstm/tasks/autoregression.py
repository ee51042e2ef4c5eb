"""What a forecast is held against: the last known value, and an autoregression."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxlstm.tasks.forecast import Asked


def baselines(
    asked: "Sequence[Asked]", horizons: Sequence[int], order: int, variance: np.ndarray
) -> dict[str, float]:
    """Score both on the forecasts of the test part.

    Args:
        asked: what each series is asked.
        horizons: H numbers of steps.
        order: p, the values that the autoregression reads.
        variance: `[H]`, what `nmse` divides by.

    Returns:
        `persistence` and `AR(p)`, each with the metrics of the task. The autoregression is left
        out where the training part has no p + 1 rows to fit it to.
    """
    count = len(horizons)
    persistence = [np.repeat(a.known[:, None], count, axis=1) for a in asked]
    found = _scores("persistence", persistence, asked, horizons, variance)
    lags = [lagged(a.known, order) for a in asked]
    linear = [np.empty_like(a.ahead) for a in asked]
    for column in range(count):
        rows, wanted = [], []
        for a, lag in zip(asked, lags, strict=True):
            whole = a.scored[0][:, column] & complete(a, order)
            rows.append(lag[whole])
            wanted.append(a.ahead[whole, column])
        design, answers = np.concatenate(rows), np.concatenate(wanted)
        if len(answers) < order + 1:
            return found
        weights = np.linalg.lstsq(design, answers, rcond=None)[0]
        for lag, forecast in zip(lags, linear, strict=True):
            forecast[:, column] = lag @ weights
    return found | _scores(f"AR({order})", linear, asked, horizons, variance)


def lagged(known: np.ndarray, order: int) -> np.ndarray:
    """Lay the last `order` known values side by side: `[T]` to `[T, order + 1]`, 1 at the end.

    Before the first known value stands that value.

    Examples:
        >>> lagged(np.array([5.0, 6.0, 7.0]), 2).tolist()
        [[5.0, 5.0, 1.0], [6.0, 5.0, 1.0], [7.0, 6.0, 1.0]]
    """
    first = int(np.argmax(~np.isnan(known)))
    at = np.arange(len(known))[:, None] - np.arange(order)
    return np.concatenate([known[np.maximum(at, first)], np.ones((len(known), 1))], axis=1)


def complete(asked: "Asked", order: int) -> np.ndarray:
    """Where the last `order` values are all there themselves, `[T]` bool."""
    there = asked.present
    sums = np.concatenate([[0], np.cumsum(there)])
    at = np.arange(len(there))
    return (at >= order - 1) & (sums[at + 1] - sums[np.maximum(at + 1 - order, 0)] == order)


def _scores(
    name: str,
    forecasts: Sequence[np.ndarray],
    asked: "Sequence[Asked]",
    horizons: Sequence[int],
    variance: np.ndarray,
) -> dict[str, float]:
    errors = [
        np.where(a.scored[2], forecast - a.ahead, np.nan)
        for a, forecast in zip(asked, forecasts, strict=True)
    ]
    error = np.concatenate(errors)
    each = {"mae": np.nanmean(np.abs(error), axis=0), "mse": np.nanmean(error**2, axis=0)}
    each["nmse"] = each["mse"] / variance
    found = {f"{name} {metric}": float(values.mean()) for metric, values in each.items()}
    for index, horizon in enumerate(horizons if len(horizons) > 1 else ()):
        for metric, values in each.items():
            found[f"{name} {metric}_at_{horizon}"] = float(values[index])
    return found
