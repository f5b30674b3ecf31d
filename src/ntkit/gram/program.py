"""The compiled form of a tile: one program per kernel structure, tile shape and kind, kept by JAX between calls."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkit._progress import GLANCE, Meter
from ntkit.errors import InputError, NtkitError
from ntkit.gram.plan import Kind, Plan

# How a value with trailing axes is mirrored: K(y, x)[b, a] = K(x, y)[a, b].
MIRROR = {2: (1, 0), 3: (1, 0, 2), 4: (1, 0, 3, 2)}


class Static:
    """The leaves of a kernel that are compiled into the program, as one hashable value."""

    def __init__(self, tree: Any):
        self.leaves, self.treedef = jax.tree.flatten(tree)
        self._key = (self.treedef, *((type(leaf), _hashable(leaf)) for leaf in self.leaves))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self._key == other._key

    def tree(self) -> Any:
        return jax.tree.unflatten(self.treedef, self.leaves)


def _hashable(leaf: Any) -> Any:
    try:
        hash(leaf)
    except TypeError:
        return _ByIdentity(leaf)
    return leaf


class _ByIdentity:
    """Equal to itself only. Holds the object, so that its address is not given to another."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.value is self.value


def is_dynamic(leaf: Any) -> bool:
    """Arrays and Python floats are arguments of the program, so that another `w_std` does not compile again.

    Except 0.0: layers leave out a bias that is exactly zero, which is a question of structure.
    """
    if isinstance(leaf, (float, np.floating)):
        return float(leaf) != 0.0
    return eqx.is_array(leaf) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufV")


@partial(jax.jit, static_argnums=0)
def _run(static: Static, dynamic: Any, *inputs: Array) -> Any:
    """`kernel(x1, x2)`, or `kernel(x1)`: the values of one tile, on its own."""
    return eqx.combine(dynamic, static.tree())(*inputs)


@partial(jax.jit, static_argnums=0)
def _run_diagonal(static: Static, dynamic: Any, x: Array) -> Any:
    return eqx.combine(dynamic, static.tree()).diagonal(x)


# A program of its own. In one with the tile, XLA for CPU fuses the elementwise part into the transposition too, and
# computes it twice, the second time slowly; `optimization_barrier` does not help: 36 ms in place of 8.5 for 512 x 512
# ReLU pairs of depth 10.
@jax.jit
def mirror_image(values: Any) -> Any:
    """The values of tile (j, i), given those of (i, j)."""
    return jax.tree.map(lambda leaf: leaf.transpose(MIRROR[leaf.ndim]), values)


@jax.jit
def symmetric(values: Any, diagonal: Any) -> Any:
    """A tile on the diagonal: its upper triangle, mirrored, as rounding differs on the two sides; and its diagonal."""

    def whole(leaf: Array, own: Array) -> Array:
        place = np.arange(len(leaf)).reshape((-1,) + (1,) * (leaf.ndim - 1))
        across = place.swapaxes(0, 1)
        folded = jnp.where(place < across, leaf, leaf.transpose(MIRROR[leaf.ndim]))
        return jnp.where(place == across, own[:, None], folded)

    return jax.tree.map(whole, values, diagonal)


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a kernel is traced. `x64`: Python floats keep 64 bits until they meet an array; `floats` are arguments."""

    x64: bool
    floats: bool


@contextlib.contextmanager
def precision(x64: bool) -> Iterator[None]:
    """What each thread that touches the arrays must enter: JAX keeps this setting per thread."""
    with jax.enable_x64(x64):
        yield


class Program:
    """The tiles of one plan, traced at once and compiled when asked.

    Its parts: `pairs` is `kernel(x1, x2)`, `diagonal` is `kernel.diagonal(x)`, n numbers that replace those of the
    pairs, as `whole` puts them together; `square`, for a callable without that method, is `kernel(x)`; `image`
    transposes. Sharing `pairs` between tiles on the diagonal and beside it halves what has to be compiled.
    """

    def __init__(
        self, kernel: Callable, plan: Plan, examples: tuple[tuple[int, ...], ...], dtype: np.dtype, device: Any
    ):
        self.plan, self.dtype, self.device = plan, dtype, device
        self._shapes = [(length, *shape) for length, shape in zip(plan.tile, examples, strict=True)]
        parts = _parts(kernel, plan)
        self.mode, traced = _trace_somehow(kernel, self._traced, parts, dtype)
        self._traced_parts = dict(zip(parts, traced, strict=True))
        self._compiled: dict[str, Callable] = {}
        self.struct = self._traced_parts[parts[0]].out_info
        check_values(self.struct, plan.tile, dtype)
        if "diagonal" in parts:
            _check_diagonal(self._traced_parts["diagonal"].out_info, self.struct)

    def _traced(self, kernel: Callable, part: str, mode: Mode) -> Any:
        choose = (
            is_dynamic
            if mode.floats
            else (lambda leaf: is_dynamic(leaf) and not isinstance(leaf, (float, np.floating)))
        )
        self._dynamic, static = eqx.partition(kernel, choose)
        inputs = [self._placed(jax.ShapeDtypeStruct(shape, self.dtype)) for shape in self._shapes]
        run = _run_diagonal if part == "diagonal" else _run
        with precision(mode.x64):
            return run.trace(Static(static), self._dynamic, *(inputs if part == "pairs" else inputs[:1]))

    def _placed(self, structs: Any) -> Any:
        """Shapes of arrays on the program's device."""
        place = jax.sharding.SingleDeviceSharding(self.device)
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), structs)

    def compile(self, progress: bool = False) -> int:
        """Compiles all parts at once, with a bar; returns the bytes that a running tile takes beside its inputs."""
        parts = dict(self._traced_parts)
        if "mirrored" in self.plan.kinds:
            with precision(self.mode.x64):
                parts["image"] = mirror_image.trace(self._placed(self.struct))
        if "diagonal" in parts:
            with precision(self.mode.x64):
                parts["whole"] = symmetric.trace(*map(self._placed, (self.struct, parts["diagonal"].out_info)))
        jobs = [_Job(_ByIdentity(traced.jaxpr), self.device, self.mode.x64, traced) for traced in parts.values()]
        with _lock:
            known = {job: _programs[job] for job in jobs if job in _programs}
        if missing := [job for job in jobs if job not in known]:
            known |= self._compile(missing, progress)
        found = [known[job] for job in jobs]
        self._compiled = {part: run for part, (run, _) in zip(parts, found, strict=True)}
        return sum(size for _, size in found)

    @staticmethod
    def _compile(jobs: list["_Job"], progress: bool) -> dict["_Job", tuple[Callable, int]]:
        with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
            running = [pool.submit(_compiled, job) for job in jobs]
            with Meter(progress, 0, len(jobs), "compiling", "programs") as meter:
                while left := wait(running, timeout=GLANCE).not_done:
                    meter(len(jobs) - len(left))
        found = {job: future.result() for job, future in zip(jobs, running, strict=True)}
        _keep(found)
        return found

    def __call__(self, kind: Kind, x1: Array, x2: Array) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
        """The leaves of the tile's values, and of their mirror image if it has one, on the host."""
        if kind == "diagonal":
            return self._on_the_diagonal(x1), None
        values = self._compiled["pairs"](self._dynamic, x1, x2)
        return _on_host(values), _on_host(self._compiled["image"](values)) if kind == "mirrored" else None

    def _on_the_diagonal(self, x: Array) -> list[np.ndarray]:
        if "square" in self._compiled:
            return _on_host(self._compiled["square"](self._dynamic, x))
        values, diagonal = self._compiled["pairs"](self._dynamic, x, x), self._compiled["diagonal"](self._dynamic, x)
        return _on_host(self._compiled["whole"](values, diagonal))


def _parts(kernel: Callable, plan: Plan) -> tuple[str, ...]:
    """What has to be compiled for a plan."""
    if not plan.symmetric:
        return ("pairs",)
    if callable(getattr(kernel, "diagonal", None)):
        return ("pairs", "diagonal")
    return ("square",) if plan.kinds == ("diagonal",) else ("square", "pairs")


def _on_host(values: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(values)]


@dataclasses.dataclass(frozen=True)
class _Job:
    """What decides the compiled program: JAX keeps one jaxpr per traced function and shapes."""

    jaxpr: _ByIdentity
    device: Any
    x64: bool
    traced: Any = dataclasses.field(compare=False)


# Compiled programs of the latest calls: JAX would find them again, but takes 6 ms to count the memory of each.
_programs: dict[_Job, tuple[Callable, int]] = {}
_PROGRAMS = 64
_lock = threading.Lock()


def _keep(found: dict[_Job, tuple[Callable, int]]) -> None:
    with _lock:
        _programs.update(found)
        while len(_programs) > _PROGRAMS:
            _programs.pop(next(iter(_programs)))


def _compiled(job: _Job) -> tuple[Callable, int]:
    with precision(job.x64):
        compiled = job.traced.lower().compile(compiler_options=_OPTIONS.get(job.device.platform))
    return compiled, _bytes_of(compiled)


# XLA's loops use half of an AVX-512 register unless told otherwise; with whole ones ten layers of ReLU take 0.65 of the
# time. Processors with shorter registers are not affected.
_OPTIONS = {"cpu": {"xla_cpu_prefer_vector_width": 512}}


def _bytes_of(compiled: Any) -> int:
    """Temporaries and results of one run, as the compiler counts them."""
    memory = compiled.memory_analysis()
    if memory is None:  # not every backend tells
        return 4 * sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(compiled.out_info))
    return int(memory.temp_size_in_bytes + memory.output_size_in_bytes)


def _trace_somehow(
    kernel: Callable, trace: Callable, parts: tuple[str, ...], dtype: np.dtype
) -> tuple[Mode, list[Any]]:
    """The first way of tracing that the kernel bears.

    With 64 bits switched on, float32 arrays stay float32, and `w_std**2` is rounded once, to the dtype of the array it
    meets, as it is in eager code; squaring a rounded sqrt(2) would be off by 6e-8 at every layer. A kernel that makes
    float64 arrays of its own then, or that computes with its floats outside JAX, is traced the plain way.
    """
    wide = [True] if dtype.itemsize == 8 else [True, False]
    modes = [Mode(x64, floats) for x64 in wide for floats in (True, False)]
    failure: Exception | None = None
    for mode in modes:
        try:
            traced = [trace(kernel, part, mode) for part in parts]
        except NtkitError:
            raise
        except Exception as error:
            failure = error
            continue
        if all(leaf.dtype == dtype for t in traced for leaf in jax.tree.leaves(t.out_info)) or mode == modes[-1]:
            return mode, traced
    assert failure is not None
    with written_in_jax():
        raise failure


@contextlib.contextmanager
def written_in_jax() -> Iterator[None]:
    """Refuses a kernel that needs the numbers while JAX traces it: one written in NumPy, say."""
    try:
        yield
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise InputError(
            "`kernel` must be a function in `jax.numpy`, but it asks for the values of its inputs, as NumPy and "
            "scikit-learn do. Write it in `jax.numpy`; where a `matrix=` can be given, compute it and pass that."
        ) from error


def check_values(struct: Any, tile: tuple[int, int], dtype: np.dtype) -> None:
    for leaf in jax.tree.leaves(struct):
        if leaf.shape[:2] != tile or leaf.ndim not in MIRROR:
            raise InputError(
                f"`kernel` must return an (n, m) array, or a named tuple of such arrays, for n and m examples, but for "
                f"{tile[0]} and {tile[1]} examples it returns shape {leaf.shape}."
            )
        if leaf.dtype != dtype:
            raise InputError(
                f"`kernel` must return the dtype it is given, but for {dtype} it returns {leaf.dtype}. "
                f'Compute in that dtype: `gram(..., dtype="{leaf.dtype}")`, or cast inside the kernel.'
            )


def _check_diagonal(diagonal: Any, struct: Any) -> None:
    wanted = jax.tree.map(lambda leaf: (leaf.shape[:1] + leaf.shape[2:], leaf.dtype), struct)
    came = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), diagonal)
    if wanted != came:
        raise InputError(
            f"`kernel.diagonal(x)` must hold the values of `kernel(x, x)` on the diagonal, {wanted} (shape, dtype), "
            f"but returns {came}."
        )


class Blocks:
    """The rows of an input on the device, one tile's length at a time, the latest kept while they fit."""

    def __init__(self, x: Any, length: int, dtype: np.dtype, device: Any, keep: float):
        self._x, self._length, self._dtype, self._device = x, length, dtype, device
        self._keep, self._kept, self._lock = keep, {}, threading.Lock()

    @property
    def bytes(self) -> int:
        return self._length * int(np.prod(self._x.shape[1:])) * self._dtype.itemsize

    def __getitem__(self, index: int) -> Array:
        with self._lock:
            if index in self._kept:
                self._kept[index] = block = self._kept.pop(index)  # now the latest
                return block
        block = self._load(index)
        with self._lock:
            if self.bytes <= self._keep:
                self._kept[index] = block
                while len(self._kept) * self.bytes > self._keep:
                    self._kept.pop(next(iter(self._kept)))
        return block

    def _load(self, index: int) -> Array:
        rows = self._x[index * self._length : (index + 1) * self._length]
        if len(rows) < self._length:  # a short last block is filled up with zeros
            full = np.zeros((self._length, *rows.shape[1:]), self._dtype)
            full[: len(rows)] = rows
            rows = full
        return jax.device_put(np.asarray(rows, self._dtype), self._device)
