"""A reproduction: what a paper reports, the trainings that measure it again, and what must hold."""

from typing import Annotated, Literal

from msgspec import Meta

from jaxlstm.config.base import Kind, Name, Part, check_different
from jaxlstm.config.experiment import Experiment
from jaxlstm.config.studies import Study

Statistic = Literal[
    "count", "mean", "median", "smallest", "largest", "difference", "ratio", "share difference"
]


class Check(Part, frozen=True, kw_only=True):
    """One number of a reproduction, and the band it must lie in.

    Args:
        what: the quantity in words, with its unit.
        metric: the metric, after the set it is taken on: "test cross_entropy"; "stop updates" and
            "stop stopped" are how many updates a seed made and whether its stop rule ended them.
        arms: the trainings whose seeds are taken together; all if left out.
        against: the trainings that "difference" and "ratio" compare them with.
        statistic: of the values of all seeds. "count" counts those that lie below `below` or above
            `above`, or are not 0 where neither is given; "difference" and "ratio" are those of the
            means; "share difference" is that of the shares that "count" counts.
        below: for counting.
        above: for counting.
        stopped: take only the seeds that their stop rule ended.
        lowest: another metric with its set: the score is taken at the evaluation at which this one
            was lowest; at the end if left out.
        low: lower end of the band.
        high: upper end of the band.
        share: whether the band of a count is a share of the seeds.
        beats: the name of a baseline of the trainings, such as "persistence mae", that the value
            must be better than.
        better: whether "lower" values are better, or "higher" ones, than a baseline.
        rule: what must lie in the band: the "value", the whole "interval", or some of the interval
            ("overlap").
    """

    what: str
    metric: str
    arms: tuple[Name, ...] = ()
    against: tuple[Name, ...] = ()
    statistic: Statistic = "mean"
    below: float | None = None
    above: float | None = None
    stopped: bool = False
    lowest: str | None = None
    low: float | None = None
    high: float | None = None
    share: bool = False
    beats: str | None = None
    better: Literal["lower", "higher"] = "lower"
    rule: Literal["value", "interval", "overlap"] = "value"

    def __post_init__(self) -> None:
        compares = self.statistic in ("difference", "ratio", "share difference")
        if compares != bool(self.against):
            expected = "one or more arms" if compares else "none"
            raise ValueError(f'against: expected {expected} with statistic = "{self.statistic}"')
        if self.beats is not None and (self.high is not None or self.low is not None):
            raise ValueError("expected a band or `beats`, got both")
        if self.share and self.statistic != "count":
            raise ValueError(f'share: expected false with statistic = "{self.statistic}"')


class Reproduction(Kind, frozen=True, kw_only=True, tag="reproduction"):
    """What a paper reports, measured again.

    In the file, a table `[shared]` holds the keys that all arms have, and `[quick]` the keys that a
    short version changes; keys of its table `shared` change those of every arm. An arm with
    `from = "configs/laser.toml"` has that config's keys where it gives none.

    Args:
        name: what the folder is called.
        row: where it stands in the table.
        question: what is asked.
        expected: the result and the time to expect, in words.
        paper: whose result it is, with the experiment's number there.
        protocol: how it was and is measured, in a sentence.
        published: the published figure, in words.
        readings: where the paper leaves something open, what was taken.
        arms: the trainings, each with a name of its own.
        study: a gradient study instead, whose predictions are the checks.
        checks: what must hold.
    """

    name: Name
    row: Annotated[int, Meta(ge=1, le=1000)]
    question: str
    expected: str
    paper: str
    protocol: str
    published: str
    readings: tuple[str, ...] = ()
    arms: tuple[Experiment, ...] = ()
    study: Study | None = None
    checks: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if bool(names) == (self.study is not None):
            raise ValueError("arms: expected one or more arms, or a study instead")
        check_different("arms", names, "names")
        if bool(self.checks) != bool(names):
            raise ValueError(f"checks: expected {'one or more' if names else 'none with a study'}")
        for index, check in enumerate(self.checks):
            for key, wanted in (("arms", check.arms), ("against", check.against)):
                for name in wanted:
                    if name not in names:
                        known = ", ".join(names)
                        raise ValueError(
                            f"checks: {key} of number {index + 1}: expected one of {known}, got "
                            f"{name!r}"
                        )
                check_different(f"checks: {key} of number {index + 1}", wanted, "names")
