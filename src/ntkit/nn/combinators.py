"""Layers made of layers: one after the other, or side by side."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.errors import InputError
from ntkit.nn._law import Covariance, add, multiply
from ntkit.nn._layer import Displacements, Frames, Layer, Params, Shape, Signal
from ntkit.nn._lift import behind, met, through
from ntkit.nn._masks import Mask, Masked, common, joined
from ntkit.nn.activations import Identity, Nonlinearity


def _split(key: PRNGKeyArray | None, number: int) -> list[PRNGKeyArray | None]:
    return [None] * number if key is None else list(jax.random.split(key, max(number, 1)))


def _as_layers(owner: str, layers: tuple[Any, ...]) -> tuple[Layer, ...]:
    for position, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            hint = " Create it first: add parentheses." if isinstance(layer, type) else ""
            hint = hint or (" Wrap a function in `nn.Activation(fn)`." if callable(layer) else "")
            raise InputError(f"Every argument of `{owner}` must be a layer; number {position} is {layer!r}.{hint}")
    return layers


def flat(net: Layer) -> list[Layer]:
    """The layers of nested `Sequential`s in order."""
    return [leaf for layer in net.layers for leaf in flat(layer)] if isinstance(net, Sequential) else [net]


def segments(net: Layer, most: int) -> list["Sequential"]:
    """The layers of nested `Sequential`s in order, in runs of at most `most` activations each (a single layer may have
    more)."""
    runs: list[list[Layer]] = [[]]
    together = 0
    for layer in flat(net):
        own = len(nonlinearities(layer))
        if runs[-1] and together + own > most:
            runs.append([])
            together = 0
        runs[-1].append(layer)
        together += own
    return [Sequential(*run) for run in runs]


def nonlinearities(net: Layer) -> list[Nonlinearity]:
    """All of them, in branches too."""
    return [leaf for leaf in jax.tree.leaves(net, is_leaf=_is_nonlinearity) if _is_nonlinearity(leaf)]


def _is_nonlinearity(node: Any) -> bool:
    return isinstance(node, Nonlinearity)


class Sequential(Layer):
    """The layers one after the other; `net.layers` is the tuple of them, and a slice or an index reads it."""

    elementwise: ClassVar[bool] = False

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer):
        self.layers = _as_layers("Sequential", layers)

    def __getitem__(self, index: int | slice) -> Layer:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def shape(self, shape: Shape) -> Shape:
        for layer in self.layers:
            shape = layer.shape(shape)
        return shape

    def init(self, key: PRNGKeyArray, shape: Shape, *, dtype: Any = None) -> Params:
        params = []
        for layer, own in zip(self.layers, jax.random.split(key, max(len(self.layers), 1)), strict=False):
            params.append(layer.init(own, shape, dtype=dtype))
            shape = layer.shape(shape)
        return tuple(params)

    def apply(self, params: Params, x: Float[Array, "..."] | Masked, *, key: PRNGKeyArray | None = None) -> Any:
        for layer, own, k in zip(self.layers, params, _split(key, len(self.layers)), strict=False):
            x = layer.apply(own, x, key=k)
        return x

    def propagate(self, cov: Covariance) -> Covariance:
        for layer in self.layers:
            cov = behind(layer, cov)
        return cov

    def check(self, signal: Signal) -> Signal:
        for layer in self.layers:
            signal = layer.check(signal)
        return signal

    @property
    def local(self) -> bool:
        return all(layer.local for layer in self.layers)

    def exists(self, shape: Shape, mask: Mask) -> Mask | None:
        for layer in self.layers:
            mask = None if mask is None else layer.exists(shape, mask)
            shape = layer.shape(shape)
        return mask

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        for layer in self.layers:
            shape, frames = layer.shape(shape), layer.frames(shape, frames)
        return frames

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        inputs = []
        for layer in self.layers:
            inputs.append((shape, frames))
            shape, frames = layer.shape(shape), layer.frames(shape, frames)
        for layer, (shape, frames) in zip(reversed(self.layers), reversed(inputs), strict=True):
            wanted = layer.wanted(shape, frames, wanted)
        return wanted


class Branches(Layer):
    """Layers side by side that read the same input."""

    elementwise: ClassVar[bool] = False

    branches: eqx.AbstractVar[tuple[Layer, ...]]

    def init(self, key: PRNGKeyArray, shape: Shape, *, dtype: Any = None) -> Params:
        self.shape(shape)
        keys = jax.random.split(key, len(self.branches))
        return tuple(b.init(k, shape, dtype=dtype) for b, k in zip(self.branches, keys, strict=True))

    def apply(self, params: Params, x: Float[Array, "..."] | Masked, *, key: PRNGKeyArray | None = None) -> Any:
        keys = _split(key, len(self.branches))
        return joined(self._joined, [b.apply(p, x, key=k) for b, p, k in zip(self.branches, params, keys, strict=True)])

    def propagate(self, cov: Covariance) -> Covariance:
        return self.together([behind(branch, cov) for branch in self.branches])

    @abc.abstractmethod
    def _joined(self, outputs: list[Array]) -> Array:
        """The outputs of the branches, put together."""

    @abc.abstractmethod
    def together(self, laws: list[Covariance]) -> Covariance:
        """The law of what `_joined` makes, from those of the branches."""

    def exists(self, shape: Shape, mask: Mask) -> Mask | None:
        masks = [branch.exists(shape, mask) for branch in self.branches]
        return None if masks[0] is None else common(masks)

    @property
    def local(self) -> bool:
        return all(branch.local for branch in self.branches)

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        each = [branch.frames(shape, frames) for branch in self.branches]
        return tuple(axis[0] if len(set(axis)) == 1 else 0 for axis in zip(*each, strict=True))

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        each = [branch.wanted(shape, frames, wanted) for branch in self.branches]
        return tuple(np.unique(np.concatenate(axis)) for axis in zip(*each, strict=True))


class Sum(Branches):
    """The sum of branches that read the same input: covariances and tangent kernels add.

    At infinite width this needs branches that are independent given the input's covariance (all but one must contain a
    `Dense` with weights of their own) and whose cross moments vanish (all but one must have zero mean): a Gaussian
    branch may be added to an activation, two activations of non-zero mean may not.
    """

    branches: tuple[Layer, ...]

    def __init__(self, *branches: Layer):
        self.branches = _as_branches("Sum", branches)

    def shape(self, shape: Shape) -> Shape:
        return shape_of_branches("Sum", self.branches, shape)

    def _joined(self, outputs: list[Array]) -> Array:
        return sum(outputs[1:], outputs[0])

    def together(self, laws: list[Covariance]) -> Covariance:
        return _folded(add, laws)

    def check(self, signal: Signal) -> Signal:
        outs = independent_branches("Sum", self.branches, signal)
        names = " and ".join(f"`{b.name}`" for b in self.branches)
        if sum(not out.zero_mean for out in outs) > 1:
            raise InputError(
                f"`Sum` of {names}: at infinite width all branches but one must have zero mean, but "
                f"{sum(not out.zero_mean for out in outs)} have not (an activation, or the input itself). "
                "End a branch with a `Dense`, or use an odd activation."
            )
        return Signal(
            gaussian=all(out.gaussian for out in outs),
            zero_mean=all(out.zero_mean for out in outs),
            fresh=signal.fresh or all(out.fresh for out in outs),
            infinite=all(out.infinite for out in outs),
            source=f"`Sum` of {names}",
        )


class Product(Branches):
    """The product of branches that read the same input, channel by channel (gates).

    The branches must be independent given the input's covariance, as for `Sum`; then for any means

        K' = prod_i K_i,    Theta' = sum_i Theta_i prod_{j != i} K_j

    and the product of two Gaussian signals is not Gaussian: a `Dense` or `Conv` must come before an activation.
    """

    branches: tuple[Layer, ...]

    def __init__(self, *branches: Layer):
        self.branches = _as_branches("Product", branches)

    def shape(self, shape: Shape) -> Shape:
        return shape_of_branches("Product", self.branches, shape)

    def _joined(self, outputs: list[Array]) -> Array:
        total = outputs[0]
        for output in outputs[1:]:
            total = total * output
        return total

    def together(self, laws: list[Covariance]) -> Covariance:
        return _folded(multiply, laws)

    def check(self, signal: Signal) -> Signal:
        outs = independent_branches("Product", self.branches, signal)
        return Signal(
            gaussian=len(outs) == 1 and outs[0].gaussian,
            zero_mean=any(out.zero_mean for out in outs),
            fresh=signal.fresh or all(out.fresh for out in outs),
            infinite=all(out.infinite for out in outs),
            source="`Product`",
        )


class Concat(Branches):
    """The channels of all branches, one after the other.

    K' and Theta' are the means of those of the branches, weighted by their channels: their widths count, as in the
    finite network. Channels of different laws are not one Gaussian signal: a `Dense` or `Conv` must come before an
    activation; put activations into the branches.
    """

    branches: tuple[Layer, ...]

    def __init__(self, *branches: Layer):
        self.branches = _as_branches("Concat", branches)

    def shape(self, shape: Shape) -> Shape:
        shapes = [branch.shape(shape) for branch in self.branches]
        if len({each[:-1] for each in shapes}) > 1:
            raise InputError(
                f"The branches of `Concat` must agree in all axes but the channels; for inputs {shape} they are "
                f"{shapes}."
            )
        return (*shapes[0][:-1], sum(each[-1] for each in shapes))

    def _joined(self, outputs: list[Array]) -> Array:
        return jnp.concatenate(outputs, axis=-1)

    def together(self, laws: list[Covariance]) -> Covariance:
        width = sum(law.width for law in laws)

        def weighted(law: Covariance) -> Covariance:
            share = law.width / width
            return law.scale(share, share, share)

        return _folded(add, [through(weighted, law) for law in laws]).of_width(width)

    def check(self, signal: Signal) -> Signal:
        outs = [branch.check(signal) for branch in self.branches]
        return Signal(
            gaussian=len(outs) == 1 and outs[0].gaussian,
            zero_mean=all(out.zero_mean for out in outs),
            fresh=all(out.fresh for out in outs),
            infinite=all(out.infinite for out in outs),
            source="`Concat`",
        )


def _as_branches(owner: str, branches: tuple[Any, ...]) -> tuple[Layer, ...]:
    if not branches:
        raise InputError(f"`{owner}` needs at least one branch; got none.")
    return _as_layers(owner, branches)


def _folded(fn: Callable[[Covariance, Covariance], Covariance], laws: list[Covariance]) -> Covariance:
    total, *others = met(laws)
    for law in others:
        total = through(fn, total, law)
    return total


def shape_of_branches(owner: str, branches: tuple[Layer, ...], shape: Shape) -> Shape:
    shapes = [branch.shape(shape) for branch in branches]
    if len(set(shapes)) > 1:
        raise InputError(
            f"The branches of `{owner}` must have outputs of one shape; for inputs {shape} they are {shapes}."
        )
    return shapes[0]


def independent_branches(owner: str, branches: tuple[Layer, ...], signal: Signal) -> list[Signal]:
    """What the branches hand on, if they are independent given the input's covariance; else refused by name."""
    outs = [branch.check(signal.replace(fresh=False)) for branch in branches]
    names = " and ".join(f"`{b.name}`" for b in branches)
    if len({out.infinite for out in outs}) > 1:
        raise InputError(
            f"`{owner}` of {names}: a branch hands on the raw input, whose channels are finite in number, so that the "
            f"{owner.lower()} has no infinite reading. Put a `Dense` before the `{owner}`."
        )
    if sum(not out.fresh for out in outs) > 1:
        raise InputError(
            f"`{owner}` of {names}: at infinite width its branches must be independent, but more than one of them "
            "reads the shared input without weights of its own. Put a `Dense` into all branches but one."
        )
    return outs


def Residual(branch: Layer) -> Sum:
    """z' = z + branch(z). Equivalent to `Sum(Identity(), branch)`."""
    return Sum(Identity(), branch)
