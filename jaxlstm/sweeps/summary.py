"""What a sweep found: its settings with their scores, best first, and how each run stands."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from jaxlstm import runs
from jaxlstm.sweeps import tries
from jaxlstm.sweeps.plan import Plan, Setting, said
from jaxlstm.tasks import Goal
from jaxlstm.training import scores

State = Literal["finished", "failed", "interrupted", "running", "waiting"]


@dataclass(frozen=True)
class Standing:
    """How a run of a sweep stands.

    Args:
        name: the run.
        state: "waiting" where it has not begun.
        tries: how many there were, over all sittings.
        reason: why the last did not finish; empty where it did.
        manifest: of the run; None where it has none.
    """

    name: str
    state: State
    tries: int
    reason: str
    manifest: runs.Manifest | None


@dataclass(frozen=True)
class Ranked:
    """A setting with its score over those of its runs that have finished.

    Args:
        setting: the values.
        score: of the goal's metric; None where no run has finished.
        finished: how many of its runs have.
        seconds: how long they took together.
    """

    setting: Setting
    score: runs.Score | None
    finished: int
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether all its runs have finished."""
        return self.finished == len(self.setting.runs)


def standing(folder: Path, name: str) -> Standing:
    """Look up how a run stands that nobody works on now."""
    manifest = tries.manifest(folder / name)
    count, reason = tries.count(folder, name), tries.reason(folder, name)
    if manifest is not None and manifest.state == "finished":
        return Standing(name, "finished", count, "", manifest)
    if reason:
        return Standing(name, "failed", count, reason, manifest)
    return Standing(name, "interrupted" if manifest else "waiting", count, "", manifest)


def rank(plan: Plan, goals: Sequence[Goal], standings: Mapping[str, Standing]) -> list[Ranked]:
    """Put the settings in order: the best first; those with runs that did not finish after them."""
    found = [
        _ranked(setting, goal, [standings[name] for name in setting.runs])
        for setting, goal in zip(plan.settings, goals, strict=True)
    ]
    sign = -1.0 if goals[0].larger else 1.0

    def place(one: Ranked) -> tuple[bool, bool, float]:
        mean = one.score.mean if one.score else None
        return mean is None, not one.whole, math.inf if mean is None else sign * mean

    return sorted(found, key=place)


def summary(ranked: Sequence[Ranked]) -> list[runs.Score]:
    """Give the scores for the manifest, best first, each named after its setting."""
    return [
        msgspec.structs.replace(
            one.score,
            metric=one.score.metric + (f" with {one.setting.label}" if one.setting.values else ""),
            expected=None,
            verdict="reported",
        )
        for one in ranked
        if one.score is not None
    ]


def write_tables(folder: Path, ranked: Sequence[Ranked], standings: Mapping[str, Standing]) -> None:
    """Write `tables/1-settings.json` and `tables/2-runs.json`."""
    keys = list({key: None for one in ranked for key in one.setting.values})
    runs.write_table(
        folder,
        "1-settings",
        title="Settings",
        caption="Best first, those with runs that did not finish after the others. Mean over the "
        "seeds with its 95 % interval.",
        columns=[*keys, "score", "mean", "low", "high", "goal", "verdict", "finished"],
        rows=[[*(_cell(one.setting, key) for key in keys), *_scored(one)] for one in ranked],
    )
    runs.write_table(
        folder,
        "2-runs",
        title="Runs",
        caption="Each is a run folder beside this page, with a report of its own.",
        columns=["run", "state", "tries", "score", "seconds", "why it did not finish"],
        rows=[
            [
                one.name,
                one.state,
                one.tries,
                one.manifest.summary[0].mean if one.manifest and one.manifest.summary else None,
                one.manifest.seconds if one.manifest else None,
                one.reason,
            ]
            for one in standings.values()
        ],
    )


def _ranked(setting: Setting, goal: Goal, standings: Sequence[Standing]) -> Ranked:
    done = [one.manifest for one in standings if one.state == "finished" and one.manifest]
    seconds = math.fsum(manifest.seconds for manifest in done)
    values = [
        math.nan if value is None else value
        for manifest in done
        for score in manifest.summary
        if score.metric == f"{goal.split} {goal.metric}"
        for value in score.values
    ]
    if not values:
        return Ranked(setting, None, len(done), seconds)
    score = scores.summary({goal.split: {goal.metric: values}}, goal)[0]
    return Ranked(setting, score, len(done), seconds)


def _cell(setting: Setting, key: str) -> Any:
    value = setting.values.get(key, "")
    return value if isinstance(value, bool | int | float | str) else said(value)


def _scored(one: Ranked) -> list[Any]:
    finished = f"{one.finished} of {len(one.setting.runs)}"
    if one.score is None:
        return ["", None, None, None, "", "", finished]
    score = one.score
    return [
        score.metric,
        score.mean,
        score.low,
        score.high,
        score.expected or "",
        score.verdict,
        finished,
    ]
