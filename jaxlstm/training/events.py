"""TensorBoard event files beside `metrics.jsonl`, where a config asks for them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboardX import SummaryWriter

FOLDER = "tensorboard"


class Events:
    """Writes the records of a run to `tensorboard/` in its folder.

    Each value is a scalar named by its set, its metric and, where there are several, its seed:
    `validation/mse/seed_3`. A run that goes on begins another file, which tells TensorBoard to
    forget what came after the step that it went on from.

    Args:
        folder: the run.
        seeds: the seeds of the run.
        step: the step that the run goes on from; 0 for a new one.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     events = Events(folder, [0, 3], step=0)
        ...     events.record(10, "validation", {"mse": [0.5, 0.25]})
        ...     events.close()
        ...     len(list((Path(folder) / "tensorboard").iterdir()))
        1
    """

    def __init__(self, folder: str | Path, seeds: Sequence[int], *, step: int) -> None:
        purged = step + 1 if step else None
        self._writer = SummaryWriter(str(Path(folder) / FOLDER), purge_step=purged)
        self._seeds = seeds

    def record(self, step: int, split: str, metrics: Mapping[str, Sequence[float]]) -> None:
        """Write the values of one record."""
        for name, values in metrics.items():
            for index, value in enumerate(values):
                alone = len(values) != len(self._seeds) or len(values) == 1
                seed = "" if alone else f"/seed_{self._seeds[index]}"
                self._writer.add_scalar(f"{split}/{name}{seed}", float(value), step)

    def close(self) -> None:
        """Bring what is left into the file."""
        self._writer.close()
