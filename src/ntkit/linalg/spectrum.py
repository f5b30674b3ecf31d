"""One eigendecomposition of a kernel matrix, and every ridge answered from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkit.errors import ComputationError


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """K = V diag(values) V^T, eigenvalues ascending.

    - `rounding`: n eps max|values|: eigenvalues below it are indistinguishable from zero. Those between -`rounding` and
      zero were set to zero; `smallest` is the smallest one as computed.
    """

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]
    rounding: float
    smallest: float

    def solve(self, b: Float[Array, "n k"], noise: float) -> Float[Array, "n k"]:
        """(K + noise I)^-1 b."""
        return self.vectors @ ((self.vectors.T @ b) / (self.values + noise)[:, None])


def spectrum(matrix: Float[Array, "n n"], *, what: str = "kernel matrix") -> Spectrum:
    """The eigendecomposition of a symmetric positive semi-definite matrix.

    **Raises:** `ComputationError` with the smallest eigenvalue if it is negative beyond rounding.
    """
    values, vectors, clipped = _eigh(matrix)
    host = np.asarray(values)
    if not np.isfinite(host).all():
        raise ComputationError(
            f"The eigendecomposition of the {what} failed: LAPACK returned entries that are not finite."
        )
    # Backward stability: eigenvalues move by a modest multiple of eps norm(K); n covers the multiple and the rounding
    # of the kernel's own entries.
    rounding = len(host) * float(np.finfo(host.dtype).eps) * float(np.max(np.abs(host)))
    if host[0] < -rounding:
        raise ComputationError(
            f"The {what} of {len(host)} examples is not positive semi-definite: its smallest eigenvalue is "
            f"{host[0]:.3e}, below rounding ({rounding:.1e}). Work in float64, or check that the kernel is one: "
            "symmetric, and positive semi-definite for every set of inputs."
        )
    return Spectrum(clipped, vectors, rounding, float(host[0]))


@jax.jit
def _eigh(matrix):
    values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    return values, vectors, jnp.maximum(values, 0.0)
