"""The posterior against dense solves, refits and scikit-learn."""

import re

import jax
import numpy as np
import pytest
import scipy.stats
from prediction_examples import RBF, Indefinite, dense_rbf, regression
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF as SklearnRBF

from ntkit.errors import ComputationError, InputError
from ntkit.predict import CG, Cholesky, JitterWarning, posterior


@pytest.mark.parametrize("outputs", [None, 1, 3])
@pytest.mark.parametrize("method", ["cholesky", CG(rtol=1e-12), CG(rtol=1e-12, rank=0), CG(rtol=1e-12, block=8)])
def test_mean_and_covariance_are_the_dense_formulas(outputs, method):
    x, y, x_test = regression(outputs=outputs)
    post = posterior(RBF(1.3, 0.8), x, y, noise=0.05, method=method)
    k, cross, prior = (dense_rbf(a, b, 1.3, 0.8) for a, b in ((x, x), (x_test, x), (x_test, x_test)))
    inverse = np.linalg.inv(k + 0.05 * np.eye(len(x)))
    cov = prior - cross @ inverse @ cross.T
    for kind, want in (("full", cov), ("diagonal", np.diag(cov))):
        mean, got = post(x_test, covariance=kind)
        assert mean.dtype == got.dtype == np.float64
        assert mean.shape == x_test.shape[:1] + y.shape[1:]
        np.testing.assert_allclose(mean, cross @ inverse @ y, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)
    assert post(x_test, covariance=None).variance is None
    np.testing.assert_allclose(post(x_test, observation=True).variance, np.diag(cov) + 0.05, rtol=1e-9)


def test_posterior_is_scikit_learns():
    x, y, x_test = regression()
    theirs = GaussianProcessRegressor(SklearnRBF(1.3), alpha=0.05, optimizer=None).fit(x, y)
    mean, std = theirs.predict(x_test, return_std=True)
    post = posterior(RBF(1.3), x, y, noise=0.05)
    np.testing.assert_allclose(post(x_test).mean, mean, rtol=1e-10)
    np.testing.assert_allclose(np.sqrt(post(x_test).variance), std, rtol=1e-9)
    np.testing.assert_allclose(post.log_marginal_likelihood, theirs.log_marginal_likelihood_value_, rtol=1e-12)


def test_each_example_may_have_its_own_noise():
    x, y, x_test = regression()
    noise = np.linspace(0.01, 1.0, len(x))
    post = posterior(RBF(1.3), x, y, noise=noise)
    want = dense_rbf(x_test, x, 1.3) @ np.linalg.solve(dense_rbf(x, x, 1.3) + np.diag(noise), y)
    np.testing.assert_allclose(post(x_test).mean, want, rtol=1e-10)
    density = scipy.stats.multivariate_normal(np.zeros(len(x)), dense_rbf(x, x, 1.3) + np.diag(noise)).logpdf(y)
    np.testing.assert_allclose(post.log_marginal_likelihood, density, rtol=1e-10)
    with pytest.raises(InputError, match="one `noise`"):
        post(x_test, observation=True)


@pytest.mark.parametrize("outputs", [None, 2])
def test_leave_one_out_is_n_refits(outputs):
    x, y, _ = regression(n=15, outputs=outputs)
    found = posterior(RBF(1.3), x, y, noise=0.05).leave_one_out()
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        mean, variance = posterior(RBF(1.3), x[rest], y[rest], noise=0.05)(x[i : i + 1], observation=True)
        density = scipy.stats.norm(mean[0], np.sqrt(variance[0])).logpdf(y[i])
        np.testing.assert_allclose(found.mean[i], mean[0], rtol=1e-9)
        np.testing.assert_allclose(found.variance[i], variance[0], rtol=1e-9)
        np.testing.assert_allclose(found.log_density[i], density, rtol=1e-9)


@pytest.mark.parametrize("outputs", [None, 2])
def test_samples_have_the_posterior_mean_and_covariance(outputs):
    x, y, x_test = regression(m=4, outputs=outputs)
    post = posterior(RBF(1.3), x, y, noise=0.05)
    size = 20_000
    draws = post.sample(jax.random.key(0), x_test, size)
    assert draws.shape == (size, 4) + y.shape[1:]
    mean, cov = post(x_test, covariance="full")
    draws, mean = draws.reshape(size, 4, -1), mean.reshape(4, -1)
    error = np.sqrt(np.diag(cov) / size)[:, None]
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * error)
    for o in range(mean.shape[1]):
        spread = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / size)
        assert np.all(np.abs(np.cov(draws[:, :, o].T) - cov) < 5 * spread)


def test_samples_at_noiseless_training_points_are_the_labels():
    x, y, _ = regression(n=8)
    draws = posterior(RBF(0.7), x, y, noise=1e-12).sample(jax.random.key(0), x, 3)
    np.testing.assert_allclose(draws, np.broadcast_to(y, (3, 8)), atol=1e-4)


def test_a_given_matrix_is_used():
    x, y, x_test = regression()
    post = posterior(RBF(1.3), x, y, noise=0.05, matrix=dense_rbf(x, x, 1.3))
    np.testing.assert_allclose(post(x_test).mean, posterior(RBF(1.3), x, y, noise=0.05)(x_test).mean, rtol=1e-10)
    with pytest.raises(InputError, match=r"`matrix`.*\(30, 30\)"):
        posterior(RBF(1.3), x, y, noise=0.05, matrix=np.eye(3))


def test_float32_is_float32_and_float64_does_not_depend_on_the_input():
    x, y, x_test = regression()
    x, y, x_test = (a.astype(np.float32) for a in (x, y, x_test))
    exact = posterior(RBF(1.3), x, y, noise=0.05)
    single = posterior(RBF(1.3), x, y, noise=0.05, dtype=np.float32)
    assert exact(x_test).mean.dtype == np.float64
    assert single(x_test).mean.dtype == single(x_test).variance.dtype == np.float32
    np.testing.assert_allclose(single(x_test).mean, exact(x_test).mean, rtol=1e-3, atol=1e-4)


def test_statistics_say_what_was_done():
    x, y, _ = regression()
    post = posterior(RBF(1.3), x, y, noise=0.05)
    c = dense_rbf(x, x, 1.3) + 0.05 * np.eye(len(x))
    assert (post.statistics.jitter, post.statistics.ladder, post.statistics.method) == (0.0, (0.0,), "cholesky")
    assert post.statistics.residual < 1e-13
    # Hager and Higham's estimate is a lower bound, "almost always within a factor 3" of the truth.
    assert np.linalg.cond(c, 1) / 3 <= post.statistics.condition <= np.linalg.cond(c, 1) * (1 + 1e-9)
    assert "n = 30" in repr(post)
    iterative = posterior(RBF(1.3), x, y, noise=0.05, method=CG(rtol=1e-9))
    assert 0 < iterative.statistics.iterations <= 30
    assert iterative.statistics.residual <= 2e-9


def test_jitter_is_reported_never_silent():
    x, y, x_test = regression()
    x, y = np.concatenate([x, x]), np.concatenate([y, y])
    with pytest.warns(JitterWarning, match="added a jitter"):
        post = posterior(RBF(20.0), x, y, noise=1e-30)
    assert post.statistics.jitter > 0
    assert post.statistics.ladder[0] == 0.0
    assert post.statistics.ladder[-1] == post.statistics.jitter
    assert np.isfinite(post(x_test).mean).all()
    with pytest.raises(ComputationError, match="smallest eigenvalue"):
        posterior(RBF(20.0), x, y, noise=1e-30, method=Cholesky(ladder=()))


def test_a_kernel_that_is_not_positive_is_refused_with_its_eigenvalue():
    x, y, _ = regression()
    smallest = -np.linalg.eigvalsh(dense_rbf(x, x, 1.0)).max()
    with pytest.raises(ComputationError, match=re.escape(f"smallest eigenvalue is {smallest:.3e}")):
        posterior(Indefinite(), x, y, noise=1e-3)


def test_conjugate_gradients_that_do_not_converge_fail_loudly():
    x, y, _ = regression()
    with pytest.raises(ComputationError, match=r"did not converge.*3 steps"):
        posterior(RBF(1.3), x, y, noise=1e-6, method=CG(rtol=1e-10, max_steps=3, rank=0))


def test_conjugate_gradients_do_not_pretend_to_know_determinants():
    x, y, _ = regression()
    post = posterior(RBF(1.3), x, y, noise=0.05, method=CG())
    with pytest.raises(InputError, match="Cholesky"):
        post.log_marginal_likelihood
    with pytest.raises(InputError, match="Cholesky"):
        post.leave_one_out()


X, Y, _ = regression()
BROKEN = X.copy()
BROKEN[3, 1] = np.nan


@pytest.mark.parametrize(
    "x, y, noise, words",
    [
        (X, Y[:-1], 0.1, r"`y` must have one row for each of the 30 examples"),
        (X, np.stack([Y, Y]), 0.1, r"Transpose"),
        (X, Y[:, None, None], 0.1, r"`y` must have shape"),
        (X, np.full(30, np.nan), 0.1, r"`y` must be finite"),
        (X, np.array(["a"] * 30), 0.1, r"`y` must be an array of floating-point numbers"),
        (X, np.zeros((30, 0)), 0.1, r"at least one output"),
        (BROKEN, Y, 0.1, r"`x` must be finite"),
        (X[:0], Y[:0], 0.1, r"`x` must hold at least one example"),
        (X, Y, 0.0, r"`noise` must be finite and positive, but got 0.0"),
        (X, Y, -1.0, r"`noise` must be finite and positive"),
        (X, Y, np.nan, r"`noise` must be finite and positive"),
        (X, Y, np.ones(3), r"`noise` must be a number or one number for each"),
        (X, Y, "small", r"`noise` must be a number"),
    ],
)
def test_bad_input_is_refused_by_name(x, y, noise, words):
    with pytest.raises(InputError, match=words):
        posterior(RBF(1.0), x, y, noise=noise)


def test_bad_options_are_refused_by_name():
    post = posterior(RBF(1.0), X, Y, noise=0.1)
    with pytest.raises(InputError, match=r"`x_test`.*`x`"):
        post(X[:, :2])
    with pytest.raises(InputError, match="`covariance`"):
        post(X, covariance="all")
    with pytest.raises(InputError, match="`size`"):
        post.sample(jax.random.key(0), X, 0)
    with pytest.raises(InputError, match="`method`"):
        posterior(RBF(1.0), X, Y, method="magic")
    with pytest.raises(InputError, match="`dtype`"):
        posterior(RBF(1.0), X, Y, dtype=np.int32)
    with pytest.raises(InputError, match="`kernel` must be callable"):
        posterior(3.0, X, Y)
    with pytest.raises(InputError, match="`kernel` must return"):
        posterior(lambda x1, x2=None: x1, X, Y)
    with pytest.raises(ComputationError, match="not finite"):
        posterior(lambda x1, x2=None: np.nan * RBF(1.0)(x1, x2), X, Y)
    with pytest.raises(InputError, match="`rtol`"):
        CG(rtol=2.0)
    with pytest.raises(InputError, match="`ladder`"):
        Cholesky(ladder=(1e-3, 1e-6))
