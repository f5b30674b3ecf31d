"""Preconditioned conjugate gradients (lineax) for kernel matrices that are too large to factorise."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from ntkit.errors import ComputationError, InputError
from ntkit.linalg.cholesky import relative_residual
from ntkit.linalg.operators import Scaled
from ntkit.linalg.pivoted_cholesky import pivoted_cholesky
from ntkit.linalg.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class CG:
    """Solve by conjugate gradients with a pivoted Cholesky preconditioner.

    A solve ends when norm(A x - b) <= `rtol` norm(b); if that is not so after `max_steps` steps, `ComputationError`.

    - `rank`: rows of the kernel in the preconditioner (L L^T + noise I)^-1; 0 for none. Memory n times `rank`.
    - `block`: None holds the kernel matrix in memory; a number recomputes it, that many rows at a time, in every step.
    """

    rtol: float = 1e-8
    max_steps: int = 1000
    rank: int = 100
    block: int | None = None

    def __post_init__(self):
        if not 0 < self.rtol < 1:
            raise InputError(f"`rtol` must lie between 0 and 1, but got {self.rtol!r}.")
        for name, lowest in (("max_steps", 1), ("rank", 0), ("block", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or int(value) != value or value < lowest):
                raise InputError(f"`{name}` must be a whole number, {lowest} or more, but got {value!r}.")

    def prepare(self, operator: lx.AbstractLinearOperator, noise: Float[Array, "..."] | None = None) -> "CGSolver":
        """The solver of operator x = b; `operator` is symmetric positive definite.

        With `noise`, a lower bound of its spectrum, and an operator of `ntkit.linalg`, the preconditioner is built.
        """
        if not lx.is_positive_semidefinite(operator):
            raise InputError(
                "`operator` must be positive semi-definite for conjugate gradients. If you know that it is, say so: "
                "`lineax.MatrixLinearOperator(matrix, lineax.positive_semidefinite_tag)`."
            )
        factor = None
        if self.rank and noise is not None and hasattr(operator, "kernel_row"):
            factor = _factor(operator, self.rank)
        floor = jnp.min(noise) if noise is not None else jnp.ones((), operator.in_structure().dtype)
        return CGSolver(self, operator, factor, floor)


class CGSolver:
    """A = operator, ready for solves. Counts the steps taken in all of them."""

    def __init__(self, method: CG, operator, factor, floor):
        self.method, self.operator, self.factor, self.floor = method, operator, factor, floor
        self.jitter = 0.0

    def solve(self, b: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """A^-1 b, to `rtol` in every column.

        **Raises:** `ComputationError` if a column did not converge.
        """
        return self._solve(b)[0]

    def quadratic(self, b: Float[Array, "n k"], *, full: bool = False) -> Float[Array, "..."]:
        """b^T A^-1 b (k, k), or its diagonal (k,)."""
        solution = self.solve(b)
        return b.T @ solution if full else jnp.sum(b * solution, axis=0)

    def solve_with_statistics(self, b: Float[Array, "n k"]) -> tuple[Float[Array, "n k"], Statistics]:
        solution, steps, residual = self._solve(b)
        return solution, Statistics("cg", b.shape[0], residual=residual, iterations=steps)

    def _solve(self, b):
        solution, product, steps = _solve(
            self.operator, self.factor, self.floor, b, self.method.rtol, self.method.max_steps
        )
        # The residual that lineax tracks drifts from the true one; this one is formed anew.
        residual = relative_residual(product, b)
        most = int(np.max(np.asarray(steps)))
        if not residual <= 2 * self.method.rtol:
            raise ComputationError(
                f"Conjugate gradients did not converge: the relative residual is {residual:.1e} after {most} steps, "
                f"and {self.method.rtol:.1e} was asked. Raise `max_steps` ({self.method.max_steps}) or `rank` "
                f"({self.method.rank}), raise `noise`, work in float64, or use `method=Cholesky()` if the matrix fits."
            )
        return solution, most, residual


@eqx.filter_jit
def _factor(operator: Any, rank: int):
    return pivoted_cholesky(operator.kernel_row, operator.kernel_diagonal(), rank)[0]


@eqx.filter_jit
def _solve(operator, factor, floor, b, rtol, max_steps):
    options = {}
    # A is divided by its smallest eigenvalue's bound: lineax calls a step singular when p^T A p falls below a multiple
    # of the rounding error of p^T p, and p^T (A / floor) p >= p^T p never does. The solution then also has norm <= 1.
    scaled = Scaled(operator, floor)
    if factor is not None:
        small = jnp.eye(factor.shape[1], dtype=factor.dtype) * floor + factor.T @ factor
        lower = jnp.linalg.cholesky(small)

        def inverse(v):  # Woodbury: floor (L L^T + floor I)^-1 v
            return v - factor @ jax.scipy.linalg.cho_solve((lower, True), factor.T @ v)

        options["preconditioner"] = lx.FunctionLinearOperator(
            inverse, operator.in_structure(), lx.positive_semidefinite_tag
        )
    solver = lx.CG(rtol=0.0, atol=rtol, norm=jnp.linalg.norm, max_steps=max_steps)

    def one(column):
        found = lx.linear_solve(scaled, column, solver, options=options, throw=False)
        return found.value / floor, found.stats["num_steps"]

    norm = jnp.linalg.norm(b, axis=0)
    solution, steps = jax.vmap(one, in_axes=1, out_axes=(1, 0))(b / jnp.where(norm > 0, norm, 1.0)[None])
    solution = solution * norm[None]
    return solution, jax.vmap(operator.mv, in_axes=1, out_axes=1)(solution), steps
