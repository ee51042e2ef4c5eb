"""`jaxlstm run`: new trainings and resumed ones, alone or as one of several processes."""

import traceback
from pathlib import Path
from typing import Any

from jaxlstm import runs
from jaxlstm.cli.arguments import Overrides, Run
from jaxlstm.cli.wording import STATUS, complain, ended
from jaxlstm.errors import UserError


def check(command: Run, overrides: Overrides) -> None:
    """Refuse options that do not fit, before anything is read."""
    if command.resume:
        names = [name for name, _ in overrides if name not in ("train.steps", "task.path")]
        others = [name for name in names if not name.startswith("train.mesh")]
        if command.configs or others or command.seeds or command.out or command.tensorboard:
            raise UserError(
                "--resume: expected run folders alone, a run goes on with its own config, "
                "--train.mesh, --train.steps and --task.path excepted"
            )
        for folder in command.resume:
            runs.read_manifest(folder)
    elif not command.configs:
        raise UserError("run: expected a CONFIG, such as configs/adding.toml, or --resume RUN")


def run(command: Run, overrides: Overrides, experiments: list[Any], line: str) -> int:
    """Train what is asked for, alone or as one of several processes.

    Args:
        command: the command line.
        overrides: keys of the config that it gives.
        experiments: the configs, for new runs.
        line: the command line as it was typed.

    Returns:
        The exit status.
    """
    from jaxlstm import config, training

    stored = [config.load(Path(folder) / "config.toml", overrides) for folder in command.resume]
    trainings = [c for c in [*experiments, *stored] if isinstance(c, config.Experiment)]
    together = command.distributed or command.coordinator is not None
    if together:
        training.processes.join(command.coordinator, command.processes, command.process_id)
    elif command.processes is not None or command.process_id is not None:
        raise UserError("--coordinator: missing, expected HOST:PORT with --processes")
    training.ask_for_devices_of(trainings, command.processes or 1)
    if not together:
        return _train(command, overrides, experiments, line)

    def lost() -> None:
        complain("another process of this training has ended; go on with --resume")
        training.processes.leave(2)

    try:
        with training.processes.watched(command.coordinator, lost):
            return _train(command, overrides, experiments, line)
    # Whoever leaves before the end does not wait for the others, which wait for it.
    except UserError as error:
        complain(str(error))
        training.processes.leave(2)
    except KeyboardInterrupt:
        complain("interrupted")
        training.processes.leave(130)
    except Exception:
        traceback.print_exc()
        training.processes.leave(1)


def _train(command: Run, overrides: Overrides, experiments: list[Any], line: str) -> int:
    """Train, once it is settled with which devices and processes."""
    from jaxlstm import training

    def end(folder: Path, manifest: runs.Manifest) -> int:
        lead = training.processes.lead()
        return ended(folder, manifest) if lead else STATUS.get(manifest.state, 0)

    status = 0
    for folder in map(Path, command.resume):
        manifest = training.resume(
            folder, quiet=command.quiet, debug_nans=command.debug_nans, overrides=overrides
        )
        status = end(folder, manifest) or status
    prepared = []
    for path, experiment in zip(command.configs, experiments, strict=True):
        try:
            prepared.append(training.prepare(experiment))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    for ready in prepared:
        folder = Path("aside")
        if training.processes.lead():
            folder = runs.free_folder(ready.experiment.name, command.out)
        manifest = training.run(
            ready, folder, command=line, quiet=command.quiet, debug_nans=command.debug_nans
        )
        status = end(folder, manifest) or status
        if manifest.state == "interrupted":
            break
    return status
