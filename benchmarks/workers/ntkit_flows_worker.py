"""ntkit's predictions from kernel matrices, and LAPACK's eigendecomposition for scale."""

import importlib.metadata as metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import scipy.integrate
import scipy.linalg
from _serve import serve
from data import labels, normal, times

import ntkit
from ntkit import nn

NET = nn.mlp(3, 512, nn.Relu(), w_std=2**0.5)


def sides(n, m):
    """Examples, and both kernels of them."""
    x, x_test = (normal(k, 64, seed).astype(np.float64) for k, seed in ((n, 0), (m, 1)))
    return x, x_test, ntkit.gram(ntkit.Both(NET), x, progress=False)


def near(found, exact):
    return {"error": float(np.abs(found - exact).max() / np.abs(exact).max())}


def flow(n):
    x, x_test, both = sides(n, 1000)
    y, t, theta = labels(n), times(), ntkit.NTK(NET)

    def run():
        return ntkit.gradient_flow(theta, x, y, matrix=both.ntk, progress=False)(x_test, t)

    def check(found):
        values, vectors = scipy.linalg.eigh(both.ntk)
        cross = ntkit.gram(theta, x_test[:20], x, progress=False)
        factor = -np.expm1(-np.outer(t[[0, -1]], values) / n) / values
        return near(found[[0, -1], :20], np.stack([cross @ vectors @ (f[:, None] * (vectors.T @ y)) for f in factor]))

    return run, check


def eigh(n):
    matrix = sides(n, 1)[2].ntk
    return lambda: scipy.linalg.eigh(matrix), lambda found: {"error": 0.0}


def ensemble():
    n, m = 1024, 256
    x, x_test, both = sides(n, m)
    y, t = labels(n), times()[::10]

    def run():
        return ntkit.ensemble(NET, x, y, matrices=both, progress=False)(x_test, t)

    def check(found):
        values, vectors = scipy.linalg.eigh(both.ntk)
        cross = ntkit.gram(ntkit.Both(NET), x_test, x, progress=False)
        prior = ntkit.gram(ntkit.NNGP(NET), x_test, progress=False)
        b = cross.ntk @ vectors @ np.diag(-np.expm1(-t[-1] * values / n) / values) @ vectors.T
        return near(found.covariance[-1], prior - b @ cross.nngp.T - cross.nngp @ b.T + b @ both.nngp @ b.T)

    return run, check


def cross_entropy():
    n = 512
    x, _, both = sides(n, 1)
    y, theta = np.eye(10)[np.arange(n) % 10], ntkit.NTK(NET)

    def run():
        return ntkit.gradient_flow(theta, x, y, loss="cross-entropy", matrix=both.ntk, progress=False)(None, 100.0)

    def check(found):
        def slope(_, f):
            f = f.reshape(n, 10)
            p = np.exp(f - f.max(1, keepdims=True))
            return (-both.ntk @ (p / p.sum(1, keepdims=True) - y) / n).ravel()

        exact = scipy.integrate.solve_ivp(slope, (0, 100), np.zeros(10 * n), rtol=1e-9, atol=1e-11).y[:, -1]
        return near(found, exact.reshape(n, 10))

    return run, check


def posterior():
    n, m = 2048, 512
    x, x_test, both = sides(n, m)
    y, sigma = labels(n), ntkit.NNGP(NET)

    def run():
        return ntkit.posterior(sigma, x, y, noise=1e-3, matrix=both.nngp, progress=False)(x_test, covariance="full")

    def check(found):
        cross = ntkit.gram(sigma, x_test, x, progress=False)
        return near(found.mean, cross @ np.linalg.solve(both.nngp + 1e-3 * np.eye(n), y))

    return run, check


JOBS = {
    "flow-4096": lambda: flow(4096),
    "flow-2048": lambda: flow(2048),
    "eigh-4096": lambda: eigh(4096),
    "ensemble": ensemble,
    "cross-entropy": cross_entropy,
    "posterior": posterior,
}


def versions():
    return {name: metadata.version(name) for name in ("ntkit", "jax", "jaxlib", "numpy", "scipy", "diffrax")}


if __name__ == "__main__":
    serve(JOBS, versions)
