"""How a network of images is run: in stages, each in frames and with the displacements that those behind it read."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from ntkit.errors import InputError
from ntkit.nn._fork import fork
from ntkit.nn._layer import Displacements, Frames, Layer, Shape
from ntkit.nn._planes import Space, read_by_reframing
from ntkit.nn.batch import centrings
from ntkit.nn.combinators import Sequential, flat
from ntkit.nn.pooling import Flatten, PooledFlatten, Pooling
from ntkit.nn.resizing import of_masked

# Frames are looked for up to so many times the image's size.
LONGEST = 4


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of layers that keep each displacement to itself, or one that mixes them; either may end with an exit."""

    layer: Sequential
    shape: Shape
    space: Space
    local: bool
    centres: tuple[int, ...]  # the places of those `BatchNorm`s that are in it


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages up to the layer behind which there are no pixels, and what follows it."""

    stages: tuple[Stage, ...]
    tail: Sequential


@dataclasses.dataclass(frozen=True)
class End:
    """Where one of several networks is, in a plan of them all: the place of its numbers, how many channels they are the
    law of, and what follows."""

    place: int
    width: int
    tail: Sequential


def plan(net: Layer, shape: Shape, masked: bool = False) -> Plan:
    """Decides it, for images of a shape (n, *space, channels), of which pixels may be missing if `masked`. Raises
    `ntkit.InputError` if pixels are left behind."""
    read, tail = _read(net, shape, masked)
    return Plan(_stages(read, shape), tail)


def plan_of_several(nets: Sequence[Layer], shape: Shape) -> tuple[Plan, list[End]] | None:
    """One plan for networks that begin with the same layers, the same objects, and then keep all displacements to
    themselves; None if these do not."""
    paths: dict[tuple[int, ...], list[Layer]] = {}  # two ways through the same layers are one
    keys, tails = [], []
    for net in nets:
        read, tail = _read(net, shape, False)
        keys.append(tuple(map(id, flat(net)[: -len(tail) or None])))
        paths.setdefault(keys[-1], read)
        tails.append(tail)
    forked = fork(list(paths.values()), shape)
    if forked is None:
        return None
    places = dict(zip(paths, forked[1], strict=True))
    widths = {key: Sequential(*path).shape(shape)[-1] for key, path in paths.items()}
    ends = [End(places[key], widths[key], tail) for key, tail in zip(keys, tails, strict=True)]
    return Plan(_stages(forked[0], shape), Sequential()), ends


def _read(net: Layer, shape: Shape, masked: bool) -> tuple[list[Layer], Sequential]:
    """The layers up to the one behind which there are no pixels, and those behind it."""
    layers, shapes = flat(of_masked(net) if masked else net), [shape]
    for layer in layers:
        shapes.append(layer.shape(shapes[-1]))
    ends = next((i for i, after in enumerate(shapes[1:]) if len(after) == 2), None)
    if all(layer.elementwise for layer in layers):
        raise InputError(
            f"This network has no layer that reads pixels and needs inputs of shape (n, features), but is given images "
            f"of shape {shape[1:]}. Flatten them first: `x.reshape(len(x), -1)`, or `nn.Flatten()` in front."
        )
    if ends is None or len(shapes[-1]) > 2:
        raise InputError(
            f"The network hands on images of shape {shapes[-1][1:]} (space, channels), but a kernel is one number per "
            "pair. End it with `nn.Flatten()` or `nn.GlobalAvgPool()`, and a `Dense`."
        )
    read, tail = layers[: ends + 1], Sequential(*layers[ends + 1 :])
    if not masked and len(read) > 1 and isinstance(read[-1], Flatten) and isinstance(read[-2], Pooling):
        read = [*read[:-2], PooledFlatten(read[-2])]
    return read, tail


def _stages(layers: list[Layer], shape: Shape) -> tuple[Stage, ...]:
    shapes = [shape]
    for layer in layers:
        shapes.append(layer.shape(shapes[-1]))
    stages, first = [], 0
    for run in _framed(_runs(layers), shapes):
        stages.append(_Framed(Sequential(*run.layers), shapes[first], run.frames, run.local))
        first += len(run.layers)
    return tuple(_with_displacements(stages))


@dataclasses.dataclass
class _Run:
    layers: list[Layer]
    local: bool
    frames: Frames = ()


def _runs(layers: list[Layer]) -> list[_Run]:
    """As long as they keep displacements to themselves; the way out goes with the run before it."""
    runs: list[_Run] = []
    for layer in layers[:-1]:
        if layer.local and runs and runs[-1].local:
            runs[-1].layers.append(layer)
        else:
            runs.append(_Run([layer], layer.local))
    if runs and runs[-1].local:
        runs[-1].layers.append(layers[-1])
        return runs
    return [*runs, _Run([layers[-1]], layers[-1].exits)]


def _framed(runs: list[_Run], shapes: list[Shape]) -> list[_Run]:
    """With frames that hold throughout, if there are any; else cut where others are needed."""
    drops = any(2 < len(after) < len(before) for before, after in itertools.pairwise(shapes))
    together = None if drops else _frames([layer for run in runs for layer in run.layers], shapes[0])
    done, first = [], 0
    if together is not None:
        for run in runs:
            run.frames = together
            for layer in run.layers:
                together = layer.frames(shapes[first], together)
                first += 1
        return runs
    for run in runs:
        while run.layers:
            count = next((k for k in range(len(run.layers), 0, -1) if _frames(run.layers[:k], shapes[first])), 0)
            if not count:
                raise InputError(
                    f"`{run.layers[0].name}` cannot be read at infinite width for inputs of shape {shapes[first][1:]}: "
                    "strides must divide the size of a circular axis, and the branches of a sum must have one total "
                    "stride."
                )
            frames = _frames(run.layers[:count], shapes[first])
            assert frames is not None
            done.append(_Run(run.layers[:count], run.local, frames))
            run.layers, first = run.layers[count:], first + count
    return done


def _frames(layers: list[Layer], shape: Shape) -> Frames | None:
    """The shortest frames that layers can be run in."""
    sizes = shape[1:-1]
    found = [0] * len(sizes)
    for more in range(LONGEST * max(sizes) + 8):
        tried = tuple(known or size + more for size, known in zip(sizes, found, strict=True))
        after, at = tried, shape
        for layer in layers:
            if layer.exits:
                break
            after, at = layer.frames(at, after), layer.shape(at)
            if len(after) < len(tried):  # `Index` drops axes: whose frames are those behind it?
                after = tried if all(after) else (0,) * len(tried)
                break
        found = [t if a else known for t, a, known in zip(tried, after, found, strict=True)]
        if all(found):
            return tuple(found)
    return None


@dataclasses.dataclass
class _Framed:
    layer: Sequential
    shape: Shape
    frames: Frames
    local: bool


def _with_displacements(stages: list[_Framed]) -> list[Stage]:
    """Backwards: each stage hands on what the one behind it reads."""
    done: list[Stage] = []
    wanted: Displacements = ()
    for stage in reversed(stages):
        if done:
            after = done[-1].space
            frames = stage.layer.frames(stage.shape, stage.frames)
            wanted = tuple(
                d if f == g else read_by_reframing(n, f, g, d)
                for n, f, g, d in zip(after.sizes, frames, after.frames, after.displacements, strict=True)
            )
        wanted = stage.layer.wanted(stage.shape, stage.frames, wanted)
        space = Space(stage.shape[1:-1], stage.frames, wanted)
        done.append(Stage(stage.layer, stage.shape, space, stage.local, tuple(centrings(stage.layer))))
    return done[::-1]


def chunks(space: Space, target: int) -> tuple[int, ...]:
    """How many displacements of each axis are run at a time, so that about `target` pairs of pixels are."""
    left = target / math.prod(space.sizes)
    counts = [len(d) for d in space.displacements]
    each = []
    for axis, count in enumerate(counts):
        room = left / math.prod(counts[axis + 1 :])
        size = max(k for k in range(1, count + 1) if count % k == 0 and k <= max(1, room))
        each.append(size)
        if size > 1:
            return (*each, *counts[axis + 1 :])
    return tuple(each)
