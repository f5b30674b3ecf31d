"""`BatchNorm`: the one layer whose reading of a pair depends on other examples."""

import itertools
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ntkit._check import as_host_array, check_dtype, check_finite
from ntkit.errors import InputError
from ntkit.nn._law import Covariance, not_negative, safe_divide, safe_sqrt, size
from ntkit.nn._layer import Layer, Params, Shape, Signal
from ntkit.nn._lift import gapped, with_selves
from ntkit.nn._masks import Mask, Masked, as_masked, check_pixels, is_full, values_of
from ntkit.nn.combinators import flat


class BatchNorm(Layer):
    """z' = (z - mean) / sqrt(var + eps) of each channel over a batch, without learnt scale or shift.

    *Finite*: mean and variance are those of the batch that `apply` is given, over its examples and pixels.

    *Infinite*: each channel is centred over a reference batch x_1 ... x_N, and not divided:

        K'(x, y) = K(x, y) - mean_j K(x, x_j) - mean_i K(x_i, y) + mean_ij K(x_i, x_j),    Theta' alike

    This is the limit of the finite reading with `divide=False`, on the reference as batch. What a channel is divided by
    is a random number also at infinite width, a draw of its own in each channel: no such formula holds. What both
    readings share is that a channel's sum over the reference is 0: before a last `Dense` with b_std = beta

        1/N^2 sum_ij Theta(x_i, x_j) = beta^2                           (Jacot et al. 2019, "Freeze and Chaos")

    Between layers of pixels the means go over the reference's pixels, too, in both readings over those that exist if it
    is `ntkit.Masked`: images share these means, and so depend on each other's sizes, but not on padding. With N
    examples in the reference n by m entries cost what (n + N)(m + N) do.

    **Arguments:** `reference`: raw inputs of the network, (N, features) or (N, *space, channels), N > 1, or `Masked`;
    stated in one `BatchNorm` it holds for all of the network. None: the inputs of the call, `kernel(x)`,
    `kernel.diagonal(x)` or `ntkit.gram(kernel, x)`, or the training data of a predictor; two batches, `kernel(x1, x2)`,
    need a stated one. `divide`: whether the finite reading divides by the standard deviation. `eps`: added to the
    variance.
    """

    reference: Float[Array | np.ndarray, "N ..."] | Masked | None
    divide: bool = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, reference: Any = None, *, divide: bool = True, eps: float = 1e-5):
        self.reference = None if reference is None else _checked(reference)
        if not isinstance(divide, bool):
            raise InputError(f"`divide` of `BatchNorm` must be True or False; got {divide!r}.")
        if not (isinstance(eps, (int, float)) and math.isfinite(eps) and eps >= 0):
            raise InputError(f"`eps` of `BatchNorm` must be a finite number >= 0; got {eps!r}.")
        self.divide, self.eps = divide, eps

    def shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, params: Params, x: Any, *, key: PRNGKeyArray | None = None) -> Any:
        if len(x) < 2:
            raise InputError("`BatchNorm` normalises over the batch, which here is a single example. Apply it to more.")
        if isinstance(x, Masked):
            there = x.mask[..., None]
            return Masked(jnp.where(there, self._normalised(x.filled(), there), 0), x.mask)
        return self._normalised(x, None)

    def _normalised(self, x: Float[Array, "n ... c"], there: Mask | None) -> Float[Array, "n ... c"]:
        mean = partial(jnp.mean, axis=tuple(range(x.ndim - 1)), keepdims=True, where=there)
        centred = x - mean(x)
        return centred * jax.lax.rsqrt(mean(centred * centred) + self.eps) if self.divide else centred

    def propagate(self, cov: Covariance) -> Covariance:
        raise InputError(
            "`BatchNorm` cannot be read from one pair: it needs the law of both with the reference, which the kernels "
            "of a network look after. Use `ntkit.NTK(net)`, `ntkit.NNGP(net)` or `ntkit.Both(net)`."
        )

    def check(self, signal: Signal) -> Signal:
        if not signal.infinite:
            raise InputError(
                "`BatchNorm` has no infinite reading on the raw input, whose channels are finite in number. Centre the "
                "data before the network, or put a `Dense` and an activation in front."
            )
        return signal.replace(source="`BatchNorm`")


def _checked(reference: Any) -> Any:
    if isinstance(reference, Masked):
        values = _checked(reference.filled())
        return values if is_full(reference) else Masked(values, reference.mask)
    if isinstance(reference, jax.core.Tracer):
        return reference
    host = check_dtype("reference", as_host_array("reference", reference))
    if host.ndim < 2 or len(host) < 2 or 0 in host.shape:
        raise InputError(
            "`reference` of `BatchNorm` must hold at least two examples, (N, features) or (N, *space, channels): of "
            f"one alone nothing is left when its mean is taken off. It has shape {host.shape}."
        )
    check_finite("reference", np.asarray(host))
    return reference if isinstance(reference, jax.Array) else np.asarray(host)


def _is_batch_norm(node: Any) -> bool:
    return isinstance(node, BatchNorm)


def batch_norms(net: Layer) -> list[BatchNorm]:
    """All of them, in branches too."""
    return [node for node in jax.tree.leaves(net, is_leaf=_is_batch_norm) if _is_batch_norm(node)]


def check_batch_norms(net: Layer) -> None:
    """Refuses those that a kernel cannot read: with different references, or with one that has images without
    pixels."""
    stated = [norm.reference for norm in batch_norms(net) if norm.reference is not None]
    for other in stated[1:]:
        if other is not stated[0] and _differ(stated[0], other):
            raise InputError(
                "The `BatchNorm`s of a network centre over one reference, but here two different ones are stated, of "
                f"shapes {stated[0].shape} and {other.shape}. State it in one of them."
            )
    if stated and isinstance(stated[0], Masked):
        check_pixels("reference", flat(net), stated[0])


def _differ(one: Any, other: Any) -> bool:
    """Whether two references are known not to be equal."""
    (values, form), (others, form_of_other) = jax.tree.flatten(one), jax.tree.flatten(other)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in values + others):
        return False
    return form != form_of_other or not all(map(np.array_equal, values, others))


def stated_reference(net: Layer) -> Any:
    """The reference of a network with `BatchNorm`; None if it has none."""
    return next((norm.reference for norm in batch_norms(net) if norm.reference is not None), None)


def with_reference(net: Layer, reference: Any) -> Layer:
    """The network with the reference stated, where it has a `BatchNorm` and none is stated."""
    if not batch_norms(net) or stated_reference(net) is not None:
        return net

    def stated(node: Any) -> Any:
        return BatchNorm(reference, divide=node.divide, eps=node.eps) if _is_batch_norm(node) else node

    return jax.tree.map(stated, net, is_leaf=_is_batch_norm)


class Centring(Layer):
    """What a kernel reads in place of a `BatchNorm`. `place`: which one of the network it is, counted as one goes
    forwards, branch after branch.

    Between pixels it takes off the means that come with the law. Rows are centred together, by `centred`.
    """

    elementwise: ClassVar[bool] = False

    place: int = eqx.field(static=True)

    def shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, params: Params, x: Any, *, key: PRNGKeyArray | None = None) -> Any:
        raise NotImplementedError  # a kernel has it, no network

    def check(self, signal: Signal) -> Signal:
        return signal

    def exists(self, shape: Shape, mask: Mask) -> Mask:
        return mask

    def propagate(self, cov: Covariance) -> Covariance:
        return with_selves(self._centred, cov)

    def _centred(self, cov: Covariance) -> Covariance:
        space = cov.space
        assert space is not None
        assert cov.means is not None
        of_x, of_y = (means[self.place] for means in cov.means)
        front = (None,) * space.rank

        def pairs(a: Array, mean: str, of_all: str) -> Array:
            return a - of_x[mean][front] - space.view(of_y[mean]) + of_x[of_all] if a.ndim else a

        xx, yy = (not_negative(q - 2 * of["mean"][front] + of["all"]) for q, of in ((cov.xx, of_x), (cov.yy, of_y)))
        xy, ntk = pairs(cov.xy, "mean", "all"), pairs(cov.ntk, "ntk mean", "ntk all")
        return gapped(cov.replace(xx=xx, xy=xy, yy=yy, ntk=ntk))


def centring(net: Layer) -> Layer:
    """The network with a `Centring` for each `BatchNorm`."""
    places = itertools.count()
    return jax.tree.map(
        lambda node: Centring(next(places)) if _is_batch_norm(node) else node, net, is_leaf=_is_batch_norm
    )


def centrings(net: Layer) -> list[int]:
    """The places of all of them, in branches too, in order."""
    nodes = jax.tree.leaves(net, is_leaf=lambda node: isinstance(node, Centring))
    return [node.place for node in nodes if isinstance(node, Centring)]


class Blocks(NamedTuple):
    """The laws between groups of examples, by name: `laws[g, h]` at all pairs, `xx` (n,), `yy` (m,), the others (n, m);
    `ones[g]` of each example with itself. `reference` is the name of the group that is centred over, and `same[g]` says
    which examples are which of those, (n, N): of a pair (x, x) the law is that of one example.
    """

    laws: Mapping[tuple[str, str], Covariance]
    ones: Mapping[str, Covariance]
    reference: str
    same: Mapping[str, Bool[Array, "n N"]]


def same_examples(x: Float[Array, "n ..."] | Masked, reference: Float[Array, "N ..."] | Masked) -> Bool[Array, "n N"]:
    """Which example of the reference each one is; the first of equal ones. Missing pixels are zeros."""
    equal = _equal(values_of(x), values_of(reference))
    if isinstance(x, Masked) or isinstance(reference, Masked):
        equal = equal & _equal(as_masked(x).mask, as_masked(reference).mask)
    return equal & (jnp.cumsum(equal, axis=1) == 1)


def _equal(x: Any, reference: Any) -> Bool[Array, "n N"]:
    return jax.lax.map(lambda one: jnp.all(one[None] == reference, axis=tuple(range(1, x.ndim))), x)


def centred(blocks: Blocks) -> Blocks:
    """Behind a `BatchNorm`. See docs/derivations/dense.md, "BatchNorm".

    With roots a = sqrt(K(x, x)) and the excess e(x, y) = a_x a_y - K(x, y) >= 0, which the gap knows, the product of
    roots is centred as (a_x - a)(a_y - a) and only e by differences: where examples are nearly parallel both are small.
    """
    r = blocks.reference
    roots = {g: safe_sqrt(_variances(blocks, g)) for pair in blocks.laws for g in pair}
    excess = {pair: _excess(law, roots[pair[0]], roots[pair[1]]) for pair, law in blocks.laws.items()}
    ntks = {pair: law.ntk for pair, law in blocks.laws.items()}
    for g in roots:
        excess[g, r] = jnp.where(blocks.same[g], 0, excess[g, r])
        ntks[g, r] = jnp.where(blocks.same[g], blocks.ones[r].ntk[None], ntks[g, r])
    e, t = ({g: jnp.mean(of[g, r], axis=1) for g in roots} for of in (excess, ntks))
    middle, e_all, t_all = (jnp.mean(of[r]) for of in (roots, e, t))
    apart = {g: a - middle for g, a in roots.items()}
    q = {g: not_negative(apart[g] * apart[g] + 2 * e[g] - e_all) for g in roots}

    def of_pairs(pair: tuple[str, str], law: Covariance) -> Covariance:
        x, y = (_Side(roots[g], apart[g], e[g], q[g]) for g in pair)
        left = _centred(excess[pair], e[pair[0]], e[pair[1]], e_all)
        xy = x.apart[:, None] * y.apart[None] - left
        ntk = _centred(ntks[pair], t[pair[0]], t[pair[1]], t_all)
        return law.replace(xx=x.q, xy=xy, yy=y.q, ntk=ntk, gap=_gap(x, y, excess[pair], xy))

    def of_ones(g: str, law: Covariance) -> Covariance:
        return law.replace(xx=q[g], xy=q[g], yy=q[g], ntk=law.ntk - 2 * t[g] + t_all)

    return Blocks(
        {pair: of_pairs(pair, law) for pair, law in blocks.laws.items()},
        {g: of_ones(g, law) for g, law in blocks.ones.items()},
        r,
        blocks.same,
    )


class _Side(NamedTuple):
    """Of each example: its root, that from the mean root, its mean excess, and its variance when centred."""

    root: Float[Array, " n"]
    apart: Float[Array, " n"]
    e: Float[Array, " n"]
    q: Float[Array, " n"]


def _variances(blocks: Blocks, g: str) -> Float[Array, " n"]:
    return next(law.xx if pair[0] == g else law.yy for pair, law in blocks.laws.items() if g in pair)


def _excess(law: Covariance, x: Float[Array, " n"], y: Float[Array, " m"]) -> Float[Array, "n m"]:
    """sqrt(xx yy) - xy."""
    return jnp.where(law.xy < 0, 2 * x[:, None] * y[None] - law.gap, law.gap)


def _centred(
    values: Float[Array, "n m"], x: Float[Array, " n"], y: Float[Array, " m"], mean: Float[Array, ""]
) -> Float[Array, "n m"]:
    return values - x[:, None] - y[None] + mean


def _gap(x: _Side, y: _Side, excess: Float[Array, "n m"], xy: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """sqrt(xx yy) - |xy| behind the centring: that of neighbours from their distance, which centring leaves alone."""
    roots = safe_sqrt(x.q), safe_sqrt(y.q)
    s = roots[0][:, None] * roots[1][None]
    a = x.root[:, None] - y.root[None]
    # The difference of the new roots, from that of their squares.
    squares = a * (x.apart[:, None] + y.apart[None]) + 2 * (x.e[:, None] - y.e[None])
    b = safe_divide(squares, roots[0][:, None] + roots[1][None])
    near: Bool[Array, "n m"] = (xy > 0) & (a * a + 2 * excess < s)
    return not_negative(jnp.where(near, excess + (a - b) * (a + b) / 2, s - size(xy)))
