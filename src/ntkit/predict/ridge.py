"""Kernel ridge regression: what a network trained to the end predicts, when the kernel is its NTK."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ntkit.kernels import settled
from ntkit.linalg import CG, Cholesky
from ntkit.predict._data import without_masks
from ntkit.predict._evaluate import check_kernel
from ntkit.predict.posterior import Posterior, solve


class RidgeLeaveOneOut(NamedTuple):
    """`mean` (n,) or (n, o): each example predicted by the model without it; `error` = y - mean; `squared`, its mean
    square."""

    mean: Float[np.ndarray, "n *outputs"]
    error: Float[np.ndarray, "n *outputs"]
    squared: float


class Ridge:
    """f(x) = k(x, x_train) (K + alpha I)^-1 y: what `ntkit.ridge` returns. Do not build it yourself."""

    def __init__(self, kernel, solved, memory):
        self._posterior = Posterior(kernel, solved, memory)
        self.kernel, self.x, self.alpha = kernel, self._posterior.x, self._posterior.noise
        self.statistics, self.dtype = self._posterior.statistics, self._posterior.dtype

    def __repr__(self) -> str:
        return f"Ridge(n={self.x.shape[0]}, alpha={self.alpha}, dtype={self.dtype}; {self.statistics})"

    @property
    def weights(self) -> Float[np.ndarray, "n *outputs"]:
        """(K + alpha I)^-1 y."""
        return self._posterior.weights

    def __call__(self, x_test: Any) -> Float[np.ndarray, "m *outputs"]:
        """f(x_test): (m,) or (m, o), in NumPy."""
        return self._posterior(x_test, covariance=None).mean

    def leave_one_out(self) -> RidgeLeaveOneOut:
        """y_i - f_without_i(x_i) = [C^-1 y]_i / [C^-1]_ii, C = K + alpha I, for all i from the one factorisation.

        G. Wahba, "Spline Models for Observational Data" (1990), eq. 4.2.3. Not by conjugate gradients: `InputError`.
        """
        found = self._posterior.leave_one_out()
        error = self._posterior.y - found.mean
        return RidgeLeaveOneOut(found.mean, error, float(np.mean(error**2)))


def ridge(
    kernel: Any,
    x: Any,
    y: Any,
    *,
    alpha: Any,
    method: str | Cholesky | CG = "cholesky",
    matrix: Any = None,
    dtype: Any = np.float64,
    memory: str | int | None = None,
    progress: bool = True,
) -> Ridge:
    """Kernel ridge regression: the minimiser of sum_i |f(x_i) - y_i|^2 + alpha |f|^2 in the kernel's space.

        model = ntkit.ridge(ntkit.NTK(net), x, y, alpha=1e-3)
        model(x_test)

    With the NTK and alpha = 0 it is the mean of infinitely wide networks trained for infinite time; with alpha > 0, of
    networks trained with the penalty alpha |theta - theta_0|^2. Equivalent to
    `sklearn.kernel_ridge.KernelRidge(alpha, kernel="precomputed")`. `alpha` is not multiplied by n. It may be zero
    where the kernel matrix is positive definite in floating point; negative is an `InputError`. The other arguments,
    and what is raised: `ntkit.posterior`.
    """
    check_kernel(kernel)
    kernel, x = without_masks(kernel, x)
    solved = solve(kernel, x, y, alpha, method, matrix, dtype, memory, progress, name="alpha", zero=True)
    return Ridge(settled(kernel, solved.x), solved, memory)
