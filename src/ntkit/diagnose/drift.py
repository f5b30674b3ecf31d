"""How far training moves a kernel, and how well a kernel and the labels agree."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from ntkit._check import as_host_array, check_finite, is_float
from ntkit.empirical import EmpiricalNTK
from ntkit.errors import ComputationError, InputError


@dataclasses.dataclass(frozen=True)
class Drift:
    """What was found at t times of a training, the first being the start.

    `drift` (t,): |K_t - K_0|_F / |K_0|_F. `alignment`, `centered_alignment` (t,): of K_t with the labels, as
    `ntkit.alignment`; None without labels.
    """

    drift: Float[np.ndarray, " t"]
    alignment: Float[np.ndarray, " t"] | None
    centered_alignment: Float[np.ndarray, " t"] | None

    def __str__(self) -> str:
        columns = {"drift": self.drift, "alignment": self.alignment, "centered": self.centered_alignment}
        known = {name: values for name, values in columns.items() if values is not None}
        lines = ["  ".join(["   t", *(f"{name:>10}" for name in known)])]
        for t, row in enumerate(zip(*known.values(), strict=True)):
            lines.append("  ".join([f"{t:4}", *(f"{value:10.4g}" for value in row)]))
        return "\n".join(lines)


def alignment(k: Any, y: Any, *, centered: bool = False) -> float:
    """The kernel alignment of a Gram matrix with labels, between -1 and 1; 1 where k is a multiple of Y Y^T.

        A(K, Y) = <K, Y Y^T>_F / (|K|_F |Y Y^T|_F)                 (Cristianini et al. 2001, definition 1)

    `centered`: of H K H and H Y Y^T H with H = I - 1 1^T / n (Cortes, Mohri and Rostamizadeh 2012, definition 4), which
    is blind to constants in either.

    **Arguments:** `k`: (n, n). `y`: labels as numbers (n,) or (n, o): +1 and -1 for two classes, the rows of
    `ntkit.predict.one_hot(labels).y` for more, targets for regression. Computed in float64.

    **Raises:** `ntkit.InputError` for shapes that do not go together, and where k or y is 0, or `centered` and
    constant, so that there is no angle between them.
    """
    k, y = _matrix("k", k), _labels(y, len(k))
    return _cosine(_centred(k), _centred_rows(y)) if centered else _cosine(k, y)


class Follower:
    """The arithmetic of every door: takes the matrices of a training one after the other, and keeps the first."""

    def __init__(self, y: Any, n: int):
        self._y = None if y is None else _labels(y, n)
        self._start: Any = None
        self._rows: list[tuple[float, ...]] = []

    def add(self, k: Any) -> None:
        """The next matrix, (n, n)."""
        k = _matrix("kernel(x)", k)
        self._start = k if self._start is None else self._start
        norm = float(np.linalg.norm(self._start))
        if norm == 0:
            raise InputError("The kernel at the start is 0 on `x`: its drift has no unit. Take other examples.")
        row = (float(np.linalg.norm(k - self._start)) / norm,)
        if self._y is not None:
            row = (*row, _cosine(k, self._y), _cosine(_centred(k), _centred_rows(self._y)))
        self._rows.append(row)

    def found(self, nothing: str) -> Drift:
        """All so far; `nothing`: what is said where that is none."""
        if not self._rows:
            raise InputError(nothing)
        columns = [np.array(column) for column in zip(*self._rows, strict=True)]
        return Drift(columns[0], *(columns[1:] if self._y is not None else (None, None)))


def drift(kernel: EmpiricalNTK, trajectory: Iterable[Any], x: Any, y: Any = None) -> Drift:
    """How far training moves the empirical NTK on `x`, and its alignment with the labels on the way.

    `trajectory` is an iterable of parameters, such as a generator that yields them from your training loop: whatever
    the optimiser, one set of parameters is held at a time. The first one is the start, K_0. `kernel` is an
    `ntkit.EmpiricalNTK` with `outputs="mean"`, whose own parameters only say what they look like. For torch see
    `ntkit.torch.Drift`.

    **Arguments:** `x`: the examples, as `kernel` takes them. `y`: labels as for `ntkit.alignment`, or None.

    **Raises:** `ntkit.InputError` for a trajectory that is empty or holds other parameters, and for labels that do not
    fit; what the kernel refuses at some time of the training, with the number of that time.
    """
    if not isinstance(kernel, EmpiricalNTK):
        raise InputError(f"`kernel` must be an `ntkit.EmpiricalNTK`; got {type(kernel).__name__}.")
    if kernel.outputs != "mean":
        raise InputError(f'`outputs` of `kernel` must be "mean", for one matrix (n, n), but is {kernel.outputs!r}.')
    if not isinstance(trajectory, Iterable) or isinstance(trajectory, dict):
        raise InputError(
            f"`trajectory` must be an iterable of parameters, a list or a generator; got {type(trajectory).__name__}."
        )
    leaves = jax.tree.leaves(x)
    follower = Follower(y, len(leaves[0]) if leaves else 0)
    for t, params in enumerate(trajectory):
        follower.add(_at(kernel, params, t)(x))
    return follower.found("`trajectory` is empty: yield the parameters at the start, and after some steps.")


def _at(kernel: EmpiricalNTK, params: Any, t: int) -> EmpiricalNTK:
    """The kernel at other parameters."""
    expected, came = (jax.tree.map(np.shape, tree) for tree in (kernel.params, params))
    if jax.tree.structure(kernel.params) != jax.tree.structure(params) or expected != came:
        raise InputError(f"`trajectory` holds at time {t} parameters {came}, but those of `kernel` are {expected}.")
    try:
        return EmpiricalNTK(kernel.fn, params, outputs=kernel.outputs, method=kernel.method, only=kernel.only)
    except InputError as error:
        raise InputError(f"At time {t} of `trajectory`: {error}") from error


def _matrix(name: str, k: Any) -> Float[np.ndarray, "n n"]:
    k = np.asarray(as_host_array(name, k), np.float64)
    if k.ndim != 2 or k.shape[0] != k.shape[1] or not k.size:
        raise InputError(f"`{name}` must be a square matrix (n, n), but has shape {k.shape}.")
    if not np.isfinite(k).all():
        raise ComputationError(f"`{name}` has entries that are not finite: has training diverged?")
    return k


def _labels(y: Any, n: int) -> Float[np.ndarray, "n o"]:
    y = np.asarray(as_host_array("y", y))
    if not is_float(y.dtype):
        raise InputError(
            f"`y` must be floating point, but has dtype {y.dtype}. For two classes take +1.0 and -1.0, for more "
            "`ntkit.predict.one_hot(labels).y`."
        )
    y = y.astype(np.float64)
    if y.ndim not in (1, 2) or len(y) != n or not y.size:
        raise InputError(f"`y` must hold labels of the {n} examples, ({n},) or ({n}, o), but has shape {y.shape}.")
    check_finite("y", y)
    return y.reshape(n, -1)


def _centred(k: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """H K H; 0 where only rounding is left of it."""
    centred = k - k.mean(axis=0, keepdims=True)
    return _cleaned(centred - centred.mean(axis=1, keepdims=True), k)


def _centred_rows(y: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n o"]:
    return _cleaned(y - y.mean(axis=0, keepdims=True), y)


def _cleaned(difference: np.ndarray, whole: np.ndarray) -> np.ndarray:
    rounding = len(whole) * np.finfo(np.float64).eps * np.linalg.norm(whole)
    return difference if np.linalg.norm(difference) > rounding else np.zeros_like(difference)


def _cosine(k: Float[np.ndarray, "n n"], y: Float[np.ndarray, "n o"]) -> float:
    """<K, Y Y^T> / (|K| |Y Y^T|), without the matrix Y Y^T."""
    norms = float(np.linalg.norm(k)), float(np.linalg.norm(y.T @ y))
    if min(norms) == 0:
        which, what = ("The kernel", "kernel") if norms[0] == 0 else ("`y`", "labels")
        raise InputError(f"{which} is 0, or constant and centred: there is no alignment of such {what}.")
    return float(np.sum(y * (k @ y))) / (norms[0] * norms[1])
