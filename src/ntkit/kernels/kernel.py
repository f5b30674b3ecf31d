"""What a kernel is, how kernels add and multiply, and those of one network: `NTK`, `NNGP` and `Both`."""

import abc
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkit._check import as_host_array, check_dtype, check_finite, is_float
from ntkit.errors import InputError
from ntkit.kernels._images import pairs_of_pixels
from ntkit.kernels._laws import law_of_examples, law_of_pairs
from ntkit.kernels._pairs import check_batches
from ntkit.nn import Layer, Signal
from ntkit.nn._law import Scalar
from ntkit.nn._masks import Masked, check_pixels, is_full, values_of
from ntkit.nn.batch import check_batch_norms, with_reference
from ntkit.nn.combinators import flat

Inputs = Float[Array | np.ndarray, "n ..."] | Masked
Others = Float[Array | np.ndarray, "m ..."] | Masked


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
        first, second = arrays_of(x1, x2)
        self.check_shapes(first, second)
        return _values(self.net, first, second, names)

    def _examples(self, x: Inputs, *names: str) -> tuple[Array, ...]:
        first, _ = arrays_of(x, None)
        self._check_shape("x", first)
        return _diagonals(self.net, first, names)

    def check_shapes(self, x1: Array | Masked, x2: Array | Masked | None = None) -> None:
        """Raises `ntkit.InputError` for inputs that the network cannot be given."""
        self._check_shape("x1", x1)
        self._check_shape("x2", x2)

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
    law = law_of_pairs(net, x1, x2)
    values = tuple(getattr(law, name) for name in names)
    return values if x2 is not None else tuple(map(with_diagonal, values, _diagonals(net, x1, names)))


@eqx.filter_jit
def _diagonals(net: Layer, x: Any, names: tuple[str, ...]) -> tuple[Array, ...]:
    """The same of each example with itself."""
    # n numbers, which errors of each layer's variance reach multiplied: in float64, also in a JAX of 32 bits.
    with jax.enable_x64(True):
        exact, net = jax.tree.map(widened, (x, net))
        law = law_of_examples(net, exact, x.dtype)
        return tuple(getattr(law, name).astype(x.dtype) for name in names)


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


def arrays_of(x1: Inputs, x2: Others | None) -> tuple[Any, Any]:
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


def widened(leaf: Any) -> Any:
    """Arrays of floats in float64; Python numbers, which take the dtype of what they meet, as they are."""
    if isinstance(leaf, (Array, np.ndarray, np.floating)) and is_float(leaf.dtype):
        return jax.lax.convert_element_type(leaf, jnp.float64)
    return leaf


def with_diagonal(matrix: Float[Array, "n n"], diagonal: Float[Array, " n"]) -> Float[Array, "n n"]:
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
