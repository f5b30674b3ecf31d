"""Layers that normalise, and layers that drop."""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.errors import InputError
from ntkit.nn._law import Covariance, size
from ntkit.nn._layer import Layer, Params, Shape, Signal
from ntkit.nn._lift import through, with_selves
from ntkit.nn._masks import Mask, Masked, on_existing


class LayerNorm(Layer):
    """z' = (z - mean) / sqrt(var + eps) over the channels of each pixel, or of a whole image; no learnt scale or shift.

    At infinite width the mean over channels of a centred signal is 0 and the variance is K(x, x), so the law of a
    pair is divided by sqrt(K(x, x) + eps) sqrt(K(y, y) + eps), Theta too: what the statistics themselves contribute
    to the gradient is of the order 1 / width. Over the channels of all pixels the variance is the mean over p of
    K(x p, x p): one number per image, so that bright pixels stay brighter than others.

    A signal whose mean is not 0 (behind most activations) is refused: its mean would have to be known for every
    variance. Put the layer behind a `Dense` or `Conv`, or use `activation.normalized()`.

    **Arguments:** `eps`: added to the variance. `axis`: "channels", or "all" for channels and space; the same for rows.
    """

    elementwise: ClassVar[bool] = False  # its own `propagate` goes over the pixels

    eps: float = eqx.field(static=True, default=1e-6)
    axis: Literal["channels", "all"] = eqx.field(static=True, default="channels")

    def __check_init__(self):
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise InputError(f"`eps` of `LayerNorm` must be a finite number >= 0; got {self.eps!r}.")
        if self.axis not in ("channels", "all"):
            raise InputError(f'`axis` of `LayerNorm` must be "channels" or "all"; got {self.axis!r}.')

    def shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, params: Params, x: Any, *, key: PRNGKeyArray | None = None) -> Any:
        if isinstance(x, Masked):
            there = x.mask[..., None] if self.axis == "all" else None
            return Masked(self._normalised(x.filled(), there), x.mask)
        return self._normalised(x, None)

    def _normalised(self, x: Float[Array, "... c"], there: Mask | None) -> Float[Array, "... c"]:
        axes = -1 if self.axis == "channels" else tuple(range(1, x.ndim))
        mean = partial(jnp.mean, axis=axes, keepdims=True, where=there)
        centred = x - mean(x)
        return centred * jax.lax.rsqrt(mean(centred * centred) + self.eps)

    def propagate(self, cov: Covariance) -> Covariance:
        if self.axis == "channels" or cov.space is None:
            return through(self._by_pixel, cov)
        return with_selves(self._by_image, cov)

    def _by_pixel(self, cov: Covariance) -> Covariance:
        x, y = _inverse_root(cov.xx + self.eps), _inverse_root(cov.yy + self.eps)
        return cov.scale(x * x, x * y, y * y)

    def _by_image(self, cov: Covariance) -> Covariance:
        masks = cov.masks or (None, None)
        x, y = (
            _inverse_root(_mean_of_existing(q, mask) + self.eps)
            for q, mask in zip((cov.xx, cov.yy), masks, strict=True)
        )
        return cov.replace(
            xx=x * x * cov.xx, xy=x * y * cov.xy, yy=y * y * cov.yy, ntk=x * y * cov.ntk, gap=x * y * cov.gap
        )

    def exists(self, shape: Shape, mask: Mask) -> Mask:
        return mask

    def check(self, signal: Signal) -> Signal:
        if not signal.infinite:
            raise InputError(
                "`LayerNorm` has no infinite reading on the raw input, whose channels are finite in number. "
                "Normalise the data before the network, or put a `Dense` in front."
            )
        if not signal.zero_mean:
            raise InputError(
                f"`LayerNorm` needs a signal of zero mean at infinite width, but here it follows {signal.source}. "
                "Put it behind a `Dense`."
            )
        return signal.replace(source="`LayerNorm`")


def _mean_of_existing(q: Array, mask: Mask | None) -> Array:
    if mask is None:
        return jnp.mean(q)
    # `mask` has the axes of the pixels, `q` some of length 1 in front.
    return jnp.sum(jnp.where(mask.reshape(q.shape), q, 0)) / jnp.maximum(jnp.sum(mask, dtype=q.dtype), 1)


def _inverse_root(q: Array) -> Array:
    # Double where: with eps == 0 a zero row stays a zero row, with finite gradients.
    positive = q > 0
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, q, 1)), 0)


class Dropout(Layer):
    """Sets each channel to 0 with probability `rate` and divides the others by 1 - rate, if `apply` gets a key.

    `rate` is the probability that a channel is *dropped*. The infinite reading is that of the training-time network:
    each example draws masks of its own, so K(x, x) and, on the diagonal, Theta(x, x) grow by 1 / (1 - rate), while
    the pairs of different examples stay as they are. Without a key `apply` is the identity, and so should the layer
    be left out.
    """

    rate: float = eqx.field(static=True)

    def __check_init__(self):
        if not (isinstance(self.rate, (int, float)) and 0 <= self.rate < 1):
            raise InputError(
                f"`rate` of `Dropout` is the probability to drop a channel and must lie in [0, 1); got {self.rate!r}."
            )

    def shape(self, shape: Shape) -> Shape:
        return shape

    @on_existing
    def apply(
        self, params: Params, x: Float[Array, "... c"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "... c"]:
        if key is None or self.rate == 0:
            return x
        kept = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), 0)

    def propagate(self, cov: Covariance) -> Covariance:
        growth = 1 / (1 - self.rate)
        xx, yy = growth * cov.xx, growth * cov.yy
        if cov.one:
            return cov.replace(xx=xx, xy=xx, yy=xx, ntk=growth * cov.ntk)
        return cov.replace(xx=xx, yy=yy, gap=cov.gap + (growth - 1) * (cov.gap + size(cov.xy)))

    def check(self, signal: Signal) -> Signal:
        if not signal.infinite:
            raise InputError(
                "`Dropout` on the raw input has no infinite reading: finitely many channels are masked, and the law "
                "behind the next layer is a mixture. Put a `Dense` in front."
            )
        return signal.replace(source="`Dropout`", gaussian=False, fresh=signal.fresh)
