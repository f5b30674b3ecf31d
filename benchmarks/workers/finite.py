"""Finite networks as plain JAX functions, the same for every system: parameters, inputs and fn(params, x)."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np


def dense(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ params[-1][0] + params[-1][1]


def convolutional(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    for w in params[:-1]:
        x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers))
    return x.mean((1, 2)) @ params[-1]


def mlp():
    """784-512-512-10 and twice 128 examples."""
    rng, sizes = np.random.default_rng(0), (784, 512, 512, 10)
    params = [(_normal(rng, (a, b), a), jnp.zeros(b)) for a, b in pairwise(sizes)]
    return dense, params, *(_normal(rng, (128, 784), 1) for _ in range(2))


def cnn():
    """Three convolutions of 32 channels, global pooling, and 32 images 32 x 32 x 3, with themselves."""
    rng, widths = np.random.default_rng(0), (3, 32, 32, 32)
    params = [_normal(rng, (3, 3, a, b), 9 * a) for a, b in pairwise(widths)]
    return convolutional, [*params, _normal(rng, (32, 10), 32)], _normal(rng, (32, 32, 32, 3), 1), None


def _normal(rng, shape, fan_in):
    return jnp.asarray(rng.standard_normal(shape) / fan_in**0.5, jnp.float32)


NETWORKS = {"empirical-mlp": mlp, "empirical-cnn": cnn}
