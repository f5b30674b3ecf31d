"""E[k(u) k(v)] for sums k of truncated powers, with or without Gaussian windows: closed formulas in the normal law.

With h = t / s and standard normal x, y of correlation rho = cos(theta), J_ab = E[(x - h)_+^a (y - k)_+^b] / (a! b!)
follows from Stein's identity,

    a J_ab = J_(a-2)b + rho J_(a-1)(b-1) - h J_(a-1)b,

from the orthant J_00 by Owen's T function (Owen 1956), and from the rays J_(-1)b = phi(h) r^b I_b(m), r = sin(theta),
m = (k - rho h) / r, I_b(m) = E[(z - m)_+^b] / b!. No term divides by r but m, where it only asks on which side.

Two windows exp(-w^2 / 2 L^2) and the normal density of a pair (u, v) are one Gaussian: its covariance is
(1/L^2 + S^-1)^-1, with S that of the pair. With d^2 = det(S + L^2), a_i^2 = L^2 + s_i^2 r^2, in the letters of `Corner`
and primes for the new law:

    s1' = s1 L a2 / d,    rho' = rho L^2 / (a1 a2),    r' = r d / (a1 a2),    h' = L (L^2 h + s2^2 n2) / (d a2),
    m1' = m1 L / a2,      n1' = r' m1',      and the same with 1 and 2, h and k exchanged;
    weight = L^2 / d exp(-(L^2 (t^2 + t'^2) + (s2 t - s1 t')^2 + 2 (1 - rho) s1 s2 t t') / (2 d^2)).

All recursions are loops (`lax.scan`), over pairs of kinks, over a and over b: written out, XLA repeats them for each
use and compiles gradients for minutes.
"""

import math
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
from ntkit.nn.activations._tails import DISTANT, distant_diagonals, distant_orthant

# Beyond it a normal tail is 0 in every dtype.
FAR = 40.0


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

    def parallel(self) -> "Pair":
        """The law at the angle 0."""
        zero = jnp.zeros_like(self.rho)
        return self._replace(rho=zero + 1, near=zero, far=zero + 2, theta=zero)

    def swapped(self) -> "Pair":
        return self._replace(s1=self.s2, s2=self.s1)


def pair_of(xx: Array, xy: Array, yy: Array, gap: Array) -> Pair:
    xx, yy = (q.reshape((1,) * (xy.ndim - q.ndim) + q.shape) for q in (xx, yy))
    theta, s = angle(xx, xy, yy, gap)
    alive = s > 0
    near = jnp.where(alive, gap / jnp.where(alive, s, 1), 1)
    acute = xy >= 0
    near, far = jnp.where(acute, near, 2 - near), jnp.where(acute, 2 - near, near)
    return Pair(safe_sqrt(xx), safe_sqrt(yy), jnp.where(acute, 1 - near, far - 1), near, far, theta)


Spot = tuple[int, float]


def expectations(
    spots: list[Spot], tables: np.ndarray, pair: Pair, width: float | None = None, *, tails: bool = False
) -> Array:
    """E[k(u) k(v)] for each k = sum_jo tables[., j, o] w_j^o / o!, w_j = (side_j x - place_j)_+, (sets, ...).

    With a width all w_j are under Gaussian windows of it. With `tails` what is far out keeps its relative precision.
    """
    sides, places = np.array([s for s, _ in spots]), np.array([p for _, p in spots])
    first, second = (x.ravel() for x in np.indices((len(spots), len(spots))))
    weights = np.einsum("kia,kjb->ijkab", tables, tables).reshape(-1, len(tables), *tables.shape[2:] * 2)
    used = weights.any((1, 2, 3))
    first, second, dtype = first[used], second[used], pair.rho.dtype
    xs = (
        sides[first] == sides[second], (places[first] == 0) & (places[second] == 0), places[first].astype(dtype),
        places[second].astype(dtype), weights[used].astype(dtype),
    )  # fmt: skip

    def step(total: Array, x: tuple[Array, ...]) -> tuple[Array, None]:
        same, at_zero, t1, t2, outer = x
        law = _corner(same, at_zero, t1, t2, pair)
        weight, s1, s2 = jnp.ones_like(law.h), pair.s1, pair.s2
        if width is not None:
            law, weight, s1, s2 = _windowed(law, pair, t1, t2, width)
        found = _contract(law, s1, s2, outer)
        if tails:
            distant = jnp.maximum(law.h, law.k) > DISTANT
            found = jnp.where(distant[None], _contract_distant(law, s1, s2, outer), found)
        return total + weight[None] * found, None

    nothing = jnp.zeros((len(tables), *pair.rho.shape), dtype)
    return lax.scan(jax.checkpoint(step), nothing, xs)[0]


class Corner(NamedTuple):
    """A quadrant x > h, y > k under a standard normal law.

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
    at_zero: Array


def _corner(same: Array, at_zero: Array, t1: Array, t2: Array, pair: Pair) -> Corner:
    """The quadrant of two kinks; what has two sides is asked of the law of (u, -v)."""
    law, other = pair, pair.mirrored()
    rho, theta, near, far = (
        jnp.where(same, x, y)
        for x, y in ((law.rho, other.rho), (law.theta, other.theta), (law.near, law.far), (law.far, law.near))
    )
    h, k = over(t1, pair.s1), over(t2, pair.s2)
    r = safe_sqrt(pair.near * pair.far)
    ends = rho, near, far, r
    return Corner(h, k, rho, r, near, theta, *_beyond(h, k, *ends), *_beyond(k, h, *ends), at_zero)


def over(place: Array | float, s: Array) -> Array:
    """t / s, at most FAR."""
    place = jnp.asarray(place, s.dtype)
    crossed = s * FAR > place
    return jnp.where(crossed, place / jnp.where(crossed, s, 1), jnp.where(place > 0, FAR, 0).astype(s.dtype))


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


def density(x: Array) -> Array:
    return jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _windowed(law: Corner, pair: Pair, t1: Array, t2: Array, width: float) -> tuple[Corner, Array, Array, Array]:
    """The quadrant under the product of the windows and the law, the weight of the product, and the deviations."""
    s1, s2, square = pair.s1, pair.s2, width * width
    q1, q2, r = s1 * s1, s2 * s2, law.r
    a1, a2 = (jnp.sqrt(square + q * r * r) for q in (q1, q2))
    det = q1 * q2 * r * r + square * (q1 + q2) + square * square
    d = jnp.sqrt(det)
    exponent = square * (t1 * t1 + t2 * t2) + (s2 * t1 - s1 * t2) ** 2 + 2 * law.near * s1 * s2 * t1 * t2
    weight = square / d * jnp.exp(-exponent / (2 * det))
    h = width * (square * law.h + q2 * law.n2) / (d * a2)
    k = width * (square * law.k + q1 * law.n1) / (d * a1)
    rho, r = law.rho * square / (a1 * a2), r * d / (a1 * a2)
    m1, m2 = law.m1 * width / a2, law.m2 * width / a1
    n1, n2 = law.n1 * (d * width) / (a1 * a2 * a2), law.n2 * (d * width) / (a1 * a1 * a2)
    near = jnp.where(rho > 0, r * r / (1 + size(rho)), 1 - rho)
    new = Corner(h, k, rho, r, near, jnp.arctan2(r, rho), n1, m1, n2, m2, law.at_zero)
    return new, weight, s1 * width * a2 / d, s2 * width * a1 / d


def _contract(law: Corner, s1: Array, s2: Array, outer: Array) -> Array:
    """sum_ab outer[., a, b] s1^a s2^b J_ab."""
    orders, shape, dtype = outer.shape[-1], law.m1.shape, law.m1.dtype
    axes = (1,) * len(shape)
    h, k, rho, s1, s2 = (jnp.broadcast_to(x, shape) for x in (law.h, law.k, law.rho, s1, s2))
    first = density(h)[None] * _rays(law.r, law.n1, law.m1, orders)
    second = density(k)[None] * _rays(law.r, law.n2, law.m2, orders)
    powers = jnp.stack([s2**b for b in range(orders)])

    def along(state: tuple[Array, Array], x: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        before, last = state
        b, ray = x
        new = (before + rho * ray - k * last) / b
        return (last, new), new

    def summed(row: Array, weights: Array) -> Array:
        return jnp.sum(weights.reshape(*weights.shape, *axes) * (powers * row)[None], axis=1)

    def down(state: tuple[Array, ...], x: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        before, last, power, total = state
        a, ray, weights = x
        new = (before + rho[None] * jnp.concatenate([ray[None], last[:-1]]) - h[None] * last) / a
        power = power * s1
        return (last, new, power, total + power[None] * summed(new, weights)), None

    count, corner = jnp.arange(1, orders, dtype=dtype), _orthant(law)
    _, row = lax.scan(along, (second[0], corner), (count, first[:-1]))
    row = jnp.concatenate([corner[None], row])
    state = first, row, jnp.ones_like(s1), summed(row, outer[:, 0])
    return lax.scan(down, state, (count, second[:-1], jnp.moveaxis(outer[:, 1:], 1, 0)))[0][-1]


def _contract_distant(law: Corner, s1: Array, s2: Array, outer: Array) -> Array:
    """`_contract` without its cancellation: the diagonal known, and from there at most one step an order."""
    orders, shape = outer.shape[-1], law.m1.shape
    h, k, r, near = (jnp.broadcast_to(x, shape) for x in (law.h, law.k, law.r, law.near))
    first = density(h)[None] * _rays(r, law.n1, law.m1, orders)
    second = density(k)[None] * _rays(r, law.n2, law.m2, orders)
    corner = distant_orthant(h, k, law.m1, law.m2)
    # Both indices begin at -1.
    known = jnp.zeros((orders + 1, orders + 1, *shape), law.m1.dtype).at[0, 1:].set(first).at[1:, 0].set(second)
    known = known.at[1, 1].set(corner)
    if orders > 1:
        inner = np.arange(2, orders + 1)
        known = known.at[inner, inner].set(distant_diagonals(h, k, near, r, orders))

    def step(known: Array, x: tuple[Array, Array]) -> tuple[Array, None]:
        a, b = x
        up = known[a - 2, b] + law.rho * known[a - 1, b - 1] - h * known[a - 1, b]
        down = known[b, a - 2] + law.rho * known[b - 1, a - 1] - k * known[b, a - 1]
        order = (a - 1).astype(up.dtype)
        return known.at[a, b].set(up / order).at[b, a].set(down / order), None

    steps = np.array([(a, b) for a in range(2, orders + 1) for b in range(1, a)], np.int32).reshape(-1, 2)
    known, _ = lax.scan(step, known, (jnp.asarray(steps[:, 0]), jnp.asarray(steps[:, 1])))
    powers = [jnp.stack([jnp.broadcast_to(s, shape) ** b for b in range(orders)]) for s in (s1, s2)]
    moments = known[1:, 1:] * powers[0][:, None] * powers[1][None]
    return jnp.sum(outer.reshape(*outer.shape, *(1,) * len(shape)) * moments[None], axis=(1, 2))


def _rays(r: Array, n: Array, m: Array, orders: int) -> Array:
    """E[(r z - n)_+^b] / b! for b below `orders`, with m = n / r: finite where r vanishes."""
    r = jnp.broadcast_to(r, m.shape)

    def step(state: tuple[Array, Array], b: Array) -> tuple[tuple[Array, Array], Array]:
        before, last = state
        new = (before - n * last) / b
        return (r * r * last, new), new

    start = ndtr(-m)
    _, found = lax.scan(step, (r * density(m), start), jnp.arange(1, orders, dtype=m.dtype))
    return jnp.concatenate([start[None], found])


def _orthant(law: Corner) -> Array:
    """P(x > h, y > k), Owen's formula; T(-h, a) = T(h, a)."""
    total = (ndtr(-law.h) + ndtr(-law.k)) / 2
    for place, m in ((law.h, law.m1), (law.k, law.m2)):
        total = total - jnp.where(place < 0, -1, 1) * owen(size(place), m)
    general = jnp.maximum(total - jnp.where((law.h < 0) != (law.k < 0), 0.5, 0), 0)
    return jnp.where(law.at_zero, (np.pi - law.theta) / (2 * np.pi), general)


_NODES = leggauss(13)


def owen(h: Array, m: Array) -> Array:
    """Owen's T(h, m / h) for h >= 0: int_0^(m/h) exp(-h^2 (1 + x^2) / 2) / (1 + x^2) dx / (2 pi).

    For |m| <= h Gauss's rule converges as 4.6^(-2 n); else T(h, a) = (Q(h) + Q(m)) / 2 - Q(h) Q(m) - T(m, 1 / a).
    """
    far = size(m)
    steep = far > h
    big, small = jnp.where(steep, far, h), jnp.where(steep, h, far)
    alive = big > 0
    ratio = jnp.where(alive, small / jnp.where(alive, big, 1), 0)
    x, w = _NODES
    node = ((x + 1) / 2).astype(m.dtype).reshape((-1,) + (1,) * m.ndim)
    along = jnp.exp(-((small[None] * node) ** 2) / 2) / (1 + (ratio[None] * node) ** 2)
    inner = ratio * jnp.tensordot((w / 2).astype(m.dtype), along, 1) * jnp.exp(-big * big / 2) / (2 * np.pi)
    tails = ndtr(-h), ndtr(-far)
    value = jnp.where(steep, (tails[0] + tails[1]) / 2 - tails[0] * tails[1] - inner, inner)
    return jnp.where(m < 0, -value, value)
