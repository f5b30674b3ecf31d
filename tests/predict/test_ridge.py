"""Kernel ridge against scikit-learn and against refits."""

import numpy as np
import pytest
from prediction_examples import RBF, dense_rbf, regression
from sklearn.kernel_ridge import KernelRidge

from ntkit.errors import InputError
from ntkit.predict import CG, JitterWarning, ridge


@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("method", ["cholesky", CG(rtol=1e-12)])
def test_ridge_is_scikit_learns(outputs, method):
    x, y, x_test = regression(outputs=outputs)
    theirs = KernelRidge(alpha=0.3, kernel="precomputed").fit(dense_rbf(x, x, 1.3), y)
    model = ridge(RBF(1.3), x, y, alpha=0.3, method=method)
    np.testing.assert_allclose(model(x_test), theirs.predict(dense_rbf(x_test, x, 1.3)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.weights, theirs.dual_coef_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("outputs", [None, 2])
def test_leave_one_out_is_n_refits(outputs):
    x, y, _ = regression(n=15, outputs=outputs)
    found = ridge(RBF(1.3), x, y, alpha=0.3).leave_one_out()
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        np.testing.assert_allclose(
            found.mean[i], ridge(RBF(1.3), x[rest], y[rest], alpha=0.3)(x[i : i + 1])[0], rtol=1e-9
        )
    np.testing.assert_allclose(found.error, y - found.mean)
    np.testing.assert_allclose(found.squared, np.mean((y - found.mean) ** 2))


def test_without_a_penalty_it_interpolates_or_says_what_it_added():
    x, y, _ = regression(n=10)
    np.testing.assert_allclose(ridge(RBF(0.5), x, y, alpha=0.0)(x), y, rtol=1e-8)
    with pytest.warns(JitterWarning):
        model = ridge(RBF(0.5), np.concatenate([x, x]), np.concatenate([y, y]), alpha=0.0)
    assert model.statistics.jitter > 0


def test_a_negative_penalty_is_refused_by_its_name():
    x, y, _ = regression()
    with pytest.raises(InputError, match="`alpha` must be finite and zero or more"):
        ridge(RBF(1.0), x, y, alpha=-1.0)
    with pytest.raises(InputError, match="positive noise"):
        ridge(RBF(1.0), x, y, alpha=0.0, method=CG())
