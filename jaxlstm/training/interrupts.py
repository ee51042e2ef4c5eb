"""Ctrl-C and SIGTERM as a wish to stop at the next good moment."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_wish() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into a flag; the second stops the program at once.

    Off the main thread, where Python takes no signals, the flag is there for the caller to set.

    Examples:
        >>> with stop_wish() as wish:
        ...     wish.is_set()
        False
    """
    wish = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def note(number: int, frame: FrameType | None) -> None:
        if wish.is_set():
            raise KeyboardInterrupt
        wish.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
