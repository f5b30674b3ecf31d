"""The inputs of the benchmarks, the same bytes in every environment."""

import numpy as np


def normal(n, d, seed=0):
    """n rows of d independent standard normal entries, float32."""
    return np.random.RandomState(seed).standard_normal((n, d)).astype(np.float32)


def sample(matrix):
    """A few entries, to see that two systems computed the same thing."""
    m = np.asarray(matrix)
    return [float(m[0, 0]), float(m[0, 1]), float(m[-1, 0]), float(m[-1, -1])]


def images(n, seed):
    return np.random.default_rng(seed).standard_normal((n, 32, 32, 3)).astype(np.float32)


def labels(n, outputs=10):
    return np.sin(np.arange(n * outputs, dtype=np.float64)).reshape(n, outputs)


def times():
    return np.geomspace(0.1, 1e4, 50)
