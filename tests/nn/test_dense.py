"""`Dense`: its infinite reading against its own finite networks, in both parameterizations, for every law of
weights."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.errors import InputError

X = np.random.default_rng(3).standard_normal((4, 5))


@pytest.mark.parametrize(
    "parameterization, b_std, frozen",
    [("ntk", 0.4, ()), ("standard", 0.4, ()), ("standard", 0.0, (0,)), ("standard", 0.4, (1,))],
)
def test_kernels_are_the_means_of_finite_networks(parameterization, b_std, frozen):
    first, second = (
        nn.Dense(w, 1.3, b_std, parameterization=parameterization, trainable=i not in frozen)
        for i, w in enumerate((64, 8))
    )
    laws.is_limit_of_finite(nn.Sequential(first, nn.Relu(), second), X[:3], 6000)


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_a_single_layer_has_the_kernel_of_its_jacobian_exactly(parameterization, x64):
    # J = x / sqrt(d) w_std for the weights and b_std for the bias, whatever the draw.
    net = nn.Dense(2, 1.3, 0.4, parameterization=parameterization)
    x = jnp.asarray(X)
    jacobian = jax.jacrev(lambda p: net.apply(p, x)[:, 0])(net.init(jax.random.key(0), x.shape))
    flat = np.concatenate([np.reshape(j, (len(X), -1)) for j in jax.tree.leaves(jacobian)], axis=1)
    np.testing.assert_allclose(ntkit.NTK(net)(x), flat @ flat.T, rtol=1e-13)


def test_a_frozen_layer_has_no_gradient_and_no_term(x64):
    x = jnp.asarray(X)
    net = nn.Sequential(nn.Dense(6, 1.2, trainable=False), nn.Relu(), nn.Dense(1, 0.9, 0.1))
    params = net.init(jax.random.key(0), x.shape)
    frozen, _, free = jax.grad(lambda p: jnp.sum(net.apply(p, x)))(params)
    assert not np.any(frozen["w"])
    assert np.any(free["w"])
    # Theta of a random-features model is its NNGP; both frozen: nothing is left.
    np.testing.assert_allclose(ntkit.NTK(net)(x), ntkit.NNGP(net)(x), rtol=1e-14)
    still = nn.Sequential(nn.Dense(6, trainable=False), nn.Relu(), nn.Dense(1, trainable=False))
    assert not np.any(ntkit.NTK(still)(x))


@pytest.mark.parametrize("init", ["normal", "uniform", "rademacher", "laplace"])
def test_laws_of_weights_have_mean_0_and_variance_1(init):
    layer = nn.Dense(1000, 2.0, 3.0, init=init)
    for name, values in layer.init(jax.random.key(1), (1, 400)).items():
        w, n = np.asarray(values, np.float64).ravel(), values.size
        fourth = max(np.mean(w**4) - 1, 1.0)
        assert abs(w.mean()) < 5 / np.sqrt(n), name
        assert abs(np.mean(w * w) - 1) < 5 * np.sqrt(fourth / n), name


def pair_of_relus(init, features, units, seed=0):
    """Monte Carlo mean and standard error of E[relu(u) relu(v)] over hidden units, for two dense rows at 60 degrees."""
    half = np.ones((2, features), np.float32)
    half[1, : features // 4] = -1  # cosine 1/2
    layer = nn.Dense(units, init=init)
    hidden = layer.apply(layer.init(jax.random.key(seed), half.shape), jnp.asarray(half))
    products = np.prod(np.maximum(np.asarray(hidden, np.float64), 0), axis=0)
    return half, products.mean(), products.std() / np.sqrt(units)


@pytest.mark.parametrize("init", ["normal", "uniform", "rademacher", "laplace"])
def test_every_law_of_weights_gets_to_the_same_limit(init):
    # By Edgeworth the bias is of order 1 / features, 1/512 of the value here: below the standard error.
    half, mean, error = pair_of_relus(init, 512, 50_000)
    exact = float(nn.Relu().dual(*map(jnp.asarray, (1.0, 0.5, 1.0, 0.5))).value)
    assert 1 / 512 * exact < error < 0.015 * exact
    assert abs(mean - exact) < 5 * error
    # The kernel sees no law at all.
    net = nn.Sequential(nn.Dense(8, init=init), nn.Relu(), nn.Dense(1, init=init))
    np.testing.assert_allclose(ntkit.NNGP(net)(half)[0, 1], exact, rtol=2e-6)


def test_far_from_the_limit_the_law_of_the_weights_shows():
    # Else the test above could not fail: with 4 features Rademacher weights are 100 standard errors off.
    _, mean, error = pair_of_relus("rademacher", 4, 50_000)
    exact = float(nn.Relu().dual(*map(jnp.asarray, (1.0, 0.5, 1.0, 0.5))).value)
    assert abs(mean - exact) > 10 * error


def test_leaves_are_the_standard_deviations():
    net = nn.Sequential(nn.Dense(4, 1.5, 0.2), nn.Relu(), nn.Dense(1, 0.7))
    assert jax.tree.leaves(net)[:2] == [1.5, 0.2]
    assert {0.7, 0.0} <= set(jax.tree.leaves(net))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", ["1", None, -0.5, np.nan, np.inf, True, 1j, np.float32(-1), np.array(-1.0), [1.0]])
@pytest.mark.parametrize("name", ["w_std", "b_std"])
def test_a_deviation_is_a_finite_number_that_is_not_negative(name, value):
    with pytest.raises(InputError, match=f"`{name}` of `Dense` must be a finite number >= 0"):
        nn.Dense(4, **{name: value})
    with pytest.raises(InputError, match=f"`{name}`"):
        nn.Dense(4, **{name: jnp.asarray(-1.0)})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("width", [0, -1, 4.0, "4", None, True, np.float64(4)])
def test_a_width_is_a_positive_whole_number(width):
    with pytest.raises(InputError, match="`width` of `Dense` must be a positive whole number"):
        nn.Dense(width)


def test_traced_deviations_and_arrays_are_taken():
    grad = jax.grad(lambda w: ntkit.NTK(nn.Dense(1, w, jnp.asarray(0.1)))(jnp.asarray(X)).sum())(1.3)
    assert np.isfinite(grad)
