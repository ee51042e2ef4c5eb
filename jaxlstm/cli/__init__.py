"""The command `jaxlstm`: train, study, reproduce, sweep, report, sample, export, list and watch.

Exit status: 0; 2 and one line for what the user got wrong; 1 for a training whose numbers stopped
being finite; 130 for one that was interrupted. What a command needs is imported when it runs.
"""

import contextlib
import functools
import shlex
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxlstm import runs
from jaxlstm.cli import running, sweeping
from jaxlstm.cli.arguments import (
    Export,
    List,
    Overrides,
    Report,
    Reproduce,
    Run,
    Sample,
    Study,
    Sweep,
    Watch,
    parse,
)
from jaxlstm.cli.listing import list_runs
from jaxlstm.cli.watching import watch
from jaxlstm.cli.wording import complain, ended, heard, say, speak
from jaxlstm.errors import UserError
from jaxlstm.progress import Bar

COMMANDS = {
    "Experiment": "run",
    "Study": "study",
    "Reproduction": "reproduce",
    "Sweep": "sweep",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the command's name; those of the process if None.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    speak()
    with _terminable():
        return heard(_main(given))


def _main(given: list[str]) -> int:
    try:
        command, overrides = parse(given)
        line = shlex.join(["jaxlstm", *given])
        match command:
            case Run():
                return _run(command, overrides, line)
            case Study():
                return _study(command, overrides, line)
            case Reproduce():
                return _reproduce(command, overrides, line)
            case Sweep():
                return _sweep(command, overrides, line)
            case Report():
                return _report(command)
            case List():
                return list_runs(command)
            case Watch():
                return watch(command)
            case Sample():
                return _sample(command)
            case Export():
                return _export(command)
    except UserError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        complain("interrupted")
        return 130


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the program as ^C does, wherever it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _load(command: Run | Study, overrides: Overrides, wanted: str) -> list[Any]:
    """Read the configs of a command, all of them before anything runs."""
    if command.seeds is not None:
        overrides = [*overrides, ("seeds", command.seeds)]
    if isinstance(command, Run) and command.tensorboard:
        overrides = [*overrides, ("train.tensorboard", "true")]
    if command.out is not None:
        if len(command.configs) != 1:
            raise UserError("--out: expected one config with it")
        runs.free_folder("", command.out)
    version = "full" if isinstance(command, Study) and command.full else ""
    return _read(command.configs, overrides, version, wanted)


def _read(
    paths: Iterable[str | Path], overrides: Overrides, version: str, wanted: str
) -> list[Any]:
    """Read config files that must all be for one command."""
    from jaxlstm import config

    loaded = []
    for path in paths:
        if wanted == "sweep":
            loaded.append(config.load_sweep(path, overrides))
        else:
            loaded.append(config.load(path, overrides, version=version))
        kind = COMMANDS[type(loaded[-1]).__name__]
        if kind != wanted:
            raise UserError(f"{path}: this config is for `jaxlstm {kind}`")
    return loaded


def _run(command: Run, overrides: Overrides, line: str) -> int:
    running.check(command, overrides)
    return running.run(command, overrides, _load(command, overrides, "run"), line)


def _study(command: Study, overrides: Overrides, line: str) -> int:
    if not command.configs:
        raise UserError("study: expected a CONFIG, such as one of configs/studies/")
    loaded = _load(command, overrides, "study")

    from jaxlstm import studies

    for study in loaded:
        folder = runs.free_folder(study.name, command.out)
        progress = functools.partial(Bar, quiet=command.quiet)
        ended(folder, studies.record(study, folder, command=line, progress=progress))
    return 0


def _reproduce(command: Reproduce, overrides: Overrides, line: str) -> int:
    if command.seeds is not None:
        overrides = [*overrides, ("shared.seeds", command.seeds)]
    version = "quick" if command.quick else ""
    wanted = _read(_wanted(command), overrides, version, "reproduce")
    wanted.sort(key=lambda one: one.row)

    from jaxlstm import reproductions, training

    out = Path(command.out or ("runs/quick" if command.quick else "runs/reproductions"))
    for one in wanted:
        reproductions.prepare(one, out / one.name)
    arms = [arm for one in wanted for arm in one.arms]
    training.ask_for_devices_of(arms)
    status, page = 0, out
    for one in wanted:
        progress = functools.partial(Bar, quiet=command.quiet)
        try:
            manifest = reproductions.run(
                one, out / one.name, command=line, quiet=command.quiet, progress=progress
            )
        except UserError as error:
            # Of all of them, those go on whose data are at hand.
            if command.names:
                raise UserError(f"{one.name}: {error}") from None
            complain(f"{one.name} is left out: {error}")
            continue
        page = reproductions.write_table(out)
        status = ended(out / one.name, manifest, f"the same command: {line}") or status
        if manifest.state == "interrupted":
            break
    say(str(page))
    return status


def _wanted(command: Reproduce) -> list[Path]:
    """The configs of a `reproduce`: those named, or all."""
    room = Path("configs/reproductions")
    known = {path.stem: path for path in sorted(room.glob("*.toml"))}
    if not command.names:
        if not known:
            raise UserError(f"reproduce: expected configs in '{room}', or the path of one")
        return list(known.values())
    found = []
    for name in command.names:
        path = known.get(name, Path(name))
        if path.suffix != ".toml":
            names = ", ".join(known) or "none here"
            raise UserError(f"reproduce: expected one of {names}, or a config file, got {name!r}")
        found.append(path)
    return found


def _sweep(command: Sweep, overrides: Overrides, line: str) -> int:
    sweeping.check(command)
    if command.seeds is not None:
        overrides = [*overrides, ("seeds", command.seeds)]
    (loaded,) = _read([command.config], overrides, "", "sweep")
    return sweeping.sweep(command, loaded, line)


def _report(command: Report) -> int:
    if not command.runs:
        raise UserError("report: expected a RUN, such as a folder in runs/")
    for folder in command.runs:
        runs.read_manifest(folder)

    from jaxlstm import report

    for folder in command.runs:
        say(str(report.write(Path(folder))))
    return 0


def _sample(command: Sample) -> int:
    runs.read_manifest(command.run)

    from jaxlstm import training

    written = training.write(
        command.run,
        prompt=command.prompt,
        characters=command.characters,
        temperature=command.temperature,
        draw=command.draw,
        seed=command.seed,
    )
    if written.unknown:
        complain(f"--prompt: read as unknown, since the text has none of them: {written.unknown!r}")
    say(written.prompt + written.text)
    return 0


def _export(command: Export) -> int:
    runs.read_manifest(command.run)

    from jaxlstm import training

    say(str(training.export(command.run, command.to, command.out, command.seed)))
    return 0
