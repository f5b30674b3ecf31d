"""From a law of a pair of numbers to a law of two images: what a layer does to each pixel is written once, for one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ntkit.nn._law import Covariance, not_negative, safe_sqrt, size
from ntkit.nn._layer import Layer
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
    return laws[0].replace(**out)


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

    shape = _shape(space)
    flat = [_flat_planes(law.ntk, space) for law in laws]
    axes = [0 if ntk.ndim else None for ntk in flat]
    over_pixels = jax.vmap(number, (axes, 0))
    q, ntk = jax.vmap(over_pixels, (axes, None), (None, 0), axis_size=_count(space))(
        flat, [_flat_map(law.xx) for law in laws]
    )
    q = q.reshape((1,) * space.rank + space.sizes)
    xy = jnp.broadcast_to(q, shape)
    return {"xx": q, "xy": xy, "yy": q, "ntk": ntk.reshape(shape), "gap": jnp.zeros_like(xy), "width": width[0]}


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
    left, of_x = jax.vmap(parts.left)([_flat_map(law.xx) for law in laws])
    right, of_y = jax.vmap(parts.right)([_flat_map(law.yy) for law in laws])
    # Else XLA computes them again for each displacement.
    left, seen = lax.optimization_barrier((left, [_seen(space, feature) for feature in right]))
    pair = [tuple(_flat_planes(a, space) for a in (law.xy, law.ntk, law.gap)) for law in laws]
    axes = [tuple(0 if a.ndim else None for a in arrays) for arrays in pair]
    over_pixels = jax.vmap(parts.rest, (0, 0, axes))
    of_pair = jax.vmap(over_pixels, (None, 0, axes))(left, seen, pair)
    found = {LEFT: iter(of_x), RIGHT: iter(of_y), PAIR: iter(of_pair)}
    xx, yy, xy, ntk, gap = (next(found[at]) for at in parts.place)
    # A variance that depends on nothing came with the pairs.
    xx, yy = (q[0] if at == PAIR else q for q, at in zip((xx, yy), parts.place, strict=False))
    maps = [q.reshape((1,) * space.rank + space.sizes) for q in (xx, yy)]
    xy, ntk, gap = (_whole(a, at, space) for a, at in zip((xy, ntk, gap), parts.place[2:], strict=True))
    return {"xx": maps[0], "yy": maps[1], "xy": xy, "ntk": ntk, "gap": gap, "width": width[0]}


def _whole(value: Array, at: int, space: Space) -> Array:
    """At every pair of pixels, also what depends on one of them alone."""
    if at == RIGHT:
        value = _seen(space, value)
    return jnp.broadcast_to(value, (_count(space), value.shape[-1])).reshape(_shape(space))


def _seen(space: Space, of_y: Array) -> Array:
    """A feature of y at every pair of pixels, (D, P, rest...)."""
    rest = of_y.shape[1:]
    return space.view(of_y.reshape(space.sizes + rest)).reshape((_count(space), -1, *rest))


def _count(space: Space) -> int:
    total = 1
    for d in space.displacements:
        total *= len(d)
    return total


def _shape(space: Space) -> tuple[int, ...]:
    return (*(len(d) for d in space.displacements), *space.sizes)


def _flat_map(values: Array) -> Array:
    return values.reshape(-1)


def _flat_planes(values: Array, space: Space) -> Array:
    return values.reshape(_count(space), -1) if values.ndim else values
