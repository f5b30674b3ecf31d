"""Sums over planes: what is left of all pixels, or of the pairs of one image's pixels."""

import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit.nn._planes import Space, along, along2, take
from ntkit.nn._taps import Window


def over_everything(planes: Array, space: Space) -> Array:
    """The sum over all pairs of pixels that are there; over some planes only, in a loop over planes."""
    planes = _there(planes, space)
    # Column by column: XLA for CPU adds up a single number one term after the other.
    return jnp.sum(jnp.sum(planes, axis=tuple(range(planes.ndim - 1))))


def over_partners(planes: Array, space: Space) -> Array:
    """The sum over p', for every p; over some planes only their part of it, as in `over_everything`."""
    return jnp.sum(_there(planes, space), axis=tuple(range(space.rank)))


def _there(planes: Array, space: Space) -> Array:
    """With zeros where p' lies outside the image."""
    for axis in range(space.rank):
        inside = space.inside(axis)
        if inside is not None:
            planes = planes * along2(inside, axis, space.rank).astype(planes.dtype)
    return planes


def over_windows(planes: Array, space: Space, windows: Sequence[Window]) -> Array:
    """The mean over outputs of that over taps f and g of K(src_f(o), src_g(o)): what is left where windows are pooled
    and flattened; over some planes only their part of it, as in `over_everything`."""
    for axis in reversed(range(space.rank)):
        every = shared_windows(windows[axis], space.sizes[axis], space.frames[axis])
        weights = jnp.asarray(every, planes.dtype)[jnp.asarray(space.displacements[axis])]
        # One displacement after the other: a product and a sum of all are two loops to XLA for CPU, over memory.
        terms = [
            lax.index_in_dim(planes, i, axis, keepdims=False) * along(weights[i], 2 * axis, axis + space.rank)
            for i in range(len(weights))
        ]
        planes = functools.reduce(operator.add, terms)
    return jnp.sum(jnp.sum(planes, axis=tuple(range(planes.ndim - 1))))


def shared_windows(window: Window, size: int, frame: int) -> np.ndarray:
    """How often outputs read both p and p', per output and pair of taps, by displacement and pixel: (frame, size)."""
    counts = np.zeros((frame, size))
    for sources in window.sources().T:
        sources = sources % size if window.circular else sources[(sources >= 0) & (sources < size)]
        np.add.at(counts, ((sources[None] - sources[:, None]) % frame, sources[:, None]), 1.0)
    return counts / (window.size * window.taps**2)


def over_diagonal(planes: Array, space: Space) -> Array:
    """The mean over the pairs of a pixel with itself."""
    for axis, d in enumerate(space.displacements):
        planes = take(planes, np.flatnonzero(d == 0), axis)
    return jnp.mean(planes)
