"""The largest eigenvalues of an operator and their vectors, from products alone.

Restarted Lanczos is ARPACK's (`scipy.sparse.linalg.eigsh`; R. Lehoucq, D. Sorensen, C. Yang, "ARPACK users' guide",
1998). A single start sees one vector of each eigenspace: of a kernel such as X X^T (x) I, whose eigenvalues are all
multiple, the copies come in by rounding or not at all, and nobody says so. So what was found is projected out, and the
rest is asked for its largest eigenvalue until that is no larger.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse.linalg as sparse

from ntkit._progress import Meter, Progress
from ntkit.errors import ComputationError, InputError
from ntkit.linalg.products import Products, check_count


@dataclasses.dataclass(frozen=True)
class Eigenpairs:
    """K vectors[:, i] = values[i] vectors[:, i], eigenvalues descending.

    - `residuals`: norm(K v - lambda v) / lambda_1 of each, formed anew; an eigenvalue is as near, in these units.
    - `rest`: the largest eigenvalue that is not among them.
    - `products`: how many were taken.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    rest: float
    products: int

    def __str__(self) -> str:
        return (
            f"{len(self.values)} eigenpairs, {self.values[0]:.4g} to {self.values[-1]:.4g}, the rest below "
            f"{self.rest:.4g}; residuals at most {self.residuals.max():.1e}; {self.products} products"
        )


def top_eigenpairs(
    operator: Any, k: int, *, tol: float = 1e-6, max_products: int = 2000, progress: Progress = True
) -> Eigenpairs:
    """The `k` largest eigenvalues of a symmetric positive semi-definite operator, with their vectors.

    `operator` is that of a kernel (`kernel.operator(x)` or `kernel.to_scipy(x)`), or any of lineax or scipy, or a
    matrix; vectors are (size, k) float64, row i o + a for output a of example i. Multiple eigenvalues are found with
    all copies. A small operator (less than some 2 k rows) is multiplied out instead. Memory: about 3 k vectors.

    **Raises:** `ComputationError` if not all residuals are below `tol`, or after `max_products` products; `InputError`
    for `k` that is not between 1 and the size.

    Equivalent to `numpy.linalg.eigh` of the matrix, the last `k`.
    """
    check_count("max_products", max_products, 1)
    if not 0 < tol < 1:
        raise InputError(f"`tol` must lie between 0 and 1, but got {tol!r}.")
    products = Products(operator, max_products)
    n = products.size
    if check_count("k", k, 1) > n:
        raise InputError(f"`k` must be at most {n}, the size of `operator`; got {k}.")
    with Meter(progress, 0, max_products, "eigenpairs", "products at most") as products.meter:
        if n <= max(2 * k + 1, 20):
            values, vectors = _dense(products)
            rest = float(values[k]) if k < n else 0.0
        else:
            values, vectors, rest = _sparse(products, k, tol)
        values, vectors = values[:k], vectors[:, :k]
        scale = max(values[0], np.finfo(float).tiny)
        residuals = np.linalg.norm(products(vectors) - vectors * values, axis=0) / scale
    if not residuals.max() <= tol:
        raise ComputationError(
            f"The largest residual norm(K v - lambda v) / lambda_1 is {residuals.max():.1e}, but {tol:.1e} was asked. "
            f"Raise `tol`, or use float64 (the products' rounding is {products.eps:.1e}); is `operator` symmetric?"
        )
    return Eigenpairs(values, vectors, residuals, max(0.0, rest), products.count)


def _dense(products: Products) -> tuple[np.ndarray, np.ndarray]:
    matrix = products(np.eye(products.size))
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return values[::-1], vectors[:, ::-1]


def _sparse(products: Products, k: int, tol: float) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(0)  # the start matters as little as the tolerance does
    values, vectors = _lanczos(products, k, tol, rng, np.zeros((products.size, 0)))
    while True:
        kth = np.sort(values)[-k]
        rest = _lanczos(products, 1, tol, rng, vectors)[0][0]
        if rest <= kth + tol * values.max() or vectors.shape[1] + k >= products.size:
            break
        more, others = _lanczos(products, k, tol, rng, vectors)
        values, vectors = np.concatenate([values, more]), np.concatenate([vectors, others], axis=1)
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order], max([float(rest), *values[order][k : k + 1]])


class _Rest(sparse.LinearOperator):
    """K where it is orthogonal to the columns of `found`."""

    def __init__(self, products: Products, found: np.ndarray):
        super().__init__(np.dtype(np.float64), (products.size, products.size))
        self._products, self._found = products, found

    def without(self, v: np.ndarray) -> np.ndarray:
        return v - self._found @ (self._found.T @ v)

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        return self.without(self._products(self.without(v.ravel())))


def _lanczos(products: Products, k: int, tol: float, rng: np.random.Generator, found: np.ndarray):
    """Eigenpairs of K where it is orthogonal to the columns of `found`."""
    rest = _Rest(products, found)
    start = rest.without(rng.standard_normal(products.size))
    try:
        values, vectors = sparse.eigsh(rest, k, tol=tol / 2, v0=start, which="LA")  # pyright: ignore[reportArgumentType]
    except sparse.ArpackError as error:
        way = "is `operator` zero?"  # what ARPACK complains of then is the start
        raise ComputationError(f"Lanczos' method failed after {products.count} products; {way} {error}") from error
    # Of equal eigenvalues ARPACK's vectors need not be orthogonal to rounding.
    return values, np.linalg.qr(rest.without(vectors))[0]
