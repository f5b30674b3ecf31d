"""What unequal variances alone cost: 1 - cos between phi(s1 z) and phi(s2 z), without a difference.

With g(s) = phi(s z) / N(s) it is E[(g(s1) - g(s2))^2] / 2. Of lengths a thousandth apart a difference of rounded
expectations leaves no digit of it. With h = ln(s1 / s2) / 2 and both deviations around s,

    2 h^2 E[(dg / d ln s)^2] - 2 / 3 |h|^3 sum_j b_j^2 |t_j|^3 / s p(t_j / s) / N^2 + O(h^4),

where p is the normal density and b_j the jump of phi' at t_j: what z passes that kink between s1 z and s2 z.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from ntkit.nn._law import safe_divide, safe_sqrt, size
from ntkit.nn.activations._moments import density, over
from ntkit.nn.activations._panels import panels

# The expansion is taken below this h, in units of eps^(1/4), where it and rounding err alike.
NEAR = 0.5
# And below TURN times that angle: functions that vanish around 0 turn fast at small variances.
TURN = 3.0


class Turning(NamedTuple):
    """How fast g turns with ln s at one variance: E[(dg / d ln s)^2], and the sum over the kinks."""

    speed: Array
    kinks: Array


def turning(fn: Callable, slope: Callable, bends: tuple[tuple[float, float], ...], q: Array) -> Turning:
    """Of a continuous function whose slope jumps at these (place, jump), for variances q of any shape."""
    places = tuple(place for place, _ in bends)
    s = safe_sqrt(q)
    z, weights = panels(places, q)
    x = s[..., None] * z
    value, push = fn(x), x * slope(x)
    square = jnp.sum(weights * value * value, axis=-1)
    # Of what underflows nothing is known.
    known = square > float(jnp.finfo(q.dtype).tiny) * 1e6
    safe = jnp.where(known, square, 1)
    growth = jnp.sum(weights * push * value, axis=-1) / safe
    speed = jnp.sum(weights * (push - growth[..., None] * value) ** 2, axis=-1) / safe
    kinks = jnp.zeros_like(q)
    for place, jump in bends:
        h = over(abs(place), s)
        kinks = kinks + jump * jump * place * place * h * density(h)
    return Turning(jnp.where(known, speed, jnp.inf), kinks / safe)


def cost(s1: Array, s2: Array, left: Turning, right: Turning) -> tuple[Array, Array]:
    """The formula above, and where it holds to the last digits; elsewhere it tells the order of what is small."""
    h = size(safe_divide(s1 - s2, s1 + s2))
    limit = NEAR * float(jnp.finfo(h.dtype).eps) ** 0.25
    speed, kinks = (left.speed + right.speed) / 2, (left.kinks + right.kinks) / 2
    holds = (h < limit) & (h * safe_sqrt(speed) < TURN * limit)
    speed = jnp.where(jnp.isfinite(speed), speed, 0)
    return jnp.maximum(2 * h * h * (speed - h * kinks / 3), 0), holds
