"""Gaussian expectations of any function with a kink at 0, in float64: the oracle the series is fitted to.

In polar coordinates (u, v) = r (sqrt(q1) cos(a), sqrt(q2) cos(a - theta)) a kink at 0 is a pair of rays. Between the
rays the integrand is smooth, and Gauss's rule converges geometrically. All four sectors are one wedge, seen from its
middle: there v is u read backwards.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss

# Beyond it the Gaussian weight r exp(-r^2 / 2) is below 1e-16.
REACH = 8.7


class Rule(NamedTuple):
    """Nodes and weights on a fixed interval."""

    nodes: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=256)
def derivative_of(fn: Callable) -> Callable:
    """fn', elementwise, by autodiff."""
    return lambda x: jax.jvp(fn, (x,), (jnp.ones_like(x),))[1]


@lru_cache(maxsize=256)
def hosted(f: Callable) -> Callable[[np.ndarray], np.ndarray]:
    """f, elementwise on NumPy arrays in float64, whatever precision or trace the caller is in."""
    compiled = jax.jit(f)

    def evaluate(x: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            return np.asarray(compiled(jnp.asarray(x, jnp.float64)), np.float64)

    return evaluate


@lru_cache(maxsize=32)
def ray_rule(count: int) -> Rule:
    """On r in [0, REACH], the nodes drawn to 0, where phi(s r) is sharp for large s."""
    x, w = leggauss(count)
    p = (x + 1) / 2
    return Rule(REACH * p**2, w * REACH * p)


def half_line_rule(count: int) -> Rule:
    """E[f(z); z > 0] for z ~ N(0, 1)."""
    z, w = ray_rule(count)
    return Rule(z, w * np.exp(-z * z / 2) / np.sqrt(2 * np.pi))


def duals(
    fn: Callable, s: np.ndarray, thetas: np.ndarray, *, angles: int, radii: int, parity: int
) -> Float[np.ndarray, "t s s"]:
    """E[fn(u) fn(v)] for all pairs of deviations s, at each theta.

    `parity` is +1 for an even function, -1 for an odd one, 0 otherwise: then one side serves for both.
    """
    # Where u and v have opposite signs, (u, -v) has the angle pi - theta.
    folded, index = np.unique(np.round(np.concatenate([thetas, np.pi - thetas]), 13), return_inverse=True)
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        same, across = map(np.asarray, _wedges(fn, s, folded, _rules(angles, radii), parity))
    return same[index[: len(thetas)]] + across[index[len(thetas) :]]


@lru_cache(maxsize=16)
def _rules(angles: int, radii: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x, w = leggauss(angles)
    r, wr = ray_rule(radii)
    # x (3 - x^2) / 2 draws the nodes to the rays, where phi(s r cos a) is sharp for large s. Its distance from 1 is
    # (1 - x)^2 (2 + x) / 2, exactly.
    return (1 - x) ** 2 * (2 + x) / 2, w * 1.5 * (1 - x * x), r, wr * r * np.exp(-r * r / 2) / (2 * np.pi)


@partial(jax.jit, static_argnums=(0, 4))
def _wedges(fn: Callable, s: jax.Array, thetas: jax.Array, rules: tuple[jax.Array, ...], parity: int):
    """For each theta, the sector u, v > 0: sums of fn(u) fn(v) + fn(-u) fn(-v), and of fn(u) fn(-v) + fn(-u) fn(v)."""
    far, weights, r, radial = rules

    def wedge(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        width = (np.pi - theta) / 2
        # Seen from its middle: u = s r cos(theta / 2 + beta) = s r sin(width * far), and v is u read backwards.
        points = jnp.sin(width * far)[:, None] * r[None, :]
        area = (width * weights)[:, None] * radial[None, :]

        def sample(g):
            return g.reshape(len(s), -1)

        x = s[:, None, None] * points[None]
        plus = fn(x)

        def gram(g, h):
            return sample(g * area[None]) @ sample(h[:, ::-1]).T

        if parity:
            same = 2 * gram(plus, plus)
            return same, parity * same
        minus = fn(-x)
        mixed = gram(plus, minus)
        return gram(plus, plus) + gram(minus, minus), mixed + mixed.T

    return jax.lax.map(wedge, thetas)
