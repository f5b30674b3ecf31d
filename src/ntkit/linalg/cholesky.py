"""Cholesky factorisation of a kernel matrix plus noise, with a jitter ladder that is climbed aloud."""

import dataclasses
import itertools
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from ntkit.errors import ComputationError, InputError
from ntkit.linalg.statistics import Statistics


class JitterWarning(UserWarning):
    """A matrix was not positive definite in floating point; the message says what was added to its diagonal."""


# Rungs in units of the mean of the diagonal. The first is some ten times the rounding error of the matrix itself.
LADDERS = {np.dtype(np.float64): (1e-14, 1e-12, 1e-10, 1e-8), np.dtype(np.float32): (1e-6, 1e-5, 1e-4)}


@dataclasses.dataclass(frozen=True)
class Cholesky:
    """Solve by Cholesky factorisation: n^3 / 3 operations once, n^2 per right-hand side.

    If the matrix is not positive definite in floating point, the rungs of `ladder` are tried in turn: multiples of the
    mean of its diagonal, added to the diagonal. Any rung climbed is a `JitterWarning` and stands in the statistics.

    - `ladder`: increasing positive numbers; None for 1e-14, 1e-12, 1e-10, 1e-8 in float64 and 1e-6, 1e-5, 1e-4 in
      float32; `()` to forbid jitter.
    """

    ladder: tuple[float, ...] | None = None

    def __post_init__(self):
        rungs = self.ladder or ()
        if not all(np.isfinite(r) and r > 0 for r in rungs) or any(b <= a for a, b in itertools.pairwise(rungs)):
            raise InputError(f"`ladder` must be increasing positive numbers, but got {self.ladder!r}.")

    def factorise(self, matrix: Float[Array, "n n"], noise: Float[Array, ""] | Float[Array, " n"]) -> "CholeskySolver":
        """The solver of (matrix + diag(noise)) x = b.

        **Raises:** `ComputationError` with the smallest eigenvalue when the last rung is still not enough.
        """
        unit = abs(float(np.mean(np.asarray(_diagonal(matrix)) + np.asarray(noise))))
        rungs = LADDERS[np.dtype(matrix.dtype)] if self.ladder is None else self.ladder
        tried: list[float] = []
        for rung in (0.0, *rungs):
            tried.append(rung * unit)
            lower, ok = _factor(matrix, noise, jnp.asarray(tried[-1], matrix.dtype))
            if bool(ok):
                break
        else:
            raise ComputationError(_not_definite(matrix, noise, tried))
        if tried[-1]:
            warnings.warn(
                f"The kernel matrix plus noise is not positive definite in {matrix.dtype}: added a jitter of "
                f"{tried[-1]:.1e} ({rungs[len(tried) - 2]:.0e} of its mean diagonal). Raise `noise` to choose it.",
                JitterWarning,
                stacklevel=3,
            )
        return CholeskySolver(matrix, noise, lower, tuple(tried))


@jax.jit
def _factor(matrix, noise, jitter):
    n = matrix.shape[0]
    # Only the lower triangle is read; symmetrising here would cost a copy and hide an asymmetric kernel.
    lower = jax.lax.linalg.cholesky(matrix.at[jnp.arange(n), jnp.arange(n)].add(noise + jitter), symmetrize_input=False)
    return lower, jnp.all(jnp.isfinite(jnp.diagonal(lower)))


def _not_definite(matrix, noise, tried) -> str:
    n = matrix.shape[0]
    host = np.array(matrix)
    smallest = float(scipy.linalg.eigvalsh(host, subset_by_index=[0, 0])[0])
    return (
        f"The kernel matrix of {n} examples is not positive semi-definite: its smallest eigenvalue is {smallest:.3e} "
        f"(noise at least {float(jnp.min(noise)):.1e}, mean diagonal {float(np.mean(np.diagonal(host))):.1e}), and a "
        f"jitter of {tried[-1]:.1e} was not enough. Pass `noise` above {max(-smallest, 0.0):.1e}, work in float64, or "
        "check that the kernel is one: symmetric, and positive semi-definite for every set of inputs."
    )


class CholeskySolver:
    """A = matrix + diag(noise) + jitter I = L L^T, factorised."""

    def __init__(self, matrix, noise, lower, ladder):
        self.matrix, self.noise, self.lower, self.ladder = matrix, noise, lower, ladder

    @property
    def jitter(self) -> float:
        return self.ladder[-1]

    def solve(self, b: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """A^-1 b."""
        lower, columns = np.asarray(self.lower), np.asarray(b)
        (potrs,) = scipy.linalg.get_lapack_funcs(("potrs",), (lower, columns))
        # Transposed as it is in memory, so that nothing is copied: JAX's own takes ten times as long for a few columns.
        return jnp.asarray(potrs(lower.T, columns)[0])

    def quadratic(self, b: Float[Array, "n k"], *, full: bool = False) -> Float[Array, "..."]:
        """b^T A^-1 b (k, k), or its diagonal (k,). Formed as a square, so that it is never negative."""
        return _quadratic(self.lower, b, full)

    def log_determinant(self) -> float:
        """log det A."""
        return 2.0 * float(np.sum(np.log(np.asarray(_diagonal(self.lower)))))

    def inverse_diagonal(self) -> Float[Array, " n"]:
        """diag(A^-1), from the columns of L^-1."""
        return _inverse_diagonal(self.lower)

    def solve_with_statistics(self, b: Float[Array, "n k"]) -> tuple[Float[Array, "n k"], Statistics]:
        x = self.solve(b)
        return x, self._statistics(b, x)

    def _statistics(self, b, x) -> Statistics:
        norm, product = _measure(self.matrix, self.noise, x)
        return Statistics(
            method="cholesky",
            size=b.shape[0],
            jitter=self.jitter,
            ladder=self.ladder,
            condition=_condition(self.lower, float(norm) + self.jitter),
            residual=relative_residual(product, b),
        )


# Jitted as wholes: run operation by operation, each one would be compiled for each new size.
@jax.jit
def _diagonal(matrix):
    return jnp.diagonal(matrix)


@partial(jax.jit, static_argnums=2)
def _quadratic(lower, b, full):
    half = jax.scipy.linalg.solve_triangular(lower, b, lower=True)
    return half.T @ half if full else jnp.sum(half * half, axis=0)


@jax.jit
def _inverse_diagonal(lower):
    return _quadratic(lower, jnp.eye(lower.shape[0], dtype=lower.dtype), False)


@jax.jit
def _measure(matrix, noise, x):
    """(the 1-norm of A = matrix + diag(noise), A x)."""
    norm = jnp.max(jnp.sum(jnp.abs(matrix), axis=0) + noise)
    return norm, matrix @ x + jnp.reshape(noise, (-1, 1)) * x


def _condition(lower, norm: float) -> float:
    """Of A = L L^T with that 1-norm, in the 1-norm: from below, seldom off by more than a factor of 3, by LAPACK (N.
    Higham, "FORTRAN codes for estimating the one-norm of a real or complex matrix", ACM TOMS 14, 1988)."""
    lower = np.asarray(lower)
    (pocon,) = scipy.linalg.get_lapack_funcs(("pocon",), (lower,))
    reciprocal, _ = pocon(lower.T, norm, uplo="U")  # transposed as it is in memory, so that nothing is copied
    return 1 / float(reciprocal) if reciprocal else float("inf")


def relative_residual(product: Float[Array, "n k"], b: Float[Array, "n k"]) -> float:
    """The largest norm(product - b) / norm(b) over columns; a column of zeros counts with norm 1."""
    left, right = np.asarray(product), np.asarray(b)
    norm = np.linalg.norm(right, axis=0)
    return float(np.max(np.linalg.norm(left - right, axis=0) / np.where(norm > 0, norm, 1.0)))
