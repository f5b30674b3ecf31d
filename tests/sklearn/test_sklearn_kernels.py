"""The kernel object in scikit-learn's Gaussian processes, and the callable in its support vector machines."""

import pickle

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.svm import SVC

import ntkit
from ntkit import nn
from ntkit.errors import InputError
from ntkit.sklearn import NTKKernel, NTKRegressor, gram_function

X = np.random.default_rng(0).normal(size=(12, 3))
ACTIVATIONS = ["relu", "erf", "gelu", "sin", "leaky_relu"]


def finite_differences(kernel, x, step=1e-5):
    """d K / d theta by central differences, whose error is about step^2."""
    theta, found = kernel.theta, []
    for i in range(len(theta)):
        shift = step * np.eye(len(theta))[i]
        found.append(
            (kernel.clone_with_theta(theta + shift)(x) - kernel.clone_with_theta(theta - shift)(x)) / (2 * step)
        )
    return np.stack(found, axis=-1)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_finite_differences(activation, kind):
    kernel = NTKKernel(2, activation, w_std=1.2, b_std=0.3, kernel=kind)
    matrix, slopes = kernel(X, eval_gradient=True)
    np.testing.assert_allclose(matrix, kernel(X), rtol=1e-12)
    assert slopes.shape == (12, 12, 2)
    np.testing.assert_allclose(slopes, finite_differences(kernel, X), rtol=1e-6, atol=1e-7 * np.abs(slopes).max())


def test_theta_is_in_the_order_of_the_names():
    kernel = NTKKernel(w_std=2.0, b_std=0.5)
    assert [h.name for h in kernel.hyperparameters] == ["b_std", "w_std"]
    np.testing.assert_allclose(kernel.theta, np.log([0.5, 2.0]))
    assert kernel.clone_with_theta(np.log([0.1, 3.0])).w_std == pytest.approx(3.0)


def test_values_are_the_kernels():
    kernel = NTKKernel(2, "erf", w_std=1.2, b_std=0.3, fixed_layers=1)
    theta = ntkit.NTK(nn.mlp(2, 7, nn.Erf(), w_std=1.2, b_std=0.3, fixed_layers=1))
    with jax.enable_x64(True):
        x = jax.numpy.asarray(X)
        np.testing.assert_allclose(kernel(X), theta(x), rtol=1e-12)
        np.testing.assert_allclose(kernel(X, X[:5]), theta(x, x[:5]), rtol=1e-12)
        np.testing.assert_allclose(kernel.diag(X), theta.diagonal(x), rtol=1e-12)
    assert kernel(X).dtype == np.float64
    assert not kernel.is_stationary()


@pytest.mark.parametrize("fixed", [("w_std",), ("b_std",), ("w_std", "b_std")])
def test_what_is_fixed_stays(fixed):
    bounds = {f"{name}_bounds": "fixed" for name in fixed}
    kernel = NTKKernel(w_std=1.2, b_std=0.3, **bounds)
    assert kernel.n_dims == 2 - len(fixed)
    slopes = kernel(X, eval_gradient=True)[1]
    assert slopes.shape == (12, 12, 2 - len(fixed))
    if len(fixed) == 1:
        np.testing.assert_allclose(slopes, finite_differences(kernel, X), rtol=1e-6)


def test_no_bias_at_all():
    kernel = NTKKernel(b_std=0.0, b_std_bounds="fixed")
    assert np.isfinite(kernel(X, eval_gradient=True)[1]).all()
    with pytest.raises(ntkit.InputError, match="fixed"):
        NTKKernel(b_std=0.0)(X)


def test_sums_and_products():
    ours, rbf = NTKKernel(), RBF(2.0)
    np.testing.assert_allclose((ours + rbf)(X), ours(X) + rbf(X))
    np.testing.assert_allclose((2.0 * ours * rbf)(X), 2 * ours(X) * rbf(X))
    np.testing.assert_allclose((ours + WhiteKernel(0.1)).diag(X), ours.diag(X) + 0.1)
    both = ConstantKernel(2.0) * ours + WhiteKernel(0.1)
    assert both.n_dims == 4
    slopes = both(X, eval_gradient=True)[1]
    np.testing.assert_allclose(slopes, finite_differences(both, X), rtol=1e-6, atol=1e-7 * np.abs(slopes).max())


def test_a_gaussian_process_tunes_and_predicts():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 2))
    y = np.sin(2 * x[:, 0]) + np.cos(x[:, 1]) + 0.1 * rng.normal(size=40)
    process = GaussianProcessRegressor(NTKKernel(2, "erf", w_std=1.0, b_std=0.3) + WhiteKernel(0.1)).fit(x, y)
    start = GaussianProcessRegressor(process.kernel, optimizer=None).fit(x, y)
    assert process.log_marginal_likelihood_value_ > start.log_marginal_likelihood_value_ + 1
    inner = process.kernel_.k1
    assert inner.w_std != 1.0
    # Fixed at what it found, our own regressor predicts the same.
    ours = NTKRegressor(2, "erf", w_std=inner.w_std, b_std=inner.b_std, alpha=process.kernel_.k2.noise_level).fit(x, y)
    np.testing.assert_allclose(process.predict(x[:5] + 0.1), ours.predict(x[:5] + 0.1), rtol=1e-5)


def test_a_gaussian_process_classifier():
    x, y = load_iris(return_X_y=True)
    model = GaussianProcessClassifier(NTKKernel(1, w_std=2.0), optimizer=None).fit(x[50::2], y[50::2])
    assert model.score(x[51::2], y[51::2]) > 0.9


def test_clone_pickle_and_print():
    kernel = NTKKernel(3, nn.Gelu(), w_std=1.1)
    for copy in (clone(kernel), pickle.loads(pickle.dumps(kernel))):
        np.testing.assert_array_equal(copy(X), kernel(X))
    # exp(log(w)) is w up to rounding.
    np.testing.assert_allclose(kernel.clone_with_theta(kernel.theta)(X), kernel(X), rtol=1e-13)
    assert "depth=3" in repr(kernel)
    assert NTKKernel() == NTKKernel()
    assert NTKKernel() != NTKKernel(3)


@pytest.mark.parametrize("bad", [{"depth": -1}, {"activation": "no"}, {"kernel": "x"}, {"w_std": -1.0}])
def test_wrong_parameters_are_refused(bad):
    with pytest.raises(ntkit.InputError, match=next(iter(bad))):
        NTKKernel(**bad)(X)


def test_wrong_inputs_are_refused():
    for x, y in [(X, X[:, :2]), (np.where(X > 1, np.nan, X), None), (X[0], None), (X[:0], None)]:
        with pytest.raises(ntkit.InputError):
            NTKKernel()(x, y)
    with pytest.raises(ntkit.InputError, match="gradient"):
        NTKKernel()(X, X, eval_gradient=True)


def test_support_vectors():
    x, y = load_iris(return_X_y=True)
    kernel = ntkit.NTK(nn.mlp(2, 512, nn.Relu(), w_std=2**0.5, b_std=0.1))
    model = SVC(kernel=gram_function(kernel), C=10.0).fit(x[::2], y[::2])
    with jax.enable_x64(True):
        train, test = (np.asarray(kernel(jax.numpy.asarray(a), jax.numpy.asarray(x[::2]))) for a in (x[::2], x[1::2]))
    want = SVC(kernel="precomputed", C=10.0).fit(train, y[::2]).predict(test)
    np.testing.assert_array_equal(model.predict(x[1::2]), want)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict(x), model.predict(x))


def test_gram_functions_refuse():
    with pytest.raises(ntkit.InputError, match="kernel"):
        gram_function("ntk")
    function = gram_function(ntkit.NTK(nn.mlp(1, 8, nn.Relu())))
    with pytest.raises(ntkit.InputError, match="one shape"):
        function(X, X[:, :2])
    assert function(np.ones((2, 2), dtype=int)).dtype == np.float64


def test_a_gaussian_process_kernel_is_no_kernel_for_gram_function():
    with pytest.raises(InputError, match=r"`SVC\(kernel=NTKKernel"):
        gram_function(NTKKernel())
