"""The arcsine kernel that Erf and Gelu share, and what it loses off the diagonal, without cancellation.

Variances come scaled by the activation's factor f: Q = f q. The angle of a row is k = asin(Q / (1 + Q)), that of a
pair w = asin(f |c| / sqrt((1 + Q1)(1 + Q2))). Derivation: docs/derivations/duals.md, "The gap behind Erf".
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.polynomial import chebyshev

from ntkit.nn._law import safe_sqrt


def _fit(integrand: str, degree: int) -> tuple[float, ...]:
    """Monomial coefficients, highest first, on [0, 1] of a function of u = t^2 given as an integral over [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    v = ((nodes + 1) / 2) ** 2
    weights = weights / 2
    points = (np.cos(np.pi * (np.arange(degree) + 0.5) / degree) + 1) / 2
    base = 1 + points[:, None] * v
    rows = {"arctan": -v / base, "excess": 2 * v / base**2}[integrand]
    fit = chebyshev.Chebyshev(chebyshev.chebfit(2 * points - 1, rows @ weights, degree - 1), domain=(0, 1))
    return tuple(float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef[::-1])


# By bytes of the dtype, as in `_angle`.
_ARCTAN = {size: _fit("arctan", degree) for size, degree in ((4, 8), (8, 21))}  # (atan(t) / t - 1) / t^2
_EXCESS = {size: _fit("excess", degree) for size, degree in ((4, 9), (8, 21))}  # (atan(t) - t / (1 + t^2)) / t^3
_TERMS = {4: 5, 8: 11}
_SINE = [(-1) ** n / math.factorial(2 * n + 1) for n in range(24)]  # sin(x) / x in powers of x^2


class Row(NamedTuple):
    """What a row of scaled variance Q gives to all its pairs."""

    scaled: Array  # Q
    sine: Array  # Q / (1 + Q), the sine of the angle
    angle: Array
    complement: Array  # pi / 2 - angle, to its own last digit
    root: Array  # sqrt(angle)
    ratio: Array  # sqrt(sin(angle) / angle)
    width: Array  # sqrt(1 + 2 Q)
    slant: Array  # sqrt((1 + 2 Q) / (1 + Q))

    @staticmethod
    def of(q: Array) -> "Row":
        width = jnp.sqrt(1 + 2 * q)
        angle = jnp.arctan2(q, width)
        sine, seen = q / (1 + q), angle > jnp.finfo(q.dtype).eps ** 0.5  # below, sin(k) / k is 1 and its slope is none
        ratio = jnp.sqrt(jnp.where(seen, sine / jnp.where(seen, angle, 1), 1))
        slant = width / jnp.sqrt(1 + q)
        # Every sine and cosine of the complement is algebraic, as sqrt(1 + 2 Q) is the cotangent of its half.
        return Row(q, sine, angle, 2 * jnp.arctan2(1, width), safe_sqrt(angle), ratio, width, slant)


def loss(a: Row, b: Row, scale: Array, sine: Array, cosine: Array, step: Array | float) -> Array:
    """sqrt(k1 k2) - w >= 0 for the angle w in [0, pi / 2] of given sine.

    `cosine` is that of w over `scale` = ((1 + Q1)(1 + Q2))^(-1/4), which it is of the size of, and
    `step` = sqrt(sin k1 sin k2) - sin w over it, which is 0 for parallel rows.
    """
    terms = _bytes(_TERMS, scale)
    root = a.root * b.root
    product = root * root
    small = product < 0.25
    # Small angles: the half tangent is that of sin(root) - sin(w).
    apart = a.angle - b.angle
    sines = _horner(_SINE[terms - 1 :: -1], product)
    unequal = root * (apart * apart) * _unequal(a.angle + b.angle, product, terms) / (sines + a.ratio * b.ratio)
    opposite = unequal + scale * step
    adjacent = jnp.sqrt(jnp.where(small, 1 - product * (sines * sines), 1)) + scale * cosine
    # Others: sin(mean - w) sin(mean + w) = sin^2(half the difference) + sin k1 sin k2 - sin^2 w, mean = (k1 + k2) / 2;
    # the cosine of the mean and both sides over the scale.
    widths = a.width + b.width
    over = scale * scale
    half = scale * ((a.scaled - b.scaled) / widths)
    mean_sine, mean_cosine = (a.slant * b.slant - over) / 2, scale * widths / 2
    numerator = scale * half * half + step * (scale * step + 2 * sine)
    total = jnp.where(small, 1, mean_sine * cosine + mean_cosine * sine)
    wide = total * (1 + over * mean_cosine * cosine + mean_sine * sine)
    t = jnp.where(small, opposite, numerator) / jnp.where(small, adjacent, wide)
    between = a.complement - b.complement
    roots = a.root + b.root
    # The mean of the angles over their geometric mean, (sqrt(k1) - sqrt(k2))^2 / 2.
    excess = jnp.where(small, 0, between / jnp.where(small, 1, roots))
    return 2 * arctan(t) - excess * excess / 2


def arctan(t: Array) -> Array:
    """atan(t) for t in [0, 1]."""
    u = t * t
    return t + t * u * _horner(_bytes(_ARCTAN, t), u)


def arc_excess(t: Array) -> Array:
    """(x - sin(x)) / t for x = 2 atan(t) in [0, pi / 2]."""
    u = t * t
    return 2 * u * _horner(_bytes(_EXCESS, t), u)


def _unequal(total: Array, product: Array, terms: int) -> Array:
    """(S(sqrt(k1 k2))^2 - S(k1) S(k2)) / (k1 - k2)^2 for S(k) = sin(k) / k.

    With S = sum_n c_n k^(2 n) it is minus the sum over n < m of c_n c_m (k1 k2)^(2 n) h^2, where d = m - n and
    h = (k1^d - k2^d) / (k1 - k2).
    """
    previous, h, square = 1.0, total, product * product
    result = _horner([-_SINE[n] * _SINE[n + 1] for n in reversed(range(terms // 2))], square)
    for d in range(2, terms + 1):
        few = max(1, (terms - d + 1) // 2)  # k1 k2 < 1/4
        result = result + h * h * _horner([-_SINE[n] * _SINE[n + d] for n in reversed(range(few))], square)
        previous, h = h, total * h - product * previous
    return result


def _horner(coefficients: Sequence[float], x: Array) -> Array:
    """The polynomial with these coefficients, highest first."""
    total = coefficients[0]
    for c in coefficients[1:]:
        total = total * x + c
    return jnp.asarray(total, x.dtype)


def _bytes(table: dict, x: Array):
    return table[8 if x.dtype.itemsize > 4 else 4]
