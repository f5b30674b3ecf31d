"""Masks: which pixels of an image exist, where images of several sizes are padded to one."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ntkit.errors import InputError
from ntkit.nn._taps import Window

Mask = Any  # (n, *space) or (*space), NumPy's or JAX's


class Masked(eqx.Module):
    """Images of several sizes in one array: `x` (n, *space, c), and `mask` (n, *space), True where a pixel exists.

    It goes where an array of images goes: into `NTK(net)`, `.diagonal`, `kernels`, `gram` and `net.apply`. What stands
    at the other pixels is never read, NaN included. With the existing pixels in the corner of index 0, as `pad` puts
    them, every image is what it is on its own, truncated to its pixels; the how-to about images has the exceptions.
    `net.apply` returns a `Masked` while there are pixels, behind `Flatten` or global pooling an array.

    **Raises:** `InputError` if the mask is not boolean, or not of the shape of `x` without channels.
    """

    x: Float[Array | np.ndarray, "n *space c"]
    mask: Bool[Array | np.ndarray, "n *space"]

    def __check_init__(self):
        if not (hasattr(self.x, "shape") and hasattr(self.mask, "shape")):
            raise InputError("`Masked` needs two arrays, `x` (n, *space, channels) and `mask` (n, *space).")
        if self.mask.dtype != bool:
            raise InputError(
                f"`mask` must be boolean, True where a pixel exists, but has dtype {self.mask.dtype}. Convert it: "
                "`mask.astype(bool)`."
            )
        if self.x.ndim < 2 or self.mask.shape != self.x.shape[:-1]:
            raise InputError(
                f"`mask` must have the shape of `x` without channels, {self.x.shape[:-1]}, but has {self.mask.shape}: "
                "`x` is (n, *space, channels), `mask` (n, *space)."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def ndim(self) -> int:
        return self.x.ndim

    @property
    def dtype(self) -> Any:
        return self.x.dtype

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> "Masked":
        """Some of the images, by an index or a slice of the first axis."""
        return Masked(self.x[rows], self.mask[rows])

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise InputError(
            "An array is expected here, but `ntkit.Masked` came, which kernels of networks, `ntkit.gram` and "
            "`net.apply` take. Pass what `ntkit.gram` computes of it, or `.filled()`: zeros where there are no pixels."
        )

    def filled(self) -> Any:
        """`x` with zeros where no pixel exists; NumPy's of NumPy arrays."""
        where = np.where if all(isinstance(a, np.ndarray) for a in (self.x, self.mask)) else jnp.where
        return where(self.mask[..., None], self.x, np.zeros((), self.x.dtype))


def pad(images: Sequence[Any], size: Sequence[int] | int | None = None) -> Masked:
    """Images of several sizes, each (*space, c), as one `Masked`: zeros are put behind each axis.

    **Arguments:** `images`: a sequence of arrays with equally many axes and channels. `size`: the pixels of each axis
    (of one axis a number); default the largest. Two sets that meet in one kernel need one size.

    **Raises:** `InputError` for arrays that do not go together, without pixels, or larger than `size`.
    """
    arrays = [np.asarray(image) for image in images]
    if not arrays:
        raise InputError("`images` must hold at least one image; got none.")
    rank, channels = arrays[0].ndim - 1, arrays[0].shape[-1:]
    for i, image in enumerate(arrays):
        if rank < 1 or image.ndim - 1 != rank or image.shape[-1:] != channels or image.dtype != arrays[0].dtype:
            raise InputError(
                "`images` must be arrays (*space, channels) with equally many axes and channels and one dtype; "
                f"`images[0]` is {arrays[0].dtype}{arrays[0].shape}, `images[{i}]` {image.dtype}{image.shape}."
            )
        if 0 in image.shape:
            raise InputError(f"`images[{i}]` has no pixels: its shape is {image.shape}.")
    largest = tuple(max(image.shape[axis] for image in arrays) for axis in range(rank))
    size = largest if size is None else tuple(size) if np.iterable(size) else (size,)
    if len(size) != rank or any(s < n for s, n in zip(size, largest, strict=False)):
        raise InputError(f"`size` must be {rank} numbers, at least {largest}, the largest of `images`; got {size}.")
    x = np.zeros((len(arrays), *size, *channels), arrays[0].dtype)
    mask = np.zeros((len(arrays), *size), bool)
    for i, image in enumerate(arrays):
        box = (i, *(slice(n) for n in image.shape[:-1]))
        x[box], mask[box] = image, True
    return Masked(x, mask)


def is_full(x: Any) -> bool:
    """Whether every pixel is known to exist: an array, or a mask that says so."""
    return not isinstance(x, Masked) or (is_known(x.mask) and bool(np.asarray(x.mask).all()))


def values_of(x: Any) -> Any:
    """The array itself."""
    return x.x if isinstance(x, Masked) else x


def as_masked(x: Any) -> Masked:
    """With a mask: of an array, in which all pixels exist, one that is True everywhere."""
    return x if isinstance(x, Masked) else Masked(x, jnp.ones(x.shape[:-1], bool))


def is_known(mask: Mask) -> bool:
    """Whether its values can be looked at."""
    return not isinstance(mask, jax.core.Tracer)


def behind_windows(owner: str, mask: Mask, windows: Sequence[Window]) -> Mask:
    """Which outputs of windows exist: those that an image without the missing pixels would have."""
    for axis, window in enumerate(windows):
        if window.circular and window.taps > 1:
            raise InputError(
                f'`{owner}` has `padding="CIRCULAR"`, which goes around the whole array and not around the pixels that '
                'exist. Use "SAME", or images of one size without a mask.'
            )
        mask = _along(mask, axis - len(windows), window)
    return mask


def _along(mask: Mask, axis: int, window: Window) -> Mask:
    """Output o exists if `core` inputs from stride o on do; padding that makes the output longer: if one before does.

    Of an image of L pixels these are (L - core) // stride + 1, as many as the window has on L pixels.
    """
    xp = np if isinstance(mask, np.ndarray) else jnp
    size, first = mask.shape[axis], np.arange(window.size) * window.stride
    reads = []
    for k in range(window.core) if window.core > 0 else range(window.core - 1, 1):
        source = first + k
        inside = (source >= 0) & (source < size)
        shape = [-1 if a == mask.ndim + axis else 1 for a in range(mask.ndim)]
        reads.append(xp.take(mask, source % size, axis) & inside.reshape(shape))
    return functools.reduce(operator.and_ if window.core > 0 else operator.or_, reads)


def check_pixels(name: str, layers: Sequence[Any], x: Masked) -> None:
    """Refuses images without pixels, at the start or behind a layer, where the mask is known."""
    if x.ndim < 3:
        raise InputError(f"`{name}` is `Masked` and must have shape (n, *space, channels), but has shape {x.shape}.")
    if not is_known(x.mask):
        return
    shape, mask = x.shape, np.asarray(x.mask)
    _check_left(f"of `{name}` has no pixels: its mask is False everywhere. Leave it out", mask)
    for layer in layers:
        if mask is None:
            return
        mask = layer.exists(shape, mask)
        shape = layer.shape(shape)
        _check_left(f"of `{name}` {_TOO_SMALL.format(layer.name)}", mask)


_TOO_SMALL = 'has no pixels behind `{}`: it is too small. Use a smaller window, `padding="SAME"`, or leave it out'


def _check_left(message: str, mask: Mask | None) -> None:
    if mask is None or not is_known(mask):
        return
    some = np.asarray(mask).reshape(len(mask), -1).any(1)
    if not some.all():
        raise InputError(f"Image {int(np.argmin(some))} {message}.")


def masks_behind(layer: Any, x: Masked) -> Mask | None:
    """Those of its output; refuses images that have no pixels left, where the mask is known."""
    mask = layer.exists(x.shape, x.mask)
    _check_left(_TOO_SMALL.format(layer.name), mask)
    return mask


def on_existing(apply: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's `apply` for arrays, made to take `Masked`, too: it reads zeros at missing pixels."""

    @functools.wraps(apply)
    def on_either(self: Any, params: Any, x: Any, *, key: Any = None) -> Any:
        if not isinstance(x, Masked):
            return apply(self, params, x, key=key)
        mask = masks_behind(self, x)
        out = apply(self, params, x.filled(), key=key)
        return out if mask is None else Masked(out, mask)

    return on_either


def joined(fn: Callable[[list[Array]], Array], outputs: list[Any]) -> Any:
    """fn of the outputs of branches: a pixel exists where it exists in all of them."""
    if not any(isinstance(out, Masked) for out in outputs):
        return fn(outputs)
    return Masked(fn([out.x for out in outputs]), common([out.mask for out in outputs]))


def common(masks: Sequence[Mask]) -> Mask:
    """Where all of them are True."""
    return functools.reduce(operator.and_, masks)
