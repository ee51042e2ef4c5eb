"""The commands and their options, and what a user types made into them."""

import contextlib
import io
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from jaxlstm.errors import UserError

OVERRIDE = re.compile(r"--([A-Za-z_][\w-]*(?:\.[\w-]+)+)(?:=(.*))?", re.DOTALL)
NO_NUMBER = re.compile(
    r"Error parsing (\S+): (?:no type matching .*? from \[|invalid literal .*?: "
    r"|could not convert .*?: )('.*?')"
)
"""What tyro says of a word where a number is wanted."""
Overrides = list[tuple[str, str]]
Files = Annotated[tuple[str, ...], arg(metavar="CONFIG...", help_behavior_hint="")]
Folders = Annotated[tuple[str, ...], arg(metavar="RUN...", help_behavior_hint="")]


@dataclass(frozen=True)
class Run:
    """Train what each config describes, and write a run folder with a report.

    Any key of the config can be given by its dotted name, for instance --task.length 200
    --model.hidden-size 64 --optimizer.learning-rate 3e-3. The last line printed is the path of the
    report.
    """

    configs: Positional[Files] = ()
    """Config files of trainings, such as configs/adding.toml."""
    seeds: Annotated[str | None, arg(metavar="N", help_behavior_hint="")] = None
    """How many seeds, 0, 1, and so on; or a list of them, such as [3,7]."""
    resume: Folders = ()
    """Go on with these runs from their last checkpoints, bit for bit, instead of new ones; beyond
    their end where --train.steps says so, with their data at --task.path if those have moved."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The run folder; runs/NAME-DATE-TIME if left out."""
    quiet: bool = False
    """Show no progress."""
    tensorboard: bool = False
    """Write TensorBoard event files too, to `tensorboard/` in the run folder."""
    debug_nans: bool = False
    """Where numbers stop being finite, find the operation that made the first."""
    distributed: bool = False
    """Be one of several processes that train together, found from what a cluster tells its jobs
    (SLURM, Open MPI, Kubernetes, TPU)."""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Be one of several processes; this is where the first of them listens."""
    processes: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """How many processes there are, with --coordinator."""
    process_id: Annotated[int | None, arg(metavar="I", help_behavior_hint="")] = None
    """Which of them this is, from 0, with --coordinator."""


@dataclass(frozen=True)
class Study:
    """Measure what each config of a study describes, and write a run folder with a report.

    Any key of the config can be given by its dotted name. The last line printed is the path of the
    report.
    """

    configs: Positional[Files]
    """Config files of studies."""
    full: bool = False
    """The longer version: the config's table [full] changes its keys."""
    seeds: Annotated[str | None, arg(metavar="N", help_behavior_hint="")] = None
    """How many seeds, 0, 1, and so on; or a list of them, such as [3,7]."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The run folder; runs/NAME-DATE-TIME if left out."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class Reproduce:
    """Measure published results again, and write one table of them.

    Each is a config in configs/reproductions/. What is there already is kept, and what was
    interrupted goes on: the same command again makes the table whole. Any key of a config can be
    given by its dotted name, those of all its trainings with shared. before them, for instance
    --shared.task.path my/JSB_Chorales.mat. The last line printed is the path of the table.
    """

    names: Annotated[
        Positional[tuple[str, ...]], arg(metavar="NAME...", help_behavior_hint="")
    ] = ()
    """Names of configs in configs/reproductions/, or paths; all of them if left out."""
    quick: bool = False
    """A short version of each: fewer seeds, shorter tasks."""
    seeds: Annotated[str | None, arg(metavar="N", help_behavior_hint="")] = None
    """How many seeds each training has, instead of what the configs say."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The folder of the table; runs/reproductions if left out, runs/quick with --quick."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class Sweep:
    """Train under many settings, each run in a process of its own, and rank them.

    The config is that of a sweep, or of a training some of whose keys are given lists of values:
    --model.hidden-size '[16, 32]' --optimizer.learning-rate '[1e-3, 1e-2]'. Runs that have finished
    are kept and others go on: the same command again makes a sweep whole. The last line printed is
    the path of the report.
    """

    config: Annotated[Positional[str], arg(metavar="CONFIG")]
    """Config file of a sweep, such as one of configs/sweeps/, or of a training."""
    seeds: Annotated[str | None, arg(metavar="N", help_behavior_hint="")] = None
    """How many seeds each setting has, 0, 1, and so on; or a list of them, such as [3,7]."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """How many runs at a time, each with its share of the cores; one for each core if left out."""
    retries: Annotated[int, arg(metavar="N")] = 2
    """How often a run is tried again that failed or was killed, from its last checkpoint."""
    scheduler: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Run on the cluster of this Dask scheduler, such as tcp://10.0.0.5:8786, not here."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The folder of the sweep; runs/NAME if left out."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class Report:
    """Make the reports of runs again, from their folders alone."""

    runs: Positional[Folders]
    """Run folders."""


@dataclass(frozen=True)
class List:
    """List the runs in a folder, the latest first: state, best score, age, size.

    A run is dead that was recorded as running and whose process is gone.
    """

    folder: Annotated[Positional[str], arg(metavar="DIR")] = "runs"
    """The folder that holds the run folders."""


@dataclass(frozen=True)
class Watch:
    """Follow a run until it ends, from this terminal or another: what it measures, as it does."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The run folder."""
    every: Annotated[float, arg(metavar="SECONDS", help_behavior_hint="")] = 1.0
    """How often the folder is looked at."""


@dataclass(frozen=True)
class Export:
    """Write the trained network of a run as one file for another program.

    The last line printed is the path of the file.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The run folder of a training."""
    to: Annotated[Literal["onnx", "torch", "keras", "safetensors"], arg(help_behavior_hint="")]
    """What the file is for."""
    out: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """The file, which ends with .onnx, .keras or .safetensors; in the run's folder if left out."""
    seed: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Which seed of a run with several; the first if left out."""


@dataclass(frozen=True)
class Sample:
    """Let a network that was trained on text write: what it read first, and what it wrote after it.

    What is left out is as the run's own [sample] has it. The same command writes the same again.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The run folder of a training on text; the text itself need not be there any more."""
    prompt: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """What the network reads first."""
    characters: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """How many characters it writes."""
    temperature: Annotated[float | None, arg(metavar="T", help_behavior_hint="")] = None
    """Below 1 it is more cautious, above 1 bolder."""
    draw: Annotated[int, arg(metavar="N", help_behavior_hint="")] = 0
    """Another number is another throw of the dice, and another text."""
    seed: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Which seed of a run with several; the first if left out."""


Command = (
    Annotated[Run, subcommand("run")]
    | Annotated[Study, subcommand("study")]
    | Annotated[Reproduce, subcommand("reproduce")]
    | Annotated[Sweep, subcommand("sweep")]
    | Annotated[Report, subcommand("report")]
    | Annotated[List, subcommand("list")]
    | Annotated[Watch, subcommand("watch")]
    | Annotated[Sample, subcommand("sample")]
    | Annotated[Export, subcommand("export")]
)

Commands = Run | Study | Reproduce | Sweep | Report | List | Watch | Sample | Export


def parse(given: list[str]) -> tuple[Commands, Overrides]:
    """Read a command line.

    Options with a dotted name are taken out first: a config, not the command line, knows them.

    Args:
        given: what follows the command's name.

    Returns:
        The command, and the pairs of dotted name and value.

    Raises:
        UserError: when it cannot be read.
        SystemExit: with status 0, when help was asked for and given.

    Examples:
        >>> command, overrides = parse(["run", "configs/adding.toml", "--task.length", "200"])
        >>> command.configs, overrides
        (('configs/adding.toml',), [('task.length', '200')])
    """
    rest, overrides = _split(given)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command: Any = tyro.cli(
                Command,  # type: ignore[arg-type]
                prog="jaxlstm",
                description="Recurrent networks: trainings, gradient studies, and their reports.",
                args=rest,
                config=(tyro.conf.HelptextFromCommentsOff, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UserError(_condensed(said.getvalue())) from None
    if overrides and not isinstance(command, Run | Study | Reproduce | Sweep):
        raise UserError(
            f"--{overrides[0][0]}: only `run`, `study`, `reproduce` and `sweep` take keys of a "
            "config"
        )
    return command, overrides


def _split(given: list[str]) -> tuple[list[str], Overrides]:
    """Take the options with a dotted name out: a config, not the command line, knows them."""
    rest, overrides = [], []
    arguments = iter(given)
    for argument in arguments:
        match = OVERRIDE.fullmatch(argument)
        if match is None:
            rest.append(argument)
            continue
        value = match[2] if match[2] is not None else next(arguments, None)
        if value is None or OVERRIDE.fullmatch(value):
            raise UserError(f"{argument}: expected a value after it")
        overrides.append((match[1], value))
    return rest, overrides


def _condensed(box: str) -> str:
    """What a framed message says, on one line.

    Its paragraphs stand between rules. Where the output takes no box characters the title is a
    paragraph too, else it is part of the frame.
    """
    paragraphs: list[list[str]] = [[]]
    for line in (line.strip(" │") for line in box.splitlines()):
        if line.startswith(("╭", "╰")) or (line and set(line) <= {"─", "-"}):
            paragraphs.append([])
        elif line:
            paragraphs[-1].append(line)
    said = [paragraph for paragraph in paragraphs if paragraph]
    if "╭" not in box:
        said = said[1:]
    text = " ".join(said[0]) if said else "cannot read the command line"
    wrong = NO_NUMBER.match(text)
    if wrong:
        kind = "a number" if "FLOAT" in text or "float" in text else "an integer"
        return f"{wrong[1]}: expected {kind}, got {wrong[2]}"
    near = next((lines[1] for lines in said if lines[0] == "Perhaps you meant:"), "")
    return f"{text}{f'; did you mean {near.split()[0]}?' if near else '; see jaxlstm --help'}"
