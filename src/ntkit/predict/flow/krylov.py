"""Gradient flow on the squared loss by products with the kernel matrix alone: for matrices too large to decompose.

After m steps of Lanczos from r = y - f_0, K Q = Q T + beta q_{m+1} e_m^T, and exp(-s K) r, what is left of r, is near
u(s) = |r| Q exp(-s T) e_1. It solves u' = -K u but for a defect |r| beta |(exp(-s T))_{m1}|, and as T has positive
entries beside its diagonal, (exp(-s T))_{m1} has one sign for all s. So the integral of the defect is known, and

    |exp(-s K) r - u(s)| <= |r| beta |phi_s(T)_{m1}|,        phi_s(v) = (1 - exp(-s v)) / v.

Y. Saad, "Analysis of some Krylov subspace approximations to the matrix exponential operator", SIAM J. Numer. Anal. 29
(1992), for the approximation; derived in docs/derivations/flows.md.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float

from ntkit._check import format_bytes
from ntkit._progress import Meter
from ntkit.errors import ComputationError, InputError
from ntkit.gram.host import on_host
from ntkit.linalg.operators import KernelOperator, MatrixOperator, Symmetric
from ntkit.predict._data import precision
from ntkit.predict._times import parse_times
from ntkit.predict.flow.stopping import BestTime, minimise, parse_grid
from ntkit.predict.flow.trajectory import Problem, Trajectory, validation

# Steps between two looks at the bound, which takes a small eigendecomposition.
_LOOK = 5


@dataclasses.dataclass(frozen=True)
class Lanczos:
    """By products with the kernel matrix, in place of its eigendecomposition: m n^2 o operations for m steps and o
    outputs, not n^3.

    - `rtol`: the error of the training outputs at each time, in units of |y - f_0|, is at most that: it is bounded, not
      estimated, but for rounding. None for 1e-8 in float64, 1e-4 in float32.
    - `max_steps`: products, at most. Times up to some n / (learning_rate v) take about as many steps as the kernel has
      eigenvalues above v, and late times of ill-conditioned kernels too many: `ComputationError` says how far it came.
    - `block`: None holds the kernel matrix in memory; a number recomputes it, that many rows at a time, in every step.

    Memory beside the matrix: `max_steps` n o numbers.
    """

    rtol: float | None = None
    max_steps: int = 500
    block: int | None = None

    def __post_init__(self):
        if self.rtol is not None and not 0 < self.rtol < 1:
            raise InputError(f"`rtol` must lie between 0 and 1, but got {self.rtol!r}.")
        for name in ("max_steps", "block"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"`{name}` must be a whole number, 1 or more, but got {value!r}.")

    def operator(self, problem: Problem, matrix: Any) -> Symmetric:
        """The kernel matrix, held or not."""
        none = jnp.zeros((), problem.dtype)
        if self.block is None or matrix is not None:
            return MatrixOperator(problem.matrix(matrix), none)
        if on_host(problem.kernel):
            raise InputError(
                "`Lanczos(block=...)` computes the kernel anew inside a compiled loop, which a kernel of torch cannot "
                "enter. Leave `block` out, or pass `matrix=ntkit.gram(kernel, x, out=...)`."
            )
        return KernelOperator(problem.kernel, jnp.asarray(problem.x), none, min(self.block, len(problem.x)))


class LanczosStatistics(NamedTuple):
    """`steps`: products with all outputs taken so far; `bound`: of the error at the latest `time` asked for, in units
    of |y - f_0|."""

    steps: int
    time: float
    bound: float


class _Krylov:
    """The bases and tridiagonal matrices of all outputs; one product with a vector of each is a step."""

    def __init__(self, operator: Symmetric, start: Float[np.ndarray, "n o"]):
        self._operator, self._dtype = operator, start.dtype
        start = start.T.astype(np.float64)
        self.norm = np.linalg.norm(start, axis=1)
        self._next = start / np.where(self.norm > 0, self.norm, 1.0)[:, None]
        self.basis = np.empty((len(start), 0, start.shape[1]))  # (o, room, n)
        self.diagonal: list[np.ndarray] = []  # (o,) each, as the numbers beside the diagonal
        self.beside: list[np.ndarray] = []

    @property
    def steps(self) -> int:
        return len(self.diagonal)

    def advance(self) -> None:
        q, m = self._next, self.steps
        w = np.asarray(_products(self._operator, jnp.asarray(q.T.astype(self._dtype)))).T.astype(np.float64)
        if m == self.basis.shape[1]:
            self.basis = np.concatenate([self.basis, np.empty((len(q), max(8, m // 2), q.shape[1]))], axis=1)
        self.basis[:, m] = q
        self.diagonal.append(np.sum(q * w, axis=1))
        scale = np.linalg.norm(w, axis=1)
        for k, rows in enumerate(self.basis[:, : m + 1]):
            for _ in range(2):  # twice is enough (Kahan)
                w[k] -= (rows @ w[k]) @ rows
        beta = np.linalg.norm(w, axis=1)
        # The space is exhausted when nothing but rounding is left: the next vector is then 0, and stays so.
        beta = np.where(beta > 10 * np.finfo(self._dtype).eps * scale, beta, 0.0)
        self.beside.append(beta)
        self._next = np.where(beta > 0, 1 / np.where(beta > 0, beta, 1.0), 0.0)[:, None] * w

    def tridiagonal(self, output: int) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and eigenvectors of T, up to where the space was exhausted."""
        diagonal, beside = (np.array([v[output] for v in vs]) for vs in (self.diagonal, self.beside))
        ends = np.flatnonzero(beside[:-1] == 0)
        m = int(ends[0]) + 1 if ends.size else len(diagonal)
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal[:m], beside[: m - 1])[:2]
        return np.asarray(values), np.asarray(vectors)

    def last(self, output: int) -> float:
        """beta, beside the last row of T: 0 where the space was exhausted."""
        exhausted = any(v[output] == 0 for v in self.beside)
        return 0.0 if exhausted else float(self.beside[-1][output])


@eqx.filter_jit
def _products(operator: Symmetric, columns: Any):
    return jax.vmap(operator.mv, in_axes=1, out_axes=1)(columns)


class LanczosFlow(Trajectory):
    """Gradient flow on the squared loss by Lanczos' method: what `ntkit.gradient_flow(method=Lanczos())` returns.

    `statistics` says how many products it took, and how large the error can be.
    """

    def __init__(self, problem: Problem, operator: Symmetric, rate: float, method: Lanczos):
        super().__init__(problem)
        self._rate, self._method = rate, method
        self._krylov = _Krylov(operator, problem.y - problem.start)
        self._rtol = method.rtol or (1e-8 if problem.dtype == np.float64 else 1e-4)
        self.statistics = LanczosStatistics(0, 0.0, 0.0)

    def __repr__(self) -> str:
        n, o = self._problem.y.shape
        return f"LanczosFlow(n={n}, outputs={o}, dtype={self.dtype}; {self.statistics})"

    def __call__(self, x_test: Any, t: Any = None, *, f0_test: Any = None) -> Float[np.ndarray, "..."]:
        """The model's outputs at `x_test` after training for time `t`, in NumPy: (m,) or (m, o).

        As of `SquaredFlow`, of which this is an approximation whose error at the training examples is at most `rtol`
        |y - f_0|. A later time goes on from the products of the earlier ones.

        **Raises:** `ComputationError` if `max_steps` products do not reach `t`; it says which time they reach.
        """
        return self._at(x_test, parse_times(t), f0_test)

    def best_time(self, x_val: Any, y_val: Any, *, times: Any, f0_val: Any = None) -> BestTime:
        """When to stop: the time of the smallest mean loss on `x_val`, `y_val`, among `times`, refined around it."""
        return minimise(parse_grid(times), validation(self, x_val, y_val, f0_val))

    def _outputs(self, times):
        self._reach_time(times)
        parts = [self._of_output(times, k, lambda v, gain: gain * v) for k in range(self._problem.y.shape[1])]
        return (self._problem.start + np.stack(parts, axis=2)).astype(self.dtype)

    def _duals(self, times):
        self._reach_time(times)
        parts = [self._of_output(times, k, lambda v, gain: gain) for k in range(self._problem.y.shape[1])]
        return np.stack(parts, axis=2).astype(self.dtype)

    def _of_output(self, times: np.ndarray, output: int, of: Any) -> Float[np.ndarray, "t n"]:
        """|r| Q S of(v, phi_t(v)) S^T e_1, with T = S diag(v) S^T."""
        values, vectors = self._krylov.tridiagonal(output)
        gains = np.stack([of(values, self._gain(values, time)) for time in times])
        small = (gains * vectors[0]) @ vectors.T * self._krylov.norm[output]
        return small @ self._krylov.basis[output, : len(values)]

    def _gain(self, values: np.ndarray, time: float) -> np.ndarray:
        """phi at a time; at infinity nothing is learned where an eigenvalue is zero within rounding."""
        rounding = len(self.x) * np.finfo(self.dtype).eps * float(values[-1])
        positive = values > (rounding if np.isinf(time) else 0.0)
        safe = np.where(positive, values, 1.0)
        if np.isinf(time):
            return np.where(positive, 1 / safe, 0.0)
        s = self._rate * time / len(self.x)
        # Below zero there is rounding alone: as at zero.
        return np.where(positive, -np.expm1(-s * safe) / safe, s)

    def _bound(self, time: float) -> float:
        """|error at the training examples| / |r|, at most, over the outputs."""
        bounds = []
        for output in range(self._problem.y.shape[1]):
            beta = self._krylov.last(output) if self._krylov.norm[output] > 0 else 0.0
            values, vectors = self._krylov.tridiagonal(output)
            corner = float(np.sum(vectors[-1] * self._gain(values, time) * vectors[0]))
            bounds.append(beta * abs(corner))
        return max(bounds)

    def _reach_time(self, times: np.ndarray) -> None:
        """Takes products until the latest of the times is bounded: the bound grows with time."""
        latest, krylov, n = float(np.max(times)), self._krylov, len(self.x)
        most = min(self._method.max_steps, n)
        with precision(self.dtype), Meter(self._problem.progress, 0, most, "flow", "products at most") as meter:
            while True:
                if krylov.steps and (krylov.steps % _LOOK == 0 or krylov.steps >= most):
                    bound = self._bound(latest)
                    self.statistics = LanczosStatistics(krylov.steps, latest, bound)
                    if bound <= self._rtol:
                        return
                    if krylov.steps >= most:
                        raise ComputationError(self._why(latest, bound))
                krylov.advance()
                meter(krylov.steps)

    def _why(self, latest: float, bound: float) -> str:
        low, high = 0.0, min(latest, 1e6 * len(self.x) / (self._rate * max(map(np.max, self._krylov.diagonal))))
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._bound(middle) <= self._rtol else (low, middle)
        held = self._krylov.steps * self._problem.y.nbytes * 8 // self.dtype.itemsize
        return (
            f"The flow at t = {latest:.6g} is not known to {self._rtol:.1e} of |y - f_0| after {self._krylov.steps} "
            f"products (at most {bound:.1e}); up to t = {low:.4g} it is. Pass `method=Lanczos(max_steps=...)`, of "
            f"which {self._krylov.steps} hold {format_bytes(held)}, a larger `rtol`, or an earlier `t`."
        )
