"""What a kernel on disk says: its eigenvalues, and how well it is aligned with labels. Read by rows."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh

from ntkit._check import parse_memory
from ntkit.errors import ComputationError

# Eigenvalues where a matrix is too large for all of them.
SOME = 100


@dataclasses.dataclass(frozen=True)
class Matrix:
    """The matrix of a kernel: (n, n), (n, n, o) output by output, or (n, n, o, o) as (n o, n o); float64, by rows."""

    kernel: Any
    output: int | None = None  # of the second

    @property
    def size(self) -> int:
        return self.kernel.shape[0] * (self.kernel.shape[2] if self.kernel.ndim == 4 else 1)

    def rows(self, most: int = 1 << 24) -> Iterator[tuple[slice, np.ndarray]]:
        """Some rows and their places, about `most` numbers at a time."""
        n, o = self.kernel.shape[0], self.size // self.kernel.shape[0]
        step = max(1, most // max(1, int(np.prod(self.kernel.shape[1:]))))
        for i in range(0, n, step):
            block = np.asarray(self.kernel[i : i + step], np.float64)
            block = block if self.output is None else block[..., self.output]
            block = block.transpose(0, 2, 1, 3) if block.ndim == 4 else block
            yield slice(i * o, (i + len(block)) * o), block.reshape(-1, self.size)

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        return np.concatenate([block @ v for _, block in self.rows()])


def eigenvalues(kernel: Any, memory: str) -> Float[np.ndarray, "..."]:
    """Largest first, (k,), for "diagonal" (o, k): all, or the 100 largest where two copies of the matrix do not fit."""
    budget = parse_memory(memory)
    outputs = range(kernel.shape[2]) if kernel.ndim == 3 else [None]
    found = [_eigenvalues(Matrix(kernel, output), budget) for output in outputs]
    return np.stack(found) if kernel.ndim == 3 else found[0]


def _eigenvalues(matrix: Matrix, budget: int | None) -> np.ndarray:
    n = matrix.size
    if budget is None or 16 * n * n <= budget or n <= 2 * SOME:
        whole = np.concatenate([block for _, block in matrix.rows()])
        values = np.linalg.eigvalsh(whole)[::-1]
    else:
        start = np.random.default_rng(0).standard_normal(n)  # equal calls give equal numbers
        products: Any = {"matvec": lambda v: matrix @ v.ravel(), "dtype": np.float64}
        operator = LinearOperator((n, n), **products)
        values = np.sort(eigsh(operator, k=SOME, v0=start, return_eigenvectors=False))[::-1]
    if not np.isfinite(values).all():
        raise ComputationError("The eigenvalues of the kernel are not finite.")
    return values


def mean_of_outputs(kernel: Any) -> Any:
    """The kernel of the mean over outputs, (n, n), of any kind of outputs; in memory unless it is that already."""
    if kernel.ndim == 2:
        return kernel
    blocks = range(0, len(kernel), 64)
    own = "ijaa->ij" if kernel.ndim == 4 else "ija->ij"
    return np.concatenate([np.einsum(own, np.asarray(kernel[i : i + 64])) for i in blocks]) / kernel.shape[2]


def alignment(kernel: Any, y: Float[np.ndarray, "n k"]) -> float:
    """`ntkit.alignment`, centred, of a matrix on disk: 1 where the kernel is Y's own, 0 where it knows nothing of Y.

    **Source:** Cortes et al. 2012, "Algorithms for learning kernels based on centered alignment".
    """
    y = y - y.mean(0)
    matrix, n = Matrix(kernel), len(y)
    squares = sum(float(np.sum(block**2)) for _, block in matrix.rows())
    sums, ky = np.ones(n), np.zeros_like(y)
    sums, ky = matrix @ sums, matrix @ y
    norm = np.sqrt(max(0.0, squares - 2 * float(sums @ sums) / n + (float(sums.sum()) / n) ** 2))
    bottom = norm * float(np.linalg.norm(y.T @ y))
    return float(np.sum(y * ky)) / bottom if bottom > 0 else 0.0
