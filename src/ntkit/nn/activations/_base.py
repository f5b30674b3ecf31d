"""What a nonlinearity is: an elementwise function, and the three expectations the infinite reading asks of it."""

import abc
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.errors import InputError
from ntkit.nn._law import Covariance, Scalar, bracket, is_zero, lost, not_negative, safe_sqrt, size
from ntkit.nn._layer import Layer, Params, Shape, Signal
from ntkit.nn._masks import on_existing

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

    def narrower(self, dtype: Any) -> "tuple[tuple[float, Nonlinearity], ...]":
        return ()

    def normalized(self) -> "Affine":
        """(phi - E phi) / std phi under N(0, 1): zero mean and unit variance at variance 1."""
        mean, square = self.moments()
        variance = square - mean * mean
        if not variance > 1e-12 * max(square, 1e-300):
            raise InputError(f"`{self.name}` is constant under N(0, 1), so it cannot be normalised.")
        return Affine(self, scale=variance**-0.5, shift=-mean * variance**-0.5)

    def moments(self) -> tuple[float, float]:
        """E phi and E phi^2 under N(0, 1)."""
        with jax.enable_x64(True):
            one = jnp.ones((), jnp.float64)
            mean = 0.0 if self.parity == "odd" else float(self.mean(one))
            return mean, float(self.diagonal(one).value)

    def shape(self, shape: Shape) -> Shape:
        return shape

    @on_existing
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
        if is_zero(b):
            return Dual(a * a * raw.value, a * a * raw.derivative, a * a * raw.gap)
        # Kernels before and after are the centred one plus a product of means. Its gap is that before less what this
        # sum has added; what the other sum adds comes on top. Rounding of the centred lengths cancels in between.
        means = self.inner.mean(xx), self.inner.mean(yy)
        shifted = [a * mean + b for mean in means]
        squares = self.inner.diagonal(xx).value, self.inner.diagonal(yy).value
        spreads = [safe_sqrt(square - mean * mean) for square, mean in zip(squares, means, strict=True)]
        scaled = [size(a * spread) for spread in spreads]
        centred = raw.value - means[0] * means[1]
        value = a * a * centred + shifted[0] * shifted[1]
        before = lost(centred, means[0] * means[1]) + bracket(*spreads, *map(size, means))
        after = lost(a * a * centred, shifted[0] * shifted[1]) + bracket(*scaled, *map(size, shifted))
        return Dual(value, a * a * raw.derivative, not_negative(a * a * (raw.gap - before) + after))

    def diagonal(self, q: Array) -> Diagonal:
        a, b = self.scale, self.shift
        raw, mean = self.inner.diagonal(q), self.inner.mean(q)
        shifted = a * mean + b
        return Diagonal(a * a * (raw.value - mean * mean) + shifted * shifted, a * a * raw.derivative)

    def variance(self, q: Array) -> Array:
        return self.scale * self.scale * self.inner.variance(q) if is_zero(self.shift) else self.diagonal(q).value

    def mean(self, q: Array) -> Array:
        return self.scale * self.inner.mean(q) + self.shift

    def narrower(self, dtype: Any) -> tuple[tuple[float, Nonlinearity], ...]:
        return tuple((limit, Affine(way, self.scale, self.shift)) for limit, way in self.inner.narrower(dtype))


__all__ = ["Affine", "Diagonal", "Dual", "Nonlinearity", "Parity"]
