"""Smooth activations whose duals are closed formulas. Derivations: docs/derivations/duals.md.

Throughout, (u, v) ~ N(0, [[q1, c], [c, q2]]), s = sqrt(q1 q2), c = s cos(theta), gap = s - |c|. Where a formula needs
the determinant q1 q2 - c^2 it is taken as gap (s + |c|), which does not cancel. Numbers that are a variance squared are
formed over one: float32 ends at 3e38.
"""

import abc
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkit.nn._law import Covariance, Scalar, is_zero, lost, not_negative, relative, safe_divide, safe_sqrt, size
from ntkit.nn.activations import _arc
from ntkit.nn.activations._angle import from_sides, least_angle
from ntkit.nn.activations._base import Diagonal, Dual, Nonlinearity, Parity


class _Scaled(NamedTuple):
    """Numbers of the pair over R = sqrt((1 + k q1)(1 + k q2)), so that D = (1 + k q1)(1 + k q2) - k^2 c^2, which is a
    variance squared, does not overflow: float32 ends at variances of 1e19 otherwise. Gradients would end earlier, so
    what is divided by is at least 1, and R is multiplied by in four steps."""

    first: Array  # (1 + k q1)^(-1/4)
    second: Array  # (1 + k q2)^(-1/4)
    s: Array  # s / R
    c: Array  # c / R
    root: Array  # sqrt(D / R), at least 1
    root0: Array  # the same if the inputs were parallel
    balance: Array  # R / (1 + k q1) + R / (1 + k q2), at least 2

    @staticmethod
    def of(k: Scalar, xx: Array, xy: Array, yy: Array, gap: Array) -> "_Scaled":
        a1, a2 = jnp.sqrt(1 + k * xx), jnp.sqrt(1 + k * yy)
        r1, r2 = 1 / jnp.sqrt(a1), 1 / jnp.sqrt(a2)
        p1, p2 = 1 / a1, 1 / a2
        balance = a1 * p2 + a2 * p1
        s = (r1 * (r1 * safe_sqrt(xx))) * (r2 * (r2 * safe_sqrt(yy)))
        c = r1 * (r2 * (r1 * (r2 * xy)))
        # 1 + k (q1 + q2) is R balance - 1: nothing cancels.
        parallel = balance - p1 * p2
        root = jnp.sqrt(parallel + k * k * gap * (s + size(c)))
        return _Scaled(r1, r2, s, c, root, jnp.sqrt(parallel), balance)

    def over(self, x: Array) -> Array:
        """x / sqrt(R)."""
        return self.first * (self.second * x)

    @property
    def half(self) -> Array:
        """1 / sqrt(R)."""
        return self.first * self.second

    @property
    def inverse(self) -> Array:
        """1 / sqrt(D)."""
        return self.first * (self.second / self.root)

    @property
    def cosine(self) -> Array:
        """sqrt(D) / R."""
        return self.over(self.root)


class Erf(Nonlinearity):
    """phi(x) = erf(x) (Williams 1997): with D = (1 + 2 q1)(1 + 2 q2) - 4 c^2,

    E[phi phi] = (2 / pi) atan(2 c / sqrt(D)),   E[phi' phi'] = (4 / pi) / sqrt(D).
    """

    @property
    def parity(self) -> Parity:
        return "odd"

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.lax.erf(x)

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        pair = _Scaled.of(2, xx, xy, yy, gap)
        cosine, rows = pair.cosine, (_arc.Row.of(2 * xx), _arc.Row.of(2 * yy))
        value = (2 / math.pi) * from_sides(2 * pair.c, cosine)
        derivative = (4 / math.pi) * pair.inverse
        loss = _arc.loss(*rows, pair.half, 2 * size(pair.c), pair.root, 2 * pair.over(gap))
        top = safe_sqrt(self.diagonal(xx).value) * safe_sqrt(self.diagonal(yy).value)
        return Dual(value, derivative, _with_value(2 / math.pi * loss, top, value))

    def diagonal(self, q: Array) -> Diagonal:
        root = jnp.sqrt(1 + 4 * q)
        return Diagonal((2 / math.pi) * jnp.arctan2(2 * q, root), (4 / math.pi) / root)

    def mean(self, q: Array) -> Array:
        return jnp.zeros_like(q)


class Gelu(Nonlinearity):
    """phi(x) = x Phi(x), Phi the normal distribution function (not its tanh approximation).

    With D = (1 + q1)(1 + q2) - c^2, Delta = q1 q2 - c^2, h = 1 / (1 + q1) + 1 / (1 + q2), A = atan2(sqrt(D), -c):

        E[phi phi]   = (c A + (Delta + c^2 h) / sqrt(D)) / (2 pi)
        E[phi' phi'] = (A + (h + 1 / D) c / sqrt(D)) / (2 pi)
    """

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.nn.gelu(x, approximate=False)

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        pair = _Scaled.of(1, xx, xy, yy, gap)
        cosine, far = pair.cosine, size(pair.c)
        # One angle of at most pi / 4 for w = atan(|c| / sqrt(D)) and A = pi / 2 +- w, both to the last digit: c^2 + D
        # is R^2, so that both are sides over R.
        steep = far > cosine
        least = least_angle(jnp.minimum(far, cosine))
        w, small = jnp.where(steep, math.pi / 2 - least, least), least / (2 * math.pi)
        # As in `diagonal`: over many layers each rounding of A / 2 pi counts.
        turn = jnp.where(xy < 0, jnp.where(steep, small, 0.25 - small), jnp.where(steep, 0.5 - small, 0.25 + small))
        tangent, mixed = pair.over(xy) / pair.root, pair.balance * pair.c  # c / sqrt(D), and c h
        length = jnp.sqrt(jnp.sqrt(1 + xx)) * jnp.sqrt(jnp.sqrt(1 + yy))
        rest = (gap / pair.root) * ((pair.s + far) * length) + tangent * mixed
        value = xy * turn + rest / (2 * math.pi)
        derivative = turn + pair.inverse * (mixed + pair.inverse * tangent) / (2 * math.pi)
        even = 2 / math.pi * (size(xy) * w + rest)
        new_gap = gap + lost(xy, even) + self._even_gap(pair, w, xx, xy, yy, gap)
        top = safe_sqrt(self.diagonal(xx).value) * safe_sqrt(self.diagonal(yy).value)
        return Dual(value, derivative, _with_value(new_gap / 4, top, value))

    @staticmethod
    def _even_gap(pair: _Scaled, w: Array, xx: Array, xy: Array, yy: Array, gap: Array) -> Array:
        """What Psi = E[u v erf(u / sqrt 2) erf(v / sqrt 2)] adds to the gap of 4 E[phi phi] = c + Psi: its own gap, and
        the bracket of q1, q2 with Psi(q1), Psi(q2). `w` is atan(|c| / sqrt(D))."""
        s, ratio = relative(Covariance(xx, xy, yy, xy, gap, width=1))
        near, far, root, root0 = 1 - ratio, size(pair.c), pair.root, pair.root0
        # From w to w0, its value if the inputs were parallel: turn = w0 - w.
        sine = pair.over(gap) * (1 + near) / (root + near * root0)
        half = sine / (1 + pair.cosine * pair.over(root0) + pair.s * far)  # tan(turn / 2)
        curve = _arc.arc_excess(half)  # turn - sin(turn) over it
        bend = ((pair.s + far) * (pair.over(pair.balance) + pair.inverse / root0) - root * sine) / (root + root0)
        turned = size(xy) * half * curve + gap * (w + sine + half * curve + bend)
        # Parallel rows: Psi(q) = 2 q (k + t) / pi with the angle k of Erf and t = 2 sin(k) / sqrt(1 + 2 q).
        a, b = _arc.Row.of(xx), _arc.Row.of(yy)
        parallel = _arc.loss(a, b, pair.half, pair.s, root0, 0.0)
        v, square = a.slant * b.slant, root0 * root0
        unequal = pair.over(pair.over(xx - yy)) / square
        shape = 4 / (v * (square + v)) - 1
        share = square * root0 * shape / (2 * root0 / jnp.sqrt(v) + pair.balance)
        parallel = parallel + pair.s * (unequal * unequal) * pair.over(share)
        # The roots of k, t and k + t over sin(k).
        ks, ts = (1 / a.ratio, 1 / b.ratio), (jnp.sqrt(2 / a.width), jnp.sqrt(2 / b.width))
        sums = [jnp.sqrt(k * k + t * t) for k, t in zip(ks, ts, strict=True)]
        cross = ks[0] * ts[1] - ks[1] * ts[0]
        parallel = parallel + pair.s * cross * cross / (sums[0] * sums[1] + ks[0] * ks[1] + ts[0] * ts[1])
        m = [math.sqrt(2 / math.pi) * safe_sqrt(row.sine) * p for row, p in zip((a, b), sums, strict=True)]
        tops = [jnp.sqrt(1 + x * x) for x in m]
        apart = m[0] - m[1]
        bracket = s * apart * apart / (tops[0] * tops[1] + 1 + m[0] * m[1])
        # Of equal rows it is 0 with its slopes, which would be 0 times infinity.
        equal = (xx == yy) & (xx > float(jnp.finfo(xx.dtype).max) ** 0.5)
        return 2 / math.pi * (turned + jnp.where(equal, 0, s * parallel)) + bracket

    def diagonal(self, q: Array) -> Diagonal:
        # A / 2 pi is a quarter or a half turn and a small angle: over many layers each rounding counts.
        root = jnp.sqrt(1 + 2 * q)
        small = jnp.arctan2(jnp.minimum(q, root), jnp.maximum(q, root)) / (2 * math.pi)
        turn = jnp.where(q < root, 0.25 + small, 0.5 - small)
        value = q * (turn + q / (1 + q) / root / math.pi)
        return Diagonal(value, turn + (2 / (1 + q) + 1 / (1 + 2 * q)) * (q / root) / (2 * math.pi))

    def mean(self, q: Array) -> Array:
        return q / (jnp.sqrt(1 + q) * math.sqrt(2 * math.pi))


class Sinusoid(Nonlinearity):
    """phi(x) = scale * sin(frequency x + phase). With Q1, Q2, C = frequency^2 (q1, q2, c), by parity

        E[sin(u + p) sin(v + p)] = cos(p)^2 S + sin(p)^2 T,   S = e^{-(Q1 + Q2)/2} sinh(C),  T = e^{-(Q1 + Q2)/2}
        cosh(C),

    evaluated as exponentials of half squared distances, so that large variances neither overflow nor cancel.
    """

    scale: eqx.AbstractVar[Scalar]
    frequency: eqx.AbstractVar[Scalar]

    @abc.abstractmethod
    def _cosine_sine(self) -> tuple[Scalar, Scalar]:
        """cos and sin of the phase."""

    def _pair(self, nearer: Array, size: Array, sign: Array) -> tuple[Array, Array]:
        envelope = jnp.exp(-nearer) / 2
        return -sign * envelope * jnp.expm1(-2 * size), envelope * (1 + jnp.exp(-2 * size))

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        f = self.frequency * self.frequency
        difference = safe_sqrt(xx) - safe_sqrt(yy)
        nearer = f * (difference * difference / 2 + gap)
        odd, even = self._pair(nearer, f * size(xy), _sign(xy))
        cosine, sine = self._cosine_sine()
        a, b = self.scale * self.scale * cosine * cosine, self.scale * self.scale * sine * sine
        value, derivative = a * odd + b * even, f * (a * even + b * odd)
        top = safe_sqrt(self.variance(xx)) * safe_sqrt(self.variance(yy))
        # Parallel inputs of very different variance: nothing is gained there, and the determinant cancels itself.
        comparable = (f * (xx + yy) < 2) | ((xx < 16 * yy) & (yy < 16 * xx) & (2 * size(value) > top))
        # At a zero row of an odd phi the quotient is 0 / 0, while the plain difference has the gap's slope, -d|value|.
        comparable = comparable & (top > 0)
        close = safe_divide(self._determinant(f * xx, f * yy, f * size(xy), f * gap, xy < 0), top + size(value))
        return Dual(value, derivative, not_negative(jnp.where(comparable, close, top - size(value))))

    def _determinant(self, q1: Array, q2: Array, c: Array, gap: Array, opposite: Array) -> Array:
        """E[phi(u)^2] E[phi(v)^2] - E[phi(u) phi(v)]^2, which the gap behind follows from.

        With a = cos(p)^2, b = sin(p)^2 it is e^{-(Q1 + Q2)} times

            a^2 (sinh(H) sinh(h) - sinh(D)^2) + b^2 (sinh(H) sinh(h) + sinh(D)^2) + 2 a b cosh(H) sinh(h)

        with D = (Q1 - Q2) / 2 and h, H = (Q1 + Q2) / 2 -+ |C|, of which h vanishes for equal inputs; in the last term
        they change places where C < 0.
        """
        a, b = safe_sqrt(q1), safe_sqrt(q2)
        apart = (a - b) * (a - b)
        near, far = -jnp.expm1(-apart - 2 * gap), -jnp.expm1(-q1 - q2 - 2 * c)
        unequal = jnp.exp(-jnp.minimum(q1, q2)) * jnp.expm1(-size((a - b) * (a + b)))
        # Of two sinusoids of one phase, what the angle costs, without cancellation, and what the lengths cost.
        turned = jnp.exp(-apart) * jnp.expm1(-2 * gap) * jnp.expm1(-2 * (a * b + c))
        odd = turned + _parallel_sines(q1, q2, unequal)
        cosine, sine = self._cosine_sine()
        a, b = cosine * cosine, sine * sine
        mixed = jnp.where(opposite, far * (2 - near), near * (2 - far))
        total = a * a * odd + b * b * (near * far + unequal * unequal) + 2 * a * b * mixed
        return self.scale * self.scale * self.scale * self.scale / 4 * total

    def diagonal(self, q: Array) -> Diagonal:
        f = self.frequency * self.frequency
        odd, even = self._pair(jnp.zeros_like(q), f * q, jnp.ones_like(q))
        cosine, sine = self._cosine_sine()
        a, b = self.scale * self.scale * cosine * cosine, self.scale * self.scale * sine * sine
        return Diagonal(a * odd + b * even, f * (a * even + b * odd))

    def mean(self, q: Array) -> Array:
        return self.scale * self._cosine_sine()[1] * jnp.exp(-self.frequency * self.frequency * q / 2)


def _parallel_sines(q1: Array, q2: Array, unequal: Array) -> Array:
    """2 e^{-p} (cosh(p) - cosh(m) - cosh(w) + 1), p = Q1 + Q2, m^2 = 4 Q1 Q2, w = Q1 - Q2: 0 up to the fourth order.

    As p^2 = m^2 + w^2, it is a power series of positive terms, which is summed where p is small.
    """
    p = q1 + q2
    m, w = jnp.where(p < 2, 4 * q1 * q2, 0), jnp.where(p < 2, (q1 - q2) * (q1 - q2), 0)
    total, left, powers_m, powers_w, factor = jnp.zeros_like(p), jnp.zeros_like(p), m, w, 0.5
    for k in range(2, 11):  # left = (m + w)^k - m^k - w^k
        left = left * (m + w) + powers_m * w + powers_w * m
        powers_m, powers_w, factor = powers_m * m, powers_w * w, factor / ((2 * k - 1) * 2 * k)
        total = total + factor * left
    a, b = safe_sqrt(q1), safe_sqrt(q2)
    direct = jnp.expm1(-(a - b) * (a - b)) * jnp.expm1(-(a + b) * (a + b)) - unequal * unequal
    return jnp.where(p < 2, 2 * jnp.exp(-p) * total, direct)


def _sign(x: Array) -> Array:
    return jnp.where(x < 0, -jnp.ones_like(x), 1)


class Sin(Sinusoid):
    """phi(x) = scale * sin(frequency x + phase)."""

    scale: Scalar = 1.0
    frequency: Scalar = 1.0
    phase: Scalar = 0.0

    @property
    def parity(self) -> Parity:
        return "odd" if is_zero(self.phase) else "none"

    def _cosine_sine(self) -> tuple[Scalar, Scalar]:
        return (1.0, 0.0) if is_zero(self.phase) else (jnp.cos(self.phase), jnp.sin(self.phase))

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.scale * jnp.sin(self.frequency * x + self.phase)


class Cos(Sinusoid):
    """phi(x) = scale * cos(frequency x)."""

    scale: Scalar = 1.0
    frequency: Scalar = 1.0

    @property
    def parity(self) -> Parity:
        return "even"

    def _cosine_sine(self) -> tuple[Scalar, Scalar]:
        return 0.0, 1.0

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.scale * jnp.cos(self.frequency * x)


class Gaussian(Nonlinearity):
    """phi(x) = exp(-rate x^2). With D = (1 + 2 r q1)(1 + 2 r q2) - 4 r^2 c^2,

    E[phi phi] = D^(-1/2),   E[phi' phi'] = 4 r^2 c D^(-3/2).
    """

    rate: Scalar = 1.0

    @property
    def parity(self) -> Parity:
        return "even"

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(-self.rate * x * x)

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        r = self.rate
        pair = _Scaled.of(2 * r, xx, xy, yy, gap)
        value = pair.inverse
        derivative = 4 * r * r * (pair.over(xy) / pair.root * value) * value
        # With A = 1 + 4 r q the variances behind are A^(-1/2), and D - sqrt(A1 A2) is a sum of positive terms.
        a, b = jnp.sqrt(1 + 4 * r * xx), jnp.sqrt(1 + 4 * r * yy)
        apart = pair.over(4 * r * (xx - yy) / (a + b))
        excess = (apart * apart / 2 + 4 * r * r * gap * (pair.s + size(pair.c))) / pair.root / pair.root
        top = 1 / (jnp.sqrt(a) * jnp.sqrt(b))
        return Dual(value, derivative, top * excess / (1 + jnp.sqrt(a) * jnp.sqrt(b) * value))

    def diagonal(self, q: Array) -> Diagonal:
        d = 1 + 4 * self.rate * q
        value = 1 / jnp.sqrt(d)
        return Diagonal(value, 4 * self.rate * self.rate * q / d * value)

    def mean(self, q: Array) -> Array:
        return 1 / jnp.sqrt(1 + 2 * self.rate * q)


def _with_value(gap: Array, top: Array, value: Array) -> Array:
    """A wide gap as the plain difference: its rounding then goes with that of the value, which over many layers counts
    more than its own size."""
    return not_negative(jnp.where(gap > top / 64, top - size(value), gap))
