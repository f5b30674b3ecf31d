"""Integrals over the angle from 0 to pi, of functions with singularities at the ends.

H. Takahasi and M. Mori, "Double exponential formulas for numerical integration", 1974: with

    theta(u) = pi / (1 + exp(-pi sinh u)),   d theta / du = theta (pi - theta) cosh u

the trapezoidal rule in u doubles the number of its digits when its step is halved, whatever powers or logarithms of the
distance the function has at 0 and pi. Halving keeps all nodes: the new ones lie between the old.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# |u| up to here: what is cut off, of a function as large as theta^(-1/2), is below 1e-18 of the integral.
_REACH = 4.0


class Nodes(NamedTuple):
    """`distance` (m,): of an angle from the nearer end, to full relative precision; `far`: whether that is pi;
    `weight`: d theta / du, to be multiplied with the step."""

    distance: Float[np.ndarray, " m"]
    far: Bool[np.ndarray, " m"]
    weight: Float[np.ndarray, " m"]


def step(level: int) -> float:
    return 0.5**level


def nodes(level: int, *, first: bool) -> Nodes:
    """Those of a step 2^-level; unless `first`, only those that the step before had not."""
    count = round(_REACH / step(level))
    number = np.arange(-count, count + 1)
    u = step(level) * (number if first else number[number % 2 == 1])
    distance = np.pi / (1 + np.exp(np.pi * np.sinh(np.abs(u))))
    return Nodes(distance, u > 0, distance * (np.pi - distance) * np.cosh(u))


def level_for(degree: int, dimension: int) -> int:
    """The first level at which the widest spacing is an angle of 1 / (degree + 1) at most, of six on each period of
    cos(degree theta), and as many of the width of sin(theta)^(dimension - 2)."""
    widest = (np.pi / 2) ** 2
    return max(5, int(np.ceil(np.log2(widest * (degree + 1 + dimension**0.5)))))
