"""The law behind a network at all pairs of images: what belongs to one image once, the rest pair by pair, in cache.

Within a pair a stage of the network goes displacement by displacement through all its layers, so that what it works on
stays in the processor's cache; pairs follow each other for the same reason. See docs/architecture.md.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ntkit.nn import Covariance, Identity, Layer
from ntkit.nn._lift import behind, gapped
from ntkit.nn._masks import Masked, as_masked
from ntkit.nn._planes import Space, reframed
from ntkit.nn._sides import PAIR, sides
from ntkit.nn._stages import End, Plan, Stage, chunks, plan, plan_of_several
from ntkit.nn.combinators import Sequential, flat, nonlinearities
from ntkit.nn.weights import Weighted

# Pairs of pixels worked on at a time, per array: some arrays of this size fit into a core's second cache.
TARGET = 1 << 15
# Images of up to so many channels are multiplied channel by channel.
FEW_CHANNELS = 16

Images = Float[Array, "n ... c"] | Masked
Others = Float[Array, "m ... c"] | Masked
Planes = tuple[Array, Array]  # xy and ntk
# What a stage needs of one image: its variances, its mask if it has one, its means over the reference by the places of
# those `BatchNorm`s that are in the stage, the image itself, or its own covariances.
Start = dict[str, Any]
Means = dict[int, dict[str, Array]]  # for every `BatchNorm` the images' means over the reference, and its own


def image_laws(
    net: Layer, x1: Images, x2: Others | None, means1: Means | None = None, means2: Means | None = None
) -> tuple[Covariance, Layer]:
    """The law of all pairs where the pixels end (`xx` (n,), `yy` (m,), the others (n, m)), and the layers behind.

    Where only layers of weights follow, which read no variances, these and the gap are not computed: 0. `means1` and
    `means2`: of each image what every `BatchNorm` of pixels needs (see `_means`); those of x1 alone if `x2` is None.
    """
    masked = isinstance(x1, Masked) or isinstance(x2, Masked)
    how = plan(net, (1, *x1.shape[1:]), masked)
    if masked:
        x1, x2 = as_masked(x1), None if x2 is None else as_masked(x2)
    return _laws(how, x1, x2, _read_variances(how.tail), means1, means2), how.tail


def laws_of_several(nets: Sequence[Layer], x1: Images, x2: Others | None) -> list[tuple[Covariance, Layer]]:
    """`image_laws` of networks, none of which centres; layers that they begin with together are run once."""
    masked = isinstance(x1, Masked) or isinstance(x2, Masked)
    several = None if masked else plan_of_several(nets, (1, *x1.shape[1:]))
    if several is None:
        return [image_laws(net, x1, x2) for net in nets]
    how, ends = several
    law = _laws(how, x1, x2, any(_read_variances(end.tail) for end in ends))
    return [(_of_end(end, law), end.tail) for end in ends]


def _of_end(end: End, law: Covariance) -> Covariance:
    """One network's numbers, from the last axis; variances that nobody reads have none."""
    rank = law.xy.ndim - 1
    xy, ntk, gap = (a[..., end.place] for a in (law.xy, law.ntk, law.gap))
    xx, yy = (q[..., end.place] if q.ndim > (1 if rank else 0) else q for q in (law.xx, law.yy))
    return Covariance(xx, xy, yy, ntk, gap, end.width, law.one)


def _read_variances(tail: Sequential) -> bool:
    return not all(isinstance(layer, (Weighted, Identity)) for layer in flat(tail))


def _laws(
    how: Plan, x1: Images, x2: Others | None, variances: bool, means1: Means | None = None, means2: Means | None = None
) -> Covariance:
    starts1, rows = _own(how, x1, variances, means1)
    starts2, columns = (starts1, rows) if x2 is None else _own(how, x2, variances, means2)
    runs = _runs(how, _of_first(starts1))
    left = [jax.vmap(run.left)(start) for run, start in zip(runs, starts1, strict=True)]

    def column(starts: list[Start]) -> Planes:
        right = [run.right(start) for run, start in zip(runs, starts, strict=True)]

        def pair(left: list[list[Array]]) -> Planes:
            arrays: Planes | None = None
            for run, of_x, of_y in zip(runs, left, right, strict=True):
                arrays = run(of_x, of_y, arrays)
            assert arrays is not None
            return arrays

        return lax.map(pair, left, batch_size=_together(how, len(x1), x1.dtype))

    xy, ntk = (jnp.swapaxes(a, 0, 1) for a in lax.map(column, starts2))
    law = Covariance(rows.xx, xy, columns.xx, ntk, jnp.zeros((), xy.dtype), rows.width)
    return _with_gaps(law) if variances else law.replace(gap=jnp.zeros_like(xy))


def image_diagonal(net: Layer, x: Images, means: Means | None = None) -> tuple[Covariance, Layer]:
    """The law of each image with itself where the pixels end, and the layers behind."""
    how = plan(net, (1, *x.shape[1:]), isinstance(x, Masked))
    return _own(how, x, True, means)[1], how.tail


def diagonals_of_several(nets: Sequence[Layer], x: Images) -> list[tuple[Covariance, Layer]]:
    """`image_diagonal` of networks, as `laws_of_several`."""
    several = None if isinstance(x, Masked) else plan_of_several(nets, (1, *x.shape[1:]))
    if several is None:
        return [image_diagonal(net, x) for net in nets]
    how, ends = several
    law = _own(how, x, True)[1]
    return [(_of_end(end, law), end.tail) for end in ends]


def _with_gaps(law: Covariance) -> Covariance:
    def gap(xx: Array, xy: Array, yy: Array) -> Array:
        return gapped(Covariance(xx, xy, yy, xy, xy, law.width)).gap

    over_columns = jax.vmap(gap, (None, 0, 0))
    return law.replace(gap=jax.vmap(over_columns, (0, 0, None))(law.xx, law.xy, law.yy))


def pairs_of_pixels(net: Layer, shape: tuple[int, ...]) -> int:
    """How many pairs of pixels a pair of images of a shape (*space, channels) has, where the network looks at most."""
    return _most(plan(net, (1, *shape)))


def pairs_of_several(nets: Sequence[Layer], shape: tuple[int, ...]) -> int:
    """The same of networks that are run together."""
    several = plan_of_several(nets, (1, *shape))
    return max(pairs_of_pixels(net, shape) for net in nets) if several is None else _most(several[0])


def _most(how: Plan) -> int:
    return max(stage.space.pairs for stage in how.stages)


def _together(how: Plan, n: int, dtype: Any) -> int | None:
    """So many pairs at a time that small ones fill the cache, too; None for one after the other.

    Together they could not switch, each for itself, to what serves small variances: all ways would be gone.
    """
    if any(phi.narrower(dtype) for stage in how.stages for phi in nonlinearities(stage.layer)):
        return None
    batch = min(n, TARGET // _most(how))
    return batch if batch > 1 else None


def _own(how: Plan, x: Images, end: bool, means: Means | None = None) -> tuple[list[Start], Covariance]:
    """Of each image what every stage needs, and its law with itself at the end if that is asked for."""

    def image(of_image: tuple[Any, Means]) -> tuple[list[Start], Planes]:
        x, means = of_image
        starts: list[Start] = [_start(x)]
        arrays: Planes | None = None
        before: Space | None = None
        for k, stage in enumerate(how.stages):
            if k:
                assert arrays is not None
                assert before is not None
                mask = _mask_behind(how.stages[k - 1], starts[-1])
                starts.append({"xx": _diagonal_of(arrays[0], before)} | mask)
            if stage.centres:
                starts[-1]["means"] = {place: means[place] for place in stage.centres}
            start = starts[-1]
            run = _Run(stage, start, arrays, before, one=True)
            if not stage.local:
                starts[-1] = start | {"planes": run.reframed(arrays)[0] if arrays else run.images(start)}
            if k + 1 == len(how.stages) and not end:
                break
            arrays = run(run.left(start), run.right(start), arrays)
            before = run.after
        if not end:
            none = jnp.zeros((), x.dtype)
            return starts, (none, none)
        assert arrays is not None
        return starts, arrays

    starts, (xy, ntk) = lax.map(image, (x, means or {}))
    last = how.stages[-1]
    width = last.layer.shape(last.shape)[-1]
    return starts, Covariance(xy, xy, xy, ntk, jnp.zeros_like(xy), width, one=True)


def _start(x: Any) -> Start:
    if isinstance(x, Masked):
        return {**_start(x.filled()), "mask": jnp.asarray(x.mask)}
    return {"xx": jnp.mean(x * x, axis=-1)[(None,) * (x.ndim - 1)], "image": x}


def _mask_behind(stage: Stage, start: Start) -> Start:
    mask = stage.layer.exists(stage.shape, start["mask"]) if "mask" in start else None
    return {} if mask is None else {"mask": mask}


def _diagonal_of(planes: Array, space: Space) -> Array:
    for axis, d in enumerate(space.displacements):
        here = int(np.flatnonzero(d == 0)[0])
        planes = lax.slice_in_dim(planes, here, here + 1, axis=axis)
    return planes


def _of_first(starts: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), starts)


def _runs(how: Plan, starts: list[Any]) -> list["_Run"]:
    runs: list[_Run] = []
    for stage, start in zip(how.stages, starts, strict=True):
        like, before = (runs[-1].out, runs[-1].after) if runs else (None, None)
        runs.append(_Run(stage, start, like, before, one=False))
    return runs


def _of_images(x: Array, y: Array, space: Space) -> Array:
    """The covariances of two images themselves: the mean over channels of their products."""
    channels = x.shape[-1]
    front = (None,) * space.rank
    if channels > FEW_CHANNELS:
        return jnp.sum(x[front] * space.view(y), axis=-1) / channels
    seen = lax.optimization_barrier([space.view(y[..., c]) for c in range(channels)])
    products = [x[..., c][front] * of_y for c, of_y in enumerate(seen)]
    total = products[0]
    for product in products[1:]:
        total = total + product
    return total / channels


class _Run:
    """A stage, for a pair: what belongs to x alone, to y alone, and the rest, looped over displacements.

    `like`: the arrays (or their shapes) of the stage before, in the space `before`; None for the first. `out`, `after`:
    the same of this one. `one`: x and y are one image.
    """

    def __init__(self, stage: Stage, start: Any, like: Any, before: Space | None, one: bool):
        self.stage, self.before, self.one = stage, before, one
        self.space = stage.space
        sizes = chunks(self.space, TARGET) if stage.local else tuple(len(d) for d in self.space.displacements)
        self._chunks = sizes
        self._grid = tuple(len(d) // c for d, c in zip(self.space.displacements, sizes, strict=True))
        self.after: Space | None = None
        planes = None if like is None else jax.eval_shape(self.reframed, tuple(like))
        pair = self._one_chunk(planes, start["xx"].dtype)
        self._parts = None if one else sides(self._law, start, start, pair)
        assert self._parts is None or set(self._parts.place) == {PAIR}
        self.out = jax.eval_shape(self._abstract, start, planes)

    def _abstract(self, start: Any, planes: Planes | None) -> Planes:
        return self._loop(0, [], self.left(start), self.right(start), planes)

    def __call__(self, left: Any, right: Any, arrays: Planes | None) -> Planes:
        """(xy, ntk) behind the stage, from those before it."""
        return self._loop(0, [], left, right, None if arrays is None else self.reframed(arrays))

    def left(self, start: Start) -> Any:
        """What is read of x."""
        return start if self._parts is None else self._parts.left(start)[0]

    def right(self, start: Start) -> Any:
        return start if self._parts is None else self._parts.right(start)[0]

    def _turn(self, left: Any, right: Any, pair: Any) -> Planes:
        """At the displacements of one turn of the loop."""
        if self._parts is None:
            return self._law(left, right, pair)
        xy, ntk = map(jnp.asarray, self._parts.rest(left, right, pair))  # a constant comes as a literal
        return xy, ntk

    def images(self, start: Start) -> Array:
        """The covariances of an image with itself, before a first stage."""
        return _of_images(start["image"], start["image"], self.space)

    def reframed(self, arrays: Planes) -> Planes:
        """In this stage's frames, and with its displacements alone."""
        assert self.before is not None
        to = (self.space.frames, self.space.displacements)
        return reframed(arrays[0], self.before, *to)[0], reframed(arrays[1], self.before, *to)[0]

    def _one_chunk(self, planes: Any, dtype: Any) -> Any:
        looped = [c if g > 1 else None for c, g in zip(self._chunks, self._grid, strict=True)]
        ds = tuple(None if c is None else jax.ShapeDtypeStruct((c,), jnp.int32) for c in looped)
        if planes is None:
            return ds, None
        shape = (*self._chunks, *self.space.sizes)
        return ds, tuple(jax.ShapeDtypeStruct(shape if a.ndim else (), a.dtype) for a in planes)

    def _law(self, of_x: Start, of_y: Start, pair: tuple[tuple[Array | None, ...], Planes | None]) -> Planes:
        """The stage itself, at some displacements."""
        known = self.space.displacements
        space = Space(
            self.space.sizes,
            self.space.frames,
            tuple(d if loop is None else loop for d, loop in zip(known, pair[0], strict=True)),
        )
        if pair[1] is None:
            xy = _of_images(of_x["image"], of_y["image"], space)
            ntk = jnp.zeros((), xy.dtype)
        else:
            xy, ntk = pair[1]
        width = self.stage.shape[-1]
        carried = _carried(of_x, of_y)
        law = gapped(Covariance(of_x["xx"], xy, of_y["xx"], ntk, ntk, width, self.one, space=space, **carried))
        if "planes" in of_x and not self.one:
            law = law.replace(selves=(self._self(of_x, space), self._self(of_y, space)))
        out = behind(self.stage.layer, law)
        if out.space is not None:
            self.after = self._known(out.space)
        return out.xy, out.ntk

    def _self(self, of: Start, space: Space) -> Covariance:
        none = jnp.zeros((), of["xx"].dtype)
        width = self.stage.shape[-1]
        carried = _carried(of, of)
        return gapped(Covariance(of["xx"], of["planes"], of["xx"], none, none, width, True, space=space, **carried))

    def _known(self, out: Space) -> Space:
        """With the displacements of all turns of the loop; a stride divides them, as it does the frame."""
        if all(g == 1 for g in self._grid):
            return out
        displacements = tuple(
            d if g == 1 else known // (frame // after)
            for d, g, known, frame, after in zip(
                out.displacements, self._grid, self.space.displacements, self.space.frames, out.frames, strict=True
            )
        )
        return Space(out.sizes, out.frames, displacements)

    def _loop(self, axis: int, ds: list[Array | None], left: Any, right: Any, planes: Planes | None) -> Planes:
        if axis == len(self._grid):
            return self._turn(left, right, (tuple(ds), planes))
        count, size = self._grid[axis], self._chunks[axis]
        if count == 1:
            return self._loop(axis + 1, [*ds, None], left, right, planes)

        def turn(of_turn: tuple[Array, Planes | None]) -> Planes:
            return self._loop(axis + 1, [*ds, of_turn[0]], left, right, of_turn[1])

        d = jnp.asarray(self.space.displacements[axis].reshape(count, size), jnp.int32)
        parts = None if planes is None else tuple(_cut(a, axis, count, size) for a in planes)
        return tuple(_joined(a, axis, self.after is None) for a in lax.map(turn, (d, parts)))  # pyright: ignore


def _carried(of_x: Start, of_y: Start) -> dict[str, Any]:
    """What goes along with the law of a pair, in so far as there is any."""
    return {field: (of_x[name], of_y[name]) for field, name in (("masks", "mask"), ("means", "means")) if name in of_x}


def _cut(planes: Array, axis: int, count: int, size: int) -> Array:
    """Turns of a loop along a new first axis."""
    if not planes.ndim:
        return jnp.broadcast_to(planes, (count,))
    shape = planes.shape
    return jnp.moveaxis(planes.reshape(*shape[:axis], count, size, *shape[axis + 1 :]), axis, 0)


def _joined(turns: Array, axis: int, ends: bool) -> Array:
    """The arrays of all turns, put together; where the pixels end, the sum of what each contributes."""
    if ends:
        return jnp.sum(turns, axis=0)
    if turns.ndim == 1:
        return turns[0]
    whole = jnp.moveaxis(turns, 0, axis)
    return whole.reshape(*whole.shape[:axis], -1, *whole.shape[axis + 2 :])
