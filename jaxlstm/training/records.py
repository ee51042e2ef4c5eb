"""What a training leaves in its folder on the way: metrics, samples, TensorBoard's events."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlstm import runs, storage
from jaxlstm.training.prepare import Training

FILES = ("metrics.jsonl", "samples.jsonl")


class Records:
    """Writes the records of a training.

    Args:
        training: whose they are.
        folder: the run.
        step: the step that the run goes on from; 0 for a new one.
    """

    def __init__(self, training: Training, folder: Path, step: int) -> None:
        self._folder, self._events = folder, None
        if training.experiment.train.tensorboard:
            from jaxlstm.training.events import Events  # a dependency of those who ask for it

            self._events = Events(folder, training.experiment.seed_list, step=step)

    def metrics(
        self, step: int, split: str, seconds: float, metrics: Mapping[str, list[float]]
    ) -> None:
        """Append a line to `metrics.jsonl`."""
        record = {"step": step, "split": split, "seconds": round(seconds, 3)}
        runs.append(self._folder, "metrics.jsonl", {**record, "metrics": metrics})
        if self._events:
            self._events.record(step, split, metrics)

    def sample(self, record: Mapping[str, Any]) -> None:
        """Append a line to `samples.jsonl`."""
        runs.append(self._folder, "samples.jsonl", record)

    def to_disk(self) -> None:
        """Wait until all of them are on the disk."""
        storage.to_disk(self._folder / name for name in FILES)

    def close(self) -> None:
        """Bring what is left into the files."""
        if self._events:
            self._events.close()


def take_back(folder: Path, step: int) -> None:
    """Drop the records of later steps, which will be written again."""
    for name in FILES:
        # What is measured before the first step is measured again.
        runs.truncate_jsonl(folder, name, step or -1)


def final(folder: Path, step: int) -> dict[str, dict[str, list[float]]]:
    """Read the metrics of a step, by split: a resumed run may have had them before it ended."""
    return {
        record["split"]: {
            name: [float("nan") if value is None else value for value in values]
            for name, values in record["metrics"].items()
        }
        for record in runs.read_jsonl(folder, "metrics.jsonl")
        if record["step"] == step
    }
