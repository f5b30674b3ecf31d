"""A low-rank factor of a kernel matrix from a few of its rows: the preconditioner of conjugate gradients.

H. Harbrecht, M. Peters, R. Schneider, "On the low-rank approximation by the pivoted Cholesky decomposition", Appl.
Numer. Math. 62 (2012), algorithm 1; as a preconditioner: J. Gardner et al., "GPyTorch", NeurIPS 2018, section 4.1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def pivoted_cholesky(
    row: Callable[[Array], Float[Array, " n"]], diagonal: Float[Array, " n"], rank: int
) -> tuple[Float[Array, "n rank"], Float[Array, ""]]:
    """(L, e) with L L^T near K, where `row(i)` is row i of K, and e = trace(K - L L^T), the error in the trace norm.

    Every step takes the row where the remaining diagonal is largest. A matrix of lower rank leaves zero columns.
    """
    n = diagonal.shape[0]
    rank = min(rank, n)

    def step(k, state):
        factor, remaining = state
        pivot = jnp.argmax(remaining)
        height = remaining[pivot]
        column = row(pivot) - factor @ factor[pivot]
        # Below rounding of the whole the matrix is exhausted: a zero column, never a division by noise.
        alive = height > 10 * jnp.finfo(diagonal.dtype).eps * jnp.max(diagonal)
        column = jnp.where(alive, column / jnp.sqrt(jnp.where(alive, height, 1.0)), 0.0)
        return factor.at[:, k].set(column), jnp.maximum(remaining - column * column, 0.0)

    factor, remaining = jax.lax.fori_loop(0, rank, step, (jnp.zeros((n, rank), diagonal.dtype), diagonal))
    return factor, jnp.sum(remaining)
