"""A number of a reproduction from the seeds of its trainings: interval, band and verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from jaxlstm import config, runs
from jaxlstm.errors import UserError
from jaxlstm.training import scores

RESAMPLES = 9999
FEW = 5
"""Seeds from which on a bootstrap is worth its name."""
Interval = tuple[float, float]


def judge(check: config.Check, folders: Mapping[str, Path]) -> runs.Score:
    """Compute what a check asks for, and hold it against its band.

    Intervals are of 95 %: Wilson's for counts (Wilson 1927), Newcombe's for a difference of shares
    (Newcombe 1998), bootstrap for the rest (Efron 1987, bias-corrected and accelerated; percentiles
    for the median and for comparisons), with fixed random numbers. Fewer than five seeds are too
    few to draw from: means have Student's interval there, a difference of means Welch's (Welch
    1947), and other statistics none. A band that asks for an interval is missed where there is
    none, and any band where one of the trainings failed: there is then no statistic. A seed that is
    not finite at the end of a training that was finished is one that does not count.

    Args:
        check: the check.
        folders: the run folder of every arm, by its name.

    Returns:
        A `Score` whose `mean` is the statistic; its verdict is "reported" without a band.

    Raises:
        UserError: when a training has no such metric or baseline.
    """
    names = check.arms or tuple(folders)
    ours, theirs = ([folders[name] for name in given] for given in (names, check.against))
    values, others = _values(check, ours), _values(check, theirs)
    failed = any(runs.read_manifest(folder).state == "failed" for folder in (*ours, *theirs))
    value, span = (math.nan, None) if failed else _measure(check, values, others)
    low, high = check.low, check.high
    if check.share:
        low, high = (None if b is None else b * len(values) for b in (low, high))
    if check.beats is not None:
        bound = _baseline(check.beats, folders[names[0]])
        low, high = (None, bound) if check.better == "lower" else (bound, None)
    verdict = "reported"
    if low is not None or high is not None:
        verdict = "met" if _holds(check, value, span, low, high) else "missed"
    ends = span if span is not None and all(map(math.isfinite, span)) else (None, None)
    return runs.Score(
        metric=check.what,
        values=list(map(runs.finite, (*values, *others))),
        mean=runs.finite(value),
        low=ends[0],
        high=ends[1],
        expected=_band(check, low, high, len(values)),
        verdict=verdict,
    )


def _values(check: config.Check, folders: Sequence[Path]) -> np.ndarray:
    """One number for each seed, over all trainings."""
    found = [value for folder in folders for value in _of_training(check, folder)]
    return np.array(found, np.float64)


def _of_training(check: config.Check, folder: Path) -> list[float]:
    """One number for each seed; none is a number of a training that failed before its end."""
    manifest = runs.read_manifest(folder)
    if manifest.state == "failed":
        return [math.nan] * len(manifest.seeds)
    records = runs.read_jsonl(folder, "metrics.jsonl")
    series = _series(records, check.metric, folder)
    step = max(series)
    values = series[step]
    if check.lowest is not None:
        guide = _series(records, check.lowest, folder)
        shared = sorted(set(series) & set(guide))
        lost = {step: np.isnan(found) for step, found in guide.items()}
        best = [
            min(shared, key=lambda s: (lost[s][seed], guide[s][seed]))
            for seed in range(len(values))
        ]
        values = [series[step][seed] for seed, step in enumerate(best)]
    if check.stopped:
        stopped = _series(records, "stop stopped", folder)
        values = [v for v, end in zip(values, stopped[max(stopped)], strict=True) if end]
    return values


def _series(records: Any, metric: str, folder: Path) -> dict[int, list[float]]:
    """The values of a metric by step; what was not finite is no number."""
    split, _, name = metric.partition(" ")
    found = {
        record["step"]: [math.nan if v is None else v for v in record["metrics"][name]]
        for record in records
        if record["split"] == split and name in record["metrics"]
    }
    if not found:
        known = sorted({f"{r['split']} {n}" for r in records for n in r["metrics"] if "." not in n})
        raise UserError(
            f"checks: expected a metric of '{folder.name}' ({', '.join(known)}), got {metric!r}"
        )
    return found


def _baseline(name: str, folder: Path) -> float:
    baselines = runs.read_manifest(folder).baselines
    if name not in baselines:
        known = ", ".join(baselines) or "none"
        raise UserError(f"checks: beats: expected a baseline of the task ({known}), got {name!r}")
    return baselines[name]


def _measure(
    check: config.Check, values: np.ndarray, others: np.ndarray
) -> tuple[float, Interval | None]:
    """The statistic and its interval; no number where there are no seeds."""
    if not len(values) or (check.against and not len(others)):
        return (0.0 if check.statistic == "count" else math.nan), None
    match check.statistic:
        case "count":
            hits = int(_counted(check, values).sum())
            low, high = _wilson(hits, len(values))
            return float(hits), (low * len(values), high * len(values))
        case "share difference":
            return _newcombe(_counted(check, values), _counted(check, others))
        case "difference":
            if min(len(values), len(others)) < FEW:
                return _welch(values, others)
            return _bootstrapped(lambda a, b: np.mean(a, -1) - np.mean(b, -1), values, others)
        case "ratio":
            return _bootstrapped(lambda a, b: np.mean(a, -1) / np.mean(b, -1), values, others)
        case "smallest":
            return float(values.min()), None
        case "largest":
            return float(values.max()), None
        case "median":
            return _bootstrapped(lambda a: np.median(a, -1), values)
        case "mean":
            if len(values) < FEW:
                return float(values.mean()), scores.interval(values.tolist())
            return _bootstrapped(lambda a: np.mean(a, -1), values, method="BCa")


def _counted(check: config.Check, values: np.ndarray) -> np.ndarray:
    counted = np.isfinite(values)
    if check.below is not None:
        counted &= values < check.below
    if check.above is not None:
        counted &= values > check.above
    if check.below is None and check.above is None:
        counted &= values != 0
    return counted


def _wilson(hits: int, trials: int) -> Interval:
    found = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def _newcombe(ours: np.ndarray, others: np.ndarray) -> tuple[float, Interval]:
    """A difference of shares, and Newcombe's interval from the two of Wilson."""
    p, q = float(ours.mean()), float(others.mean())
    (low_p, high_p), (low_q, high_q) = (_wilson(int(x.sum()), len(x)) for x in (ours, others))
    below = math.hypot(p - low_p, high_q - q)
    above = math.hypot(high_p - p, q - low_q)
    return p - q, (p - q - below, p - q + above)


def _welch(*samples: np.ndarray) -> tuple[float, Interval | None]:
    """A difference of two means, and the interval by Student's distribution."""
    value = float(np.subtract(*(sample.mean() for sample in samples)))
    if not math.isfinite(value) or any(len(sample) < 2 for sample in samples):
        return value, None
    squares = [float(sample.var(ddof=1)) / len(sample) for sample in samples]
    total = math.fsum(squares)
    if total == 0:
        return value, (value, value)
    each = zip(squares, samples, strict=True)
    freedom = total**2 / math.fsum(square**2 / (len(sample) - 1) for square, sample in each)
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(total)
    return value, (value - half, value + half)


def _bootstrapped(
    statistic: Callable[..., Any], *samples: np.ndarray, method: str = "percentile"
) -> tuple[float, Interval | None]:
    value = float(statistic(*samples))
    if not math.isfinite(value) or any(len(sample) < FEW for sample in samples):
        return value, None
    if all(np.ptp(sample) == 0 for sample in samples):
        return value, (value, value)
    found = stats.bootstrap(
        samples,
        lambda *resampled, axis=-1: statistic(*resampled),
        n_resamples=RESAMPLES,
        method=method,
        rng=np.random.default_rng(0),
        axis=-1,
    ).confidence_interval
    return value, (float(found.low), float(found.high))


def _holds(
    check: config.Check,
    value: float,
    span: Interval | None,
    low: float | None,
    high: float | None,
) -> bool:
    if check.rule == "value":
        span = (value, value)
    if not math.isfinite(value) or span is None:
        return False
    bottom, top = span
    if check.rule == "overlap":
        bottom, top = top, bottom
    # A baseline must be beaten, and an interval that is to exclude a bound may not touch it.
    strict = check.beats is not None or check.rule == "interval"
    above = low is None or (bottom > low if strict else bottom >= low)
    return above and (high is None or (top < high if strict else top <= high))


def _band(check: config.Check, low: float | None, high: float | None, seeds: int) -> str | None:
    if low is None and high is None:
        return None
    of = {"value": "", "interval": "interval ", "overlap": "interval meets "}[check.rule]
    total = f" of {seeds}" if check.statistic == "count" else ""
    if low is not None and high is not None:
        return f"{of}{low:.6g} to {high:.6g}{total}"
    strict = check.beats is not None or check.rule == "interval"
    sign = ("<" if strict else "≤") if low is None else (">" if strict else "≥")
    baseline = f", {check.beats}" if check.beats is not None else ""
    return f"{of}{sign} {low if low is not None else high:.6g}{total}{baseline}"
