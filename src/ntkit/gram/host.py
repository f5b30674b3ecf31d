"""Kernels that compute by themselves, outside JAX: those of torch networks. A tile is one call, in NumPy.

Such a kernel says so by `on_host`, and has beside `kernel(x1, x2=None, told=...)` and `kernel.diagonal(x)`

- `side(x, n)`: how many of n examples like those of x it takes at a time;
- `check_examples(x)` and `program(x)`, as kernels of finite networks have them.

It keeps to a memory budget of its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ntkit._progress import Meter
from ntkit.errors import InputError
from ntkit.gram.plan import Kind, Plan, Tile
from ntkit.gram.program import MIRROR, Mode, check_values


def on_host(kernel: Any) -> bool:
    """Whether a kernel takes and returns NumPy arrays, and cannot be compiled."""
    return bool(getattr(kernel, "on_host", False))


class HostProgram:
    """What `Program` is for kernels in JAX: the tiles of one plan. `first` is one example."""

    device = None

    def __init__(self, kernel: Any, plan: Plan, first: np.ndarray, dtype: np.dtype):
        self.kernel, self.plan, self.dtype = kernel, plan, dtype
        self.mode = Mode(x64=dtype.itemsize == 8, floats=False)
        self.told: Callable[[int, int], None] = lambda done, total: None
        probe = jax.tree.map(np.asarray, kernel(first))
        self.struct = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*plan.tile, *leaf.shape[2:]), dtype), probe)
        check_values(self.struct, plan.tile, dtype)

    def compile(self, progress: bool = False) -> int:
        """The bytes of a tile: there is nothing to compile."""
        leaves = jax.tree.leaves(self.struct)
        return 2 * sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)

    def __call__(self, kind: Kind, x1: np.ndarray, x2: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
        values = self.kernel(x1, None if kind == "diagonal" else x2, told=self.told)
        leaves = [np.asarray(leaf, self.dtype) for leaf in jax.tree.leaves(values)]
        if kind != "mirrored":
            return leaves, None
        return leaves, [leaf.transpose(MIRROR[leaf.ndim]) for leaf in leaves]


class HostBlocks:
    """The rows of an input, a tile's length at a time; the last may be shorter. The latest row's stays the same object,
    by which a kernel may know that it has seen it."""

    def __init__(self, x: Any, length: int, dtype: np.dtype):
        self._x, self._length, self._dtype = x, length, dtype
        self._latest: tuple[int, np.ndarray] | None = None

    def __getitem__(self, index: int) -> np.ndarray:
        if self._latest is None or self._latest[0] != index:
            rows = self._x[index * self._length : (index + 1) * self._length]
            self._latest = index, np.asarray(rows, self._dtype)
        return self._latest[1]


def in_turn(todo: list[Tile], work: Callable[[Tile, int], None], program: HostProgram, meter: Meter) -> None:
    """Does `work(tile, 0)` for each tile, in this thread: the kernel has threads of its own, and hears Ctrl-C."""
    meter(meter.first)
    for k, tile in enumerate(todo, start=meter.first):
        program.told = lambda done, total, k=k: meter(k + done / (total + 1))  # what is not yet written is not done
        work(tile, 0)
        meter(k + 1)


def check_host(kernel: Any, masked: bool) -> None:
    """Refuses what such kernels cannot do."""
    if masked:
        raise InputError(f"{kernel!r} takes no `ntkit.Masked` examples: it is not a kernel of an infinite network.")
