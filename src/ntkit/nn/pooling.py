"""Pooling, and the ways out of space."""

import abc
import math
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.errors import InputError
from ntkit.nn._law import Covariance
from ntkit.nn._layer import Displacements, Frames, Layer, Params, Shape, Signal
from ntkit.nn._lift import gapped, over_pixels, written
from ntkit.nn._masks import Mask, Masked, behind_windows, on_existing
from ntkit.nn._planes import Space, everywhere
from ntkit.nn._sums import over_diagonal, over_everything, over_windows, shared_windows
from ntkit.nn._taps import Padding, Window, fixed, read_by_pooling
from ntkit.nn._windows import per_axis, spatial_shape, strided_frames, windows_of
from ntkit.nn.conv import _shape_of, around


class Pooling(Layer):
    """The sum or mean of the pixels in a window."""

    elementwise: ClassVar[bool] = False

    window_shape: eqx.AbstractVar[tuple[int, ...]]
    strides: eqx.AbstractVar[tuple[int, ...]]
    padding: eqx.AbstractVar[Padding]

    @property
    def local(self) -> bool:
        return all(k == 1 for k in self.window_shape)

    @property
    def total(self) -> int:
        """What the mean over a window is multiplied by."""
        return 1

    def _windows(self, shape: Shape) -> list[Window]:
        sizes = spatial_shape(self.name, shape, len(self.window_shape))
        ones = (1,) * len(sizes)
        for size, k, s in zip(sizes, self.window_shape, self.strides, strict=True):
            if self.padding == "VALID" and size >= k and (size - k) % s:
                raise InputError(
                    f"Windows of {k} pixels, {s} apart, of `{self.name}` do not cover an axis of {size}: "
                    f'{(size - k) % s} would be left out. Crop the image, or use `padding="SAME"`.'
                )
        return windows_of(self.name, sizes, self.window_shape, self.strides, ones, self.padding)

    def shape(self, shape: Shape) -> Shape:
        return (shape[0], *(w.size for w in self._windows(shape)), shape[-1])

    @on_existing
    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        x, pads = around(x, self._windows(x.shape))
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
        summed = lax.reduce_window(
            x, np.zeros((), x.dtype), lax.add, (1, *self.window_shape, 1), (1, *self.strides, 1), "VALID"
        )
        return summed * (self.total / math.prod(self.window_shape))

    def propagate(self, cov: Covariance) -> Covariance:
        return over_pixels(self, self._pooled, cov)

    def _pooled(self, cov: Covariance) -> Covariance:
        space = cov.space
        assert space is not None
        windows, scale = self._windows(_shape_of(cov)), self.total**2
        (xy, out), (ntk, _) = (fixed(a * scale, space, windows) for a in (cov.xy, cov.ntk))
        return mixed(cov.replace(xy=xy, ntk=ntk, space=out))

    def check(self, signal: Signal) -> Signal:
        return signal

    def exists(self, shape: Shape, mask: Mask) -> Mask:
        return behind_windows(self.name, mask, self._windows(shape))

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        return strided_frames(self._windows(shape), shape[1:-1], frames)

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        windows = self._windows(shape)
        return tuple(np.unique(read_by_pooling(d, f, w)) for d, f, w in zip(wanted, frames, windows, strict=True))


def mixed(cov: Covariance) -> Covariance:
    """A law whose covariances were just mixed: the variances of one image are on its diagonal now; those of a pair are
    not known from the pair, nor is the gap, and are put in from the laws of each image with itself."""
    if not cov.one:
        shape = () if cov.space is None else (1,) * cov.space.rank + cov.space.sizes
        unknown = jnp.zeros(shape, cov.xy.dtype)
        return cov.replace(xx=unknown, yy=unknown, gap=jnp.zeros((), cov.xy.dtype), gap_known=False)
    if cov.space is None:
        return cov.replace(xx=cov.xy, yy=cov.xy, gap=jnp.zeros_like(cov.xy))
    q = cov.xy
    for axis, d in enumerate(cov.space.displacements):
        here = int(np.flatnonzero(d == 0)[0])
        q = lax.slice_in_dim(q, here, here + 1, axis=axis)
    return gapped(cov.replace(xx=q, yy=q))


class AvgPool(Pooling):
    """The mean over windows, `strides` apart.

    K'(o, o') = 1/k^2 sum_f sum_g K(src_f(o), src_g(o')), and Theta' alike: windows mix all pairs of their pixels, so
    the covariance of neighbouring pixels is needed before it. A Gaussian signal stays Gaussian.

    **Arguments:** `window_shape`: pixels per spatial axis. `strides`: default the window itself. `padding`: as for
    `Conv`; pixels outside the image are zeros that count in the mean. Under "VALID" the windows must cover the image.
    """

    window_shape: tuple[int, ...] = eqx.field(static=True)
    strides: tuple[int, ...] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(self, window_shape: Any, strides: Any = None, padding: Any = "VALID"):
        strides = window_shape if strides is None else strides
        self.window_shape, self.strides, self.padding = per_axis(
            "AvgPool", window_shape, strides, padding, name="window_shape"
        )


class SumPool(Pooling):
    """The sum over windows: `AvgPool` times their size. Arguments as for `AvgPool`."""

    window_shape: tuple[int, ...] = eqx.field(static=True)
    strides: tuple[int, ...] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(self, window_shape: Any, strides: Any = None, padding: Any = "VALID"):
        strides = window_shape if strides is None else strides
        self.window_shape, self.strides, self.padding = per_axis(
            "SumPool", window_shape, strides, padding, name="window_shape"
        )

    @property
    def total(self) -> int:
        return math.prod(self.window_shape)


def LocalAvgPool(window_shape: Any, padding: Any = "SAME") -> AvgPool:
    """Overlapping windows, one around each pixel: the local average pooling of Li et al. 2019 (section 4, "box blur").

    Their window is 2 c + 1 pixels wide, and they pad with zeros ("SAME") or around the circle ("CIRCULAR"). Equivalent
    to `AvgPool(window_shape, strides=1, padding=padding)`.
    """
    return AvgPool(window_shape, 1, padding)


class _Exit(Layer):
    """A layer behind which there are no pixels."""

    elementwise: ClassVar[bool] = False
    exits: ClassVar[bool] = True
    sums: ClassVar[bool] = False  # over all planes

    def propagate(self, cov: Covariance) -> Covariance:
        if cov.space is None:
            raise InputError(f"`{self.name}` needs images, but behind the layers before it there are no pixels left.")
        return over_pixels(self, self._left, cov)

    def _left(self, cov: Covariance) -> Covariance:
        space = cov.space
        assert space is not None
        pairs = _existing_pairs(cov)
        cov = written(cov) if self.sums else cov  # else XLA adds up number by number what it computes on the way
        xy, ntk = (self._one_number(a, space, pairs) if a.ndim else a for a in (cov.xy, cov.ntk))
        width = self.shape(_shape_of(cov))[-1]
        return mixed(cov.replace(xy=xy, ntk=ntk, width=width, space=None))

    @abc.abstractmethod
    def _one_number(self, planes: Array, space: Space, pairs: Array | int) -> Array:
        """What is left of an array of a law with so many pairs of pixels that exist; of some planes their part, where
        it is a sum over planes."""

    def exists(self, shape: Shape, mask: Mask) -> None:
        return None

    @property
    def local(self) -> bool:
        return False

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        return ()


class _Global(_Exit):
    """A mean or sum over all pixels."""

    sums: ClassVar[bool] = True

    def shape(self, shape: Shape) -> Shape:
        return (shape[0], shape[-1])

    def check(self, signal: Signal) -> Signal:
        return signal

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        return every_displacement(shape, frames)


class GlobalAvgPool(_Global):
    """The mean over all pixels: K' = 1/N^2 sum_{p, p'} K(p, p'). Equivalent to a mean over the spatial axes."""

    def apply(self, params: Params, x: Float[Array, "n ... c"] | Masked, *, key: PRNGKeyArray | None = None) -> Array:
        axes = tuple(range(1, x.ndim - 1))
        if isinstance(x, Masked):
            count = jnp.maximum(jnp.sum(x.mask, axis=axes, dtype=x.dtype), 1)
            return jnp.sum(x.filled(), axis=axes) / count[:, None]
        return jnp.mean(x, axis=axes)

    def _one_number(self, planes: Array, space: Space, pairs: Array | int) -> Array:
        return over_everything(planes, space) / pairs


class GlobalSumPool(_Global):
    """The sum over all pixels: K' = sum_{p, p'} K(p, p')."""

    @on_existing
    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        return jnp.sum(x, axis=tuple(range(1, x.ndim - 1)))

    def _one_number(self, planes: Array, space: Space, pairs: Array | int) -> Array:
        return over_everything(planes, space)


class Flatten(_Exit):
    """All pixels and channels in one row: K' = 1/N sum_p K(p, p), for which pairs of different pixels are not needed.

    The entries of the row have different laws, so no activation may follow; put it before.
    """

    def shape(self, shape: Shape) -> Shape:
        return (shape[0], math.prod(shape[1:]))

    @on_existing
    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        return x.reshape(len(x), -1)

    def _one_number(self, planes: Array, space: Space, pairs: Array | int) -> Array:
        return over_diagonal(planes, space)

    def check(self, signal: Signal) -> Signal:
        return signal.replace(gaussian=False, source=f"`{self.name}`")

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        return tuple(np.zeros(1, int) for _ in frames)


class PooledFlatten(_Exit):
    """`Flatten` behind a pooling, in one: K' = sum_{p, p'} w(p, p') K(p, p'), w of how many windows hold both pixels.

    A sum over planes, none of which meets another: what `LocalAvgPool` reads need not be written down and mixed. All
    pixels must exist: behind masks, which windows do is for the pooling to say.
    """

    sums: ClassVar[bool] = True

    pool: Pooling

    def shape(self, shape: Shape) -> Shape:
        return Flatten().shape(self.pool.shape(shape))

    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        raise NotImplementedError  # a plan has it, no network

    def check(self, signal: Signal) -> Signal:
        return signal

    def _one_number(self, planes: Array, space: Space, pairs: Array | int) -> Array:
        windows = self.pool._windows((1, *space.sizes, 1))
        return over_windows(planes, space, windows) * self.pool.total**2

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        weights = map(shared_windows, self.pool._windows(shape), shape[1:-1], frames)
        return tuple(np.flatnonzero(w.any(axis=1)) for w in weights)


def _existing_pairs(cov: Covariance) -> Array | int:
    """How many pairs of pixels exist; 1 in place of 0."""
    assert cov.space is not None
    if cov.masks is None:
        return math.prod(cov.space.sizes) ** 2
    of_x, of_y = (jnp.sum(mask, dtype=cov.xy.dtype) for mask in cov.masks)
    return jnp.maximum(of_x * of_y, 1)


def every_displacement(shape: Shape, frames: Frames) -> Displacements:
    """Those at which any pair of pixels lies in the image."""
    return tuple(map(everywhere, shape[1:-1], frames))
