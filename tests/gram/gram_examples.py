"""Small kernels for the tests of Gram matrices; no network layer is needed."""

import time
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class Rbf(eqx.Module):
    """amplitude^2 exp(-|x - y|^2 / (2 d)); exact on the diagonal. Takes examples of any shape."""

    amplitude: float = 1.3

    def __call__(self, x1, x2=None):
        a = x1.reshape(len(x1), -1)
        b = a if x2 is None else x2.reshape(len(x2), -1)
        square = jnp.sum((a[:, None, :] - b[None, :, :]) ** 2, axis=-1)
        values = self.amplitude**2 * jnp.exp(-square / (2 * a.shape[1]))
        if x2 is None:  # a value of its own, so that a test sees who computed the diagonal
            values = jnp.where(jnp.eye(len(a), dtype=bool), self.diagonal(x1)[:, None], values)
        return values

    def diagonal(self, x):
        return jnp.full(len(x), 7.0, x.dtype)


def dense_rbf(x1, x2=None, amplitude=1.3):
    """The same in NumPy, float64."""
    a = np.asarray(x1, np.float64).reshape(len(x1), -1)
    b = a if x2 is None else np.asarray(x2, np.float64).reshape(len(x2), -1)
    values = amplitude**2 * np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * a.shape[1]))
    if x2 is None:
        np.fill_diagonal(values, 7.0)
    return values


class Pair(NamedTuple):
    one: jax.Array
    two: jax.Array


class Twice(eqx.Module):
    """A named tuple of two kernels."""

    kernel: Rbf

    def __call__(self, x1, x2=None):
        values = self.kernel(x1, x2)
        return Pair(values, 2 * values)

    def diagonal(self, x):
        return Pair(self.kernel.diagonal(x), 2 * self.kernel.diagonal(x))


class Slow(eqx.Module):
    """The RBF kernel, each tile of which takes `seconds`."""

    kernel: Rbf
    seconds: float = eqx.field(static=True)

    def __call__(self, x1, x2=None):
        def sleep(values):
            time.sleep(self.seconds)
            return np.asarray(values)

        values = self.kernel(x1, x2)
        return jax.pure_callback(sleep, jax.ShapeDtypeStruct(values.shape, values.dtype), values)

    def diagonal(self, x):
        return self.kernel.diagonal(x)


def examples(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
