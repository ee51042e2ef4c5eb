"""A `jaxlstm` that ends with whoever started it: `python -m jaxlstm.cli.leash CORES ARGUMENTS...`.

runs `jaxlstm ARGUMENTS` on the CPU cores named ("0,1"; all if empty). When its input is closed,
because it is to stop or because the process at the other end is gone, it gets SIGTERM: a training
saves and leaves.
"""

import os
import signal
import sys
import threading

from jaxlstm.cli import main


def _hold() -> None:
    """Wait until the other end lets go."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _pin(cores: str) -> None:
    """Compute on these cores alone, where the system can say so: JAX makes a thread for each."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(map(int, cores.split(","))))


if __name__ == "__main__":
    _pin(sys.argv[1])
    threading.Thread(target=_hold, daemon=True).start()
    sys.exit(main(sys.argv[2:]))
