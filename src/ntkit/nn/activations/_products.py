"""The dual of a smooth function as a short sum of products, for pixels: there no matrix product serves a series.

Mehler's formula, in Hermite coefficients of the derivative, b_j(s) = E[phi'(s z) He_j(z)] / sqrt(j!) with s = sqrt(q),

    E[phi'(u) phi'(v)] = sum_j b_j(s) b_j(s') rho^j
    E[phi(u) phi(v)]   = E[phi(u)] E[phi(v)] + s s' sum_j b_j(s) b_j(s') rho^(j+1) / (j + 1)

has terms that are products of one number per side, but for large variances it takes hundreds. Over a range of variances
they depend on each other: as functions of (s, s') a dozen of the products give all others, each a combination of them
(an interpolative decomposition). What is left is a polynomial in rho for each product that is kept; even and odd j
apart it is one in rho^2, and few Chebyshev terms serve where rho^2 is bent to look at 1 more closely.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from scipy.linalg import qr, solve_triangular

from ntkit.nn._law import not_negative, safe_sqrt, size
from ntkit.nn.activations._base import Dual
from ntkit.nn.activations._quadrature import derivative_of, hosted
from ntkit.nn.activations._runtime import chebyshev_basis
from ntkit.nn.activations._tables import Sampler, Scale, find_parity, to_coefficients

# Beyond it the Gaussian weight is below 1e-20.
REACH = 13.6
# Deviations that tables are made of; Hermite coefficients at most; samples in rho^2; how it may be bent.
SIZE, MOST, SAMPLES = 28, 4096, 96
BENDS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)


class Half(NamedTuple):
    """The products of one parity of j: features b_j as Chebyshev coefficients in s, (m, degree), and the polynomials
    of the slope and of the value, as Chebyshev coefficients in y, (terms, m)."""

    odd: bool
    features: np.ndarray
    slope: np.ndarray
    value: np.ndarray


class Products(NamedTuple):
    """The table of one function, for deviations up to `scale.top`; y = 2 r / (1 + bend (1 - r)) - 1 with r = rho^2."""

    scale: Scale
    bend: float
    start: float  # phi(0)
    mean: np.ndarray  # (1, degree): (E[phi(s z)] - phi(0)) / s
    halves: tuple[Half, ...]

    def astype(self, dtype: type) -> "Products":
        halves = tuple(Half(half.odd, *(a.astype(dtype) for a in half[1:])) for half in self.halves)
        return Products(self.scale, self.bend, self.start, self.mean.astype(dtype), halves)


class Side(NamedTuple):
    """What is read of one variance."""

    s: Array
    inverse: Array
    mean: Array | None  # None where it is 0 at any variance
    features: tuple[list[Array], ...]
    norm: Array  # E[phi^2]^(1/2)


def side(table: Products, q: Array) -> Side:
    s = safe_sqrt(q)
    inverse = jnp.where(q > 0, 1 / jnp.where(q > 0, s, 1), 0)
    basis = chebyshev_basis(table.scale, s, table.mean.shape[1])
    mean, *features = (_apart(_dot(a, basis)) for a in (table.mean, *(half.features for half in table.halves)))
    spread = jnp.zeros_like(q)
    for half, own in zip(table.halves, features, strict=True):
        for weight, f in zip(half.value.sum(0), own, strict=True):  # T_l(1) = 1
            spread = spread + weight * (f * f)
    mean = table.start + s * mean[0] if table.start or table.mean.any() else None
    norm = safe_sqrt(q * spread if mean is None else mean * mean + q * spread)
    return Side(s, inverse, mean, tuple(features), norm)


def products_dual(table: Products, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
    """Both duals and the gap, as `Nonlinearity.dual`; the new gap is a difference."""
    x, y = side(table, xx), side(table, yy)
    away = gap * (x.inverse * y.inverse)  # 1 - |rho|; where a variance is 0, nothing reads it
    away = jnp.where(away > 1, 1, away)  # not `minimum`, which halves the derivative at 1: of orthogonal pairs
    rho = jnp.where(xy < 0, away - 1, 1 - away)
    r, rest = rho * rho, away * (2 - away)
    bent = 1 - rest * (2 * (1 + table.bend) / (1 + table.bend * rest))
    slope, value = jnp.zeros_like(xy), jnp.zeros_like(xy)
    for half, of_x, of_y in zip(table.halves, x.features, y.features, strict=True):
        products = [f * g for f, g in zip(of_x, of_y, strict=True)]
        slope_part, value_part = (_polynomial(a, products, bent) for a in (half.slope, half.value))
        slope = slope + (rho * slope_part if half.odd else slope_part)
        value = value + (r if half.odd else rho) * value_part
    value = x.s * y.s * value
    if x.mean is not None and y.mean is not None:
        value = value + x.mean * y.mean
    return Dual(value, slope, not_negative(x.norm * y.norm - size(value)))


def _polynomial(coefficients: np.ndarray, products: list[Array], t: Array) -> Array:
    """sum_l T_l(t) sum_m c_lm p_m, by Clenshaw's recurrence."""
    terms = _combinations(coefficients, products)
    ahead, after = jnp.zeros_like(t), jnp.zeros_like(t)
    for term in terms[:0:-1]:
        ahead, after = term + 2 * t * ahead - after, ahead
    return terms[0] + t * ahead - after


# Multiplications per polynomial that are written out: XLA makes one loop of them, several times as fast as a product of
# matrices. For more, LLVM takes gigabytes: 15 of them for 400 in float64 and images so small that it unrolls the loop.
WRITTEN_OUT = 200


def _combinations(coefficients: np.ndarray, products: list[Array]) -> list[Array]:
    if np.count_nonzero(coefficients) > WRITTEN_OUT:
        return _apart(_dot(coefficients, jnp.stack(products)))
    rows = ([(c, p) for c, p in zip(row, products, strict=True) if c] for row in coefficients)
    return [sum((c * p for c, p in row), jnp.zeros_like(products[0])) for row in rows]


def _dot(coefficients: np.ndarray, basis: Array) -> Array:
    return lax.dot_general(coefficients, basis, (((1,), (0,)), ((), ())), precision="highest")


def _apart(x: Array) -> list[Array]:
    return [lax.index_in_dim(x, i, 0, keepdims=False) for i in range(len(x))]


@lru_cache(maxsize=64)
def find_products(fn: Callable, slope: Callable | None, top: float, tolerance: float) -> Products | None:
    """The table for deviations up to `top`, in float64; None where it would not reach the tolerance.

    The error is that of both duals over their norms. It is measured on points that the table was not made of, against
    an integral over the angle.
    """
    slope = slope or derivative_of(fn)
    samples = _sampled(fn, slope, Scale(top, (0.2 * top) ** 0.5), tolerance)
    if samples is None:
        return None
    # Bounds add up what partly cancels: the short table does, as a rule.
    tables = (_table(samples, cut) for cut in (2 * tolerance, tolerance / 4))
    return next((table for table in tables if _error(table, fn, slope) < tolerance), None)


def _table(samples: "_Samples", tolerance: float) -> Products:
    halves = [_Half(samples, odd, tolerance) for odd in (False, True)]
    halves = [half for half in halves if half.matters]
    bend = min(BENDS, key=lambda bend: sum(len(half.at(bend)[0]) for half in halves))
    back = to_coefficients(SIZE).T
    mean, *features = (a @ back for a in (samples.mean[None], *(half.features for half in halves)))
    # As many Chebyshev terms as matter: small variances need half of them.
    sizes = np.max([np.abs(a).max(0) / max(np.abs(a).max(), 1e-300) for a in (mean, *features)], axis=0)
    terms = int(np.flatnonzero(sizes > tolerance / 100)[-1]) + 1
    every = tuple(Half(half.odd, own[:, :terms], *half.at(bend)) for half, own in zip(halves, features, strict=True))
    return Products(samples.scale, bend, samples.start, mean[:, :terms], every)


class _Samples(NamedTuple):
    scale: Scale
    s: np.ndarray
    coefficients: np.ndarray  # (j, S)
    start: float
    mean: np.ndarray
    norm: np.ndarray
    slope_norm: np.ndarray


def _sampled(fn: Callable, slope: Callable, scale: Scale, tolerance: float) -> _Samples | None:
    """Hermite coefficients at the nodes of a scale: as many as matter. None where too many do."""
    s, (z, root, hermite) = scale.nodes(SIZE), _hermite(scale.top)
    b = hermite @ (hosted(slope)(s * z[:, None]) * root[:, None])
    rest = np.cumsum(b[::-1] ** 2, axis=0)[::-1]  # what the coefficients from here on hold
    count = int((rest > tolerance / 50 * rest[0]).any(axis=1).sum())
    if count > 0.75 * MOST:
        return None
    values, start = hosted(fn)(s * z[:, None]), float(hosted(fn)(np.zeros(1))[0])
    mean, norm = root**2 @ (values - start) / s, np.sqrt(root**2 @ values**2)
    if find_parity(hosted(fn)) < 0:
        mean = np.zeros_like(mean)  # not its rounding
    return _Samples(scale, s, b[: max(count, 2)], start, mean, norm, np.sqrt(rest[0]))


@lru_cache(maxsize=2)
def _hermite(top: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points z, the roots of their weights under N(0, 1), and He_j(z) / sqrt(j!) times these roots, (MOST, z).

    By the trapezoidal rule, which converges geometrically; fine enough for the waves of the last polynomial and those
    of a function that turns `top` times as fast as its argument.
    """
    h = 2 * np.pi / (2 * MOST**0.5 + 20 * top + 40)
    z = np.arange(-int(REACH / h), int(REACH / h) + 1) * h
    root = np.exp(-z * z / 4) * (h / np.sqrt(2 * np.pi)) ** 0.5
    rows = np.empty((MOST, len(z)))
    rows[0], rows[1] = root, z * root
    for j in range(2, MOST):
        rows[j] = (z * rows[j - 1] - np.sqrt(j - 1) * rows[j - 2]) / np.sqrt(j)
    return z, root, rows


class _Half:
    """The products of one parity of j: which are kept, and how they give the others."""

    def __init__(self, samples: _Samples, odd: bool, tolerance: float):
        self.odd, self.tolerance = odd, tolerance
        self._j = np.arange(int(odd), len(samples.coefficients), 2)
        b = samples.coefficients[self._j]
        self.matters = bool(np.abs(b / samples.slope_norm).max() > 1e-13)
        i, k = np.triu_indices(SIZE)
        products = b[:, i] * b[:, k]
        self._over_slope = 1 / (samples.slope_norm[i] * samples.slope_norm[k])
        self._over_value = samples.s[i] * samples.s[k] / (samples.norm[i] * samples.norm[k])
        kept, self._others = self._decomposed(products) if self.matters else (np.arange(1), np.zeros((1, len(b))))
        self._products, self.features = products[kept], b[kept]

    def _decomposed(self, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which products are kept, and what combinations of them all are, (kept, all)."""
        values = products * self._over_value / (self._j[:, None] + 1)
        columns = np.concatenate([products * self._over_slope, values], axis=1).T
        r, order = map(np.asarray, qr(columns, mode="r", pivoting=True))
        left = np.sqrt(np.cumsum((r[: min(r.shape)] ** 2)[::-1], axis=0))[::-1]  # what rows from here on hold
        rank = max(1, int((left.max(1) > self.tolerance / len(self._j) ** 0.5).sum()))
        while True:
            others = np.zeros((rank, len(order)))
            others[:, order] = np.hstack([np.eye(rank), solve_triangular(r[:rank, :rank], r[:rank, rank:])])
            if rank == min(r.shape) or self._worst(columns, columns[:, order[:rank]] @ others) < self.tolerance:
                return order[:rank], others
            rank += 1

    @staticmethod
    def _worst(exact: np.ndarray, found: np.ndarray) -> float:
        return float(np.abs(exact - found).sum(1).max())

    def at(self, bend: float) -> tuple[np.ndarray, np.ndarray]:
        """The polynomials of slope and value in y, cut where the rest is below the tolerance: (terms, kept) each."""
        x = (np.cos(np.pi * (np.arange(SAMPLES) + 0.5) / SAMPLES) + 1) / 2
        powers = (x * (1 + bend) / (1 + bend * x)) ** (self._j[:, None] // 2)
        to = to_coefficients(SAMPLES)
        slope, value = (to @ (self._others @ p).T for p in (powers, powers / (self._j[:, None] + 1)))
        rest = np.maximum(
            (np.abs(slope) @ np.abs(self._products * self._over_slope)).max(1),
            (np.abs(value) @ np.abs(self._products * self._over_value)).max(1),
        )
        terms = max(1, int((np.cumsum(rest[::-1])[::-1] > self.tolerance).sum()))
        return self._sparse(slope[:terms], self._over_slope), self._sparse(value[:terms], self._over_value)

    def _sparse(self, polynomials: np.ndarray, over: np.ndarray) -> np.ndarray:
        """Without what does not matter: each coefficient left is a multiplication per pair of pixels."""
        matter = np.abs(polynomials) * np.abs(self._products * over).max(1)
        order = np.argsort(matter, axis=None)
        dropped = order[np.cumsum(matter.ravel()[order]) < self.tolerance / 4]
        sparse = polynomials.copy()
        sparse.flat[dropped] = 0
        return sparse


def _error(table: Products, fn: Callable, slope: Callable) -> float:
    """The largest error of both duals over their norms, at points between those of the fit."""
    s = table.scale.top * np.array([0.003, 0.07, 0.31, 0.62, 0.9, 1.0])
    theta = np.array([0.003, 0.11, 0.43, 0.97, 1.49, 2.2, 3.05])
    sampler = Sampler(fn, slope, find_parity(hosted(fn)), 72)
    exact = [sampler.duals(which, s, theta) for which in ("value", "slope")]
    norms = [np.linalg.norm(sampler.rays(which, s)[0], axis=1) for which in ("value", "slope")]
    found = evaluate(table, s, theta)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = [np.abs(a - b) / np.outer(n, n) for a, b, n in zip(exact, found, norms, strict=True)]
    return float(max(np.where(np.isnan(e), np.inf, e).max() for e in errors))


def evaluate(table: Products, s: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[phi phi] and E[phi' phi'] at all pairs of s and all theta, (theta, s, s) each, in NumPy."""
    basis = np.polynomial.chebyshev.chebvander(table.scale(s), table.mean.shape[1] - 1).T
    mean, rho = table.start + s * (table.mean @ basis)[0], np.cos(theta)
    r = rho**2
    angle = np.polynomial.chebyshev.chebvander(2 * r / (1 + table.bend * (1 - r)) - 1, max(map(_terms, table.halves)))
    slope, value = np.zeros((2, len(theta), len(s), len(s)))
    for half in table.halves:
        features, own = half.features @ basis, angle[:, : _terms(half)]
        of_slope, of_value = (np.einsum("tm,ms,mu->tsu", own @ a, features, features) for a in (half.slope, half.value))
        slope += of_slope * (rho if half.odd else np.ones_like(rho))[:, None, None]
        value += of_value * (r if half.odd else rho)[:, None, None]
    return np.outer(mean, mean) + np.outer(s, s) * value, slope


def _terms(half: Half) -> int:
    return len(half.slope)
