"""Localised kinks: sums of truncated powers under a Gaussian window, whose duals are closed formulas.

    kappa(x) = sum_j sum_o b_jo w_j^o / o! exp(-w_j^2 / 2 width^2)  where w_j = sigma_j x - t_j > 0,   t_j >= 0

Subtracted from a function with kinks away from 0 it leaves one with as many continuous derivatives as wanted.
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from ntkit.nn.activations._kinks import jump_at
from ntkit.nn.activations._moments import Pair, expectations
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
    heights: tuple[tuple[float, ...], ...] = ()  # the derivatives of each bump at w = 0+

    def under(self, width: float) -> "Local":
        """The same derivatives at the kinks under windows of another width."""
        pairs = zip(self.bumps, self.heights, strict=True)
        bumps = (bump._replace(coefficients=_coefficients(list(heights), width)) for bump, heights in pairs)
        return self._replace(width=width, bumps=tuple(bumps))

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
    bumps, heights = [], []
    for place in places:
        jumps = [jump_at(hosts[o], hosts[o + 1], place) for o in range(orders)]
        # Each grows away from 0, so that none is seen at small variances; at 0 to both sides, so that kappa is even or
        # odd where fn is.
        for side in (1, -1) if place == 0 else (1 if place > 0 else -1,):
            heights.append(tuple(side ** (o + 1) * jump / (2 if place == 0 else 1) for o, jump in enumerate(jumps)))
            bumps.append(Bump(side, abs(place), ()))
    return Local(width, tuple(bumps), tuple(heights)).under(width)


def _coefficients(heights: list[float], width: float) -> tuple[float, ...]:
    """b_o such that the o-th derivatives of the sum at w = 0+ are the heights."""
    found: list[float] = []
    for order, height in enumerate(heights):
        for m in range(1, order // 2 + 1):
            window = (-1) ** m / (2**m * math.factorial(m) * width ** (2 * m))
            height -= math.factorial(order) / math.factorial(order - 2 * m) * window * found[order - 2 * m]
        found.append(float(height))
    return tuple(found)


def both_expectations(local: Local, pair: Pair, *, tails: bool = False) -> tuple[Array, Array]:
    """E[kappa(u) kappa(v)] and E[kappa'(u) kappa'(v)]; with `tails` what is far out keeps its relative precision."""
    slope = local.derivative()
    orders = max(len(b.coefficients) for b in slope.bumps)
    tables = np.array(
        [[np.pad(b.coefficients, (0, orders - len(b.coefficients))) for b in k.bumps] for k in (local, slope)]
    )
    value, derivative = expectations([(b.side, b.place) for b in local.bumps], tables, pair, local.width, tails=tails)
    return value, derivative
