"""What a `BatchNorm` between layers of pixels takes off: the means of every image's covariances over the reference."""

import math
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ntkit._images import Means, image_diagonal, image_laws
from ntkit.nn import BatchNorm, Layer
from ntkit.nn._layer import Displacements, Frames, Params, Shape, Signal
from ntkit.nn._masks import Masked
from ntkit.nn._planes import Space, over_partners
from ntkit.nn._stages import plan
from ntkit.nn.combinators import Sequential, flat
from ntkit.nn.pooling import _Exit, every_displacement


def image_means(
    net: Layer, groups: Mapping[str, Array | Masked], reference: str, same: Mapping[str, Bool[Array, "n N"]]
) -> dict[str, Means]:
    """For each group of images, (n, *space, channels), what its laws need; empty where no `BatchNorm` sees pixels.

    m_x(p) is the mean of K(x p, x_j q) over the reference's images x_j and their pixels q, and m that of m_{x_j}(p); of
    Theta alike. Of masked images these are the pixels that exist in front of the `BatchNorm`; at others m_x is 0. The
    layers up to a `BatchNorm` are run for each of them anew: kept, all covariances of all pairs of images would not
    fit. `same`: see `Blocks`.
    """
    means: dict[str, Means] = dict.fromkeys(groups, ())
    layers = flat(net)
    for k, layer in enumerate(layers):
        if isinstance(layer, BatchNorm) and k < _end(net, groups[reference]):
            before, pixels = Sequential(*layers[:k], _OverPartners()), _pixels(layers[:k], groups[reference])
            own, _ = image_diagonal(before, groups[reference], means[reference])
            found: dict[str, tuple[Array, Array]] = {}
            for g, x in groups.items():
                others = (None, ()) if g == reference else (groups[reference], means[reference])
                law, _ = image_laws(before, x, others[0], means[g], others[1])
                sums = _sum(law.xy, own.xy, same[g]), _sum(law.ntk, own.ntk, same[g])
                found[g] = sums[0] / pixels, sums[1] / pixels
            of_all = [jnp.sum(a) / pixels for a in found[reference]]
            means = {g: (*means[g], _entry(found[g], of_all)) for g in groups}
    return means


def _end(net: Layer, x: Array | Masked) -> int:
    """How many layers come before those that read rows."""
    return len(flat(net)) - len(plan(net, (1, *x.shape[1:])).tail.layers)


def _pixels(layers: list[Layer], x: Array | Masked) -> Array | int:
    """How many pixels all images together have behind layers; 1 in place of 0."""
    before = Sequential(*layers)
    if not isinstance(x, Masked):
        return math.prod(before.shape(x.shape)[:-1])
    there = before.exists(x.shape, x.mask)
    assert there is not None
    return jnp.maximum(jnp.sum(there, dtype=x.dtype), 1)


def _sum(pairs: Float[Array, "n N ..."], own: Float[Array, "N ..."], same: Bool[Array, "n N"]) -> Array:
    """Over the reference's images; where an image is one of them, of its law with itself."""
    return jnp.sum(jnp.where(same[(...,) + (None,) * (pairs.ndim - 2)], own[None], pairs), axis=1)


def _entry(found: tuple[Array, Array], of_all: list[Array]) -> dict[str, Array]:
    n = len(found[0])
    return {
        "mean": found[0],
        "ntk mean": found[1],
        "all": jnp.broadcast_to(of_all[0], n),
        "ntk all": jnp.broadcast_to(of_all[1], n),
    }


class _OverPartners(_Exit):
    """The sum over the pixels p' of the second image, for each pixel p of the first: a map in place of a number."""

    def shape(self, shape: Shape) -> Shape:
        return (shape[0], shape[-1])

    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        raise NotImplementedError  # there is no such layer in a network

    def _one_number(self, planes: Array, space: Space, pairs: Array | int) -> Array:
        return over_partners(planes, space)

    def check(self, signal: Signal) -> Signal:
        return signal

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        return every_displacement(shape, frames)
