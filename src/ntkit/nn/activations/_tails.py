"""Moments of a quadrant far out, of the relative precision that functions need which vanish around 0.

The recursion of `_moments` subtracts terms that are h^2 times as large as what it leaves, once an order. By Price's
theorem, again and again, and because nothing lies in the quadrant at theta = pi,

    J_aa = int_theta^pi (cos(theta) - cos(t))^a / a! exp(-(h^2 + k^2 - 2 h k cos(t)) / (2 sin(t)^2)) dt / (2 pi),

a sum of positive terms. With x = tan(t / 2), d = |h - k| and S = h + k the exponent is -max(h, k)^2 / 2
- (S x - d / x)^2 / 8: a bump, whose ends are known, for Gauss's rule on three panels. The orthant itself is seen from
the origin, beyond either side: Owen's function (Owen 1956) from the other end, again without a difference.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr
from jaxtyping import Array
from numpy.polynomial.legendre import leggauss

from ntkit.nn._law import safe_sqrt, size

# From here on, for the larger of h and k. Below, the recursion loses h^4 an order at most.
DISTANT = 3.0
# What the rules leave out, relative to the root of both diagonal moments.
LEFT_OUT = 2e-11
# exp(-(2 * REACH)^2 / 8) is below rounding.
_REACH = 8.5
_RULE = leggauss(20)


def _rule(like: Array, panels: int = 1) -> tuple[Array, Array, Array]:
    """Gauss's nodes and weights on [0, 1], as often as there are panels, and which panel each belongs to."""
    x, w = _RULE
    nodes, weights = (jnp.asarray(np.tile(y, panels), like.dtype) for y in ((x + 1) / 2, w / 2))
    return jnp.asarray(np.repeat(np.arange(panels), len(x))), nodes, weights


def distant_orthant(h: Array, k: Array, m1: Array, m2: Array) -> Array:
    """P(x > h, y > k): what lies beyond the side x = h, seen from the origin, and beyond y = k."""
    # One loop for both, which is compiled once.
    return jnp.sum(_beyond(jnp.stack([h, k]), jnp.stack([m1, m2])), axis=0)


def _beyond(h: Array, m: Array) -> Array:
    """h / (2 pi) int_m^inf exp(-(h^2 + y^2) / 2) / (h^2 + y^2) dy."""
    near = size(m)
    end = safe_sqrt(near * near + _REACH * _REACH) - near

    def step(total: Array, rule: tuple[Array, Array, Array]) -> tuple[Array, None]:
        _, part, weight = rule
        w = end * part
        return total + weight * jnp.exp(-w * (near + w / 2)) / (h * h + (near + w) ** 2), None

    total, _ = lax.scan(step, jnp.zeros_like(m), _rule(m))
    ahead = h * end * total * jnp.exp(-(h * h + near * near) / 2) / (2 * np.pi)
    return jnp.where(m < 0, ndtr(-h) - ahead, ahead)


def distant_diagonals(h: Array, k: Array, near: Array, r: Array, orders: int) -> Array:
    """J_aa for 0 < a < orders, orders at least 2, with near = 1 - cos(theta) and r = sin(theta)."""
    apart, total, top = size(h - k), jnp.maximum(h + k, 1), jnp.maximum(h, k)
    half = jnp.minimum(jnp.where(r > 0, near / jnp.where(r > 0, r, 1), jnp.where(near > 1, 1e6, 0)), 1e6)
    reach, four = 2 * _REACH, 4 * total * apart
    low = jnp.maximum(half, 2 * apart / (jnp.sqrt(reach * reach + four) + reach))
    start = jnp.maximum(total * low - jnp.where(low > 0, apart / jnp.where(low > 0, low, 1), 0), 0)
    end = jnp.sqrt(start * start + reach * reach)
    high, middle = (end + jnp.sqrt(end * end + four)) / (2 * total), safe_sqrt(apart / total)
    edges = jnp.stack([low, jnp.clip(middle / 2, low, high), jnp.clip(middle + 2 / total, low, high), high])

    def step(sums: Array, rule: tuple[Array, Array, Array]) -> tuple[Array, None]:
        panel, part, weight = rule
        left, width = edges[panel], edges[panel + 1] - edges[panel]
        x = left + width * part
        bump = total * x - jnp.where(x > 0, apart / jnp.where(x > 0, x, 1), 0)
        share = weight * width * jnp.exp(-top * top / 2 - bump * bump / 8) / (1 + x * x)
        # cos(theta) - cos(t); its first factor exactly, where the first panel begins at theta.
        turn = 2 * ((left - half) + width * part) * (x + half) / ((1 + x * x) * (1 + half * half))
        return sums + jnp.stack([share * turn**a for a in range(1, orders)]), None

    nothing = jnp.zeros((orders - 1, *h.shape), h.dtype)
    sums, _ = lax.scan(step, nothing, _rule(h, 3))
    scale = np.array([1 / (np.pi * math.factorial(a)) for a in range(1, orders)], h.dtype)
    return sums * scale.reshape(-1, *(1,) * h.ndim)
