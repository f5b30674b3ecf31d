"""Expectations of a function with kinks under one variance, by Gauss's rule between the kinks, in JAX."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkit.nn._law import safe_sqrt


def integral(fn: Callable, places: tuple[float, ...], q: Array, power: int) -> Array:
    """E[fn^power] by panels between the kinks: for a square a sum of positive terms, as exact as the dtype."""
    z, weights = panels(places, q)
    return jnp.sum(weights * fn(safe_sqrt(q)[..., None] * z) ** power, axis=-1)


_EDGES = np.concatenate([[0.03, 0.1, 0.2, 0.35], np.arange(0.5, 8.6, 0.5)])


def panels(places: tuple[float, ...], q: Array) -> tuple[Array, Array]:
    """Nodes z and weights of E[f(s z)] along a last axis, for a function with these kinks."""
    s = safe_sqrt(q)[..., None]
    fixed = np.concatenate([-_EDGES[::-1], [0.0], _EDGES]).astype(q.dtype)
    end, reach = float(fixed[-1]), jnp.asarray(places, q.dtype)
    reach = reach.reshape((1,) * q.ndim + (-1,))
    crossed = s * end > jnp.abs(reach)
    kinks = jnp.where(crossed, reach / jnp.where(crossed, s, 1), end)
    ends = jnp.concatenate([jnp.broadcast_to(fixed, (*q.shape, len(fixed))), kinks], axis=-1)
    ends = jnp.sort(ends, axis=-1)
    x, w = np.polynomial.legendre.leggauss(12)
    low, width = ends[..., :-1, None], jnp.diff(ends, axis=-1)[..., None]
    part, share = ((y / 2).astype(q.dtype).reshape((1,) * (q.ndim + 1) + (-1,)) for y in (x + 1, w))
    z = (low + width * part).reshape(*q.shape, -1)
    weights = (width * share).reshape(*q.shape, -1) * jnp.exp(-z * z / 2) * (2 * np.pi) ** -0.5
    return z, weights
