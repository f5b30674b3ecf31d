"""The table of `_products`: nodes and weights that stand for Mehler's sum over j, and the b_j at the nodes.

Terms are vectors: their values at pairs of variances and at angles. Up to the tolerance they span few dimensions, and
the sum of all is, in so many equations, one of few with weights that are not negative, as Tchakaloff's theorem has it
for integrals. Such weights are what least squares without negative entries finds.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from ntkit.nn.activations._products import Products, Quadrature, Sums
from ntkit.nn.activations._quadrature import derivative_of, hosted
from ntkit.nn.activations._tables import Sampler, Scale, find_parity, to_coefficients

# Beyond it the Gaussian weight is below 1e-20.
REACH = 13.6
# Deviations that tables are made of; Hermite coefficients at most; terms at most.
SIZE, MOST, TERMS = 28, 4096, 64
# Nodes are looked for among the first j, and then in steps of this ratio, of either parity.
FIRST, RATIO = 48, 1.04
# Correlations at which sums are compared: closer to each other next to 1, where the one over j is longest.
HALF = np.concatenate([[1.0, 0.0], 1 - np.geomspace(1e-4, 0.1, 10), np.cos(np.pi * np.arange(1, 48, 2) / 96)])
ANGLES = np.concatenate([HALF, -HALF])


@lru_cache(maxsize=64)
def find_products(fn: Callable, slope: Callable | None, tops: tuple[float, ...], tolerance: float) -> Products | None:
    """The table, in float64, for deviations up to as many of `tops` (ascending) as it reaches the tolerance for; None
    if there are none.

    The error is that of both duals over their norms. It is measured on points that the table was not made of, against
    an integral over the angle.
    """
    slope, found = slope or derivative_of(fn), None
    for top in reversed(tops):
        found = _with_sum(found, fn, slope, top, tolerance)
    return found


def _with_sum(table: Products | None, fn: Callable, slope: Callable, top: float, tolerance: float) -> Products | None:
    """The table with sums for smaller deviations; a new one if there is none yet, or None."""
    samples = _sampled(fn, slope, Scale(top, (0.2 * top) ** 0.5), tolerance)
    for wanted in (tolerance, tolerance / 4):
        found = samples and _sums(samples, table, wanted)
        if found and _error(*found, fn, slope) < tolerance:
            return found[0]._replace(sums=(found[1], *found[0].sums))
    # What serves larger deviations serves these.
    return table and table._replace(sums=(table.sums[0]._replace(top=top), *table.sums))


def _sums(samples: "_Samples", table: Products | None, tolerance: float) -> tuple[Products, Sums] | None:
    """One for both duals. The terms of the value fall off faster: it takes fewer of the same nodes, with weights of its
    own."""
    slope, value = _terms(samples)
    both = _quadrature(np.hstack([slope, value]), tolerance, None if table is None else table.powers)
    if both is None:
        return None
    alone = _quadrature(value, tolerance, tuple(both))
    whole = table or _table(samples, tuple(both), tolerance)
    of_slope, of_value = (
        Quadrature(tuple(map(whole.powers.index, weights)), tuple(weights.values()))
        for weights in (both, {j: w / (j + 1) for j, w in (alone or both).items()})
    )
    return whole, Sums(samples.scale.top, of_slope, of_value)


class _Samples(NamedTuple):
    scale: Scale
    s: np.ndarray
    coefficients: np.ndarray  # (j, S)
    start: float
    mean: np.ndarray
    norm: np.ndarray
    slope_norm: np.ndarray


def _sampled(fn: Callable, slope: Callable, scale: Scale, tolerance: float) -> _Samples | None:
    """Hermite coefficients at the nodes of a scale: as many as matter. None where too many do, or all vanish."""
    s, (z, root, hermite) = scale.nodes(SIZE), _hermite(scale.top)
    b = hermite @ (hosted(slope)(s * z[:, None]) * root[:, None])
    rest = np.cumsum(b[::-1] ** 2, axis=0)[::-1]  # what the coefficients from here on hold
    values, start = hosted(fn)(s * z[:, None]), float(hosted(fn)(np.zeros(1))[0])
    mean, norm = root**2 @ (values - start) / s, np.sqrt(root**2 @ values**2)
    if not (np.isfinite(b).all() and np.isfinite(norm).all() and rest[0].all() and norm.all()):
        return None
    count = int((rest > tolerance / 50 * rest[0]).any(axis=1).sum())
    if count > 0.75 * MOST:
        return None
    if find_parity(hosted(fn)) < 0:
        mean = np.zeros_like(mean)  # not its rounding
    return _Samples(scale, s, b[: max(count, 2)], start, mean, norm, np.sqrt(rest[0]))


@lru_cache(maxsize=2)
def _hermite(top: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points z, the roots of their weights under N(0, 1), and He_j(z) / sqrt(j!) times these roots, (MOST, z).

    By the trapezoidal rule, which converges geometrically; fine enough for the waves of the last polynomial and those
    of a function that turns `top` times as fast as its argument.
    """
    h = 2 * np.pi / (2 * MOST**0.5 + 20 * top + 40)
    z = np.arange(-int(REACH / h), int(REACH / h) + 1) * h
    root = np.exp(-z * z / 4) * (h / np.sqrt(2 * np.pi)) ** 0.5
    rows = np.empty((MOST, len(z)))
    rows[0], rows[1] = root, z * root
    for j in range(2, MOST):
        rows[j] = (z * rows[j - 1] - np.sqrt(j - 1) * rows[j - 2]) / np.sqrt(j)
    return z, root, rows


def _table(samples: _Samples, powers: tuple[int, ...], tolerance: float) -> Products:
    # A norm that vanishes at 0 would be lost in the rounding of what it is at the top.
    (near, far), (low, high) = samples.s[-2:], samples.slope_norm[-2:]
    rise = round(np.log(high / low) / np.log(far / near)) if low > 0 else 0
    rows = np.vstack([samples.mean, samples.coefficients[[*powers]]]) / samples.s**rise @ to_coefficients(SIZE).T
    # As many Chebyshev terms as matter: small variances need half of them.
    sizes = [np.abs(a).max(0) / max(np.abs(a).max(), 1e-300) for a in (rows[:1], rows[1:])]
    degree = int(np.flatnonzero(np.max(sizes, axis=0) > tolerance / 100)[-1]) + 1
    return Products(samples.scale, samples.start, rise, powers, rows[:, :degree])


def _quadrature(terms: np.ndarray, tolerance: float, among: tuple[int, ...] | None) -> dict[int, float] | None:
    """Nodes and weights for the sum over j: as many of its principal components as it takes have their integral."""
    nodes = _candidates(terms, among)
    powers = ANGLES[:, None] ** nodes
    exact = ANGLES[:, None] ** np.arange(len(terms)) @ terms
    _, sizes, columns = np.linalg.svd(terms[nodes], full_matrices=False)
    columns = columns[sizes > 1e-3 * tolerance].T
    each = powers[:, None] * (terms[nodes] @ columns).T  # (angle, component, node)
    left, sizes, right = np.linalg.svd(each.reshape(-1, len(nodes)), full_matrices=False)
    components, integrals = sizes[:, None] * right, left.T @ (exact @ columns).ravel()
    for count in range(1, min(len(sizes), 2 * TERMS) + 1):
        weights = _not_negative_solution(components[:count], integrals[:count])
        used = np.flatnonzero(weights)
        if len(used) > TERMS:
            break
        if np.abs((powers[:, used] * weights[used]) @ terms[nodes[used]] - exact).max() < tolerance:
            return {int(j): float(w) for j, w in zip(nodes[used], weights[used], strict=True)}
    return None


def _not_negative_solution(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """w >= 0 with a w = b, of no more entries than equations; zeros where it does not converge."""
    try:
        return nnls(a, b)[0]
    except RuntimeError:
        return np.zeros(a.shape[1])


def _terms(samples: _Samples) -> tuple[np.ndarray, np.ndarray]:
    """The terms of both duals without their powers of rho, over the norms, at all pairs of nodes: (j, pairs) each."""
    b, (i, k) = samples.coefficients, np.triu_indices(SIZE)
    products = b[:, i] * b[:, k]
    over = samples.s[i] * samples.s[k] / (samples.norm[i] * samples.norm[k])
    return (
        products / (samples.slope_norm[i] * samples.slope_norm[k]),
        products * over / (np.arange(len(b)) + 1)[:, None],
    )


def _candidates(terms: np.ndarray, among: tuple[int, ...] | None) -> np.ndarray:
    """Those j that may be nodes."""
    if among is None:
        steps = np.round(FIRST * RATIO ** np.arange(np.log(MOST / FIRST) / np.log(RATIO))).astype(int)
        among = (*range(FIRST), *steps, *(steps + 1))
    every = np.unique(among)
    every = every[every < len(terms)]
    return every[np.abs(terms[every]).max(1) > 1e-14]


def _error(table: Products, sums: Sums, fn: Callable, slope: Callable) -> float:
    """The largest error of both duals over their norms, at points between those of the fit."""
    s = sums.top * np.array([0.003, 0.07, 0.31, 0.62, 0.9, 1.0])
    theta = np.array([0.003, 0.11, 0.43, 0.97, 1.49, 2.2, 3.05])
    sampler = Sampler(fn, slope, find_parity(hosted(fn)), 72)
    exact = [sampler.duals(which, s, theta) for which in ("value", "slope")]
    norms = [np.linalg.norm(sampler.rays(which, s)[0], axis=1) for which in ("value", "slope")]
    found = table.duals(sums, s, theta)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = [np.abs(a - b) / np.outer(n, n) for a, b, n in zip(exact, found, norms, strict=True)]
    return float(max(np.where(np.isnan(e), np.inf, e).max() for e in errors))
