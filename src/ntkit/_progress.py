"""Shows how far a job is, if it lasts."""

import sys
import time
from collections.abc import Callable
from typing import Any

Progress = bool | Callable[[int, int], Any]

# How often a waiting thread looks up: for Ctrl-C, and to move the bar.
GLANCE = 0.1
# Nothing is shown before: most jobs are over by then.
PATIENCE = 1.0


class Meter:
    """Called with the number of steps done. `progress=True` draws a bar on a terminal or in a notebook, after a second.

    A callable is called as `progress(done, total)` instead, at the start, whenever `done` has grown, and at the end.
    The bar says what is done, in which unit: "gram ... 3/10 tiles". Parts of a step move the bar alone.
    """

    def __init__(self, progress: Progress, done: int, total: int, what: str = "gram", unit: str = "tiles"):
        self._progress, self._total, self._shown = progress, total, -1
        self._what, self._unit = what, unit
        self._start, self.first = time.monotonic(), done
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, done: float) -> None:
        if callable(self._progress):
            if done > self._shown and done == int(done):
                self._shown = int(done)
                self._progress(int(done), self._total)
        elif self._progress and self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif self._progress and time.monotonic() - self._start > PATIENCE:
            self._open(done)

    def _open(self, done: float) -> None:
        if "ipykernel" not in sys.modules and not (sys.stderr is not None and sys.stderr.isatty()):
            self._progress = False
            return
        # rich takes 50 ms to import: only when there is something to show.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        names = TextColumn(self._what), TextColumn(self._unit)
        columns = (names[0], BarColumn(), MofNCompleteColumn(), names[1], TimeElapsedColumn())
        self._bar = Bar(
            *columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True), transient=True
        )
        self._bar.start()
        self._task = self._bar.add_task(self._what, total=self._total, completed=done)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
