"""`Sequential`, `Sum`, `Residual`, `Identity`: both readings agree, and the laws hold for what is built of them."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn

X = np.random.default_rng(5).standard_normal((4, 5))


def dense(width=24):
    return nn.Dense(width, 1.2, 0.3)


# Every nonlinearity here reads exactly Gaussian pre-activations, so the expectations are exact at width 24.
EXACT = {
    "pre-activation residual": (dense(), nn.Residual(nn.Sequential(nn.Relu(), dense())), dense(8)),
    "gaussian beside activation": (nn.Sum(dense(), nn.Sequential(dense(), nn.Gelu())), dense(8)),
    "two odd branches": (nn.Sum(nn.Sequential(dense(), nn.Erf()), nn.Sequential(dense(), nn.Sin())), dense(8)),
}
STACKS = {
    "pre-activation residual": EXACT["pre-activation residual"],
    "residual around dense and activation": (dense(), nn.Residual(nn.Sequential(dense(), nn.Relu())), dense(8)),
    "gaussian beside activation": (dense(), nn.Sum(dense(), nn.Gelu()), dense(8)),
}


@pytest.mark.parametrize("name", EXACT)
def test_sums_are_the_limit_of_their_finite_networks(name):
    laws.is_limit_of_finite(nn.Sequential(*EXACT[name]), X, 4000)


@pytest.mark.parametrize("name", STACKS)
def test_sums_obey_the_laws(name, x64):
    net = nn.Sequential(*STACKS[name])
    laws.is_kernel(ntkit.Both(net), laws.hard_rows())
    laws.has_finite_gradients(net, laws.hard_rows())


def test_a_residual_adds_covariances(x64):
    x = jnp.asarray(X)
    first = nn.Dense(8, 1.2, 0.3)
    plain = ntkit.kernels(first, x)
    both = ntkit.kernels(nn.Sequential(first, nn.Residual(nn.Dense(8, 0.5, 0.1))), x)
    np.testing.assert_allclose(both.nngp, 1.25 * plain.nngp + 0.01, rtol=1e-13)
    np.testing.assert_allclose(both.ntk, 1.25 * plain.ntk + 0.25 * plain.nngp + 0.01, rtol=1e-13)


def test_residual_is_a_sum_with_the_identity():
    branch = nn.Sequential(nn.Relu(), nn.Dense(4))
    residual = nn.Residual(branch)
    x = jax.random.normal(jax.random.key(0), (3, 4))
    params = residual.init(jax.random.key(1), x.shape)
    np.testing.assert_allclose(residual.apply(params, x), x + branch.apply(params[1], x), rtol=1e-6)


def test_sequential_nests_slices_and_counts(x64):
    x = jnp.asarray(X)
    net = nn.mlp(2, 8, nn.Relu(), w_std=1.3, b_std=0.2)
    assert len(net) == 5
    assert isinstance(net[1], nn.Relu)
    nested = nn.Sequential(net[:2], net[2:])
    for a, b in zip(ntkit.kernels(net, x), ntkit.kernels(nested, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_identity_changes_nothing(x64):
    x = jnp.asarray(X)
    net = nn.Sequential(nn.Identity(), nn.Dense(8), nn.Identity(), nn.Relu(), nn.Dense(1))
    for a, b in zip(ntkit.kernels(net, x), ntkit.kernels(nn.mlp(1, 8, nn.Relu()), x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parameters_of_equal_branches_are_drawn_independently():
    both = nn.Sum(nn.Dense(4), nn.Dense(4))
    a, b = both.init(jax.random.key(0), (1, 4))
    assert not np.allclose(a["w"], b["w"])
