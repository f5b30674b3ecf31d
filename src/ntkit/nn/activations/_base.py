"""What a nonlinearity is: an elementwise function, and the three expectations the infinite reading asks of it."""

import abc
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.errors import InputError
from ntkit.nn._law import Covariance, Scalar, is_zero, not_negative, relative, safe_sqrt, size
from ntkit.nn._layer import Layer, Params, Shape, Signal

Parity = Literal["odd", "even", "none"]


class Dual(NamedTuple):
    """E[phi(u) phi(v)], E[phi'(u) phi'(v)], and the gap sqrt(E[phi(u)^2] E[phi(v)^2]) - |E[phi(u) phi(v)]|."""

    value: Array
    derivative: Array
    gap: Array


class Diagonal(NamedTuple):
    """E[phi(u)^2] and E[phi'(u)^2]."""

    value: Array
    derivative: Array


class Nonlinearity(Layer):
    """An activation phi, applied to each channel.

    Infinite reading, with (u, v) ~ N(0, [[xx, xy], [xy, yy]]):

        K' = E[phi(u) phi(v)],   Theta' = E[phi'(u) phi'(v)] Theta

    so its input must be Gaussian. Every method broadcasts: `xx` may hold rows, `yy` columns, `xy` the matrix.
    """

    @property
    def parity(self) -> Parity:
        """Whether phi(-x) = -phi(x) ("odd"), phi(x) ("even"), or neither ("none")."""
        return "none"

    @abc.abstractmethod
    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """phi itself, elementwise."""

    @abc.abstractmethod
    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        """The expectations over a pair; `gap` is sqrt(xx yy) - |xy|."""

    @abc.abstractmethod
    def diagonal(self, q: Array) -> Diagonal:
        """The expectations for u = v of variance q."""

    def variance(self, q: Array) -> Array:
        """E[phi(u)^2] as it goes with `dual`; `diagonal` may spend more for more digits."""
        return self.diagonal(q).value

    @abc.abstractmethod
    def mean(self, q: Array) -> Array:
        """E[phi(u)] for u of variance q."""

    def normalized(self) -> "Affine":
        """(phi - E phi) / std phi under N(0, 1): zero mean and unit variance at variance 1."""
        with jax.enable_x64(True):
            one = jnp.ones((), jnp.float64)
            mean = 0.0 if self.parity == "odd" else float(self.mean(one))
            square = float(self.diagonal(one).value)
        variance = square - mean * mean
        if not variance > 1e-12 * max(square, 1e-300):
            raise InputError(f"`{self.name}` is constant under N(0, 1), so it cannot be normalised.")
        return Affine(self, scale=variance**-0.5, shift=-mean * variance**-0.5)

    def shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, params: Params, x: Float[Array, "..."], *, key: PRNGKeyArray | None = None) -> Float[Array, "..."]:
        return self.fn(x)

    def propagate(self, cov: Covariance) -> Covariance:
        if cov.one:
            value, derivative = self.diagonal(cov.xx)
            return cov.replace(xx=value, xy=value, yy=value, ntk=derivative * cov.ntk)
        value, derivative, gap = self.dual(cov.xx, cov.xy, cov.yy, cov.gap)
        xx, yy = self.variance(cov.xx), self.variance(cov.yy)
        return cov.replace(xx=xx, xy=value, yy=yy, ntk=derivative * cov.ntk, gap=gap)

    def check(self, signal: Signal) -> Signal:
        if not signal.gaussian:
            raise InputError(
                f"`{self.name}` needs a Gaussian input at infinite width, but here it follows {signal.source}. "
                "Put a `Dense` between them."
            )
        return signal.replace(gaussian=False, zero_mean=self.parity == "odd", source=f"`{self.name}`")


class Affine(Nonlinearity):
    """scale * phi + shift; what `activation.normalized()` returns."""

    inner: Nonlinearity
    scale: Scalar
    shift: Scalar

    @property
    def parity(self) -> Parity:
        return self.inner.parity if self.inner.parity == "even" or is_zero(self.shift) else "none"

    @property
    def name(self) -> str:
        return f"{self.inner.name}.normalized()"

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.scale * self.inner.fn(x) + self.shift

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        a, b = self.scale, self.shift
        raw = self.inner.dual(xx, xy, yy, gap)
        value = a * a * raw.value + a * b * (self.inner.mean(xx) + self.inner.mean(yy)) + b * b
        before = self.inner.diagonal(xx).value, self.inner.diagonal(yy).value
        after = self.diagonal(xx).value, self.diagonal(yy).value
        # A shift leaves E(phi(u) - phi(v))^2 / 2 = gap + (root difference)^2 / 2 alone, where the value is near +s.
        lengths = a * a * _half_square(*before), _half_square(*after)
        close = a * a * raw.gap + (lengths[0] - lengths[1])
        roots = safe_sqrt(after[0]) * safe_sqrt(after[1])
        # Of very different lengths that difference cancels more than the plain one.
        alike = (lengths[0] < roots) & (lengths[1] < roots)
        new_gap = jnp.where((raw.value > 0) & (value > 0) & alike, close, roots - size(value))
        return Dual(value, a * a * raw.derivative, not_negative(new_gap))

    def diagonal(self, q: Array) -> Diagonal:
        a, b = self.scale, self.shift
        raw = self.inner.diagonal(q)
        return Diagonal(a * a * raw.value + 2 * a * b * self.inner.mean(q) + b * b, a * a * raw.derivative)

    def mean(self, q: Array) -> Array:
        return self.scale * self.inner.mean(q) + self.shift


def _half_square(q1: Array, q2: Array) -> Array:
    difference = safe_sqrt(q1) - safe_sqrt(q2)
    return difference * difference / 2


def smooth_gap(
    parity: Parity,
    law: tuple[Array, Array, Array, Array],
    ends: tuple[Array, Array],
    value: Array,
    derivative: Array,
    slopes: tuple[Array, Array],
) -> Array:
    """The gap behind a smooth activation, without cancellation for nearly parallel inputs.

    By Price's theorem d value / d xy = derivative, so near the end of the range sqrt(k11 k22) - |value| is the
    input's gap times the mean of the derivative's dual over it, which for a smooth phi is the mean of its two ends.
    `ends` are E[phi^2] and `slopes` E[phi'^2] at xx and yy. What unequal variances add (a Cauchy-Schwarz gap at
    correlation 1, of the order of the squared relative difference) is taken from the plain difference where float
    precision can see it.
    """
    xx, xy, yy, gap = law
    _, ratio = relative(Covariance(xx, xy, yy, xy, gap, width=1))
    top = safe_sqrt(ends[0]) * safe_sqrt(ends[1])
    plain = not_negative(top - size(value))
    step = gap * (jnp.abs(derivative) + safe_sqrt(slopes[0]) * safe_sqrt(slopes[1])) / 2
    eps = jnp.finfo(value.dtype).eps
    noise = 16 * eps * top
    mismatch = plain - step
    close = step + jnp.where(mismatch > noise, mismatch, 0)
    parallel = (xy >= 0) if parity == "none" else jnp.full_like(xy, True, dtype=bool)
    return jnp.where(parallel & (ratio < eps**0.5), close, plain)


__all__ = ["Affine", "Diagonal", "Dual", "Nonlinearity", "Parity", "smooth_gap"]
