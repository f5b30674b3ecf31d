"""From a law of a pair of numbers to a law of two images: what a layer does to each pixel is written once, for one."""

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit.nn._law import Covariance, not_negative, safe_sqrt, size
from ntkit.nn._layer import Layer
from ntkit.nn._masks import common
from ntkit.nn._planes import Space, at_displacements, in_memory
from ntkit.nn._sides import LEFT, PAIR, RIGHT, Sides, sides


def behind(layer: Layer, cov: Covariance) -> Covariance:
    """The law behind a layer: of numbers by its own `propagate`, of images pixel by pixel if it is elementwise."""
    if not layer.elementwise or cov.space is None:
        return layer.propagate(cov)
    narrower = layer.narrower(cov.xy.dtype)
    ways = [(way.propagate, way.intermediates) for way in [*(way for _, way in narrower), layer]]
    return with_selves(partial(_lifted, Ways(ways, [limit for limit, _ in narrower])), cov)


Propagate = Callable[..., Covariance]


class Ways(NamedTuple):
    """What a layer does to laws of numbers, and how many arrays it works on meanwhile: each serves variances up to its
    limit, the last one all."""

    each: Sequence[tuple[Propagate, int]]
    limits: Sequence[float] = ()


def through(fn: Propagate, *laws: Covariance) -> Covariance:
    """fn(*laws) of numbers, at every pair of pixels; the laws of x and of y with themselves go along."""
    only = Ways([(fn, 1)])
    return with_selves(lambda *laws: _lifted(only, *laws) if laws[0].space is not None else fn(*laws), *laws)


def with_selves(fn: Callable[..., Covariance], *laws: Covariance) -> Covariance:
    """fn(*laws), with variances from the laws of x and of y with themselves where those are carried along."""
    if laws[0].selves is None:
        return _read_or_left(fn(*laws))
    each = [law.selves for law in laws if law.selves is not None]
    left, right = (fn(*(selves[i] for selves in each)) for i in range(2))
    out = fn(*(law.replace(selves=None) for law in laws))
    return _read_or_left(out.replace(xx=left.xx, yy=right.xx)).replace(selves=(left, right))


def _read_or_left(cov: Covariance) -> Covariance:
    """With its gap; that of pixels is left to the next layer, which computes it in the loop that reads it."""
    return cov if cov.gap_known or cov.space is not None else gapped(cov)


def met(laws: Sequence[Covariance]) -> list[Covariance]:
    """With those displacements that all of them have: a branch may make more than is read of it."""
    spaces = [law.space for law in laws if law.space is not None]
    each = list(zip(*(space.displacements for space in spaces), strict=True))
    if all(isinstance(d, np.ndarray) for d in itertools.chain(*each)):
        shared = tuple(reduce(np.intersect1d, axis) for axis in each)
        return [_at(law, shared) for law in laws]
    return list(laws)


def _at(law: Covariance, displacements: tuple[np.ndarray, ...]) -> Covariance:
    space = law.space
    if space is None or all(map(np.array_equal, space.displacements, displacements)):
        return law
    xy, ntk, gap = (at_displacements(a, space, displacements) for a in (law.xy, law.ntk, law.gap))
    selves = None if law.selves is None else (_at(law.selves[0], displacements), _at(law.selves[1], displacements))
    kept = Space(space.sizes, space.frames, displacements)
    return law.replace(xy=xy, ntk=ntk, gap=gap, selves=selves, space=kept)


def over_pixels(layer: Layer, fn: Callable[[Covariance], Covariance], cov: Covariance) -> Covariance:
    """fn(cov) of a layer that reads several pixels: it is given zeros where they do not exist."""

    def read(cov: Covariance) -> Covariance:
        if cov.masks is None or cov.space is None:
            return fn(cov)
        shape = (1, *cov.space.sizes, cov.width)
        left, right = (layer.exists(shape, mask) for mask in cov.masks)
        return fn(_existing(cov)).replace(masks=None if left is None else (left, right))

    return with_selves(read, cov)


def written(cov: Covariance) -> Covariance:
    """The law of pixels with its arrays in memory."""
    if cov.written or cov.space is None:
        return cov
    xy, ntk = (in_memory(a) if a.ndim else a for a in (cov.xy, cov.ntk))
    return cov.replace(xy=xy, ntk=ntk, written=True)


def _existing(cov: Covariance) -> Covariance:
    space, masks = cov.space, cov.masks
    assert space is not None
    assert masks is not None
    of_x, of_y = (mask[(None,) * space.rank] for mask in masks)
    both = of_x & space.view(masks[1])
    xx, yy = jnp.where(of_x, cov.xx, 0), jnp.where(of_y, cov.yy, 0)
    xy, ntk = (jnp.where(both, a, 0) if a.ndim else a for a in (cov.xy, cov.ntk))
    return cov.replace(xx=xx, xy=xy, yy=yy, ntk=ntk)


def gapped(cov: Covariance) -> Covariance:
    """The law with its gap, as far as its other numbers tell; that of pixels is left to who reads it, see `_lifted`."""
    if cov.space is not None:
        return cov.replace(gap=jnp.zeros((), cov.xy.dtype), gap_known=False)
    return _with_gap(cov)


def _with_gap(cov: Covariance) -> Covariance:
    """The same, of numbers: it cancels where they are nearly parallel."""
    cov = cov.replace(gap_known=True)
    if cov.one:
        return cov
    return cov.replace(gap=not_negative(safe_sqrt(cov.xx) * safe_sqrt(cov.yy) - size(cov.xy)))


def _lifted(ways: Ways, *laws: Covariance) -> Covariance:
    space = laws[0].space
    assert space is not None
    if laws[0].one:
        same = _of_one(ways.each[-1][0], space, *laws)
        out = same if space.alone else _where_diagonal(space, same, _of_pairs(ways, space, *laws))
    else:
        out = _of_pairs(ways, space, *laws)
    masks = [law.masks for law in laws if law.masks is not None]
    left_right = tuple(common(side) for side in zip(*masks, strict=True)) if masks else None
    # What a switch hands on XLA writes down.
    written = bool(ways.limits) and not laws[0].one
    return laws[0].replace(**out, masks=left_right, gap_known="gap" in out, written=written)


def _of_one(fn: Callable[..., Covariance], space: Space, *laws: Covariance) -> dict[str, Any]:
    """As if every displacement were the diagonal, which is what will be read of it."""

    width: list[int] = []

    def number(ntks: list[Array], variances: list[Array]) -> tuple[Array, Array]:
        inner = [
            Covariance(q, q, q, ntk, jnp.zeros_like(q), law.width, one=True)
            for law, q, ntk in zip(laws, variances, ntks, strict=True)
        ]
        out = fn(*inner)
        width.append(out.width)
        return out.xx, out.ntk

    ntks = [law.ntk for law in laws]
    axes = [0 if ntk.ndim else None for ntk in ntks]
    over = _over_pixels(number, space.rank, (axes, 0))
    for d in reversed(space.displacements):
        over = jax.vmap(over, (axes, None), (None, 0), axis_size=len(d))
    q, ntk = over(ntks, [_map(law.xx) for law in laws])
    q = q.reshape((1,) * space.rank + space.sizes)
    xy = jnp.broadcast_to(q, _shape(space))
    return {"xx": q, "xy": xy, "yy": q, "ntk": ntk, "gap": jnp.zeros_like(xy), "width": width[0]}


def _over_pixels(number: Callable[..., Any], rank: int, axes: Any) -> Callable[..., Any]:
    """Of every pixel. Axis by axis: where they are one axis, XLA's loops divide to find the pixel's neighbours."""
    for _ in range(rank):
        number = jax.vmap(number, axes)
    return number


def _where_diagonal(space: Space, same: dict[str, Any], pairs: dict[str, Any]) -> dict[str, Any]:
    where = space.is_diagonal()
    chosen = {name: jnp.where(where, same[name], pairs[name]) for name in ("xy", "ntk", "gap") if name in pairs}
    return {name: same[name] for name in pairs} | chosen


def _of_pairs(known: Ways, space: Space, *laws: Covariance) -> dict[str, Any]:
    pair = [(law.xy, law.ntk, law.gap) for law in laws]
    if not known.limits:
        (way,) = _ways(known.each, space, laws, gap=True)
        names = ("xx", "yy", "xy", "ntk", "gap")
        return dict(zip(names, way(way.inputs, pair), strict=True)) | {"width": way.width}
    # Which way serves x, and which y, is asked of each alone. Their gap would be a difference: who reads it forms it.
    # Those for small variances read the same of one input, the last one other things.
    ways = _ways(known.each[:-1], space, laws, gap=False) + _ways(known.each[-1:], space, laws, gap=False)
    beyond = [_beyond(known.limits, q) for q in (laws[0].xx, laws[0].yy)]
    turns = [lambda inputs, pair, k=k, way=way: way(inputs[k], pair)[2:] for k, way in enumerate(ways)]
    xy, ntk = lax.switch(jnp.maximum(*beyond), turns, [way.inputs for way in ways], pair)
    xx, yy = (
        lax.select_n(index, *variances)
        for index, variances in zip(beyond, zip(*(way.variances for way in ways), strict=True), strict=True)
    )
    return {"xx": xx, "yy": yy, "xy": xy, "ntk": ntk, "width": ways[0].width}


def _beyond(limits: Sequence[float], q: Array) -> Array:
    """How many limits the largest variance is beyond."""
    return sum((jnp.any(q > limit).astype(jnp.int32) for limit in limits), jnp.zeros((), jnp.int32))


Kinds = tuple[tuple[int, bool], ...]
"""Of each law its width, and whether its gap is known."""


class _Read:
    """What some functions of a pair, together, read of x and of y, once for all of them.

    Where one works on many arrays, that is computed where it is read, a few displacements at a time.
    """

    def __init__(self, each: Sequence[tuple[Propagate, int]], space: Space, laws: Sequence[Covariance], gap: bool):
        self.space, self.many = space, any(intermediates > 1 for _, intermediates in each)
        kinds = tuple((law.width, law.gap_known) for law in laws)
        self.parts, self.width = _parts(tuple(fn for fn, _ in each), kinds, laws[0].xy.dtype, gap)
        self.results = 5 if gap else 4
        of_one = [_map(law.xx) for law in laws], [_map(law.yy) for law in laws]
        (left, of_x), (right, of_y) = self.features(of_one)
        self.of_one = {LEFT: of_x, RIGHT: of_y}
        self._kinds = _kinds(right)
        self.inputs = of_one if self.many else _barred(left, _laid_out(space, right))

    def features(self, of_one: tuple[list[Array], list[Array]]) -> tuple[Any, Any]:
        parts, rank = (self.parts.left, self.parts.right), self.space.rank
        left, right = (_over_pixels(part, rank, 0)(own) for part, own in zip(parts, of_one, strict=True))
        return left, right

    def each(self, stacks: list[Array]) -> list[Array]:
        """What was laid out together, one by one again, in the order in which it is read."""
        rows = dict(zip(dict.fromkeys(self._kinds), (iter(self.space.one_by_one(a)) for a in stacks), strict=True))
        return [next(rows[kind]) for kind in self._kinds]


def _ways(each: Sequence[tuple[Propagate, int]], space: Space, laws: Sequence[Covariance], gap: bool) -> "list[_Way]":
    read = _Read(each, space, laws, gap)
    return [_Way(read, k) for k in range(len(each))]


class _Way:
    """One of the functions, at every pair of pixels."""

    def __init__(self, read: _Read, number: int):
        self._read, self._space, self._parts = read, read.space, read.parts
        self.inputs, self.width = read.inputs, read.width
        places = read.parts.place
        # For each of its results whose it is, and which of those that are.
        self._results = [
            (places[i], places[:i].count(places[i])) for i in range(number * read.results, (number + 1) * read.results)
        ]

    @property
    def variances(self) -> tuple[Array, Array]:
        """`xx` and `yy`, where they belong to x and to y."""
        xx, yy = (self._maps(self._read.of_one[at][k]) for at, k in self._results[:2])
        return xx, yy

    def __call__(self, inputs: Any, pair: list[tuple[Array, ...]]) -> tuple[Array, ...]:
        """`xx`, `yy`, `xy`, `ntk`, and `gap` if that was asked for."""
        rank, space = self._space.rank, self._space
        left, right = inputs
        of_pair = iter(
            self._few(inputs, pair) if self._read.many else self._rest(space, (left, self._read.each(right)), pair)
        )
        found = [next(of_pair) if at == PAIR else self._read.of_one[at][k] for at, k in self._results]
        places = [at for at, _ in self._results]
        # A variance that depends on nothing came with the pairs.
        xx, yy = (q[(0,) * rank] if at == PAIR else q for q, at in zip(found[:2], places, strict=False))
        whole = (_whole(a, at, space) for a, at in zip(found[2:], places[2:], strict=True))
        return self._maps(xx), self._maps(yy), *whole

    def _rest(self, space: Space, inputs: Any, pair: list[tuple[Array, ...]]) -> list[Array]:
        """What belongs to both, at the displacements of a space."""
        left, right = inputs
        axes = [tuple(0 if a.ndim else None for a in arrays) for arrays in pair]
        of = tuple(k for at, k in self._results if at == PAIR)
        over = _over_pixels(lambda *args: self._parts.rest(*args, of), space.rank, (0, 0, axes))
        for _ in range(space.rank):
            over = jax.vmap(over, (None, 0, axes))
        return over(left, list(map(space.seen, right)), pair)

    def _few(self, inputs: Any, pair: list[tuple[Array, ...]]) -> list[Array]:
        """The same, one displacement of the last axis that has several after the other."""
        space = self._space
        left, right = _barred(*(features for features, _ in self._read.features(inputs)))
        counts = [len(d) for d in space.displacements]
        axis = max((a for a, count in enumerate(counts) if count > 1), default=0)

        def turn(of_turn: tuple[Array, list[tuple[Array, ...]]]) -> list[Array]:
            d, pair = of_turn
            displacements = tuple(d[None] if a == axis else other for a, other in enumerate(space.displacements))
            here = Space(space.sizes, space.frames, displacements)
            pair = jax.tree.map(lambda a: jnp.expand_dims(a, axis) if a.ndim else a, pair)
            return [jnp.squeeze(a, axis) for a in self._rest(here, (left, [here.laid_out(a) for a in right]), pair)]

        d = jnp.asarray(space.displacements[axis], jnp.int32)
        parts = jax.tree.map(lambda a: jnp.moveaxis(a, axis, 0) if a.ndim else jnp.broadcast_to(a, d.shape), pair)
        return [jnp.moveaxis(a, 0, axis) for a in lax.map(turn, (d, parts))]

    def _maps(self, q: Array) -> Array:
        return q.reshape((1,) * self._space.rank + self._space.sizes)


def _laid_out(space: Space, features: list[Array]) -> list[Array]:
    """`Space.laid_out` of all of one kind together: one by one, they are thousands of small programs."""
    kinds = _kinds(features)
    each = [[a for a, own in zip(features, kinds, strict=True) if own == kind] for kind in dict.fromkeys(kinds)]
    return [space.laid_out(jnp.stack(alike), several=True) for alike in each]


def _kinds(features: list[Array]) -> list[tuple[Any, tuple[int, ...]]]:
    """What can be stacked: one dtype, and one shape. Beside numbers there may be rows of a table."""
    return [(a.dtype, a.shape) for a in features]


def _barred(left: Any, right: Any) -> tuple[Any, Any]:
    """Else XLA computes them again for each displacement."""
    return lax.optimization_barrier((left, right))


def _parts(fns: tuple[Propagate, ...], kinds: Kinds, dtype: Any, gap: bool) -> tuple[Sides, int]:
    """Functions of laws of numbers, in parts, and the width behind them; equal layers are traced once."""
    try:
        return _known_parts(fns, kinds, jnp.dtype(dtype), gap, jax.config.jax_enable_x64)  # pyright: ignore
    except TypeError:  # a layer with traced leaves has no hash
        return _new_parts(fns, kinds, dtype, gap)


def _new_parts(fns: tuple[Propagate, ...], kinds: Kinds, dtype: Any, gap: bool) -> tuple[Sides, int]:
    behind: list[int] = []

    def number(xx: list[Array], yy: list[Array], pair: list[tuple[Array, Array, Array]]) -> list[Array]:
        laws = [
            Covariance(a, xy, b, ntk, gap, width, gap_known=known)
            for (width, known), a, b, (xy, ntk, gap) in zip(kinds, xx, yy, pair, strict=True)
        ]
        laws = [law if law.gap_known else _with_gap(law) for law in laws]
        each = [fn(*laws) for fn in fns]
        behind.append(each[0].width)
        return [a for out in each for a in (out.xx, out.yy, out.xy, out.ntk, out.gap)[: 5 if gap else 4]]

    like = jax.ShapeDtypeStruct((), dtype)
    numbers = [like] * len(kinds)
    left, right, rest, place = sides(number, numbers, numbers, [(like,) * 3] * len(kinds))
    # As functions of their own they are batched once.
    return Sides(jax.jit(left), jax.jit(right), jax.jit(rest, static_argnums=3), place), behind[0]


@lru_cache(maxsize=256)
def _known_parts(fns: tuple[Propagate, ...], kinds: Kinds, dtype: Any, gap: bool, x64: bool) -> tuple[Sides, int]:
    return _new_parts(fns, kinds, dtype, gap)


def _whole(value: Array, at: int, space: Space) -> Array:
    """At every pair of pixels, also what depends on one of them alone."""
    return jnp.broadcast_to(space.view(value) if at == RIGHT else value, _shape(space))


def _map(values: Array) -> Array:
    """(1 ... 1, P...) to (P...)."""
    return values.reshape(values.shape[values.ndim // 2 :])


def _shape(space: Space) -> tuple[int, ...]:
    return (*(len(d) for d in space.displacements), *space.sizes)
