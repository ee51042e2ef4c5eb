"""From the plan of a sweep to its folder: jobs for an engine, and what became of them."""

import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from jaxlstm import config, locks, report, runs
from jaxlstm.errors import UserError, one_line
from jaxlstm.progress import Bar
from jaxlstm.sweeps import figure, summary, tries
from jaxlstm.sweeps.engines import Engine
from jaxlstm.sweeps.plan import Plan
from jaxlstm.sweeps.summary import Standing
from jaxlstm.tasks import Goal

BETWEEN = 2.0
"""The tables are written at most so often, in seconds."""


def prepare(plan: Plan, folder: Path) -> None:
    """Check that a sweep may go to a folder, before anything is written.

    Args:
        plan: the sweep.
        folder: new, or of a sweep whose runs of the same names have the same configs: it may have
            had fewer values or seeds.

    Raises:
        UserError: when the folder holds something else.
    """
    if not (folder / "manifest.json").exists():
        runs.free_folder("", folder)
        return
    if runs.read_manifest(folder).kind != "sweep":
        raise UserError(f"--out: expected a new folder or that of a sweep, got '{folder}'")
    for name, training in plan.trainings.items():
        begun = folder / name / "config.toml"
        if begun.exists() and config.load(begun) != training:
            raise UserError(
                f"'{folder}' holds the run '{name}' of another config; remove it, or choose "
                "another --out"
            )


def run(
    sweep: config.Sweep,
    plan: Plan,
    goals: Sequence[Goal],
    folder: Path,
    *,
    engine: Engine,
    retries: int,
    command: str,
    device: str,
    quiet: bool,
) -> tuple[runs.Manifest, list[summary.Ranked], list[Standing]]:
    """Run what is left of a sweep.

    Runs that have finished are kept, and those that have begun go on: the same call makes a sweep
    that was stopped whole.

    Args:
        sweep: the config.
        plan: its runs.
        goals: of each setting, from `check`.
        folder: the folder of the sweep; each run has a run folder in it.
        engine: what tries the runs.
        retries: how often a run is tried again that failed, or whose process or worker was lost.
        command: the command line, for the manifests.
        device: what computes, for the manifest.
        quiet: show no progress.

    Returns:
        The manifest, the settings, best first, and how each run stands.

    Raises:
        UserError: when the folder holds something else, cannot be written, another process works
            in it, or the engine is gone.
    """
    with locks.alone(folder):
        prepare(plan, folder)
        _begin(sweep, plan, folder, command, device)
        return _Sitting(plan, goals, folder, engine, retries, quiet).run()


def _begin(sweep: config.Sweep, plan: Plan, folder: Path, command: str, device: str) -> None:
    text = config.dumps(sweep)
    if (folder / "manifest.json").exists():
        runs.write_text(folder / "config.toml", text)
        runs.update_manifest(folder, state="running", reason=None, seeds=_seeds(plan))
    else:
        runs.create(
            folder,
            config=text,
            kind="sweep",
            name=sweep.name,
            question=sweep.question,
            command=command,
            seeds=_seeds(plan),
            device=device,
        )
    (folder / "tries").mkdir(exist_ok=True)
    (folder / tries.STOP).unlink(missing_ok=True)
    for name, training in plan.trainings.items():
        if not (folder / name / "manifest.json").exists():
            runs.write_text(folder / "configs" / f"{name}.toml", config.dumps(training))


def _seeds(plan: Plan) -> list[int]:
    return list({seed: None for one in plan.trainings.values() for seed in one.seed_list})


class _Sitting:
    """A sweep from one start of the program to its end."""

    def __init__(
        self,
        plan: Plan,
        goals: Sequence[Goal],
        folder: Path,
        engine: Engine,
        retries: int,
        quiet: bool,
    ) -> None:
        self._plan, self._goals, self._folder, self._engine = plan, goals, folder, engine
        self._retries = dict.fromkeys(plan.trainings, retries)
        self._standings = {name: self._found(name) for name in plan.trainings}
        self._jobs: dict[Future[tries.Outcome], str] = {}
        self._home, self._written = str(Path.cwd()), -BETWEEN
        done = len(self._finished())
        self._bar = Bar("sweep", len(plan.trainings), done=done, unit="runs", quiet=quiet)

    def run(self) -> tuple[runs.Manifest, list[summary.Ranked], list[Standing]]:
        """Run until all have ended, or until the program is to stop."""
        stopped = False
        try:
            with self._bar:
                self._work()
        except KeyboardInterrupt:
            stopped = True
            self._stop()
        except UserError as error:
            with contextlib.suppress(UserError):
                self._stop()
                self._end("interrupted", str(error))
            raise
        return self._end("interrupted" if stopped else "finished")

    def _found(self, name: str) -> Standing:
        """How a run stands that is not tried now; one that failed before has yet to go on."""
        found = summary.standing(self._folder, name)
        if found.state == "failed":
            state = "interrupted" if found.manifest else "waiting"
            return dataclasses.replace(found, state=state)
        return found

    def _finished(self) -> list[str]:
        return [name for name, one in self._standings.items() if one.state == "finished"]

    def _work(self) -> None:
        for name in self._plan.trainings:
            if self._standings[name].state != "finished":
                self._submit(name)
        while self._jobs:
            self._write()
            done, _ = concurrent.futures.wait(
                self._jobs, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                self._note(self._jobs.pop(future), future)

    def _submit(self, name: str) -> None:
        try:
            job = tries.Job(str(self._folder), name, self._home)
            self._jobs[self._engine.submit(job)] = name
        except UserError:
            raise
        except Exception as error:  # whatever an engine raises that is gone
            reason = one_line(error) or type(error).__name__
            raise UserError(f"the runs cannot be handed out any more ({reason})") from None

    def _note(self, name: str, future: Future[tries.Outcome]) -> None:
        """Take down how a try ended, and try again what failed."""
        reason, ended = "", "failed"
        try:
            outcome = future.result()
            ended, reason = outcome.ended, outcome.reason
        except concurrent.futures.CancelledError:
            raise UserError(
                "the runs were lost by the scheduler; the same command goes on"
            ) from None
        except Exception as error:  # of a worker: a lost process, a full disk
            reason = one_line(error) or type(error).__name__
        found = summary.standing(self._folder, name)
        if found.state != "finished" and ended == "failed":
            found = Standing(name, "failed", found.tries, reason or found.reason, found.manifest)
        self._standings[name] = found
        if found.state == "failed" and self._retries[name]:
            self._retries[name] -= 1
            self._bar.say(f"{name}: {found.reason}; tried again")
            self._submit(name)
            return
        self._bar.update(len(self._finished()), **self._figures())

    def _figures(self) -> dict[str, str]:
        failed = sum(one.state == "failed" for one in self._standings.values())
        return {"failed": str(failed)} if failed else {}

    def _stop(self) -> None:
        """Ask the runs that go on to save and leave, and wait until they have."""
        runs.write_text(self._folder / tries.STOP, "")
        self._bar.say("stopping: the runs that are going on save and leave")
        concurrent.futures.wait(self._jobs, timeout=tries.GRACE)
        for name, one in self._standings.items():
            if one.state not in ("finished", "failed"):
                self._standings[name] = self._found(name)

    def _write(self, *, now: bool = False) -> list[summary.Ranked]:
        """Write the tables and the scores so far."""
        ranked = summary.rank(self._plan, self._goals, self._standings)
        if now or time.monotonic() - self._written > BETWEEN:
            summary.write_tables(self._folder, ranked, self._standings)
            runs.update_manifest(self._folder, summary=summary.summary(ranked))
            self._written = time.monotonic()
        return ranked

    def _end(
        self, state: runs.State, reason: str | None = None
    ) -> tuple[runs.Manifest, list[summary.Ranked], list[Standing]]:
        ranked = self._write(now=True)
        figure.write(self._folder, ranked)
        failed = [one for one in self._standings.values() if one.state == "failed"]
        if state == "finished" and failed:
            count = len(self._standings)
            state, reason = "failed", f"{len(failed)} of {count} runs failed, see the table of runs"
        seconds = sum(one.manifest.seconds for one in self._standings.values() if one.manifest)
        manifest = runs.update_manifest(
            self._folder, state=state, seconds=round(seconds, 3), reason=reason
        )
        report.write(self._folder)
        return manifest, ranked, list(self._standings.values())
