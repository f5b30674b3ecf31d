"""Traces of an operator and of functions of it by random vectors, with standard errors.

R. Meyer, C. Musco, C. Musco, D. Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA 2021: with Q an
orthonormal basis of K S for a few random vectors S,

    tr f(K) = sum_j q_j^T f(K) q_j + tr (I - Q Q^T) f(K) (I - Q Q^T),

the first term as it is, the second the mean of v^T f(K) v over v = (I - Q Q^T) z with random signs z. These are
independent, whence the standard error. Functions are taken by Lanczos' quadrature between two bounds (S. Ubaru,
J. Chen, Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix Anal. 38, 2017).

The library matfree has both for JAX, but inside loops of JAX, where a product of torch cannot be computed and
convolutions on a CPU are slow, and without bounds of the quadrature.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ntkit._progress import Meter, Progress
from ntkit.errors import ComputationError, InputError
from ntkit.linalg.eigenpairs import top_eigenpairs
from ntkit.linalg.products import Products, check_count, generator
from ntkit.linalg.quadrature import Function, enclosed


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number estimated by random vectors.

    - `standard_error`: of `value`, from the spread of the samples; 0 where the whole space was taken.
    - `bracket`: what quadrature can add to that: at most so far the value lies from the one of exact quadrature at
        the same vectors.
    - `samples`: random vectors averaged over; `products`: products with the operator.
    """

    value: float
    standard_error: float
    bracket: float
    samples: int
    products: int

    def __str__(self) -> str:
        quadrature = f", quadrature within {self.bracket:.1g}" if self.bracket else ""
        error = f"{self.value:.6g} +- {self.standard_error:.2g}"
        return f"{error} ({self.samples} samples, {self.products} products{quadrature})"


Measure = Callable[[np.ndarray], tuple[float, ...]]


def trace(operator: Any, *, key: Any, samples: int = 30, rank: int = 20, progress: Progress = True) -> Estimate:
    """tr K, of a symmetric positive semi-definite operator as for `top_eigenpairs`.

    **Arguments:**

    - `key`: a whole number or a key of JAX; the same one gives the same result.
    - `samples`: random vectors, 2 or more; the error falls as their root.
    - `rank`: directions taken exactly, two products each: those of the largest eigenvalues, where most of a kernel is.
        From the operator's size on the result is exact.
    """
    products, means = _means(operator, key, samples, rank, progress, 1, _moments)
    return means.estimate(means.total[0], means.samples[:, 0], products)


def logdet(
    operator: Any,
    *,
    noise: float,
    key: Any,
    samples: int = 30,
    rank: int = 20,
    rtol: float = 1e-4,
    steps: int = 100,
    progress: Progress = True,
) -> Estimate:
    """log det(K + noise I), with `noise` > 0. The arguments are those of `trace`, and

    - `rtol`, `steps`: each vector's quadrature ends when its bounds agree to `rtol`, or after `steps` products; what
        is left between them is the result's `bracket`.

    **Raises:** `ComputationError` if `noise` is below what the operator's dtype resolves, or the operator is not
    positive semi-definite.
    """
    if not isinstance(noise, (int, float, np.floating)) or isinstance(noise, bool) or not 0 < noise < np.inf:
        raise InputError(f"`noise` must be a positive number; got {noise!r}.")

    def function(x: np.ndarray) -> np.ndarray:
        if np.any(x <= -noise / 2):  # the node at minus the products' rounding
            raise ComputationError(
                f"`noise` = {noise:.1e} is below the rounding of the products, about {-2 * x.min():.1e}: their dtype "
                "does not resolve it. Use float64, or a larger `noise`."
            )
        return np.log1p(x / noise)

    measure = _quadrature(function, rtol, check_count("steps", steps, 1))
    products, means = _means(operator, key, samples, rank, progress, steps, measure)
    middle, bracket = means.total[:2].mean(), abs(np.diff(means.total[:2])[0]) / 2
    value = products.size * np.log(noise) + middle
    return means.estimate(value, means.samples[:, :2].mean(1), products, bracket)


Definition = Literal["participation", "intrinsic", "entropy"]


def effective_rank(
    operator: Any,
    *,
    key: Any,
    definition: Definition = "participation",
    samples: int = 30,
    rank: int = 20,
    rtol: float = 1e-4,
    steps: int = 100,
    progress: Progress = True,
) -> Estimate:
    """How many eigenvalues count. By `definition`:

    - "participation": (tr K)^2 / norm(K)_F^2, R_0 of Bartlett et al., "Benign overfitting", PNAS 2020;
    - "intrinsic": tr K / lambda_1, their r_0, Tropp's intrinsic dimension;
    - "entropy": exp(-sum_i p_i log p_i) with p = lambda / tr K (Roy and Vetterli, EUSIPCO 2007).

    The standard error is that of the ratio, to first order. The other arguments are those of `logdet`.
    """
    if definition not in ("participation", "intrinsic", "entropy"):
        raise InputError(f'`definition` must be "participation", "intrinsic" or "entropy"; got {definition!r}.')
    if definition == "intrinsic":
        top = top_eigenpairs(operator, 1, progress=progress)
        whole = trace(operator, key=key, samples=samples, rank=rank, progress=progress)
        largest = _positive(float(top.values[0]))
        error = whole.standard_error / largest
        ratio = whole.value / largest
        # An eigenvalue is as near as its residual.
        return Estimate(ratio, error, ratio * float(top.residuals[0]), whole.samples, whole.products + top.products)
    if definition == "participation":
        products, means = _means(operator, key, samples, rank, progress, 1, _moments)
        t, s = means.total
        value = t * _positive(t) / _positive(s)
        influence = means.samples @ np.array([2 * t / s, -((t / s) ** 2)])
        return means.estimate(value, influence, products)
    return _entropy(operator, key, samples, rank, progress, rtol, check_count("steps", steps, 1))


def _entropy(operator: Any, key: Any, samples: int, rank: int, progress: Progress, rtol: float, steps: int) -> Estimate:
    """exp(log t - s / t) with t = tr K, s = tr K log K."""
    measure = _quadrature(lambda x: np.where(x > 0, x * np.log(np.where(x > 0, x, 1.0)), 0.0), rtol, steps, 1.0)
    products, means = _means(operator, key, samples, rank, progress, steps, measure)
    t, s, gap = _positive(means.total[2]), means.total[:2].mean(), abs(np.diff(means.total[:2])[0]) / 2
    value = float(np.exp(np.log(t) - s / t))
    influence = value * (means.samples[:, 2] * (1 + s / t) / t - means.samples[:, :2].mean(1) / t)
    return means.estimate(value, influence, products, value * gap / t)


def _positive(value: float) -> float:
    if not value > 0:
        raise ComputationError(f"The trace or norm of `operator` is {value:.1e}: a zero kernel has no effective rank.")
    return value


@dataclasses.dataclass(frozen=True)
class _Means:
    """`total`: (q,) estimates of the traces; `samples`: (m, q), whose means are their random parts."""

    total: np.ndarray
    samples: np.ndarray

    def estimate(self, value: float, influence: np.ndarray, products: Products, bracket: float = 0.0) -> Estimate:
        """`influence`: what each sample moves the value by, up to a constant."""
        m = len(influence)
        error = float(np.std(influence, ddof=1) / m**0.5) if m else 0.0
        return Estimate(float(value), error, float(bracket), m, products.count)


def _means(
    operator: Any, key: Any, samples: int, rank: int, progress: Progress, each: int, of: Callable[[Products], Measure]
) -> tuple[Products, _Means]:
    """`each`: products that a measure takes at most."""
    check_count("samples", samples, 2)
    check_count("rank", rank, 0)
    products, rng = Products(operator), generator(key)
    n, measure = products.size, of(products)
    whole = rank >= n
    total = n * each if whole else rank * (1 + each) + samples * each
    with Meter(progress, 0, total, "random vectors", "products at most") as products.meter:
        basis = np.eye(n) if whole else np.linalg.qr(products(_signs(rng, n, rank)))[0] if rank else np.zeros((n, 0))
        fixed = np.array([measure(q) for q in basis.T])
        drawn = [_signs(rng, n, 1)[:, 0] for _ in range(0 if whole else samples)]
        random = np.array([measure(z - basis @ (basis.T @ z)) for z in drawn])
    if not rank:
        return products, _Means(random.mean(0), random)
    if whole:
        return products, _Means(fixed.sum(0), np.zeros((0, fixed.shape[1])))
    return products, _Means(fixed.sum(0) + random.mean(0), random)


def _signs(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return rng.integers(0, 2, size=(n, k)) * 2.0 - 1.0


def _moments(products: Products) -> Measure:
    """v^T K v and norm(K v)^2."""

    def measure(v: np.ndarray) -> tuple[float, ...]:
        w = products(v)
        products.check_semidefinite(float(v @ w) / max(float(v @ v), 1e-300))
        return float(v @ w), float(w @ w)

    return measure


def _quadrature(f: Function, rtol: float, steps: int, weight: float = 0.0) -> Callable[[Products], Measure]:
    """v^T f(K) v by two rules that enclose it, and v^T K v."""
    return lambda products: lambda v: enclosed(products, v, f, rtol, steps, weight)
