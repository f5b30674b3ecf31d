"""Space, read at fixed places: each output is a weighted sum of inputs of its own, wherever they lie."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkit.nn._layer import Displacements, Frames
from ntkit.nn._planes import Space, along2, everywhere


@dataclasses.dataclass(frozen=True)
class Sources:
    """Along one axis: output o is the sum over taps f of weights[f, o] times the input index[f, o]; both (taps, O).

    Those of masked images depend on data: then they are arrays of JAX's, maybe with images in front.
    """

    index: np.ndarray | Array
    weights: np.ndarray | Array

    @property
    def size(self) -> int:
        """Of the output."""
        return self.index.shape[-1]

    @property
    def taps(self) -> int:
        return self.index.shape[-2]

    def read(self, of_y: "Sources", frame: int, out_frame: int, d: np.ndarray) -> Any:
        """The displacements in `frame` that tap f of o in x and tap g of o' = (o + d) mod `out_frame` in y make, (f, g,
        D, O)."""
        return (of_y.index[:, self._partners(out_frame, d)][None] - self.index[:, None, None]) % frame

    def inside(self, out_frame: int, d: np.ndarray) -> np.ndarray:
        """Whether o' is an output, (D, O)."""
        return (np.arange(self.size)[None] + d[:, None]) % out_frame < self.size

    def weighted(self, of_y: "Sources", out_frame: int, d: np.ndarray) -> Any:
        """The product of the weights of both sides, (f, g, D, O)."""
        return self.weights[:, None, None] * of_y.weights[:, self._partners(out_frame, d)][None]

    def _partners(self, out_frame: int, d: np.ndarray) -> np.ndarray:
        """o', and any output where it is none."""
        return (np.arange(self.size)[None] + d[:, None]) % out_frame % self.size


def loosened(sizes: Sequence[int], frames: Frames, sources: Sequence[Sources]) -> Frames:
    """The frames of the output: as much longer than its axes as those of the input are, so that branches can meet."""
    return tuple(s.size + f - n if f else 0 for n, f, s in zip(sizes, frames, sources, strict=True))


def read_by_sources(
    sizes: Sequence[int], frames: Frames, sources: Sequence[Sources], wanted: Displacements
) -> Displacements:
    """The displacements of the input that those of the output are made of."""
    needed = []
    for s, frame, out, d in zip(sources, frames, loosened(sizes, frames, sources), wanted, strict=True):
        needed.append(np.unique(s.read(s, frame, out, d)[:, :, s.inside(out, d)]))
    return tuple(needed)


def gathered(planes: Array, space: Space, of_x: Sequence[Sources], of_y: Sequence[Sources]) -> tuple[Array, Space]:
    """The sum over taps f and g of w_f(o) w_g(o') K(src_f(o), src_g(o')), one axis after the other."""
    frames = loosened(space.sizes, space.frames, of_x)
    made = [_made(space, axis, *each) for axis, each in enumerate(zip(of_x, of_y, frames, strict=True))]
    out = Space(tuple(x.size for x in of_x), frames, tuple(made))
    if planes.ndim == 0:  # nothing yet
        return planes, out
    for axis, (x, y) in enumerate(zip(of_x, of_y, strict=True)):
        planes = _gathered_along(planes, space, out, axis, x, y)
    return planes, out


def _made(space: Space, axis: int, x: Sources, y: Sources, out_frame: int) -> np.ndarray:
    """Those outputs of which every displacement that they read is there."""
    every, kept = everywhere(x.size, out_frame), space.displacements[axis]
    if not (isinstance(x.index, np.ndarray) and isinstance(y.index, np.ndarray)):  # any may be read
        assert np.isin(everywhere(space.sizes[axis], space.frames[axis]), kept).all()
        return every
    read = x.read(y, space.frames[axis], out_frame, every)
    return every[(np.isin(read, kept) | ~x.inside(out_frame, every)).all((0, 1, 3))]


def _gathered_along(planes: Array, space: Space, out: Space, axis: int, x: Sources, y: Sources) -> Array:
    frame, d, rank = space.frames[axis], out.displacements[axis], space.rank
    known = np.zeros(frame, int)
    known[space.displacements[axis]] = np.arange(len(space.displacements[axis]))
    read, weights = x.read(y, frame, out.frames[axis], d), x.weighted(y, out.frames[axis], d)
    places = known[read] if isinstance(read, np.ndarray) else jnp.asarray(known)[read]
    moved, total = jnp.moveaxis(planes, (axis, rank + axis), (0, 1)), None
    for f in range(x.taps):
        for g in range(y.taps):
            term = jnp.moveaxis(moved[places[f, g], x.index[f][None]], (0, 1), (axis, rank + axis))
            if not isinstance(weights, np.ndarray) or (weights[f, g] != 1).any():
                term = term * along2(weights[f, g], axis, rank).astype(planes.dtype)
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
