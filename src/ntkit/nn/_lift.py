"""From a law of a pair of numbers to a law of two images: what a layer does to each pixel is written once, for one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ntkit.nn._law import Covariance, not_negative, safe_sqrt, size
from ntkit.nn._layer import Layer
from ntkit.nn._masks import common
from ntkit.nn._planes import Space
from ntkit.nn._sides import LEFT, PAIR, RIGHT, sides


def behind(layer: Layer, cov: Covariance) -> Covariance:
    """The law behind a layer: of numbers by its own `propagate`, of images pixel by pixel if it is elementwise."""
    return through(layer.propagate, cov) if layer.elementwise else layer.propagate(cov)


def through(fn: Callable[..., Covariance], *laws: Covariance) -> Covariance:
    """fn(*laws) of numbers, at every pair of pixels; the laws of x and of y with themselves go along."""
    return with_selves(lambda *laws: _lifted(fn, *laws) if laws[0].space is not None else fn(*laws), *laws)


def with_selves(fn: Callable[..., Covariance], *laws: Covariance) -> Covariance:
    """fn(*laws), with variances from the laws of x and of y with themselves where those are carried along."""
    if laws[0].selves is None:
        return fn(*laws)
    each = [law.selves for law in laws if law.selves is not None]
    left, right = (fn(*(selves[i] for selves in each)) for i in range(2))
    out = fn(*(law.replace(selves=None) for law in laws))
    out = out.replace(xx=left.xx, yy=right.xx)
    return (out if out.gap_known else gapped(out)).replace(selves=(left, right))


def over_pixels(layer: Layer, fn: Callable[[Covariance], Covariance], cov: Covariance) -> Covariance:
    """fn(cov) of a layer that reads several pixels: it is given zeros where they do not exist."""

    def read(cov: Covariance) -> Covariance:
        if cov.masks is None or cov.space is None:
            return fn(cov)
        shape = (1, *cov.space.sizes, cov.width)
        left, right = (layer.exists(shape, mask) for mask in cov.masks)
        return fn(_existing(cov)).replace(masks=None if left is None else (left, right))

    return with_selves(read, cov)


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
    """The law with its gap, as far as its other numbers tell."""
    cov = cov.replace(gap=jnp.zeros((), cov.xy.dtype), gap_known=True)
    return _lifted(with_gap, cov) if cov.space is not None else with_gap(cov)


def with_gap(cov: Covariance) -> Covariance:
    """The same, of numbers: it cancels where they are nearly parallel."""
    if cov.one:
        return cov
    return cov.replace(gap=not_negative(safe_sqrt(cov.xx) * safe_sqrt(cov.yy) - size(cov.xy)))


def _lifted(fn: Callable[..., Covariance], *laws: Covariance) -> Covariance:
    space = laws[0].space
    assert space is not None
    if laws[0].one:
        same = _of_one(fn, space, *laws)
        out = same if space.alone else _where_diagonal(space, same, _of_pairs(fn, space, *laws))
    else:
        out = _of_pairs(fn, space, *laws)
    masks = [law.masks for law in laws if law.masks is not None]
    left_right = tuple(common(side) for side in zip(*masks, strict=True)) if masks else None
    return laws[0].replace(**out, masks=left_right)


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
    chosen = {name: jnp.where(where, same[name], pairs[name]) for name in ("xy", "ntk", "gap")}
    return {**same, **chosen}


def _of_pairs(fn: Callable[..., Covariance], space: Space, *laws: Covariance) -> dict[str, Any]:
    width: list[int] = []

    def number(xx: list[Array], yy: list[Array], pair: list[tuple[Array, Array, Array]]) -> tuple[Array, ...]:
        inner = [
            Covariance(a, xy, b, ntk, gap, law.width)
            for law, a, b, (xy, ntk, gap) in zip(laws, xx, yy, pair, strict=True)
        ]
        out = fn(*inner)
        width.append(out.width)
        return out.xx, out.yy, out.xy, out.ntk, out.gap

    like = jax.ShapeDtypeStruct((), laws[0].xy.dtype)
    numbers = [like] * len(laws)
    parts = sides(number, numbers, numbers, [(like,) * 3] * len(laws))
    left, of_x = _over_pixels(parts.left, space.rank, 0)([_map(law.xx) for law in laws])
    right, of_y = _over_pixels(parts.right, space.rank, 0)([_map(law.yy) for law in laws])
    # Else XLA computes them again for each displacement.
    left, seen = lax.optimization_barrier((left, [space.view(feature) for feature in right]))
    pair = [(law.xy, law.ntk, law.gap) for law in laws]
    axes = [tuple(0 if a.ndim else None for a in arrays) for arrays in pair]
    over = _over_pixels(parts.rest, space.rank, (0, 0, axes))
    for _ in range(space.rank):
        over = jax.vmap(over, (None, 0, axes))
    found = {LEFT: iter(of_x), RIGHT: iter(of_y), PAIR: iter(over(left, seen, pair))}
    xx, yy, xy, ntk, gap = (next(found[at]) for at in parts.place)
    # A variance that depends on nothing came with the pairs.
    first = (0,) * space.rank
    xx, yy = (q[first] if at == PAIR else q for q, at in zip((xx, yy), parts.place, strict=False))
    xx, yy = (q.reshape((1,) * space.rank + space.sizes) for q in (xx, yy))
    xy, ntk, gap = (_whole(a, at, space) for a, at in zip((xy, ntk, gap), parts.place[2:], strict=True))
    return {"xx": xx, "yy": yy, "xy": xy, "ntk": ntk, "gap": gap, "width": width[0]}


def _whole(value: Array, at: int, space: Space) -> Array:
    """At every pair of pixels, also what depends on one of them alone."""
    return jnp.broadcast_to(space.view(value) if at == RIGHT else value, _shape(space))


def _map(values: Array) -> Array:
    """(1 ... 1, P...) to (P...)."""
    return values.reshape(values.shape[values.ndim // 2 :])


def _shape(space: Space) -> tuple[int, ...]:
    return (*(len(d) for d in space.displacements), *space.sizes)
