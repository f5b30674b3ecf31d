"""The angle between the pre-activations of a pair, accurate from parallel through orthogonal to antiparallel."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial import chebyshev

Scalars = Float[Array, "..."]


def _arcsine_coefficients(degree: int) -> tuple[float, ...]:
    """Monomial coefficients, highest first, of asin(sqrt(w)) / sqrt(w) on [0, 1/4] (nearest singularity: w = 1)."""
    taylor = [math.comb(2 * k, k) / 4**k / (2 * k + 1) for k in range(40)]
    # The constant term is 1, exactly; fitting the rest over w keeps small angles right to the last digit.
    rest = chebyshev.chebinterpolate(lambda x: np.polynomial.polynomial.polyval((x + 1) / 8, taylor[1:]), degree - 1)
    fit = chebyshev.Chebyshev(rest, domain=[0, 0.25]).convert(kind=np.polynomial.Polynomial)
    return (*(float(c) for c in fit.coef[::-1]), 1.0)


# Errors of the two fits: 1e-9 and 1e-17, below the rounding of their dtype.
_COEFFICIENTS = {4: _arcsine_coefficients(7), 8: _arcsine_coefficients(14)}


def safe_sqrt(x: Scalars) -> Scalars:
    """sqrt(x) for x > 0, else 0, with derivative 0 wherever x <= 0."""
    # Double where: at x == 0 the gradient of sqrt is infinite, and inf * 0 is NaN.
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def angle(xx: Scalars, xy: Scalars, yy: Scalars, gap: Scalars) -> tuple[Scalars, Scalars]:
    """The angle theta in [0, pi] with cos(theta) = xy / s, and s = sqrt(xx) sqrt(yy). All arrays broadcast.

    For |cos(theta)| >= 1/2 it is read off the carried `gap` = s - |xy| (theta = 2 asin(sqrt(gap / 2 s)), or its
    reflection), so that nearly parallel pairs keep all their digits; elsewhere off `xy` (theta = pi/2 - asin(xy / s)),
    so that derivatives at orthogonal pairs are right. Where s = 0, theta = pi/2 with derivative 0.
    """
    s = safe_sqrt(xx) * safe_sqrt(yy)
    alive = s > 0
    inverse = 1 / jnp.where(alive, s, 1)
    cosine = jnp.where(alive, xy * inverse, 0)
    near = jnp.abs(cosine) >= 0.5
    half = jnp.where(near, gap * inverse, 0) / 2
    w = jnp.where(near, half, cosine * cosine)
    series = jnp.zeros_like(w)
    for c in _COEFFICIENTS[8 if w.dtype.itemsize > 4 else 4]:
        series = series * w + c
    folded = 2 * safe_sqrt(half) * series
    beyond = jnp.where(near, 0, cosine) * series
    theta = jnp.where(near, jnp.where(cosine > 0, folded, math.pi - folded), math.pi / 2 - beyond)
    return theta, s
