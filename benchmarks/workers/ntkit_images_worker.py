"""ntkit on images."""

import importlib.metadata as metadata
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
import numpy as np
from _serve import serve
from data import images, sample

import ntkit
from ntkit import nn

W = math.sqrt(2)


def plain(depth, end, activation=None):
    phi = nn.Relu() if activation is None else activation
    layers = [layer for _ in range(depth) for layer in (nn.Conv(512, (3, 3), W), phi)]
    return nn.Sequential(*layers, end, nn.Dense(1, W))


def gram(n, net):
    x1, x2 = images(n, 0), images(n, 1)
    theta = ntkit.NTK(net)

    def check(result):
        with jax.enable_x64(True):
            exact = np.asarray(jax.jit(theta)(jnp.asarray(x1[:1], jnp.float64), jnp.asarray(x2[:2], jnp.float64)))
        return {"sample": sample(result), "error": float(np.abs(result[:1, :2] / exact - 1).max())}

    return lambda: ntkit.gram(theta, x1, x2, progress=False), check


JOBS = {
    "cnn-5": lambda: gram(4, plain(5, nn.GlobalAvgPool())),
    "cnn-20": lambda: gram(2, plain(20, nn.GlobalAvgPool())),
    "myrtle-5": lambda: gram(4, nn.presets.myrtle(5)),
    "flatten-5": lambda: gram(64, plain(5, nn.Flatten())),
    "resnet-18": lambda: gram(2, nn.presets.resnet(18)),
    "cnn-5-gelu": lambda: gram(4, plain(5, nn.GlobalAvgPool(), nn.Gelu())),
    "cnn-5-tanh": lambda: gram(4, plain(5, nn.GlobalAvgPool(), nn.Tanh())),
}


def versions():
    return {name: metadata.version(name) for name in ("ntkit", "jax", "jaxlib", "numpy")}


if __name__ == "__main__":
    serve(JOBS, versions)
