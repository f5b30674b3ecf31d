"""ntkit's empirical NTK of the networks in `finite`."""

import importlib.metadata as metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
import numpy as np
from _serve import serve
from finite import NETWORKS

import ntkit


def of(name):
    fn, params, x1, x2 = NETWORKS[name]()
    kernel = ntkit.EmpiricalNTK(fn, params, outputs="full")

    def check(result):
        few = [x if x is None else x[:4] for x in (x1, x2)]
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (params, few))
            exact = ntkit.EmpiricalNTK(fn, wide[0], outputs="full", method=ntkit.ByJacobian())(*wide[1])
        return {"error": float(np.abs(result[:4, :4] - exact).max() / np.abs(exact).max())}

    return lambda: jax.block_until_ready(kernel(x1, x2)), check


def versions():
    return {name: metadata.version(name) for name in ("ntkit", "jax", "jaxlib", "numpy")}


if __name__ == "__main__":
    serve({name: lambda name=name: of(name) for name in NETWORKS}, versions)
