"""A dual as a table: a Chebyshev series in the angle whose coefficients are bilinear in features of the two variances.

With s = sqrt(q), N(s)^2 = E[phi(s z)^2], N1(s)^2 = E[phi'(s z)^2] and t a Moebius image of the angle,

    E[phi'(u) phi'(v)] / (N1 N1)    = sum_k T_k(t) f_k(s1) . f_k(s2)
    E[phi(u) phi(v)]   / (N N)      = 1 - |a(s1) - a(s2)|^2 / 2 - (1 - cos(theta)) D(theta)
    D(theta)                        = sum_k T_k(t) g_k(s1) . g_k(s2)

The second form never cancels for nearly parallel pairs. By Price's theorem D is the mean of the derivative's dual
over the correlations passed on the way from 1, so both series come from one oracle.

The angle is folded into [0, pi/2], where (u, -v) stands for (u, v) if their correlation is negative. An odd or even phi
turns its sign at most; any other is the sum of an odd and an even part, whose mixed duals vanish, and each part has
tables of its own. See docs/derivations/duals.md.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from numpy.polynomial.legendre import leggauss

from ntkit.nn.activations._quadrature import derivative_of, duals, half_line_rule, hosted


class Scale(NamedTuple):
    """s -> x in [-1, 1] on start <= s <= top: (x + 1) / 2 = w (a / (w + centre) + linear / width), w = s - start,
    with a such that 1 is reached at the top."""

    top: float
    centre: float
    linear: float = 0.0
    start: float = 0.0

    @property
    def width(self) -> float:
        return self.top - self.start

    def parts(self) -> tuple[float, float]:
        """a, and b = linear / width."""
        return (1 - self.linear) * (self.width + self.centre) / self.width, self.linear / self.width

    def nodes(self, count: int) -> np.ndarray:
        (a, b), c = self.parts(), self.centre
        p = (np.cos(np.pi * (np.arange(count) + 0.5) / count) + 1) / 2
        slope = a + b * c - p
        return self.start + 2 * c * p / (slope + np.sqrt(slope * slope + 4 * b * c * p))

    def __call__(self, s):
        (a, b), w = self.parts(), s - self.start
        return 2 * w * (a / (w + self.centre) + b) - 1


class Halves(NamedTuple):
    """A scale up to `low.top` and one from there on, with polynomials of their own: T_j of either is 0 on the other.

    They alternate, so that the first few of both are the first few of all.
    """

    low: Scale
    high: Scale

    @property
    def start(self) -> float:
        return self.low.start

    @property
    def top(self) -> float:
        return self.high.top

    def nodes(self, count: int) -> np.ndarray:
        return np.stack([self.low.nodes(count // 2), self.high.nodes(count // 2)], 1).ravel()


def basis_at(scale: Scale | Halves, s: np.ndarray, count: int) -> np.ndarray:
    """The first polynomials of a scale at these s, (s, count), in NumPy; below its start those of the start."""
    s = np.maximum(s, scale.start)
    if isinstance(scale, Scale):
        return chebyshev.chebvander(scale(s), count - 1)
    below = (s < scale.low.top)[:, None]
    halves = [
        np.where(mine, chebyshev.chebvander(half(x), (count + 1) // 2 - 1), 0)
        for mine, half, x in (
            (below, scale.low, np.minimum(s, scale.low.top)),
            (~below, scale.high, np.maximum(s, scale.low.top)),
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
    """s^start (1 + s)^(end - start) exp(-reach^2 / 4 s^2), times (s / top)^rest beyond the table: how a norm vanishes
    at 0, if at all, of a function that is 0 up to |x| = reach; and how it grows."""

    start: int
    end: int
    rest: float
    reach: float = 0.0

    def __call__(self, s):
        return s**self.start * (1 + s) ** float(self.end - self.start) * np.exp(-((self.reach / s) ** 2) / 4)


class Half(NamedTuple):
    """What the even part of a function adds to the tables; over the norms of the whole, in the folded angle."""

    gram: np.ndarray
    slope: np.ndarray
    mean_slope: np.ndarray


class Tables(NamedTuple):
    """Samples at the nodes of `scale` (S of them) and `turn` (K of them), float64.

    With `even`, `gram` and all below are those of the odd part alone.
    """

    scale: Scale | Halves
    turn: Turn
    parity: int  # of phi: +1 even, -1 odd, 0 neither
    growths: tuple[Growth, Growth]
    norms: np.ndarray  # (3, S): N and N1 over their growths, mean / N
    gram: np.ndarray  # (S, S): E[phi(s z) phi(s' z)] / (N N')
    slope: np.ndarray  # (K, S, S): the derivative's dual over N1 N1'
    mean_slope: np.ndarray  # (K, S, S): D
    even: Half | None = None


class Sampler(NamedTuple):
    """phi and phi', in JAX, and how finely they are integrated."""

    value: Callable
    slope: Callable
    parity: int
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
    scale, turn = Scale(top, (0.2 * top) ** 0.5), Turn(np.pi / 2, top / (5 if sample.parity else 10))
    s, thetas = scale.nodes(size), turn.nodes(terms)
    values, root = sample.rays("value", s)
    slopes, _ = sample.rays("slope", s)
    n0, n1 = np.linalg.norm(values, axis=1), np.linalg.norm(slopes, axis=1)
    growths = find_growth(sample, "value", top), find_growth(sample, "slope", top)
    norms = np.array([n0 / growths[0](s), n1 / growths[1](s), values @ root / n0])
    steps = averages(turn, terms)
    weights = np.outer(s * n1 / n0, s * n1 / n0)

    def half(unit: np.ndarray, slope: np.ndarray) -> Half:
        return Half(unit @ unit.T, slope, np.tensordot(steps, slope, 1) * weights)

    unit = values / n0[:, None]
    if sample.parity:
        only = half(unit, sample.duals("slope", s, thetas) / np.outer(n1, n1))
        return Tables(scale, turn, sample.parity, growths, norms, *only)
    # phi(u) phi(v) at theta and pi - theta: the sum of what the two parts give, and the difference. The slope of the
    # odd part is even.
    near, far = np.split(sample.duals("slope", s, np.concatenate([thetas, np.pi - thetas])) / np.outer(n1, n1), 2)
    plus, minus = np.split(unit, 2, axis=1)
    odd, even = (half((plus + sign * minus) * 0.5**0.5, (near - sign * far) / 2) for sign in (-1, 1))
    return Tables(scale, turn, 0, growths, norms, *odd, even)


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
    ends = growth_ends(top)
    return growth_of(np.linalg.norm(sample.rays(which, ends)[0], axis=1), ends)


def growth_ends(top: float, start: float = 0.0) -> np.ndarray:
    """Where a norm is asked for its growth."""
    low = start or 1e-5
    return np.array([low, 2 * low, 0.97 * top, top])


def growth_of(norms: np.ndarray, ends: np.ndarray, reach: float = 0.0) -> Growth:
    """Exponents from the norms at these places; with a reach, of a function that is 0 up to there."""
    log = np.log(np.maximum(norms, 1e-300)) + (reach / ends) ** 2 / 4
    first = int(np.clip(np.rint((log[1] - log[0]) / np.log(2)), 0, 8))
    slope = (log[3] - log[2]) / -np.log(0.97)
    # Limits are powers of sqrt(s): tanh tends to a constant, its slope's norm to s^(-1/2).
    half = np.rint(2 * slope) / 2
    slope = half if abs(slope - half) < 0.06 else slope
    end = int(np.clip(np.rint(slope), -8, 8))
    return Growth(first, end, float(slope - end), reach)


# Eigenvalues of a Gram matrix below it are rounding.
FINEST = 1e-14


class Block(NamedTuple):
    """Some consecutive terms of both series, of slope and of mean slope: `left` and `right` map T_j(x) to features,
    (k, 2, r, S)."""

    left: np.ndarray
    right: np.ndarray


class Even(NamedTuple):
    """The features and blocks of the even part, beside those of the odd one."""

    features: np.ndarray
    signs: np.ndarray
    blocks: tuple[Block, ...]


class Series(NamedTuple):
    """The tables cut to a tolerance, in one dtype: what a dual is computed from."""

    scale: Scale | Halves
    turn: Turn
    parity: int
    growths: tuple[Growth, Growth]
    norms: np.ndarray  # (3, S)
    features: np.ndarray  # (r, S): a(s)
    signs: np.ndarray  # (r,): of their squares. A Gram matrix has no negative ones; what `_mixed` leaves of it has
    blocks: tuple[Block, ...]
    terms: int  # of the angle's series
    ranks: int  # features per side, of both series
    degree: int  # of the features
    even: Even | None = None


def compress(tables: Tables, tolerance: float, dtype: type, finest: float = FINEST) -> Series:
    """Drops what is below the tolerance: terms of the angle, features, powers of the variance."""
    size = tables.gram.shape[0]
    back = from_nodes(tables.scale, size)
    halves = [tables] if tables.even is None else [tables, tables.even]
    # What is left of nearly opposite values is a square of features, and the angle behind its root.
    cut = tolerance / 8 if tables.even is None else max(tolerance**2, finest)
    pairs = [find_features(half.gram, cut) for half in halves]
    signs = [np.sign(np.sum(left * right, axis=1)).astype(dtype) for left, right in pairs]
    features = [left @ back.T for left, _ in pairs]
    series = [[_terms(t, back, tolerance) for t in (half.slope, half.mean_slope)] for half in halves]
    terms = [term for half in series for term in half]
    norms = tables.norms @ back.T
    everything = [norms, *features, *(f for term in terms for pair in term for f in pair)]
    degree, count = max(_needed(f, tolerance / 10) for f in everything), max(map(len, terms))
    features = [f[:, :degree].astype(dtype) for f in features]
    blocks = [_blocks([[(a[:, :degree], b[:, :degree]) for a, b in t] for t in half], count, dtype) for half in series]
    ranks = sum(len(a) for term in terms for a, _ in term)
    even = None if tables.even is None else Even(features[1], signs[1], blocks[1])
    return Series(
        tables.scale, tables.turn, tables.parity, tables.growths, norms[:, :degree].astype(dtype),
        features[0], signs[0], blocks[0], count, ranks, degree, even,
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


def _blocks(both: list[list[tuple[np.ndarray, np.ndarray]]], count: int, dtype: type) -> tuple[Block, ...]:
    """Terms of similar rank run in one loop: the features of both series are padded to the same number."""
    degree = both[0][0][0].shape[1]
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
    folded = np.minimum(thetas, np.pi - thetas)
    sign = np.where(thetas > np.pi / 2, -1, 1)[:, None, None]
    angle = chebyshev.chebvander(series.turn(folded), series.terms - 1)
    way = 2 * np.sin(folded / 2)[:, None, None] ** 2
    slope, mean_slope = totals(series, angle, basis)
    near, far = _apart(series.features @ basis)
    if series.even is None:
        value = 1 - near - way * mean_slope
        return (value, sign * slope) if series.parity > 0 else (sign * value, slope)
    more, mean_more = totals(series._replace(blocks=series.even.blocks), angle, basis)
    apart = np.where(sign < 0, far, near) + _apart(series.even.features @ basis)[0]
    return 1 - apart - way * (sign * mean_slope + mean_more), slope + sign * more


def _apart(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|a(s1) - a(s2)|^2 / 2 and |a(s1) + a(s2)|^2 / 2 for all pairs."""
    near = np.sum((a[:, :, None] - a[:, None, :]) ** 2, 0) / 2
    own = np.sum(a * a, 0)
    return near, own[:, None] + own - near


def totals(series: Series, angle: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sums over k, (thetas, s, s) each, from T_k(t), (thetas, K), and T_j(x), (S, s)."""
    sums = [np.einsum("kwrs,kwrt->kwst", block.left @ basis, block.right @ basis) for block in series.blocks]
    slope, mean_slope = np.moveaxis(np.tensordot(angle, np.concatenate(sums), 1), 1, 0)
    return slope, mean_slope


def measure(sample: Sampler, series: Series) -> float:
    """The largest relative error of both duals on points that the fit has not seen, by a finer quadrature."""
    finer = sample._replace(nodes=sample.nodes + 18)
    s = series.scale.top * np.concatenate([[1e-4, 3e-3], np.linspace(0.113, 1, 11) ** 2])
    thetas = np.array([0.003, 0.041, 0.29, 0.83, 1.37, 1.93, 2.71, 3.11])
    worst = 0.0
    for which, got in zip(("value", "slope"), evaluate(series, s, thetas), strict=True):
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
def fit(fn, derivative, tolerance: float, top: float) -> Fit:
    """Refines until the measured error is below the tolerance, or says what it reached."""
    best: Fit | None = None
    slope, parity = derivative or derivative_of(fn), find_parity(hosted(fn))
    for nodes, size, terms in ((52, 30, 42), (72, 44, 72), (104, 60, 140)):
        sample = Sampler(fn, slope, parity, nodes)
        tables = sample_tables(sample, top, size, terms)
        series = compress(tables, tolerance / 4, np.float64)
        error = measure(sample, series)
        if best is None or error < best.error:
            best = Fit(sample, tables, series, error)
        if best.error <= tolerance / 2:
            break
    assert best is not None
    return best
