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
from ntkit.nn.activations._split import Kinked, Line, Rule, common_rule, rest_duals
from ntkit.nn.activations._tables import (
    Fit,
    Halves,
    Sampler,
    Scale,
    Series,
    Tables,
    Turn,
    averages,
    basis_at,
    compress,
    find_features,
    find_parity,
    growth_ends,
    growth_of,
    to_coefficients,
    totals,
)

# Jumps of phi and of its derivatives below `orders` go into kappa, under windows of a width. More of both make the rest
# smoother, and kappa larger than phi, which costs digits: float32 takes less.
DOUBLE, SINGLE = (5, 2.8), (5, 1.4)
# A norm below FLOOR times that at variance 1 is not divided by, where it vanishes faster than any power.
FLOOR = 1e-4
# Gauss nodes a panel of the oracle: of the fit, and of the measurement.
NODES, FINER = 8, 11


class Parts(NamedTuple):
    """phi, phi' and what carries their kinks."""

    value: Callable
    slope: Callable
    places: tuple[float, ...]
    parity: int
    local: Local
    floors: tuple[float, float]

    def lines(self) -> tuple[Line, Line]:
        """phi, and phi' with the impulses that the jumps of kappa leave in it."""
        return Line(self.value, self.local), Line(self.slope, self.local.derivative(), self.local.jumps())

    def on(self, s: np.ndarray, count: int) -> tuple[Kinked, Kinked, np.ndarray]:
        """phi and phi' on a rule that serves all s, and the weights of an expectation."""
        rule: Rule = common_rule(self.places, s, count)
        value, slope = (line.on(s, rule) for line in self.lines())
        return value, slope, rule.gaussian()

    def turn(self, top: float) -> Turn:
        return Turn(np.pi / 2, top / 5) if self.parity else Turn(np.pi, 0.0)


def find_parts(value: Callable, slope: Callable, places: tuple[float, ...], window: tuple[int, float]) -> Parts:
    """Takes the kinks out of a function."""
    local = localise(value, slope, places, *window)
    parts = Parts(value, slope, places, find_parity(hosted(value)), local, (0.0, 0.0))
    *lines, weights = parts.on(np.array([1e-4, 1.0]), 8)
    norms = [np.sqrt(line.values**2 @ weights) for line in lines]
    first, second = (FLOOR * n[1] if n[0] < 1e-30 * n[1] else 0.0 for n in norms)
    return parts._replace(floors=(float(first), float(second)))


def _scales(parts: Parts, lines: tuple[Kinked, Kinked], weights: np.ndarray) -> list[np.ndarray]:
    """A and A1."""
    return [np.hypot(np.sqrt(x.values**2 @ weights), f) for x, f in zip(lines, parts.floors, strict=True)]


def _gram(line: Kinked, weights: np.ndarray) -> np.ndarray:
    """E[phi phi] - E[kappa kappa] at theta = 0."""
    return (line.values * weights) @ line.values.T - (line.kinked * weights) @ line.kinked.T


def _steps(parts: Parts, s: np.ndarray, thetas: np.ndarray, norms: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The derivative's rest over A1 A1, and d value / d rho over A A: by Price's theorem with the impulses in phi'."""
    totals, extra = rest_duals(parts.lines()[1], parts.places, s, thetas, NODES)
    return totals / np.outer(norms[1], norms[1]), (totals + extra) * np.outer(s / norms[0], s / norms[0])


def sample_mixed(parts: Parts, scale: Scale | Halves, count: int, terms: int) -> Tables:
    """The rest at Chebyshev nodes in s and in the angle."""
    turn, s = parts.turn(scale.top), scale.nodes(count)
    value, slope, weights = parts.on(s, NODES)
    n0, n1 = _scales(parts, (value, slope), weights)
    slopes, steps = _steps(parts, s, turn.nodes(terms), [n0, n1])
    ends = parts.on(growth_ends(scale.top), NODES)
    first, second = (growth_of(norms) for norms in _scales(parts, ends[:2], ends[2]))
    norms = np.array([n0 / first(s), n1 / second(s), value.values @ weights / n0])
    return Tables(
        scale, turn, parts.parity, False, (first, second), norms, _gram(value, weights) / np.outer(n0, n0), slopes,
        np.tensordot(averages(turn, terms), steps, 1),
    )  # fmt: skip


def _sampler(parts: Parts) -> Sampler:
    return Sampler(parts.value, parts.slope, parts.parity, False, 52)


# Numbers of nodes in s and in the angle, and what part of the tolerance the two cheap samples must leave out at most.
COUNTS, TERMS = (48, 64, 80, 104, 132, 160), (48, 64, 84, 108, 136, 168)
MARGIN = 0.02
# The same of each of two parts: nodes, and the margin.
HALVES, HALVED = (64, 80, 100), 0.25


def find_scale(parts: Parts, low: float, top: float, tolerance: float) -> tuple[Scale | Halves, int]:
    """The map of s, and how many nodes: what serves parallel pairs. Where no map of the whole range does, one of each
    of two parts."""
    s = np.concatenate([np.geomspace(low / 2, top / 10, 150)[:-1], np.linspace(top / 10, top, 200)])
    value, slope, weights = parts.on(s, 5)
    norms = _scales(parts, (value, slope), weights)
    rests = [_gram(x, weights) / np.outer(n, n) for x, n in zip((value, slope), norms, strict=True)]
    best = np.inf, Scale(top, 0.08 * top), COUNTS[-1]
    for count in COUNTS:
        for centre in (0.01, 0.02, 0.03, 0.05, 0.08, 0.14, 0.28):
            for linear in (0.0, 0.15, 0.3):
                scale = Scale(top, centre * top, linear)
                basis, _ = np.linalg.qr(chebyshev.chebvander(scale(s), count - 1))
                error = max(np.abs(rest - basis @ (basis.T @ rest)).max() for rest in rests)
                best = min(best, (float(error), scale, count))
        if best[0] < MARGIN * tolerance:
            return best[1], best[2]
    whole, halves = best, (np.inf, Halves(best[1], best[1]), 0)
    for count in () if parts.floors[0] or whole[0] < HALVED * tolerance else HALVES:
        for at in (0.12 * top, 0.25 * top, 0.4 * top):
            ends = (s < at, s, at), (s >= at, s - at, top - at)
            found = [_best_of_half(rests, mine, x, end, count) for mine, x, end in ends]
            halves = min(halves, (max(e for e, _ in found), Halves(*(half for _, half in found)), 2 * count))
        if halves[0] < HALVED * tolerance:
            break
    return (halves if halves[0] < whole[0] / 2 else whole)[1:]


def _best_of_half(rests, mine: np.ndarray, x: np.ndarray, top: float, count: int) -> tuple[float, Scale]:
    """What one part leaves out of the rows that it serves, and its map."""
    found = []
    for centre, linear in itertools.product((0.05, 0.2, 1.0), (0.0, 0.3)):
        scale = Scale(top, centre * top, linear)
        basis, _ = np.linalg.qr(chebyshev.chebvander(scale(x[mine]), count - 1))
        found.append((max(float(np.abs(r[mine] - basis @ (basis.T @ r[mine])).max()) for r in rests), scale))
    return min(found)


def find_terms(parts: Parts, low: float, top: float, tolerance: float) -> int:
    """How many nodes the angle needs, asked of few deviations."""
    s = np.concatenate([np.geomspace(low, top, 7), top * np.array([0.11, 0.7, 0.9])])
    value, slope, weights = parts.on(s, NODES)
    turn = parts.turn(top)
    samples = _steps(parts, s, turn.nodes(TERMS[-1]), _scales(parts, (value, slope), weights))
    series = [np.abs(np.tensordot(to_coefficients(TERMS[-1]), x, 1)).max((1, 2)) for x in samples]
    tails = np.max([np.cumsum(x[::-1])[::-1] for x in series], 0)
    needed = int((tails > MARGIN * tolerance).sum())
    return next((terms for terms in TERMS if terms > needed), TERMS[-1])


def signs_of(tables: Tables, tolerance: float) -> np.ndarray:
    """The signs of the features that `compress` keeps of the Gram matrix at this tolerance."""
    left, right = find_features(tables.gram, tolerance / 8)
    return np.sign(np.sum(left * right, axis=1))


# Twice what was found at 24 deviations, equal, close and apart, and 19 angles: the rest of the plane may be worse.
SAFETY = 2.0
_THETAS = np.array(
    [3e-4, 3e-3, 0.011, 0.027, 0.061, 0.13, 0.29, 0.5, 0.8, 1.2, 1.52, 1.93, 2.38, 2.71, 2.93, 3.06, 3.11, 3.13, 3.141]
)  # fmt: skip


def measure_mixed(parts: Parts, series: Series, signs: np.ndarray, s: np.ndarray) -> float:
    """The largest error of both duals relative to their norms, for all pairs of s at all of these angles."""
    value, slope, weights = parts.on(s, FINER)
    basis = basis_at(series.scale, s, series.degree).T
    folded = np.minimum(_THETAS, np.pi - _THETAS) if parts.parity else _THETAS
    angle = chebyshev.chebvander(series.turn(folded), series.terms - 1)
    a = series.features @ basis
    way = 2 * np.sin(folded / 2)[:, None, None] ** 2
    slopes, mean_slopes = totals(series, angle, basis)
    scales = [np.abs(n @ basis) * g(s) for n, g in zip(series.norms, series.growths, strict=False)]
    gram = (a.T * signs) @ a
    if not parts.floors[0]:
        # `mixed_dual` takes E[phi^2] / A^2 for 1, and a distance from there.
        short = 1 - np.diag(gram) - value.kinked**2 @ weights / scales[0] ** 2
        gram = gram + (short[:, None] + short) / 2
    found, worst = (gram - way * mean_slopes, slopes), 0.0
    for got, line, known, scale, parity in zip(
        found, parts.lines(), (value, slope), scales, (parts.parity, -parts.parity), strict=True
    ):
        exact, _ = rest_duals(line._replace(jumps=()), parts.places, s, _THETAS, FINER)
        sign = np.where((np.pi / 2 < _THETAS) & (parity != 0), parity, 1)[:, None, None]
        # A norm that underflows is not resolved: then nothing is promised.
        true = np.sqrt(known.values**2 @ weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.abs(sign * got * np.outer(scale, scale) - exact) / np.outer(true, true)
        worst = max(worst, float(np.where(np.isnan(error), np.inf, error).max()))
    return SAFETY * worst


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
    signs: np.ndarray  # of the features of its series
    low: float
    below: float
    mass: float


def _attempts(
    parts: Parts, scale: Scale | Halves, sizes, tolerance: float, seen: np.ndarray
) -> Iterator[tuple[Fit, np.ndarray]]:
    """Fits and the signs of their features, each dearer than the last: the cheap samples may have flattered."""
    for count, terms in sizes:
        tables = sample_mixed(parts, scale, count, terms)
        for cut in (tolerance, tolerance / 4):
            series, signs = compress(tables, cut, np.float64), signs_of(tables, cut)
            error = measure_mixed(parts, series, signs, seen)
            yield Fit(_sampler(parts), tables, series, error), signs


@lru_cache(maxsize=64)
def fit_rest(
    fn,
    derivative,
    places: tuple[float, ...],
    tolerance: float,
    variances: tuple[float, float],
    window: tuple[int, float],
) -> Rest:
    """Takes as many nodes as it needs, and says what it reached."""
    parts = find_parts(fn, derivative or derivative_of(fn), places, window)
    top = variances[1] ** 0.5
    low = max(variances[0] ** 0.5, 1e-3 * top)
    scale, count = find_scale(parts, low, top, tolerance)
    terms, seen = find_terms(parts, low, top, tolerance), probes(low, top)
    more = count if isinstance(scale, Halves) else _more(COUNTS, count)
    sizes = dict.fromkeys(((count, terms), (more, _more(TERMS, terms))))
    best: tuple[Fit, np.ndarray] | None = None
    for fitted, signs in _attempts(parts, scale, tuple(sizes), tolerance, seen):
        best = best if best and best[0].error <= fitted.error else (fitted, signs)
        if best[0].error <= tolerance:
            break
    assert best is not None
    fitted, signs = best
    below = measure_mixed(parts, fitted.series, signs, np.concatenate([low * np.array([0.01, 0.1, 0.5]), seen[::5]]))
    *lines, weights = parts.on(seen, NODES)
    squares = [(x.kinked**2 @ weights, np.maximum(x.values**2 @ weights, 1e-300)) for x in lines]
    mass = max(1.0, *(float(np.max(kinked / whole)) for kinked, whole in squares))
    return Rest(parts, fitted, signs, low, max(fitted.error, below), mass)


def _more(sizes: tuple[int, ...], size: int) -> int:
    return next((larger for larger in sizes if larger > size), size)
