"""Lists of arrays in MATLAB files, read in a process of their own.

SciPy's reader trusts what a file says of itself: of some hundred files with a few changed bytes one
ended the whole process. So a process that does nothing else reads the file, and this one takes
plain arrays from it, or that there were none.
"""

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxlstm import storage
from jaxlstm.errors import UserError

READER = Path(__file__).with_name("matlab_reader.py")
SECONDS = 120


def lists(path: str, names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Read the named lists of a MATLAB file that a user named with `task.path`.

    Args:
        path: the file.
        names: which of its variables.

    Returns:
        For each name the arrays of its list; what is no array of numbers comes as one of text.

    Raises:
        UserError: when the file cannot be read, is no MATLAB file, or has no such list.
    """
    with storage.reading(f"task.path: cannot read '{path}'"):
        content = storage.read(Path(path).expanduser())
    command = [sys.executable, "-P", str(READER), *names]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=SECONDS)
        if done.returncode:
            raise ValueError("the reader gave up")
        found = np.load(io.BytesIO(done.stdout), allow_pickle=False)
        there, arrays = found["names"].tolist(), {key: found[key] for key in found.files}
    except (ValueError, OSError, KeyError, subprocess.TimeoutExpired) as error:
        raise UserError(f"task.path: expected a MATLAB file, cannot read '{path}'") from error
    for name in names:
        if name not in there:
            raise UserError(
                f"task.path: expected {', '.join(names)} in '{path}', got "
                f"{', '.join(there)[:200] or 'nothing'}"
            )
    return {
        name: [arrays[f"{name}/{index}"] for index in range(int(arrays[f"{name}/count"]))]
        for name in names
    }
