"""`out=`: which targets a result is written to, and how a run that was killed goes on from its journal."""

import contextlib
import dataclasses
import errno
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntkit._check import format_bytes
from ntkit.errors import ComputationError, InputError
from ntkit.gram.identity import digest
from ntkit.gram.journal import Index, Journal
from ntkit.gram.plan import Plan, Tile
from ntkit.gram.targets import InMemory, NpyFile, Target, ZarrArray, check_target

# Full disk, full quota, file-size limit.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Flushing may take this part of the time; a crash of the machine costs what came after the last flush.
SYNCING = 0.05


def paths_of(out: Any) -> list[Path]:
    """The files that `out` names; empty if it is None or made of arrays."""
    if isinstance(out, (str, os.PathLike)):
        return [Path(out)]
    if isinstance(out, (Mapping, tuple, list)):
        entries = list(out.values()) if isinstance(out, Mapping) else list(out)
        named = [isinstance(entry, (str, os.PathLike)) for entry in entries]
        if any(named) and not all(named):
            raise InputError("`out` must name files only, or hold arrays only: a run with both could not be resumed.")
        return [Path(entry) for entry in entries if any(named)]
    return []


def journal_path(paths: list[Path]) -> Path:
    """Beside the first of the files in alphabetical order."""
    first = min(paths)
    return first.with_name(first.name + ".journal")


def check_paths(paths: list[Path]) -> None:
    for path in paths:
        if path.suffix not in (".npy", ".zarr"):
            raise InputError(f"`out` must end in .npy or .zarr, but is {str(path)!r}.")
        if not path.parent.is_dir():
            raise InputError(f"`out` is {str(path)!r}, but there is no folder {str(path.parent)!r}. Create it first.")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise InputError(f"`out` is {str(path)!r}, but the folder {str(path.parent)!r} is not writable.")
        if path.exists() and path.is_dir() != (path.suffix == ".zarr"):
            kind = "a folder" if path.is_dir() else "a file"
            raise InputError(f"`out` is {str(path)!r}, which exists and is {kind}. Choose another name.")
    if len(set(paths)) != len(paths):
        raise InputError(f"`out` names the same file twice: {[str(path) for path in paths]}.")


def find_journal(paths: list[Path], identity: dict[str, str], overwrite: bool) -> Journal | None:
    """The journal of this very job, to be resumed. Refuses outputs that exist and are not this job's."""
    check_paths(paths)
    if overwrite:
        return None
    journal = Journal.read(journal_path(paths))
    way_out = "Pass `overwrite=True` to replace it, or choose another `out`."
    if journal is None:
        for path in paths:
            if path.exists():
                raise InputError(
                    f"`out` is {str(path)!r}, which exists, and no run of `gram` can be resumed from it. {way_out}"
                )
        return None
    differing = journal.differences({"identity": identity})
    if differing or journal.job.get("targets") != sorted(path.name for path in paths):
        what = f"differs in: {', '.join(differing)}" if differing else f"wrote to {journal.job.get('targets')}"
        raise InputError(f"`{journal.path}` belongs to another job, which {what}. {way_out}")
    return journal


class Store:
    """The targets of one run, one per leaf of the kernel's value, and its journal if it has one."""

    def __init__(self, targets: list[Target], treedef: Any, journal: Journal | None = None):
        self._targets, self._treedef, self._journal = targets, treedef, journal
        self._pending: dict[Index, str] = {}
        self._lock, self._syncing, self._due = threading.Lock(), threading.Lock(), 0.0

    @property
    def bytes(self) -> int:
        """The size of the whole result."""
        return sum(target.bytes for target in self._targets)

    @property
    def done(self) -> set[Index]:
        return set() if self._journal is None else set(self._journal.done)

    def write(self, tile: Tile, leaves: list[np.ndarray], mirrors: list[np.ndarray] | None) -> None:
        """Writes a tile, and its mirror image; records it as soon as a flush is due."""
        height, width = tile.shape
        for k, target in enumerate(self._targets):
            target.write(tile.rows, tile.columns, leaves[k][:height, :width])
            if mirrors is not None:
                target.write(tile.columns, tile.rows, mirrors[k][:width, :height])
        if self._journal is not None:
            total = checksum([leaf[:height, :width] for leaf in leaves])
            with self._lock:
                self._pending[tile.index] = total
            if time.monotonic() >= self._due and self._syncing.acquire(blocking=False):
                try:
                    self._commit(self._journal)
                finally:
                    self._syncing.release()

    def _commit(self, journal: Journal) -> None:
        start = time.monotonic()
        with self._lock:
            pending, self._pending = self._pending, {}
        for target in self._targets:
            target.sync()
        journal.append(pending)
        now = time.monotonic()
        self._due = now + (now - start) / SYNCING

    def verify(self, plan: Plan) -> None:
        """Forgets recorded tiles whose bytes, or whose mirror image's, are not the ones that were recorded."""
        if self._journal is not None:
            bad = [index for index, total in self._journal.done.items() if not self._holds(plan.at(*index), total)]
            if bad or self._journal.stamps is not None:
                self._journal.forget(bad)

    def _holds(self, tile: Tile, total: str) -> bool:
        leaves = [target.read(tile.rows, tile.columns) for target in self._targets]
        if checksum(leaves) != total:
            return False
        if tile.kind != "mirrored":
            return True
        swapped = [np.swapaxes(target.read(tile.columns, tile.rows), 0, 1) for target in self._targets]
        swapped = [np.swapaxes(leaf, 2, 3) if leaf.ndim == 4 else leaf for leaf in swapped]
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(leaves, swapped))

    def is_finished(self, plan: Plan) -> bool:
        """Whether nothing is missing: by the stamps of the files, or where there are none, by reading all."""
        if self._journal is None or self._journal.stamps is None or len(self._journal.done) != len(plan):
            return False
        if None not in self._journal.stamps:
            return self._journal.stamps == [target.stamp() for target in self._targets]
        return all(self._holds(plan.at(*index), total) for index, total in self._journal.done.items())

    def finish(self) -> Any:
        """Commits the rest and returns the result, shaped as the kernel's value."""
        if self._journal is not None:
            self._commit(self._journal)
            self.close_targets()
            self._journal.finish([target.stamp() for target in self._targets])
        return self.result()

    def result(self) -> Any:
        return jax.tree.unflatten(self._treedef, [target.result() for target in self._targets])

    def save(self) -> int:
        """On the way out of a failure: keeps what can be kept; the number of tiles on the disk."""
        if self._journal is None:
            return 0
        with contextlib.suppress(OSError):  # such as a full disk; these tiles will be computed again
            self._commit(self._journal)
        return len(self._journal.done)

    def close_targets(self) -> None:
        for target in self._targets:
            target.close()

    def close(self) -> None:
        self.close_targets()
        if self._journal is not None:
            self._journal.close()


def checksum(leaves: list[np.ndarray]) -> str:
    return digest(*(np.ascontiguousarray(leaf).data.cast("B") for leaf in leaves))


def entries_of(out: Any, names: list[str]) -> list[Any]:
    """What `out` holds for each leaf, in the order of the leaves."""
    if isinstance(out, Mapping):
        if set(out) != set(names):
            raise InputError(
                f"`out` must have the keys {names}, one for each array of the result, but has {list(out)}."
            )
        return [out[name] for name in names]
    if isinstance(out, (tuple, list)):
        if len(out) != len(names):
            raise InputError(f"`out` must hold {len(names)} targets, for {names}, but holds {len(out)}.")
        return list(out)
    if len(names) == 1 or out is None:
        return [out] * len(names)
    if isinstance(out, (str, os.PathLike)) and Path(out).suffix == ".zarr":
        return [out] * len(names)
    if hasattr(out, "create_array"):  # a zarr group
        group: Any = out
        return [group.get(name) for name in names]
    example = ", ".join(f'"{name}": "{name}.npy"' for name in names)
    raise InputError(f"The result has {len(names)} arrays. Let `out` be a .zarr path, or a dictionary: {{{example}}}.")


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of the result: its name in the named tuple, what `out` holds for it, and its form."""

    name: str
    entry: Any
    shape: tuple[int, ...]
    dtype: np.dtype
    tile: tuple[int, int]

    @property
    def path(self) -> Path:
        return Path(self.entry)

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...]:
        """One chunk a tile, so that no two threads share a chunk."""
        return (min(self.tile[0], self.shape[0]), min(self.tile[1], self.shape[1]), *self.shape[2:])


def leaves_of(out: Any, struct: Any, plan: Plan) -> list[Leaf]:
    names = [
        jax.tree_util.keystr(p, simple=True, separator=".") for p, _ in jax.tree_util.tree_leaves_with_path(struct)
    ]
    entries = entries_of(out, names)
    return [
        Leaf(name, entry, (plan.n, plan.m, *leaf.shape[2:]), np.dtype(leaf.dtype), plan.tile)
        for name, entry, leaf in zip(names, entries, jax.tree.leaves(struct), strict=True)
    ]


def open_store(out: Any, struct: Any, plan: Plan, identity: dict[str, str] | None, journal: Journal | None) -> Store:
    """The store for `out`; with `journal`, the one in which a run left off."""
    leaves, treedef = leaves_of(out, struct, plan), jax.tree.structure(struct)
    if identity is None:
        return Store([_in_memory(out, leaf) for leaf in leaves], treedef)
    paths = paths_of(out)
    fresh = journal is None
    if journal is None:
        targets = sorted(path.name for path in paths)
        job = {"identity": identity, "tile": list(plan.tile), "shape": [plan.n, plan.m], "targets": targets}
        job["tiles"] = len(plan)
        check_space(
            paths,
            [leaf.bytes for leaf in leaves] if len(paths) > 1 else [sum(leaf.bytes for leaf in leaves)],
            len(plan),
        )
        journal = Journal.create(journal_path(paths), job)
    try:
        journal.lock()
        return Store(_files(leaves, journal, fresh), treedef, journal)
    except BaseException as error:
        journal.close()
        if isinstance(error, OSError) and error.errno in FULL:
            raise full_disk(paths, sum(leaf.bytes for leaf in leaves), 0, len(plan)) from error
        raise


def _in_memory(out: Any, leaf: Leaf) -> Target:
    if out is None:
        return InMemory(np.empty(leaf.shape, leaf.dtype))
    called = f"out[{leaf.name!r}]" if leaf.name else "out"
    if leaf.entry is None:  # to be made in the caller's zarr group
        made = out.create_array(leaf.name, shape=leaf.shape, dtype=leaf.dtype, chunks=leaf.chunks, compressors=None)
        return ZarrArray(made)
    if isinstance(leaf.entry, np.ndarray):
        check_target(called, leaf.entry, leaf.shape, leaf.dtype)
        return InMemory(leaf.entry)
    if hasattr(leaf.entry, "chunks") and hasattr(leaf.entry, "metadata"):
        check_target(called, leaf.entry, leaf.shape, leaf.dtype)
        return ZarrArray(leaf.entry)
    raise InputError(
        f"`{called}` must be None, a path ending in .npy or .zarr, a NumPy array or a zarr array, but is "
        f"{type(leaf.entry).__name__}."
    )


def _files(leaves: list[Leaf], journal: Journal, fresh: bool) -> list[Target]:
    """The files of a job. Where one is not as it should be all are made anew, and the journal's tiles forgotten."""
    in_group = len({leaf.path for leaf in leaves}) < len(leaves)
    if not fresh:
        try:
            return [_open(leaf, in_group) for leaf in leaves]
        except (OSError, ValueError, KeyError):
            journal.forget(list(journal.done))
    for path in {leaf.path for leaf in leaves if leaf.path.is_dir()}:
        shutil.rmtree(path)
    for leaf in leaves:
        _create(leaf, in_group)
    return [_open(leaf, in_group) for leaf in leaves]


def _create(leaf: Leaf, in_group: bool) -> None:
    if leaf.path.suffix == ".npy":
        return NpyFile(leaf.path, leaf.shape, leaf.dtype).create()
    import zarr

    if in_group:
        zarr.open_group(str(leaf.path), mode="a")
    form = {"shape": leaf.shape, "dtype": leaf.dtype, "chunks": leaf.chunks, "zarr_format": 3}
    # Kernels of real data hardly compress.
    zarr.create_array(str(leaf.path), name=leaf.name if in_group else None, compressors=None, **form)
    return None


def _open(leaf: Leaf, in_group: bool) -> Target:
    if leaf.path.suffix == ".npy":
        target = NpyFile(leaf.path, leaf.shape, leaf.dtype)
        target.open()
        return target
    import zarr

    array = zarr.open_array(str(leaf.path), path=leaf.name if in_group else "", mode="r+")
    if array.shape != leaf.shape or array.dtype != leaf.dtype or array.chunks != leaf.chunks:
        raise ValueError(f"`{leaf.path}` holds another array")
    return ZarrArray(array, leaf.path)


def check_space(paths: list[Path], sizes: list[int], tiles: int) -> None:
    """Raises before the first tile is computed if the disks have no room for the result."""
    wanted: dict[int, int] = {}
    for path, size in zip(paths, sizes):
        device = os.stat(path.parent).st_dev
        # A file that will be replaced makes room for its successor.
        wanted[device] = wanted.get(device, 0) + size - (path.stat().st_blocks * 512 if path.is_file() else 0)
        if wanted[device] > shutil.disk_usage(path.parent).free:
            raise full_disk(paths, sum(sizes), 0, tiles)


def full_disk(paths: list[Path], size: int, saved: int, tiles: int) -> ComputationError:
    """The one error of a full disk."""
    free = shutil.disk_usage(paths[0].parent).free
    return ComputationError(
        f"The disk is full: {', '.join(f'`{p}`' for p in paths)} needs {format_bytes(size)} ({size} bytes) in all, and "
        f"{format_bytes(free)} ({free} bytes) are free. {saved} of {tiles} tiles are written and stay valid. "
        "Free some space and repeat the call to resume, or choose another `out`."
    )
