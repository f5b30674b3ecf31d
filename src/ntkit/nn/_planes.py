"""Space: the covariance between the pixels of two images, stored by displacement, and how spatial layers read it.

An array of a law with k spatial axes has shape (D_1 ... D_k, P_1 ... P_k). Its entry [d, p] belongs to pixel p of x and
pixel p' = (p + d) mod frame of y, on every axis. All displacements together are the full covariance, displacement 0
alone is all that `Flatten` reads, and no layer asks which it is given. A frame is at least as long as its axis. Entries
whose p' lies outside the image hold anything: whoever reads them masks them. Maps of one image have shape (1 ... 1,
P_1 ... P_k).
"""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

Displacements = Any  # np.ndarray where known when traced, a JAX array inside a loop over planes


class Space(eqx.Module):
    """The pixels of a law: per axis the image's size, the frame that displacements wrap in, and those that are kept."""

    sizes: tuple[int, ...] = eqx.field(static=True)
    frames: tuple[int, ...] = eqx.field(static=True)
    displacements: tuple[Displacements, ...]

    @property
    def rank(self) -> int:
        return len(self.sizes)

    @property
    def pairs(self) -> int:
        """Pairs of pixels that are kept."""
        return math.prod(len(d) for d in self.displacements) * math.prod(self.sizes)

    @property
    def alone(self) -> bool:
        """Whether displacement 0 is known to be the only one."""
        return all(isinstance(d, np.ndarray) and not d.any() for d in self.displacements)

    def maps(self) -> "Space":
        """The space of a map of one image."""
        return Space(self.sizes, self.frames, (np.zeros(1, int),) * self.rank)

    def is_diagonal(self) -> Array:
        """Where the displacement is 0 on every axis: (D_1 ... D_k, 1 ... 1)."""
        where = jnp.ones((1,) * (2 * self.rank), bool)
        for axis, d in enumerate(self.displacements):
            where = where & along(jnp.asarray(d) == 0, axis, 2 * self.rank)
        return where

    def partners(self, axis: int) -> Any:
        """p' for every displacement and pixel of an axis: (D, P)."""
        pixels = np.arange(self.sizes[axis], dtype=np.int32)[None]
        return (pixels + self.displacements[axis][:, None]) % self.frames[axis]

    def inside(self, axis: int) -> Any:
        """Whether p' lies in the image, for every displacement and pixel of an axis; None where all do."""
        if self.frames[axis] == self.sizes[axis]:
            return None
        return self.partners(axis) < self.sizes[axis]

    def view(self, of_y: Array) -> Array:
        """What is known of y at p', for every displacement and pixel p: (P..., rest...) to (D..., P..., rest...)."""
        return self.seen(self.laid_out(of_y))

    def laid_out(self, of_y: Array, several: bool = False) -> Array:
        """That part of `view` which depends on no loop, and is done once per image.

        Displacements known when traced are looked up; along the other axes y is written twice, behind itself, where a
        displacement is a slice. `several`: along a first axis, maps that are read together; see `one_by_one`.
        """
        looped, known = self._axes()
        before = len(known) + several
        for front, axis in enumerate(reversed(known)):
            of_y = self._looked_up(of_y, axis, front + several + axis)
        for axis in looped:
            of_y = self._twice(of_y, axis, before + axis)
        return _off_the_grid(of_y, before + looped[0]) if looped and several else of_y

    def one_by_one(self, laid_out: Array) -> list[Array]:
        """What was laid out together; of each displacement that was looked up, all maps in turn, as they are read."""
        place = len(self._axes()[1])
        return [lax.index_in_dim(laid_out, i, place, keepdims=False) for i in range(laid_out.shape[place])]

    def seen(self, laid_out: Array) -> Array:
        """The rest of `view`."""
        looped, known = self._axes()
        seen = self._slices(laid_out, looped, len(known), [np.int32(0)] * laid_out.ndim)
        return jnp.moveaxis(seen, range(self.rank), looped + known)

    def _axes(self) -> tuple[list[int], list[int]]:
        """Those whose displacements a loop goes through, and those whose are known when traced."""
        looped = [axis for axis, d in enumerate(self.displacements) if not isinstance(d, np.ndarray)]
        return looped, [axis for axis in range(self.rank) if axis not in looped]

    def _looked_up(self, of_y: Array, axis: int, place: int) -> Array:
        """A new first axis of displacements, for the pixels at `place`."""
        size, d = self.sizes[axis], self.displacements[axis]
        if not d.any():
            return jnp.broadcast_to(of_y[None], (len(d), *of_y.shape))
        again = self._twice(of_y, axis, place)
        return jnp.stack([lax.slice_in_dim(again, int(k), int(k) + size, axis=place) for k in d])

    def _twice(self, of_y: Array, axis: int, place: int) -> Array:
        beyond = [(0, 0)] * of_y.ndim
        beyond[place] = (0, self.frames[axis] - self.sizes[axis])
        # Not zeros: outside the image, too, formulas are given what belongs together, and give something finite.
        return jnp.concatenate([jnp.pad(of_y, beyond, mode="edge"), of_y], place)

    def _slices(self, twice: Array, looped: list[int], known: int, starts: list[Any]) -> Array:
        """New axes of displacements at the front, for axes that were written twice."""
        if not looped:
            shape = (*twice.shape[:known], *self.sizes, *twice.shape[known + self.rank :])
            return twice if shape == twice.shape else lax.dynamic_slice(twice, starts, shape)
        place, d = known + looped[0], self.displacements[looped[0]].astype(jnp.int32)
        each = ([*starts[:place], d[i], *starts[place + 1 :]] for i in range(len(d)))
        # Not under vmap, where it is a gather, which XLA for CPU does number by number.
        return jnp.stack([self._slices(twice, looped[1:], known, starts) for starts in each])


# A processor's first cache has so many bytes per way: numbers that far apart displace each other.
WAY = 4096


def _off_the_grid(maps: Array, place: int) -> Array:
    """With a longer axis at `place`, which no slice reaches into: maps that are read together begin at other lines."""
    line = math.prod(maps.shape[place + 1 :]) * maps.dtype.itemsize
    more = next(k for k in range(WAY) if (maps.shape[place] + k) * line % WAY or not line % WAY)
    return jnp.pad(maps, [(0, more if axis == place else 0) for axis in range(maps.ndim)])


def in_memory(planes: Array) -> Array:
    """The same numbers, written down once: else what reads them twice computes them twice."""
    return lax.platform_dependent(planes, cpu=_written_down, default=lax.optimization_barrier)


@jax.custom_jvp
def _written_down(planes: Array) -> Array:
    """Through a loop of no turns, which only the data know: XLA for CPU fuses through barriers, slices and joints, but
    not through a loop. What it is given it reads where it stands."""
    first = lax.index_in_dim(planes.ravel(), 0, keepdims=False)
    turns = (first != first).astype(planes.dtype)  # of a NaN it is one, which changes nothing
    state = lax.while_loop(lambda s: s[0] > 0, lambda s: (s[0] - 1, s[0] * s[1]), (turns, planes))
    return state[1]


@_written_down.defjvp
def _slope_of_written(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _written_down(*primals), tangents[0]


def everywhere(size: int, frame: int) -> np.ndarray:
    """The displacements of an axis at which any pair of pixels lies in the image."""
    return np.array([d for d in range(frame) if d < size or d > frame - size])


def reframed(planes: Array, space: Space, frames: tuple[int, ...], displacements: Any) -> tuple[Array, Space]:
    """The same covariances, wrapped in other frames."""
    out = Space(space.sizes, frames, displacements)
    if planes.ndim == 0:
        return planes, out
    for axis, (size, frame) in enumerate(zip(space.sizes, space.frames, strict=True)):
        if frame == frames[axis] and np.array_equal(space.displacements[axis], displacements[axis]):
            continue
        known = np.full(frame, 0)
        known[space.displacements[axis]] = np.arange(len(space.displacements[axis]))
        index = known[(out.partners(axis) - np.arange(size)[None]) % frame]
        moved = jnp.moveaxis(planes, (axis, space.rank + axis), (0, 1))
        planes = jnp.moveaxis(moved[index, np.arange(size)[None]], (0, 1), (axis, space.rank + axis))
    return planes, out


def read_by_reframing(size: int, frame: int, new_frame: int, d: np.ndarray) -> np.ndarray:
    """The displacements in `frame` that those in `new_frame` are made of."""
    pixels = np.arange(size)[None]
    partners = (pixels + d[:, None]) % new_frame
    return np.unique(((partners - pixels) % frame)[partners < size])


def at_displacements(planes: Array, space: Space, displacements: Sequence[np.ndarray]) -> Array:
    """Those planes alone."""
    if planes.ndim:
        for axis, (kept, d) in enumerate(zip(space.displacements, displacements, strict=True)):
            planes = take(planes, np.array([int(np.flatnonzero(kept == one)[0]) for one in d]), axis)
    return planes


def take(planes: Array, index: np.ndarray, axis: int) -> Array:
    """`planes[index]` along an axis; as a slice where the index is regular."""
    if len(index) == planes.shape[axis] and np.array_equal(index, np.arange(len(index))):
        return planes
    steps = np.diff(index)
    if len(index) == 1 or ((steps > 0).all() and (steps == steps[0]).all()):
        stride = int(steps[0]) if len(index) > 1 else 1
        return lax.slice_in_dim(planes, int(index[0]), int(index[-1]) + 1, stride, axis)
    # A circle cut once: two slices.
    breaks = np.flatnonzero(steps < 0)
    if len(breaks) == 1:
        cut = int(breaks[0]) + 1
        return jnp.concatenate([take(planes, index[:cut], axis), take(planes, index[cut:], axis)], axis)
    return jnp.take(planes, index, axis)


def along(values: Array, axis: int, ndim: int) -> Array:
    return values.reshape(tuple(-1 if a == axis else 1 for a in range(ndim)))


def along2(values: Any, axis: int, rank: int) -> Array:
    """(D, P) of one axis, to broadcast against planes."""
    values = jnp.asarray(values)
    shape = [1] * (2 * rank)
    shape[axis], shape[rank + axis] = values.shape
    return values.reshape(shape)
