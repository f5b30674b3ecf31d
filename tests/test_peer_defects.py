"""What was seen to go wrong in other libraries with dense networks (numbers: see each test), and does not here."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn


def double(net, x):
    with jax.enable_x64(True):
        return [np.asarray(k) for k in jax.jit(ntkit.Both(net))(jnp.asarray(np.asarray(x, np.float64)))]


def test_import_needs_neither_tensorflow_nor_an_old_jax():
    code = (
        "import ntkit, sys; assert 'tensorflow' not in sys.modules; import jax; assert jax.__version_info__ >= (0, 10)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("fn", [lambda x: x**3 - x + 1], ids=["cubic"])
def test_polynomials_of_zero_rows_are_finite(fn, x64):
    # Peers: NaN for any zero row.
    net = nn.Sequential(nn.Dense(8, 1.2), nn.Activation(fn), nn.Dense(1))
    x = jnp.asarray(laws.hard_rows()[[0, 3, 4, 5, 6]])
    sigma, theta = ntkit.kernels(net, x)
    assert np.isfinite(theta).all()
    np.testing.assert_allclose(sigma[1, 1], fn(0.0) ** 2, atol=1e-9)
    np.testing.assert_array_equal(theta[1, 1], sigma[1, 1])  # the first layer sees nothing at a zero row


def test_a_rectified_monomial_has_a_finite_diagonal(x64):
    # Peers: NaN on the diagonal. E[relu(u)^4] = 3 q^2 / 2.
    net = nn.Sequential(nn.Dense(8), nn.Activation(lambda x: jnp.maximum(x, 0) ** 2), nn.Dense(1))
    x = jnp.asarray(laws.hard_rows()[[0, 4, 7]])
    q = np.mean(np.asarray(x) ** 2, 1)
    np.testing.assert_allclose(ntkit.NNGP(net).diagonal(x), 1.5 * q * q, rtol=1e-8)


@pytest.mark.parametrize("phi", [nn.Erf(), nn.Gaussian()], ids=lambda phi: phi.name)
@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_float32_at_large_input_scales(phi, scale):
    # Peers: Erf's NTK off by a factor 1.9, Gaussian's by 24 at 1e3; infinities at 1e4.
    x = (scale * np.random.default_rng(0).standard_normal((6, 20))).astype(np.float32)
    net = nn.mlp(2, 8, phi, w_std=1.4, b_std=0.1)
    for single, want in zip(jax.jit(ntkit.Both(net))(jnp.asarray(x)), double(net, x), strict=True):
        laws.close(np.asarray(single, np.float64), want, 1e-5, scale=laws.natural(want))


def test_the_diagonal_at_depth_10_in_float32():
    # Peers: off by 7e-4, through the formula of pairs.
    x = np.random.default_rng(0).standard_normal((6, 20)).astype(np.float32)
    net = nn.mlp(10, 8, nn.Relu(), w_std=2**0.5)
    theta, want = jax.jit(ntkit.NTK(net).diagonal)(jnp.asarray(x)), np.diag(double(net, x)[1])
    np.testing.assert_allclose(theta, want, rtol=1e-6)


def test_near_duplicates_stay_positive_definite_in_float32():
    # Peers: the smallest eigenvalue -8.6e-3 instead of +1.4e-3, and Cholesky returns NaN.
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((10, 20))
    x = np.concatenate([rows, rows[:1] + 1e-4 * rng.standard_normal((1, 20))]).astype(np.float32)
    net = nn.mlp(10, 8, nn.Relu(), w_std=2**0.5)
    single, want = np.asarray(jax.jit(ntkit.NTK(net))(jnp.asarray(x)), np.float64), double(net, x)[1]
    low, high = np.linalg.eigvalsh(want)[[0, -1]]
    assert abs(np.linalg.eigvalsh(single)[0] - low) <= 1e-5 * high
    assert low > 1e-5 * high  # so that Cholesky must succeed
    assert np.isfinite(np.linalg.cholesky(single)).all()


@pytest.mark.parametrize("fn, exact", [(jax.lax.erf, nn.Erf()), (jax.nn.relu, nn.Relu())], ids=["erf", "relu"])
def test_any_function_is_as_good_as_its_closed_form(fn, exact, x64):
    # Peers' quadrature: erf off by 1e-2 at variance 5 and correlation .99, the NTK of relu by a factor 4.6.
    q, rho = 5.0, 0.99
    law = [jnp.asarray(v) for v in (q, rho * q, q, (1 - rho) * q)]
    for got, want in zip(nn.Activation(fn).dual(*law), exact.dual(*law), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8)


def test_a_residual_around_an_activation_branch():
    # Peers: refused.
    net = nn.Sequential(nn.Dense(8), nn.Residual(nn.Sequential(nn.Relu(), nn.Dense(8))), nn.Relu(), nn.Dense(1))
    assert np.isfinite(ntkit.NTK(net)(jnp.ones((2, 3)))).all()


def test_relu_after_relu_is_refused_with_the_way_out():
    with pytest.raises(ntkit.InputError, match=r"follows `Relu`.*Put a `Dense` between"):
        ntkit.NTK(nn.Sequential(nn.Dense(8), nn.Relu(), nn.Relu(), nn.Dense(1)))


def test_the_rate_of_dropout_is_the_probability_to_drop(x64):
    # Peers: the probability to keep. 1 / (1 - .1) on the diagonal, not 1 / .1.
    net = nn.Sequential(nn.Dense(8), nn.Erf(), nn.Dropout(0.1), nn.Dense(1))
    plain = nn.Sequential(nn.Dense(8), nn.Erf(), nn.Dense(1))
    x = jnp.asarray(laws.hard_rows()[:2])
    np.testing.assert_allclose(ntkit.NTK(net).diagonal(x) / ntkit.NTK(plain).diagonal(x), 1 / 0.9, rtol=1e-13)


def test_two_branches_that_share_their_signal_are_refused():
    # Peers: a warning that independence is not verified, and a wrong kernel (2 K instead of 4 K).
    with pytest.raises(ntkit.InputError, match=r"independent"):
        ntkit.NTK(nn.Sequential(nn.Dense(8), nn.Sum(nn.Identity(), nn.Identity())))


def test_monte_carlo_sees_an_error_of_one_percent():
    # Peers compare at 4 to 8 percent. The law of tests/laws.py must refuse a w_std that is off by 1 percent (2 in
    # the kernel).
    x = np.random.default_rng(3).standard_normal((3, 5))
    right, wrong = (nn.Sequential(nn.Dense(64, 1.3, 0.2), nn.Relu(), nn.Dense(16, w)) for w in (1.0, 1.01))
    means = laws.monte_carlo(right, x, 6000)
    exact = ntkit.kernels(wrong, jnp.asarray(x, jnp.float32))
    assert any(np.any(np.abs(m - np.asarray(k)) > 5 * e) for (m, e), k in zip(means, exact, strict=True))


def test_a_nonlinearity_behind_global_pooling_sees_the_variance_of_the_pooled_image(x64):
    # Peers: the diagonal wrong by a factor two, .2126 in place of .1004, as the variance of a pixel is used in place
    # of that of the mean. The mean over all pairs of pixels of E[sign(u) sign(v)] = 2 / pi arcsin(cosine).
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = np.stack([padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)], 3).reshape(2, 16, 27)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    pooled = np.mean(2 / np.pi * np.arcsin(np.clip(rows @ rows.swapaxes(1, 2), -1, 1)), (1, 2))
    net = nn.Sequential(
        nn.Conv(64, (3, 3)), nn.Sign(), nn.GlobalAvgPool(), nn.Dense(64, 1.1), nn.Relu(), nn.Dense(1, 1.2)
    )
    kernel = ntkit.NNGP(net)
    want = 1.2**2 * 1.1**2 * pooled / 2
    np.testing.assert_allclose(kernel.diagonal(jnp.asarray(x)), want, rtol=1e-7)
    np.testing.assert_allclose(np.diag(kernel(jnp.asarray(x))), want, rtol=1e-7)

    def one(key):
        return net.apply(net.init(key, x.shape), jnp.asarray(x))[:, 0] ** 2

    samples = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(0), 4000)))
    error = samples.std(0) / np.sqrt(4000)
    assert np.all(np.abs(samples.mean(0) - want) <= 5 * error)
    assert np.all(error <= 0.05 * want)
