"""The angle between the pre-activations of a pair, accurate from parallel through orthogonal to antiparallel."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial import chebyshev

from ntkit.nn._law import safe_sqrt, size

Scalars = Float[Array, "..."]


def _fit(taylor: list[float], degree: int) -> tuple[float, ...]:
    """Monomial coefficients, highest first, on w in [0, 1/2] of a power series whose nearest singularity is w = 1.

    The constant term is kept; fitting the rest over w keeps small angles right to the last digit.
    """
    points = np.cos(np.pi * (np.arange(degree) + 0.5) / degree)
    values = np.polynomial.polynomial.polyval((points + 1) / 4, taylor[1:])
    rest = chebyshev.chebfit(points, values, degree - 1)
    fit = chebyshev.Chebyshev(rest, domain=(0, 0.5)).convert(kind=np.polynomial.Polynomial)
    return (*(float(c) for c in fit.coef[::-1]), taylor[0])


_BINOMIALS = [math.comb(2 * k, k) / 4**k for k in range(64)]
_ASIN = [b / (2 * k + 1) for k, b in enumerate(_BINOMIALS)]  # asin(sqrt w) / sqrt w
_COS = [b / (1 - 2 * k) for k, b in enumerate(_BINOMIALS)]  # sqrt(1 - w)
# sin(psi) - psi cos(psi) = 2 sqrt(w) (sqrt(1 - w) - (1 - 2 w) asin(sqrt w) / sqrt w), whose series starts at w.
_WEDGE = [c - a + 2 * b for c, a, b in zip(_COS[1:], _ASIN[1:], _ASIN[:-1], strict=True)]
# By bytes of the dtype: as many terms as its rounding can tell (errors below 1e-8 and 1e-16).
_ASIN_FIT = {size: _fit(_ASIN, degree) for size, degree in ((4, 8), (8, 20))}
_WEDGE_FIT = {size: _fit(_WEDGE, degree) for size, degree in ((4, 7), (8, 20))}


def angle(xx: Scalars, xy: Scalars, yy: Scalars, gap: Scalars) -> tuple[Scalars, Scalars]:
    """The angle theta in [0, pi] with cos(theta) = xy / s, and s = sqrt(xx) sqrt(yy). All arrays broadcast.

    It is read off the carried `gap` = s - |xy|, so that nearly (anti)parallel pairs keep all their digits. Where s = 0,
    theta = pi/2 with derivative 0.
    """
    psi, s, _ = acute(xx, xy, yy, gap)
    folded = jnp.where(xy < 0, math.pi - psi, psi)
    return jnp.where((xx > 0) & (yy > 0), folded, math.pi / 2), s


def acute(xx: Scalars, xy: Scalars, yy: Scalars, gap: Scalars) -> tuple[Scalars, Scalars, Scalars]:
    """The acute angle psi with cos(psi) = |xy| / s, then s, and s (sin(psi) - psi cos(psi)), free of cancellation.

    Where s = 0 all three are 0.
    """
    roots = safe_sqrt(xx), safe_sqrt(yy)
    # Inverses per example, not per pair: a division costs as much as a polynomial.
    a, b = (jnp.where(root > 0, math.sqrt(0.5) / jnp.where(root > 0, root, 1), 0) for root in roots)
    w = gap * (a * b)  # sin^2(psi / 2), at most 1/2
    # Not safe_sqrt: the maximum, too, has derivative 0 at w = 0, and costs one instruction instead of three.
    chord = 2 * jnp.sqrt(jnp.maximum(w, jnp.finfo(w.dtype).tiny))
    bytes = 8 if w.dtype.itemsize > 4 else 4
    wedge = chord * w * _polynomial(_WEDGE_FIT[bytes], w)
    return chord * _polynomial(_ASIN_FIT[bytes], w), roots[0] * roots[1], roots[0] * roots[1] * wedge


def from_sides(sine: Scalars, cosine: Scalars) -> Scalars:
    """The angle in [-pi / 2, pi / 2] with this sine and cosine. `jnp.arctan2(sine, cosine)`, which XLA for CPU
    computes one by one, takes ten times as long."""
    far = size(sine)
    least = least_angle(jnp.minimum(far, cosine))
    steep = jnp.where(far > cosine, math.pi / 2 - least, least)
    return jnp.where(sine < 0, -steep, steep)


def least_angle(sine: Scalars) -> Scalars:
    """The angle in [0, pi / 4] with this sine. No division and no root: each is a loop of its own over all pairs of
    pixels, read by several others."""
    w = sine * sine
    return sine * _polynomial(_ASIN_FIT[8 if w.dtype.itemsize > 4 else 4], w)


def _polynomial(coefficients: tuple[float, ...], w: Scalars) -> Scalars:
    total = jnp.full_like(w, coefficients[0])
    for c in coefficients[1:]:
        total = total * w + c
    return total
