"""Duals of functions with kinks away from 0 that are not made of parabolas: tanh(x) + |x - 1|, elu(x - 1), a gate.

Their dual is not smooth where s1 and s2 bring a kink to one place and the angle is 0, so that the series of `_tables`
would need thousands of terms. Localised kinks kappa (`_local`) are subtracted, whose dual is closed; the rest
E[phi phi] - E[kappa kappa] is as smooth as phi - kappa, and a series serves it:

    E[phi'(u) phi'(v)] = E[kappa' kappa'] + N1 N1 sum_k T_k(t) f_k(s1) . f_k(s2)
    E[phi(u) phi(v)]   = E[kappa kappa]   + N N (a(s1) . a(s2) - (1 - cos(theta)) D(theta))

with norms as in `_tables`, odd and even parts of the rest apart in the folded angle, and a scalar product of both
signs. With k = kappa / N, |a|^2 + |k|^2 = 1, so that E[phi phi] / (N N) is 1 less distances, or what they are from -1.

Where the lengths nearly agree, what they alone cost is not told apart into kinks and rest: see `_lengths`.

Of a function that is 0 around 0 the table begins at a small deviation. Below, the features stay what they are there,
and the norms go with those of kappa, of which the function then is nearly all.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit.nn._law import safe_sqrt, size
from ntkit.nn.activations._base import Diagonal, Dual
from ntkit.nn.activations._double import ROUNDING, in_double
from ntkit.nn.activations._lengths import Turning, cost, turning
from ntkit.nn.activations._local import both_expectations
from ntkit.nn.activations._moments import Pair, pair_of
from ntkit.nn.activations._panels import integral
from ntkit.nn.activations._quadrature import derivative_of
from ntkit.nn.activations._rest import DOUBLE, SINGLE, Rest, fit_rest
from ntkit.nn.activations._road import Plan, Road
from ntkit.nn.activations._runtime import Row, beyond, row, sums
from ntkit.nn.activations._tables import Series
from ntkit.nn.activations._tails import LEFT_OUT

# float32 is fitted to this. float64 rounds by this many units times what cancels, measured.
SINGLE_TOLERANCE, UNITS = 5e-7, 400


@final
class Mixed(Road):
    """Localised kinks in closed form, and a series of the rest."""

    def __init__(self, plan: Plan, places: tuple[float, ...]):
        self.plan, self.places = plan, places

    def rest(self, dtype: np.dtype) -> Rest:
        fn, slope, _, tolerance, variances = self.plan
        if dtype.itemsize > 4:
            return fit_rest(fn, slope, self.places, tolerance, variances, DOUBLE)
        return fit_rest(fn, slope, self.places, max(tolerance, SINGLE_TOLERANCE), variances, SINGLE)

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        return in_double(partial(mixed_dual, self.rest(xy.dtype)), xx, xy, yy, gap)

    def diagonal(self, q: Array) -> Diagonal:
        return in_double(lambda q: Diagonal(*(integral(fn, self.places, q, 2) for fn in self.functions)), q)

    def variance(self, q: Array) -> Array:
        return in_double(partial(mixed_variance, self.rest(q.dtype)), q)

    def mean(self, q: Array) -> Array:
        return in_double(lambda q: integral(self.functions[0], self.places, q, 1), q)

    @property
    def functions(self) -> tuple[Callable, Callable]:
        return self.plan.fn, self.plan.derivative or derivative_of(self.plan.fn)

    def error(self, q: Array) -> Array:
        return in_double(partial(self._error, self.rest(q.dtype)), q) + ROUNDING * float(jnp.finfo(q.dtype).eps)

    def _error(self, rest: Rest, q: Array) -> Array:
        rounding = UNITS * float(np.finfo(np.float64).eps) * rest.mass + (LEFT_OUT if rest.parts.vanish[1] else 0.0)
        inside = jnp.where(q < rest.low**2, rest.below, rest.fit.error) + rounding
        outside = inside + beyond(rest.fit, rest.fit.series, q)
        return jnp.where(q <= rest.fit.tables.scale.top**2, inside, outside)


class End(NamedTuple):
    """What belongs to one variance: the row, E[kappa^2] and E[kappa'^2] over the norms, and the inverse norms; all
    but the row at most at the end of the table. Of a continuous function also how it turns with the length."""

    row: Row
    own: tuple[Array, Array]
    units: tuple[Array, Array]
    turning: Turning | None


class Lost(NamedTuple):
    """What is taken from 1 at the angle 0, and on the way from there; from 1 if v is read backwards; the slopes' dual;
    all over the norms."""

    apart: Array
    step: Array
    backwards: Array
    slope: Array


def mixed_dual(rest: Rest, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
    """Both duals and the gap, as `Nonlinearity.dual`."""
    series = rest.fit.series
    parity, top, ndim = series.parity, series.scale.top, xy.ndim
    xx, yy = (q.reshape((1,) * (ndim - q.ndim) + q.shape) for q in (xx, yy))
    pair = pair_of(xx, size(xy) if parity else xy, yy, gap)
    pair = pair._replace(s1=jnp.minimum(pair.s1, top), s2=jnp.minimum(pair.s2, top))
    ends = _end(rest, xx), _end(rest, yy)
    left, right = (end.row for end in ends)
    kinks, smooth = _kinks_lost(rest, pair, ends), _rest_lost(series, left, right, pair)
    lost = kinks.apart + kinks.step + (smooth.apart + smooth.step)
    other = kinks.backwards + smooth.backwards
    if ends[0].turning is not None and ends[1].turning is not None:
        apart, holds = cost(pair.s1, pair.s2, ends[0].turning, ends[1].turning)
        lost = jnp.where(holds & _nearly_parallel(pair), apart + kinks.step + smooth.step, lost)
    value = left.norm * right.norm * (1 - lost)
    derivative = left.slope_norm * right.slope_norm * (smooth.slope + kinks.slope)
    if parity:
        flip = xy < 0
        value, derivative = (jnp.where(flip, p * x, x) for p, x in ((parity, value), (-parity, derivative)))
    return Dual(value, derivative, left.norm * right.norm * jnp.maximum(jnp.where(lost <= 1, lost, other), 0))


def _nearly_parallel(pair: Pair) -> Array:
    return pair.near < float(jnp.finfo(pair.near.dtype).eps) ** 0.5


def _rest_lost(series: Series, left: Row, right: Row, pair: Pair) -> Lost:
    """What the rest takes."""
    folded = pair.rho < 0
    turn = series.turn(jnp.where(folded, np.pi - pair.theta, pair.theta))
    way = jnp.minimum(pair.near, pair.far)
    odd_near, odd_far = _apart(series.features, series.signs, left, right)
    if series.even is None:
        slope, mean_slope = sums(series.blocks, left, right, turn)
        step = way * mean_slope
        return Lost(odd_near, step, odd_far - step, slope)
    sign = jnp.where(folded, -1, 1).astype(turn.dtype)
    slope, mean_slope = sums(series.blocks, left, right, turn, series.even.blocks, sign[None])
    step = sign * (way * mean_slope)
    even_near, even_far = _apart(series.even.features, series.even.signs, left, right)
    apart = jnp.where(folded, odd_far, odd_near) + even_near
    return Lost(apart, step, jnp.where(folded, odd_near, odd_far) + even_far - step, slope)


def _apart(features: np.ndarray, signs: np.ndarray, left: Row, right: Row) -> tuple[Array, Array]:
    """|a(s1) - a(s2)|^2 / 2 and |a(s1) + a(s2)|^2 / 2, by a scalar product of these signs."""
    a, b = (jnp.tensordot(features, r.basis, 1, precision="highest") for r in (left, right))
    signs = signs.reshape((-1,) + (1,) * (a.ndim - 1))
    near = jnp.sum(signs * (a - b) ** 2, axis=0) / 2
    return near, jnp.sum(signs * a * a, axis=0) + jnp.sum(signs * b * b, axis=0) - near


def _end(rest: Rest, q: Array) -> End:
    """The row of a variance, with its kinks."""
    series = rest.fit.series
    table, start = row(series, q), rest.parts.start
    inside = row(series, jnp.minimum(q, series.scale.top**2))
    own = _own(rest, q, series.scale.top)
    if start:
        # Below the table kappa is all, but for a factor, and its norm is known.
        edge = jnp.full_like(q, start * start)
        below, first = q < edge, row(series, edge)
        factors = [safe_sqrt(x / y) for x, y in zip(own, _own(rest, edge, start), strict=True)]
        norms = [jnp.where(below, n * f, x) for n, f, x in zip(_norms(first), factors, _norms(inside), strict=True)]
        norms = [n if gone else x for n, x, gone in zip(norms, _norms(inside), rest.parts.vanish, strict=True)]
        inside = inside._replace(norm=norms[0], slope_norm=norms[1])
        outer = [jnp.where(below, n, x) for n, x in zip(norms, _norms(table), strict=True)]
        table = table._replace(norm=outer[0], slope_norm=outer[1])
    # A norm whose square underflows counts as 0.
    least = float(jnp.finfo(q.dtype).tiny) ** 0.5
    units = [jnp.where(n > least, 1 / jnp.where(n > least, n, 1), 0) for n in _norms(inside)]
    outer = [jnp.where(unit > 0, n, 0) for unit, n in zip(units, _norms(table), strict=True)]
    table = table._replace(norm=outer[0], slope_norm=outer[1])
    relative = [x * unit * unit for x, unit in zip(own, units, strict=True)]
    return End(table, (relative[0], relative[1]), (units[0], units[1]), _turning(rest, q, series.scale.top))


def _turning(rest: Rest, q: Array, top: float) -> Turning | None:
    parts = rest.parts
    if parts.local.jumps():
        return None
    kinks = zip(parts.local.bumps, parts.local.heights, strict=True)
    bends = tuple((bump.side * bump.place, heights[1]) for bump, heights in kinks)
    return turning(parts.value, parts.slope, bends, jnp.minimum(q, top * top))


def _norms(row: Row) -> tuple[Array, Array]:
    return row.norm, row.slope_norm


def _own(rest: Rest, q: Array, top: float) -> tuple[Array, Array]:
    """E[kappa^2] and E[kappa'^2], at most at the end of the table."""
    pair = pair_of(q, q, q, jnp.zeros_like(q))
    s = jnp.minimum(pair.s1, top)
    return both_expectations(rest.parts.local, pair._replace(s1=s, s2=s), tails=rest.parts.vanish[1])


def _kinks_lost(rest: Rest, pair: Pair, ends: tuple[End, End]) -> Lost:
    """What kappa takes: |k1|^2 / 2 + |k2|^2 / 2 -+ k1 . k2 for k = kappa / N, of nearly parallel pairs in two parts,
    the second without cancellation."""
    local, slope, tails = rest.parts.local, rest.parts.local.derivative(), rest.parts.vanish[1]
    unit, slope_unit = (a * b for a, b in zip(ends[0].units, ends[1].units, strict=True))
    halves = (ends[0].own[0] + ends[1].own[0]) / 2
    if local.jumps():
        value, derivative = both_expectations(local, pair, tails=tails)
        lost = halves - value * unit
        return Lost(lost, jnp.zeros_like(lost), halves + value * unit, derivative * slope_unit)
    # Both laws in one loop, which is compiled once.
    laws = jax.tree.map(lambda *x: jnp.stack(jnp.broadcast_arrays(*x, pair.rho)[:2]), pair, pair.parallel())
    value, derivative = lax.map(lambda law: jnp.stack(both_expectations(local, law, tails=tails)), laws).swapaxes(0, 1)
    # By Price's theorem, as `pieces_dual`.
    mean = (derivative[1] + 2 * derivative[0]) / 3 if slope.jumps() else (derivative[1] + derivative[0]) / 2
    close = _nearly_parallel(pair)
    step = jnp.where(close, pair.near * pair.s1 * pair.s2 * mean * unit, 0)
    apart = jnp.where(close, jnp.maximum(halves - value[1] * unit, 0), halves - value[0] * unit)
    return Lost(apart, step, halves + value[0] * unit, derivative[0] * slope_unit)


def mixed_variance(rest: Rest, q: Array) -> Array:
    """E[phi^2] as it goes with `mixed_dual`."""
    norm = (_end(rest, q).row if rest.parts.start else row(rest.fit.series, q)).norm
    return norm * norm
