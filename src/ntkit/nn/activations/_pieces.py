"""Functions made of polynomials of degree two or less with kinks anywhere: hard tanh, relu6, |x - 1/2|, steps.

    phi(x) = g0 + g1 x + g2 x^2 + sum_j c_j (sigma_j x - t_j)_+^o_j / o_j!,    t_j >= 0, sigma_j = +-1

so their duals are closed formulas in the bivariate normal law, for every variance: see `_moments`.
"""

import math
from functools import partial
from types import ModuleType
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr
from jaxtyping import Array

from ntkit.nn._law import safe_divide, safe_sqrt, size
from ntkit.nn.activations._base import Diagonal, Dual
from ntkit.nn.activations._double import ROUNDING, in_double
from ntkit.nn.activations._kinks import Kink
from ntkit.nn.activations._lengths import cost, turning
from ntkit.nn.activations._moments import Pair, density, expectations, over, pair_of
from ntkit.nn.activations._road import Road
from ntkit.nn.activations._tails import DISTANT, LEFT_OUT


class Term(NamedTuple):
    """coefficient * (side x - place)_+^order / order!"""

    coefficient: float
    side: int
    place: float
    order: int


class Pieces(NamedTuple):
    """The formula above; `polynomial` is (g0, g1, g2)."""

    polynomial: tuple[float, float, float]
    terms: tuple[Term, ...]

    def derivative(self) -> "Pieces":
        """phi' wherever it exists."""
        _, g1, g2 = self.polynomial
        terms = (t._replace(coefficient=t.coefficient * t.side, order=t.order - 1) for t in self.terms if t.order)
        return Pieces((g1, 2 * g2, 0.0), tuple(terms))

    @property
    def vanishes(self) -> bool:
        """Whether phi' is 0 around 0: its norms, and maybe those of phi, fall faster than any power of the variance."""
        return not any(self.polynomial[1:]) and all(t.place for t in self.terms)

    def singular(self, x: np.ndarray) -> np.ndarray:
        """The sum of the terms, without the polynomial."""
        return _powers(self.terms, x, np)

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        g0, g1, g2 = self.polynomial
        return g0 + x * (g1 + g2 * x) + _powers(self.terms, x, jnp)

    def mirrored(self) -> "Pieces":
        """phi(-x); terms at 0 keep to the right, (-x)_+^o = (-1)^o (x^o - x_+^o)."""
        g0, g1, g2 = self.polynomial
        polynomial, terms = [g0, -g1, g2], []
        for t in self.terms:
            c = t.coefficient * (1 if t.place else (-1) ** (t.order + 1))
            terms.append(t._replace(coefficient=c, side=-t.side if t.place else t.side))
            if not t.place and t.order < 3:
                polynomial[t.order] -= c / math.factorial(t.order)
        return Pieces((polynomial[0], polynomial[1], polynomial[2]), tuple(terms))

    @property
    def parity(self) -> int:
        """1 for an even phi, -1 for an odd one, else 0."""
        other = self.mirrored()
        known = {t[1:]: t.coefficient for t in other.terms}
        here = np.array([*self.polynomial, *(t.coefficient for t in self.terms)])
        there = np.array([*other.polynomial, *(known.get(t[1:], np.inf) for t in self.terms)])
        return next((sign for sign in (1, -1) if np.allclose(here, sign * there, rtol=1e-9, atol=0)), 0)

    def bends(self) -> tuple[tuple[float, float], ...]:
        """Place and height of each jump of phi'."""
        return tuple((t.side * t.place, t.coefficient) for t in self.terms if t.order == 1)


def _powers(terms: tuple[Term, ...], x, xp: ModuleType):
    total = xp.zeros_like(x)
    for c, side, place, order in terms:
        past = side * x - place
        total = total + xp.where(past > 0, c / math.factorial(order) * past**order, 0)
    return total


@final
class Closed(Road):
    """The formula as a road; `low` is the lowest variance that `error` speaks of."""

    def __init__(self, pieces: Pieces, low: float):
        self.pieces, self.low = pieces, low

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        return in_double(partial(pieces_dual, self.pieces), xx, xy, yy, gap)

    def diagonal(self, q: Array) -> Diagonal:
        return in_double(partial(pieces_diagonal, self.pieces), q)

    def variance(self, q: Array) -> Array:
        return self.diagonal(q).value

    def mean(self, q: Array) -> Array:
        return in_double(lambda q: average(self.pieces, safe_sqrt(q)), q)

    def error(self, q: Array) -> Array:
        return in_double(self._error, q) + ROUNDING * float(jnp.finfo(q.dtype).eps)

    def _error(self, q: Array) -> Array:
        # A gate vanishes at small variances faster than rounding does: all variances up to q are asked.
        parts = np.linspace(0, 1, 7).reshape((-1,) + (1,) * q.ndim)
        low = jnp.minimum(q, self.low)[None]
        between = jnp.where(low > 0, low, 0) ** (1 - parts) * q[None] ** parts
        return jnp.max(pieces_error(self.pieces, between), axis=0)


def singular_terms(kinks: tuple[Kink, ...]) -> Pieces:
    """The terms that carry the kinks; each grows away from 0, so that none is seen at small variances."""
    terms = (
        Term(
            k.jump if k.place >= 0 else k.jump * (-1) ** (k.order + 1), 1 if k.place >= 0 else -1, abs(k.place), k.order
        )
        for k in kinks
    )
    return Pieces((0.0, 0.0, 0.0), tuple(terms))


def find_pieces(value, kinks: tuple[Kink, ...]) -> Pieces | None:
    """The formula of a function, or None if it is not made of such pieces."""
    pieces = singular_terms(kinks)
    places = np.array([0.0, *(k.place for k in kinks)])
    x = (places.min() - 7) + (np.ptp(places) + 14) * (np.arange(301) + 0.377) / 301
    rest = value(x) - pieces.singular(x)
    basis = np.stack([np.ones_like(x), x, x * x], 1)
    found = np.linalg.lstsq(basis, rest, rcond=None)[0]
    # Rounding of the kinks' jumps is of this order; a coefficient below it is none.
    found = np.where(np.abs(found) < 1e-9, 0, found)
    if np.abs(basis @ found - rest).max() > 1e-9 * (1 + np.abs(value(x)).max()):
        return None
    return pieces._replace(polynomial=tuple(float(g) for g in found))


@partial(jax.jit, static_argnums=0)
def pieces_dual(pieces: Pieces, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
    """Both duals and the gap, as `Nonlinearity.dual`."""
    if not pieces.parity:
        return _dual(pieces, xx, xy, yy, gap)
    flip, folded = xy < 0, _dual(pieces, xx, size(xy), yy, gap)
    value, derivative = (
        jnp.where(flip, sign * x, x) for sign, x in zip((pieces.parity, -pieces.parity), folded[:2], strict=True)
    )
    return Dual(value, derivative, folded.gap)


def _dual(pieces: Pieces, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
    pair, ends = pair_of(xx, xy, yy, gap), [_end(pieces, q) for q in (xx, yy)]
    top = ends[0].norm * ends[1].norm
    if any(t.order == 0 for t in pieces.terms):
        value, derivative = both_expectations(pieces, pair)
        return Dual(value, derivative, jnp.maximum(top - size(value), 0))
    # The angle 0, and where phi has no parity to fold by also pi; what is there beside the pair, and read backwards.
    parallel = pair.parallel()
    places = [(parallel, pair.near, ends[1], 1), (parallel.mirrored(), pair.far, ends[1].backwards(), -1)]
    places = places[:1] if pieces.parity else places
    # All laws in one loop, which is compiled once.
    laws = [jax.tree.map(lambda x: jnp.broadcast_to(x, pair.rho.shape), law) for law in (pair, *(p[0] for p in places))]
    kinks = lax.map(partial(_of_kinks, pieces), jax.tree.map(lambda *x: jnp.stack(x), *laws))
    slopes = pieces.derivative()
    value, derivative = _smooth_part(pieces, pair) + kinks[0, 0], _smooth_part(slopes, pair) + kinks[0, 1]
    lengths, holds = cost(pair.s1, pair.s2, *(turning(pieces, slopes, pieces.bends(), q) for q in (xx, yy)))
    lost = jnp.maximum(top - size(value), 0)
    for (law, way, other, sign), (limit, straight) in zip(places, kinks[1:], strict=True):
        # By Price's theorem the input's gap times a mean of the derivative's dual, linear in the angle behind a corner;
        # plus what unequal variances cost there.
        straight = straight + _smooth_part(slopes, law)
        mean = (straight + 2 * derivative) / 3 if pieces.bends() else (straight + derivative) / 2
        apart = _apart(ends[0], other, sign * limit)
        apart = jnp.where(holds, lengths, apart) if sign > 0 else apart
        close = way < float(jnp.finfo(value.dtype).eps) ** 0.5
        lost = jnp.where(close, jnp.maximum(gap * mean + top * apart, 0), lost)
    return Dual(value, derivative, lost)


class End(NamedTuple):
    """Of one variance: E[phi^2]^(1/2), the first three Hermite coefficients of phi and of its terms with kinks,
    and E[kappa^2] of these."""

    norm: Array
    whole: list[Array]
    kinks: list[Array]
    square: Array

    def backwards(self) -> "End":
        """Of -phi(-x)."""
        return self._replace(
            whole=[-self.whole[0], self.whole[1], -self.whole[2]], kinks=[-self.kinks[0], self.kinks[1], -self.kinks[2]]
        )


def _end(pieces: Pieces, q: Array) -> End:
    pair, (g0, g1, g2) = pair_of(q, q, q, jnp.zeros_like(q)), pieces.polynomial
    square, root = _of_kinks(pieces, pair)[0] if pieces.terms else jnp.zeros_like(q), math.sqrt(2)
    kinks = [_ladder(pieces, pair.s1, p) for p in range(3)]
    kinks[2] = kinks[2] / root
    smooth = g0 + g2 * q, g1 * pair.s1, root * g2 * q
    norm = safe_sqrt(_smooth_part(pieces, pair) + square)
    return End(norm, [a + b for a, b in zip(smooth, kinks, strict=True)], kinks, square)


def _apart(left: End, right: End, between: Array) -> Array:
    """1 - cos between phi(s1 z) and phi(s2 z), with between = E[kappa(s1 z) kappa(s2 z)]: from differences of Hermite
    coefficients, in which the polynomial leaves no rounding, and of what the kinks have beyond those."""
    units = [safe_divide(jnp.ones_like(e.norm), e.norm) for e in (left, right)]
    low = sum((a * units[0] - b * units[1]) ** 2 for a, b in zip(left.whole, right.whole, strict=True)) / 2
    own = [(e.square - sum(k * k for k in e.kinks)) * u * u / 2 for e, u in zip((left, right), units, strict=True)]
    both = (between - sum(a * b for a, b in zip(left.kinks, right.kinks, strict=True))) * units[0] * units[1]
    return low + jnp.maximum(own[0] + own[1] - both, 0)


@partial(jax.jit, static_argnums=0)
def pieces_diagonal(pieces: Pieces, q: Array) -> Diagonal:
    """E[phi^2] and E[phi'^2]."""
    return Diagonal(*both_expectations(pieces, pair_of(q, q, q, jnp.zeros_like(q))))


@partial(jax.jit, static_argnums=0)
def pieces_error(pieces: Pieces, q: Array) -> Array:
    """Rounding, times the size of the terms over the size of their sum."""
    eps = float(jnp.finfo(q.dtype).eps)
    both = pieces, pieces.derivative()
    parts = zip(both, pieces_diagonal(pieces, q), strict=True)
    tiny = float(jnp.finfo(q.dtype).tiny)
    ratios = []
    for p, total in parts:
        mass = _mass(p, q, q, pieces.vanishes)
        ratio = jnp.where(total >= tiny, mass / jnp.maximum(total, tiny), jnp.inf)
        # What rounds by less than some of the smallest numbers, though it be all there is, is right.
        ratios.append(jnp.where(mass * eps < tiny, 0, ratio))
    left_out = LEFT_OUT if pieces.vanishes else 0.0
    return 32 * eps * (1 + jnp.maximum(*ratios)) + left_out


def _mass(pieces: Pieces, xx: Array, yy: Array, tails: bool) -> Array:
    """What the expectation is the difference of, for both variances together: the root of E[polynomial^2], and the size
    of what the recursion of each term subtracts; where it is far out, with `tails`, of what is left to `_tails`."""
    polynomial = pieces._replace(terms=())
    total = jnp.ones_like(xx * yy)
    for q in (xx, yy):
        s = safe_sqrt(q)
        root = safe_sqrt(_smooth_part(polynomial, pair_of(q, q, q, jnp.zeros_like(q))))
        for c, _, place, order in pieces.terms:
            reach = jnp.maximum(s, jnp.asarray(place, s.dtype)) ** order / math.factorial(order)
            h = over(place, s)
            # exp(-h^2 / 2) rounds by h^2 units.
            near = abs(c) * reach * safe_sqrt(ndtr(-h) * (1 + h * h))
            root = root + (jnp.where(h > DISTANT, 0, near) if tails else near)
        if tails:
            root = root + _distant_root(pieces, s)
        total = total * root
    return total


def _distant_root(pieces: Pieces, s: Array) -> Array:
    """The same of terms that `_tails` integrates: E[w^n; w > 0] is below n! h^-n of the tail, and what mixes two orders
    is a difference."""
    total = jnp.zeros_like(s)
    for side, place in sorted({(t.side, t.place) for t in pieces.terms}):
        h, terms = over(place, s), [t for t in pieces.terms if (t.side, t.place) == (side, place)]
        safe = jnp.maximum(h, 1)
        square = sum(
            abs(a.coefficient * b.coefficient) * s ** (a.order + b.order)
            * (math.comb(2 * a.order, a.order) / safe ** (2 * a.order) if a is b else safe ** abs(a.order - b.order))
            for a in terms for b in terms
        )  # fmt: skip
        total = total + safe_sqrt(jnp.where(h > DISTANT, square * ndtr(-h) * (1 + h * h), 0))
    return total


def both_expectations(pieces: Pieces, pair: Pair) -> tuple[Array, Array]:
    """E[phi(u) phi(v)] and E[phi'(u) phi'(v)]."""
    smooth = [_smooth_part(p, pair) for p in (pieces, pieces.derivative())]
    if not pieces.terms:
        return smooth[0], smooth[1]
    singular = _of_kinks(pieces, pair)
    return smooth[0] + singular[0], smooth[1] + singular[1]


def _of_kinks(pieces: Pieces, pair: Pair) -> Array:
    """The same two of the terms alone."""
    slopes = pieces.derivative()
    spots = sorted({(t.side, t.place) for t in pieces.terms})
    tables = np.zeros((2, len(spots), max(t.order for t in pieces.terms) + 1))
    for table, p in zip(tables, (pieces, slopes), strict=True):
        for t in p.terms:
            table[spots.index((t.side, t.place)), t.order] += t.coefficient
    return expectations(spots, tables, pair, tails=pieces.vanishes)


def _smooth_part(pieces: Pieces, pair: Pair) -> Array:
    """What the polynomial has a part in."""
    g0, g1, g2 = pieces.polynomial
    s1, s2, rho = pair.s1, pair.s2, pair.rho
    q1, q2 = s1 * s1, s2 * s2
    total = g0 * g0 + g0 * g2 * (q1 + q2) + g1 * g1 * rho * s1 * s2 + g2 * g2 * q1 * q2 * (1 + 2 * rho * rho)
    for law in (pair, pair.swapped()):
        k0, k1, k2 = (_ladder(pieces, law.s2, p) if any(g) else 0.0 for p, g in enumerate(((g0, g2), (g1,), (g2,))))
        q = law.s1 * law.s1
        total = total + g0 * k0 + g1 * rho * law.s1 * k1 + g2 * q * (k0 + rho * rho * k2)
    return total


def average(pieces: Pieces, s: Array) -> Array:
    """E[phi(u)]."""
    g0, _, g2 = pieces.polynomial
    return g0 + g2 * s * s + _ladder(pieces, s, 0)


def _ladder(pieces: Pieces, s: Array, p: int) -> Array:
    """s^p E[kappa^(p)(s z)]."""
    total = jnp.zeros_like(s)
    for c, side, place, order in pieces.terms:
        total = total + c * side**p * s**order * _tail(order - p, over(place, s))
    return total


def _tail(order: int, m: Array) -> Array:
    """I_b(m) = E[(z - m)_+^b] / b!, continued to b = -1 (the density at m) and -2 (minus its slope)."""
    if order == -2:
        return m * density(m)
    if order == -1:
        return density(m)
    if order == 0:
        return ndtr(-m)
    return (_tail(order - 2, m) - m * _tail(order - 1, m)) / order
