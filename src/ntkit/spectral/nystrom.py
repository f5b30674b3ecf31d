"""Eigenvalues and eigenfunctions of a kernel under the law that data come from, by Nyström's method."""

from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from ntkit._progress import Progress
from ntkit.errors import ComputationError, InputError
from ntkit.kernels import settled
from ntkit.linalg.products import check_count
from ntkit.predict._data import parse_dtype, parse_test, parse_x, precision, without_masks
from ntkit.predict._evaluate import check_kernel, evaluate
from ntkit.predict.posterior import parse_matrix

# Entries of the kernel of test examples with the data that are held at a time.
_CROSS = 1 << 22


class Nystrom:
    """What `ntkit.nystrom` returns: `eigenvalues` (r,), descending, and the eigenfunctions as a function of examples.

    - `vectors` (n, r): the unit eigenvectors v_i of the matrix on the data.
    - `explained`: the share of the trace of K / n that these eigenvalues have.
    - `kernel`, `x`, `dtype`: what it was made of.
    """

    def __init__(self, kernel: Any, x: np.ndarray, eigenvalues: np.ndarray, vectors: np.ndarray, explained: float):
        self.kernel, self.x, self.dtype = kernel, x, x.dtype
        self.eigenvalues, self.vectors, self.explained = eigenvalues, vectors, explained

    def __repr__(self) -> str:
        n, r = self.vectors.shape
        return (
            f"Nystrom(n={n}, rank={r}; eigenvalues {self.eigenvalues[0]:.4g} to {self.eigenvalues[-1]:.4g}, "
            f"{self.explained:.2%} of the trace)"
        )

    def __call__(self, x_test: Any = None) -> Float[np.ndarray, "m r"]:
        """phi_i(x) = K(x, X) v_i sqrt(n) / (n lambda_i) at test examples; at the data (None) sqrt(n) v_i."""
        n = len(self.x)
        if x_test is None:
            return np.sqrt(n) * self.vectors
        rows = parse_test(x_test, self.kernel, self.x, self.dtype)
        columns = self.vectors / (np.sqrt(n) * self.eigenvalues)
        with precision(self.dtype):
            size = max(1, _CROSS // n)
            parts = [np.asarray(evaluate(self.kernel, rows[i : i + size], self.x)) for i in range(0, len(rows), size)]
        return np.concatenate([part @ columns for part in parts]).astype(self.dtype)


def nystrom(
    kernel: Any,
    x: Float[Array | np.ndarray, "n ..."],
    rank: int,
    *,
    matrix: Any = None,
    dtype: Any = np.float64,
    memory: str | int | None = None,
    progress: Progress = False,
) -> Nystrom:
    """The largest eigenvalues of f -> E_y k(., y) f(y) under the law of the data, and their eigenfunctions anywhere.

    With K = kernel(x) on n examples and (K / n) v_i = lambda_i v_i, |v_i| = 1,

        phi_i(y) = K(y, X) v_i sqrt(n) / (n lambda_i),      lambda_i -> eigenvalue,  phi_i -> eigenfunction as n grows

    (C. Williams and M. Seeger, "Using the Nyström Method to Speed Up Kernel Machines", NeurIPS 2000, eq. 6 to 9). The
    phi_i are orthonormal in the mean over the data, and sum_i lambda_i phi_i(x) phi_i(y) is the kernel of rank r. They
    are also the directions of training: gradient flow learns the part along phi_i at the rate learning_rate lambda_i.
    The error of lambda_i against n to infinity is of order n^(-1/2); on spheres `ntkit.mercer` has the limit.

    **Arguments:** `kernel`, `x`: as for `ntkit.posterior`; `rank`: r, at most n. `matrix`: kernel(x), where it is at
    hand. `memory`, `progress`: as for `ntkit.gram`. Memory: n^2, and n r.

    **Raises:** `ntkit.InputError` for wrong arguments; `ntkit.ComputationError` where an eigenvalue asked for is zero
    within rounding (n eps times the largest), so that its function is not determined, or negative.

    Equivalent to `sklearn.decomposition.KernelPCA` without centring, up to scale.
    """
    check_kernel(kernel)
    wanted = parse_dtype(dtype)
    kernel, arrays = without_masks(kernel, x)
    arrays = parse_x("x", arrays, wanted)
    n = len(arrays)
    if check_count("rank", rank, 1) > n:
        raise InputError(f"`rank` must be at most {n}, the number of examples; got {rank}.")
    with precision(wanted):
        kernel = settled(kernel, arrays)
        k = np.asarray(parse_matrix(kernel, arrays, matrix, wanted, memory, progress)) / wanted.type(n)
    values, vectors = scipy.linalg.eigh(k, subset_by_index=[n - rank, n - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    rounding = n * float(np.finfo(wanted).eps) * float(values[0])
    if not values[-1] > rounding:
        alive = int(np.sum(values > rounding))
        raise ComputationError(
            f"Only {alive} of the {rank} largest eigenvalues exceed rounding ({rounding:.1e}); the last is "
            f"{values[-1]:.1e}. Ask for `rank={alive}` or less, or work in float64."
        )
    # A sign for each, so that equal data give equal functions: the largest entry is positive.
    signs = np.sign(vectors[np.argmax(np.abs(vectors), axis=0), np.arange(rank)])
    return Nystrom(kernel, arrays, values, vectors * signs, float(values.sum() / np.trace(k)))
