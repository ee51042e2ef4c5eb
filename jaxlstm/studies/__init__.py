"""Gradient studies: a question, a prediction, measurements, and a verdict that is computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxlstm import config, runs
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


def run(study: config.Study, folder: str | Path, progress: Callable[..., Any]) -> list[runs.Score]:
    """Measure what a study asks for, and write its figures and tables into the run folder.

    Args:
        study: the config.
        folder: an existing run folder.
        progress: makes a progress bar, as `jaxlstm.progress.Bar` does.

    Returns:
        The summary: one `Score` for each prediction.
    """
    measure = STUDIES[type(study.study)]
    return measure(study.study, study.seed_list, Path(folder), progress)
