"""Where a function has kinks: jumps of phi or of its first three derivatives."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ntkit.nn.activations._quadrature import derivative_of, hosted

# Where kinks are looked for; a pre-activation of deviation 10 goes beyond in one case of a thousand million.
REACH = 60.0
# How many derivatives, phi among them, are searched.
ORDERS = 4


class Kink(NamedTuple):
    """phi^(order) jumps by `jump` at `place`."""

    place: float
    order: int
    jump: float


@lru_cache(maxsize=64)
def find_kinks(fn: Callable, places: tuple[float, ...] | None) -> tuple[Kink, ...]:
    """The jumps of phi to phi''': at the declared places, or wherever a search finds them."""
    orders = [fn]
    for _ in range(ORDERS):
        orders.append(derivative_of(orders[-1]))
    levels = [hosted(f) for f in orders]
    found: list[Kink] = []
    for order in range(ORDERS):
        where = places if places is not None else _search(levels[order], levels[order + 1])
        # Bisection ends within a few ulps, not always of one number: a place found twice is one place.
        where = [next((k.place for k in found if abs(k.place - p) < 1e-9), p) for p in where]
        for place in where:
            jump = jump_at(levels[order], levels[order + 1], place)
            if jump:
                found.append(Kink(place, order, jump))
    return tuple(sorted(found))


def _search(f: Callable, slope: Callable) -> tuple[float, ...]:
    """Bisects every cell of a grid towards its worst defect, all at once; keeps those whose defect does not vanish."""
    # Cells end off the round numbers where kinks are put, and are denser near 0.
    edges = np.unique(np.concatenate([np.linspace(-REACH, REACH, 4802), np.linspace(-6.007, 6.003, 4002)])) + 1e-4 / 3
    low, high = edges[:-1], edges[1:]
    defect = np.zeros_like(low)
    for _ in range(46):
        middle = (low + high) / 2
        left, right = _defect(f, slope, low, middle), _defect(f, slope, middle, high)
        defect = np.maximum(left, right)
        low, high = np.where(left >= right, low, middle), np.where(left >= right, middle, high)
    size = 1 + np.abs(f(low)) + np.abs(f(high))
    places = [(a + b) / 2 for a, b in zip(low[defect > 1e-7 * size], high[defect > 1e-7 * size], strict=True)]
    # A kink at a short decimal is meant to be that decimal.
    found: list[float] = []
    for p in sorted(float(p) for p in places):
        short = round(p, 6) + 0.0
        if not found or p - found[-1] > 1e-9:
            found.append(short if abs(short - p) < 1e-10 else p)
    return tuple(found)


def _defect(f: Callable, slope: Callable, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|f(b) - f(a) - the integral of f' by the trapezoid|: of third order where f is smooth, a jump where it is not."""
    gap = f(b) - f(a) - (b - a) * (slope(a) + slope(b)) / 2
    return np.where(np.isfinite(gap), np.abs(gap), 0)


def jump_at(f: Callable, slope: Callable, place: float) -> float:
    """f(place+) - f(place-), 0 where it is below what rounding could feign."""
    step = 1e-7 * max(1.0, abs(place))
    x = np.array([place - step, place + step])
    values, slopes = f(x), slope(x)
    jump = float(values[1] - values[0] - step * slopes.sum())
    return jump if np.isfinite(jump) and abs(jump) > 1e-7 * (1 + np.abs(values).max()) else 0.0
