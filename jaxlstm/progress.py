"""How far a long computation is: a bar on a terminal, a few plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from jaxlstm.wording import duration

PLAIN_LINES = 10


class _Drawn(Progress):
    """A bar, and below it the figures, of which a narrow terminal shows the first."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["figures"], no_wrap=True, overflow="ellipsis")


class Bar:
    """A progress bar with a few figures.

    On a terminal it is drawn in place, the figures below it. Elsewhere `update` prints a line each
    tenth of the way, so that a log stays short.

    Args:
        title: what is computed.
        total: how many steps there are.
        done: how many were done before.
        unit: what a step is called.
        quiet: print nothing at all.

    Examples:
        >>> with Bar("counting", total=3, quiet=True) as bar:
        ...     for step in range(1, 4):
        ...         bar.update(step, loss="0.1")
    """

    def __init__(
        self, title: str, total: int, *, done: int = 0, unit: str = "steps", quiet: bool = False
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._quiet = quiet
        self._started, self._first = time.monotonic(), done
        self._told = done * PLAIN_LINES // max(total, 1)
        self._console = Console(file=sys.stdout, highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._bar = _Drawn(
                TextColumn(
                    "{task.description}", table_column=Column(overflow="ellipsis"), markup=False
                ),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self._console,
                transient=True,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self._title, total=self._total, completed=self._first, figures=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, done: int, **figures: str) -> None:
        """Say that `done` steps of the total are done, with figures as `name="value"`."""
        text = "  ".join(f"{name} {value}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=text)
            return
        tenth = done * PLAIN_LINES // max(self._total, 1)
        if tenth > self._told:
            self._told = tenth
            self.say(f"{self._title}  {done}/{self._total} {self._unit}  {text}{self._left(done)}")

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar where there is one."""
        if not self._quiet:
            self._console.print(line, markup=False, soft_wrap=True)

    def _left(self, done: int) -> str:
        advanced = done - self._first
        if done >= self._total or advanced <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * (self._total - done) / advanced
        return f"  {duration(seconds)} left"
