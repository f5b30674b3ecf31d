"""What is left of a dual when its localised kinks are taken out, in float64: the oracle of `_mixed`.

    E[phi phi] - E[kappa kappa] = E[phi(u) g(v)] + E[g(u) kappa(v)],    g = phi - kappa

One rule in z serves all deviations s: its panels end wherever s z meets a kink, for any of them, and are no wider than
the normal density of the pair. At an angle the expectation is a product of matrices with that density, in bands where
it is narrow; close to 0 and pi the smooth g is first averaged given the other variable.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss

from ntkit.nn.activations._local import Local
from ntkit.nn.activations._quadrature import hosted

# Beyond it the normal density is below 1e-16.
REACH = 8.7
# Panels without kinks; those near 0 serve large deviations, which draw what happens within [-15, 15] to there.
_ENDS = np.concatenate([[0.02, 0.05, 0.1, 0.18], np.arange(0.27, 1.5, 0.1), np.arange(1.5, REACH, 0.25), [REACH]])
# Below the last sine the density is not sampled; between them panels are as wide as the lower one times SPREAD.
_SINES, SPREAD = (0.16, 0.08, 0.04, 0.02), 1.3

# Gauss nodes a panel that is not narrow.
FINER = 11

Function = Callable[[jax.Array], jax.Array]


class Rule(NamedTuple):
    """Nodes, symmetric about 0 and ascending, and weights without the normal density."""

    z: np.ndarray
    weights: np.ndarray

    def gaussian(self) -> np.ndarray:
        """Weights of E[f(z)]."""
        return self.weights * np.exp(-self.z * self.z / 2) / np.sqrt(2 * np.pi)


def common_rule(
    places: tuple[float, ...], s: np.ndarray, count: int, widest: float = np.inf, reach: float = REACH
) -> Rule:
    """`count` nodes (fewer on narrow ones) on each panel between the kinks of all functions of s z, up to a reach."""
    kinks = np.abs(np.asarray(places)[:, None] / s).ravel()
    ends = np.unique(np.concatenate([[0.0], _ENDS, np.arange(REACH + 0.25, reach, 0.25), kinks[kinks < reach]]))
    parts = np.ceil(np.diff(ends) / widest - 1e-9).clip(1).astype(int)
    low, width = np.repeat(ends[:-1], parts), np.repeat(np.diff(ends) / parts, parts)
    low = low + width * (np.arange(len(low)) - np.repeat(np.cumsum(parts) - parts, parts))
    low, width = low[width > 1e-13], width[width > 1e-13]
    z, weights = [], []
    narrow, tiny = width < 0.02, width < 0.005
    for chosen, nodes in ((~narrow, count), (narrow & ~tiny, max(count - 2, 4)), (tiny, max(count - 4, 3))):
        x, w = leggauss(nodes)
        z.append((low[chosen, None] + width[chosen, None] * (x + 1) / 2).ravel())
        weights.append((width[chosen, None] / 2 * w).ravel())
    z, weights = np.concatenate(z), np.concatenate(weights)
    order = np.argsort(z)
    z, weights = z[order], weights[order]
    return Rule(np.concatenate([-z[::-1], z]), np.concatenate([weights[::-1], weights]))


class Line(NamedTuple):
    """A function, its kappa, and where impulses are to be added to kappa: (place, height)."""

    fn: Function
    local: Local
    jumps: tuple[tuple[float, float], ...] = ()

    def on(self, s: np.ndarray, rule: Rule) -> "Kinked":
        """Both at s z for all nodes."""
        x = s[:, None] * rule.z
        return Kinked(hosted(self.fn)(x), self.local(x))


class Kinked(NamedTuple):
    """A function of s z on the nodes of a rule, for all s: itself, and kappa."""

    values: np.ndarray  # (S, Z)
    kinked: np.ndarray  # (S, Z)


def rest_duals(
    line: Line, places: tuple[float, ...], s: np.ndarray, thetas: np.ndarray, count: int, reach: float = REACH
) -> tuple[Float[np.ndarray, "t s s"], Float[np.ndarray, "t s s"]]:
    """E[fn fn] - E[kappa kappa] for all pairs of s at each theta, and what the impulses in kappa add to it."""
    sines = np.sin(thetas)
    found = np.zeros((2, len(thetas), len(s), len(s)))
    bounds = (np.inf, *_SINES, -np.inf)
    for high, low in itertools.pairwise(bounds):
        chosen = np.flatnonzero((sines >= low) & (sines < high))
        if not len(chosen):
            continue
        # Wide panels need more nodes.
        wide = (count, SPREAD * low) if low > 0 else (max(count, FINER), np.inf)
        rule = common_rule(places, s, *wide, reach)
        known = line.on(s, rule)
        if low < 0:
            for k in chosen:
                found[:, k] = _close(line, known, s, thetas[k], rule)
            continue
        # An angle and its supplement share their products of matrices.
        folded, index = np.unique(np.round(np.minimum(thetas, np.pi - thetas)[chosen], 14), return_inverse=True)
        for i, angle in enumerate(folded):
            both = _apart(line, known, s, angle, rule)
            for k in chosen[index == i]:
                found[:, k] = both[int(thetas[k] > np.pi / 2)]
    return found[0], found[1]


def _apart(line: Line, known: Kinked, s: np.ndarray, theta: float, rule: Rule) -> list[tuple[np.ndarray, np.ndarray]]:
    """At theta and at pi - theta, where v is read backwards."""
    smooth = known.values - known.kinked
    left = _through(np.concatenate([known.values, smooth]) * rule.weights, rule.z, rule.z, theta) * rule.weights
    impulses = [(p / s, c / s, (smooth * rule.weights)) for p, c in line.jumps]
    answers = []
    for way in (slice(None), slice(None, None, -1)):
        total = left[: len(s)] @ smooth[:, way].T + left[len(s) :] @ known.kinked[:, way].T
        sign = 1 if way.step is None else -1
        extra = sum(
            (part @ _density(rule.z[:, None], sign * at, theta) * height for at, height, part in impulses),
            np.zeros_like(total),
        )
        answers.append((total, extra + extra.T))
    return answers


def _through(left: np.ndarray, x: np.ndarray, y: np.ndarray, theta: float) -> np.ndarray:
    """left(x) @ density(x, y), in bands of y: given y the density has the width sin(theta)."""
    reach, mean, found = 8.7 * np.sin(theta), np.cos(theta), np.empty((len(left), len(y)))
    # No more than a million entries of the density at a time.
    blocks = max(1, int(REACH / max(reach, 0.1)), len(x) * len(y) // 1_000_000)
    for block in np.array_split(np.arange(len(y)), blocks):
        low, high = np.searchsorted(x, (mean * y[block[0]] - reach, mean * y[block[-1]] + reach))
        found[:, block] = left[:, low:high] @ _density(x[low:high, None], y[block], theta)
    return found


def _close(line: Line, known: Kinked, s: np.ndarray, theta: float, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Near 0 or pi: g is averaged given the other variable."""
    points = np.concatenate([rule.z, *(p / s for p, _ in line.jumps)])
    given = np.asarray(_given(line.fn, line.local, s, theta, points))
    count, weights = len(rule.z), rule.gaussian()
    total = (known.values * weights) @ given[:, :count].T + given[:, :count] @ (known.kinked * weights).T
    at = given[:, count:].reshape(len(s), len(line.jumps), len(s))
    struck = (
        at[:, j] * np.exp(-((p / s) ** 2) / 2) / np.sqrt(2 * np.pi) * c / s for j, (p, c) in enumerate(line.jumps)
    )
    extra = sum(struck, np.zeros_like(total))
    return total, extra + extra.T


def _density(x: np.ndarray, y: np.ndarray, theta: float) -> np.ndarray:
    # (x - y)^2 + 2 (1 - rho) x y, over 2 r^2, without cancellation.
    r = np.sin(theta)
    difference = x - y
    return np.exp(-(difference * difference / (2 * r * r) + x * y / (2 * np.cos(theta / 2) ** 2))) / (2 * np.pi * r)


def _given(fn: Function, local: Local, s: np.ndarray, theta: float, z: np.ndarray) -> jax.Array:
    """E[g(s (cos z + sin y))] over y, (S, Z): the trapezoid rule, on what is smooth at that scale."""
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        return _averages(fn, local, jnp.asarray(s), jnp.asarray([np.cos(theta), np.sin(theta)]), jnp.asarray(z))


@partial(jax.jit, static_argnums=(0, 1))
def _averages(fn: Function, local: Local, s: jax.Array, turn: jax.Array, z: jax.Array) -> jax.Array:
    # At 0 a kink may be as sharp at large deviations as the function is there: twice as many points.
    finer = 2 if any(bump.place == 0 for bump in local.bumps) else 1
    y = np.arange(-17 * finer, 17 * finer + 1) / (2 * finer)
    weights = np.exp(-y * y / 2) / np.sqrt(2 * np.pi) / (2 * finer)
    x = turn[0] * z[:, None] + turn[1] * y[None]

    def one(s: jax.Array) -> jax.Array:
        return (fn(s * x) - local(s * x, jnp)) @ weights

    return jax.lax.map(one, s)
