"""The ways to the expectations of a function: each serves a family, and answers the same five questions."""

import abc
from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxtyping import Array, Float

from ntkit.nn.activations._base import Diagonal, Dual

Kinks = Literal["find"] | tuple[float, ...]

# float32 cannot resolve more: its series is cut here. float64 rounds by about this.
SINGLE, DOUBLE_ROUNDING = 7e-8, 1e-14


class Plan(NamedTuple):
    """What the tables of an activation are made from; equal plans share them."""

    fn: Callable
    derivative: Callable | None = None
    kinks: Kinks = ()
    tolerance: float = 1e-9
    variances: tuple[float, float] = (1e-2, 1e2)


class Road(abc.ABC):
    """The expectations of one function; see `Nonlinearity` for the first four, `Tabulated` for the last."""

    @abc.abstractmethod
    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual: ...

    @abc.abstractmethod
    def diagonal(self, q: Array) -> Diagonal: ...

    @abc.abstractmethod
    def variance(self, q: Array) -> Array: ...

    @abc.abstractmethod
    def mean(self, q: Array) -> Array: ...

    @abc.abstractmethod
    def error(self, q: Float[Array, "..."]) -> Float[Array, "..."]: ...
