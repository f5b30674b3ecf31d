"""Piecewise linear activations and the sign: closed formulas in the angle. Derivations: docs/derivations/duals.md.

Throughout, (u, v) ~ N(0, [[q1, c], [c, q2]]), s = sqrt(q1 q2), c = s cos(theta), gap = s - |c|.
"""

import abc
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkit.nn._law import Covariance, Scalar, not_negative, safe_divide, safe_sqrt, size
from ntkit.nn._layer import Signal
from ntkit.nn.activations._angle import acute, from_sides
from ntkit.nn.activations._base import Diagonal, Dual, Nonlinearity, Parity


class PiecewiseLinear(Nonlinearity):
    """phi(x) = below * x for x < 0, above * x for x >= 0: the arc-cosine kernels of order 1 (Cho and Saul 2009).

    E[phi phi]   = alpha c + beta (s sin(theta) - theta c),    alpha = (below^2 + above^2) / 2
    E[phi' phi'] = alpha - beta theta,                          beta = (above - below)^2 / (2 pi)
    """

    @abc.abstractmethod
    def slopes(self) -> tuple[Scalar, Scalar]:
        """`below` and `above`."""

    def _alpha_beta(self) -> tuple[Scalar, Scalar]:
        below, above = self.slopes()
        jump = above - below
        return (below * below + above * above) / 2, jump * jump / (2 * math.pi)

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        below, above = self.slopes()
        return jnp.where(x < 0, below * x, above * x)

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        # With psi the acute angle and w = sin(psi) - psi cos(psi), E[phi phi] is alpha c + beta s w at acute angles and
        # (beta pi - alpha) |c| + beta s w at obtuse ones: sums in which nothing cancels.
        alpha, beta = self._alpha_beta()
        below, above = self.slopes()
        psi, s, wedge = acute(xx, xy, yy, gap)
        far, obtuse, wedge = size(xy), -above * below, beta * wedge  # beta pi - alpha = -above below
        value = jnp.where(xy < 0, obtuse * far, alpha * far) + wedge
        derivative = jnp.where(xy < 0, -obtuse + beta * psi, alpha - beta * psi)
        total = above + below
        apart = alpha * gap - wedge + jnp.where(xy < 0, total * total / 2 * far, 0)  # alpha s - value
        if not (isinstance(obtuse, (int, float)) and obtuse >= 0):  # then the value may be negative
            apart = jnp.where(value < 0, alpha * s + value, apart)
        return Dual(value, derivative, not_negative(apart))

    def diagonal(self, q: Array) -> Diagonal:
        alpha, _ = self._alpha_beta()
        return Diagonal(alpha * q, jnp.full_like(q, 1) * alpha)

    def mean(self, q: Array) -> Array:
        below, above = self.slopes()
        return (above - below) * safe_sqrt(q) / math.sqrt(2 * math.pi)


class Relu(PiecewiseLinear):
    """phi(x) = max(x, 0)."""

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.nn.relu(x)

    def slopes(self) -> tuple[Scalar, Scalar]:
        return 0.0, 1.0


class LeakyRelu(PiecewiseLinear):
    """phi(x) = x for x >= 0, slope * x below."""

    slope: Scalar = 0.01

    def slopes(self) -> tuple[Scalar, Scalar]:
        return self.slope, 1.0


class Abs(PiecewiseLinear):
    """phi(x) = |x|."""

    @property
    def parity(self) -> Parity:
        return "even"

    def slopes(self) -> tuple[Scalar, Scalar]:
        return -1.0, 1.0


class Identity(Nonlinearity):
    """phi(x) = x, anywhere in a network: a Gaussian signal stays Gaussian; a branch of a `Sum` may be this alone."""

    @property
    def parity(self) -> Parity:
        return "odd"

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return x

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        return Dual(xy, jnp.ones_like(xy), gap)

    def diagonal(self, q: Array) -> Diagonal:
        return Diagonal(q, jnp.ones_like(q))

    def mean(self, q: Array) -> Array:
        return jnp.zeros_like(q)

    def propagate(self, cov: Covariance) -> Covariance:
        return cov

    def check(self, signal: Signal) -> Signal:
        return signal


class Sign(Nonlinearity):
    """phi(x) = sign(x), with phi' = 0 as automatic differentiation has it: E[phi phi] = 1 - 2 theta / pi.

    A row of variance 0 stays 0.
    """

    @property
    def parity(self) -> Parity:
        return "odd"

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.sign(x)

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        psi, s, _ = acute(xx, xy, yy, gap)
        alive = s > 0
        # pi / 2 - theta, from its sides: for nearly orthogonal inputs the difference would lose its digits.
        over = safe_divide(jnp.ones_like(xx), safe_sqrt(xx)) * safe_divide(jnp.ones_like(yy), safe_sqrt(yy))
        cosine = over * xy
        opposite = jnp.where(alive, safe_sqrt(over * gap * (1 + size(cosine))), 1)
        value = jnp.where(alive, from_sides(cosine, opposite) * (2 / math.pi), 0)
        return Dual(value, jnp.zeros_like(value), jnp.where(alive, psi * (2 / math.pi), 0))

    def diagonal(self, q: Array) -> Diagonal:
        return Diagonal(jnp.where(q > 0, jnp.ones_like(q), 0), jnp.zeros_like(q))

    def mean(self, q: Array) -> Array:
        return jnp.zeros_like(q)
