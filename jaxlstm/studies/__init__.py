"""Gradient studies: a question, a prediction, measurements, and a verdict that is computed."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jaxlstm import config, locks, runs, training
from jaxlstm.studies import (
    carousel,
    gates,
    interventions,
    mean_field,
    phase_diagram,
    reach,
    vanishing,
)

STUDIES: dict[type, Callable[..., list[runs.Score]]] = {
    config.Vanishing: vanishing.measure,
    config.MeanField: mean_field.measure,
    config.Carousel: carousel.measure,
    config.PhaseDiagram: phase_diagram.measure,
    config.Gates: gates.measure,
    config.Reach: reach.measure,
    config.Interventions: interventions.measure,
}


def _prepare(study: config.Study) -> Callable[..., list[runs.Score]]:
    """Read what a study looks at, before anything is written; what comes back measures it."""
    spec, seeds = study.study, study.seed_list
    given = reach.prepare(spec, seeds) if isinstance(spec, config.Reach) else seeds
    return partial(STUDIES[type(spec)], spec, given)


def record(
    study: config.Study, folder: str | Path, *, command: str, progress: Callable[..., Any]
) -> runs.Manifest:
    """Run a study into a run folder of its own, with a manifest that says how it ended.

    Args:
        study: the config.
        folder: where, as from `runs.free_folder`.
        command: the command line, for the manifest.
        progress: makes a progress bar, as `jaxlstm.progress.Bar` does.

    Returns:
        The manifest at the end.

    Raises:
        UserError: when the folder cannot be written, another process works in it, or the study
            looks at what cannot be read; nothing is written then.
    """
    measure = _prepare(study)
    with locks.alone(folder):
        runs.create(
            folder,
            config=config.dumps(study),
            kind="study",
            name=study.name,
            question=study.question,
            command=command,
            seeds=study.seed_list,
            device=training.device(),
        )
        began = time.monotonic()
        ended: dict[str, Any] = {}
        try:
            ended = {"state": "finished", "summary": measure(Path(folder), progress)}
        except KeyboardInterrupt:
            ended = {"state": "interrupted"}
            raise
        except BaseException as error:
            ended = {"state": "failed", "reason": str(error)}
            raise
        finally:
            manifest = runs.update_manifest(folder, seconds=time.monotonic() - began, **ended)
    return manifest
