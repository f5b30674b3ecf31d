"""What is left of a dual when its localised kinks are taken out, in float64: the oracle of `_mixed`.

    E[phi phi] - E[kappa kappa] = E[phi(u) g(v)] + E[g(u) kappa(v)],    g = phi - kappa

One rule in z serves all deviations s: its panels end wherever s z meets a kink, for any of them. At an angle the
expectation is a product of matrices with the bivariate normal density; near 0 and pi, where that is sharp, the smooth g
is first averaged given the other variable.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss

from ntkit.nn.activations._local import Local

# Beyond it the normal density is below 1e-16.
REACH = 8.7
# Panels without kinks; those near 0 serve large deviations.
_ENDS = np.concatenate([[0.02, 0.05, 0.1, 0.17], np.arange(0.25, REACH, 0.25), [REACH]])

Function = Callable[[jax.Array], jax.Array]


class Rule(NamedTuple):
    """Nodes, and weights without the normal density."""

    z: np.ndarray
    weights: np.ndarray

    def gaussian(self) -> np.ndarray:
        """Weights of E[f(z)]."""
        return self.weights * np.exp(-self.z * self.z / 2) / np.sqrt(2 * np.pi)


def common_rule(places: tuple[float, ...], s: np.ndarray, count: int) -> Rule:
    """`count` nodes on each panel between the kinks of all functions of s z."""
    kinks = np.abs(np.asarray(places)[:, None] / s).ravel()
    ends = np.unique(np.concatenate([[0.0], _ENDS, kinks[kinks < REACH]]))
    ends = np.concatenate([-ends[:0:-1], ends])
    width = np.diff(ends)
    low, width = ends[:-1][width > 1e-13, None], width[width > 1e-13, None]
    x, w = leggauss(count)
    return Rule((low + width * (x + 1) / 2).ravel(), (width / 2 * w).ravel())


class Kinked(NamedTuple):
    """A function of s z on the nodes of a rule, for all s: itself, kappa, and where kappa has jumps (to be smeared)."""

    fn: Function
    local: Local
    values: np.ndarray  # (S, Z)
    kinked: np.ndarray  # (S, Z)


def rest_dual(
    fn: Kinked, jumps: tuple[tuple[float, float], ...], s: np.ndarray, theta: float, rule: Rule
) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s s"]]:
    """E[fn fn] - E[kappa kappa] for all pairs of s, and what impulses (place, height) in kappa add to it."""
    smooth = fn.values - fn.kinked
    if np.sin(theta) > 0.08:
        density = rule.weights[:, None] * _density(rule.z[:, None], rule.z, theta)
        both = np.concatenate([fn.values, smooth]) @ (density * rule.weights)
        total = both[: len(s)] @ smooth.T + both[len(s) :] @ fn.kinked.T
        struck = [
            smooth @ (rule.weights[:, None] * _density(rule.z[:, None], p / s, theta)) * (c / s) for p, c in jumps
        ]
    else:
        points = np.concatenate([rule.z, *(p / s for p, _ in jumps)])
        given = np.asarray(_given(fn.fn, fn.local, s, theta, points))
        count, weights = len(rule.z), rule.gaussian()
        total = (fn.values * weights) @ given[:, :count].T + given[:, :count] @ (fn.kinked * weights).T
        at = given[:, count:].reshape(len(s), len(jumps), len(s))
        struck = [at[:, j] * np.exp(-((p / s) ** 2) / 2) / np.sqrt(2 * np.pi) * c / s for j, (p, c) in enumerate(jumps)]
    extra = sum(struck, np.zeros_like(total))
    return total, extra + extra.T


def _density(x: np.ndarray, y: np.ndarray, theta: float) -> np.ndarray:
    r, rho = np.sin(theta), np.cos(theta)
    return np.exp(-(x * x + y * y - 2 * rho * x * y) / (2 * r * r)) / (2 * np.pi * r)


def _given(fn: Function, local: Local, s: np.ndarray, theta: float, z: np.ndarray) -> jax.Array:
    """E[g(s (cos z + sin y))] over y, (S, Z): the trapezoid rule, on what is smooth at that scale."""
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        return _averages(fn, local, jnp.asarray(s), jnp.asarray([np.cos(theta), np.sin(theta)]), jnp.asarray(z))


@partial(jax.jit, static_argnums=(0, 1))
def _averages(fn: Function, local: Local, s: jax.Array, turn: jax.Array, z: jax.Array) -> jax.Array:
    y = np.arange(-34, 35) / 4
    weights = np.exp(-y * y / 2) / np.sqrt(2 * np.pi) / 4
    x = turn[0] * z[:, None] + turn[1] * y[None]

    def one(s: jax.Array) -> jax.Array:
        return (fn(s * x) - local(s * x, jnp)) @ weights

    return jax.lax.map(one, s)
