"""A training: what is asked, what is expected, and everything that decides the result."""

from typing import Annotated, Literal

from msgspec import Meta

from jaxlstm.config.base import Kind, Name, Part, Seeds, Steps, check_seeds, seed_list
from jaxlstm.config.model import Model
from jaxlstm.config.optimizer import Optimizer
from jaxlstm.config.penalty import Penalty
from jaxlstm.config.tasks import Task


class Streak(Kind, frozen=True, kw_only=True, tag="streak"):
    """A seed stops when its last updates were good enough, each taken before it was learnt from.

    Args:
        window: how many updates are looked at; so many must have been made.
        metric: the training metric whose mean over them must be smaller than `below`.
        below: that bound.
        right: a training metric that must be 0 in every one of them, such as the share of
            sequences that were wrong; none if left out.
    """

    window: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000
    metric: str
    below: float
    right: str | None = None


class Reached(Kind, frozen=True, kw_only=True, tag="goal"):
    """A seed stops at the first evaluation at which it reaches the goal."""


Stop = Streak | Reached


class Mesh(Part, frozen=True, kw_only=True):
    """How many devices a training takes: data × hidden.

    Args:
        data: over so many the rows of each batch are spread.
        hidden: over so many the hidden units are spread, and with them parameters and optimiser:
            for networks that outgrow a device.
    """

    data: Annotated[int, Meta(ge=1, le=100_000)] = 1
    hidden: Annotated[int, Meta(ge=1, le=100_000)] = 1


class Train(Part, frozen=True, kw_only=True):
    """How long, in what portions, and what is written down on the way.

    Every interval is in steps, a step being one update of the parameters. Only `steps`,
    `batch_size`, `stop` and `not_finite` change what is learnt.

    Args:
        steps: updates in all, at most where there is a stop rule.
        batch_size: sequences of an update.
        steps_per_dispatch: updates that run before Python has a say; a second's worth is good.
        log_every: training metrics are means over so many steps.
        evaluate_every: the evaluation set of the goal is scored; all sets are at the end.
        evaluate: "goal" for that set alone on the way, "all" for every set.
        stop: when a seed is done before; each stops by itself. Never if left out.
        not_finite: what an update does whose loss or gradient is not finite: "stop" ends the run
            with the place where it broke, "skip" leaves parameters and optimiser as they are; the
            metric `skipped` counts those updates, which no other metric takes in.
        checkpoint_every: the state is saved; at the end only if left out.
        tensorboard: write TensorBoard event files too, to `tensorboard/` in the run folder.
        seeds_by: how several seeds run: "vmap" maps the step over them, on a CPU in a group for
            each core, which suits small networks; "threads" runs each by itself; "auto" takes
            "threads" on a CPU and "vmap" elsewhere.
        mesh: the devices that a seed takes; a CPU counts as as many as are asked for. "auto"
            spreads the batches of one seed alone over all devices, on a CPU over its cores where a
            layer's parameters have 6 MB at most, and gives each of several seeds one, as it does a
            seed whose batches are single sequences. The numbers of a run depend on it in their
            rounding, so a run that is to be repeated bit for bit on another machine says it.
    """

    steps: Steps
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000)]
    steps_per_dispatch: Steps = 100
    log_every: Steps = 100
    evaluate_every: Steps = 1000
    evaluate: Literal["goal", "all"] = "goal"
    stop: Stop | None = None
    not_finite: Literal["stop", "skip"] = "stop"
    checkpoint_every: Steps | None = None
    tensorboard: bool = False
    seeds_by: Literal["auto", "vmap", "threads"] = "auto"
    mesh: Literal["auto"] | Mesh = "auto"


class Goal(Part, frozen=True, kw_only=True):
    """The score that is expected, where it is not the one that the task calls solved.

    Args:
        metric: the metric; the task's if left out.
        split: the evaluation set; the task's if left out.
        below: the score must be smaller.
        above: the score must be larger. Exactly one of the two is given.
        seeds: whether every seed must reach it, or the median over the seeds.
    """

    metric: str | None = None
    split: str | None = None
    below: float | None = None
    above: float | None = None
    seeds: Literal["every", "median"] = "median"

    def __post_init__(self) -> None:
        if (self.below is None) == (self.above is None):
            came = "neither" if self.below is None else "both"
            raise ValueError(f"expected exactly one of `below` and `above`, got {came}")


class Sample(Part, frozen=True, kw_only=True):
    """Text written by the network of the first seed, for tasks over text.

    Args:
        every: steps between samples; at the end only if left out.
        characters: how long.
        temperature: what the logits are divided by: below 1 is more cautious.
        prompt: what the network reads first.
    """

    every: Steps | None = None
    characters: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    temperature: Annotated[float, Meta(ge=1e-6, le=100)] = 0.8
    prompt: Annotated[str, Meta(min_length=1, max_length=100_000)] = "\n"


class Gradients(Part, frozen=True, kw_only=True):
    """Measurements of gradients and gates while the network trains.

    Args:
        every: steps between measurements; they are also made before the first step.
        sequences: how many sequences of a batch are looked at.
    """

    every: Steps
    sequences: Annotated[int, Meta(ge=1, le=1_000_000)] = 8


class Experiment(Kind, frozen=True, kw_only=True, tag="training"):
    """One training of one network on one task, over several seeds.

    Args:
        name: what the run folder is called after.
        question: what the experiment asks.
        expected: the score and the time to expect, in words.
        seeds: how many (0, 1, …), or a list of them.
        task: what is learnt.
        model: the network.
        optimizer: the optimiser.
        train: how long.
        penalty: a term added to the loss that acts on gradients; none if left out.
        goal: the score that is expected; the task's own if left out.
        sample: text to be written by the network; none if left out.
        gradients: measurements of gradients on the way; none if left out.

    Examples:
        >>> from jaxlstm.config import LSTM, Adam, Adding, Experiment, Train
        >>> experiment = Experiment(
        ...     name="tiny",
        ...     question="does it run?",
        ...     expected="yes, in seconds",
        ...     seeds=2,
        ...     task=Adding(length=10),
        ...     model=LSTM(hidden_size=8),
        ...     optimizer=Adam(learning_rate=1e-3),
        ...     train=Train(steps=100, batch_size=32),
        ... )
        >>> experiment.seed_list
        (0, 1)
    """

    name: Name
    question: str
    expected: str
    seeds: Seeds = 1
    task: Task
    model: Model
    optimizer: Optimizer
    train: Train
    penalty: Penalty | None = None
    goal: Goal | None = None
    sample: Sample | None = None
    gradients: Gradients | None = None

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        warmup = self.optimizer.schedule.warmup_steps
        if warmup and warmup >= self.train.steps:
            raise ValueError(
                f"optimizer.schedule.warmup_steps: expected int < train.steps = "
                f"{self.train.steps}, got {warmup}"
            )

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds, one by one."""
        return seed_list(self.seeds)
