"""The process that `jaxlstm.tasks.matlab` starts: a MATLAB file in, an npz file of arrays out."""

import io
import sys
import warnings

import numpy as np
from scipy.io import loadmat


def main() -> None:
    """Read the file from stdin and write the lists named by the arguments to stdout."""
    warnings.simplefilter("ignore")
    content = loadmat(io.BytesIO(sys.stdin.buffer.read()))
    arrays = {"names": np.array([name for name in content if not name.startswith("__")], str)}
    for name in sys.argv[1:]:
        items = np.ravel(content.get(name, np.array([], object)))
        arrays[f"{name}/count"] = np.array(len(items))
        for index, item in enumerate(items):
            array = np.asarray(item)
            plain = array.dtype.kind in "buif"
            arrays[f"{name}/{index}"] = array if plain else np.array("no numbers")
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    sys.stdout.buffer.write(out.getvalue())


if __name__ == "__main__":
    main()
