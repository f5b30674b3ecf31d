"""Functions made of polynomials of degree two or less with kinks anywhere: hard tanh, relu6, |x - 1/2|, steps.

    phi(x) = g0 + g1 x + g2 x^2 + sum_j c_j (sigma_j x - t_j)_+^o_j / o_j!,    t_j >= 0, sigma_j = +-1

so their duals are closed formulas in the bivariate normal law, for every variance. With h = t / s and standard normal
x, y of correlation rho = cos(theta), J_ab = E[(x - h)_+^a (y - k)_+^b] / (a! b!) follows from Stein's identity,

    a J_ab = J_(a-2)b + rho J_(a-1)(b-1) - h J_(a-1)b,

from the orthant J_00 by Owen's T function (Owen 1956), and from the rays J_(-1)b = phi(h) r^b I_b(m), r = sin(theta),
m = (k - rho h) / r, I_b(m) = E[(z - m)_+^b] / b!. No term divides by r but m, where it only asks on which side.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr
from jaxtyping import Array
from numpy.polynomial.legendre import leggauss

from ntkit.nn._law import safe_sqrt, size
from ntkit.nn.activations._angle import angle
from ntkit.nn.activations._base import Diagonal, Dual
from ntkit.nn.activations._kinks import Kink

# Beyond it a normal tail is 0 in every dtype.
FAR = 40.0


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

    def singular(self, x: np.ndarray) -> np.ndarray:
        """The sum of the terms, without the polynomial."""
        total = np.zeros_like(x)
        for c, side, place, order in self.terms:
            past = side * x - place
            total = total + c * np.where(past > 0, past, 0) ** order * (past > 0) / math.factorial(order)
        return total


class Pair(NamedTuple):
    """The law of a pair: deviations, correlation, 1 - rho and 1 + rho without cancellation, and theta."""

    s1: Array
    s2: Array
    rho: Array
    near: Array
    far: Array
    theta: Array

    def mirrored(self) -> "Pair":
        """The law of (u, -v)."""
        return Pair(self.s1, self.s2, -self.rho, self.far, self.near, np.pi - self.theta)

    def swapped(self) -> "Pair":
        return self._replace(s1=self.s2, s2=self.s1)


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
    pair, slopes = pair_of(xx, xy, yy, gap), pieces.derivative()
    moments = moments_of(pieces, pair)
    value, derivative = expectation(pieces, pair, moments), expectation(slopes, pair, moments)
    squares = [pieces_diagonal(pieces, q) for q in (xx, yy)]
    top = safe_sqrt(squares[0].value) * safe_sqrt(squares[1].value)
    plain = jnp.maximum(top - size(value), 0)
    if any(t.order == 0 for t in pieces.terms):
        return Dual(value, derivative, plain)
    # Nearly parallel: by Price's theorem the input's gap times a mean of the derivative's dual, linear in the angle
    # behind a corner; plus what unequal variances cost at angle 0, where rounding lets it be seen.
    limit = pair_of(xx, pair.s1 * pair.s2, yy, jnp.zeros_like(gap))
    moments = moments_of(pieces, limit)
    ends = expectation(slopes, limit, moments)
    mean = (ends + 2 * derivative) / 3 if any(t.order == 1 for t in pieces.terms) else (ends + derivative) / 2
    apart, eps = top - expectation(pieces, limit, moments), float(jnp.finfo(value.dtype).eps)
    close = gap * mean + jnp.where(apart > 16 * eps * _mass(pieces, xx, yy), apart, 0)
    near = (xy > 0) & (pair.near < eps**0.5)
    return Dual(value, derivative, jnp.where(near, close, plain))


@partial(jax.jit, static_argnums=0)
def pieces_diagonal(pieces: Pieces, q: Array) -> Diagonal:
    """E[phi^2] and E[phi'^2]."""
    pair = pair_of(q, q, q, jnp.zeros_like(q))
    moments = moments_of(pieces, pair)
    return Diagonal(expectation(pieces, pair, moments), expectation(pieces.derivative(), pair, moments))


@partial(jax.jit, static_argnums=0)
def pieces_error(pieces: Pieces, q: Array) -> Array:
    """Rounding, times the size of the terms over the size of their sum."""
    eps = float(jnp.finfo(q.dtype).eps)
    both = pieces, pieces.derivative()
    parts = zip(both, pieces_diagonal(pieces, q), strict=True)
    ratios = [_mass(p, q, q) / jnp.maximum(total, float(jnp.finfo(q.dtype).tiny)) for p, total in parts]
    return 32 * eps * (1 + jnp.maximum(*ratios))


def _mass(pieces: Pieces, xx: Array, yy: Array) -> Array:
    """What the expectation is the difference of: E[polynomial^2] + E[terms^2], for both variances together."""
    zero = pieces._replace(terms=()), pieces._replace(polynomial=(0.0, 0.0, 0.0))
    total = jnp.ones_like(xx * yy)
    for q in (xx, yy):
        roots = [safe_sqrt(expectation(z, pair_of(q, q, q, jnp.zeros_like(q)))) for z in zero]
        total = total * (roots[0] + roots[1])
    return total


def pair_of(xx: Array, xy: Array, yy: Array, gap: Array) -> Pair:
    xx, yy = (q.reshape((1,) * (xy.ndim - q.ndim) + q.shape) for q in (xx, yy))
    theta, s = angle(xx, xy, yy, gap)
    alive = s > 0
    near = jnp.where(alive, gap / jnp.where(alive, s, 1), 1)
    acute = xy >= 0
    near, far = jnp.where(acute, near, 2 - near), jnp.where(acute, 2 - near, near)
    return Pair(safe_sqrt(xx), safe_sqrt(yy), jnp.where(acute, 1 - near, far - 1), near, far, theta)


def expectation(pieces: Pieces, pair: Pair, moments: "Moments | None" = None) -> Array:
    """E[phi(u) phi(v)]; `moments` are those of `pieces` or of what it is the derivative of, where they are known."""
    g0, g1, g2 = pieces.polynomial
    s1, s2, rho = pair.s1, pair.s2, pair.rho
    q1, q2 = s1 * s1, s2 * s2
    total = g0 * g0 + g0 * g2 * (q1 + q2) + g1 * g1 * rho * s1 * s2 + g2 * g2 * q1 * q2 * (1 + 2 * rho * rho)
    for law in (pair, pair.swapped()):
        k0, k1, k2 = (_ladder(pieces, law.s2, p) if any(g) else 0.0 for p, g in enumerate(((g0, g2), (g1,), (g2,))))
        q = law.s1 * law.s1
        total = total + g0 * k0 + g1 * rho * law.s1 * k1 + g2 * q * (k0 + rho * rho * k2)
    return total + singular_expectation(pieces, pair, moments)


def singular_expectation(pieces: Pieces, pair: Pair, moments: "Moments | None" = None) -> Array:
    """E[kappa(u) kappa(v)] for the sum kappa of the terms."""
    total = jnp.zeros_like(pair.rho)
    if not pieces.terms:
        return total
    moments = moments or moments_of(pieces, pair)
    orders = sorted({t.order for t in pieces.terms})
    for a in orders:
        for b in orders:
            weights = [moments.weights(pieces, order) for order in (a, b)]
            outer = np.outer(*weights).ravel()
            if outer.any():
                each = jnp.tensordot(outer.astype(pair.rho.dtype), moments(a, b), 1)
                total = total + pair.s1**a * pair.s2**b * each
    return total


def average(pieces: Pieces, s: Array) -> Array:
    """E[phi(u)]."""
    g0, _, g2 = pieces.polynomial
    return g0 + g2 * s * s + _ladder(pieces, s, 0)


def _ladder(pieces: Pieces, s: Array, p: int) -> Array:
    """s^p E[kappa^(p)(s z)]."""
    total = jnp.zeros_like(s)
    for c, side, place, order in pieces.terms:
        total = total + c * side**p * s**order * _tail(order - p, _over(place, s))
    return total


def _over(place: np.ndarray | float, s: Array) -> Array:
    """t / s, at most FAR."""
    place = np.asarray(place, s.dtype)
    crossed = s * FAR > place
    return jnp.where(crossed, place / jnp.where(crossed, s, 1), np.where(place > 0, FAR, 0).astype(s.dtype))


def _density(x: Array) -> Array:
    return jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _tail(order: int, m: Array) -> Array:
    """I_b(m) = E[(z - m)_+^b] / b!, continued to b = -1 (the density at m) and -2 (minus its slope)."""
    if order == -2:
        return m * _density(m)
    if order == -1:
        return _density(m)
    if order == 0:
        return ndtr(-m)
    return (_tail(order - 2, m) - m * _tail(order - 1, m)) / order


class Corner(NamedTuple):
    """A quadrant x > h, y > k under a standard normal law, for all pairs of kinks along a first axis.

    n1 = k - rho h and n2 = h - rho k, m1 = n1 / r and m2 = n2 / r with r = sin(theta); near = 1 - rho.
    """

    h: Array
    k: Array
    rho: Array
    r: Array
    near: Array
    theta: Array
    n1: Array
    m1: Array
    n2: Array
    m2: Array
    at_zero: np.ndarray


Spot = tuple[int, float]


def corners(spots: list[Spot], pair: Pair) -> Corner:
    """The quadrants of all pairs of kinks (side, place): what has two sides is asked of the law of (u, -v)."""
    n, axes = len(spots), (1,) * pair.rho.ndim
    sides, places = np.array([s for s, _ in spots]), np.array([p for _, p in spots])
    first, second = np.repeat(np.arange(n), n), np.tile(np.arange(n), n)
    same = (sides[first] == sides[second]).reshape(-1, *axes)
    at_zero = ((places[first] == 0) & (places[second] == 0)).reshape(-1, *axes)
    law, other = pair, pair.mirrored()
    rho, theta, near, far = (
        jnp.where(same, x[None], y[None])
        for x, y in ((law.rho, other.rho), (law.theta, other.theta), (law.near, law.far), (law.far, law.near))
    )
    h, k = (_over(places[i].reshape(-1, *axes), s[None]) for i, s in ((first, pair.s1), (second, pair.s2)))
    r = safe_sqrt(pair.near * pair.far)[None]
    ends = rho, near, far, r
    return Corner(h, k, rho, r, near, theta, *_beyond(h, k, *ends), *_beyond(k, h, *ends), at_zero)


def _beyond(h: Array, k: Array, rho: Array, near: Array, far: Array, r: Array) -> tuple[Array, Array]:
    """n = k - rho h, from the nearer end, and m = n / r, at most FAR."""
    acute = rho >= 0
    apart = jnp.where(acute, k - h, k + h)
    small, large = jnp.where(acute, near, far), jnp.where(acute, far, near)
    sign = jnp.where(acute, 1, -1)
    # At theta = 0 or pi the ray is crossed always, never, or (apart = 0) by half.
    crossed = r > 1e-18
    ratio = jnp.where(crossed, apart / jnp.where(crossed, r, 1), jnp.sign(apart) * FAR)
    return apart + sign * h * small, jnp.clip(ratio + sign * h * safe_sqrt(small / large), -FAR, FAR)


def moments_of(pieces: Pieces, pair: Pair) -> "Moments":
    """The moments of all pairs of terms."""
    spots = sorted({(t.side, t.place) for t in pieces.terms})
    return Moments(spots, corners(spots, pair))


class Moments:
    """J_ab of a quadrant, each computed once."""

    def __init__(self, spots: list[Spot], law: Corner, *, barrier: bool = False):
        self.spots, self.law, self.barrier = spots, law, barrier
        self.known: dict[tuple[int, int], Array] = {}

    def weights(self, pieces: Pieces, order: int) -> np.ndarray:
        """The coefficient of each kink at one order."""
        found = {(t.side, t.place): t.coefficient for t in pieces.terms if t.order == order}
        return np.array([found.get(spot, 0.0) for spot in self.spots])

    def __call__(self, a: int, b: int) -> Array:
        if (a, b) not in self.known:
            found = self._moment(a, b)
            self.known[a, b] = lax.optimization_barrier(found) if self.barrier else found
        return self.known[a, b]

    def _moment(self, a: int, b: int) -> Array:
        h, k, rho = self.law.h, self.law.k, self.law.rho
        if a == b == 0:
            return _orthant(self.law)
        if a == -1:
            return _density(h) * self._ray(b, self.law.n1, self.law.m1)
        if b == -1:
            return _density(k) * self._ray(a, self.law.n2, self.law.m2)
        if a >= b:
            before = self(a - 2, b) if a > 1 else self(-1, b)
            return (before + rho * self(a - 1, b - 1) - h * self(a - 1, b)) / a
        before = self(a, b - 2) if b > 1 else self(a, -1)
        return (before + rho * self(a - 1, b - 1) - k * self(a, b - 1)) / b

    def _ray(self, order: int, n: Array, m: Array) -> Array:
        """E[(r z - n)_+^order] / order!, with m = n / r: finite where r vanishes."""
        if order == 0:
            return ndtr(-m)
        r = self.law.r
        before = r * _density(m) if order == 1 else r * r * self._ray(order - 2, n, m)
        return (before - n * self._ray(order - 1, n, m)) / order


def _orthant(law: Corner) -> Array:
    """P(x > h, y > k), Owen's formula; T(-h, a) = T(h, a)."""
    total = (ndtr(-law.h) + ndtr(-law.k)) / 2
    for place, m in ((law.h, law.m1), (law.k, law.m2)):
        total = total - jnp.where(place < 0, -1, 1) * owen(size(place), m)
    general = jnp.maximum(total - jnp.where((law.h < 0) != (law.k < 0), 0.5, 0), 0)
    return jnp.where(law.at_zero, (np.pi - law.theta) / (2 * np.pi), general)


_NODES = {4: leggauss(7), 8: leggauss(13)}


def owen(h: Array, m: Array) -> Array:
    """Owen's T(h, m / h) for h >= 0: int_0^(m/h) exp(-h^2 (1 + x^2) / 2) / (1 + x^2) dx / (2 pi).

    For |m| <= h Gauss's rule converges as 4.6^(-2 n); else T(h, a) = (Q(h) + Q(m)) / 2 - Q(h) Q(m) - T(m, 1 / a).
    """
    far = size(m)
    steep = far > h
    big, small = jnp.where(steep, far, h), jnp.where(steep, h, far)
    alive = big > 0
    ratio = jnp.where(alive, small / jnp.where(alive, big, 1), 0)
    x, w = _NODES[8 if m.dtype.itemsize > 4 else 4]
    node = ((x + 1) / 2).astype(m.dtype).reshape((-1,) + (1,) * m.ndim)
    along = jnp.exp(-((small[None] * node) ** 2) / 2) / (1 + (ratio[None] * node) ** 2)
    inner = ratio * jnp.tensordot((w / 2).astype(m.dtype), along, 1) * jnp.exp(-big * big / 2) / (2 * np.pi)
    tails = ndtr(-h), ndtr(-far)
    value = jnp.where(steep, (tails[0] + tails[1]) / 2 - tails[0] * tails[1] - inner, inner)
    return jnp.where(m < 0, -value, value)
