"""A dual as a table: a Chebyshev series in the angle whose coefficients are bilinear in features of the two variances.

With s = sqrt(q), N(s)^2 = E[phi(s z)^2], N1(s)^2 = E[phi'(s z)^2] and t a Moebius image of the angle,

    E[phi'(u) phi'(v)] / (N1 N1)    = sum_k T_k(t) f_k(s1) . f_k(s2)
    E[phi(u) phi(v)]   / (N N)      = 1 - |a(s1) - a(s2)|^2 / 2 - (1 - cos(theta)) D(theta)
    D(theta)                        = sum_k T_k(t) g_k(s1) . g_k(s2)

The second form never cancels for nearly parallel pairs. By Price's theorem D is the mean of the derivative's dual
over the correlations passed on the way from 1, so both series come from one oracle. For an odd or even phi the angle
is folded into [0, pi/2].
"""

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from numpy.polynomial.legendre import leggauss

from ntkit.nn.activations._kinks import Kink
from ntkit.nn.activations._quadrature import derivative_of, duals, half_line_rule, hosted, split_dual


class Scale(NamedTuple):
    """s -> x in [-1, 1] on 0 <= s <= top: (x + 1) / 2 = s (a / (s + centre) + linear / top), with a such that 1 is
    reached at the top."""

    top: float
    centre: float
    linear: float = 0.0

    def parts(self) -> tuple[float, float]:
        """a, and b = linear / top."""
        return (1 - self.linear) * (self.top + self.centre) / self.top, self.linear / self.top

    def nodes(self, count: int) -> np.ndarray:
        (a, b), c = self.parts(), self.centre
        p = (np.cos(np.pi * (np.arange(count) + 0.5) / count) + 1) / 2
        slope = a + b * c - p
        return 2 * c * p / (slope + np.sqrt(slope * slope + 4 * b * c * p))

    def __call__(self, s):
        a, b = self.parts()
        return 2 * s * (a / (s + self.centre) + b) - 1


class Halves(NamedTuple):
    """A scale below `low.top` and one from there on, with polynomials of their own: T_j of either is 0 on the other.

    They alternate, so that the first few of both are the first few of all.
    """

    low: Scale
    high: Scale

    @property
    def top(self) -> float:
        return self.low.top + self.high.top

    def nodes(self, count: int) -> np.ndarray:
        return np.stack([self.low.nodes(count // 2), self.low.top + self.high.nodes(count // 2)], 1).ravel()


def basis_at(scale: Scale | Halves, s: np.ndarray, count: int) -> np.ndarray:
    """The first polynomials of a scale at these s, (s, count), in NumPy."""
    if isinstance(scale, Scale):
        return chebyshev.chebvander(scale(s), count - 1)
    below = (s < scale.low.top)[:, None]
    halves = [
        np.where(mine, chebyshev.chebvander(half(x), (count + 1) // 2 - 1), 0)
        for mine, half, x in (
            (below, scale.low, np.minimum(s, scale.low.top)),
            (~below, scale.high, np.maximum(s - scale.low.top, 0)),
        )
    ]
    return np.stack(halves, 2).reshape(len(s), -1)[:, :count]


def from_nodes(scale: Scale | Halves, count: int) -> np.ndarray:
    """Maps values at the nodes of a scale to coefficients of its polynomials."""
    if isinstance(scale, Scale):
        return to_coefficients(count)
    return np.kron(to_coefficients(count // 2), np.eye(2))


class Turn(NamedTuple):
    """theta -> t in [-1, 1] on 0 <= theta <= top: t = 2 (1 / top + bend) theta / (1 + bend theta) - 1."""

    top: float
    bend: float

    def nodes(self, count: int) -> np.ndarray:
        return self.inverse(np.cos(np.pi * (np.arange(count) + 0.5) / count))

    def inverse(self, t: np.ndarray) -> np.ndarray:
        return (t + 1) / (2 * (1 / self.top + self.bend) - (t + 1) * self.bend)

    def __call__(self, theta):
        return (2 / self.top + 2 * self.bend) * theta / (1 + self.bend * theta) - 1


class Growth(NamedTuple):
    """s^start (1 + s)^(end - start), times (s / top)^rest beyond the table: how a norm vanishes at 0 and grows."""

    start: int
    end: int
    rest: float

    def __call__(self, s):
        return s**self.start * (1 + s) ** float(self.end - self.start)


class Tables(NamedTuple):
    """Samples at the nodes of `scale` (S of them) and `turn` (K of them), float64."""

    scale: Scale | Halves
    turn: Turn
    parity: int  # of phi: +1 even, -1 odd, 0 neither
    jump: bool  # phi itself jumps: then 1 - cos(theta) above becomes sin(theta / 2)
    growths: tuple[Growth, Growth]
    norms: np.ndarray  # (3, S): N and N1 over their growths, mean / N
    gram: np.ndarray  # (S, S): E[phi(s z) phi(s' z)] / (N N')
    slope: np.ndarray  # (K, S, S): the derivative's dual over N1 N1'
    mean_slope: np.ndarray  # (K, S, S): D


class Sampler(NamedTuple):
    """phi and phi', in JAX, and how finely they are integrated."""

    value: Callable
    slope: Callable
    parity: int
    jump: bool
    nodes: int

    def duals(self, which: str, s: np.ndarray, thetas: np.ndarray) -> np.ndarray:
        parity = self.parity if which == "value" else -self.parity
        return duals(getattr(self, which), s, thetas, angles=self.nodes, radii=self.nodes, parity=parity)

    def rays(self, which: str, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The function at s z on both half-lines times the root of the weight, (S, 2 Z), and that root, (2 Z)."""
        z, w = half_line_rule(2 * self.nodes)
        root = np.sqrt(np.concatenate([w, w]))
        return hosted(getattr(self, which))(s[:, None] * np.concatenate([z, -z])) * root, root


def find_parity(value: Callable) -> int:
    """+1 for an even function, -1 for an odd one, 0 otherwise, by sampling."""
    x = np.concatenate([np.logspace(-4, 2, 61), np.linspace(0.013, 12, 301)])
    plus, minus = value(x), value(-x)
    size = 1e-13 * (np.abs(plus) + np.abs(minus))
    return 1 if np.all(np.abs(plus - minus) <= size) else -1 if np.all(np.abs(plus + minus) <= size) else 0


def sample_tables(sample: Sampler, top: float, size: int, terms: int) -> Tables:
    """Everything the series is made of, at Chebyshev nodes in s and in the angle."""
    scale = Scale(top, (0.2 * top) ** 0.5)
    turn = Turn(np.pi / 2, top / 5) if sample.parity else Turn(np.pi, 0.0)
    s, thetas = scale.nodes(size), turn.nodes(terms)
    values, root = sample.rays("value", s)
    slopes, _ = sample.rays("slope", s)
    n0, n1 = np.linalg.norm(values, axis=1), np.linalg.norm(slopes, axis=1)
    unit = values / n0[:, None]
    slope = sample.duals("slope", s, thetas) / np.outer(n1, n1)
    if sample.jump:
        value = sample.duals("value", s, thetas) / np.outer(n0, n0)
        mean_slope = (unit @ unit.T - value) / np.sin(thetas / 2)[:, None, None]
    else:
        ratio = s * n1 / n0
        mean_slope = np.tensordot(averages(turn, terms), slope, 1) * np.outer(ratio, ratio)
    growths = find_growth(sample, "value", top), find_growth(sample, "slope", top)
    norms = np.array([n0 / growths[0](s), n1 / growths[1](s), values @ root / n0])
    return Tables(scale, turn, sample.parity, sample.jump, growths, norms, unit @ unit.T, slope, mean_slope)


def averages(turn: Turn, terms: int) -> np.ndarray:
    """Maps samples of h(theta) to those of int_0^theta h(t) sin(t) dt / (1 - cos(theta)), a mean of h."""
    p, w = leggauss(terms + 8)
    p, w = (p + 1) / 2, w / 2
    theta = turn.nodes(terms)[:, None]
    weight = w * theta * np.sin(theta * p) / (2 * np.sin(theta / 2) ** 2)
    basis = chebyshev.chebvander(turn(theta * p), terms - 1)
    return np.einsum("tp,tpk->tk", weight, basis) @ to_coefficients(terms)


def to_coefficients(count: int) -> np.ndarray:
    """Maps values at the `count` Chebyshev nodes to Chebyshev coefficients."""
    k, j = np.arange(count)[:, None], np.arange(count)
    return np.cos(np.pi * k * (j + 0.5) / count) * np.where(k == 0, 1, 2) / count


def find_growth(sample: Sampler, which: str, top: float) -> Growth:
    """Exponents of the norm at 0 and at the top of the table."""
    return growth_of(np.linalg.norm(sample.rays(which, growth_ends(top))[0], axis=1))


def growth_ends(top: float) -> np.ndarray:
    """Where a norm is asked for its growth."""
    return np.array([1e-5, 2e-5, 0.97 * top, top])


def growth_of(norms: np.ndarray) -> Growth:
    """Exponents from the norms at these places."""
    log = np.log(np.maximum(norms, 1e-300))
    start = int(np.clip(np.rint((log[1] - log[0]) / np.log(2)), 0, 8))
    slope = (log[3] - log[2]) / -np.log(0.97)
    # Limits are powers of sqrt(s): tanh tends to a constant, its slope's norm to s^(-1/2).
    half = np.rint(2 * slope) / 2
    slope = half if abs(slope - half) < 0.06 else slope
    end = int(np.clip(np.rint(slope), -8, 8))
    return Growth(start, end, float(slope - end))


class Block(NamedTuple):
    """Some consecutive terms of both series, of slope and of mean slope: `left` and `right` map T_j(x) to features,
    (k, 2, r, S)."""

    left: np.ndarray
    right: np.ndarray


class Series(NamedTuple):
    """The tables cut to a tolerance, in one dtype: what a dual is computed from."""

    scale: Scale | Halves
    turn: Turn
    parity: int
    jump: bool
    growths: tuple[Growth, Growth]
    norms: np.ndarray  # (3, S)
    features: np.ndarray  # (r, S): a(s)
    blocks: tuple[Block, ...]
    terms: int  # of the angle's series
    ranks: int  # features per side, of both series
    degree: int  # of the features


def compress(tables: Tables, tolerance: float, dtype: type) -> Series:
    """Drops what is below the tolerance: terms of the angle, features, powers of the variance."""
    size = tables.gram.shape[0]
    back = from_nodes(tables.scale, size)
    series = [_terms(t, back, tolerance) for t in (tables.slope, tables.mean_slope)]
    features = find_features(tables.gram, tolerance / 8)[0] @ back.T
    norms = tables.norms @ back.T
    everything = [norms, features, *(f for terms in series for pair in terms for f in pair)]
    degree = max(_needed(f, tolerance / 10) for f in everything)
    blocks = _blocks([[(a[:, :degree], b[:, :degree]) for a, b in terms] for terms in series], dtype)
    ranks = sum(len(a) for terms in series for a, _ in terms)
    return Series(
        tables.scale, tables.turn, tables.parity, tables.jump, tables.growths, norms[:, :degree].astype(dtype),
        features[:, :degree].astype(dtype), blocks, max(map(len, series)), ranks, degree,
    )  # fmt: skip


def _terms(samples: np.ndarray, back: np.ndarray, tolerance: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per Chebyshev term of the angle, features of the left and the right variance as Chebyshev coefficients."""
    series = np.tensordot(to_coefficients(len(samples)), samples, 1)
    tails = np.cumsum(np.abs(series).max((1, 2))[::-1])[::-1]
    kept = max(1, int((tails > tolerance / 4).sum()))
    pairs = (find_features(term, tolerance / (2 * kept**0.5)) for term in series[:kept])
    return [(left @ back.T, right @ back.T) for left, right in pairs]


def find_features(matrix: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """left, right (r, S) with left^T right = matrix up to the tolerance, entrywise, for a symmetric matrix."""
    size, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    weight = np.abs(size) * np.abs(vectors).max(0) ** 2
    order = np.argsort(-weight)
    tails = np.cumsum(weight[order][::-1])[::-1]
    order = order[: max(1, int((tails > tolerance).sum()))]
    right = np.sqrt(np.abs(size[order]))[:, None] * vectors[:, order].T
    return np.sign(size[order])[:, None] * right, right


def _needed(rows: np.ndarray, tolerance: float) -> int:
    """How many coefficients of each row matter, for the row that needs most."""
    tails = np.cumsum(np.abs(rows)[:, ::-1], axis=1)[:, ::-1].max(0)
    return max(2, int((tails > tolerance).sum()))


def _blocks(both: list[list[tuple[np.ndarray, np.ndarray]]], dtype: type) -> tuple[Block, ...]:
    """Terms of similar rank run in one loop: the features of both series are padded to the same number."""
    count, degree = max(map(len, both)), both[0][0][0].shape[1]
    nothing = np.zeros((0, degree))
    terms = [[series[k] if k < len(series) else (nothing, nothing) for series in both] for k in range(count)]
    blocks = []
    for low, high in itertools.pairwise(sorted({0, *(e for e in (12, 28, 52) if e < count), count})):
        rank = max(len(a) for term in terms[low:high] for a, _ in term)
        sides = np.zeros((2, high - low, 2, rank, degree), dtype)
        for k, term in enumerate(terms[low:high]):
            for which, pair in enumerate(term):
                for side in (0, 1):
                    sides[side, k, which, : len(pair[side])] = pair[side]
        blocks.append(Block(*sides))
    return tuple(blocks)


def evaluate(series: Series, s: np.ndarray, thetas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both normalised duals at all pairs of s and all thetas, in NumPy: (thetas, s, s) each. Checks the fit."""
    basis = basis_at(series.scale, s, series.degree).T
    folded = np.minimum(thetas, np.pi - thetas) if series.parity else thetas
    sign = np.where(thetas > np.pi / 2, series.parity or 1, 1)[:, None, None]
    angle = chebyshev.chebvander(series.turn(folded), series.terms - 1)

    slope, mean_slope = totals(series, angle, basis)
    a = series.features @ basis
    base = 1 - np.sum((a[:, :, None] - a[:, None, :]) ** 2, 0) / 2
    way = np.sin(folded / 2) if series.jump else 2 * np.sin(folded / 2) ** 2
    value = base - way[:, None, None] * mean_slope
    slope_sign = np.where((thetas > np.pi / 2)[:, None, None] & (series.parity != 0), -series.parity, 1)
    return sign * value, slope_sign * slope


def totals(series: Series, angle: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sums over k, (thetas, s, s) each, from T_k(t), (thetas, K), and T_j(x), (S, s)."""
    sums = [np.einsum("kwrs,kwrt->kwst", block.left @ basis, block.right @ basis) for block in series.blocks]
    slope, mean_slope = np.moveaxis(np.tensordot(angle, np.concatenate(sums), 1), 1, 0)
    return slope, mean_slope


def measure(sample: Sampler, series: Series, places: tuple[float, ...] = ()) -> float:
    """The largest relative error of both duals on points that the fit has not seen, by a finer quadrature.

    `places` are kinks away from 0, which the fit's own quadrature does not split: there another one must be asked.
    """
    finer = sample._replace(nodes=sample.nodes + 18)
    s = series.scale.top * np.concatenate([[1e-4, 3e-3], np.linspace(0.113, 1, 11) ** 2])
    thetas = np.array([0.003, 0.041, 0.29, 0.83, 1.37, 1.93, 2.71, 3.11])
    if places:
        s, thetas = s[3::3], thetas[1::2]
    found = evaluate(series, s, thetas)
    worst = 0.0
    for which, got in zip(("value", "slope"), found, strict=True):
        if places:
            f = hosted(getattr(sample, which))
            exact = np.array([[[split_dual(f, places, a, b, t) for b in s] for a in s] for t in thetas])
            norm = np.sqrt([split_dual(f, places, a, a, 1e-9) for a in s])
        else:
            exact, norm = finer.duals(which, s, thetas), np.linalg.norm(finer.rays(which, s)[0], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.abs(exact / np.outer(norm, norm) - got)
        worst = max(worst, float(np.where(np.isnan(error), np.inf, error).max()))
    return worst


class Fit(NamedTuple):
    """Tables, their float64 series, and the error measured on it."""

    sample: Sampler
    tables: Tables
    series: Series
    error: float


@lru_cache(maxsize=64)
def fit(fn, derivative, kinks: tuple[Kink, ...], tolerance: float, top: float) -> Fit:
    """Refines until the measured error is below the tolerance, or says what it reached."""
    jump, places = any(kink.order == 0 for kink in kinks), tuple({k.place for k in kinks if k.place})
    best: Fit | None = None
    slope, parity = derivative or derivative_of(fn), find_parity(hosted(fn))
    for nodes, size, terms in ((52, 30, 42 if parity else 64), (72, 44, 72 if parity else 96), (104, 60, 140)):
        sample = Sampler(fn, slope, parity, jump, nodes)
        tables = sample_tables(sample, top, size, terms)
        series = compress(tables, tolerance / 4, np.float64)
        error = measure(sample, series, places)
        if best is None or error < best.error:
            best = Fit(sample, tables, series, error)
        if best.error <= tolerance / 2 or places:
            break
    assert best is not None
    return best
