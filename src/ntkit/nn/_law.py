"""The joint Gaussian law of one pair of inputs, and how such laws scale and add.

Besides the four arrays of the textbook the law carries the gap `sqrt(xx yy) - |xy|`. The angle between nearly parallel
inputs is the square root of the relative gap, and a kinked activation sees that angle: formed from `xy` in float32 it
would be wrong by 3e-4. So the gap is computed from the inputs directly and every layer maps it without cancellation.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ntkit.nn._planes import Space

Scalar = float | Array
"""A hyper-parameter that is a leaf: a Python number (its dtype follows the input) or a zero-dimensional array."""


def safe_sqrt(x: Array) -> Array:
    """The square root whose derivative at zero is zero, not infinite."""
    # Double where: the gradient of sqrt must not be evaluated at 0 at all.
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_divide(a: Array, b: Array) -> Array:
    """a / b, and 0 with zero gradient where b == 0."""
    nonzero = b != 0
    return jnp.where(nonzero, a / jnp.where(nonzero, b, 1), 0)


def size(x: Array) -> Array:
    """|x|, with derivative +1 at zero: where a sign is undecided every formula of the law takes the same side."""
    return jnp.where(x < 0, -x, x)


def not_negative(gap: Array) -> Array:
    """A gap without the rounding that made it negative. Not `maximum`, which halves the derivative at 0: at
    duplicates."""
    return jnp.where(gap < 0, 0, gap)


class Covariance(eqx.Module):
    """The law of the signal at a pair of inputs x, y: of one channel, all channels being independent copies.

    `xx = E[u u]`, `xy = E[u v]`, `yy = E[v v]` for the signals u, v at x and y; `ntk` is the tangent kernel Theta(x,
    y) of the network so far; `gap = sqrt(xx yy) - |xy|`. `width` counts the channels (the fan-in of the next layer).
    `one` says that x and y are one and the same example, seen in the same forward pass: the diagonal of the kernel.

    Of images the arrays hold pixels: see `_planes`. There `xx` and `yy` are maps of one image, (1 ... 1, P...), and of
    `one` image the diagonal is displacement 0. Behind a layer that mixes displacements the variances of x and of y
    follow from all covariances within x and within y: then `selves` carries those two laws along. `gap_known` says
    that `gap` is what it should be; `gapped` computes it of the other numbers. `masks` tell which pixels of x and of y
    exist, (P...) each; None if all do. Entries of others hold anything finite: `_lift.over_pixels` zeroes what is read.
    `written`: `xy` and `ntk` stand in memory, so that who reads them computes nothing again. `means` are what
    `BatchNorm`s take off x and off y, by their places: see `batch.Centring`.
    """

    xx: Float[Array, "..."]
    xy: Float[Array, "..."]
    yy: Float[Array, "..."]
    ntk: Float[Array, "..."]
    gap: Float[Array, "..."]
    width: int = eqx.field(static=True)
    one: bool = eqx.field(static=True, default=False)
    gap_known: bool = eqx.field(static=True, default=True)
    written: bool = eqx.field(static=True, default=False)
    space: Space | None = None
    selves: "tuple[Covariance, Covariance] | None" = None
    masks: tuple[Bool[Array, "..."], Bool[Array, "..."]] | None = None
    means: tuple[dict[int, Any], dict[int, Any]] | None = None

    @staticmethod
    def of_one(q: Array, width: int) -> "Covariance":
        """The law of the pair (x, x) for an input of variance q."""
        return Covariance(q, q, q, jnp.zeros_like(q), jnp.zeros_like(q), width, one=True)

    def replace(self, **fields: Any) -> "Covariance":
        """The same law with some of its arrays, or others of its fields, exchanged."""
        # Not `dataclasses.replace`, which costs a second in deep networks.
        if "xy" in fields or "ntk" in fields:
            fields = {"written": False} | fields
        names = (
            "xx", "xy", "yy", "ntk", "gap", "width", "one", "gap_known", "written", "space", "selves", "masks", "means",
        )  # fmt: skip
        values = [fields.pop(name, getattr(self, name)) for name in names]
        assert not fields, fields
        return Covariance(*values)

    def scale(self, xx: Scalar, xy: Scalar, yy: Scalar) -> "Covariance":
        """The law of (a u, b v) for factors a, b >= 0 that the parameters do not move: xx = a^2, xy = a b, yy = b^2."""
        return self.replace(
            xx=xx * self.xx,
            xy=xx * self.xx if self.one else xy * self.xy,
            yy=yy * self.yy,
            ntk=xy * self.ntk,
            gap=xy * self.gap,
        )

    def of_width(self, width: int) -> "Covariance":
        return self.replace(width=width)


def add(first: Covariance, second: Covariance) -> Covariance:
    """The law of the sum of two independent signals, all but one of zero mean.

    With s = sqrt(xx yy) of each term and S that of the sum, the gap S - |k1 + k2| is a sum of positive terms:
    gap1 + gap2 + (|k1| + |k2| - |k1 + k2|) + (S - s1 - s2), the last one being a Cauchy-Schwarz bracket.
    """
    one = first.one and second.one
    xx, yy = first.xx + second.xx, first.yy + second.yy
    ntk = first.ntk + second.ntk
    if one:
        return first.replace(xx=xx, xy=xx, yy=xx, ntk=ntk)
    roots = map(safe_sqrt, (first.xx, first.yy, second.xx, second.yy))
    gap = first.gap + second.gap + lost(first.xy, second.xy) + bracket(*roots)
    return first.replace(xx=xx, xy=first.xy + second.xy, yy=yy, ntk=ntk, gap=gap)


def multiply(first: Covariance, second: Covariance) -> Covariance:
    """The law of the product of two independent signals. Its gap s1 s2 - |k1 k2| is gap1 s2 + |k1| gap2."""
    xx, yy, xy = first.xx * second.xx, first.yy * second.yy, first.xy * second.xy
    ntk = first.ntk * second.xy + second.ntk * first.xy
    if first.one and second.one:
        return first.replace(xx=xx, xy=xx, yy=xx, ntk=ntk)
    s2 = safe_sqrt(second.xx) * safe_sqrt(second.yy)
    return first.replace(xx=xx, xy=xy, yy=yy, ntk=ntk, gap=first.gap * s2 + size(first.xy) * second.gap)


def lost(k1: Array, k2: Array) -> Array:
    """|k1| + |k2| - |k1 + k2| without cancellation; where a sign is undecided its derivative takes the side that
    `size` takes."""
    up, down = size(k1) + k1 + (size(k2) + k2), size(k1) - k1 + (size(k2) - k2)
    return jnp.where(k1 + k2 < 0, up, down)


def bracket(a1: Array, a2: Array, b1: Array, b2: Array) -> Array:
    """sqrt((a1^2 + b1^2)(a2^2 + b2^2)) - a1 a2 - b1 b2 of four numbers >= 0, free of cancellation."""
    tops = [safe_sqrt(a * a + b * b) for a, b in ((a1, b1), (a2, b2))]
    # Over the root: the cross product itself is a variance, and its square would be too large for float32.
    root = safe_divide(a1 * b2 - a2 * b1, safe_sqrt(tops[0] * tops[1] + a1 * a2 + b1 * b2))
    return root * root


def add_constant(law: Covariance, c: Scalar) -> Covariance:
    """The law after a shared Gaussian of variance c is added: `add` with a branch that is the same at x and y."""
    if is_zero(c):
        return law
    xx, yy = law.xx + c, law.yy + c
    if law.one:
        return law.replace(xx=xx, xy=xx, yy=xx)
    a1, a2 = safe_sqrt(law.xx), safe_sqrt(law.yy)
    difference = a1 - a2
    total = safe_sqrt(xx) * safe_sqrt(yy)
    narrowed = safe_divide(c * difference * difference, total + a1 * a2 + c)
    # |xy| + c - |xy + c|, as in `lost`.
    folded = jnp.where(law.xy < 0, jnp.where(law.xy + c < 0, 2 * c, -2 * law.xy), 0)
    return law.replace(xx=xx, xy=law.xy + c, yy=yy, gap=law.gap + narrowed + folded)


def square(leaf: Scalar, dtype: Any) -> Scalar:
    """leaf^2 in the dtype of the arrays it will meet; Python numbers are left to JAX."""
    return leaf * leaf if isinstance(leaf, (int, float)) else _square(jnp.asarray(leaf), dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _square(leaf: Array, dtype: Any) -> Array:
    # A traced leaf may carry 64 bits into a float32 program, so that sqrt(2)^2 is rounded once. As the root of its
    # square XLA computes it before the loop over all pairs; a plain product it would convert inside, at 1.5 times the
    # loop's cost. Double precision goes in, so the root is right to the last digit but one.
    product = leaf * leaf
    return jnp.sqrt((product * product).astype(dtype))


@_square.defjvp
def _square_slope(dtype: Any, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # JAX may ask for it outside of the `enable_x64` that `OfNetwork` computes its diagonal in.
    with jax.enable_x64(True):
        return _square(primals[0], dtype), (2 * primals[0] * tangents[0]).astype(dtype)


def is_zero(leaf: Scalar) -> bool:
    """Whether a hyper-parameter is the Python number 0, known when the program is traced: then its term is left out."""
    return isinstance(leaf, (int, float)) and leaf == 0


def relative(law: Covariance) -> tuple[Array, Array]:
    """s = sqrt(xx yy) and gap / s in [0, 1]; a zero row counts as orthogonal to everything."""
    roots = safe_sqrt(law.xx), safe_sqrt(law.yy)
    inverse = [safe_divide(jnp.ones_like(r), r) for r in roots]
    nothing = (law.xx <= 0) | (law.yy <= 0)
    ratio = jnp.where(nothing, 1, jnp.clip(law.gap * inverse[0] * inverse[1], 0, 1))
    return roots[0] * roots[1], ratio
