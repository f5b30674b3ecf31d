"""`Sequential`, `Sum`, `Residual`, `Identity`: both readings agree, and the laws hold for what is built of them."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.errors import InputError

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


BRANCHES = {
    "product": lambda: nn.Product(
        nn.Sequential(nn.Dense(16, 1.3, 0.2), nn.Relu()), nn.Sequential(nn.Dense(16, 1.1), nn.Relu())
    ),
    "concat": lambda: nn.Concat(nn.Sequential(nn.Dense(8, 1.3, 0.2), nn.Relu()), nn.Dense(24, 1.1, 0.3)),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_products_and_channels_side_by_side_are_limits_of_finite_networks(name):
    laws.is_limit_of_finite(nn.Sequential(BRANCHES[name](), nn.Dense(4, 1.1)), X[:3], 6000)


@pytest.mark.parametrize("name", BRANCHES)
def test_the_gaps_of_products_and_concatenations_are_their_own(name, x64):
    # Behind a kink the gap decides: nearly parallel rows, against the same kernel by way of its plain numbers.
    x = np.stack([X[0], X[0] + 1e-6 * X[1], X[1]])
    kernel = ntkit.Both(nn.Sequential(BRANCHES[name](), nn.Dense(4, 1.1, 0.1), nn.Relu(), nn.Dense(1)))
    laws.is_kernel(kernel, x)


@pytest.mark.parametrize("owner", [nn.Product, nn.Concat])
def test_an_activation_straight_behind_unlike_channels_is_refused(owner):
    net = nn.Sequential(nn.Dense(8), owner(nn.Dense(8), nn.Sequential(nn.Relu(), nn.Dense(8))), nn.Relu(), nn.Dense(1))
    with pytest.raises(InputError, match=f"follows `{owner.__name__}`"):
        ntkit.NTK(net)


def test_a_product_of_two_readings_of_one_signal_is_refused():
    with pytest.raises(InputError, match="must be independent"):
        ntkit.NTK(nn.Sequential(nn.Dense(8), nn.Product(nn.Relu(), nn.Erf()), nn.Dense(1)))
    with pytest.raises(InputError, match="must agree in all axes but the channels"):
        nn.Concat(nn.Conv(8, (3, 3)), nn.Conv(8, (3, 3), strides=2)).shape((1, 8, 8, 3))
