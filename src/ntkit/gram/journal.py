"""The record beside an output file: which job it is, and which tiles are on the disk, each with its checksum.

One JSON object a line. The first is the job; then one per tile, written after the tile's data was flushed; at last the
stamps of the finished files. A line cut short by a crash counts as not written; so do the zero bytes that keep room for
the lines to come.
"""

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from ntkit.errors import InputError
from ntkit.gram.identity import FORMAT

Index = tuple[int, int]
# More bytes than a line takes.
LINE = 100


class Journal:
    """`<out>.journal`: `job` is the header, `done` the recorded tiles with checksums, `stamps` is set when finished."""

    def __init__(self, path: Path, job: dict[str, Any], done: dict[Index, str], stamps: list[Any] | None, length: int):
        self.path, self.job, self.done, self.stamps = path, job, done, stamps
        self._length = length  # up to here the file holds whole lines
        self._fd: int | None = None

    @staticmethod
    def create(path: Path, job: dict[str, Any]) -> "Journal":
        """A new journal with nothing done. It appears under its name at once, or not at all."""
        line = _line({"format": FORMAT, **job})
        draft = path.with_name(path.name + ".new")
        draft.write_bytes(line)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
        return Journal(path, job, {}, None, len(line))

    @staticmethod
    def read(path: Path) -> "Journal | None":
        """The journal at `path`, or None if there is none."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        whole = content[: content.rfind(b"\n") + 1]
        lines = [_parsed(line) for line in whole.splitlines()]
        head = lines[0] if lines and isinstance(lines[0], dict) else {}
        if head.pop("format", None) != FORMAT:
            raise InputError(
                f"`{path}` is not a journal that this version of ntkit reads (format {FORMAT}). Pass `overwrite=True` "
                "to start again, or choose another `out`."
            )
        tiles = [line for line in lines[1:] if isinstance(line, dict)]
        done = {(t["tile"][0], t["tile"][1]): t["sum"] for t in tiles if "tile" in t}
        stamps = next((t["stamps"] for t in tiles if "stamps" in t), None)
        return Journal(path, head, done, stamps, len(whole))

    def differences(self, job: dict[str, Any]) -> list[str]:
        """The names of what is not the same in `job`."""
        mine, theirs = self.job["identity"], job["identity"]
        return [name for name in theirs if mine.get(name) != theirs[name]]

    def append(self, tiles: dict[Index, str]) -> None:
        """Records finished tiles; on return they are on the disk."""
        self._write(b"".join(_line({"tile": list(index), "sum": total}) for index, total in tiles.items()))
        self.done |= tiles

    def forget(self, indices: list[Index]) -> None:
        """Writes the journal anew without these tiles, and not finished."""
        done = {index: total for index, total in self.done.items() if index not in indices}
        self.done, self.stamps, self._length = {}, None, len(_line({"format": FORMAT, **self.job}))
        os.ftruncate(self._opened(), self._length)
        self.append(done)

    def finish(self, stamps: list[Any]) -> None:
        self._write(_line({"stamps": stamps}))
        os.ftruncate(self._opened(), self._length)
        self.stamps = stamps

    def _write(self, lines: bytes) -> None:
        if not lines:
            return
        fd = self._opened()
        try:
            write_all(fd, lines, self._length)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._length)
            raise
        os.fsync(fd)
        self._length += len(lines)

    def _opened(self) -> int:
        if self._fd is None:
            raise RuntimeError("the journal is not locked")
        return self._fd

    def lock(self) -> "Journal":
        """Keeps other processes from the same job until `close`, or until this process ends in any way."""
        self._fd = os.open(self.path, os.O_RDWR)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise InputError(
                f"Another process is writing the output of `{self.path}`. Wait for it to end, or choose another `out`."
            ) from None
        if self.stamps is None:
            self._reserve(self._fd)
        return self

    def _reserve(self, fd: int) -> None:
        """Drops a line cut short, and takes room for the lines to come: a disk that fills up shall not lose them."""
        os.ftruncate(fd, self._length)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(fd, 0, self._length + LINE * (self.job["tiles"] - len(self.done) + 1))

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def write_all(fd: int, data: Any, offset: int) -> None:
    """`os.pwrite` until all is written: on a full disk it first writes a part, and says so only the next time."""
    view = memoryview(data).cast("B")
    while len(view):
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def sync_folder(path: Path) -> None:
    """Makes a new name in a folder durable, where the system allows it."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, separators=(",", ":")) + "\n").encode()


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
