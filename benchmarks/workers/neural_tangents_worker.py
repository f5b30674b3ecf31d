"""neural-tangents 0.6.5 in its own environment. Its `experimental` subpackage would ask for TensorFlow."""

import importlib.metadata as metadata
import sys
import types
from functools import partial
from pathlib import Path

here = str(Path(__file__).parent)
sys.path = [here, *(p for p in sys.path if p not in ("", here))]
sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from _serve import serve  # noqa: E402
from data import normal, sample  # noqa: E402
from neural_tangents import stax  # noqa: E402

ACTIVATIONS = {
    "relu": stax.Relu,
    "tanh": lambda: stax.ElementwiseNumerical(jnp.tanh, deg=25),
    "elu": lambda: stax.ElementwiseNumerical(jax.nn.elu, deg=25),
}


def mlp(depth, activation):
    layers = [layer for _ in range(depth) for layer in (stax.Dense(512, W_std=2**0.5), ACTIVATIONS[activation]())]
    return stax.serial(*layers, stax.Dense(1, W_std=2**0.5))[2]


def ntk(n, depth, activation):
    x = jnp.asarray(normal(n, 784))
    kernel = jax.jit(partial(mlp(depth, activation), x2=None, get="ntk"))
    return lambda: jax.block_until_ready(kernel(x)), lambda k: {"sample": sample(k)}


JOBS = {
    "relu-3": lambda: ntk(4096, 3, "relu"),
    "relu-10": lambda: ntk(4096, 10, "relu"),
    "tanh-3": lambda: ntk(1024, 3, "tanh"),
    "elu-3": lambda: ntk(1024, 3, "elu"),
}


def versions():
    return {name: metadata.version(name) for name in ("neural-tangents", "jax", "jaxlib", "numpy")}


if __name__ == "__main__":
    serve(JOBS, versions)
