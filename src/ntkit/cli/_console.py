"""What is printed: results on the output stream, everything else on the error stream."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ntkit.errors import ComputationError

# A wide line is better than a broken path where nobody looks at a terminal.
out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on one line."""
    print(json.dumps(content, default=_plain, allow_nan=False))


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


# What must be removed when the process ends without a way out of its blocks.
drafts: set[Path] = set()


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and vanishes when it does not."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    drafts.add(draft)
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise ComputationError(
            f"{str(path)!r} could not be written: {error.strerror or error}. What was there before is untouched."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
        drafts.discard(draft)


class Clock:
    """Seconds since it was made."""

    def __init__(self):
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start
