"""Where tiles go: an array in memory, a .npy file, a zarr array. All written block by block, from several threads."""

import abc
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ntkit.errors import InputError
from ntkit.gram.journal import sync_folder, write_all


class Target(abc.ABC):
    """One (n, m, ...) array, written and read by blocks."""

    @abc.abstractmethod
    def write(self, rows: slice, columns: slice, block: np.ndarray) -> None: ...

    @abc.abstractmethod
    def read(self, rows: slice, columns: slice) -> np.ndarray: ...

    @abc.abstractmethod
    def result(self) -> Any:
        """What the caller gets in the end."""

    def sync(self) -> None:  # noqa: B027  memory has nothing to flush
        """On return, what was written is on the disk."""

    def close(self) -> None:  # noqa: B027
        """Releases the file, if there is one; may be called twice."""

    @property
    @abc.abstractmethod
    def bytes(self) -> int:
        """The size of the whole array."""

    def stamp(self) -> Any:
        """Changes if somebody else writes to the finished file; None if that cannot be told."""
        return None


class InMemory(Target):
    """A NumPy array, the caller's or our own."""

    def __init__(self, array: np.ndarray):
        self._array = array

    def write(self, rows: slice, columns: slice, block: np.ndarray) -> None:
        self._array[rows, columns] = block

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        return self._array[rows, columns]

    def result(self) -> np.ndarray:
        return self._array

    @property
    def bytes(self) -> int:
        return self._array.nbytes


class NpyFile(Target):
    """A .npy file, written with `pwrite`: through a memory map a full disk is a fatal signal, here it is an error."""

    path: Path

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self._shape, self._dtype = path, shape, dtype
        self._fd: int | None = None
        self._offset = 0

    def create(self) -> None:
        """Writes the header and reserves the space. On a full disk it fails here."""
        header = np.lib.format.open_memmap(self.path, mode="w+", dtype=self._dtype, shape=self._shape)
        size = header.offset + header.nbytes
        del header
        with self.path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, size)
            os.fsync(file.fileno())
        sync_folder(self.path.parent)

    def open(self) -> None:
        """Raises `OSError` or `ValueError` if the file is not, by header and size, the one that `create` made."""
        found = np.lib.format.open_memmap(self.path, mode="r")
        if found.shape != self._shape or found.dtype != self._dtype or not found.flags.c_contiguous:
            raise ValueError(f"`{self.path}` holds another array")
        self._offset = found.offset
        del found
        self._fd = os.open(self.path, os.O_RDWR)

    def _start(self, row: int, column: int) -> int:
        return self._offset + (row * self._shape[1] + column) * self._item

    @property
    def _item(self) -> int:
        return self._dtype.itemsize * int(np.prod(self._shape[2:]))

    def write(self, rows: slice, columns: slice, block: np.ndarray) -> None:
        assert self._fd is not None
        block = np.ascontiguousarray(block)
        if columns.stop - columns.start == self._shape[1]:
            return write_all(self._fd, block, self._start(rows.start, 0))
        for row, line in zip(range(rows.start, rows.stop), block):
            write_all(self._fd, line, self._start(row, columns.start))
        return None

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        assert self._fd is not None
        width = columns.stop - columns.start
        lines = [
            os.pread(self._fd, width * self._item, self._start(r, columns.start)) for r in range(rows.start, rows.stop)
        ]
        return np.frombuffer(b"".join(lines), self._dtype).reshape(len(lines), width, *self._shape[2:])

    def sync(self) -> None:
        if self._fd is not None:
            getattr(os, "fdatasync", os.fsync)(self._fd)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def result(self) -> np.ndarray:
        return np.lib.format.open_memmap(self.path, mode="r")

    @property
    def bytes(self) -> int:
        return int(np.prod(self._shape)) * self._dtype.itemsize

    def stamp(self) -> Any:
        status = os.stat(self.path)
        return [status.st_size, status.st_mtime_ns]


class ZarrArray(Target):
    """A zarr array, ours (`path` is set, a chunk is a tile) or the caller's."""

    def __init__(self, array: Any, path: Path | None = None):
        self.array, self.path = array, path
        # Blocks of the caller's array need not be whole chunks: two writers of one chunk would undo each other.
        self._lock = threading.Lock()
        self._touched: set[tuple[int, ...]] = set()

    def write(self, rows: slice, columns: slice, block: np.ndarray) -> None:
        with self._lock:
            self.array[rows, columns] = block
            if self.path is not None:
                height, width = self.array.chunks[:2]
                self._touched.add((rows.start // height, columns.start // width, *(0 for _ in self.array.shape[2:])))

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        return np.asarray(self.array[rows, columns])

    def sync(self) -> None:
        if self.path is None:
            return
        with self._lock:
            touched, self._touched = self._touched, set()
        for index in touched:
            file = self.path / self.array.path / self.array.metadata.encode_chunk_key(index)
            if file.exists():  # a chunk of zeros is not written at all
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())

    def result(self) -> Any:
        return self.array

    @property
    def bytes(self) -> int:
        return int(self.array.nbytes)


def check_target(name: str, target: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuses an array handed in as `out` that cannot take the result."""
    if tuple(target.shape) != shape or np.dtype(target.dtype) != dtype:
        raise InputError(
            f"`{name}` must have shape {shape} and dtype {dtype}, but has shape {tuple(target.shape)} and dtype "
            f"{target.dtype}."
        )
    if isinstance(target, np.ndarray) and not target.flags.writeable:
        raise InputError(f'`{name}` is read-only. Open it for writing, such as `np.load(path, mmap_mode="r+")`.')
    if getattr(target, "read_only", False):
        raise InputError(f'`{name}` is read-only. Open it for writing, such as `zarr.open(path, mode="r+")`.')
