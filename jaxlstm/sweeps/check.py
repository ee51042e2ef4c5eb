"""Every setting of a sweep held against its data before anything runs, in a process of its own.

JAX takes a device for itself where it begins, and the devices are for the runs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from jaxlstm import config
from jaxlstm.errors import UserError
from jaxlstm.sweeps.plan import Plan
from jaxlstm.tasks import Goal


class Checked(msgspec.Struct, frozen=True):
    """What the process found: a goal for each setting, or the first that does not fit."""

    goals: list[Goal] = []
    refused: int = 0
    reason: str = ""


def check(plan: Plan, source: str) -> list[Goal]:
    """Prepare the training of every setting, and keep nothing of it.

    Args:
        plan: the sweep.
        source: what errors call its config.

    Returns:
        The goal of every setting.

    Raises:
        UserError: when the data cannot be had, a setting asks for what the task has not, or two
            settings are not ranked by the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        for index, setting in enumerate(plan.settings):
            text = config.dumps(plan.trainings[setting.runs[0]])
            (Path(folder) / f"{index}.toml").write_text(text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "jaxlstm.sweeps.preparing", folder, str(len(plan.settings))],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            check=False,
        )
    try:
        checked = msgspec.json.decode(done.stdout.splitlines()[-1], type=Checked)
    except (IndexError, msgspec.DecodeError):
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        reason = said[0] if said else f"exit status {done.returncode}"
        raise UserError(f"{source}: the settings cannot be checked ({reason})") from None
    if checked.reason:
        label = plan.settings[checked.refused].label
        raise UserError(f"{source}: with {label}: {checked.reason}")
    wanted = _asked(checked.goals[0])
    for setting, goal in zip(plan.settings, checked.goals, strict=True):
        if (asked := _asked(goal)) != wanted:
            raise UserError(
                f"{source}: with {setting.label}: goal: expected {wanted}, by which the first "
                f"setting is ranked, got {asked}; give a [goal] that fits all"
            )
    return checked.goals


def _asked(goal: Goal) -> str:
    """What settings are ranked by, in words."""
    return f"a {'high' if goal.larger else 'low'} {goal.split} {goal.metric}"
