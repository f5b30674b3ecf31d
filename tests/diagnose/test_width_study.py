"""Width studies: exact means where they are known, the rate of the central limit theorem, layers that add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ntkit
from ntkit import nn
from ntkit.diagnose._draws import _by_layer, at_once, kernels_of_draws, narrowed
from ntkit.diagnose.rates import fit
from ntkit.nn.widths import with_widths

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
WIDTHS, SEEDS = (32, 512), 151


def one_hidden(init="normal"):
    """The last layer's law is free: its weights enter squared. The first's is normal, so that its outputs are."""
    return nn.Sequential(nn.Dense(8, 1.4, 0.1), nn.Relu(), nn.Dense(1, 1.0, 0.1, init=init))


@pytest.fixture(scope="module")
def study():
    """Those of the last width in two pieces, the last one the smaller."""
    wide = with_widths(one_hidden(), WIDTHS[-1])
    budget = next(b for b in range(10**5, 10**8, 10**5) if at_once(wide, jnp.asarray(X), SEEDS, b) >= 80)
    assert at_once(wide, jnp.asarray(X), SEEDS, budget) < 150
    return ntkit.width_study(one_hidden("uniform"), X, WIDTHS, SEEDS, memory=budget)


@pytest.fixture(scope="module")
def random():
    laws = [scipy.stats.randint(2, 41), scipy.stats.randint(16, 161)]
    return ntkit.width_study(one_hidden("laplace"), X, laws, SEEDS)


def unbiased(mean, error, exact):
    assert error.max() <= 0.1 * exact.max()  # or the test would see nothing
    assert np.all(np.abs(mean - exact) <= 5 * error + 1e-5 * exact.max())


def test_the_mean_over_networks_with_one_hidden_layer_is_the_infinite_kernel(study):
    exact = np.asarray(ntkit.NTK(one_hidden())(X))
    np.testing.assert_allclose(study.infinite, exact)
    for mean, error in zip(study.mean, study.standard_error, strict=True):
        unbiased(mean, error, exact)


def test_so_it_is_at_random_widths(random):
    assert len(np.unique(random.drawn[0])) > 20
    assert random.drawn[0].min() >= 2
    assert random.drawn[0].max() <= 40
    for mean, error in zip(random.mean, random.standard_error, strict=True):
        unbiased(mean, error, random.infinite)


def test_so_it_is_for_weights_of_two_values():
    keys = jax.random.split(jax.random.key(1), 400)
    values = list(kernels_of_draws(one_hidden("rademacher"), jnp.asarray(X), keys, np.full((400, 1), 16), None))
    whole = np.concatenate(values).sum(axis=1)
    unbiased(whole.mean(0), whole.std(0) / 20, np.asarray(ntkit.NTK(one_hidden())(X), np.float64))


def test_the_rate_is_that_of_the_central_limit_theorem(study):
    for rate in (study.rate, *study.rate_by_layer):
        assert rate.standard_error < 0.03
        assert abs(rate.slope + 0.5) < 4 * rate.standard_error
    np.testing.assert_array_equal(study.widths, WIDTHS)


def test_random_widths_count_as_their_harmonic_mean(random):
    """E deviation^2 = v E[1 / m], whatever the law of m, so m_h E deviation^2 is one number."""
    np.testing.assert_allclose(random.widths, [scipy.stats.hmean(d.ravel()) for d in random.drawn])
    squares = random.widths[:, None] * random.deviations**2
    means, errors = squares.mean(axis=1), squares.std(axis=1) / np.sqrt(SEEDS)
    assert errors.max() < 0.25 * means.min()
    assert abs(means[0] - means[1]) < 5 * np.hypot(*errors)
    # At the arithmetic mean it would be off by more than that error allows.
    assert random.drawn[0].mean() / random.widths[0] > 1.3


def test_layers_add_up(study):
    assert study.layers == ("0 Dense", "2 Dense")
    np.testing.assert_allclose(study.infinite_by_layer.sum(axis=0), study.infinite, rtol=1e-6)
    np.testing.assert_allclose(study.mean_by_layer.sum(axis=1), study.mean, rtol=1e-6)
    assert (study.deviations <= study.deviations_by_layer.sum(axis=1) * (1 + 1e-5)).all()
    # By hand, with w_std = 1.4 before and 1 behind: what the last layer adds is the NNGP.
    nngp = np.asarray(ntkit.NNGP(one_hidden())(X))
    np.testing.assert_allclose(study.infinite_by_layer[1], nngp, rtol=1e-5)


def test_a_draw_can_be_had_again(study):
    """Its kernel by hand, of the last network of the last piece."""
    m, last = WIDTHS[-1], SEEDS - 1
    draw = jax.jit(lambda key: with_widths(one_hidden("uniform"), m).init(key, X.shape, dtype=jnp.float32))
    first, _, second = draw(jax.random.fold_in(jax.random.key(last), 1))
    x = X.astype(np.float64)
    z = 1.4 / 2 * x @ np.asarray(first["w"], np.float64) + 0.1 * np.asarray(first["b"])
    hidden, back = np.maximum(z, 0), (z > 0) * np.asarray(second["w"], np.float64)[:, 0]
    kernel = hidden @ hidden.T / m + 0.01 + back @ back.T / m * (1.4**2 / 4 * x @ x.T + 0.01)
    apart = np.linalg.norm(kernel - study.infinite) / np.linalg.norm(study.infinite)
    np.testing.assert_allclose(study.deviations[1, last], apart, rtol=1e-4)


def test_channels_left_out_are_as_if_they_were_not_there(x64):
    """Against the smaller network itself, through pixels, joined channels and biases."""
    trunk = nn.Sequential(nn.Conv(6, (3,), b_std=0.3), nn.Cos(), nn.Concat(nn.Identity(), nn.Identity()), nn.Flatten())
    net = nn.Sequential(trunk, nn.Dense(5, b_std=0.2), nn.Cos(), nn.Dense(2, b_std=0.1))
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((2, 4, 3)))
    shapes = jax.eval_shape(lambda key: net.init(key, x.shape), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), shapes)
    (conv, *rest), dense, cos, last = params
    less = {"w": dense["w"].reshape(8, 6, 5)[:, :4, :3].reshape(32, 3), "b": dense["b"][:3]}
    small = (({"w": conv["w"][..., :4], "b": conv["b"][:4]}, *rest), less, cos, {**last, "w": last["w"][:3]})
    expected = ntkit.EmpiricalNTK(with_widths(net, [4, 3]).apply, small)(x)
    came = ntkit.EmpiricalNTK(narrowed(net, jnp.array([4, 3])).apply, params)(x)
    np.testing.assert_allclose(came, expected, rtol=1e-12)


def test_the_fit():
    widths = np.array([10.0, 100.0, 1000.0])
    exact = fit(widths, 3 * widths[:, None] ** -0.5 * np.ones((3, 2)))
    np.testing.assert_allclose(exact, (-0.5, 0, 3), atol=1e-12)
    rng = np.random.default_rng(0)
    noise = rng.lognormal(0, 0.3, (400, 3, 5))
    fits = np.array([fit(widths, widths[:, None] ** -0.5 * one) for one in noise])
    spread = fits[:, 0].std()
    # The stated error is the scatter of the slopes, and scipy's.
    np.testing.assert_allclose(np.sqrt((fits[:, 1] ** 2).mean()), spread, rtol=5 / np.sqrt(2 * 400))
    scipys = scipy.stats.linregress(np.log(widths).repeat(5), np.log(widths[:, None] ** -0.5 * noise[0]).ravel())
    np.testing.assert_allclose(fits[0, :2], (scipys.slope, scipys.stderr))
    assert np.isnan(fit(widths, np.zeros((3, 2)))).all()


def test_bounds(study):
    bounds = study.bounds(delta=0.1)
    eps = bounds["Arora et al. 2019"]
    np.testing.assert_allclose(1**6 / eps**4 * np.log(1 / 0.1), WIDTHS)
    np.testing.assert_allclose(bounds["uniform, m^(-1/6)"] ** -6, WIDTHS)
    last = bounds["uniform, sqrt(d L log m / m)"]
    np.testing.assert_allclose(last, [np.sqrt(4 * 1 * np.log(m) / m) for m in WIDTHS])
    with pytest.raises(ntkit.InputError, match="delta"):
        study.bounds(1.5)
    assert "rate: width^(-0." in str(study)


NET = one_hidden()


@pytest.mark.parametrize(
    "net, widths, seeds, word",
    [
        (NET, [8, 0], 3, "positive whole"),
        (NET, [8, -1], 3, "positive whole"),
        (NET, [8, 16.0], 3, "positive whole"),
        (NET, 8, 3, "must be a list"),
        (NET, [8], 3, "at least two different"),
        (NET, [8, 8], 3, "at least two different"),
        (NET, [], 3, "at least two different"),
        (NET, [8, scipy.stats.norm(0, 1)], 3, r"widths\[1\]"),
        (NET, [8, 16], 0, "at least 2"),
        (NET, [8, 16], 1, "at least 2"),
        (NET, [8, 16], [], "at least 2"),
        (NET, [8, 16], [1, 1], "at least 2"),
        (NET, [8, 16], [0.5, 1], "`seeds`"),
        (nn.Dense(1), [8, 16], 3, "no hidden layer"),
        (nn.Sequential(nn.Dense(4), nn.Relu(), nn.Relu(), nn.Dense(1)), [8, 16], 3, "Gaussian"),
        (nn.mlp(1, 4, nn.Relu(), parameterization="standard"), [8, 16], 3, "standard"),
        (nn.Sequential(nn.Dense(4), nn.Dropout(0.5), nn.Dense(1)), [8, 16], 3, "Dropout"),
        (nn.Sequential(nn.Dense(4), nn.BatchNorm(), nn.Dense(1)), [8, 16], 3, "BatchNorm"),
        (nn.Sequential(nn.Dense(4), nn.LayerNorm(), nn.Dense(1)), [8, scipy.stats.randint(4, 9)], 3, "LayerNorm"),
        (nn.Sequential(nn.Dense(4, trainable=False), nn.Dense(1, trainable=False)), [8, 16], 3, "infinite NTK"),
        ("relu", [8, 16], 3, "`net`"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_refused(net, widths, seeds, word):
    with pytest.raises(ntkit.InputError, match=word):
        ntkit.width_study(net, X, widths, seeds)


@pytest.mark.parametrize("x", [X[:0], X.astype(int), X * np.nan, ntkit.Masked(X[:, None], np.ones((3, 1), bool))])
@pytest.mark.usefixtures("unchecked")
def test_wrong_examples_are_refused(x):
    with pytest.raises(ntkit.InputError, match="`x`"):
        ntkit.width_study(NET, x, [8, 16], 2)


def test_frozen_layers_are_left_out():
    net = nn.mlp(1, 8, nn.Relu(), fixed_layers=1)
    params = jax.eval_shape(lambda key: net.init(key, X.shape), jax.random.key(0))
    assert jax.eval_shape(lambda p: _by_layer(net, jnp.asarray(X), p, None), params).shape == (1, 3, 3)
