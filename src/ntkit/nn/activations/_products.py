"""The dual of a smooth function as a short sum of products, for pixels: there no matrix product serves a series.

Mehler's formula, in Hermite coefficients of the derivative, b_j(s) = E[phi'(s z) He_j(z)] / sqrt(j!) with s = sqrt(q),

    E[phi'(u) phi'(v)] = sum_j b_j(s) b_j(s') rho^j
    E[phi(u) phi(v)]   = E[phi(u)] E[phi(v)] + s s' sum_j b_j(s) b_j(s') rho^(j+1) / (j + 1)

has terms that are products of one number per side, but for large variances it takes hundreds. Late terms look alike: a
sum over j, like an integral, has a quadrature of few nodes j_i and weights w_i > 0 (found by `_nodes`),

    E[phi'(u) phi'(v)] = sum_i w_i b_{j_i}(s) b_{j_i}(s') rho^(j_i)

and the value likewise. A dozen terms serve where there were hundreds, each for two multiplications and an addition.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit.nn._law import not_negative, safe_sqrt, size
from ntkit.nn.activations._base import Dual
from ntkit.nn.activations._runtime import chebyshev_basis
from ntkit.nn.activations._tables import Scale

# What a correlation and its square are cut at.
BEYOND = 1 + 1e-5


class Quadrature(NamedTuple):
    """Of a sum over j: the nodes, by their places in the table, ascending, and what their terms are multiplied by."""

    places: tuple[int, ...]
    weights: tuple[float, ...]


class Sums(NamedTuple):
    """Those of both duals, for deviations up to `top`."""

    top: float
    slope: Quadrature
    value: Quadrature


class Products(NamedTuple):
    """The table of one function, for deviations up to `scale.top`; all of its sums are of nodes of the last."""

    scale: Scale
    start: float  # phi(0)
    rise: int  # phi' vanishes at 0 like x^rise
    powers: tuple[int, ...]  # the nodes
    # Over s^rise, as Chebyshev coefficients in s: (E[phi(s z)] - phi(0)) / s, and then the b_j: (1 + nodes, degree).
    rows: np.ndarray
    sums: tuple[Sums, ...] = ()

    def astype(self, dtype: type) -> "Products":
        return self._replace(rows=self.rows.astype(dtype))

    def duals(self, sums: Sums, s: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E[phi phi] and E[phi' phi'] at all pairs of s and all theta, (theta, s, s) each, in NumPy."""
        basis = np.polynomial.chebyshev.chebvander(self.scale(s), self.rows.shape[1] - 1).T
        mean, *b = self.rows.astype(float) @ basis * s**self.rise

        def total(sum_: Quadrature) -> np.ndarray:
            own, j = np.array(b)[[*sum_.places]], np.array(self.powers)[[*sum_.places]]
            return np.einsum("tm,ms,mu->tsu", sum_.weights * np.cos(theta)[:, None] ** j, own, own)

        mean, xy = self.start + s * mean, np.outer(s, s) * np.cos(theta)[:, None, None]
        return np.outer(mean, mean) + xy * total(sums.value), total(sums.slope)


class Side(NamedTuple):
    """What is read of one variance."""

    inverse: Array
    inverse_root: Array
    mean: Array | None  # None where it is 0 at any variance
    features: list[Array]  # all b_j
    norm: Array  # E[phi^2]^(1/2)


def side(table: Products, sums: Sums, q: Array) -> Side:
    s = safe_sqrt(q)
    some = q >= np.finfo(q.dtype).tiny  # below, its inverse overflows
    inverse, inverse_root = (jnp.where(some, 1 / jnp.where(some, a, 1), 0) for a in (q, s))
    basis = chebyshev_basis(table.scale, s, table.rows.shape[1])
    rows = lax.dot_general(table.rows, basis, (((1,), (0,)), ((), ())), precision="highest") * (s**table.rise)[None]
    mean, *features = (lax.index_in_dim(rows, i, 0, keepdims=False) for i in range(len(rows)))
    mean = table.start + s * mean if table.start or table.rows[0].any() else None
    spread = q * sum(w * (features[i] * features[i]) for i, w in zip(*sums.value, strict=True))
    return Side(inverse, inverse_root, mean, features, safe_sqrt(spread if mean is None else mean * mean + spread))


def products_dual(table: Products, sums: Sums, xx: Array, xy: Array, yy: Array) -> Dual:
    """Both duals and the gap, as `Nonlinearity.dual`; the new gap is a difference."""
    x, y = side(table, sums, xx), side(table, sums, yy)
    # Of pixels that do not exist it may be anything. At 1 itself, give or take rounding, it must keep its derivative.
    square = (xy * x.inverse) * (xy * y.inverse)
    square = jnp.where(square > BEYOND, BEYOND, square)
    rho = (xy * x.inverse_root) * y.inverse_root
    rho = jnp.where(rho > BEYOND, BEYOND, jnp.where(rho < -BEYOND, -BEYOND, rho))
    slope, value = (_sum(table.powers, sum_, x.features, y.features, rho, square) for sum_ in sums[1:])
    value = xy * value
    if x.mean is not None and y.mean is not None:
        value = value + x.mean * y.mean
    return Dual(value, slope, not_negative(x.norm * y.norm - size(value)))


def _sum(
    powers: Sequence[int], sum_: Quadrature, x: Sequence[Array], y: Sequence[Array], rho: Array, square: Array
) -> Array:
    """sum_i w_i x_i y_i rho^(j_i), by Horner's rule; weights go with x, into which they are multiplied once."""

    def power(n: int) -> Array | float:
        return square ** (n // 2) * (rho if n % 2 else 1.0)

    total, later = jnp.zeros_like(rho), powers[sum_.places[-1]]
    for i, weight in zip(sum_.places[::-1], sum_.weights[::-1], strict=True):
        total, later = total * power(later - powers[i]) + (weight * x[i]) * y[i], powers[i]
    return total * power(later)
