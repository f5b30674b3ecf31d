"""Space, read at fixed places: each output is a weighted sum of inputs of its own, wherever they lie."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkit.nn._layer import Displacements, Frames
from ntkit.nn._planes import Space, _along2


@dataclasses.dataclass(frozen=True)
class Sources:
    """Along one axis: output o is the sum over taps f of weights[f, o] times the input index[f, o]; both (taps, O)."""

    index: np.ndarray
    weights: np.ndarray

    @property
    def size(self) -> int:
        """Of the output."""
        return self.index.shape[1]

    def read(self, frame: int, out_frame: int, d: np.ndarray) -> np.ndarray:
        """The displacements in `frame` that tap f of o and tap g of o' = (o + d) mod `out_frame` make: (f, g, D, O)."""
        return (self.index[:, self._partners(out_frame, d)] - self.index[:, None, None]) % frame

    def inside(self, out_frame: int, d: np.ndarray) -> np.ndarray:
        """Whether o' is an output, (D, O)."""
        return (np.arange(self.size)[None] + d[:, None]) % out_frame < self.size

    def weighted(self, out_frame: int, d: np.ndarray) -> np.ndarray:
        """The product of the weights of both sides, (f, g, D, O)."""
        return self.weights[:, None, None] * self.weights[:, self._partners(out_frame, d)][None]

    def _partners(self, out_frame: int, d: np.ndarray) -> np.ndarray:
        """o', and any output where it is none."""
        return (np.arange(self.size)[None] + d[:, None]) % out_frame % self.size


def loosened(sizes: Sequence[int], frames: Frames, sources: Sequence[Sources]) -> Frames:
    """The frames of the output: as much longer than its axes as those of the input are, so that branches can meet."""
    return tuple(s.size + f - n for n, f, s in zip(sizes, frames, sources, strict=True))


def read_by_sources(
    sizes: Sequence[int], frames: Frames, sources: Sequence[Sources], wanted: Displacements
) -> Displacements:
    """The displacements of the input that those of the output are made of."""
    needed = []
    for s, frame, out, d in zip(sources, frames, loosened(sizes, frames, sources), wanted, strict=True):
        needed.append(np.unique(s.read(frame, out, d)[:, :, s.inside(out, d)]))
    return tuple(needed)


def gathered(planes: Array, space: Space, sources: Sequence[Sources]) -> tuple[Array, Space]:
    """The sum over taps f and g of w_f(o) w_g(o') K(src_f(o), src_g(o')), one axis after the other."""
    frames = loosened(space.sizes, space.frames, sources)
    made = [_made(space, axis, s, out) for axis, (s, out) in enumerate(zip(sources, frames, strict=True))]
    out = Space(tuple(s.size for s in sources), frames, tuple(made))
    if planes.ndim == 0:  # nothing yet
        return planes, out
    for axis, s in enumerate(sources):
        planes = _gathered_along(planes, space, out, axis, s)
    return planes, out


def _made(space: Space, axis: int, s: Sources, out_frame: int) -> np.ndarray:
    """Those outputs of which every displacement that they read is there."""
    every = np.array([d for d in range(out_frame) if d < s.size or d > out_frame - s.size])
    there = np.isin(s.read(space.frames[axis], out_frame, every), space.displacements[axis])
    return every[(there | ~s.inside(out_frame, every)).all((0, 1, 3))]


def _gathered_along(planes: Array, space: Space, out: Space, axis: int, s: Sources) -> Array:
    frame, d, rank = space.frames[axis], out.displacements[axis], space.rank
    known = np.zeros(frame, int)
    known[space.displacements[axis]] = np.arange(len(space.displacements[axis]))
    places, weights = known[s.read(frame, out.frames[axis], d)], s.weighted(out.frames[axis], d)
    moved, total = jnp.moveaxis(planes, (axis, rank + axis), (0, 1)), None
    for f in range(len(s.index)):
        for g in range(len(s.index)):
            term = jnp.moveaxis(moved[places[f, g], s.index[f][None]], (0, 1), (axis, rank + axis))
            if (weights[f, g] != 1).any():
                term = term * _along2(weights[f, g], axis, rank).astype(planes.dtype)
            total = term if total is None else total + term
    assert total is not None
    return total


def without_axes(planes: Array, space: Space, axes: Sequence[int]) -> tuple[Array, Space]:
    """Without axes of one pixel."""
    kept = [axis for axis in range(space.rank) if axis not in axes]
    sizes, frames, displacements = (
        tuple(per[axis] for axis in kept) for per in (space.sizes, space.frames, space.displacements)
    )
    out = Space(sizes, frames, displacements)
    return (jnp.squeeze(planes, (*axes, *(space.rank + a for a in axes))) if planes.ndim else planes), out
