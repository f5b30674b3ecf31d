"""ntkit, and JAX's own matrix product for scale."""

import importlib.metadata as metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
import numpy as np
from _serve import serve
from data import normal, sample

import ntkit
from ntkit import nn

ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "elu": "Elu"}


def network(depth, activation, b_std=0.0):
    return nn.mlp(depth, 512, getattr(nn, ACTIVATIONS[activation])(), w_std=2**0.5, b_std=b_std)


def gram(n, depth, activation, b_std=0.0):
    x, theta = normal(n, 784), ntkit.NTK(network(depth, activation, b_std))

    def check(result):
        head = x[:256]
        with jax.enable_x64(True):
            exact = np.asarray(jax.jit(theta)(jnp.asarray(head, jnp.float64)))
        scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
        return {"sample": sample(result), "error": float((np.abs(result[:256, :256] - exact) / scale).max())}

    return lambda: ntkit.gram(theta, x, progress=False), check


def product(n):
    x = jnp.asarray(normal(n, 784))
    f = jax.jit(lambda x: x @ x.T)
    return lambda: jax.block_until_ready(f(x)), lambda k: {"sample": sample(k)}


def scikit_ntk(n, depth):
    from skntk import NeuralTangentKernel

    x = normal(n, 784)
    kernel = NeuralTangentKernel(depth, bias=0.0)
    return lambda: kernel(x), lambda k: {"sample": sample(k)}


JOBS = {
    "relu-3": lambda: gram(4096, 3, "relu"),
    "relu-10": lambda: gram(4096, 10, "relu"),
    "relu-10-bias": lambda: gram(4096, 10, "relu", 0.1),
    "tanh-3": lambda: gram(1024, 3, "tanh"),
    "elu-3": lambda: gram(1024, 3, "elu"),
    "product": lambda: product(4096),
    "scikit-ntk-3": lambda: scikit_ntk(4096, 3),
}


def versions():
    names = ("ntkit", "jax", "jaxlib", "numpy", "scikit-ntk")
    return {name: metadata.version(name) for name in names}


if __name__ == "__main__":
    serve(JOBS, versions)
