"""Time in gradient flow on the squared loss: how it is asked for, how fast each direction is, and what is learned."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkit.errors import InputError
from ntkit.linalg import Spectrum


class SingularKernelWarning(UserWarning):
    """Some directions of the labels are beyond the kernel's reach in floating point: they are never learned."""


class TimeScales(NamedTuple):
    """Of the training kernel: its extreme eigenvalues, how many are zero within rounding, and the slowest and fastest
    time scale n / (learning_rate (eigenvalue + noise)) among the others."""

    largest: float
    smallest: float
    null: int
    slowest: float
    fastest: float


def time_scales(spec: Spectrum, rate: float, noise: float = 0.0) -> TimeScales:
    values = np.asarray(spec.values)
    alive = values[values > spec.rounding] + noise
    scale = values.size / rate / alive if alive.size else np.array([np.inf])
    return TimeScales(
        float(values[-1]), spec.smallest, values.size - alive.size, float(scale.max()), float(scale.min())
    )


@jax.jit
def gain(values, rounding, noise, rate, time):
    """The eigenvalues of A_t: (1 - exp(-rate t (v + noise))) / (v + noise), with its limit rate t at zero."""
    v = values + noise
    positive = v > 0
    safe = jnp.where(positive, v, 1.0)
    finite = jnp.where(jnp.isinf(time), 0.0, time)
    during = jnp.where(positive, -jnp.expm1(-rate * finite * safe) / safe, rate * finite)
    # At infinity 1 / v would amplify the rounding of a null direction without bound.
    after = jnp.where((values > rounding) | (noise > 0), 1.0 / safe, 0.0)
    return jnp.where(jnp.isinf(time), after, during)


def parse_times(t: Any) -> np.ndarray:
    """Times as float64, a number or one axis; None is infinity."""
    times = np.asarray(np.inf if t is None else t)
    if times.dtype.kind not in "iuf" or times.ndim > 1:
        raise InputError(f"`t` must be a number, None or a one-dimensional array of times, but got {t!r}.")
    times = times.astype(np.float64)
    if times.size == 0 or np.isnan(times).any() or (times < 0).any():
        raise InputError(f"`t` must be times of zero or more (infinity is one), but got {t!r}.")
    return times
