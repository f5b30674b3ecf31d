"""What is printed: results on the output stream, everything else on the error stream."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# A wide line is better than a broken path where nobody looks at a terminal.
out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, highlight=False)
# Of a command: what typer hands over is of the class that `typer.Context` derives from.
Context: Any = typer.Context.__base__


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on one line."""
    print(as_json(content))


def as_json(content: dict[str, Any]) -> str:
    """Paths and arrays as text and lists; no NaN."""
    return json.dumps(content, default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


@contextlib.contextmanager
def steps(title: str, total: int, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A progress bar over named steps: the value is a function to call when a step begins.

    On a terminal only, and gone when it is done.
    """
    if quiet or not err.is_terminal:
        yield lambda name: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task, begun = bar.add_task(title, total=total), [0]

        def step(name: str) -> None:
            bar.update(task, description=f"{title}: {name}", completed=begun[0])
            begun[0] += 1

        yield step


class Clock:
    """Seconds since it was made."""

    def __init__(self):
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start
