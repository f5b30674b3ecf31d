"""Gram matrices: inputs and a budget in, a matrix out, by tiles on all cores."""

import contextlib
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntkit._check import HostArray, check_inputs, check_same_features, format_bytes, parse_memory
from ntkit._progress import GLANCE, Meter, Progress
from ntkit.errors import ComputationError, InputError
from ntkit.gram.host import HostBlocks, HostProgram, check_host, in_turn, on_host
from ntkit.gram.identity import identity
from ntkit.gram.masked import packed
from ntkit.gram.plan import MORE, PAIRS, PAIRS_ON_ACCELERATOR, Plan, Tile, pairs_within, plan_for
from ntkit.gram.program import Blocks, Program, precision
from ntkit.gram.ranges import warn_of_variances
from ntkit.gram.store import FULL, Store, find_journal, full_disk, open_store, paths_of
from ntkit.kernels import check_examples, settled
from ntkit.nn._masks import Masked

# Whether tiles are on their way to a file. Who ends the process should wait: a second's flush may save a minute's work.
saving = threading.Event()


def gram(
    kernel: Any,
    x1: Any,
    x2: Any = None,
    *,
    memory: str | int | None = "1GiB",
    progress: Progress = True,
    dtype: Any = None,
    out: Any = None,
    tile: int | tuple[int, int] | None = None,
    overwrite: bool = False,
) -> Any:
    """The Gram matrix K[i, j] = kernel(x1[i], x2[j]) of all examples, tile by tile on all cores.

    With `x2=None` it is the symmetric matrix of x1: only the upper triangle is computed, and the diagonal as a
    diagonal. Peak memory is at most the result plus `memory`. Equal calls give equal bytes. Not for use inside jit,
    grad or vmap: there call the kernel.

    **Arguments:**

    - `kernel`: a callable `kernel(x1, x2=None)` in pure JAX that returns an array (n, m), or a named tuple of such
        arrays (`ntkit.Both(net)`: both kernels in one pass). Another value of one of its floats does not compile again.
    - `x1`, `x2`: (n, features...) and (m, features...), examples first; NumPy, memory-mapped or JAX arrays of one
        floating dtype. Or `ntkit.Masked`, one or both, of which a copy is made.
    - `memory`: bytes for everything but the result, such as `"512MiB"` or `"2GB"`; None for no limit.
    - `progress`: True draws a bar with the time left on a terminal, if it lasts over a second; or a function that is
        called as `progress(tiles_done, tiles)`.
    - `dtype`: "float32" or "float64"; None follows the input. float64 needs no global switch.
    - `out`: where the result goes instead of memory. A path ending in .npy or .zarr, or for a named tuple a dictionary
        of paths or one .zarr path (a group): written tile by tile, with a journal `<out>.journal` beside it. A run that
        was stopped in any way is resumed by the same call; a finished one is recognised. Or a writable NumPy or zarr
        array, or a zarr group, which are filled without a journal.
    - `tile`: examples per tile side, instead of the choice by memory and speed.
    - `overwrite`: replace what stands at `out`.

    **Returns:** a NumPy array (memory-mapped and read-only for .npy), the zarr array, or the array given as `out`; for
    a named tuple, the same named tuple of these.

    **Raises:** `ntkit.InputError` for wrong arguments, a budget too small for a tile of one pair, or an `out` that
    belongs to another job; `ntkit.ComputationError` for an entry that is not finite, as of inputs too large for the
    dtype, or for a full disk. Ctrl-C stops after the tiles in progress; what is written to `out` stays valid.
    """
    masked = isinstance(x1, Masked) or isinstance(x2, Masked)
    if on_host(kernel):
        check_host(kernel, masked)
    kernel, x1, x2 = packed(kernel, x1, x2)
    x1, x2, width = _inputs(x1, x2, dtype)
    budget = parse_memory(memory)
    if not callable(kernel):
        raise InputError(
            f"`kernel` must be callable as `kernel(x1, x2)`, but is {type(kernel).__name__}. For a network pass "
            "`ntkit.NTK(net)` or `ntkit.NNGP(net)`."
        )
    if _is_of_torch(kernel):
        raise InputError(
            "`kernel` is of `ntkit.torch.EmpiricalNTK`, which takes tensors. Pass `ntkit.torch.OnArrays(module)`, the "
            "same kernel of arrays."
        )
    if not (isinstance(progress, bool) or callable(progress)):
        raise InputError(f"`progress` must be True, False or a function of (done, total), but is {progress!r}.")
    warn_of_variances(kernel, x1, x2)
    if x2 is None:  # a tile alone does not know the other inputs
        kernel = settled(kernel, x1)
    if not masked:
        with precision(width.itemsize == 8):
            check_examples(kernel, np.asarray(x1[:3], width))
    job = _Job(kernel, x1, x2, width, math.inf if budget is None else budget, _sides(tile))
    return job.run(out, progress, overwrite)


def _is_of_torch(kernel: Any) -> bool:
    """Without importing torch: who has made such a kernel has done so."""
    return type(kernel).__module__ == "ntkit.torch.kernel"


def _inputs(x1: Any, x2: Any, dtype: Any) -> tuple[HostArray, HostArray | None, np.dtype]:
    """Checked inputs, and the dtype to compute in."""
    x1 = check_inputs("x1", x1)
    if x2 is not None:
        x2 = check_inputs("x2", x2)
        check_same_features("x1", x1, "x2", x2)
        if dtype is None and x1.dtype != x2.dtype:
            raise InputError(
                f"`x1` and `x2` must have one dtype, but have {x1.dtype} and {x2.dtype}. Pass `dtype=` to convert both."
            )
    try:
        wanted = np.dtype(x1.dtype if dtype is None else dtype)
    except TypeError:
        raise InputError(f'`dtype` must be "float32", "float64" or None, but is {dtype!r}.') from None
    if wanted.name not in ("float32", "float64"):
        came = f"`dtype` is {wanted}" if dtype is not None else f"`x1` has dtype {wanted}"
        raise InputError(f'A Gram matrix is computed in float32 or float64, but {came}. Pass `dtype="float32"`.')
    return x1, x2, wanted


def _sides(tile: Any) -> tuple[int, int] | None:
    if tile is None:
        return None
    sides = tile if isinstance(tile, (tuple, list)) else (tile, tile)
    whole = all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s >= 1 for s in sides)
    if len(sides) != 2 or not whole:
        raise InputError(f"`tile` must be a positive whole number or a pair of them, but is {tile!r}.")
    return int(sides[0]), int(sides[1])


class _Job:
    """One call of `gram`: plans, compiles, opens the store, and runs the tiles that are missing."""

    def __init__(
        self, kernel: Callable, x1: HostArray, x2: HostArray | None, dtype: np.dtype, budget: float, sides: Any
    ):
        self.kernel, self.dtype, self.budget, self.sides = kernel, dtype, budget, sides
        self.devices: list[Any] = [None] if on_host(kernel) else _devices_for(x1)
        self.device = self.devices[0]
        self.x1 = np.asarray(x1) if isinstance(x1, jax.Array) else x1
        self.x2 = np.asarray(x2) if isinstance(x2, jax.Array) else x2
        self.symmetric = x2 is None
        self.columns = self.x1 if self.x2 is None else self.x2

    def run(self, out: Any, progress: Progress, overwrite: bool) -> Any:
        paths = paths_of(out)
        who = journal = None
        if paths:
            who = identity(self.kernel, self.x1, self.x2, self.dtype)
            journal = find_journal(paths, who, overwrite)
            if journal is not None:
                self._adopt(journal.job["tile"], str(journal.path))
        program = self._program(self._first_plan())
        if journal is not None and journal.stamps is not None:
            with contextlib.closing(open_store(out, program.struct, program.plan, who, journal)) as store:
                if store.is_finished(program.plan):
                    return store.result()
        program, room = self._compiled(program, progress is True)
        with contextlib.closing(open_store(out, program.struct, program.plan, who, journal)) as store:
            store.verify(program.plan)
            with _keeping(store, paths, len(program.plan)):
                self._execute(program, room, store, progress)
                return store.finish()

    def _adopt(self, tile: list[int], path: str) -> None:
        """Goes on with the tiles of the run to be resumed: other tiles could round differently."""
        sides = (tile[0], tile[1])
        if self.sides is not None and self._plan(self.sides).tile != sides:
            raise InputError(
                f"`tile` is {self.sides}, but the run that `{path}` records used {sides}. Leave `tile` out to resume "
                "it, or pass `overwrite=True` to start again."
            )
        self.sides = sides

    def _plan(self, sides: tuple[int, int]) -> Plan:
        """Tiles of a given size, cut down to the result's."""
        n, m = len(self.x1), len(self.columns)
        if self.symmetric:
            edge = min(sides[0], n)
            if sides[0] != sides[1]:
                raise InputError(f"`tile` must be one number when `x2` is None, but is {sides}.")
            return Plan(n, n, (edge, edge), True)
        return Plan(n, m, (min(sides[0], n), min(sides[1], m)), False)

    def _first_plan(self) -> Plan:
        if self.sides is not None:
            return self._plan(self.sides)
        if on_host(self.kernel):
            side = self.kernel.side(np.asarray(self.x1[:1], self.dtype), max(len(self.x1), len(self.columns)))
            return self._plan((side, side))
        most = PAIRS if self.device.platform == "cpu" else PAIRS_ON_ACCELERATOR
        weigh = getattr(self.kernel, "weight", None)
        if weigh is not None and (weight := weigh(self.x1.shape[1:])) > 1:
            # Of images a pair may take a second: then every core should have its tiles. But what is done once per image
            # is done once per tile.
            everything = len(self.x1) * len(self.columns)
            most = max(1, min(PAIRS * MORE // weight, everything // cores()))
        row = int(np.prod(self.x1.shape[1:])) * self.dtype.itemsize
        return self._planned(pairs_within(self.budget, row, self.dtype.itemsize, most))

    def _planned(self, pairs: int) -> Plan:
        return plan_for(len(self.x1), len(self.columns), self.symmetric, pairs)

    def _program(self, plan: Plan, device: Any = None) -> Program | HostProgram:
        if on_host(self.kernel):
            return HostProgram(self.kernel, plan, np.asarray(self.x1[:1], self.dtype), self.dtype)
        shapes = (self.x1.shape[1:], self.columns.shape[1:])
        return Program(self.kernel, plan, shapes, self.dtype, self.device if device is None else device)

    def _compiled(
        self, program: Program | HostProgram, progress: bool = False
    ) -> tuple[Program | HostProgram, "_Room"]:
        """The program, its tiles made smaller until the compiler's own count of one tile's memory fits the budget."""
        while True:
            room = _Room(self, program, program.compile(progress))
            if room.needed <= self.budget:
                return program, room
            pairs = math.prod(program.plan.tile)
            if pairs == 1 or self.sides is not None:
                one = "one pair" if pairs == 1 else f"the tile {program.plan.tile}"
                raise InputError(
                    f"`memory` is {format_bytes(self.budget)}, but {one} takes {format_bytes(room.needed)}. "
                    f"Pass at least `memory={room.needed}`" + ("." if pairs == 1 else ", or a smaller `tile`.")
                )
            fewer = int(pairs * min(0.5, 0.8 * self.budget / room.needed))
            program = self._program(self._planned(max(1, fewer)))

    def _execute(self, program: Program | HostProgram, room: "_Room", store: Store, progress: Progress) -> None:
        todo = [tile for tile in program.plan.tiles() if tile.index not in store.done]
        meter = Meter(progress, len(program.plan) - len(todo), len(program.plan))
        places = [self._place(program, device, room) for device in self.devices[: len(todo)] or self.devices[:1]]

        def work(tile: Tile, worker: int) -> None:
            i, j = tile.index
            program, rows, columns = places[worker % len(places)]
            leaves, mirrors = program(tile.kind, rows[i], columns[j])
            _check_finite(tile, leaves, self.symmetric)
            store.write(tile, leaves, mirrors)

        try:
            if isinstance(program, HostProgram):
                return in_turn(todo, work, program, meter)
            run_all(todo, work, max(room.workers(len(todo)), len(places)), program.mode.x64, meter)
        finally:
            meter.close()

    def _place(self, program: Program | HostProgram, device: Any, room: "_Room") -> tuple[Any, Any, Any]:
        """The program and the inputs on a device: each runs whole tiles."""
        if isinstance(program, HostProgram):
            height, width = program.plan.tile
            return program, HostBlocks(self.x1, height, self.dtype), HostBlocks(self.columns, width, self.dtype)
        if device != program.device:
            program = self._program(program.plan, device)
            program.compile()
        height, width = program.plan.tile
        rows = Blocks(self.x1, height, self.dtype, device, room.kept)
        return program, rows, rows if self.symmetric else Blocks(self.columns, width, self.dtype, device, room.kept)


class NotFiniteError(ComputationError):
    """The kernel of `pair`, a row of x1 and one of x2, is not finite."""

    def __init__(self, message: str, pair: tuple[int, int]):
        super().__init__(message)
        self.pair = pair


def _check_finite(tile: Tile, leaves: list[np.ndarray], symmetric: bool) -> None:
    """While the tile is in the cache. What fills it up does not count."""
    for leaf in leaves:
        values = leaf[: tile.shape[0], : tile.shape[1]]
        with np.errstate(all="ignore"):
            if np.isfinite(values.sum()):  # in a fifth of the time that looking at each takes
                continue
        finite = np.isfinite(values)
        if not finite.all():
            first = np.unravel_index(int(np.argmin(finite)), finite.shape)
            i, j = tile.rows.start + int(first[0]), tile.columns.start + int(first[1])
            wider = ', or pass `dtype="float64"`' if leaf.dtype.itemsize < 8 else ""
            raise NotFiniteError(
                f"The kernel of `x1[{i}]` and `{'x1' if symmetric else 'x2'}[{j}]` is not finite ({values[first]}). "
                f"Most often such inputs are too large for {leaf.dtype}: scale them{wider}.",
                (i, j),
            )


@contextlib.contextmanager
def _keeping(store: Store, paths: list[Path], tiles: int) -> Iterator[None]:
    """On every way out saves what is done; says so where the user can do something about it."""
    if paths:
        saving.set()
    try:
        yield
    except BaseException as error:
        saved = store.save()
        if paths and isinstance(error, OSError) and error.errno in FULL:
            raise full_disk(paths, store.bytes, saved, tiles) from error
        if paths and isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(
                f"stopped: {saved} of {tiles} tiles of `{paths[0]}` are saved. Repeat the call to resume."
            ) from None
        raise
    finally:
        if paths:
            saving.clear()


class _Room:
    """How the budget is spent: so many tiles at a time, and the rest on inputs kept on the device."""

    def __init__(self, job: _Job, program: Program | HostProgram, tile_bytes: int):
        height, width = program.plan.tile
        row = int(np.prod(job.x1.shape[1:])) * job.dtype.itemsize
        # Twice the tile, since JAX frees one while the next already runs. Each input on the host, cast and filled up,
        # on the device, packed by the matrix product, and as pages of the file that it may be mapped from.
        self.needed = 2 * tile_bytes + 4 * (height + width) * row
        self._budget, self._inputs = job.budget, 1 if job.symmetric else 2

    def workers(self, tiles: int) -> int:
        fitting = self._budget // self.needed if math.isfinite(self._budget) else tiles
        # One more than cores: its tile is copied while the others are computed.
        self._running = int(max(1, min(cores() + 1, tiles, fitting)))
        return self._running

    @property
    def kept(self) -> float:
        """Bytes for each input's blocks beside those in use."""
        return max(0.0, self._budget - (cores() + 1) * self.needed) / self._inputs


def _devices_for(x: Any) -> list[Any]:
    """The device that holds `x`; of an array on the host JAX's default one, and all others of its kind."""
    if isinstance(x, jax.Array):
        return [next(iter(x.devices()))]
    if jax.config.jax_default_device is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return [next(iter(jax.device_put(np.float32(0)).devices()))]
    return jax.local_devices()


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(todo: list[Tile], work: Callable[[Tile, int], None], workers: int, x64: bool, meter: Meter) -> None:
    """Does `work(tile, worker)` for each tile on `workers` threads; the calling thread waits, so that it hears Ctrl-C.

    The first exception of a worker is raised here, after the others have finished their tile. XLA has threads of its
    own, but several tiles at once keep the cores busy while one of them is copied into the result.
    """
    if workers == 1 and len(todo) == 1:
        meter(meter.first)
        with precision(x64):
            work(todo[0], 0)
        return meter(meter.first + 1)
    waiting: queue.SimpleQueue[Tile] = queue.SimpleQueue()
    for tile in todo:
        waiting.put(tile)
    results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def loop(worker: int) -> None:
        with precision(x64):
            while not stop.is_set():
                try:
                    tile = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    work(tile, worker)
                    results.put(None)
                except BaseException as error:
                    results.put(error)
                    return

    threads = [threading.Thread(target=loop, args=(k,), name=f"ntkit-gram-{k}", daemon=True) for k in range(workers)]
    for thread in threads:
        thread.start()
    try:
        _wait(len(todo), results, meter)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return None


def _wait(total: int, results: "queue.SimpleQueue[BaseException | None]", meter: Meter) -> None:
    done, before = 0, meter.first
    meter(before)
    while done < total:
        try:
            error = results.get(timeout=GLANCE)
        except queue.Empty:
            meter(before + done)
            continue
        if error is not None:
            raise error
        done += 1
        meter(before + done)
