"""Windows over planes: which pixels their taps read, together with shared weights or with fixed ones."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit.errors import InputError
from ntkit.nn._planes import Displacements, Space, along2, in_memory, take

Padding = Literal["SAME", "VALID", "CIRCULAR"] | tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """The taps of a filter along one axis: output o reads the inputs stride o - before + dilation f, f < taps."""

    taps: int
    stride: int
    dilation: int
    before: int
    size: int  # of the output
    circular: bool
    core: int = 1  # so many inputs from stride o on are read by any output o that is not padding: see `_masks`

    @staticmethod
    def of(owner: str, size: int, taps: int, stride: int, dilation: int, padding: Any) -> "Window":
        reach = (taps - 1) * dilation + 1
        if padding in ("SAME", "CIRCULAR"):
            out = -(-size // stride)
            before = max((out - 1) * stride + reach - size, 0) // 2
            return Window(taps, stride, dilation, before, out, padding == "CIRCULAR")  # core 1 whatever the size
        low, high = (0, 0) if padding == "VALID" else padding
        out = (size + low + high - reach) // stride + 1
        if out < 1:
            raise InputError(
                f"`{owner}` covers {reach} pixels, but its input has only {size + low + high} along an axis"
                f"{'' if padding == 'VALID' else ', padding included'}. Use a smaller filter, "
                'or `padding="SAME"`.'
            )
        return Window(taps, stride, dilation, low, out, False, reach - low - high)

    def keeps(self, size: int) -> bool:
        """Whether an axis of several taps keeps its size, and each tap is a shift of it, with zeros beside."""
        reach = (self.taps - 1) * self.dilation
        return self.stride == 1 < self.taps and self.size == size and 0 <= self.before <= reach and not self.circular

    def sources(self) -> np.ndarray:
        """The inputs read, (taps, outputs); some outside the image."""
        return np.arange(self.size)[None] * self.stride + np.arange(self.taps)[:, None] * self.dilation - self.before


def shared(planes: Array, space: Space, windows: Sequence[Window], written: bool = False) -> tuple[Array, Space]:
    """The mean over taps f of K(src_f(o), src_f(o')): what shared weights read. No plane meets another. `written`: the
    planes stand in memory."""
    if planes.ndim == 0:  # nothing yet
        return planes, _strided(space, windows)
    planes = _select(planes, space, windows)
    out = _strided(space, windows)
    if all(window.taps == 1 for window in windows) and not written:
        planes = in_memory(planes)
    if space.rank > 1 and all(window.keeps(size) for window, size in zip(windows, space.sizes, strict=True)):
        planes = _shared_in_rows(planes, space, windows, written)
    else:
        planes = _shared_by_axes(planes, space, out, windows)
    return planes / math.prod(window.taps for window in windows), out


def _shared_by_axes(planes: Array, space: Space, out: Space, windows: Sequence[Window]) -> Array:
    for axis, window in enumerate(windows):
        if window.taps == window.stride == 1 and not window.before and window.size == space.sizes[axis]:
            continue
        masks = [_read_inside(space, out, axis, window, f) for f in range(window.taps)]
        masks = [m if m is None else along2(m, axis, space.rank).astype(planes.dtype) for m in masks]
        planes = _summed(planes, window, space.sizes[axis], space.rank + axis, list(enumerate(masks)))
    return planes


def _shared_in_rows(planes: Array, space: Space, windows: Sequence[Window], written: bool) -> Array:
    """The same where images keep their size, with the pixels of a plane as one long row between the axes.

    There a tap is a shift, masked where it runs into the next line. LLVM unrolls a loop over a line of pixels, if it is
    short and does as little as this, and then finds no vectors in it: it took half the time of a whole network.
    """
    counts, rows = planes.shape[: space.rank], planes
    for axis, window in enumerate(windows):
        if axis or written:
            rows = _padded_rows(rows.reshape(*counts, -1), window, math.prod(space.sizes[axis + 1 :]))
        else:  # with the layers before it in the same loop, which in a row would divide to find their pixels
            rows = _padded(rows, window, space.sizes[0], space.rank).reshape(*counts, -1)
        rows = _taps_of_rows(rows, space, axis, window)
    return rows


def _padded_rows(rows: Array, window: Window, step: int) -> Array:
    """`_padded`, of rows in which the pixels of an axis are some steps apart."""
    high = (window.taps - 1) * window.dilation - window.before
    low, high = (jnp.zeros((*rows.shape[:-1], count * step), rows.dtype) for count in (window.before, high))
    return lax.optimization_barrier(jnp.concatenate([low, rows, high], -1))


def _taps_of_rows(rows: Array, space: Space, axis: int, window: Window) -> Array:
    """The sum over the taps along an axis: rows again, behind the last axis planes."""
    rank, sizes = space.rank, space.sizes
    step, last, total = math.prod(sizes[axis + 1 :]), axis + 1 == rank, None
    for f in range(window.taps):
        start = f * window.dilation * step
        term = lax.slice_in_dim(rows, start, start + math.prod(sizes), axis=rank)
        term = term.reshape(*term.shape[:-1], *sizes) if last else term
        inside = _shifted_inside(space, axis, window, f)
        if inside is not None:
            mask = along2(inside, axis, rank).astype(rows.dtype)
            term = term * (mask if last else _as_rows(mask, sizes))
        total = term if total is None else total + term
    assert total is not None
    return total


def _shifted_inside(space: Space, axis: int, window: Window, f: int) -> Any:
    """Whether the taps of p and of its partner lie in the image, (D, P) of an axis; None where that needs no asking,
    as of p along axis 0: beside it there are zeros."""
    of_y = _read_inside(space, space, axis, window, f)
    of_x = np.arange(space.sizes[axis])[None] + f * window.dilation - window.before
    of_x = (of_x >= 0) & (of_x < space.sizes[axis])
    if axis == 0 or of_x.all():
        return of_y
    return of_x if of_y is None else of_x & of_y


def _as_rows(mask: Array, sizes: tuple[int, ...]) -> Array:
    """In memory: else every pixel asks, by a division, in which line it is."""
    counts = mask.shape[: len(sizes)]
    return in_memory(jnp.broadcast_to(mask, (*counts, *sizes)).reshape(*counts, -1))


def _strided(space: Space, windows: Sequence[Window]) -> Space:
    """The space behind windows: only the multiples of a stride are read."""
    frames, displacements = [], []
    for frame, d, window in zip(space.frames, space.displacements, windows, strict=True):
        if frame % window.stride:
            raise AssertionError(f"a frame of {frame} does not fit a stride of {window.stride}")
        frames.append(frame // window.stride)
        d = d[d % window.stride == 0] if isinstance(d, np.ndarray) else d
        # Not by 1: the same number by another name, and what depends on it is computed once more for every layer.
        displacements.append(d // window.stride if window.stride > 1 else d)
    return Space(tuple(w.size for w in windows), tuple(frames), tuple(displacements))


def _select(planes: Array, space: Space, windows: Sequence[Window]) -> Array:
    """Without the planes that no output reads."""
    for axis, (d, window) in enumerate(zip(space.displacements, windows, strict=True)):
        if isinstance(d, np.ndarray) and (d % window.stride).any():
            planes = take(planes, np.flatnonzero(d % window.stride == 0), axis)
    return planes


def _summed(planes: Array, window: Window, size: int, axis: int, taps: Sequence[tuple[int, Array | None]]) -> Array:
    """The sum over some taps, each with its mask, of what they read along an axis of pixels."""
    longer, total = _padded(planes, window, size, axis), None
    for f, mask in taps:
        start = f * window.dilation
        term = lax.slice_in_dim(longer, start, start + (window.size - 1) * window.stride + 1, window.stride, axis)
        term = term if mask is None else term * mask
        total = term if total is None else total + term
    assert total is not None
    return total


def _padded(planes: Array, window: Window, size: int, axis: int) -> Array:
    """Long enough for every tap, in memory: else XLA fuses what comes before into each tap and computes it so often."""
    low, high = window.before, max(int(window.sources().max()) - size + 1, 0)
    parts = [planes]
    if low:
        parts.insert(0, _beside(planes, np.arange(-low, 0), window, axis))
    if high:
        parts.append(_beside(planes, np.arange(size, size + high), window, axis))
    longer = jnp.concatenate(parts, axis)
    # Joined on both sides it is a loop of its own, with zeros on one side alone a mere pad, which is fused.
    return lax.optimization_barrier(longer) if low and high else in_memory(longer)


def _beside(planes: Array, pixels: np.ndarray, window: Window, axis: int) -> Array:
    """What stands outside the image: zeros, or around a circle the other end."""
    if window.circular:
        return take(planes, pixels % planes.shape[axis], axis)
    return jnp.zeros((*planes.shape[:axis], len(pixels), *planes.shape[axis + 1 :]), planes.dtype)


def _read_inside(space: Space, out: Space, axis: int, window: Window, f: int) -> Any:
    """Whether the partner's tap lies in the image, (D, O); None where it does, or p itself tells."""
    d = out.displacements[axis]
    if window.circular or (isinstance(d, np.ndarray) and not d.any()):
        return None
    offset = f * window.dilation - window.before
    if offset == 0 and window.stride == 1 and out.frames[axis] == out.sizes[axis] <= space.sizes[axis]:
        return None
    source = out.partners(axis) * window.stride + offset
    return (source >= 0) & (source < space.sizes[axis])


def dilated(planes: Array, space: Space, strides: Sequence[int]) -> tuple[Array, Space]:
    """With strides - 1 zeros put between pixels, and between displacements: what a transposed layer spreads out."""
    if planes.ndim == 0:
        return planes, _spread(space, strides)
    widths = []
    for d, stride in zip(space.displacements, strides, strict=True):
        widths.append((0, 0, 0) if stride == 1 or _is_zero(d) else (0, stride - 1, stride - 1))
    widths += [(0, stride - 1, stride - 1) for stride in strides]
    return lax.pad(planes, jnp.zeros((), planes.dtype), widths), _spread(space, strides)


def _spread(space: Space, strides: Sequence[int]) -> Space:
    displacements = [
        d if s == 1 or _is_zero(d) else (d[:, None] * s + np.arange(s)[None]).ravel()
        for d, s in zip(space.displacements, strides, strict=True)
    ]
    sizes, frames = (tuple(n * s for n, s in zip(per, strides, strict=True)) for per in (space.sizes, space.frames))
    return Space(sizes, frames, tuple(displacements))


def _is_zero(d: Displacements) -> bool:
    return isinstance(d, np.ndarray) and not d.any()


def fixed(planes: Array, space: Space, windows: Sequence[Window]) -> tuple[Array, Space]:
    """The mean over taps f and g of K(src_f(o), src_g(o')): what fixed weights read. First the side of x, then of y."""
    out = Space(
        tuple(w.size for w in windows),
        tuple(frame // w.stride for frame, w in zip(space.frames, windows, strict=True)),
        tuple(pooled_displacements(s, w) for s, w in zip(_per_axis(space), windows, strict=True)),
    )
    if planes.ndim == 0:
        return planes, out
    for axis, window in enumerate(windows):
        planes = _fixed_along(planes, space, out, axis, window)
    return planes, out


@dataclasses.dataclass(frozen=True)
class _Axis:
    size: int
    frame: int
    displacements: Any


def _per_axis(space: Space) -> list[_Axis]:
    return [_Axis(*each) for each in zip(space.sizes, space.frames, space.displacements, strict=True)]


def pooled_displacements(axis: _Axis, window: Window) -> np.ndarray:
    """Those outputs of which every displacement that they read is there."""
    every = np.arange(axis.frame // window.stride)
    there = np.isin(read_by_pooling(every, axis.frame, window).reshape(len(every), -1), axis.displacements).all(1)
    return every[there]


def read_by_pooling(d: np.ndarray, frame: int, window: Window) -> np.ndarray:
    """The displacements that fixed taps read for those of the output, (D, 2 taps - 1)."""
    apart = np.arange(1 - window.taps, window.taps) * window.dilation
    return (d[:, None] * window.stride + apart[None]) % frame


def _fixed_along(planes: Array, space: Space, out: Space, axis: int, window: Window) -> Array:
    frame, size, rank = space.frames[axis], space.sizes[axis], space.rank
    wanted = out.displacements[axis]
    taps = np.arange(window.taps) * window.dilation
    known = np.full(frame, -1)
    known[space.displacements[axis]] = np.arange(len(space.displacements[axis]))
    # The side of x: of each pair (o, p'), kept at e = p' - stride o, the mean over f of K(stride o - before + f, p').
    between = np.unique((wanted[:, None] * window.stride + taps[None] - window.before) % frame)
    partial = []
    for f in range(window.taps):
        index = known[(between + window.before - taps[f]) % frame]
        partial.append(_summed(take(planes, index, axis), window, size, rank + axis, [(f, None)]))
    half = lax.optimization_barrier(sum(partial[1:], partial[0]) / window.taps)
    # The side of y: p' = stride o' - before + g, with o' = o + d.
    place = np.full(frame, -1)
    place[between] = np.arange(len(between))
    partners = (np.arange(window.size)[None] + wanted[:, None]) % out.frames[axis]
    total = []
    for g in range(window.taps):
        index = place[(wanted * window.stride + taps[g] - window.before) % frame]
        source = partners * window.stride + taps[g] - window.before
        read = take(half, index, axis)
        inside = (source >= 0) & (source < size)
        if not window.circular and not inside.all():
            read = read * along2(inside, axis, rank).astype(read.dtype)
        total.append(read)
    return lax.optimization_barrier(sum(total[1:], total[0]) / window.taps)
