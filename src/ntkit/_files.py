"""Files appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ntkit.errors import ComputationError

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
