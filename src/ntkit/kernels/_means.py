"""What a `BatchNorm` between layers of pixels takes off: the means of every image's covariances over the reference."""

import math
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ntkit.errors import InputError
from ntkit.kernels._images import Means, image_diagonal, image_laws
from ntkit.nn import Layer
from ntkit.nn._layer import Displacements, Frames, Params, Shape, Signal
from ntkit.nn._masks import Masked
from ntkit.nn._planes import Space
from ntkit.nn._stages import plan
from ntkit.nn._sums import over_partners
from ntkit.nn.batch import Centring, centrings
from ntkit.nn.combinators import Branches, Sequential, flat
from ntkit.nn.pooling import _Exit, every_displacement


def image_means(
    net: Layer, groups: Mapping[str, Array | Masked], reference: str, same: Mapping[str, Bool[Array, "n N"]]
) -> dict[str, Means]:
    """For each group of images, (n, *space, channels), what its laws need; empty where no `BatchNorm` sees pixels.

    m_x(p) is the mean of K(x p, x_j q) over the reference's images x_j and their pixels q, and m that of m_{x_j}(p); of
    Theta alike. Of masked images these are the pixels that exist in front of the `BatchNorm`; at others m_x is 0. The
    layers up to a `BatchNorm` are run for each of them anew: kept, all covariances of all pairs of images would not
    fit. `same`: see `Blocks`. `net` has a `Centring` for each `BatchNorm`.
    """
    means: dict[str, Means] = {g: {} for g in groups}
    shape = groups[reference].shape
    pixels = Sequential(*flat(net)[: -len(plan(net, (1, *shape[1:])).tail.layers) or None])
    for place in centrings(pixels):
        before = _before(pixels, place)
        assert before is not None
        if len(before.shape(shape)) == 2:
            raise InputError(
                "`BatchNorm` has no infinite reading here: it stands in a branch, behind the layer that ends the "
                "pixels in there. Let all branches hand on pixels, and end them behind the branches."
            )
        for g, entry in _over_reference(before, groups, reference, same, means).items():
            means[g][place] = entry
    return means


def _over_reference(
    before: Sequential,
    groups: Mapping[str, Array | Masked],
    reference: str,
    same: Mapping[str, Bool[Array, "n N"]],
    means: Mapping[str, Means],
) -> dict[str, dict[str, Array]]:
    """Of each group of images m_x(p), (n, *space), and m, both of K and of Theta, behind layers."""
    total, count = Sequential(*before.layers, _OverPartners()), _pixels(before, groups[reference])
    own, _ = image_diagonal(total, groups[reference], means[reference])
    found = {}
    for g, x in groups.items():
        others = (None, None) if g == reference else (groups[reference], means[reference])
        law, _ = image_laws(total, x, others[0], means[g], others[1])
        found[g] = _sum(law.xy, own.xy, same[g]) / count, _sum(law.ntk, own.ntk, same[g]) / count
    of_all = [jnp.sum(a) / count for a in found[reference]]
    return {g: _entry(found[g], of_all) for g in groups}


def _before(net: Layer, place: int) -> Sequential | None:
    """The layers on the way to a `Centring`, through those branches that it is in; None if it is not in the network."""
    way: list[Layer] = []
    for layer in flat(net):
        if isinstance(layer, Centring) and layer.place == place:
            return Sequential(*way)
        for branch in layer.branches if isinstance(layer, Branches) else ():
            inside = _before(branch, place)
            if inside is not None:
                return Sequential(*way, *inside.layers)
        way.append(layer)
    return None


def _pixels(before: Sequential, x: Array | Masked) -> Array | int:
    """How many pixels all images together have behind layers; 1 in place of 0."""
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
