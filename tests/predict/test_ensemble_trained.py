"""The closed form of the infinite ensemble against thousands of wide networks that were really trained."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn

WIDTH, NETWORKS, AT_ONCE = 1024, 3072, 256
STEPS, MARKS = 0.01, (100, 400)  # the learning rate in units of n / lambda_max, and after how many steps is looked
NET = nn.mlp(1, WIDTH, nn.Erf(), w_std=1.5, b_std=0.3)
X = np.random.default_rng(0).normal(size=(6, 2))
Y = np.array([1.0, -0.5, 0.8, -1.0])


@pytest.fixture(scope="module")
def rate():
    """Small steps, as the closed form is of gradient flow; (1 - s)^k beside exp(-s k) is below the errors."""
    largest = np.linalg.eigvalsh(np.asarray(ntkit.NTK(NET)(jnp.asarray(X[:4], jnp.float32))))[-1]
    return STEPS * 4 / float(largest)


@pytest.fixture(scope="module")
def trained(rate):
    """(networks, marks, 6): outputs at 4 training and 2 test examples, by full batches in float32."""
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)

    def cost(params):
        return jnp.sum((NET.apply(params, x[:4])[:, 0] - y) ** 2) / (2 * 4)

    def step(_, params):
        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(cost)(params))

    def one(params):
        found, done = [], 0
        for mark in MARKS:
            params = jax.lax.fori_loop(done, mark, step, params)
            found.append(NET.apply(params, x)[:, 0])
            done = mark
        return jnp.stack(found)

    @jax.jit
    def some(keys):
        return jax.vmap(one)(jax.lax.map(partial(NET.init, shape=x.shape, dtype=x.dtype), keys))

    keys = jax.random.split(jax.random.key(7), (NETWORKS // AT_ONCE, AT_ONCE))
    return np.concatenate([np.asarray(some(own), np.float64) for own in keys])


def apart(trained, mean, cov, mark):
    """The largest distances of mean and covariance, in standard errors of those of the networks."""
    f = trained[:, mark]
    centred = f - f.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    of_mean = f.std(axis=0, ddof=1) / math.sqrt(len(f))
    of_cov = products.std(axis=0, ddof=1) / math.sqrt(len(f))
    return np.max(np.abs(f.mean(axis=0) - mean) / of_mean), np.max(np.abs(products.mean(axis=0) - cov) / of_cov)


@pytest.mark.parametrize("mark", range(len(MARKS)))
def test_mean_and_covariance_are_those_of_trained_networks(trained, rate, mark, record_property):
    """Within 5 standard errors; and what is nearly right is told apart from it."""
    time = MARKS[mark] * rate
    ens = ntkit.ensemble(NET, X[:4], Y, progress=False)
    far = apart(trained, *ens(X, time), mark)
    record_property("standard errors, mean and covariance", [f"{z:.2f}" for z in far])
    assert max(far) < 5
    # The test can fail: other times, another NTK, and the covariance without training or of the posterior.
    prior = np.asarray(ntkit.NNGP(NET)(jnp.asarray(X, jnp.float32)), np.float64)
    assert max(apart(trained, *ens(X, 1.15 * time), mark)) > 5
    assert max(apart(trained, *ens(X, 0.85 * time), mark)) > 5
    assert apart(trained, ens(X, time).mean, prior, mark)[1] > 5
    other = nn.mlp(1, WIDTH, nn.Erf(), w_std=1.4, b_std=0.3)
    assert max(apart(trained, *ntkit.ensemble(other, X[:4], Y, progress=False)(X, time), mark)) > 5
    assert np.all(np.abs(ens(X, time).mean[:4] - Y) > 1e-3)  # a finite time: not at the end
