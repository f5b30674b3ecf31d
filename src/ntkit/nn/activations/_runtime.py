"""The duals of a series, in JAX, for one pair or for anything that broadcasts.

Everything that belongs to one variance is computed before the pair is formed: under `vmap` it costs O(n + m), and
what is left per pair is one batched product of skinny matrices and a Clenshaw sum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ntkit.nn._law import safe_sqrt, size
from ntkit.nn.activations._angle import acute
from ntkit.nn.activations._base import Dual
from ntkit.nn.activations._quadrature import half_line_rule
from ntkit.nn.activations._tables import Block, Even, Fit, Halves, Sampler, Scale, Series


class Row(NamedTuple):
    """What the series needs of one variance."""

    basis: Array  # T_j(x(s)), (degree, ...)
    norm: Array  # E[phi^2]^(1/2)
    slope_norm: Array  # E[phi'^2]^(1/2)
    mean: Array  # E[phi]


def row(series: Series, q: Array) -> Row:
    """The Chebyshev polynomials at a variance, and the norms they give."""
    s = safe_sqrt(q)
    basis = chebyshev_basis(series.scale, s, series.norms.shape[1])
    over, slope_over, mean = lax.dot_general(series.norms, basis, (((1,), (0,)), ((), ())), precision="highest")
    norm = over * _growth(series, 0, s)
    return Row(basis, norm, slope_over * _growth(series, 1, s), mean * norm)


def _growth(series: Series, which: int, s: Array) -> Array:
    start, end, rest, reach = series.growths[which]
    over = jnp.maximum(s / series.scale.top, 1)
    # Integer powers: a general one costs a logarithm and its rounding, and has no gradient at 0.
    grown = s**start * (1 + s) ** (end - start) * over**rest
    # From 40 deviations on it is 0 in every dtype that is squared.
    return grown * jnp.exp(-((reach / jnp.maximum(s, reach / 40)) ** 2) / 4) if reach else grown


def chebyshev_basis(scale: Scale | Halves, s: Array, count: int) -> Array:
    """T_0(x(s)) ... T_{count-1}(x(s)) along a new first axis, for s within the table; outside those of its end."""
    if isinstance(scale, Halves):
        at, each = scale.low.top, (count + 1) // 2
        below = (s < at)[None]
        low = jnp.where(below, chebyshev_basis(scale.low, s, each), 0)
        high = jnp.where(below, 0, chebyshev_basis(scale.high, s, each))
        return jnp.stack([low, high], axis=1).reshape(2 * each, *s.shape)[:count]
    top, centre, (a, b) = scale.width, scale.centre, scale.parts()
    s = jnp.minimum(jnp.maximum(s - scale.start, 0), top) if scale.start else jnp.minimum(s, top)
    # The distance from the nearer end, over the width: T_k turns k^2 times as fast there as x itself.
    over = a / (s + centre)
    low, high = s * (over + b), (top - s) * (over * (centre / (top + centre)) + b)
    below = low < high
    turn = 2 * jnp.arcsin(safe_sqrt(jnp.where(below, low, high)))
    k = np.arange(count).reshape((-1,) + (1,) * s.ndim)
    # T_k(cos(turn)) = cos(k turn), with the sign (-1)^k from the other end.
    sign = jnp.where(below[None], (1.0 - 2.0 * (k % 2)).astype(s.dtype), 1)
    return sign * jnp.cos(k.astype(s.dtype) * turn[None])


def series_dual(series: Series, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
    """Both duals and the gap, as `Nonlinearity.dual`."""
    left, right = row(series, xx), row(series, yy)
    turn, way = _turned(series, xx, xy, yy, gap)
    if series.even is not None:
        return _halves_dual(series, series.even, left, right, xy, turn, way)
    slope, mean_slope = sums(series.blocks, left, right, turn)
    lost = _apart(series.features, left, right, xy)[0] + way * mean_slope
    top = left.norm * right.norm
    # `lost` is 1 - cosine between phi(u) and phi(v); where the angle was folded, between phi(u) and +-phi(v).
    value, derivative = top * (1 - lost), left.slope_norm * right.slope_norm * slope
    if series.parity < 0:
        value = jnp.where(xy < 0, -value, value)
    if series.parity > 0:
        derivative = jnp.where(xy < 0, -derivative, derivative)
    return Dual(value, derivative, top * jnp.maximum(jnp.where(lost <= 1, lost, 2 - lost), 0))


def _halves_dual(series: Series, even: Even, left: Row, right: Row, xy: Array, turn: Array, way: Array) -> Dual:
    """`series_dual` of a sum of an odd and an even part: where the angle was folded, the odd one turns its sign."""
    folded = xy < 0
    sign = jnp.where(folded, -1, 1).astype(xy.dtype)
    slope, mean_slope = sums(series.blocks, left, right, turn, even.blocks, sign[None])
    step = way * mean_slope
    (odd_near, odd_far), (even_near, even_far) = (
        _apart(features, left, right, xy) for features in (series.features, even.features)
    )
    # 1 - cosine and 1 + cosine between phi(u) and phi(v); the second, of folded pairs, is small where both nearly
    # vanish in their even parts.
    lost = jnp.where(folded, odd_far, odd_near) + even_near + sign * step
    other = jnp.where(folded, odd_near + even_far + step, 2 - lost)
    top = left.norm * right.norm
    value, derivative = top * (1 - lost), left.slope_norm * right.slope_norm * slope
    return Dual(value, derivative, top * jnp.maximum(jnp.where(lost <= 1, lost, other), 0))


def _turned(series: Series, xx: Array, xy: Array, yy: Array, gap: Array) -> tuple[Array, Array]:
    """t of the folded angle, and 1 - cos of it."""
    theta, _, _ = acute(xx, xy, yy, gap)
    inverse = [jnp.where(q > 0, 1 / safe_sqrt(jnp.where(q > 0, q, 1)), 0) for q in (xx, yy)]
    return series.turn(theta), gap * (inverse[0] * inverse[1])


def _apart(features: np.ndarray, left: Row, right: Row, like: Array) -> tuple[Array, Array]:
    """|a(s1) - a(s2)|^2 / 2, what unequal variances alone cost, and |a(s1) + a(s2)|^2 / 2."""
    a, b = (_dot(features, r.basis) for r in (left, right))
    a, b = _aligned(a, b, like.ndim, 1)
    own = jnp.sum(a * a, axis=0) + jnp.sum(b * b, axis=0)
    total = jnp.zeros_like(like)
    for i in range(len(a)):
        difference = _at(a, i) - _at(b, i)
        total = total + difference * difference
    # No cancellation: as a rule the values of a part agree in sign.
    return total / 2, own - total / 2


# Terms of the recurrence per turn of its loop. One product at a time stays in the cache; all at once would fill memory
# with 4 bytes per term and pair, which costs the machine six times the arithmetic.
UNROLL = 2


def sums(
    blocks: tuple[Block, ...], left: Row, right: Row, t: Array, even: tuple[Block, ...] = (), sign: Array | float = 1.0
) -> Array:
    """sum_k T_k(t) f_k(left) . f_k(right) of both series, (2, ...), by Clenshaw's recurrence.

    With `even`, to each term of the odd part comes `sign` times that of the even one: then one sum serves both.
    """
    nothing = jnp.zeros((2, *t.shape), t.dtype)
    state, t = (nothing, nothing), t[None]

    def step(state: tuple[Array, Array], features: list[tuple[Array, Array]]) -> tuple[tuple[Array, Array], None]:
        ahead, after = state
        term, *more = (_products(*pair, t.ndim - 1) for pair in features)
        for other in more:
            term = term + sign * other
        return (term + 2 * t * ahead - after, ahead), None

    for i in reversed(range(len(blocks))):
        both = (blocks[i], *even[i : i + 1])
        features = [(_dot(block.left, left.basis), _dot(block.right, right.basis)) for block in both]
        state, _ = lax.scan(step, state, features, reverse=True, unroll=UNROLL)
    # The last step doubled T_1 = t, too.
    return state[0] - t * state[1]


def _products(f: Float[Array, "2 r ..."], g: Float[Array, "2 r ..."], rank: int) -> Float[Array, "2 ..."]:
    """sum_r f_wr g_wr, as a matrix product where the two hold rows and columns."""
    f, g = _aligned(f, g, rank, 2)
    if rank == 2 and f.shape[3] == 1 and g.shape[2] == 1:
        f, g = f[:, :, :, 0], g[:, :, 0, :]
    elif rank:
        return jnp.sum(f * g, axis=1)
    # Under vmap over rows and over columns a pair of vectors becomes (n, r) x (r, m), for both series at once.
    return lax.dot_general(f, g, (((1,), (1,)), ((0,), (0,))), precision="highest")


def _aligned(f: Array, g: Array, rank: int, lead: int) -> tuple[Array, Array]:
    """Both with `rank` axes behind the first `lead` ones."""
    f, g = (x.reshape(x.shape[:lead] + (1,) * (rank - x.ndim + lead) + x.shape[lead:]) for x in (f, g))
    return f, g


def _dot(coefficients: np.ndarray, basis: Array) -> Array:
    axes = (((coefficients.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(coefficients, basis, axes, precision="highest")


def _at(x: Array, i: int) -> Array:
    return lax.index_in_dim(x, i, 0, keepdims=False)


def squares(sample: Sampler, q: Array) -> tuple[Array, Array]:
    """E[phi^2] and E[phi'^2] by quadrature: sums of positive terms, as exact as the dtype."""
    z, w = half_line_rule(2 * sample.nodes)
    points, weights = (jnp.asarray(np.concatenate(pair), q.dtype) for pair in ((z, -z), (w, w)))
    x = safe_sqrt(q)[..., None] * points.reshape((1,) * q.ndim + (-1,))
    value, slope = (fn(x) ** 2 @ weights for fn in (sample.value, sample.slope))
    return value, slope


def beyond(fit: Fit, series: Series, q: Array) -> Array:
    """What clamping the features to the table's end costs at variance q, at most: see `Activation.error`."""
    z, w = half_line_rule(2 * fit.sample.nodes)
    points = jnp.asarray(np.concatenate([z, -z]), q.dtype)
    root = jnp.asarray(np.sqrt(np.concatenate([w, w])), q.dtype)
    s, top, total = safe_sqrt(q), fit.tables.scale.top, jnp.zeros_like(q)
    here = row(series, q)
    for fn, norm in zip((fit.sample.value, fit.sample.slope), (here.norm, here.slope_norm), strict=True):
        value = jax.vmap(lambda s, fn=fn: fn(s * points) * root)(s.ravel())
        ending = fn(top * points) * root
        exact = jnp.linalg.norm(value, axis=1)
        unit = ending / jnp.linalg.norm(ending)
        away = jax.vmap(lambda v, n, unit=unit: jnp.linalg.norm(v / n - unit))(value, exact)
        bound = 4 * away + 2 * size(norm.ravel() / exact - 1)
        total = jnp.maximum(total, bound.reshape(q.shape))
    return total
