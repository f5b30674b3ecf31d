"""Layers that read fixed pixels: other sizes, and parts of images."""

import functools
import operator
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.errors import InputError
from ntkit.nn._law import Covariance
from ntkit.nn._layer import Displacements, Frames, Layer, Params, Shape, Signal
from ntkit.nn._lift import over_pixels
from ntkit.nn._masks import Mask, Masked, is_known, masks_behind, on_existing
from ntkit.nn._planes import Space
from ntkit.nn._sources import Sources, gathered, loosened, read_by_sources, without_axes
from ntkit.nn._windows import MOST_AXES, positive_sizes, spatial_shape
from ntkit.nn.conv import _shape_of
from ntkit.nn.pooling import _Exit, every_displacement, mixed


class ImageResize(Layer):
    """Images of another size, up or down: each pixel is copied from the nearest one, or drawn linearly between two per
    axis.

    Pixel o lies at (o + 1/2) n / n' - 1/2 of an axis of n pixels that gets n'. Equivalent to `jax.image.resize` with
    `antialias=False`. The weights w are fixed, so different pixels are read together, as in pooling:

        K'(o, o') = sum_{f, g} w_f(o) w_g(o') K(src_f(o), src_g(o')),    Theta' alike

    Of masked images each is resized on its own: n are its pixels up to the last that exists.

    **Arguments:** `shape`: the new size of each spatial axis. `method`: "nearest" or "linear".
    """

    elementwise: ClassVar[bool] = False

    sizes: tuple[int, ...] = eqx.field(static=True)
    method: Literal["nearest", "linear"] = eqx.field(static=True)

    def __init__(self, shape: Any, method: Literal["nearest", "linear"] = "linear"):
        if not isinstance(shape, (tuple, list)) or not 1 <= len(shape) <= MOST_AXES:
            raise InputError(
                f"`shape` of `ImageResize` must be a tuple of 1 to {MOST_AXES} sizes, one per spatial axis, such as "
                f"(32, 32); batch and channels stay as they are. Got {shape!r}."
            )
        self.sizes = positive_sizes("ImageResize", "shape", shape, len(shape))
        if method not in ("nearest", "linear"):
            raise InputError(f'`method` of `ImageResize` must be "nearest" or "linear"; got {method!r}.')
        self.method = method

    @property
    def local(self) -> bool:
        return False

    def exists(self, shape: Shape, mask: Mask) -> Mask:
        """Where all pixels do that are read."""
        self.shape(shape)
        lead = mask.ndim - len(self.sizes)
        for axis, s in enumerate(self._sources_of(mask)):
            read = _by_taps(mask, lead, axis, s)
            mask = functools.reduce(operator.and_, (there | (weights == 0) for there, weights in read))
        return mask

    def shape(self, shape: Shape) -> Shape:
        spatial_shape("ImageResize", shape, len(self.sizes))
        return (shape[0], *self.sizes, shape[-1])

    def apply(self, params: Params, x: Float[Array, "n ... c"] | Masked, *, key: PRNGKeyArray | None = None) -> Any:
        if not isinstance(x, Masked):
            return jax.image.resize(x, self.shape(x.shape), self.method, antialias=False)
        mask: Mask = masks_behind(self, x)
        values = jnp.asarray(x.filled())
        for axis, s in enumerate(self._sources_of(x.mask)):
            read = _by_taps(values, 1, axis, s)
            values = functools.reduce(operator.add, (v * weights.astype(v.dtype) for v, weights in read))
        return Masked(values, mask)

    def propagate(self, cov: Covariance) -> Covariance:
        return over_pixels(self, self._resized, cov)

    def _resized(self, cov: Covariance) -> Covariance:
        if cov.masks is None:
            of_x = of_y = self._sources(_shape_of(cov))
        else:
            of_x, of_y = map(self._sources_of, cov.masks)
        return _read(cov, of_x, of_y)

    def _sources(self, shape: Shape) -> list[Sources]:
        return [_sources(n, out, self.method) for n, out in zip(shape[1:-1], self.sizes, strict=True)]

    def _sources_of(self, mask: Mask) -> list[Sources]:
        """Those of the images that masks tell of, with or without a batch axis, each of its own size."""
        each, most = zip(_extents(mask, len(self.sizes)), self.sizes, strict=True), mask.shape[-len(self.sizes) :]
        largest = 2 * max(n * out for n, out in zip(most, self.sizes, strict=True))
        if not isinstance(mask, np.ndarray) and largest > jnp.iinfo(jnp.zeros((), int).dtype).max:
            raise InputError(
                f"`ImageResize` of masked images {most} to {self.sizes} counts beyond 32 bits. Switch on 64 bits: "
                '`jax.config.update("jax_enable_x64", True)`.'
            )
        return [_sources(n, out, self.method) for n, out in each]

    def check(self, signal: Signal) -> Signal:
        return signal

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        return loosened(shape[1:-1], frames, self._sources(shape))

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        return read_by_sources(shape[1:-1], frames, self._sources(shape), wanted)


class _OfMasked(ImageResize):
    """Of masked images: their sizes are data, so any displacement may be read."""

    @property
    def name(self) -> str:
        return "ImageResize"

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        return every_displacement(shape, frames)


def of_masked(net: Layer) -> Layer:
    """The network as a plan for masked images needs it, in branches too."""

    def changed(node: Any) -> Any:
        return _OfMasked(node.sizes, node.method) if _is_resize(node) else node

    return jax.tree.map(changed, net, is_leaf=_is_resize)


def _is_resize(node: Any) -> bool:
    return isinstance(node, ImageResize)


def _sources(size: Any, out: int, method: str) -> Sources:
    """Of an axis of so many pixels, a number; or of several, an array, whose axes come first. In whole numbers."""
    xp = jnp if isinstance(size, jax.Array) else np
    size, whole = xp.asarray(size)[..., None, None], 2 * out
    odd = np.arange(1, whole, 2).reshape((1,) * (size.ndim - 1) + (out,))
    if method == "nearest":
        index = odd * size // whole
        return Sources(index, xp.ones(index.shape))
    place = xp.clip(odd * size - out, 0, whole * (size - 1))  # times `whole`
    low, share = place // whole, (place % whole).astype(float) / whole
    if xp is np and not share.any():  # nothing lies between two pixels
        return Sources(low, np.ones(low.shape))
    index = xp.concatenate([low, xp.minimum(low + 1, size - 1)], -2)
    return Sources(index, xp.concatenate([1 - share, share], -2))


def _extents(mask: Mask, rank: int) -> list[Any]:
    """How many pixels an image has along each of its last axes, up to the last one that exists; 1 where none does."""
    xp, each = np if isinstance(mask, np.ndarray) else jnp, []
    for axis in range(-rank, 0):
        there: Any = mask.any(tuple(other for other in range(-rank, 0) if other != axis))
        counts = np.arange(1, there.shape[-1] + 1).reshape((1,) * (there.ndim - 1) + (-1,))
        each.append(xp.max(xp.where(there, counts, 1), -1))
    return each


def _by_taps(values: Any, lead: int, axis: int, s: Sources) -> list[tuple[Any, Any]]:
    """What each tap reads along an axis, counted from those `lead` that `s` has in front, and its weights beside it."""
    xp: Any = np if isinstance(values, np.ndarray) and isinstance(s.index, np.ndarray) else jnp
    shape = (*s.index.shape[:lead], *(-1 if a == axis else 1 for a in range(values.ndim - lead)))
    each = [(s.index[..., f, :].reshape(shape), s.weights[..., f, :].reshape(shape)) for f in range(s.taps)]
    return [(xp.take_along_axis(values, index, lead + axis), weights) for index, weights in each]


def _read(
    cov: Covariance, of_x: Sequence[Sources], of_y: Sequence[Sources], dropped: tuple[int, ...] = ()
) -> Covariance:
    space = cov.space
    assert space is not None
    (xy, out), (ntk, _) = (gathered(a, space, of_x, of_y) for a in (cov.xy, cov.ntk))
    (xy, kept), (ntk, _) = (without_axes(a, out, dropped) for a in (xy, ntk))
    return mixed(cov.replace(xy=xy, ntk=ntk, space=kept))


Picked = int | tuple[int | None, int | None, int | None]  # a slice, hashable


def Index(idx: Any) -> Layer:
    """Some of the pixels: `Index(np.s_[1:3, ::2])` hands on x[:, 1:3, ::2].

    A number in place of a slice drops the axis; where all are numbers, one pixel is left and the pixels end, as behind
    `Flatten`. Slices may have any step, also a negative one, which turns the image around.

    K'(o, o') = K(src(o), src(o')), Theta' alike.

    Of masked images it picks what exists; there numbers and steps must be positive.

    **Arguments:** `idx`: a number or a slice for each spatial axis; the batch and the channels cannot be indexed.
    """
    picked = tuple(_checked(one, idx) for one in (idx if isinstance(idx, tuple) else (idx,)))
    if not 1 <= len(picked) <= MOST_AXES:
        raise InputError(f"`idx` of `Index` must name 1 to {MOST_AXES} spatial axes; got {idx!r}.")
    return _Pixel(picked) if all(isinstance(one, int) for one in picked) else _Part(picked)


def _checked(one: Any, idx: Any) -> Picked:
    if isinstance(one, (int, np.integer)) and not isinstance(one, bool):
        return int(one)
    try:
        if not isinstance(one, slice) or one.step == 0:
            raise TypeError
        start, stop, step = (None if v is None else operator.index(v) for v in (one.start, one.stop, one.step))
    except TypeError:
        raise InputError(
            "`idx` of `Index` must be a tuple of whole numbers and slices (of a step other than 0), one per spatial "
            f"axis, such as `np.s_[1:3, 2]`; got {idx!r}. For a whole axis write `:`."
        ) from None
    return start, stop, step


def _pixels(picked: tuple[Picked, ...], shape: Shape) -> list[np.ndarray]:
    """The pixels that are read along each axis."""
    if len(shape) != len(picked) + 2 and len(shape) > 2:
        raise InputError(
            f"`Index` names {len(picked)} axes, but its inputs {tuple(shape)} (n, space, channels) have "
            f"{len(shape) - 2} spatial ones. Write `:` for those to be kept whole; the batch and the channels cannot "
            "be indexed."
        )
    sizes, each = spatial_shape("Index", shape, len(picked)), []
    for axis, (one, size) in enumerate(zip(picked, sizes, strict=True)):
        pixels = np.arange(size)
        if isinstance(one, int) and not -size <= one < size:
            raise InputError(f"`Index` picks pixel {one} of spatial axis {axis}, which has only {size}.")
        pixels = pixels[[one]] if isinstance(one, int) else pixels[slice(*one)]
        if not len(pixels):
            raise InputError(f"`Index` picks no pixel of spatial axis {axis}: {_written(one)} of {size} is empty.")
        each.append(pixels)
    return each


def _masks_part(picked: tuple[Picked, ...], mask: Mask) -> Mask:
    """The part of a mask, with or without a batch axis; what counts from the end of the padded image is refused."""
    for one in picked:
        if any(v is not None and v < 0 for v in (one if isinstance(one, tuple) else (one,))):
            raise InputError(
                f"`Index` picks {_written(one)}, which counts from the end of the padded image and not of the pixels "
                "that exist. With masks count from the start, with a positive step."
            )
    return mask[(..., *(one if isinstance(one, int) else slice(*one) for one in picked))]


def _written(one: Picked) -> str:
    return f"`{one}`" if isinstance(one, int) else f"`{slice(*one)}`"


class _Part(Layer):
    """A part of the image; at least one axis stays."""

    elementwise: ClassVar[bool] = False

    picked: tuple[Picked, ...] = eqx.field(static=True)

    @property
    def name(self) -> str:
        return "Index"

    @property
    def local(self) -> bool:
        return False

    @property
    def _dropped(self) -> tuple[int, ...]:
        return tuple(axis for axis, one in enumerate(self.picked) if isinstance(one, int))

    def shape(self, shape: Shape) -> Shape:
        counts = [len(pixels) for pixels in _pixels(self.picked, shape)]
        return (shape[0], *(count for axis, count in enumerate(counts) if axis not in self._dropped), shape[-1])

    @on_existing
    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        _pixels(self.picked, x.shape)
        return x[(slice(None), *(one if isinstance(one, int) else slice(*one) for one in self.picked))]

    def propagate(self, cov: Covariance) -> Covariance:
        return over_pixels(self, self._part, cov)

    def _part(self, cov: Covariance) -> Covariance:
        sources = self._sources(_shape_of(cov))
        return _read(cov, sources, sources, self._dropped)

    def exists(self, shape: Shape, mask: Mask) -> Mask:
        return _masks_part(self.picked, mask)

    def _sources(self, shape: Shape) -> list[Sources]:
        return [Sources(p[None], np.ones((1, len(p)))) for p in _pixels(self.picked, shape)]

    def check(self, signal: Signal) -> Signal:
        return signal

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        out = loosened(shape[1:-1], frames, self._sources(shape))
        return tuple(f for axis, f in enumerate(out) if axis not in self._dropped)

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        those = iter(wanted)
        every = tuple(np.zeros(1, int) if axis in self._dropped else next(those) for axis in range(len(frames)))
        return read_by_sources(shape[1:-1], frames, self._sources(shape), every)


class _Pixel(_Exit):
    """One pixel."""

    picked: tuple[Picked, ...] = eqx.field(static=True)

    @property
    def name(self) -> str:
        return "Index"

    def shape(self, shape: Shape) -> Shape:
        _pixels(self.picked, shape)
        return (shape[0], shape[-1])

    @on_existing
    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        _pixels(self.picked, x.shape)
        return x[(slice(None), *self.picked)]

    def exists(self, shape: Shape, mask: Mask) -> None:
        there = _masks_part(self.picked, mask)
        if is_known(there) and not np.all(there):
            raise InputError(
                f"`Index` picks pixel {self.picked}, which image {int(np.argmin(there))} does not have: its mask is "
                "False there. Leave the image out, or pick another pixel."
            )

    def _one_number(self, planes: Array, space: Space, pairs: Array | int) -> Array:
        here = tuple(int(np.flatnonzero(d == 0)[0]) for d in space.displacements)
        return planes[(*here, *self.picked)]

    def check(self, signal: Signal) -> Signal:
        return signal

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        return tuple(np.zeros(1, int) for _ in frames)
