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


def by_jacobians(name):
    """As one writes it in JAX without a library: the Jacobian of all examples, multiplied with itself."""
    fn, params, x, _ = NETWORKS[name]()

    @jax.jit
    def kernel(x):
        rows = jax.vmap(jax.jacrev(lambda p, one: fn(p, one[None])[0]), (None, 0))(params, x)
        flat = [a.reshape(*a.shape[:2], -1) for a in jax.tree.leaves(rows)]
        return sum(jnp.einsum("iap,jbp->ijab", a, a) for a in flat)

    return lambda: jax.block_until_ready(kernel(x)), lambda k: {"sample": float(k.ravel()[0])}


def versions():
    return {name: metadata.version(name) for name in ("ntkit", "jax", "jaxlib", "numpy")}


if __name__ == "__main__":
    jobs = {name: lambda name=name: of(name) for name in NETWORKS}
    serve(jobs | {"cnn-by-jacobians": lambda: by_jacobians("empirical-cnn")}, versions)
