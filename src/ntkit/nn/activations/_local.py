"""Localised kinks: sums of truncated powers under a Gaussian window, whose duals are closed formulas.

    kappa(x) = sum_j sum_o b_jo w_j^o / o! exp(-w_j^2 / 2 width^2)  where w_j = sigma_j x - t_j > 0,   t_j >= 0

Subtracted from a function with kinks away from 0 it leaves one with as many continuous derivatives as wanted.

The two windows and the normal density of a pair (u, v) are one Gaussian: its covariance is (1/width^2 + S^-1)^-1, with
S that of the pair, and what is left is a moment J_ab of a quadrant, as in `_pieces`. With L = width and
d^2 = det(S + L^2), a_i^2 = L^2 + s_i^2 r^2, in the letters of `Corner` and primes for the new law:

    s1' = s1 L a2 / d,    rho' = rho L^2 / (a1 a2),    r' = r d / (a1 a2),    h' = L (L^2 h + s2^2 n2) / (d a2),
    m1' = m1 L / a2,      n1' = r' m1',      and the same with 1 and 2, h and k exchanged;
    weight = L^2 / d exp(-(L^2 (t^2 + t'^2) + (s2 t - s1 t')^2 + 2 (1 - rho) s1 s2 t t') / (2 d^2)).
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit.nn.activations._kinks import jump_at
from ntkit.nn.activations._pieces import Corner, Moments, Pair, corners
from ntkit.nn.activations._quadrature import derivative_of, hosted


class Bump(NamedTuple):
    """side * x - place = w > 0, and the coefficients of w^o / o! times the window."""

    side: int
    place: float
    coefficients: tuple[float, ...]


class Local(NamedTuple):
    """The formula above."""

    width: float
    bumps: tuple[Bump, ...]

    def derivative(self) -> "Local":
        """kappa' wherever it exists."""
        return self._replace(bumps=tuple(self._slope(bump) for bump in self.bumps))

    def _slope(self, bump: Bump) -> Bump:
        b = [0.0, *bump.coefficients, 0.0, 0.0]
        slope = (bump.side * (b[o + 2] - o * b[o] / self.width**2) for o in range(len(bump.coefficients) + 1))
        return bump._replace(coefficients=tuple(slope))

    def __call__(self, x, xp: ModuleType = np):
        """The sum at the places x, of NumPy or of JAX."""
        total = xp.zeros_like(x)
        for side, place, coefficients in self.bumps:
            w = xp.maximum(side * x - place, 0)
            powers = sum(b / math.factorial(o) * w**o for o, b in enumerate(coefficients))
            total = total + xp.where(w > 0, powers * xp.exp(-((w / self.width) ** 2) / 2), 0)
        return total

    def jumps(self) -> tuple[tuple[float, float], ...]:
        """Place and height of each jump of kappa itself."""
        return tuple((b.side * b.place, b.side * b.coefficients[0]) for b in self.bumps if b.coefficients[0])


def localise(fn: Callable, slope: Callable, places: tuple[float, ...], orders: int, width: float) -> Local:
    """The sum that has the jumps of fn and of its derivatives below `orders`."""
    levels = [fn, slope]
    while len(levels) <= orders:
        levels.append(derivative_of(levels[-1]))
    hosts = [hosted(f) for f in levels]
    bumps = []
    for place in places:
        side = 1 if place >= 0 else -1
        # Each grows away from 0, so that none is seen at small variances.
        heights = [side ** (o + 1) * jump_at(hosts[o], hosts[o + 1], place) for o in range(orders)]
        bumps.append(Bump(side, abs(place), _coefficients(heights, width)))
    return Local(width, tuple(bumps))


def _coefficients(heights: list[float], width: float) -> tuple[float, ...]:
    """b_o such that the o-th derivatives of the sum at w = 0+ are the heights."""
    found: list[float] = []
    for order, height in enumerate(heights):
        for m in range(1, order // 2 + 1):
            window = (-1) ** m / (2**m * math.factorial(m) * width ** (2 * m))
            height -= math.factorial(order) / math.factorial(order - 2 * m) * window * found[order - 2 * m]
        found.append(float(height))
    return tuple(found)


class Windowed:
    """Expectations of kappa(u) kappa(v), and of its derivatives, under the law of one pair."""

    def __init__(self, local: Local, pair: Pair):
        spots = [(bump.side, bump.place) for bump in local.bumps]
        places = np.array([place for _, place in spots]).reshape((-1,) + (1,) * pair.rho.ndim)
        n = len(spots)
        law, self.weight, self.s1, self.s2 = _windowed(
            corners(spots, pair),
            pair,
            np.repeat(places, n, 0),
            np.tile(places, (n,) + (1,) * pair.rho.ndim),
            local.width,
        )
        # Without barriers XLA writes the recursion out once for each of its uses, and compiles gradients for minutes.
        known = dict(zip(law._fields, lax.optimization_barrier(law[:-1]), strict=False))
        law = law._replace(**known)
        self.moments = Moments(spots, law, barrier=True)

    def __call__(self, local: Local) -> Array:
        """E[kappa(u) kappa(v)] for a sum with the same kinks."""
        table = np.array([bump.coefficients for bump in local.bumps])
        total = jnp.zeros_like(self.weight)
        for a in range(table.shape[1]):
            for b in range(table.shape[1]):
                outer = np.outer(table[:, a], table[:, b]).ravel()
                if outer.any():
                    outer = outer.astype(total.dtype).reshape((-1,) + (1,) * (total.ndim - 1))
                    total = total + outer * self.s1**a * self.s2**b * self.moments(a, b)
        return jnp.sum(self.weight * total, axis=0)


def _windowed(
    law: Corner, pair: Pair, first: np.ndarray, second: np.ndarray, width: float
) -> tuple[Corner, Array, Array, Array]:
    """The quadrant under the product of the windows and the law, the weight of the product, and the deviations."""
    s1, s2, square = pair.s1[None], pair.s2[None], width * width
    q1, q2, r = s1 * s1, s2 * s2, law.r
    a1, a2 = (jnp.sqrt(square + q * r * r) for q in (q1, q2))
    det = q1 * q2 * r * r + square * (q1 + q2) + square * square
    d = jnp.sqrt(det)
    t1, t2 = first.astype(d.dtype), second.astype(d.dtype)
    exponent = square * (t1 * t1 + t2 * t2) + (s2 * t1 - s1 * t2) ** 2 + 2 * law.near * s1 * s2 * t1 * t2
    weight = square / d * jnp.exp(-exponent / (2 * det))
    h = width * (square * law.h + q2 * law.n2) / (d * a2)
    k = width * (square * law.k + q1 * law.n1) / (d * a1)
    rho, r = law.rho * square / (a1 * a2), r * d / (a1 * a2)
    m1, m2 = law.m1 * width / a2, law.m2 * width / a1
    n1, n2 = law.n1 * (d * width) / (a1 * a2 * a2), law.n2 * (d * width) / (a1 * a1 * a2)
    new = Corner(h, k, rho, r, law.near, jnp.arctan2(r, rho), n1, m1, n2, m2, law.at_zero)
    return new, weight, s1 * width * a2 / d, s2 * width * a1 / d
