"""The other end of `check`: `python -m jaxlstm.sweeps.preparing FOLDER COUNT`.

Prepares `0.toml`, `1.toml` and so on in a folder, and writes a `Checked` to its output.
"""

import sys
from pathlib import Path

import msgspec

from jaxlstm import config, training
from jaxlstm.errors import UserError
from jaxlstm.sweeps.check import Checked


def prepare(folder: Path, count: int) -> Checked:
    """Prepare every training, up to the first that does not fit its data."""
    goals = []
    for index in range(count):
        experiment = config.load(folder / f"{index}.toml")
        try:
            if not isinstance(experiment, config.Experiment):
                raise UserError("expected the config of a training")
            goals.append(training.prepare(experiment).goal)
        except UserError as error:
            return Checked(refused=index, reason=str(error))
    return Checked(goals)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(prepare(Path(sys.argv[1]), int(sys.argv[2]))))
