"""The log marginal likelihood and its gradient against finite differences and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from prediction_examples import RBF, dense_rbf, regression
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF as SklearnRBF
from sklearn.gaussian_process.kernels import WhiteKernel

import ntkit
from ntkit import nn
from ntkit.errors import ComputationError, InputError
from ntkit.predict import NotConvergedWarning, log_marginal_likelihood, maximise_likelihood, posterior

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("outputs", [None, 2])
def test_value_is_the_gaussian_density(outputs):
    x, y, _ = regression(outputs=outputs)
    law = scipy.stats.multivariate_normal(np.zeros(len(x)), dense_rbf(x, x, 1.3, 0.8) + 0.05 * np.eye(len(x)))
    want = np.sum(law.logpdf(y.T))
    got = log_marginal_likelihood(RBF(1.3, 0.8), x, y, 0.05)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(posterior(RBF(1.3, 0.8), x, y, noise=0.05).log_marginal_likelihood, want, rtol=1e-12)


@pytest.mark.parametrize("outputs", [None, 2])
def test_gradient_is_that_of_finite_differences(outputs):
    x, y, _ = regression(outputs=outputs)

    def value(p):
        return log_marginal_likelihood(RBF(p[0], p[1]), x, y, p[2])

    p = jnp.array([1.3, 0.8, 0.05])
    step = 1e-5
    want = [(value(p.at[i].add(step)) - value(p.at[i].add(-step))) / (2 * step) for i in range(3)]
    np.testing.assert_allclose(jax.grad(value)(p), want, rtol=1e-6)
    # Reverse mode, forward mode, and the Hessian from forward over reverse.
    np.testing.assert_allclose(jax.jacfwd(value)(p), jax.grad(value)(p), rtol=1e-10)
    slope = jax.grad(value)
    hessian = [(slope(p.at[i].add(step)) - slope(p.at[i].add(-step))) / (2 * step) for i in range(3)]
    np.testing.assert_allclose(jax.hessian(value)(p), np.stack(hessian), rtol=1e-5)


def test_gradient_with_respect_to_labels_and_inputs_is_that_of_finite_differences():
    x, y, _ = regression(n=6)
    rng = np.random.default_rng(1)
    step = 1e-5
    for position, like in ((1, x), (2, y)):
        direction = rng.normal(size=like.shape)

        def value(h, position=position, direction=direction):
            arguments = [RBF(1.3, 0.8), x, y, 0.05]
            arguments[position] = arguments[position] + h * direction
            return log_marginal_likelihood(*arguments)

        got = jnp.sum(jax.grad(log_marginal_likelihood, argnums=position)(RBF(1.3, 0.8), x, y, 0.05) * direction)
        np.testing.assert_allclose(got, (value(step) - value(-step)) / (2 * step), rtol=1e-6)


def test_gradient_is_scikit_learns():
    x, y, _ = regression()
    theirs = GaussianProcessRegressor(SklearnRBF(1.3) + WhiteKernel(0.05), alpha=0.0, optimizer=None).fit(x, y)
    value, gradient = theirs.log_marginal_likelihood(np.log([1.3, 0.05]), eval_gradient=True)
    got = jax.value_and_grad(log_marginal_likelihood, argnums=(0, 3))(RBF(1.3), x, y, 0.05)
    np.testing.assert_allclose(got[0], value, rtol=1e-12)
    np.testing.assert_allclose([got[1][0].lengthscale * 1.3, got[1][1] * 0.05], gradient, rtol=1e-9)


@pytest.mark.parametrize("kind", [ntkit.NTK, ntkit.NNGP])
def test_gradient_reaches_the_leaves_of_a_network(kind):
    x, y, _ = regression(n=10)

    def value(w, b):
        net = nn.Sequential(nn.Dense(8, w_std=w, b_std=b), nn.Relu(), nn.Dense(1, w_std=w, b_std=b))
        return log_marginal_likelihood(kind(net), x, y, 0.1)

    step = 1e-5
    got = jax.grad(value, argnums=(0, 1))(1.4, 0.3)
    want = [
        (value(1.4 + step, 0.3) - value(1.4 - step, 0.3)) / (2 * step),
        (value(1.4, 0.3 + step) - value(1.4, 0.3 - step)) / (2 * step),
    ]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_matrix_that_is_not_definite_gives_nan():
    x, y, _ = regression()
    assert jnp.isnan(log_marginal_likelihood(RBF(1.0), x, y, -5.0))


def test_ascent_ends_where_scikit_learn_ends():
    x, y, _ = regression(n=40)
    theirs = GaussianProcessRegressor(SklearnRBF(0.5) + WhiteKernel(0.5), alpha=0.0).fit(x, y)
    seen = []
    found = maximise_likelihood(
        RBF(0.5), x, y, 0.5, where=lambda k: k.lengthscale, tolerance=1e-8, progress=lambda *c: seen.append(c)
    )
    assert found.converged
    assert seen == [(step, 100) for step in range(found.steps + 1)]
    np.testing.assert_allclose(found.log_marginal_likelihood, theirs.log_marginal_likelihood_value_, rtol=1e-8)
    np.testing.assert_allclose([found.kernel.lengthscale, found.noise], np.exp(theirs.kernel_.theta), rtol=1e-3)
    assert found.kernel.scale == 1.0
    assert set(found.parameters) == {".lengthscale", "noise"}
    assert "converged" in str(found)


def test_ascent_climbs_the_leaves_of_a_network_and_names_what_stays():
    x, y, _ = regression(n=12)
    net = nn.Sequential(nn.Dense(8, w_std=1.0, b_std=0.0), nn.Relu(), nn.Dense(1, w_std=1.0, b_std=0.3))
    found = maximise_likelihood(ntkit.NTK(net), x, y, 0.1, max_steps=50)
    assert found.log_marginal_likelihood > found.initial
    assert len(found.fixed) == 1
    assert "b_std" in found.fixed[0]
    again = log_marginal_likelihood(found.kernel, x, y, found.noise)
    np.testing.assert_allclose(again, found.log_marginal_likelihood, rtol=1e-10)
    kept = maximise_likelihood(ntkit.NTK(net), x, y, 0.1, fix_noise=True)
    assert kept.noise == 0.1


def test_ascent_says_when_it_was_cut_short_and_refuses_what_cannot_move():
    x, y, _ = regression()
    with pytest.warns(NotConvergedWarning, match="`max_steps`"):
        found = maximise_likelihood(RBF(0.5), x, y, 0.5, max_steps=1, tolerance=1e-9)
    assert not found.converged
    with pytest.raises(InputError, match="`where` must select positive"):
        maximise_likelihood(RBF(-0.5), x, y, 0.5, where=lambda k: k.lengthscale)
    with pytest.raises(ComputationError, match="not finite at the start"):
        maximise_likelihood(lambda x1, x2=None: -RBF(0.5)(x1, x2), x, y, 0.1)
