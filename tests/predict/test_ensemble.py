"""The infinite ensemble against matrix exponentials, an integrated flow, and formulas at the two ends of time."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from prediction_examples import Indefinite, ReluPair, SmoothPair, regression

import ntkit
from ntkit import nn
from ntkit.errors import ComputationError, InputError
from ntkit.predict import SingularKernelWarning, ensemble, one_hot


def dense(x_test, x, y, scaled_time, noise=0.0):
    """Mean and covariance by `scipy.linalg.expm` and a dense inverse; `scaled_time` = learning_rate t / n."""
    with jax.enable_x64(True):
        (k, theta), (kc, tc), (kt, _) = (
            [np.asarray(v) for v in SmoothPair()(jnp.asarray(a), jnp.asarray(b))]
            for a, b in ((x, x), (x_test, x), (x_test, x_test))
        )
    ridge = theta + noise * np.eye(len(x))
    learned = np.eye(len(x)) - (0 if np.isinf(scaled_time) else scipy.linalg.expm(-scaled_time * ridge))
    b = tc @ np.linalg.solve(ridge, learned)
    return b @ y, kt - b @ kc.T - kc @ b.T + b @ k @ b.T


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_mean_and_covariance_are_those_of_matrix_exponentials(outputs, noise):
    x, y, x_test = regression(n=15, outputs=outputs)
    ens = ensemble(SmoothPair(), x, y, learning_rate=0.7, noise=noise)
    times = [0.0, 0.1, 3.0, 40.0, 1e4, np.inf]
    means, covs = ens(x_test, times)
    assert means.shape == (6, 7) + y.shape[1:]
    assert covs.shape == (6, 7, 7)
    for time, got_mean, got_cov in zip(times, means, covs, strict=True):
        mean, cov = dense(x_test, x, y, 0.7 * time / len(x), noise)
        np.testing.assert_allclose(got_mean, mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(got_cov, cov, rtol=1e-8, atol=1e-10)
        one = ens(x_test, time, covariance="diagonal")
        np.testing.assert_allclose(one.mean, mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(one.covariance, np.diag(cov), rtol=1e-8, atol=1e-10)
    assert ens(x_test, 1.0, covariance=None).covariance is None
    np.testing.assert_array_equal(ens(x_test).mean, means[-1])


def test_mean_solves_the_stated_differential_equation():
    """d f(x_test) / dt = -(rate / n) Theta(x_test, x) (f(x) - y), from the zero function, integrated by scipy."""
    x, y, x_test = regression(n=8, m=3)
    with jax.enable_x64(True):
        theta = np.asarray(SmoothPair()(jnp.asarray(np.concatenate([x, x_test])), jnp.asarray(x))[1])

    def slope(_, f):
        return -(0.5 / 8) * theta @ (f[:8] - y)

    found = scipy.integrate.solve_ivp(slope, (0, 20.0), np.zeros(11), rtol=1e-11, atol=1e-12, method="DOP853")
    ens = ensemble(SmoothPair(), x, y, learning_rate=0.5)
    np.testing.assert_allclose(ens(x_test, 20.0).mean, found.y[8:, -1], rtol=1e-8)
    np.testing.assert_allclose(ens(None, 20.0).mean, found.y[:8, -1], rtol=1e-8)


def test_at_the_start_it_is_the_prior_and_at_the_end_it_has_learned_the_labels():
    x, y, x_test = regression(n=10)
    ens = ensemble(SmoothPair(), x, y)
    start = ens(x_test, 0.0)
    np.testing.assert_allclose(start.mean, 0.0, atol=1e-14)
    with jax.enable_x64(True):
        np.testing.assert_allclose(start.covariance, SmoothPair()(jnp.asarray(x_test))[0], rtol=1e-10, atol=1e-12)
    end = ens(x, np.inf)
    np.testing.assert_allclose(end.mean, y, rtol=1e-8)
    np.testing.assert_allclose(end.covariance, 0.0, atol=1e-9)


def test_a_network_gives_both_its_kernels():
    x, y, x_test = regression(n=10)
    net = nn.Sequential(nn.Dense(8, w_std=2**0.5, b_std=0.3), nn.Relu(), nn.Dense(1, w_std=1.0, b_std=0.3))
    ens = ensemble(net, x, y)
    got = ens(x_test, 5.0)
    want = ensemble(ntkit.Both(net), x, y)(x_test, 5.0)
    np.testing.assert_array_equal(got.mean, want.mean)
    with jax.enable_x64(True):
        theta = np.asarray(ntkit.NTK(net)(jnp.asarray(x)))
        cross = np.asarray(ntkit.NTK(net)(jnp.asarray(x_test), jnp.asarray(x)))
    mean = cross @ np.linalg.solve(theta, (np.eye(10) - scipy.linalg.expm(-theta * 5.0 / 10)) @ y)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-8)


def test_one_kernel_is_no_pair():
    x, y, _ = regression(n=4)
    net = nn.Sequential(nn.Dense(8), nn.Relu(), nn.Dense(1))
    with pytest.raises(InputError, match="NTK is one kernel"):
        ensemble(ntkit.NTK(net), x, y)


def test_matrices_at_hand_are_used():
    x, y, x_test = regression(n=9)
    with jax.enable_x64(True):
        pair = tuple(np.asarray(k) for k in SmoothPair()(jnp.asarray(x), jnp.asarray(x)))
    want, got = ensemble(SmoothPair(), x, y)(x_test, 3.0), ensemble(SmoothPair(), x, y, matrices=pair)(x_test, 3.0)
    np.testing.assert_allclose(got.mean, want.mean, rtol=1e-10)
    np.testing.assert_allclose(got.covariance, want.covariance, rtol=1e-8, atol=1e-12)
    # They are what is used: another NTK is another ensemble.
    other = ensemble(SmoothPair(), x, y, matrices=(pair[0], pair[1] + np.eye(9)))
    assert not np.allclose(other(x_test, 3.0).mean, want.mean)
    for wrong, words in ((pair[0], "must be the pair"), ((pair[0], pair[1][:-1]), "must have shape")):
        with pytest.raises(InputError, match=words):
            ensemble(SmoothPair(), x, y, matrices=wrong)


def test_samples_have_its_mean_and_covariance():
    x, y, x_test = regression(m=4)
    ens = ensemble(SmoothPair(), x, y)
    mean, cov = ens(x_test, 3.0)
    size = 20_000
    draws = ens.sample(jax.random.key(0), x_test, 3.0, size)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(np.diag(cov) / size))
    spread = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / size)
    assert np.all(np.abs(np.cov(draws.T) - cov) < 5 * spread)


@pytest.mark.parametrize("outputs", [None, 3])
def test_percentiles_are_those_of_samples(outputs):
    x, y, x_test = regression(n=10, m=2, outputs=outputs)
    ens = ensemble(SmoothPair(), x, y)
    q, size = np.array([10.0, 50.0, 90.0]), 20_000
    found = ens.percentiles(q, x_test, 3.0)
    assert found.shape == (3, 2) + y.shape[1:]
    drawn = ens.sample(jax.random.key(1), x_test, 3.0, size)
    # A share of q of the samples lies below the q-th percentile, within five standard errors.
    below = np.mean(drawn[None] < found[:, None], axis=1)
    share = (q / 100).reshape(-1, *(1,) * (below.ndim - 1))
    assert np.all(np.abs(below - share) < 5 * np.sqrt(share * (1 - share) / size))
    np.testing.assert_array_equal(ens.percentiles(50, x_test, [0.0, 3.0])[1], found[1])
    np.testing.assert_allclose(found[1], ens(x_test, 3.0).mean)


def test_classes_are_as_probable_as_among_samples():
    x, _, x_test = regression(n=12, m=3)
    labels = np.arange(12) % 3
    ens, size = ensemble(SmoothPair(), x, one_hot(labels).y), 20_000
    found = ens.probabilities(x_test, [0.0, 5.0])
    drawn = ens.sample(jax.random.key(2), x_test, 5.0, size).argmax(axis=2)
    share = np.stack([np.mean(drawn == c, axis=0) for c in range(3)], axis=1)
    assert np.ptp(share) > 0.3
    assert np.all(np.abs(share - found[1]) < 5 * np.sqrt(found[1] * (1 - found[1]) / size) + 1e-9)
    np.testing.assert_allclose(found[0], 1 / 3, rtol=1e-7)  # before training no class is preferred
    # At the training examples, without a variance, all networks agree.
    with pytest.warns(SingularKernelWarning) if ens.statistics.null else contextlib.nullcontext():
        assert np.all(ens.probabilities(None, 1e9).argmax(axis=1) == labels)


def test_a_temperature_that_calibrates():
    """Labels drawn from the ensemble's own probabilities with twice the variance ask for a temperature of two."""
    x, _, x_val = regression(n=12, m=400, seed=5)
    ens = ensemble(SmoothPair(), x, one_hot(np.arange(12) % 3).y)
    rng, p = np.random.default_rng(3), ens.probabilities(x_val, 5.0, temperature=2.0)
    index = np.array([rng.choice(3, p=row / row.sum()) for row in p])
    found = ens.calibrate(x_val, index, 5.0)
    assert 1.2 < found.temperature < 3.4
    assert found.negative_log_likelihood < found.uncalibrated


def test_bad_percentages_and_classes():
    x, y, x_test = regression(n=5, m=2)
    ens = ensemble(SmoothPair(), x, y)
    for q in (0, 100, [50, np.nan], "median", [[50]]):
        with pytest.raises(InputError, match="`q` must be percentages"):
            ens.percentiles(q, x_test)
    with pytest.raises(InputError, match="two or more classes"):
        ens.probabilities(x_test)
    with pytest.raises(InputError, match="one time"):
        ensemble(SmoothPair(), x, np.stack([y, y], 1)).calibrate(x_test, [0, 1], [1.0, 2.0])


def test_wide_networks_really_trained_follow_the_mean():
    """400 networks of one hidden layer of width 1024, trained by small steps of gradient descent on the stated loss."""
    x, y, x_test = regression(n=6, m=2)
    count, width, steps, step = 400, 1024, 100, 0.1
    mean, cov = ensemble(ReluPair(), x, y)(x_test, steps * step, covariance="diagonal")
    x, y, x_test = (jnp.asarray(a, jnp.float32) for a in (x, y, x_test))

    def apply(p, x):
        hidden = jax.nn.relu((2 / x.shape[1]) ** 0.5 * x @ p[0] + 0.3 * p[1][None])
        return (2 / width) ** 0.5 * hidden @ p[2] + 0.3 * p[3]

    def loss(p):
        return jnp.sum((apply(p, x) - y) ** 2) / (2 * len(y))

    def train(key):
        shapes = [(x.shape[1], width), (width,), (width,), ()]
        keys = jax.random.split(key, 4)
        p = tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=True))
        p = jax.lax.fori_loop(0, steps, lambda _, p: jax.tree.map(lambda v, g: v - step * g, p, jax.grad(loss)(p)), p)
        return apply(p, x_test)

    outputs = np.asarray(jax.jit(lambda keys: jax.lax.map(train, keys))(jax.random.split(jax.random.key(1), count)))
    assert np.all(np.abs(outputs.mean(0) - mean) < 5 * np.sqrt(cov / count))
    # The variance of a sample variance of Gaussians is 2 cov^2 / count.
    assert np.all(np.abs(outputs.var(0, ddof=1) - cov) < 5 * cov * np.sqrt(2 / count))


def test_directions_out_of_reach_are_announced():
    x, y, x_test = regression(n=10)
    ens = ensemble(ReluPair(), np.concatenate([x, x[:2]]), np.concatenate([y, y[:2] + 1.0]))
    assert ens.statistics.null == 2
    with pytest.warns(SingularKernelWarning, match="2 of the 12 eigenvalues"):
        mean = ens(x, np.inf).mean
    np.testing.assert_allclose(mean[2:], y[2:], rtol=1e-7)
    np.testing.assert_allclose(mean[:2], y[:2] + 0.5, rtol=1e-7)
    ens(x_test, 10.0)
    ensemble(ReluPair(), np.concatenate([x, x]), np.concatenate([y, y]), noise=0.1)(x_test)


class IndefinitePair(Indefinite):
    def __call__(self, x1, x2=None):
        k = Indefinite.__call__(self, x1, x2)
        return k, k


def test_bad_input_is_refused_by_name():
    x, y, x_test = regression()
    ens = ensemble(ReluPair(), x, y)
    for t in (-1.0, np.nan, [1.0, -2.0], [], [[1.0]], "late"):
        with pytest.raises(InputError, match="`t` must be"):
            ens(x_test, t)
    with pytest.raises(InputError, match="`t` must be one time"):
        ens.sample(jax.random.key(0), x_test, [1.0, 2.0])
    with pytest.raises(InputError, match="`covariance`"):
        ens(x_test, 1.0, covariance="all")
    with pytest.raises(InputError, match="`x_test`"):
        ens(x_test[:, :1], 1.0)
    with pytest.raises(InputError, match="`y`"):
        ensemble(ReluPair(), x, y[:-1])
    with pytest.raises(InputError, match=r"`learning_rate` must be finite and positive, but got 0\.0\.$"):
        ensemble(ReluPair(), x, y, learning_rate=0.0)
    with pytest.raises(InputError, match="`noise`"):
        ensemble(ReluPair(), x, y, noise=-0.1)
    with pytest.raises(InputError, match="`net`"):
        ensemble("net", x, y)
    with pytest.raises(ComputationError, match="NTK of 30 examples is not positive semi-definite"):
        ensemble(IndefinitePair(), x, y)
