"""`LayerNorm` and `Dropout` against their finite networks."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn

X = np.random.default_rng(4).standard_normal((4, 5)) * np.array([[0.3], [1.0], [2.0], [1.0]])


def test_layer_norm_is_the_limit_of_its_finite_networks():
    # The bias of normalising over n channels is of order 1 / n = 0.4 percent, well below the standard error of 300
    # networks.
    net = nn.Sequential(nn.Dense(256, 1.2, 0.3), nn.LayerNorm(), nn.Relu(), nn.Dense(8, 1.1))
    laws.is_limit_of_finite(net, X, 300, resolution=0.1)


def test_layer_norm_brings_every_row_to_variance_one(x64):
    net = nn.Sequential(nn.Dense(8, 3.0), nn.LayerNorm(eps=0.0))
    np.testing.assert_allclose(ntkit.NNGP(net).diagonal(jnp.asarray(X)), 1, rtol=1e-14)
    x = nn.LayerNorm(eps=0.0).apply((), jnp.asarray(X))
    np.testing.assert_allclose(np.mean(x, 1), 0, atol=1e-15)
    np.testing.assert_allclose(np.mean(x * x, 1), 1, rtol=1e-14)


def test_layer_norm_adds_eps_to_the_variance(x64):
    net = nn.Sequential(nn.Dense(8, 2.0), nn.LayerNorm(eps=0.5))
    x = jnp.asarray(X)
    q = 4 * np.mean(X * X, 1)
    want = 4 * X @ X.T / 5 / np.sqrt(np.outer(q + 0.5, q + 0.5))
    np.testing.assert_allclose(ntkit.NNGP(net)(x), want, rtol=1e-13)
    np.testing.assert_allclose(ntkit.NTK(net)(x), want, rtol=1e-13)


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_layer_norm_of_hard_rows_has_finite_gradients(eps, x64):
    net = nn.Sequential(nn.Dense(8, 1.2), nn.LayerNorm(eps=eps), nn.Relu(), nn.Dense(1))
    laws.has_finite_gradients(net, laws.hard_rows())


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_is_the_limit_of_its_finite_networks(rate):
    net = nn.Sequential(nn.Dense(32, 1.2, 0.3), nn.Relu(), nn.Dropout(rate), nn.Dense(8, 1.1, 0.1))
    laws.is_limit_of_finite(net, X, 6000, dropout=True)


def test_rate_is_the_probability_to_drop():
    x = jnp.ones((200, 500))
    y = np.asarray(nn.Dropout(0.2).apply((), x, key=jax.random.key(0)))
    assert abs((y == 0).mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / y.size)
    np.testing.assert_allclose(y[y > 0], 1 / 0.8, rtol=1e-6)


def test_without_a_key_nothing_is_dropped():
    x = jnp.ones((2, 3))
    assert nn.Dropout(0.2).apply((), x) is x


def test_dropout_grows_the_diagonal_alone(x64):
    x = jnp.asarray(X)
    with_, without = (nn.Sequential(nn.Dense(8), nn.Relu(), *extra, nn.Dense(1)) for extra in ((nn.Dropout(0.2),), ()))
    for a, b in zip(ntkit.kernels(with_, x), ntkit.kernels(without, x), strict=True):
        np.testing.assert_allclose(np.asarray(a) / np.asarray(b), 1 + 0.25 * np.eye(4), rtol=1e-12)


def test_dropout_followed_by_a_kink_sees_the_wider_angle(x64):
    # Two copies of a row are two examples with masks of their own: no longer parallel behind the layer.
    x = jnp.asarray(np.repeat(X[1:2], 2, 0))
    net = nn.Sequential(nn.Dense(8), nn.Relu(), nn.Dropout(0.5), nn.Dense(8), nn.Relu(), nn.Dense(1))
    k = np.asarray(ntkit.NNGP(net)(x))
    q = float(np.mean(X[1] ** 2)) / 2  # behind the first Relu; the diagonal is 2 q after dropout
    want = 2 * q / (2 * np.pi) * (np.sqrt(3) / 2 + (np.pi - np.pi / 3) / 2)
    np.testing.assert_allclose(k[0, 1], want, rtol=1e-12)


# Images, over channels and space

SIGNALS = np.random.default_rng(9).standard_normal((3, 5, 2)) * np.linspace(0.5, 2, 5)[:, None]
CONV = nn.Conv(8, (3,), 1.3, 0.2)


@pytest.mark.parametrize("front, eps", [([CONV], 0.5), ([CONV, nn.AvgPool((2,), 1)], 0.0)])
def test_layer_norm_over_space_divides_by_the_mean_variance_of_the_pixels(front, eps, x64):
    x = jnp.asarray(SIGNALS)
    q = np.asarray(ntkit.NNGP(nn.Sequential(*front, nn.Flatten())).diagonal(x)) + eps  # the mean over pixels
    got = ntkit.kernels(nn.Sequential(*front, nn.LayerNorm(eps, axis="all"), nn.GlobalAvgPool()), x)
    without = ntkit.kernels(nn.Sequential(*front, nn.GlobalAvgPool()), x)
    for a, b in zip(got, without, strict=True):
        np.testing.assert_allclose(a, np.asarray(b) / np.sqrt(np.outer(q, q)), rtol=1e-13)


def test_layer_norm_over_space_is_the_limit_of_its_finite_networks():
    net = nn.Sequential(
        nn.Conv(64, (3,), 1.2, 0.3), nn.LayerNorm(axis="all"), nn.Relu(), nn.Flatten(), nn.Dense(8, 1.1)
    )
    laws.is_limit_of_finite(net, SIGNALS, 300, resolution=0.1)


def test_layer_norm_over_space_of_hard_images(x64):
    a, b, _ = SIGNALS
    net = nn.Sequential(CONV, nn.LayerNorm(0.0, axis="all"), nn.Relu(), nn.Flatten())
    laws.has_finite_gradients(net, np.stack([0 * a, a, a, -a, b]), ntkit.NTK)


def test_rows_have_no_space(x64):
    nets = [nn.Sequential(nn.Dense(4, 1.2, 0.1), nn.LayerNorm(axis=axis), nn.Relu()) for axis in ("channels", "all")]
    rows, all_of_them = (ntkit.NTK(net)(jnp.asarray(X)) for net in nets)
    np.testing.assert_array_equal(rows, all_of_them)


@pytest.mark.usefixtures("unchecked")
def test_wrong_axes_are_refused():
    with pytest.raises(ntkit.InputError, match='`axis` of `LayerNorm` must be "channels" or "all"; got 1'):
        nn.LayerNorm(axis=1)
