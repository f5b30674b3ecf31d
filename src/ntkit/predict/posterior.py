"""Gaussian process regression with any kernel: factorise once, ask often."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkit.errors import ComputationError, InputError
from ntkit.gram.host import on_host
from ntkit.kernels import settled
from ntkit.linalg import CG, Cholesky, CholeskySolver, KernelOperator, MatrixOperator, Statistics
from ntkit.linalg.cg import CGSolver
from ntkit.predict._data import (
    parse_dtype,
    parse_noise,
    parse_test,
    parse_x,
    parse_y,
    precision,
    restore,
    without_masks,
)
from ntkit.predict._evaluate import check_kernel, evaluate, evaluate_diagonal

# Bytes of the cross kernel between test and training examples that are held at once.
CROSS = 1 << 28


class Prediction(NamedTuple):
    """Mean (m,) or (m, o), and the variance (m,) or covariance (m, m) that the outputs share; None if not asked."""

    mean: Float[np.ndarray, "m *outputs"]
    variance: Float[np.ndarray, "..."] | None


class LeaveOneOut(NamedTuple):
    """For each example, its prediction by the model that has not seen it.

    `mean` (n,) or (n, o); `variance` (n,) of the left-out *label*, noise included; `log_density` like `mean`.
    """

    mean: Float[np.ndarray, "n *outputs"]
    variance: Float[np.ndarray, " n"]
    log_density: Float[np.ndarray, "n *outputs"]


class Solved(NamedTuple):
    """A regression problem, checked, and the solution of (K + noise I) weights = y."""

    x: np.ndarray
    y: np.ndarray
    flat: bool
    noise: np.ndarray
    dtype: np.dtype
    solver: CholeskySolver | CGSolver
    weights: Array
    statistics: Statistics


class Posterior:
    """f given y = f(x) + e, f ~ GP(0, kernel), e ~ N(0, noise): what `ntkit.posterior` returns. Do not build it
    yourself.

    `weights` is (K + noise I)^-1 y, (n,) or (n, o); `statistics` says what the solver did.
    """

    def __init__(self, kernel: Any, solved: "Solved", memory: Any):
        self.kernel, self.x, self.noise, self.dtype = kernel, solved.x, solved.noise, solved.dtype
        self.statistics = solved.statistics
        self._y, self._flat, self._solver, self._weights = solved.y, solved.flat, solved.solver, solved.weights
        self._memory = memory

    def __repr__(self) -> str:
        n, o = self._y.shape
        return f"Posterior(n={n}, outputs={o}, dtype={self.dtype}; {self.statistics})"

    @property
    def weights(self) -> Float[np.ndarray, "n *outputs"]:
        return restore(self._weights, self._flat)

    @property
    def y(self) -> Float[np.ndarray, "n *outputs"]:
        return restore(self._y, self._flat)

    def __call__(
        self,
        x_test: Any,
        *,
        covariance: str | None = "diagonal",
        observation: bool = False,
    ) -> Prediction:
        """Mean and covariance of f at `x_test` (m, ...), in NumPy.

            mean = k(x_test, x) C^-1 y,     cov = k(x_test, x_test) - k(x_test, x) C^-1 k(x, x_test),   C = k(x, x) +
            noise I

        - `covariance`: `"diagonal"`, variances (m,); `"full"`, (m, m); None, the mean alone, which is much cheaper.
        - `observation`: add `noise` to the diagonal: the law of a new label rather than of f. Needs one noise for all.

        Variances that rounding made negative are zero; negative beyond rounding is a `ComputationError`.
        GPML eq. 2.23, 2.24. Equivalent to `GaussianProcessRegressor.predict(x, return_std=True)` with a fixed kernel.
        """
        if covariance not in ("diagonal", "full", None):
            raise InputError(f'`covariance` must be "diagonal", "full" or None, but got {covariance!r}.')
        if observation and self.noise.ndim:
            raise InputError(
                "`observation=True` needs one `noise` for all examples, but this posterior has one for each."
            )
        x_test = parse_test(x_test, self.kernel, self.x, self.dtype)
        with precision(self.dtype):
            if covariance == "full":
                return self._full(x_test, observation)
            return self._diagonal(x_test, observation, covariance is not None)

    def _diagonal(self, x_test, observation, variances) -> Prediction:
        rows = max(1, CROSS // (self.dtype.itemsize * self.x.shape[0]))
        means, spreads = [], []
        for start in range(0, x_test.shape[0], rows):
            block = x_test[start : start + rows]
            cross = evaluate(self.kernel, block, self.x, memory=self._memory)
            means.append(restore(cross @ self._weights, self._flat))
            if variances:
                prior = np.asarray(evaluate_diagonal(self.kernel, block))
                spreads.append(nonnegative(prior - np.asarray(self._solver.quadratic(cross.T)), prior))
        variance = np.concatenate(spreads) + (self.noise if observation else 0) if variances else None
        return Prediction(np.concatenate(means), variance)

    def _full(self, x_test, observation) -> Prediction:
        cross = evaluate(self.kernel, x_test, self.x, memory=self._memory)
        prior = evaluate(self.kernel, x_test, memory=self._memory)
        cov = np.array(prior - self._solver.quadratic(cross.T, full=True))
        cov = (cov + cov.T) / 2
        np.fill_diagonal(cov, nonnegative(np.diagonal(cov), np.diagonal(np.asarray(prior))))
        if observation:
            cov[np.diag_indices_from(cov)] += self.noise
        return Prediction(restore(cross @ self._weights, self._flat), cov)

    @property
    def log_marginal_likelihood(self) -> float:
        """log p(y | x), summed over outputs, the jitter counted as noise. Not by conjugate gradients: `InputError`.

        For its gradient: `ntkit.log_marginal_likelihood(kernel, x, y, noise)`, a pure function.
        """
        solver = self._exact("The log marginal likelihood needs a determinant")
        n, o = self._y.shape
        with precision(self.dtype):
            fit = float(np.sum(self._y * np.asarray(self._weights)))
            return -0.5 * fit - 0.5 * o * solver.log_determinant() - 0.5 * o * n * float(np.log(2 * np.pi))

    def leave_one_out(self) -> LeaveOneOut:
        """Every example predicted by all others, from the one factorisation, in the order of n^3 / 3 operations.

            mean_i = y_i - [C^-1 y]_i / [C^-1]_ii,     variance_i = 1 / [C^-1]_ii            (GPML eq. 5.10 - 5.12)

        Not by conjugate gradients: `InputError`.
        """
        solver = self._exact("Leave-one-out needs the diagonal of the inverse")
        with precision(self.dtype):
            inverse = np.asarray(solver.inverse_diagonal())
        return leave_one_out(self._y, np.asarray(self._weights), inverse, self._flat)

    def sample(self, key: Array, x_test: Any, size: int = 1, *, observation: bool = False) -> Float[np.ndarray, "..."]:
        """`size` joint draws of f at `x_test`: (size, m) or (size, m, o), outputs independent.

        By the eigendecomposition of the covariance: exact also where it is singular, as at training points, without
        jitter.
        """
        mean, cov = self(x_test, covariance="full", observation=observation)
        return draw(key, mean, cov, size, self.dtype)

    def _exact(self, why: str) -> CholeskySolver:
        if not isinstance(self._solver, CholeskySolver):
            raise InputError(f"{why}, which conjugate gradients do not give. Use `method=Cholesky()`.")
        return self._solver


def posterior(
    kernel: Any,
    x: Any,
    y: Any,
    *,
    noise: Any = 1e-3,
    method: str | Cholesky | CG = "cholesky",
    matrix: Any = None,
    dtype: Any = np.float64,
    memory: str | int | None = None,
    progress: bool = True,
) -> Posterior:
    """The Gaussian process posterior of f, where y = f(x) + e, f ~ GP(0, kernel), e ~ N(0, noise).

        post = ntkit.posterior(ntkit.NNGP(net), x, y, noise=1e-3)
        mean, var = post(x_test)

    With the NNGP it is the Bayesian network of infinite width (Lee et al. 2018); any kernel will do.

    **Arguments:**

    - `kernel`: a callable `kernel(x1, x2=None) -> (n1, n2)` with `kernel.diagonal(x) -> (n,)`.
    - `x`, `y`: examples (n, ...), floating point; or `ntkit.Masked`, as those of the predictions may then be; labels
      (n,) or (n, outputs), outputs independent and with one kernel.
    - `noise`: variance of the labels given f, in the square of their unit: positive, a number or one for each example.
    - `method`: `"cholesky"`, `Cholesky(ladder=...)` or `CG(rtol=..., max_steps=..., block=...)`; `ntkit.predict` has
      both.
    - `matrix`: kernel(x) if it is at hand (from `ntkit.gram`); it is then not computed.
    - `dtype`: float64 by default, whatever `x` is, inside `jax.enable_x64`; or float32.
    - `memory`, `progress`: handed to `ntkit.gram` for the kernel matrices.

    **Raises:** `InputError` for a wrong argument; `ComputationError` for a kernel that is not finite or not positive
    semi-definite (with its smallest eigenvalue), and for conjugate gradients that do not converge. Warns
    `JitterWarning` when the factorisation needed more than `noise` on the diagonal; `statistics` has the amount.
    """
    check_kernel(kernel)
    kernel, x = without_masks(kernel, x)
    solved = solve(kernel, x, y, noise, method, matrix, dtype, memory, progress)
    return Posterior(settled(kernel, solved.x), solved, memory)


def solve(kernel, x, y, noise, method, matrix, dtype, memory, progress, *, name="noise", zero=False) -> Solved:
    dtype = parse_dtype(dtype)
    x = parse_x("x", x, dtype)
    kernel = settled(kernel, x)
    y, flat = parse_y(y, x.shape[0], dtype)
    noise = parse_noise(noise, x.shape[0], dtype, name=name, zero=zero)
    method = parse_method(method)
    with precision(dtype):
        solver = _solver(kernel, x, noise, method, matrix, dtype, memory, progress)
        weights, statistics = solver.solve_with_statistics(jnp.asarray(y))
        if not np.isfinite(np.asarray(weights)).all():
            raise ComputationError("The solution has entries that are not finite. Scale `y`, or raise `noise`.")
    return Solved(x, y, flat, noise, dtype, solver, weights, statistics)


def parse_method(method: Any) -> Cholesky | CG:
    if isinstance(method, str) and method == "cholesky":
        return Cholesky()
    if not isinstance(method, (Cholesky, CG)):
        raise InputError(f'`method` must be "cholesky", `Cholesky(...)` or `CG(...)`, but got {method!r}.')
    return method


def parse_matrix(kernel, x, matrix, dtype, memory, progress, *, name="matrix") -> Float[Array, "n n"]:
    """kernel(x), computed or as given."""
    if matrix is None:
        return evaluate(kernel, x, memory=memory, progress=progress)
    n = x.shape[0]
    if np.shape(matrix) != (n, n):
        raise InputError(
            f"`{name}`: the kernel of `x` with itself must have shape ({n}, {n}), but has {np.shape(matrix)}."
        )
    return jnp.asarray(parse_x(name, matrix, dtype))


def _solver(kernel, x, noise, method, matrix, dtype, memory, progress) -> CholeskySolver | CGSolver:
    noise = jnp.asarray(noise)
    if isinstance(method, CG):
        if method.block is not None and matrix is None:
            if on_host(kernel):
                raise InputError(
                    "`CG(block=...)` computes the kernel anew inside a compiled loop, which a kernel of torch cannot "
                    "enter. Leave `block` out, or pass `matrix=ntkit.gram(kernel, x, out=...)`."
                )
            operator = KernelOperator(kernel, jnp.asarray(x), noise, min(method.block, x.shape[0]))
        else:
            operator = MatrixOperator(parse_matrix(kernel, x, matrix, dtype, memory, progress), noise)
        if not np.all(np.asarray(noise) > 0):
            raise InputError("Conjugate gradients need positive noise. Use `method=Cholesky()`.")
        return method.prepare(operator, noise)
    return method.factorise(parse_matrix(kernel, x, matrix, dtype, memory, progress), noise)


def leave_one_out(y, weights, inverse_diagonal, flat) -> LeaveOneOut:
    """GPML eq. 5.10 - 5.12 from C^-1 y and diag(C^-1)."""
    error = weights / inverse_diagonal[:, None]
    variance = 1.0 / inverse_diagonal
    density = -0.5 * (np.log(2 * np.pi * variance)[:, None] + error**2 / variance[:, None])
    return LeaveOneOut(restore(y - error, flat), variance, restore(density, flat))


def draw(key, mean, cov, size, dtype) -> Float[np.ndarray, "..."]:
    """Draws (size, *mean.shape) from N(mean, cov), columns of the mean independent."""
    if isinstance(size, bool) or int(size) != size or size < 1:
        raise InputError(f"`size` must be a whole number, 1 or more, but got {size!r}.")
    values, vectors = np.linalg.eigh(cov)
    values = nonnegative(values, np.full_like(values, np.abs(values).max()))
    columns = mean.reshape(mean.shape[0], -1)
    with precision(dtype):
        z = np.asarray(jax.random.normal(key, (int(size), *columns.shape), dtype=dtype))
    draws = columns + np.einsum("ij,sjo->sio", vectors * np.sqrt(values), z)
    return draws.reshape(int(size), *mean.shape)


def nonnegative(value, scale) -> np.ndarray:
    """`value` with rounding below zero removed; `ComputationError` if it is more than rounding of `scale`."""
    # The difference of two numbers near `scale`, the second through a solve of condition kappa: its error is about
    # eps kappa scale, and sqrt(eps) is where the digits of a variance have gone.
    if np.any(value < -np.sqrt(np.finfo(value.dtype).eps) * np.maximum(scale, np.finfo(value.dtype).tiny)):
        worst = int(np.argmin(value / np.maximum(scale, np.finfo(value.dtype).tiny)))
        raise ComputationError(
            f"A variance is negative beyond rounding: {float(value[worst]):.2e} where the prior has "
            f"{float(scale[worst]):.2e}. The kernel is not positive semi-definite on training and test points "
            "together, or `noise` is too small for the precision: raise it, or work in float64."
        )
    return np.maximum(value, 0.0)
