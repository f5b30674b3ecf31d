"""Kernels of infinitely wide networks: one pair in, one number out; batching lives here.

A kernel is anything with `kernel(x1, x2=None) -> (n, m)` and `kernel.diagonal(x) -> (n,)`. Whatever stands behind it,
infinite networks here, empirical ones or sketches elsewhere, kernels add and multiply, and all else takes them alike.
"""

import abc
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkit._check import as_host_array, check_dtype, check_finite, is_float
from ntkit._images import Means, image_diagonal, image_laws, pairs_of_pixels
from ntkit._means import image_means
from ntkit._pairs import check_batches, pair_laws, variances
from ntkit.errors import InputError
from ntkit.nn import Covariance, Layer, Signal
from ntkit.nn._law import Scalar
from ntkit.nn._masks import Masked, check_pixels, is_full, values_of
from ntkit.nn._stages import plan
from ntkit.nn.batch import (
    Blocks,
    batch_norms,
    centred,
    check_batch_norms,
    parts,
    same_examples,
    stated_reference,
    with_reference,
)
from ntkit.nn.combinators import Sequential, flat, segments

Inputs = Float[Array | np.ndarray, "n ..."] | Masked
Others = Float[Array | np.ndarray, "m ..."] | Masked
Examples = Array | Masked  # of any number


class Kernels(NamedTuple):
    """Both kernels of one network: `nngp`, the covariance of its outputs at initialisation, and `ntk`."""

    nngp: Array
    ntk: Array


class Kernel(eqx.Module):
    """A positive semi-definite function of two examples, evaluated on batches. Pure JAX: jit, grad and vmap apply."""

    @abc.abstractmethod
    def __call__(self, x1: Inputs, x2: Others | None = None) -> Float[Array, "n m"]:
        """The kernel between the rows of x1 and of x2. `x2=None` means x1, with the diagonal computed as a diagonal."""

    @abc.abstractmethod
    def diagonal(self, x: Inputs) -> Float[Array, " n"]:
        """k(x_i, x_i) for each row."""

    def __add__(self, other: "Kernel") -> "SumOfKernels":
        return SumOfKernels((self, other))

    def __mul__(self, other: "Kernel | Scalar") -> "Kernel":
        return ProductOfKernels((self, other)) if isinstance(other, Kernel) else Scaled(self, other)

    def __rmul__(self, other: Scalar) -> "Kernel":
        return Scaled(self, other)


class SumOfKernels(Kernel):
    """k(x, y) = sum_i k_i(x, y)."""

    terms: tuple[Kernel, ...]

    def __call__(self, x1: Inputs, x2: Others | None = None) -> Float[Array, "n m"]:
        values = [k(x1, x2) for k in self.terms]
        return sum(values[1:], values[0])

    def diagonal(self, x: Inputs) -> Float[Array, " n"]:
        values = [k.diagonal(x) for k in self.terms]
        return sum(values[1:], values[0])


class ProductOfKernels(Kernel):
    """k(x, y) = prod_i k_i(x, y)."""

    factors: tuple[Kernel, ...]

    def __call__(self, x1: Inputs, x2: Others | None = None) -> Float[Array, "n m"]:
        return _product([k(x1, x2) for k in self.factors])

    def diagonal(self, x: Inputs) -> Float[Array, " n"]:
        return _product([k.diagonal(x) for k in self.factors])


class Scaled(Kernel):
    """k(x, y) = factor * inner(x, y), factor >= 0."""

    inner: Kernel
    factor: Scalar

    def __check_init__(self):
        if isinstance(self.factor, (int, float)) and not self.factor >= 0:
            raise InputError(f"The factor of a kernel must be a number >= 0, or it is no kernel; got {self.factor!r}.")

    def __call__(self, x1: Inputs, x2: Others | None = None) -> Float[Array, "n m"]:
        return self.factor * self.inner(x1, x2)

    def diagonal(self, x: Inputs) -> Float[Array, " n"]:
        return self.factor * self.inner.diagonal(x)


class Unflattened(Kernel):
    """A kernel of images for images that come as rows (n, pixels * channels), as scikit-learn and tables have them.

    `shape` is that of one image, channels last: k(x, y) = inner(image of x, image of y).
    """

    inner: Any
    shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x1: Inputs, x2: Others | None = None, **rest: Any) -> Any:
        images = self._images(x1)
        return self.inner(images, **rest) if x2 is None else self.inner(images, self._images(x2), **rest)

    def diagonal(self, x: Inputs) -> Any:
        return self.inner.diagonal(self._images(x))

    @property
    def on_host(self) -> bool:
        """Whether the kernel inside computes in NumPy: see `ntkit.gram.host`."""
        return bool(getattr(self.inner, "on_host", False))

    def side(self, x: Any, n: int) -> int:
        """As of the kernel inside, which must be one on the host."""
        return self.inner.side(self._images(x), n)

    def settled(self, x: Any) -> "Unflattened":
        """As of `OfNetwork`, with the images as the reference."""
        return Unflattened(settled(self.inner, self._images(x)), self.shape)

    def weight(self, shape: tuple[int, ...]) -> int:
        """As of `OfNetwork`, of the images."""
        return getattr(self.inner, "weight", lambda shape: 1)(self.shape)

    def _images(self, x: Any) -> Any:
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise InputError(
                f"A row of an image of shape {self.shape} has {math.prod(self.shape)} numbers, but the examples have "
                f"shape {tuple(x.shape[1:])}."
            )
        return x.reshape(len(x), *self.shape)


def _product(values: list[Array]) -> Array:
    total = values[0]
    for value in values[1:]:
        total = total * value
    return total


class OfNetwork(Kernel):
    """What the kernels of an infinitely wide network share: the check at birth, and the two vmaps."""

    net: eqx.AbstractVar[Layer]

    def __check_init__(self):
        if not isinstance(self.net, Layer):
            raise InputError(f"A kernel is built from a network of `ntkit.nn` layers; got {self.net!r}.")
        self.net.check(Signal.data())
        check_batch_norms(self.net)

    def settled(self, x: Any) -> "OfNetwork":
        """The kernel with x as the reference of its `BatchNorm`s, where none is stated."""
        net = with_reference(self.net, x)
        return self if net is self.net else eqx.tree_at(lambda kernel: kernel.net, self, net)

    def weight(self, shape: tuple[int, ...]) -> int:
        """Pairs of numbers in a pair of examples of a shape: 1 for rows, pixels times displacements for images."""
        return pairs_of_pixels(self.net, shape) if len(shape) > 1 else 1

    def check_pixels(self, name: str, x: Masked) -> None:
        """Raises `ntkit.InputError` if an image has no pixels, at first or behind a layer."""
        check_pixels(name, flat(self.net), x)

    def _pairs(self, x1: Inputs, x2: Others | None, *names: str) -> tuple[Array, ...]:
        first, second = _arrays(x1, x2)
        self._check_shape("x1", first)
        self._check_shape("x2", second)
        return _values(self.net, first, second, names)

    def _examples(self, x: Inputs, *names: str) -> tuple[Array, ...]:
        first, _ = _arrays(x, None)
        self._check_shape("x", first)
        return _diagonals(self.net, first, names)

    def _check_shape(self, name: str, x: Array | Masked | None) -> None:
        """Layers of images refuse rows here, and images of which nothing is left; what else is wrong with images `plan`
        finds."""
        if isinstance(x, Masked):
            self.check_pixels(name, x)
        elif x is not None and x.ndim == 2:
            self.net.shape((1, x.shape[1]))


# Compiled as a whole also where the caller compiles nothing: some hundred small programs would take seconds.
@eqx.filter_jit
def _values(net: Layer, x1: Any, x2: Any, names: tuple[str, ...]) -> tuple[Array, ...]:
    """The arrays of those names, of the law behind the network at all pairs."""
    if batch_norms(net):
        x, y = "x", "x" if x2 is None else "y"
        law = _over_reference(net, {"x": x1, y: x1 if x2 is None else x2}, [(x, y)], [], x1.dtype).laws[x, y]
    else:
        law, tail = _start(net, x1, x2)
        law = _behind(tail, law, _over_pairs)
    values = tuple(getattr(law, name) for name in names)
    return values if x2 is not None else tuple(map(_with_diagonal, values, _diagonals(net, x1, names)))


@eqx.filter_jit
def _diagonals(net: Layer, x: Any, names: tuple[str, ...]) -> tuple[Array, ...]:
    """The same of each example with itself."""
    # n numbers, which errors of each layer's variance reach multiplied: in float64, also in a JAX of 32 bits.
    with jax.enable_x64(True):
        exact, net = jax.tree.map(_widened, (x, net))
        if batch_norms(net):
            law = _over_reference(net, {"x": exact}, [], ["x"], x.dtype).ones["x"]
        else:
            law, tail = _start_of_one(net, exact)
            law = _behind(tail, law, _over_examples)
        return tuple(getattr(law, name).astype(x.dtype) for name in names)


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


def settled(kernel: Any, x: Any) -> Any:
    """A kernel whose networks centre over x where they have a `BatchNorm` without a reference; others as they are."""

    def settles(node: Any) -> bool:
        return hasattr(node, "settled")

    return jax.tree.map(lambda node: node.settled(x) if settles(node) else node, kernel, is_leaf=settles)


def finite(kernel: Any, x: Any) -> list[tuple[Any, Any]]:
    """The kernels of finite networks in a kernel, each with x as it sees it."""

    def stops(node: Any) -> bool:
        return isinstance(node, Unflattened) or hasattr(node, "check_examples")

    found = []
    for node in jax.tree.leaves(kernel, is_leaf=stops):
        if isinstance(node, Unflattened):
            found += finite(node.inner, node._images(x))
        elif stops(node):
            found.append((node, x))
    return found


def check_examples(kernel: Any, x: Any) -> None:
    """Lets kernels of finite networks look at the first rows of x, whose values a compiled program hides from them.

    **Raises:** what such a kernel raises for these inputs.
    """
    for one, seen in finite(kernel, x):
        one.check_examples(seen)


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


def _arrays(x1: Inputs, x2: Others | None) -> tuple[Any, Any]:
    first, second = _array("x1", x1), None if x2 is None else _array("x2", x2)
    check_batches(values_of(first), values_of(second))
    for name, x, came in (("x1", first, x1), ("x2", second, x2)):
        values = values_of(x) if isinstance(came, Masked) else came
        if values is not None and not isinstance(values, jax.core.Tracer):
            check_finite(name, np.asarray(values))
    return first, second


def _array(name: str, x: Any) -> Any:
    """On the device; what is no array of floats is refused by its own name and dtype. Missing pixels are zeros."""
    if isinstance(x, Masked):
        values, mask = _array(name, x.x), jnp.asarray(x.mask)
        return values if is_full(x) else Masked(Masked(values, mask).filled(), mask)
    return x if isinstance(x, jax.core.Tracer) else jnp.asarray(check_dtype(name, as_host_array(name, x)))


def _widened(leaf: Any) -> Any:
    """Arrays of floats in float64; Python numbers, which take the dtype of what they meet, as they are."""
    if isinstance(leaf, (Array, np.ndarray, np.floating)) and is_float(leaf.dtype):
        return jax.lax.convert_element_type(leaf, jnp.float64)
    return leaf


def _with_diagonal(matrix: Float[Array, "n n"], diagonal: Float[Array, " n"]) -> Float[Array, "n n"]:
    return jnp.where(jnp.eye(len(diagonal), dtype=bool), diagonal[:, None], matrix)


class NTK(OfNetwork):
    """The neural tangent kernel Theta(x, y) of the infinitely wide network, per output (Jacot et al. 2018).

    Raises `ntkit.InputError` if a layer of the network has no infinite reading where it stands.
    """

    net: Layer

    def __call__(self, x1: Inputs, x2: Others | None = None) -> Float[Array, "n m"]:
        return self._pairs(x1, x2, "ntk")[0]

    def diagonal(self, x: Inputs) -> Float[Array, " n"]:
        return self._examples(x, "ntk")[0]


class NNGP(OfNetwork):
    """The covariance Sigma(x, y) of the outputs of the infinitely wide network at initialisation (Lee et al. 2018)."""

    net: Layer

    def __call__(self, x1: Inputs, x2: Others | None = None) -> Float[Array, "n m"]:
        return self._pairs(x1, x2, "xy")[0]

    def diagonal(self, x: Inputs) -> Float[Array, " n"]:
        return self._examples(x, "xy")[0]


class Both(OfNetwork):
    """NNGP and NTK in one pass: a kernel whose values are `Kernels(nngp, ntk)`; `ntkit.gram` takes it as one."""

    net: Layer

    def __call__(self, x1: Inputs, x2: Others | None = None) -> Kernels:
        return Kernels(*self._pairs(x1, x2, "xy", "ntk"))

    def diagonal(self, x: Inputs) -> Kernels:
        return Kernels(*self._examples(x, "xy", "ntk"))


def kernels(net: Layer, x1: Inputs, x2: Others | None = None) -> Kernels:
    """`Kernels(nngp, ntk)` of a network between the rows of x1 and x2, in one pass. Equivalent to `Both(net)(x1,
    x2)`."""
    return Both(net)(x1, x2)
