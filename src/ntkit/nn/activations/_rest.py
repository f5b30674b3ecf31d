"""The tables of a function whose localised kinks have been taken out; see `_mixed`, which makes duals of them.

How many nodes they need is read off two cheap samples: of parallel pairs at many deviations, and of few deviations at
many angles. What they reach is measured on pairs they have not seen.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

from ntkit.nn.activations._local import Local, localise
from ntkit.nn.activations._quadrature import derivative_of, hosted
from ntkit.nn.activations._split import FINER, REACH, Kinked, Line, Rule, common_rule, rest_duals
from ntkit.nn.activations._tables import (
    Fit,
    Growth,
    Half,
    Halves,
    Sampler,
    Scale,
    Series,
    Tables,
    Turn,
    averages,
    basis_at,
    compress,
    find_parity,
    growth_ends,
    growth_of,
    to_coefficients,
    totals,
)


# Jumps of phi and of its derivatives below `orders` go into kappa, under windows of the first width that keeps kappa
# below
# `mass` times phi in squares: wide ones make the rest smooth, and kappa so much larger than phi costs digits. float32
# takes less of both.
class Window(NamedTuple):
    orders: int
    widths: tuple[float, ...]
    mass: float


DOUBLE, SINGLE = Window(7, (2.8, 2.0, 1.4, 1.0, 0.7), 100.0), Window(5, (1.4, 1.0, 0.7), 30.0)
# Gauss nodes a panel of the oracle at an angle, in the fit; elsewhere and in the measurement FINER.
NODES = 8
# How many deviations a table reaches out to the kinks of a function that is 0 up to there; its square is above 1e-300.
FARTHEST = 25.0


class Parts(NamedTuple):
    """phi, phi' and what carries their kinks.


    A function that is constant around 0 has a `reach`, the nearest kink, a table that begins at a deviation `start`,
    and an oracle that goes out `far` enough to see more than 0.
    """

    value: Callable
    slope: Callable
    places: tuple[float, ...]
    parity: int
    local: Local
    vanish: tuple[bool, bool] = (False, False)
    reach: float = 0.0
    start: float = 0.0
    far: float = REACH

    def lines(self) -> tuple[Line, Line]:
        """phi, and phi' with the impulses that the jumps of kappa leave in it."""
        return Line(self.value, self.local), Line(self.slope, self.local.derivative(), self.local.jumps())

    def on(self, s: np.ndarray, count: int) -> tuple[Kinked, Kinked, np.ndarray]:
        """phi and phi' on a rule that serves all s, and the weights of an expectation."""
        rule: Rule = common_rule(self.places, s, count, reach=self.far)
        value, slope = (line.on(s, rule) for line in self.lines())
        return value, slope, rule.gaussian()

    def turn(self, top: float) -> Turn:
        return Turn(np.pi / 2, top / 5)


def find_parts(
    value: Callable, slope: Callable, places: tuple[float, ...], window: Window, low: float, top: float
) -> Parts:
    """Takes the kinks out of a function."""
    local = localise(value, slope, places, window.orders, window.widths[0])
    parts = Parts(value, slope, places, find_parity(hosted(value)), local)
    *lines, weights = parts.on(np.array([1e-4, 1.0]), 8)
    norms = [_norm(line, weights) for line in lines]
    first, second = (bool(n[0] < 1e-30 * n[1]) for n in norms)
    if second:
        reach = min(abs(place) for place in places if place)
        start = max(0.98 * low, reach / FARTHEST)
        parts = parts._replace(vanish=(first, second), reach=reach, start=start, far=max(REACH, reach / start + 6))
    s = np.concatenate([np.geomspace(max(low, parts.start), top, 12), top * np.array([0.7, 0.9])])
    found = []
    for width in window.widths:
        found.append(parts._replace(local=local.under(width)))
        if mass_of(found[-1], s) < window.mass:
            return found[-1]
    return min(found, key=lambda parts: mass_of(parts, s))


def mass_of(parts: Parts, s: np.ndarray) -> float:
    """How large E[kappa^2] is, relative to E[phi^2], at worst, and the same of their slopes: what cancels."""
    *lines, weights = parts.on(s, NODES)
    squares = [(x.kinked**2 @ weights, np.maximum(x.values**2 @ weights, 1e-300)) for x in lines]
    return max(1.0, *(float(np.max(kinked / whole)) for kinked, whole in squares))


def _norm(line: Kinked, weights: np.ndarray) -> np.ndarray:
    return np.sqrt(line.values**2 @ weights)


def _gram(line: Kinked, weights: np.ndarray, side: int = 1) -> np.ndarray:
    """E[phi phi] - E[kappa kappa] at theta = 0, or at pi."""
    return (line.values * weights) @ line.values[:, ::side].T - (line.kinked * weights) @ line.kinked[:, ::side].T


def _halves(near: np.ndarray, far: np.ndarray, parity: int) -> tuple[np.ndarray, ...]:
    """What an odd and an even part of phi add at a folded angle, from the whole there and at the supplement; of a
    function with a parity, itself."""
    return (near,) if parity else ((near - far) / 2, (near + far) / 2)


def _steps(parts: Parts, s: np.ndarray, thetas: np.ndarray, norms: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
    """Of each half the derivative's rest over A1 A1, and d value / d rho over A A: by Price's theorem with the impulses
    in phi'."""
    both = thetas if parts.parity else np.concatenate([thetas, np.pi - thetas])
    totals, extra = rest_duals(parts.lines()[1], parts.places, s, both, NODES, parts.far)
    pair = totals / np.outer(norms[1], norms[1]), (totals + extra) * np.outer(s / norms[0], s / norms[0])
    if parts.parity:
        return [pair]
    # The slope of the odd half is even.
    even, odd = zip(*(_halves(x[: len(thetas)], x[len(thetas) :], 0) for x in pair), strict=True)
    return [odd, even]


def sample_mixed(parts: Parts, scale: Scale | Halves, count: int, terms: int) -> Tables:
    """The rest at Chebyshev nodes in s and in the angle."""
    turn, s = parts.turn(scale.top), scale.nodes(count)
    value, slope, weights = parts.on(s, FINER)
    n0, n1 = _norm(value, weights), _norm(slope, weights)
    growths = find_growths(parts, scale.top)
    norms = np.array([n0 / growths[0](s), n1 / growths[1](s), value.values @ weights / n0])
    unit, mean = np.outer(n0, n0), averages(turn, terms)
    grams = _halves(_gram(value, weights) / unit, _gram(value, weights, -1) / unit, parts.parity)
    steps = _steps(parts, s, turn.nodes(terms), [n0, n1])
    first, *more = (
        Half(gram, slopes, np.tensordot(mean, step, 1)) for gram, (slopes, step) in zip(grams, steps, strict=True)
    )
    return Tables(scale, turn, parts.parity, growths, norms, *first, *more)


def find_growths(parts: Parts, top: float) -> tuple[Growth, Growth]:
    """How the norms of phi and phi' grow."""
    ends = growth_ends(top, parts.start)
    *lines, weights = parts.on(ends, FINER)
    reaches = [parts.reach if gone else 0.0 for gone in parts.vanish]
    first, second = (growth_of(_norm(x, weights), ends, r) for x, r in zip(lines, reaches, strict=True))
    return first, second


def _sampler(parts: Parts) -> Sampler:
    return Sampler(parts.value, parts.slope, parts.parity, 52)


# Numbers of nodes in s and in the angle, and what part of the tolerance the two cheap samples must leave out at most.
COUNTS, TERMS = (48, 64, 80, 104, 132, 160), (24, 34, 48, 64, 84, 108, 136, 168)
MARGIN = 0.02
# The same of each of two parts: nodes, and the margin.
HALVES, HALVED = (64, 80, 100), 0.25


def find_scale(parts: Parts, low: float, top: float, tolerance: float) -> tuple[Scale | Halves, int]:
    """The map of s, and how many nodes: what serves parallel pairs. Where no map of the whole range does, one of each
    of two parts."""
    s = np.concatenate([np.geomspace(parts.start or low / 2, top / 10, 150)[:-1], np.linspace(top / 10, top, 200)])
    *lines, weights = parts.on(s, 5)
    rests = [_gram(x, weights) / np.outer(n, n) for x in lines for n in [_norm(x, weights)]]
    best = np.inf, Scale(top, 0.08 * top, 0.0, parts.start), COUNTS[-1]
    for count in COUNTS:
        for centre in (0.01, 0.02, 0.03, 0.05, 0.08, 0.14, 0.28):
            for linear in (0.0, 0.15, 0.3):
                scale = Scale(top, centre * top, linear, parts.start)
                basis, _ = np.linalg.qr(chebyshev.chebvander(scale(s), count - 1))
                error = max(np.abs(rest - basis @ (basis.T @ rest)).max() for rest in rests)
                best = min(best, (float(error), scale, count))
        if best[0] < MARGIN * tolerance:
            return best[1], best[2]
    whole, halves = best, (np.inf, Halves(best[1], best[1]), 0)
    for count in () if whole[0] < HALVED * tolerance else HALVES:
        for at in (0.12 * top, 0.25 * top, 0.4 * top):
            ends = (s < at, parts.start, at), (s >= at, at, top)
            found = [_best_of_half([r[mine] for r in rests], s[mine], start, end, count) for mine, start, end in ends]
            halves = min(halves, (max(e for e, _ in found), Halves(*(half for _, half in found)), 2 * count))
        if halves[0] < HALVED * tolerance:
            break
    return (halves if halves[0] < whole[0] / 2 else whole)[1:]


def _best_of_half(rests: list[np.ndarray], s: np.ndarray, start: float, top: float, count: int) -> tuple[float, Scale]:
    """What one part leaves out of the rows that it serves, and its map."""
    found = []
    for centre, linear in itertools.product((0.05, 0.2, 1.0), (0.0, 0.3)):
        scale = Scale(top, centre * (top - start), linear, start)
        basis, _ = np.linalg.qr(chebyshev.chebvander(scale(s), count - 1))
        found.append((max(float(np.abs(r - basis @ (basis.T @ r)).max()) for r in rests), scale))
    return min(found)


def find_terms(parts: Parts, low: float, top: float, tolerance: float) -> int:
    """How many nodes the angle needs, asked of few deviations."""
    s = np.concatenate([np.geomspace(low, top, 7), top * np.array([0.11, 0.7, 0.9])])
    *lines, weights = parts.on(s, NODES)
    norms = [_norm(x, weights) for x in lines]
    for most in (TERMS[-4], TERMS[-1]):
        samples = _steps(parts, s, parts.turn(top).nodes(most), norms)
        series = [np.abs(np.tensordot(to_coefficients(most), x, 1)).max((1, 2)) for half in samples for x in half]
        tails = np.max([np.cumsum(x[::-1])[::-1] for x in series], 0)
        needed = int((tails > MARGIN * tolerance).sum())
        if needed < 0.8 * most:
            break
    return next((terms for terms in TERMS if terms > needed), TERMS[-1])


# Twice what was found at 24 deviations, equal, close and apart, and 19 angles: the rest of the plane may be worse.
SAFETY = 2.0
_THETAS = np.array(
    [3e-4, 3e-3, 0.011, 0.027, 0.061, 0.13, 0.29, 0.5, 0.8, 1.2, 1.52, 1.93, 2.38, 2.71, 2.93, 3.06, 3.11, 3.13, 3.141]
)  # fmt: skip


def measure_mixed(parts: Parts, series: Series, s: np.ndarray) -> float:
    """The largest error of both duals relative to their norms, for all pairs of s at all of these angles."""
    *lines, weights = parts.on(s, FINER)
    basis = basis_at(series.scale, s, series.degree).T
    scales = [np.abs(n @ basis) * g(s) for n, g in zip(series.norms, series.growths, strict=False)]
    # `mixed_dual` takes E[phi^2] / A^2 for 1, and a distance from there.
    left = 1 - lines[0].kinked ** 2 @ weights / scales[0] ** 2
    apart, slopes = _evaluate(series, basis, _THETAS)
    found, worst = ((left[:, None] + left) / 2 - apart, slopes), 0.0
    for got, line, known, scale, parity in zip(
        found, parts.lines(), lines, scales, (parts.parity, -parts.parity), strict=True
    ):
        exact, _ = rest_duals(line._replace(jumps=()), parts.places, s, _THETAS, FINER, parts.far)
        sign = np.where((np.pi / 2 < _THETAS) & (parity != 0), parity, 1)[:, None, None]
        # A norm that underflows is not resolved: then nothing is promised.
        true = _norm(known, weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.abs(sign * got * np.outer(scale, scale) - exact) / np.outer(true, true)
        worst = max(worst, float(np.where(np.isnan(error), np.inf, error).max()))
    return SAFETY * worst


def _evaluate(series: Series, basis: np.ndarray, thetas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the rest loses from theta = 0 on, and the slopes' rest, over their norms; of a function with a parity at the
    folded angle."""
    folded = np.minimum(thetas, np.pi - thetas)
    sign = np.where((thetas > np.pi / 2) & (series.parity == 0), -1, 1)[:, None, None]
    angle = chebyshev.chebvander(series.turn(folded), series.terms - 1)
    way = 2 * np.sin(folded / 2)[:, None, None] ** 2
    slope, mean_slope = totals(series, angle, basis)
    a = series.features @ basis
    near, far = _distance(series.signs, a, a), _distance(series.signs, a, -a)
    if series.even is None:
        return near + way * mean_slope, slope
    more, mean_more = totals(series._replace(blocks=series.even.blocks), angle, basis)
    b = series.even.features @ basis
    apart = np.where(sign < 0, far, near) + _distance(series.even.signs, b, b)
    return apart + way * (sign * mean_slope + mean_more), slope + sign * more


def _distance(signs: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a(s1) - b(s2)|^2 / 2 for all pairs, by a scalar product of these signs."""
    return np.tensordot(signs, (a[:, :, None] - b[:, None, :]) ** 2, 1) / 2


def probes(low: float, top: float) -> np.ndarray:
    """Deviations over the range with both ends, and some close to others."""
    spread = np.concatenate([np.geomspace(low, top, 11), top * np.linspace(0.137, 0.957, 7)])
    return np.unique(
        np.concatenate([spread, low * np.array([1.013, 1.11]), top * np.array([0.993, 0.9, 0.031, 0.0317])])
    )


class Rest(NamedTuple):
    """What a dual is computed from, besides the series of a dtype. `below` is the error from the range down to 0, and
    `mass` how large E[kappa^2] is, relative to E[phi^2], at worst: what cancels."""

    parts: Parts
    fit: Fit
    low: float
    below: float
    mass: float


# Below it, times the mass, what a Gram matrix of this many deviations is made of is rounding.
FINEST = 1e-12


def _attempts(
    parts: Parts, scale: Scale | Halves, sizes, tolerance: float, seen: np.ndarray, mass: float
) -> Iterator[Fit]:
    """Each dearer than the last: the cheap samples may have flattered."""
    for count, terms in sizes:
        tables = sample_mixed(parts, scale, count, terms)
        for cut in (tolerance, tolerance / 4):
            series = compress(tables, cut, np.float64, FINEST * mass)
            yield Fit(_sampler(parts), tables, series, measure_mixed(parts, series, seen))


@lru_cache(maxsize=64)
def fit_rest(
    fn,
    derivative,
    places: tuple[float, ...],
    tolerance: float,
    variances: tuple[float, float],
    window: Window,
) -> Rest:
    """Takes as many nodes as it needs, and says what it reached."""
    top = variances[1] ** 0.5
    low = max(variances[0] ** 0.5, 1e-3 * top)
    parts = find_parts(fn, derivative or derivative_of(fn), places, window, low, top)
    low = max(low, 1.02 * parts.start)
    scale, count = find_scale(parts, low, top, tolerance)
    terms, seen = find_terms(parts, low, top, tolerance), probes(low, top)
    more = count if isinstance(scale, Halves) else _more(COUNTS, count)
    sizes = dict.fromkeys(((count, terms), (more, _more(TERMS, terms))))
    mass, best = mass_of(parts, seen), None
    for fitted in _attempts(parts, scale, tuple(sizes), tolerance, seen, mass):
        best = best if best and best.error <= fitted.error else fitted
        if best.error <= tolerance:
            break
    assert best is not None
    # A function that vanishes around 0 has another shape at each small variance.
    below = np.inf
    if not parts.vanish[0]:
        below = measure_mixed(parts, best.series, np.concatenate([low * np.array([0.01, 0.1, 0.5]), seen[::5]]))
    return Rest(parts, best, low, max(best.error, below), mass)


def _more(sizes: tuple[int, ...], size: int) -> int:
    return next((larger for larger in sizes if larger > size), size)
