"""Products of a symmetric operator with vectors on the host, whoever computes them: counted, bounded, shown."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse.linalg as sparse

from ntkit._progress import Meter
from ntkit.errors import ComputationError, InputError

Vectors = np.ndarray


class Products:
    """v -> K v in float64, (size,) or (size, k), of a lineax operator, a scipy `LinearOperator` or a symmetric matrix.

    The operator sees its own dtype; `eps` is that one's. An operator on arrays (n, o) sees them so; here they are rows
    i o + a. More than `most` products raise `ComputationError`; None allows any number.
    """

    def __init__(self, operator: Any, most: int | None = None):
        self._apply, self.size, dtype = _opened(operator)
        if dtype not in (np.float32, np.float64):
            raise InputError(f"`operator` must be of float32 or float64, but has dtype {dtype}.")
        self.eps = float(np.finfo(dtype.name).eps)
        self.count, self.most = 0, most
        self.scale = 0.0  # the largest norm(K v) / norm(v) so far
        self.meter: Meter | None = None

    def __call__(self, vectors: Vectors) -> Vectors:
        if vectors.ndim == 2:
            return np.stack([self(column) for column in vectors.T], axis=1)
        if self.most is not None and self.count >= self.most:
            raise ComputationError(
                f"Not converged after {self.count} products. Raise `max_products`, ask for fewer eigenpairs, or raise "
                "`tol`."
            )
        product = np.asarray(self._apply(vectors), dtype=np.float64).reshape(self.size)
        if not np.isfinite(product).all():
            raise ComputationError("A product with `operator` is not finite: it overflows, or holds NaN.")
        self.count += 1
        self.scale = max(self.scale, float(np.linalg.norm(product) / max(np.linalg.norm(vectors), 1e-300)))
        if self.meter is not None:
            self.meter(self.count)
        return product

    def check_semidefinite(self, value: float) -> None:
        """`value` is one of v^T K v / v^T v, and not negative beyond rounding."""
        if value < -self.size * self.eps * self.scale:
            raise ComputationError(
                f"`operator` is not positive semi-definite: {value:.3e} lies within its spectrum, whose largest value "
                f"is {self.scale:.3e} or more. Is it symmetric, and a kernel's?"
            )


def _opened(operator: Any):
    """(v -> K v on flat vectors, size, dtype)."""
    if isinstance(operator, lx.AbstractLinearOperator):
        structure = operator.in_structure()
        if not isinstance(structure, jax.ShapeDtypeStruct) or operator.out_structure() != structure:
            raise InputError("`operator` must map one array to another of the same shape and dtype.")
        shape, dtype = structure.shape, np.dtype(structure.dtype)
        return (
            lambda v: np.asarray(operator.mv(jnp.asarray(v.reshape(shape), dtype))),
            int(np.prod(shape, dtype=int)),
            dtype,
        )
    if isinstance(operator, sparse.LinearOperator):
        matrix, dtype = operator, np.dtype(operator.dtype)
    else:
        matrix = np.asarray(operator)
        dtype = matrix.dtype
    if len(matrix.shape) != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        raise InputError(
            "`operator` must be a symmetric operator of lineax (`kernel.operator(x)`), a `LinearOperator` of scipy "
            f"(`kernel.to_scipy(x)`) or a symmetric matrix; got {type(operator).__name__} of shape {matrix.shape}."
        )
    if isinstance(matrix, np.ndarray) and not np.allclose(matrix, matrix.T, rtol=1e-4, atol=1e-5 * abs(matrix).max()):
        raise InputError("`operator` must be symmetric, but the matrix differs from its transpose.")
    return lambda v: matrix @ v.astype(dtype), matrix.shape[0], dtype


def generator(key: Any) -> np.random.Generator:
    """Random numbers of a whole number or a JAX key."""
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool) and key >= 0:
        return np.random.default_rng(int(key))
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return np.random.default_rng(np.asarray(jax.random.key_data(key)))
    raise InputError(f"`key` must be a whole number >= 0 or a key of JAX (`jax.random.key(0)`); got {key!r}.")


def check_count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"`{name}` must be a whole number, {least} or more; got {value!r}.")
    return int(value)
