"""The law of the signal behind a whole network: at all pairs of examples, and of each example with itself.

Rows and images start apart, and go on together: by segments that XLA does not fuse. At a `BatchNorm` the laws of all
groups of examples meet, to be centred over the reference.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkit._check import is_float
from ntkit.errors import InputError
from ntkit.kernels._images import Means, diagonals_of_several, image_diagonal, image_laws, laws_of_several
from ntkit.kernels._means import image_means
from ntkit.kernels._pairs import pair_laws, variances
from ntkit.nn import Covariance, Layer
from ntkit.nn._masks import Masked
from ntkit.nn._stages import plan
from ntkit.nn.batch import (
    Blocks,
    Centring,
    batch_norms,
    centred,
    centring,
    centrings,
    same_examples,
    stated_reference,
)
from ntkit.nn.combinators import Branches, Sequential, flat, segments

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


def _start(net: Layer, x1: Any, x2: Any, *means: Means | None) -> tuple[Covariance, Layer]:
    """The law of all pairs before the first layer that reads rows, and the layers from there on."""
    return image_laws(net, x1, x2, *means) if x1.ndim > 2 else (pair_laws(x1, x2), net)


def _start_of_one(net: Layer, x: Any, *means: Means | None) -> tuple[Covariance, Layer]:
    return image_diagonal(net, x, *means) if x.ndim > 2 else (Covariance.of_one(variances(x), x.shape[-1]), net)


def _over_reference(
    net: Layer, groups: dict[str, Examples], pairs: list[tuple[str, str]], ones: list[str], dtype: Any
) -> Blocks:
    """The laws behind a network with `BatchNorm`: of some pairs of groups, and of examples of some groups with
    themselves; and of these and the reference, in so far as that is needed. `dtype`: of the data."""
    blocks, rows = _before_rows(centring(net), groups, pairs, ones, _reference(net, groups, dtype))
    return _through(rows, blocks)


def _through(net: Layer, blocks: Blocks) -> Blocks:
    """The laws behind layers of rows, some of which centre."""
    run: list[Layer] = []
    for layer in flat(net):
        if not centrings(layer):
            run.append(layer)
            continue
        blocks, run = _behind_all(Sequential(*run), blocks), []
        if isinstance(layer, Centring):
            blocks = centred(blocks)
        else:
            assert isinstance(layer, Branches)
            blocks = _together(layer, [_through(branch, blocks) for branch in layer.branches])
    return _behind_all(Sequential(*run), blocks)


def _behind_all(net: Layer, blocks: Blocks) -> Blocks:
    laws = {pair: _behind(net, law, _over_pairs) for pair, law in blocks.laws.items()}
    ones = {g: _behind(net, law, _over_examples) for g, law in blocks.ones.items()}
    return Blocks(laws, ones, blocks.reference, blocks.same)


def _together(layer: Branches, each: list[Blocks]) -> Blocks:
    """The laws behind a layer of branches, from those behind each of them."""

    def together(*laws: Covariance) -> Covariance:
        return layer.together(list(laws))

    first = each[0]
    laws = {pair: _over_pairs(together, *(blocks.laws[pair] for blocks in each)) for pair in first.laws}
    ones = {g: _over_examples(together, *(blocks.ones[g] for blocks in each)) for g in first.ones}
    return Blocks(laws, ones, first.reference, first.same)


def _before_rows(
    net: Layer, groups: dict[str, Examples], pairs: list[tuple[str, str]], ones: list[str], reference: Examples | None
) -> tuple[Blocks, Layer]:
    """These laws before the first layer that reads rows, and the layers from there on."""
    r = "x" if reference is None else "r"
    groups = groups if reference is None else {**groups, "r": reference}
    same = {g: jnp.eye(len(x), dtype=bool) if g == r else same_examples(x, groups[r]) for g, x in groups.items()}
    tail, means = net, dict.fromkeys(groups)
    if groups[r].ndim > 2:
        tail, means = plan(net, (1, *groups[r].shape[1:])).tail, image_means(net, groups, r, same)
    if centrings(tail):  # else only pixels are centred, for which the means are enough
        named = [g for pair in pairs for g in pair] + ones
        pairs, ones = [*pairs, *((g, r) for g in named), (r, r)], [*ones, r]
    laws, alone = {}, {}
    for g, h in dict.fromkeys(pairs):
        laws[g, h], _ = _start(net, groups[g], None if g == h else groups[h], means[g], means[h])
    for g in dict.fromkeys(ones):
        alone[g], _ = _start_of_one(net, groups[g], means[g])
    return Blocks(laws, alone, r, same), tail


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


def _behind(net: Layer, law: Covariance, over: Callable[..., Covariance]) -> Covariance:
    """The law behind the network, by segments that XLA does not fuse with each other."""
    always = ~(jnp.sum(law.xx) < 0)  # true, but only the user's data know that; a barrier would be optimised away
    first, *others = segments(net, _fused(law.xy.dtype))
    law = over(first.propagate, law)
    for segment in others:
        width = segment.shape((1, law.width))[-1]
        law = jax.lax.cond(always, partial(over, segment.propagate), lambda law, width=width: law.of_width(width), law)
    return law


def _over_pairs(fn: Callable[..., Covariance], *laws: Covariance) -> Covariance:
    """fn(*laws) of numbers, at all pairs. Only what depends on the mapped input is batched: variances stay O(n + m)."""
    number, width = _unpacked(fn, laws)
    ntks = [0 if law.ntk.ndim else None for law in laws]
    over_columns = jax.vmap(number, ([(None, 0, 0, ntk, 0) for ntk in ntks],), (None, 0, 0, 0, 0))
    over_both = jax.vmap(over_columns, ([(0, 0, None, ntk, 0) for ntk in ntks],), (0, 0, None, 0, 0))
    return Covariance(*over_both(_arrays(laws)), width=width[0])


def _over_examples(fn: Callable[..., Covariance], *laws: Covariance) -> Covariance:
    """fn(*laws) of each example with itself."""
    number, width = _unpacked(fn, laws)
    return Covariance(*jax.vmap(number)(_arrays(laws)), width=width[0], one=True)


def _arrays(laws: Sequence[Covariance]) -> list[tuple[Array, ...]]:
    return [(law.xx, law.xy, law.yy, law.ntk, law.gap) for law in laws]


def _unpacked(
    fn: Callable[..., Covariance], laws: Sequence[Covariance]
) -> tuple[Callable[[list[tuple[Array, ...]]], tuple[Array, ...]], list[int]]:
    """fn as a function of arrays, and a list to which each call adds the width behind it."""
    width: list[int] = []

    def number(each: list[tuple[Array, ...]]) -> tuple[Array, ...]:
        out = fn(*(Covariance(*own, width=law.width, one=law.one) for own, law in zip(each, laws, strict=True)))
        width.append(out.width)
        return _arrays([out])[0]

    return number, width
