"""A use of a weight: which activations and cotangents its gradient is made of, example by example.

Three kinds. `Dense`: the gradient is cotangents times activations, summed over tokens; convolutions too, over patches.
`Lookup`: the gradient is cotangents, added to the rows that an index names. `Entry`: the gradient is cotangents times
a factor,
summed over the axes along which the weight was broadcast.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the examples are in a tensor: along `axis`, whose size is n times `share`; slowest (`outer`) or fastest
    there."""

    axis: int
    share: int
    outer: bool = True

    def split(self, tensor: torch.Tensor) -> torch.Tensor:
        """(n, *shape), with `share` in the place of the axis."""
        n = tensor.shape[self.axis] // self.share
        if self.outer:
            return tensor.unflatten(self.axis, (n, self.share)).movedim(self.axis, 0)
        return tensor.unflatten(self.axis, (self.share, n)).movedim(self.axis + 1, 0)


@dataclasses.dataclass
class Use:
    """One use of `weight`. `name`: the parameter that `weight` is, up to transposing; None where it is computed from
    some."""

    weight: torch.Tensor
    name: str | None = dataclasses.field(default=None, init=False)
    transposed: bool = dataclasses.field(default=False, init=False)

    def allows(self, layout: Layout, ndim: int) -> bool:
        raise NotImplementedError

    def cotangents(self, grad: torch.Tensor, layout: Layout) -> torch.Tensor:
        """What is kept of the gradient by the output: (n, ...)."""
        raise NotImplementedError

    @property
    def examples(self) -> torch.Tensor | None:
        """What of the examples the gradient is made of, beside the cotangents."""
        raise NotImplementedError

    def with_examples(self, examples: torch.Tensor | None) -> "Use":
        """The same use of the same weight by other examples, whose cotangents are known."""
        raise NotImplementedError


@dataclasses.dataclass
class Dense(Use):
    """Activations (n, g, T, k), cotangents (n, g, f, T); the gradient is their product (n, g, f, k), as `form` orders
    it."""

    input: torch.Tensor
    form: "Form"

    def allows(self, layout: Layout, ndim: int) -> bool:
        return self.form.allows(layout, ndim)

    @property
    def examples(self) -> torch.Tensor:
        return self.input

    def with_examples(self, examples: torch.Tensor | None) -> Use:
        return _changed(self, "input", examples)

    def activations(self, layout: Layout) -> torch.Tensor:
        return self.form.activations(self.input, layout)

    def cotangents(self, grad: torch.Tensor, layout: Layout) -> torch.Tensor:
        return self.form.cotangents(grad, layout)

    def oriented(self, product: torch.Tensor) -> torch.Tensor:
        """(n, o, g, f, k) as (n, o, *parameter)."""
        n, o = product.shape[:2]
        shape = self.weight.shape
        out = self.form.oriented(product).reshape(n, o, *shape)
        return out.mT if self.transposed else out


@dataclasses.dataclass
class Lookup(Use):
    """Rows `index` (n, T) of a table; cotangents (n, T, width). Indices that get no gradient are -1."""

    index: torch.Tensor

    def allows(self, layout: Layout, ndim: int) -> bool:
        return layout.axis < ndim - 1

    @property
    def examples(self) -> torch.Tensor:
        return self.index

    def with_examples(self, examples: torch.Tensor | None) -> Use:
        return _changed(self, "index", examples)

    def rows(self, layout: Layout) -> torch.Tensor:
        return layout.split(self.index).flatten(1)

    def cotangents(self, grad: torch.Tensor, layout: Layout) -> torch.Tensor:
        return layout.split(grad).flatten(1, -2)


@dataclasses.dataclass
class Entry(Use):
    """Broadcast as `shape` against the output (or its part `part`: axis, start, length); `factor()` multiplies it
    there."""

    shape: tuple[int, ...]
    factor: Callable[[], torch.Tensor] | float = 1.0
    part: tuple[int, int, int] | None = None

    def allows(self, layout: Layout, ndim: int) -> bool:
        inside = self.part is None or self.part[0] != layout.axis
        return inside and self.shape[layout.axis] == 1

    @property
    def examples(self) -> None:
        return None

    def with_examples(self, examples: torch.Tensor | None) -> Use:
        return _changed(self, "factor", 1.0)  # cotangents are multiplied by it already

    def cotangents(self, grad: torch.Tensor, layout: Layout) -> torch.Tensor:
        """(n, *weight): already the gradient of each example."""
        if self.part is not None:
            grad = grad.narrow(*self.part)
        if callable(self.factor):
            grad = grad * self.factor()
        elif self.factor != 1.0:
            grad = grad * self.factor
        grad = layout.split(grad)
        axes = [i + 1 for i, size in enumerate(self.shape) if size == 1 and grad.shape[i + 1] != 1]
        grad = grad.sum(axes, keepdim=True) if axes else grad
        return grad.reshape(len(grad), *self.weight.shape)


def _changed(use: Use, field: str, value: Any) -> Use:
    use = copy.copy(use)
    setattr(use, field, value)
    return use


@dataclasses.dataclass
class Site:
    """The output of an operation that uses weights: its place in autograd's graph and its shape."""

    edge: torch.autograd.graph.GradientEdge
    shape: tuple[int, ...]
    uses: list[Use] = dataclasses.field(default_factory=list)


class Form:
    """How an operation is a product of matrices; see `Dense`."""

    def allows(self, layout: Layout, ndim: int) -> bool:
        raise NotImplementedError

    def activations(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        raise NotImplementedError

    def cotangents(self, grad: torch.Tensor, layout: Layout) -> torch.Tensor:
        raise NotImplementedError

    def oriented(self, product: torch.Tensor) -> torch.Tensor:
        """(..., g, f, k) as the weight's entries in order."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Matrix(Form):
    """x W (`rows_out=False`), x W^T (`rows_out=True`), or with `left` W x."""

    rows_out: bool
    left: bool = False

    def allows(self, layout: Layout, ndim: int) -> bool:
        return layout.axis != ndim - (2 if self.left else 1)

    def activations(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        x = layout.split(x)
        x = x.mT if self.left else x
        return x.reshape(len(x), 1, -1, x.shape[-1])

    def cotangents(self, grad: torch.Tensor, layout: Layout) -> torch.Tensor:
        grad = layout.split(grad)
        grad = grad.mT if self.left else grad
        return grad.reshape(len(grad), 1, -1, grad.shape[-1]).mT

    def oriented(self, product: torch.Tensor) -> torch.Tensor:
        return product if self.rows_out else product.mT


@dataclasses.dataclass(frozen=True)
class Convolution(Form):
    """Windows of `size`; `padding` has two numbers per axis. `transposed`: the windows are of the output, not of the
    input."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    spatial: tuple[int, ...]
    transposed: bool = False

    def allows(self, layout: Layout, ndim: int) -> bool:
        return layout.axis == 0

    def activations(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        return (self._plain(x, layout) if self.transposed else self._windows(x, layout)).mT

    def cotangents(self, grad: torch.Tensor, layout: Layout) -> torch.Tensor:
        return self._windows(grad, layout) if self.transposed else self._plain(grad, layout)

    def oriented(self, product: torch.Tensor) -> torch.Tensor:
        return product.mT if self.transposed else product

    def _plain(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        return self._grouped(x.flatten(2), layout)

    def _windows(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        return self._grouped(windows(x, self.size, self.stride, self.padding, self.dilation, self.spatial), layout)

    def _grouped(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        """(n share, channels, positions) as (n, g, channels / g, share positions)."""
        x = layout.split(x).unflatten(2, (self.groups, -1))
        return x.permute(0, 2, 3, 1, 4).flatten(3)


def windows(x, size, stride, padding, dilation, counts) -> torch.Tensor:
    """(n, c, *space) as (n, c prod(size), prod(counts)): what each position of a kernel sees at each place of the
    output."""
    if all(s == 1 for s in size) and all(s == 1 for s in stride) and not any(map(any, padding)):
        return x.flatten(2)
    if any(map(any, padding)):
        x = F.pad(x, [p for pair in reversed(padding) for p in pair])
    # Positions after the last window: a transposed convolution's output may lack them.
    short = [(c - 1) * s + (k - 1) * d + 1 - n for c, s, k, d, n in zip(counts, stride, size, dilation, x.shape[2:])]
    if any(s > 0 for s in short):
        x = F.pad(x, [p for s in reversed(short) for p in (0, max(s, 0))])
    x = x.contiguous()
    step = x.stride()[2:]
    strides = (*x.stride()[:2], *(a * d for a, d in zip(step, dilation)), *(a * s for a, s in zip(step, stride)))
    seen = x.as_strided((*x.shape[:2], *size, *counts), strides)
    channels, positions = x.shape[1], 1
    for k in size:
        channels *= k
    for c in counts:
        positions *= c
    return seen.reshape(len(x), channels, positions)
