"""What a layer is: one object with a finite and an infinite reading, and the signal whose nature decides legality."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.errors import InputError
from ntkit.nn._law import Covariance
from ntkit.nn._masks import Mask, Masked

Params = Any
Shape = tuple[int, ...]
Frames = tuple[int, ...]
Displacements = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Signal:
    """What is known of a signal before any data is seen; flows forwards over the tree when a kernel is built.

    `gaussian`: at infinite width each channel is Gaussian, given the covariance. `zero_mean`: its mean is 0 for every
    variance. `fresh`: weights not shared with any other branch stand between it and the input of the branch, so it is
    independent of it. `infinite`: it has infinitely many channels (the raw data has not). `source`: who made it.
    """

    gaussian: bool
    zero_mean: bool
    fresh: bool
    infinite: bool
    source: str

    @staticmethod
    def data() -> "Signal":
        return Signal(gaussian=False, zero_mean=False, fresh=False, infinite=False, source="the input")

    def replace(self, **changes: Any) -> "Signal":
        return dataclasses.replace(self, **changes)


class Layer(eqx.Module):
    """A layer of a network, with two readings: `init` and `apply` (finite), `propagate` (infinitely wide).

    `elementwise`: it treats every pixel alike, and its `propagate` is written for the numbers of one pair of pixels.
    `exits`: behind it there are no pixels. `intermediates`: how many arrays of the size of the pairs its `propagate`
    works on at a time, about, counted in those of a closed form.
    """

    elementwise: ClassVar[bool] = True
    exits: ClassVar[bool] = False
    intermediates: ClassVar[int] = 1

    @abc.abstractmethod
    def shape(self, shape: Shape) -> Shape:
        """The shape of the output, batch axis first, for inputs of a shape."""

    def init(self, key: PRNGKeyArray, shape: Shape, *, dtype: Any = None) -> Params:
        """Draw the parameters for inputs of shape (n, ..., channels). `dtype` defaults to JAX's default float."""
        return ()

    @abc.abstractmethod
    def apply(self, params: Params, x: Float[Array, "..."] | Masked, *, key: PRNGKeyArray | None = None) -> Any:
        """Run the finite network on a batch; of `Masked` it is `Masked` while there are pixels, then an array. `key`
        drives what is random in the forward pass (`Dropout`); without a key nothing is. Layers that are not made of
        layers write it for arrays, and `on_existing` does the rest."""

    @abc.abstractmethod
    def propagate(self, cov: Covariance) -> Covariance:
        """The law of a pair behind the layer, from the law before it, when all hidden widths are infinite."""

    @abc.abstractmethod
    def check(self, signal: Signal) -> Signal:
        """The nature of the output; raises `ntkit.InputError` where the infinite reading does not exist."""

    def narrower(self, dtype: Any) -> "tuple[tuple[float, Layer], ...]":
        """Layers that do the same to pixels of variances up to a limit, each with its limit, growing, for less."""
        return ()

    @property
    def local(self) -> bool:
        """Whether each displacement of its output is read from one displacement of its input: see `_planes`."""
        return True

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        """The frames of its output for those of its input of a shape; 0 on an axis where it cannot be run so."""
        return frames

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        """The displacements of its input, of a shape and in frames, that those of its output are made of."""
        return wanted

    def exists(self, shape: Shape, mask: Mask) -> Mask | None:
        """Which pixels of its output exist, for those of its input of a shape; None where there are no pixels left.
        Masks may lack the batch axis."""
        if self.elementwise:
            return mask
        raise InputError(f"`{self.name}` takes no masks. Use images of one size, without a mask.")

    @property
    def name(self) -> str:
        return type(self).__name__
