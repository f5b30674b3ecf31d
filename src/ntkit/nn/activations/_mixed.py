"""Duals of functions with kinks away from 0 that are not made of parabolas: tanh(x) + |x - 1|, elu(x - 1), a gate.

Their dual is not smooth where s1 and s2 bring a kink to one place and the angle is 0, so that the series of `_tables`
would need thousands of terms. Localised kinks kappa (`_local`) are subtracted, whose dual is closed; the rest
E[phi phi] - E[kappa kappa] is as smooth as phi - kappa, and a series serves it:

    E[phi'(u) phi'(v)] = E[kappa' kappa'] + A1 A1 sum_k T_k(t) f_k(s1) . f_k(s2)
    E[phi(u) phi(v)]   = E[kappa kappa]   + A A (a(s1) . a(s2) - (1 - cos(theta)) D(theta))

with a scalar product of both signs, and norms A = N, A1 = N1 as in `_tables`, but where N vanishes faster than any
power at small variances: there A^2 = N^2 + floor^2.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.polynomial import chebyshev

from ntkit.nn._law import safe_sqrt, size
from ntkit.nn.activations._base import Diagonal, Dual
from ntkit.nn.activations._local import Local, Windowed, localise
from ntkit.nn.activations._pieces import Pair, pair_of
from ntkit.nn.activations._quadrature import derivative_of, hosted
from ntkit.nn.activations._runtime import row, sums
from ntkit.nn.activations._split import Kinked, Rule, common_rule, rest_dual
from ntkit.nn.activations._tables import (
    Fit,
    Sampler,
    Scale,
    Series,
    Tables,
    Turn,
    averages,
    compress,
    find_features,
    find_growth,
    find_parity,
    to_coefficients,
    totals,
)

# Jumps of phi and of its derivatives below ORDERS go into kappa, under windows of this width.
ORDERS, WIDTH = 5, 2.0
# A norm below FLOOR times that at variance 1 is not divided by, where it vanishes faster than any power.
FLOOR = 1e-4


class Parts(NamedTuple):
    """phi, phi' and what carries their kinks."""

    value: Callable
    slope: Callable
    places: tuple[float, ...]
    parity: int
    local: Local
    floors: tuple[float, float]

    def lines(self, s: np.ndarray, count: int) -> tuple[Kinked, Kinked, Rule]:
        """phi and phi' with their kinks on a rule that serves all s."""
        rule = common_rule(self.places, s, count)
        x = s[:, None] * rule.z
        both = ((self.value, self.local), (self.slope, self.local.derivative()))
        value, slope = (Kinked(fn, local, hosted(fn)(x), local(x)) for fn, local in both)
        return value, slope, rule


class Mixed(NamedTuple):
    """What a dual is computed from, besides the series of a dtype."""

    parts: Parts
    fit: Fit
    coarse: Tables  # of low degree, for float32, where T_k costs k units of rounding


def find_parts(value: Callable, slope: Callable, places: tuple[float, ...]) -> Parts:
    """Takes the kinks out of a function."""
    local = localise(value, slope, places, ORDERS, WIDTH)
    parts = Parts(value, slope, places, find_parity(hosted(value)), local, (0.0, 0.0))
    *lines, rule = parts.lines(np.array([1e-4, 1.0]), 8)
    norms = [np.sqrt(line.values**2 @ rule.gaussian()) for line in lines]
    first, second = (FLOOR * n[1] if n[0] < 1e-30 * n[1] else 0.0 for n in norms)
    return parts._replace(floors=(float(first), float(second)))


def sample_mixed(parts: Parts, scale: Scale, count: int, terms: int) -> Tables:
    """The rest at Chebyshev nodes in s and in the angle."""
    turn = Turn(np.pi / 2, scale.top / 5) if parts.parity else Turn(np.pi, 0.0)
    s = scale.nodes(count)
    value, slope, rule = parts.lines(s, 7)
    weights = rule.gaussian()
    n0, n1 = _scales(parts, (value, slope), weights)
    duals = [rest_dual(slope, parts.local.jumps(), s, theta, rule) for theta in turn.nodes(terms)]
    slopes = np.array([total for total, _ in duals])
    # Price's theorem takes the impulses in phi', too.
    steps = np.array([total + extra for total, extra in duals]) * np.outer(s / n0, s / n0)
    sample = Sampler(parts.value, parts.slope, parts.parity, False, 52)
    growths = find_growth(sample, "value", scale.top), find_growth(sample, "slope", scale.top)
    norms = np.array([n0 / growths[0](s), n1 / growths[1](s), value.values @ weights / n0])
    return Tables(
        scale, turn, parts.parity, False, growths, norms, _gram(value, weights) / np.outer(n0, n0),
        slopes / np.outer(n1, n1), np.tensordot(averages(turn, terms), steps, 1),
    )  # fmt: skip


def _scales(parts: Parts, lines: tuple[Kinked, Kinked], weights: np.ndarray) -> list[np.ndarray]:
    """A and A1."""
    return [np.hypot(np.sqrt(x.values**2 @ weights), f) for x, f in zip(lines, parts.floors, strict=True)]


def _gram(line: Kinked, weights: np.ndarray) -> np.ndarray:
    """E[phi phi] - E[kappa kappa] at theta = 0."""
    return (line.values * weights) @ line.values.T - (line.kinked * weights) @ line.kinked.T


def find_scale(parts: Parts, top: float, count: int) -> Scale:
    """The spread of nodes that serves parallel pairs best, asked of s between them."""
    between = top * np.linspace(0.03, 1, 9) ** 1.5

    def worst(scale: Scale) -> float:
        s = np.concatenate([scale.nodes(count), between])
        value, slope, rule = parts.lines(s, 6)
        weights = rule.gaussian()
        to = chebyshev.chebvander(scale(between), count - 1) @ to_coefficients(count)
        error = 0.0
        for line, norm in zip((value, slope), _scales(parts, (value, slope), weights), strict=True):
            rest = _gram(line, weights) / np.outer(norm, norm)
            error = max(error, float(np.abs(to @ rest[:count, :count] @ to.T - rest[count:, count:]).max()))
        return error

    return min((Scale(top, part * top) for part in (0.03, 0.05, 0.08, 0.14, 0.28)), key=worst)


def measure_mixed(parts: Parts, series: Series, signs: np.ndarray, low: float) -> float:
    """The largest error of both duals relative to their norms, on points that the fit has not seen."""
    top = series.scale.top
    s = np.concatenate([[low], top * np.array([0.031, 0.083, 0.171, 0.332, 0.613, 1.0])])
    s = np.unique(s[s >= low])
    thetas = np.array([0.003, 0.041, 0.29, 0.83, 1.37, 1.93, 2.71, 3.11])
    value, slope, rule = parts.lines(s, 11)
    weights, basis = rule.gaussian(), chebyshev.chebvander(series.scale(s), series.degree - 1).T
    folded = np.minimum(thetas, np.pi - thetas) if parts.parity else thetas
    angle = chebyshev.chebvander(series.turn(folded), series.terms - 1)
    a = series.features @ basis
    way = 2 * np.sin(folded / 2)[:, None, None] ** 2
    slopes, mean_slopes = totals(series, angle, basis)
    found, lines, worst = ((a.T * signs) @ a - way * mean_slopes, slopes), (value, slope), 0.0
    for got, line, norm, parity in zip(
        found, lines, _scales(parts, lines, weights), (parts.parity, -parts.parity), strict=True
    ):
        exact = np.array([rest_dual(line, (), s, theta, rule)[0] for theta in thetas])
        sign = np.where((thetas > np.pi / 2) & (parity != 0), parity, 1)[:, None, None]
        true = np.sqrt(line.values**2 @ weights)
        error = np.abs(sign * got * np.outer(norm, norm) - exact) / np.outer(true, true)
        worst = max(worst, float(error.max()))
    return worst


@lru_cache(maxsize=64)
def fit_mixed(fn, derivative, places: tuple[float, ...], tolerance: float, variances: tuple[float, float]) -> Mixed:
    """Refines until the measured error is below the tolerance, or says what it reached."""
    parts = find_parts(fn, derivative or derivative_of(fn), places)
    low, top = (q**0.5 for q in variances)
    best, coarse = None, None
    for count, terms in ((64, 96), (80, 120), (104, 150)):
        tables = sample_mixed(parts, find_scale(parts, top, count), count, terms * 2 // 3 if parts.parity else terms)
        coarse = coarse or tables
        series = compress(tables, tolerance / 4, np.float64)
        error = measure_mixed(parts, series, signs_of(tables, tolerance / 4), low)
        if best is None or error < best.error:
            best = Fit(Sampler(fn, parts.slope, parts.parity, False, 52), tables, series, error)
        if best.error <= 0.9 * tolerance:
            break
    assert best is not None
    assert coarse is not None
    return Mixed(parts, best, coarse)


def signs_of(tables: Tables, tolerance: float) -> np.ndarray:
    """The signs of the features that `compress` keeps of the Gram matrix at this tolerance."""
    left, right = find_features(tables.gram, tolerance / 8)
    return np.sign(np.sum(left * right, axis=1))


def mixed_dual(mixed: Mixed, series: Series, signs: np.ndarray, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
    """Both duals and the gap, as `Nonlinearity.dual`."""
    parity, top = series.parity, series.scale.top
    xx, yy = (q.reshape((1,) * (xy.ndim - q.ndim) + q.shape) for q in (xx, yy))
    pair = pair_of(xx, size(xy) if parity else xy, yy, gap)
    pair = pair._replace(s1=jnp.minimum(pair.s1, top), s2=jnp.minimum(pair.s2, top))
    left, right = row(series, xx), row(series, yy)
    units = [_units(series, q) for q in (xx, yy)]
    own = [_own(mixed, q, top) for q in (xx, yy)]
    turn = series.turn(pair.theta)
    kept, slopes = _kinks_lost(mixed, pair, units, own)
    a, b = (jnp.tensordot(series.features, r.basis, 1, precision="highest") for r in (left, right))
    axes = (-1,) + (1,) * (a.ndim - 1)
    apart = jnp.sum(signs.astype(a.dtype).reshape(axes) * (a - b) ** 2, axis=0) / 2
    slope, mean_slope = sums(series.blocks, left, right, turn)
    lost = kept + apart + pair.near * mean_slope
    squares = [_squares(series, signs, x, k[0] * u[0] * u[0]) for x, k, u in zip((a, b), own, units, strict=True)]
    lengths = [safe_sqrt(x) if mixed.parts.floors[0] else jnp.ones_like(x) for x in squares]
    mean = (lengths[0] ** 2 + lengths[1] ** 2) / 2
    value = left.norm * right.norm * (mean - lost)
    derivative = left.slope_norm * right.slope_norm * (slope + slopes)
    # sqrt(n1 n2) - (n1 + n2) / 2 + lost, with n = 1 but where a norm has a floor.
    short = jnp.maximum(jnp.where(lost <= mean, lost, 2 * mean - lost) - (lengths[0] - lengths[1]) ** 2 / 2, 0)
    if parity:
        flip = xy < 0
        value, derivative = (jnp.where(flip, p * x, x) for p, x in ((parity, value), (-parity, derivative)))
    return Dual(value, derivative, left.norm * right.norm * short)


def _units(series: Series, q: Array) -> tuple[Array, Array]:
    """1 / A and 1 / A1, at most at the end of the table."""
    inside = row(series, jnp.minimum(q, series.scale.top**2))
    first, second = (jnp.where(n > 0, 1 / jnp.where(n > 0, n, 1), 0) for n in (inside.norm, inside.slope_norm))
    return first, second


def _own(mixed: Mixed, q: Array, top: float) -> tuple[Array, Array]:
    """E[kappa^2] and E[kappa'^2], at most at the end of the table."""
    pair = pair_of(q, q, q, jnp.zeros_like(q))
    s = jnp.minimum(pair.s1, top)
    law, local = Windowed(mixed.parts.local, pair._replace(s1=s, s2=s)), mixed.parts.local
    return law(local), law(local.derivative())


def _squares(series: Series, signs: np.ndarray, features: Array, kinks: Array) -> Array:
    """n = E[phi^2] / A^2 of one variance."""
    axes = (-1,) + (1,) * (features.ndim - 1)
    return jnp.sum(signs.astype(features.dtype).reshape(axes) * features**2, axis=0) + kinks


def _kinks_lost(mixed: Mixed, pair: Pair, units, own) -> tuple[Array, Array]:
    """|k1|^2 / 2 + |k2|^2 / 2 - k1 . k2 for kappa / A, without cancellation for nearly parallel pairs, and the dual of
    kappa' / A1."""
    local, slope = mixed.parts.local, mixed.parts.local.derivative()
    unit, slope_unit = units[0][0] * units[1][0], units[0][1] * units[1][1]
    here = Windowed(local, pair)
    value, derivative = here(local), here(slope)
    halves = (own[0][0] * units[0][0] ** 2 + own[1][0] * units[1][0] ** 2) / 2
    plain = halves - value * unit
    if local.jumps():
        return plain, derivative * slope_unit
    # By Price's theorem, as `pieces_dual`.
    zero = jnp.zeros_like(pair.near)
    limit = Windowed(local, pair._replace(near=zero, far=zero + 2, rho=zero + 1, theta=zero))
    mean = (limit(slope) + 2 * derivative) / 3 if slope.jumps() else (limit(slope) + derivative) / 2
    eps = float(jnp.finfo(value.dtype).eps)
    apart = halves - limit(local) * unit
    close = pair.near * pair.s1 * pair.s2 * mean * unit + jnp.where(apart > 16 * eps * halves, apart, 0)
    return jnp.where(pair.near < eps**0.5, close, plain), derivative * slope_unit


def mixed_variance(mixed: Mixed, series: Series, signs: np.ndarray, q: Array) -> Array:
    """E[phi^2] as it goes with `mixed_dual`."""
    x = row(series, q)
    if not mixed.parts.floors[0]:
        return x.norm * x.norm
    features = jnp.tensordot(series.features, x.basis, 1, precision="highest")
    kinks = _own(mixed, q, series.scale.top)[0] * _units(series, q)[0] ** 2
    return x.norm * x.norm * _squares(series, signs, features, kinks)


def mixed_diagonal(mixed: Mixed, q: Array) -> Diagonal:
    """E[phi^2] and E[phi'^2] by panels between the kinks: sums of positive terms, as exact as the dtype."""
    z, weights = _panels(mixed.parts.places, q)
    x = safe_sqrt(q)[..., None] * z
    return Diagonal(*(jnp.sum(weights * fn(x) ** 2, axis=-1) for fn in (mixed.parts.value, mixed.parts.slope)))


def mixed_mean(mixed: Mixed, q: Array) -> Array:
    """E[phi] by the same panels."""
    z, weights = _panels(mixed.parts.places, q)
    return jnp.sum(weights * mixed.parts.value(safe_sqrt(q)[..., None] * z), axis=-1)


_EDGES = np.concatenate([[0.03, 0.1, 0.2, 0.35], np.arange(0.5, 8.6, 0.5)])


def _panels(places: tuple[float, ...], q: Array) -> tuple[Array, Array]:
    """Nodes z and weights of E[f(s z)] along a last axis, for a function with these kinks."""
    s = safe_sqrt(q)[..., None]
    fixed = np.concatenate([-_EDGES[::-1], [0.0], _EDGES]).astype(q.dtype)
    end, reach = float(fixed[-1]), jnp.asarray(places, q.dtype)
    reach = reach.reshape((1,) * q.ndim + (-1,))
    crossed = s * end > jnp.abs(reach)
    kinks = jnp.where(crossed, reach / jnp.where(crossed, s, 1), end)
    ends = jnp.concatenate([jnp.broadcast_to(fixed, (*q.shape, len(fixed))), kinks], axis=-1)
    ends = jnp.sort(ends, axis=-1)
    x, w = np.polynomial.legendre.leggauss(12)
    low, width = ends[..., :-1, None], jnp.diff(ends, axis=-1)[..., None]
    part, share = ((y / 2).astype(q.dtype).reshape((1,) * (q.ndim + 1) + (-1,)) for y in (x + 1, w))
    z = (low + width * part).reshape(*q.shape, -1)
    weights = (width * share).reshape(*q.shape, -1) * jnp.exp(-z * z / 2) * (2 * np.pi) ** -0.5
    return z, weights
