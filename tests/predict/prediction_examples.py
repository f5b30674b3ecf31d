"""Small kernels and data for the tests of prediction; no network layer is needed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class RBF(eqx.Module):
    """scale^2 exp(-|x - y|^2 / (2 lengthscale^2)); both are leaves."""

    lengthscale: float
    scale: float = 1.0

    def __call__(self, x1, x2=None):
        x2 = x1 if x2 is None else x2
        square = jnp.sum((x1[:, None, :] - x2[None, :, :]) ** 2, axis=-1)
        return self.scale**2 * jnp.exp(-0.5 * square / self.lengthscale**2)

    def diagonal(self, x):
        return jnp.full(x.shape[:1], 1.0, x.dtype) * self.scale**2


class ReluPair(eqx.Module):
    """NNGP and NTK of one hidden ReLU layer, w_std = sqrt(2), by the arc-cosine formulas (Cho and Saul 2009)."""

    b_std: float = 0.3

    def __call__(self, x1, x2=None):
        x2 = x1 if x2 is None else x2
        b = self.b_std**2
        s = 2.0 * x1 @ x2.T / x1.shape[1] + b
        n1, n2 = (2.0 * jnp.sum(x * x, axis=1) / x.shape[1] + b for x in (x1, x2))
        norm = jnp.sqrt(n1[:, None] * n2[None, :])
        c = jnp.clip(s / norm, -1.0, 1.0)
        angle = jnp.arccos(c)
        k0 = (jnp.pi - angle) / jnp.pi
        k1 = (jnp.sqrt(1.0 - c * c) + (jnp.pi - angle) * c) / jnp.pi
        nngp = norm * k1 + b
        return nngp, nngp + s * k0

    def diagonal(self, x):
        n1 = 2.0 * jnp.sum(x * x, axis=1) / x.shape[1] + self.b_std**2
        return n1 + self.b_std**2, 2 * n1 + self.b_std**2


class SmoothPair(eqx.Module):
    """Two smooth kernels in the places of NNGP and NTK: for formulas that hold for any two."""

    def __call__(self, x1, x2=None):
        x2 = x1 if x2 is None else x2
        nngp = RBF(1.5)(x1, x2)
        return nngp, RBF(0.9, 1.3)(x1, x2) + 0.1 * (1.0 + x1 @ x2.T / x1.shape[1])

    def diagonal(self, x):
        return RBF(1.5).diagonal(x), RBF(0.9, 1.3).diagonal(x) + 0.1 * (1.0 + jnp.sum(x * x, axis=1) / x.shape[1])


class Indefinite(eqx.Module):
    """Minus a kernel: its smallest eigenvalue is negative."""

    def __call__(self, x1, x2=None):
        return -RBF(1.0)(x1, x2)

    def diagonal(self, x):
        return -RBF(1.0).diagonal(x)


def regression(n=30, m=7, d=3, outputs=None, seed=0):
    """(x, y, x_test): smooth labels with noise."""
    rng = np.random.default_rng(seed)
    x, x_test = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    shape = (n,) if outputs is None else (n, outputs)
    y = np.sin(x.sum(1)).reshape((n,) + (1,) * (len(shape) - 1)) + 0.3 * rng.normal(size=shape)
    return x, y, x_test


def tanh_network(params, x):
    """(n, 1) of one hidden layer."""
    return jnp.tanh(x @ params[0] / x.shape[1] ** 0.5) @ params[1] / params[1].shape[0] ** 0.5


def tanh_parameters(d=3, width=20):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (d, width)), jax.random.normal(keys[1], (width, 1))


def dense_rbf(x1, x2, lengthscale, scale=1.0):
    """The RBF in NumPy: the oracle does not share code with what is tested."""
    return scale**2 * np.exp(-0.5 * ((x1[:, None] - x2[None]) ** 2).sum(-1) / lengthscale**2)
