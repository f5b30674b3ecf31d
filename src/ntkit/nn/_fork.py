"""Several networks of images that begin alike, as one: it forks where they part, up to a way out of space for each."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.nn._law import Covariance
from ntkit.nn._layer import Displacements, Frames, Layer, Params, Shape, Signal
from ntkit.nn._lift import written
from ntkit.nn.batch import batch_norms
from ntkit.nn.combinators import Sequential


class Fork(Layer):
    """Branches that each end with a way out of space, or fork again: their `xy` and `ntk` stand side by side, in a new
    last axis, in the order in which the branches come. Nothing else of the law behind it means anything."""

    elementwise: ClassVar[bool] = False
    exits: ClassVar[bool] = True

    branches: tuple[Sequential, ...]

    def shape(self, shape: Shape) -> Shape:
        return (shape[0], 1)

    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        raise NotImplementedError  # a plan has it, no network

    def check(self, signal: Signal) -> Signal:
        return signal

    def propagate(self, cov: Covariance) -> Covariance:
        cov = written(cov)  # else each branch computes what comes before it
        laws = [branch.propagate(cov) for branch in self.branches]
        xy, ntk = (jnp.concatenate([jnp.atleast_1d(a) for a in each]) for each in _alike(laws))
        nothing = jnp.zeros((), xy.dtype)
        return Covariance(nothing, xy, nothing, ntk, nothing, 1, cov.one)

    @property
    def local(self) -> bool:
        return False

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        return ()

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        each = [branch.wanted(shape, frames, ()) for branch in self.branches]
        return tuple(np.unique(np.concatenate(axis)) for axis in zip(*each, strict=True))


def _alike(laws: Sequence[Covariance]) -> tuple[list[Array], list[Array]]:
    """`xy` and `ntk` of the laws, in one shape for each: behind no trained layer a kernel is the number 0."""
    return [law.xy for law in laws], [jnp.broadcast_to(law.ntk, law.xy.shape) for law in laws]


@dataclasses.dataclass(frozen=True)
class _Path:
    """Layers up to a way out, and the number of the network."""

    layers: tuple[Layer, ...]
    number: int


def fork(paths: Sequence[Sequence[Layer]], shape: Shape) -> tuple[list[Layer], list[int]] | None:
    """Networks up to their ways out of space as one that forks, and for each the place of its numbers behind the fork;
    None if they do not begin with the same objects, or part in ways that are not run plane by plane."""
    shared = min(_shared(paths), min(map(len, paths)) - 1)
    before = list(paths[0][:shared])
    if (len(paths) > 1 and not shared) or any(batch_norms(layer) for path in paths for layer in path):
        return None
    for layer in before:
        shape = layer.shape(shape)
    if not all(_stays(path[shared:-1], shape) for path in paths):
        return None
    order: list[int] = []
    end = _forked([_Path(tuple(path[shared:]), k) for k, path in enumerate(paths)], order)
    return [*before, end], [order.index(k) for k in range(len(paths))]


def _shared(paths: Iterable[Sequence[Layer]]) -> int:
    """How many layers they begin with together."""
    return sum(1 for _ in itertools.takewhile(_same, zip(*paths, strict=False)))


def _same(layers: tuple[Layer, ...]) -> bool:
    return all(layer is layers[0] for layer in layers)


def _stays(layers: Sequence[Layer], shape: Shape) -> bool:
    """Whether layers keep every displacement, and all pixels, where they are, in any frame."""
    frames = tuple(4 * size + 1 for size in shape[1:-1])
    for layer in layers:
        after = layer.shape(shape)
        if not layer.local or after[1:-1] != shape[1:-1] or layer.frames(shape, frames) != frames:
            return False
        shape = after
    return True


def _forked(paths: list[_Path], order: list[int]) -> Fork:
    """By the layers with which they go on; `order` collects the numbers of networks as their ways out come."""
    groups: dict[int, list[_Path]] = {}
    for path in paths:
        groups.setdefault(id(path.layers[0]), []).append(path)
    return Fork(tuple(Sequential(*_branch(group, order)) for group in groups.values()))


def _branch(paths: list[_Path], order: list[int]) -> list[Layer]:
    if len(paths) == 1:
        order.append(paths[0].number)
        return list(paths[0].layers)
    shared = _shared(path.layers for path in paths)
    rest = [_Path(path.layers[shared:], path.number) for path in paths]
    return [*paths[0].layers[:shared], _forked(rest, order)]
