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
from functools import cached_property, partial
from typing import final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit.nn._law import safe_sqrt, size
from ntkit.nn.activations._base import Diagonal, Dual
from ntkit.nn.activations._local import both_expectations
from ntkit.nn.activations._moments import Pair, pair_of
from ntkit.nn.activations._quadrature import derivative_of
from ntkit.nn.activations._rest import DOUBLE, SINGLE, Rest, fit_rest
from ntkit.nn.activations._road import Plan, Road
from ntkit.nn.activations._runtime import beyond, row, sums
from ntkit.nn.activations._tables import Series

# Pairs on which float32 is compared with float64, and by how much more it may be off elsewhere.
PAIRS, SAFETY = 1024, 2.0
# float32 is fitted to this. float64 rounds by this many units times what cancels, as float32 was measured to do.
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

    @cached_property
    def _rounded(self) -> Series:
        series = self.rest(np.dtype(np.float32)).fit.series
        return jax.tree.map(lambda x: x.astype(np.float32) if isinstance(x, np.ndarray) else x, series)

    def series(self, dtype: np.dtype) -> Series:
        return self.rest(dtype).fit.series if dtype.itemsize > 4 else self._rounded

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        return mixed_dual(self.rest(xy.dtype), self.series(xy.dtype), xx, xy, yy, gap)

    def diagonal(self, q: Array) -> Diagonal:
        return Diagonal(*(integral(fn, self.places, q, 2) for fn in self.functions))

    def variance(self, q: Array) -> Array:
        return mixed_variance(self.rest(q.dtype), self.series(q.dtype), q)

    def mean(self, q: Array) -> Array:
        return integral(self.functions[0], self.places, q, 1)

    @property
    def functions(self) -> tuple[Callable, Callable]:
        return self.plan.fn, self.plan.derivative or derivative_of(self.plan.fn)

    def error(self, q: Array) -> Array:
        rest, single = self.rest(q.dtype), q.dtype.itemsize <= 4
        rounding = self.single_error if single else UNITS * float(np.finfo(np.float64).eps) * rest.mass
        inside = jnp.where(q < rest.low**2, rest.below, rest.fit.error).astype(q.dtype) + rounding
        outside = inside + beyond(rest.fit, self.series(q.dtype), q)
        return jnp.where(q <= rest.fit.tables.scale.top**2, inside, outside)

    @cached_property
    def single_error(self) -> float:
        """What rounding adds in float32: twice the largest difference to the same series in float64."""
        rest = self.rest(np.dtype(np.float32))
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            law = _random_laws(rest.low**2, rest.fit.tables.scale.top**2)
            rough = jax.jit(self.dual)(*(jnp.asarray(x, np.float32) for x in law))
            fine = jax.jit(partial(mixed_dual, rest, rest.fit.series))(*(jnp.asarray(x, np.float64) for x in law))
            diagonal = jax.jit(self.diagonal)
            ends = [diagonal(jnp.asarray(law[i])) for i in (0, 2)]
            worst = 0.0
            for a, b, q1, q2 in zip(rough[:2], fine[:2], *ends, strict=True):
                size = np.sqrt(np.asarray(q1) * np.asarray(q2))
                with np.errstate(divide="ignore", invalid="ignore"):
                    error = np.abs(np.asarray(a, np.float64) - np.asarray(b)) / size
                worst = max(worst, float(np.nan_to_num(error, nan=np.inf).max()))
        return SAFETY * worst


def _random_laws(low: float, top: float) -> tuple[np.ndarray, ...]:
    """Pairs all over the range, half of them nearly parallel or antiparallel, a quarter of equal variance."""
    draw = np.random.default_rng(0)
    q1, q2 = low * (top / low) ** draw.uniform(size=(2, PAIRS))
    q1[:4], q2[:4] = (low, low, top, top), (low, top, low, top)
    q2[4 : PAIRS // 4] = q1[4 : PAIRS // 4]
    theta = np.where(np.arange(PAIRS) % 2, draw.uniform(0, np.pi, PAIRS), 10 ** draw.uniform(-5, 0, PAIRS))
    theta = np.where(np.arange(PAIRS) % 4, theta, np.pi - theta)
    s = np.sqrt(q1 * q2)
    gap = 2 * s * np.where(theta < np.pi / 2, np.sin(theta / 2), np.cos(theta / 2)) ** 2
    return q1, s * np.cos(theta), q2, gap


def mixed_dual(rest: Rest, series: Series, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
    """Both duals and the gap, as `Nonlinearity.dual`."""
    parity, top, signs = series.parity, series.scale.top, rest.signs
    xx, yy = (q.reshape((1,) * (xy.ndim - q.ndim) + q.shape) for q in (xx, yy))
    pair = pair_of(xx, size(xy) if parity else xy, yy, gap)
    pair = pair._replace(s1=jnp.minimum(pair.s1, top), s2=jnp.minimum(pair.s2, top))
    left, right = row(series, xx), row(series, yy)
    units = [_units(series, q) for q in (xx, yy)]
    own = [_own(rest, q, top) for q in (xx, yy)]
    turn = series.turn(pair.theta)
    kept, slopes = _kinks_lost(rest, pair, units, own)
    a, b = (jnp.tensordot(series.features, r.basis, 1, precision="highest") for r in (left, right))
    axes = (-1,) + (1,) * (a.ndim - 1)
    apart = jnp.sum(signs.astype(a.dtype).reshape(axes) * (a - b) ** 2, axis=0) / 2
    slope, mean_slope = sums(series.blocks, left, right, turn)
    lost = kept + apart + pair.near * mean_slope
    squares = [_squares(series, signs, x, k[0] * u[0] * u[0]) for x, k, u in zip((a, b), own, units, strict=True)]
    lengths = [safe_sqrt(x) if rest.parts.floors[0] else jnp.ones_like(x) for x in squares]
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


def _own(rest: Rest, q: Array, top: float) -> tuple[Array, Array]:
    """E[kappa^2] and E[kappa'^2], at most at the end of the table."""
    pair = pair_of(q, q, q, jnp.zeros_like(q))
    s = jnp.minimum(pair.s1, top)
    return both_expectations(rest.parts.local, pair._replace(s1=s, s2=s))


def _squares(series: Series, signs: np.ndarray, features: Array, kinks: Array) -> Array:
    """n = E[phi^2] / A^2 of one variance."""
    axes = (-1,) + (1,) * (features.ndim - 1)
    return jnp.sum(signs.astype(features.dtype).reshape(axes) * features**2, axis=0) + kinks


def _kinks_lost(rest: Rest, pair: Pair, units, own) -> tuple[Array, Array]:
    """|k1|^2 / 2 + |k2|^2 / 2 - k1 . k2 for kappa / A, without cancellation for nearly parallel pairs, and the dual of
    kappa' / A1."""
    local, slope = rest.parts.local, rest.parts.local.derivative()
    unit, slope_unit = units[0][0] * units[1][0], units[0][1] * units[1][1]
    if local.jumps():
        value, derivative = both_expectations(local, pair)
        return _halves(units, own) - value * unit, derivative * slope_unit
    # Both laws in one loop, which is compiled once.
    laws = jax.tree.map(lambda *x: jnp.stack(jnp.broadcast_arrays(*x, pair.rho)[:2]), pair, pair.parallel())
    value, derivative = lax.map(lambda law: jnp.stack(both_expectations(local, law)), laws).swapaxes(0, 1)
    halves = _halves(units, own)
    plain = halves - value[0] * unit
    # By Price's theorem, as `pieces_dual`.
    mean = (derivative[1] + 2 * derivative[0]) / 3 if slope.jumps() else (derivative[1] + derivative[0]) / 2
    eps = float(jnp.finfo(value.dtype).eps)
    apart = halves - value[1] * unit
    close = pair.near * pair.s1 * pair.s2 * mean * unit + jnp.where(apart > 16 * eps * halves, apart, 0)
    return jnp.where(pair.near < eps**0.5, close, plain), derivative[0] * slope_unit


def _halves(units, own) -> Array:
    """|k1|^2 / 2 + |k2|^2 / 2."""
    return (own[0][0] * units[0][0] ** 2 + own[1][0] * units[1][0] ** 2) / 2


def mixed_variance(rest: Rest, series: Series, q: Array) -> Array:
    """E[phi^2] as it goes with `mixed_dual`."""
    x = row(series, q)
    if not rest.parts.floors[0]:
        return x.norm * x.norm
    features = jnp.tensordot(series.features, x.basis, 1, precision="highest")
    kinks = _own(rest, q, series.scale.top)[0] * _units(series, q)[0] ** 2
    return x.norm * x.norm * _squares(series, rest.signs, features, kinks)


def integral(fn: Callable, places: tuple[float, ...], q: Array, power: int) -> Array:
    """E[fn^power] by panels between the kinks: for a square a sum of positive terms, as exact as the dtype."""
    z, weights = _panels(places, q)
    return jnp.sum(weights * fn(safe_sqrt(q)[..., None] * z) ** power, axis=-1)


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
