"""What layers that look through a window share: their arguments, their shapes, and the planes that they read."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ntkit.errors import InputError
from ntkit.nn._layer import Displacements, Frames, Shape
from ntkit.nn._taps import Padding, Window

MOST_AXES = 3


def positive_sizes(owner: str, name: str, value: Any, rank: int) -> tuple[int, ...]:
    """A number per axis, all at least 1."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank
    whole = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v >= 1 for v in values)
    if len(values) != rank or not whole:
        raise InputError(
            f"`{name}` of `{owner}` must be a positive whole number, or {rank} of them, one per spatial axis; "
            f"got {value!r}."
        )
    return tuple(int(v) for v in values)


def per_axis(
    owner: str, filter_shape: Any, strides: Any, padding: Any, *, name: str = "filter_shape"
) -> tuple[tuple[int, ...], tuple[int, ...], Padding]:
    """The window, its strides and its padding, checked."""
    if not isinstance(filter_shape, (tuple, list)) or not 1 <= len(filter_shape) <= MOST_AXES:
        raise InputError(
            f"`{name}` of `{owner}` must be a tuple of 1 to {MOST_AXES} sizes, one per spatial axis, such as (3, 3) "
            f"for images; got {filter_shape!r}."
        )
    taps = positive_sizes(owner, name, filter_shape, len(filter_shape))
    return taps, positive_sizes(owner, "strides", strides, len(taps)), checked_padding(owner, padding, len(taps))


def checked_padding(owner: str, padding: Any, rank: int) -> Padding:
    each: Any = padding
    if isinstance(padding, str) and padding in ("SAME", "VALID", "CIRCULAR"):
        return padding
    try:
        pairs = tuple((operator.index(low), operator.index(high)) for low, high in each)
    except (TypeError, ValueError):
        pairs = ()
    if len(pairs) != rank or min(min(pair) for pair in pairs) < 0:
        raise InputError(
            f'`padding` of `{owner}` must be "SAME", "VALID", "CIRCULAR", or {rank} pairs (before, after) of numbers '
            f">= 0; got {padding!r}."
        )
    return pairs


def spatial_shape(owner: str, shape: Shape, rank: int) -> tuple[int, ...]:
    """The spatial sizes of inputs of a shape (n, *space, channels)."""
    if len(shape) != rank + 2:
        axes = "(n, " + ", ".join(("height", "width") if rank == 2 else [f"axis {i + 1}" for i in range(rank)])
        hint = " An image with one channel needs that axis, too: `x[..., None]`." if len(shape) == rank + 1 else ""
        if len(shape) == 2:
            hint = " Rows have no pixels: reshape them, or put the layer before `Flatten` or global pooling."
        raise InputError(f"`{owner}` here needs inputs of shape {axes}, channels), but is given {tuple(shape)}.{hint}")
    return tuple(shape[1:-1])


def windows_of(
    owner: str, sizes: Sequence[int], taps: Sequence[int], strides: Sequence[int], dilation: Sequence[int], padding: Any
) -> list[Window]:
    each = [padding] * len(taps) if isinstance(padding, str) else padding
    return [Window.of(owner, *args) for args in zip(sizes, taps, strides, dilation, each, strict=True)]


def strided_frames(windows: Sequence[Window], sizes: Sequence[int], frames: Frames) -> Frames:
    """The frames behind windows; 0 on an axis where they do not divide, are too short, or do not close a circle."""
    return tuple(_strided(*each) for each in zip(windows, sizes, frames, strict=True))


def _strided(window: Window, size: int, frame: int) -> int:
    if frame % window.stride or (window.circular and frame != size):
        return 0
    out = frame // window.stride
    return out if out >= window.size else 0


def strided_wanted(windows: Sequence[Window], frames: Frames, wanted: Displacements) -> Displacements:
    return tuple(np.unique(d * w.stride % f) for w, f, d in zip(windows, frames, wanted, strict=True))
