"""The law of the raw data at all pairs of rows: one matrix product, and exact gaps where rows nearly coincide."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ntkit._check import check_dtype
from ntkit.errors import InputError
from ntkit.nn import Covariance
from ntkit.nn._law import safe_divide, safe_sqrt, size

# Up to this many features the differences of all pairs are summed directly; beyond, a matrix product is far cheaper.
FEW_FEATURES = 16
# Pairs refined per round of the loop below.
CHUNK = 512


def check_batches(x1: Array, x2: Array | None) -> None:
    """What can be refused while a program is traced: ranks, dtypes and widths."""
    for name, x in (("x1", x1), ("x2", x2)):
        if x is None:
            continue
        if jnp.ndim(x) < 2:
            hint = f" For a single example pass `{name}[None, :]`." if jnp.ndim(x) == 1 else ""
            raise InputError(
                f"`{name}` must have shape (n, features), or (n, space..., channels), but has shape "
                f"{jnp.shape(x)}.{hint}"
            )
        check_dtype(name, x)
        if 0 in x.shape[1:]:
            raise InputError(f"`{name}` has no features: its shape is {x.shape}.")
    if x2 is not None and x1.shape[1:] != x2.shape[1:]:
        alike = "equally many features" if x1.ndim == x2.ndim == 2 else "examples of one shape"
        raise InputError(f"`x1` and `x2` must have {alike}, but their shapes are {x1.shape} and {x2.shape}.")
    if x2 is not None and x1.dtype != x2.dtype:
        raise InputError(f"`x1` and `x2` must have one dtype, but have {x1.dtype} and {x2.dtype}.")


def variances(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """K(x, x) = |x|^2 / d of each row."""
    return jnp.mean(x * x, axis=-1)


def pair_laws(x1: Float[Array, "n d"], x2: Float[Array, "m d"] | None) -> Covariance:
    """The law of the data at all pairs: `xx` (n,), `yy` (m,), `xy` and `gap` (n, m), and no `ntk` yet.

    K(x, y) = x.y / d. The gap sqrt(K(x,x) K(y,y)) - |K(x,y)| of nearly parallel rows is summed from the differences
    of the unit vectors: 1 - cos = |x/|x| - y/|y||^2 / 2, while 1 minus a rounded cosine has lost every digit.
    """
    rows = _Rows.of(x1)
    columns = rows if x2 is None else _Rows.of(x2)
    pairs = _few if x1.shape[1] <= FEW_FEATURES else _many
    xy, relative_gap = pairs(rows, columns)
    s = rows.root[:, None] * columns.root[None, :]
    # Only the value is refined: d(gap) = ds - d|xy| is right as it stands, at zero rows too, and needs no derivative
    # of a loop.
    gap = _with_slope_of(s * relative_gap, s - size(xy))
    return Covariance(rows.q, xy, columns.q, jnp.zeros((), x1.dtype), gap, width=x1.shape[1])


class _Rows(NamedTuple):
    """Examples with their variance q = |x|^2 / d, its root, and the factor that makes them unit vectors (0 for zero
    rows)."""

    x: Float[Array, "n d"]
    q: Float[Array, " n"]
    root: Float[Array, " n"]
    to_unit: Float[Array, " n"]

    @staticmethod
    def of(x: Float[Array, "n d"]) -> "_Rows":
        q = variances(x)
        root = safe_sqrt(q)
        return _Rows(x, q, root, safe_divide(jnp.full_like(root, x.shape[1] ** -0.5), root))


@jax.custom_jvp
def _with_slope_of(value: Float[Array, "n m"], rough: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """`value`, with the derivative of `rough`, which is the same number with rounding errors."""
    return value


@_with_slope_of.defjvp
def _slope(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[0], tangents[1]


def _few(rows: _Rows, columns: _Rows) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    """K(x, y) and relative gaps by direct sums over few features."""
    product = jnp.zeros((len(rows.x), len(columns.x)), rows.x.dtype)
    for k in range(rows.x.shape[1]):
        product = product + rows.x[:, k, None] * columns.x[None, :, k]
    cosine = _cosine(rows, columns, product)
    closer = _Closer.start(rows.to_unit[:, None], columns.to_unit[None, :], cosine)
    for k in range(rows.x.shape[1]):
        closer = closer.add(rows.x[:, k, None], columns.x[None, :, k])
    gap = jnp.where(size(cosine) > 0.5, closer.gap(), 1 - size(cosine))
    return product / rows.x.shape[1], jax.lax.stop_gradient(gap)


class _Closer(NamedTuple):
    """1 - |cos| of nearly parallel rows x and y from sums over the features.

    With unit vectors u = a x and v = b y, and d = u -+ v, it is |d|^2 / 2. A difference of rounded u and v would have
    the error of their last digits; with r = min(a, b) it is r (x -+ y) + (a - r) x -+ (b - r) y, whose first term is
    exact for near duplicates. Rounding of a and b is left, which moves d along m = u +- v, to which it is orthogonal:
    |d|^2 - (d . m)^2 / |m|^2 is free of it.
    """

    a: Array
    b: Array  # with the sign of the cosine
    apart: Array
    along: Array
    together: Array

    @staticmethod
    def start(a: Array, b: Array, cosine: Array) -> "_Closer":
        zero = jnp.zeros_like(cosine)
        return _Closer(a, jnp.where(cosine < 0, -b, b), zero, zero, zero)

    def add(self, x: Array, y: Array) -> "_Closer":
        """The sums over some more features: arrays of one feature, or with an axis of them behind."""
        a, b = self.a, self.b
        r = jnp.minimum(a, size(b))
        sign = jnp.where(b < 0, -1, 1).astype(x.dtype)
        d = r * (x - sign * y) + ((a - r) * x - (b - sign * r) * y)
        m = a * x + b * y
        return self._replace(apart=self.apart + d * d, along=self.along + d * m, together=self.together + m * m)

    def gap(self) -> Array:
        tiny = jnp.finfo(self.apart.dtype).tiny
        return _snap(jnp.maximum(self.apart - self.along**2 / jnp.maximum(self.together, tiny), 0) / 2)


def _many(rows: _Rows, columns: _Rows) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    """K(x, y) and relative gaps by one matrix product; the few gaps that it cannot resolve are done again, exactly."""
    product = jnp.matmul(rows.x, columns.x.T, precision="highest")
    rows, columns, known = jax.lax.stop_gradient((rows, columns, product))
    same = jnp.eye(*known.shape, dtype=bool) & _twins(rows, columns)[:, None]
    # Below the threshold the angle sqrt(2 gap) of a rounded gap would be wrong by more than a few units of float
    # precision.
    threshold = 2.0**-9 if known.dtype.itemsize <= 4 else 2.0**-18
    # Twins count as orthogonal until the end, so that they alone refine nothing.
    rough = jnp.where(same, 1, jnp.maximum(1 - size(_cosine(rows, columns, known)), 0))
    gap = jax.lax.cond(
        jnp.min(rough) < threshold,
        # The cosine is computed in here: handed in, it would be written down for all tiles, and few need it.
        lambda: _refine(rows, columns, _cosine(rows, columns, known), rough, rough < threshold),
        lambda: rough,
    )
    return product / rows.x.shape[1], jnp.where(same, 0, gap)


def _cosine(rows: _Rows, columns: _Rows, product: Float[Array, "n m"]) -> Float[Array, "n m"]:
    return product * (rows.to_unit[:, None] * columns.to_unit[None, :])


def _twins(rows: _Rows, columns: _Rows) -> Bool[Array, " n"]:
    """Which rows stand at the same place on the other side, as on the diagonal of a tile: there the gap is 0."""
    n, m = len(rows.x), len(columns.x)
    if n != m:
        return jnp.zeros(n, bool)
    # Equal rows have equal variances, and most tiles, off the diagonal, none: they need not look further. `max`, not
    # `all`, which takes XLA for CPU twice as long.
    return jax.lax.cond(
        jnp.any(rows.q == columns.q),
        lambda: jnp.max(jnp.abs(rows.x - columns.x), axis=1) == 0,
        lambda: jnp.zeros(n, bool),
    )


def _snap(gap: Array) -> Array:
    """Gaps of the order eps^2 are rounding: of a fused multiplication, or of the lengths of two multiples of one row.
    As an
    angle of 1e-17 they would spoil the gradients of duplicate rows, which divide by it."""
    return jnp.where(gap < 8 * jnp.finfo(gap.dtype).eps ** 2, 0, gap)


def _refine(
    rows: _Rows, columns: _Rows, cosine: Float[Array, "n m"], rough: Float[Array, "n m"], near: Bool[Array, "n m"]
) -> Float[Array, "n m"]:
    """The relative gaps, those marked by `near` as |x -+ y|^2 / 2 of the unit vectors, a chunk of pairs at a time."""
    total, chunk = cosine.size, min(CHUNK, cosine.size)

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        gap, near = state
        # The filling lies outside, so its writes are dropped.
        (index,) = jnp.nonzero(near, size=chunk, fill_value=total)
        i, j = jnp.divmod(jnp.minimum(index, total - 1), cosine.shape[1])
        closer = _Closer.start(rows.to_unit[i][:, None], columns.to_unit[j][:, None], cosine[i, j][:, None])
        terms = closer.add(rows.x[i], columns.x[j])
        exact = jax.tree.map(lambda term: jnp.sum(term, axis=1), terms).gap()
        return gap.at[index].set(exact, mode="drop"), near.at[index].set(False, mode="drop")

    gap, _ = jax.lax.while_loop(lambda state: jnp.any(state[1]), step, (rough.ravel(), near.ravel()))
    return gap.reshape(cosine.shape)
