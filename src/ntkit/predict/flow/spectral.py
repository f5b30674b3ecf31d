"""Trainings on the squared loss, which one eigendecomposition of the kernel matrix takes apart."""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ntkit.linalg import Spectrum
from ntkit.predict._data import parse_test, precision, restore
from ntkit.predict._times import SingularKernelWarning
from ntkit.predict.flow.trajectory import Problem, Trajectory


@dataclasses.dataclass(frozen=True)
class Components:
    """f_0 - f* = Delta_0 + sum_i Delta_i at the training examples, where f* = y, fastest components first.

    - `eigenvalue` (k,): those of the kernel matrix that are not zero within rounding, descending;
    - `direction` (n, k): their unit eigenvectors v_i, in columns;
    - `coefficient` (k,) or (k, o): v_i^T (f_0 - y), so that Delta_i is `direction[:, i]` times it;
    - `time` (k,): n / (learning_rate eigenvalue), in which gradient flow shrinks Delta_i to 1/e;
    - `null` (n,) or (n, o): Delta_0, of the directions whose eigenvalue is zero within rounding: it never changes.
    """

    eigenvalue: Float[np.ndarray, " k"]
    direction: Float[np.ndarray, "n k"]
    coefficient: Float[np.ndarray, "k *outputs"]
    time: Float[np.ndarray, " k"]
    null: Float[np.ndarray, "n *outputs"]

    def __str__(self) -> str:
        share = np.sum(self.coefficient.reshape(len(self.time), -1) ** 2, axis=1)
        total = float(share.sum() + np.sum(self.null**2)) or 1.0
        lines = [f"{'eigenvalue':>12} {'time':>10} {'of |f0 - y|^2':>14}"]
        shown = list(zip(self.eigenvalue, self.time, share / total, strict=True))
        lines += [f"{v:>12.3e} {t:>10.3g} {s:>14.2%}" for v, t, s in shown[:10]]
        if len(shown) > 10:
            lines.append(f"{len(shown) - 10} more{float(sum(s for *_, s in shown[10:])):>29.2%}")
        lines.append(f"{self.null.shape[0] - len(shown)} null{float(np.sum(self.null**2)) / total:>29.2%}")
        return "\n".join(lines)


class Spectral(Trajectory):
    """f_t - f_0 = V diag(v) b_t at the training examples, with K = V diag(v) V^T and dual coefficients a_t = V b_t."""

    def __init__(self, problem: Problem, spec: Spectrum, rate: float):
        super().__init__(problem)
        self._spectrum, self._rate = spec, rate
        self._residual = project(spec.vectors, problem.y - problem.start)
        self._alive = np.asarray(spec.values) > spec.rounding

    def _rotated(self, times: Float[np.ndarray, " t"]) -> np.ndarray:
        """b_t (t, n, o), zero in null directions: nothing is learned there, and their rounding is not amplified."""
        raise NotImplementedError

    def _states(self, times):
        rotated = self._rotated(times)
        values = np.asarray(self._spectrum.values)[:, None]
        return self._problem.start + self._unrotated(rotated * values), self._unrotated(rotated)

    def _unrotated(self, rotated: np.ndarray) -> np.ndarray:
        """V b for each b of (t, n, o)."""
        t, n, o = rotated.shape
        columns = np.moveaxis(rotated, 0, 1).reshape(n, t * o)
        return np.moveaxis(np.asarray(unproject(self._spectrum.vectors, columns)).reshape(n, t, o), 1, 0)

    @property
    def components(self) -> Components:
        """The part of f_0 - y along each eigenvector of the kernel matrix, and the part that is never learned."""
        flat, fast = self._problem.flat, slice(-1, -1 - int(self._alive.sum()), -1)  # views: V may be large
        values, vectors = np.asarray(self._spectrum.values)[fast], np.asarray(self._spectrum.vectors)[:, fast]
        time = len(self.x) / (self._rate * values)
        return Components(values, vectors, restore(-self._residual[fast], flat), time, restore(self._null(), flat))

    def _null(self) -> np.ndarray:
        """Delta_0 (n, o) at the training examples."""
        with precision(self.dtype):
            return -np.asarray(unproject(self._spectrum.vectors, np.where(self._alive[:, None], 0, self._residual)))

    def component(self, index: Any, x_test: Any = None) -> Float[np.ndarray, "..."]:
        """Delta_i(x) = K(x, x_train) v_i v_i^T (f_0 - y) / eigenvalue_i, of `components` number `index`, at `x_test`.

        At the training examples (None) it is v_i v_i^T (f_0 - y). `index` is a number, or a list of them, whose axis
        then stands first. Gradient flow is f_t(x) = f_infinity(x) + sum_i exp(-t / time_i) Delta_i(x), everywhere.
        """
        order = np.flatnonzero(self._alive)[::-1][np.atleast_1d(index)]
        rotated = np.zeros((order.size, *self._residual.shape), self.dtype)
        values = np.asarray(self._spectrum.values)[order, None]
        rotated[np.arange(order.size), order] = -self._residual[order] / (1.0 if x_test is None else values)
        with precision(self.dtype):
            found = self._unrotated(rotated)
            if x_test is not None:
                found = self._reach(parse_test(x_test, self.kernel, self.x, self.dtype), found)
        return restore(found if np.ndim(index) else found[0], self._problem.flat)

    def _warn_if_singular(self, times) -> None:
        null, n = int(np.sum(~self._alive)), len(self.x)
        if not null or not np.isinf(times).any():
            return
        share = np.sum(self._residual[~self._alive] ** 2) / (np.sum(self._residual**2) or 1.0)
        if share > np.finfo(self.dtype).eps:  # an amplitude of sqrt(eps): labels that agree where the kernel is null
            warnings.warn(
                f"{null} of the {n} eigenvalues of the kernel matrix are zero within rounding "
                f"({self._spectrum.rounding:.1e}): {share:.1%} of |f0 - y|^2 lies in those directions and is never "
                "learned. Duplicate examples with unequal labels do that; `components.null` has that part.",
                SingularKernelWarning,
                stacklevel=4,
            )


@jax.jit
def _project(vectors, columns):
    return vectors.T @ columns


@jax.jit
def _unproject(vectors, columns):
    return vectors @ columns


def project(vectors, columns) -> np.ndarray:
    """V^T columns."""
    return np.asarray(_project(vectors, jnp.asarray(columns)))


def unproject(vectors, columns) -> np.ndarray:
    """V columns."""
    return np.asarray(_unproject(vectors, jnp.asarray(columns)))
