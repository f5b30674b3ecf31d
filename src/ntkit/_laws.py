"""The law of the signal behind a whole network: at all pairs of examples, and of each example with itself.

Rows and images start apart, and go on together: by segments that XLA does not fuse, and with `BatchNorm`s by sections,
between which the laws are centred over a reference.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkit._check import is_float
from ntkit._images import Means, diagonals_of_several, image_diagonal, image_laws, laws_of_several
from ntkit._means import image_means
from ntkit._pairs import pair_laws, variances
from ntkit.errors import InputError
from ntkit.nn import Covariance, Layer
from ntkit.nn._masks import Masked
from ntkit.nn._stages import plan
from ntkit.nn.batch import (
    Blocks,
    batch_norms,
    centred,
    parts,
    same_examples,
    stated_reference,
)
from ntkit.nn.combinators import Sequential, segments

Examples = Array | Masked  # of any number


def law_of_pairs(net: Layer, x1: Any, x2: Any) -> Covariance:
    """At all pairs of x1 and x2; None stands for x1."""
    if batch_norms(net):
        x, y = "x", "x" if x2 is None else "y"
        return _over_reference(net, {"x": x1, y: x1 if x2 is None else x2}, [(x, y)], [], x1.dtype).laws[x, y]
    law, tail = _start(net, x1, x2)
    return _behind(tail, law, _over_pairs)


def laws_of_pairs(nets: Sequence[Layer], x1: Any, x2: Any) -> list[Covariance]:
    """`law_of_pairs` of several networks: of images, layers that they begin with, the same objects, are run once."""
    if x1.ndim == 2 or any(map(batch_norms, nets)):
        return [law_of_pairs(net, x1, x2) for net in nets]
    return [_behind(tail, law, _over_pairs) for law, tail in laws_of_several(nets, x1, x2)]


def laws_of_examples(nets: Sequence[Layer], x: Any, dtype: Any) -> list[Covariance]:
    """`law_of_examples` of several networks, as `laws_of_pairs`."""
    if x.ndim == 2 or any(map(batch_norms, nets)):
        return [law_of_examples(net, x, dtype) for net in nets]
    return [_behind(tail, law, _over_examples) for law, tail in diagonals_of_several(nets, x)]


def law_of_examples(net: Layer, x: Any, dtype: Any) -> Covariance:
    """Of each example with itself. `dtype`: in which a stated reference is rounded, as the data were."""
    if batch_norms(net):
        return _over_reference(net, {"x": x}, [], ["x"], dtype).ones["x"]
    law, tail = _start_of_one(net, x)
    return _behind(tail, law, _over_examples)


def _start(net: Layer, x1: Any, x2: Any, *means: Means) -> tuple[Covariance, Layer]:
    """The law of all pairs before the first layer that reads rows, and the layers from there on."""
    return image_laws(net, x1, x2, *means) if x1.ndim > 2 else (pair_laws(x1, x2), net)


def _start_of_one(net: Layer, x: Any, *means: Means) -> tuple[Covariance, Layer]:
    return image_diagonal(net, x, *means) if x.ndim > 2 else (Covariance.of_one(variances(x), x.shape[-1]), net)


def _over_reference(
    net: Layer, groups: dict[str, Examples], pairs: list[tuple[str, str]], ones: list[str], dtype: Any
) -> Blocks:
    """The laws behind a network with `BatchNorm`: of some pairs of groups, and of examples of some groups with
    themselves; and of these and the reference, in so far as that is needed. `dtype`: of the data."""
    blocks, sections = _before_rows(net, groups, pairs, ones, _reference(net, groups, dtype))
    for k, section in enumerate(sections):
        blocks = centred(blocks) if k else blocks
        laws = {pair: _behind(section, law, _over_pairs) for pair, law in blocks.laws.items()}
        alone = {g: _behind(section, law, _over_examples) for g, law in blocks.ones.items()}
        blocks = Blocks(laws, alone, blocks.reference, blocks.same)
    return blocks


def _before_rows(
    net: Layer, groups: dict[str, Examples], pairs: list[tuple[str, str]], ones: list[str], reference: Examples | None
) -> tuple[Blocks, list[Sequential]]:
    """These laws before the first layer that reads rows, and the layers from there on, cut at each `BatchNorm`."""
    r = "x" if reference is None else "r"
    groups = groups if reference is None else {**groups, "r": reference}
    same = {g: jnp.eye(len(x), dtype=bool) if g == r else same_examples(x, groups[r]) for g, x in groups.items()}
    tail, means = net, dict.fromkeys(groups, ())
    if groups[r].ndim > 2:
        tail, means = plan(net, (1, *groups[r].shape[1:])).tail, image_means(net, groups, r, same)
    sections = parts(tail)
    if len(sections) > 1:  # else only pixels are centred, for which the means are enough
        named = [g for pair in pairs for g in pair] + ones
        pairs, ones = [*pairs, *((g, r) for g in named), (r, r)], [*ones, r]
    laws, alone = {}, {}
    for g, h in dict.fromkeys(pairs):
        laws[g, h], _ = _start(net, groups[g], None if g == h else groups[h], means[g], means[h])
    for g in dict.fromkeys(ones):
        alone[g], _ = _start_of_one(net, groups[g], means[g])
    return Blocks(laws, alone, r, same), sections


def _reference(net: Layer, groups: Mapping[str, Examples], dtype: Any) -> Examples | None:
    """What is centred over, rounded to the dtype of the data as the examples are; None for the examples x
    themselves."""
    x, stated = groups["x"], stated_reference(net)
    if stated is None:
        if len(groups) > 1:
            raise InputError(
                "`BatchNorm` without a reference centres over the inputs of the call, but `kernel(x1, x2)` has two "
                "batches. State the examples to centre over, most often the training data: "
                "`nn.BatchNorm(reference=x_train)`."
            )
        if len(x) < 2:
            raise InputError(
                "`BatchNorm` without a reference centres over the inputs, but there is only one example. State what to "
                "centre over: `nn.BatchNorm(reference=x_train)`."
            )
        return None
    if stated.shape[1:] != x.shape[1:]:
        raise InputError(
            f"`reference` of `BatchNorm` must hold examples like the inputs, of shape {x.shape[1:]}, but has shape "
            f"{stated.shape}."
        )
    return jax.tree.map(lambda leaf: _rounded(leaf, dtype, x.dtype), stated)


def _rounded(leaf: Any, dtype: Any, to: Any) -> Array:
    """In `dtype`, then in `to`; masks as they are."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(dtype).astype(to) if is_float(leaf.dtype) else leaf


def _fused(dtype: np.dtype) -> int:
    """So many activations run in one loop over all pairs.

    XLA for CPU fuses any number of them, but from some size of the loop on (20 layers of ReLU in float64, over 40 in
    float32) it computes shared values again and again, and is a thousand times slower. A border costs, too: each of
    the arrays that cross it is computed by a loop of its own through all layers before it.
    """
    return 24 if dtype.itemsize <= 4 else 12


def _behind(net: Layer, law: Covariance, over: Callable[[Layer, Covariance], Covariance]) -> Covariance:
    """The law behind the network, by segments that XLA does not fuse with each other."""
    always = ~(jnp.sum(law.xx) < 0)  # true, but only the user's data know that; a barrier would be optimised away
    first, *others = segments(net, _fused(law.xy.dtype))
    law = over(first, law)
    for segment in others:
        width = _width(segment, law)
        law = jax.lax.cond(always, partial(over, segment), lambda law, width=width: law.of_width(width), law)
    return law


def _over_pairs(segment: Layer, law: Covariance) -> Covariance:
    """The law behind a segment at all pairs. Only what depends on the mapped input is batched: variances stay O(n +
    m)."""
    ntk = 0 if law.ntk.ndim else None
    over_columns = jax.vmap(_unpacked(segment, law), (None, 0, 0, ntk, 0), (None, 0, 0, 0, 0))
    over_both = jax.vmap(over_columns, (0, 0, None, ntk, 0), (0, 0, None, 0, 0))
    return Covariance(*over_both(law.xx, law.xy, law.yy, law.ntk, law.gap), width=_width(segment, law))


def _over_examples(segment: Layer, law: Covariance) -> Covariance:
    """The law behind a segment of each example with itself."""
    arrays = jax.vmap(_unpacked(segment, law))(law.xx, law.xy, law.yy, law.ntk, law.gap)
    return Covariance(*arrays, width=_width(segment, law), one=True)


def _unpacked(segment: Layer, law: Covariance) -> Callable[..., tuple[Array, ...]]:
    def behind(*arrays: Array) -> tuple[Array, ...]:
        out = segment.propagate(Covariance(*arrays, width=law.width, one=law.one))
        return out.xx, out.xy, out.yy, out.ntk, out.gap

    return behind


def _width(segment: Layer, law: Covariance) -> int:
    return segment.shape((1, law.width))[-1]
