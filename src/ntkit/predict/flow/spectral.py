"""Trainings on the squared loss, which one eigendecomposition of the kernel matrix takes apart."""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ntkit.errors import InputError
from ntkit.linalg import Spectrum
from ntkit.predict._data import precision, restore
from ntkit.predict._times import SingularKernelWarning
from ntkit.predict.flow.trajectory import Problem, Trajectory, parse_outputs


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

    def __init__(self, problem: Problem, spec: Spectrum):
        super().__init__(problem)
        self._spectrum = spec
        self._residual = project(spec.vectors, problem.y - problem.start)
        self._alive = np.asarray(spec.values) > spec.rounding

    def _rotated(self, times: Float[np.ndarray, " t"]) -> np.ndarray:
        """b_t (t, n, o), zero in null directions: nothing is learned there, and their rounding is not amplified."""
        raise NotImplementedError

    def _outputs(self, times):
        values = np.asarray(self._spectrum.values)[:, None]
        return self._problem.start + self._unrotated(self._rotated(times) * values)

    def _duals(self, times):
        return self._unrotated(self._rotated(times))

    def _unrotated(self, rotated: np.ndarray) -> np.ndarray:
        """V b for each b of (t, n, o)."""
        t, n, o = rotated.shape
        columns = np.moveaxis(rotated, 0, 1).reshape(n, t * o)
        return np.moveaxis(np.asarray(unproject(self._spectrum.vectors, columns)).reshape(n, t, o), 1, 0)

    def _null(self) -> np.ndarray:
        """Delta_0 (n, o) at the training examples."""
        with precision(self.dtype):
            return -np.asarray(unproject(self._spectrum.vectors, np.where(self._alive[:, None], 0, self._residual)))

    def unlearned(
        self, x_test: Any = None, y_test: Any = None, *, f0_test: Any = None
    ) -> Float[np.ndarray, "m *outputs"]:
        """Delta_0 = f_infinity - f*, what no training time removes; f* is what the labels are of.

        At the training examples it is the part of f_0 - y in the null directions of the kernel matrix. At other points
        it is the error of the model trained to the end, and needs the labels there, `y_test`.
        """
        if x_test is None:
            return restore(self._null(), self._problem.flat)
        if y_test is None:
            raise InputError("At test examples Delta_0 = f_infinity - f* needs `y_test`, the values of f* there.")
        value = self._at(x_test, np.asarray(np.inf), f0_test)
        shape = (value.shape[0], self._problem.y.shape[1])
        return value - restore(parse_outputs("y_test", y_test, shape, self.dtype), self._problem.flat)

    def _warn_if_singular(self, times) -> None:
        null, n = int(np.sum(~self._alive)), len(self.x)
        if not null or not np.isinf(times).any():
            return
        share = np.sum(self._residual[~self._alive] ** 2) / (np.sum(self._residual**2) or 1.0)
        if share > np.finfo(self.dtype).eps:  # an amplitude of sqrt(eps): labels that agree where the kernel is null
            warnings.warn(
                f"{null} of the {n} eigenvalues of the kernel matrix are zero within rounding "
                f"({self._spectrum.rounding:.1e}): {share:.1%} of |f0 - y|^2 lies in those directions and is never "
                "learned. Duplicate examples with unequal labels do that; `unlearned()` is that part.",
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
