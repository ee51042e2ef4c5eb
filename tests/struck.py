"""A `jaxlstm` that is struck by a signal at a moment of its choosing: `python struck.py` in tests.

    python struck.py SIGNAL MOMENT COUNT ARGUMENTS...

runs `jaxlstm ARGUMENTS` and sends itself SIGNAL when, for the COUNTth time, the regular expression
MOMENT fits what it is about to do to a file: "open runs/x/metrics.jsonl ab", "os.rename a b". The
moment "half a line of NAME" is in the middle of the write of a line of that file.
"""

import os
import re
import sys
from pathlib import Path

from jaxlstm import storage
from jaxlstm.cli import main


def strike_at(moment: str, count: int, number: int) -> None:
    """Send this process a signal when the moment comes."""
    if moment.startswith("half a line of "):
        append, seen = storage.append, [0]

        def halved(path: Path, line: bytes) -> None:
            seen[0] += path.name == moment.removeprefix("half a line of ")
            if seen[0] < count:
                append(path, line)
                return
            with path.open("ab", buffering=0) as file:
                file.write(line[: len(line) // 2])
            os.kill(os.getpid(), number)

        storage.append = halved
        return
    left = [count]

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" or event.startswith(("os.", "shutil.")):
            said = " ".join(str(argument) for argument in arguments[:2])
            if re.search(moment, f"{event} {said}"):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), number)

    sys.addaudithook(hook)


if __name__ == "__main__":
    strike_at(sys.argv[2], int(sys.argv[3]), int(sys.argv[1]))
    sys.exit(main(sys.argv[4:]))
