"""Studies of random features against the exact deviation of Wishart matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn

X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
KERNEL = ntkit.NTK(nn.mlp(1, 8, nn.Relu(), b_std=0.3))


def signs(key):
    """f(x) = w . x of random signs w: its covariance is x . y, but it is not Gaussian."""
    w = jax.random.rademacher(key, (3,), jnp.float32)
    return lambda x: x @ w


@pytest.fixture(scope="module")
def study():
    return ntkit.feature_study(KERNEL, X, [8, 64, 512], 100)


def test_the_deviation_is_the_expected_one(study):
    k = np.asarray(KERNEL(X), np.float64)
    np.testing.assert_allclose(study.kernel, k)
    np.testing.assert_allclose(study.expected**2, (1 + (np.trace(k) / np.linalg.norm(k)) ** 2) / [8, 64, 512])
    squares = study.deviations**2
    errors = squares.std(axis=1) / 10
    assert np.all(errors < 0.2 * study.expected**2)
    assert np.all(np.abs(squares.mean(axis=1) - study.expected**2) < 5 * errors)
    np.testing.assert_allclose(study.rms, np.sqrt(squares.mean(axis=1)))
    assert np.all(np.abs(study.mean - k) < 5 * study.standard_error)


def test_the_rate_is_that_of_the_central_limit_theorem(study):
    assert study.rate.standard_error < 0.02
    assert abs(study.rate.slope + 0.5) < 5 * study.rate.standard_error
    assert "rate: P^(-0." in str(study)
    assert "expected" in str(study)


def test_functions_are_compared_with_the_kernel_that_is_given():
    done = []
    found = ntkit.feature_study(
        signs, X, [16, 256], [3, 5, 8], kernel=lambda x: x @ x.T, progress=lambda *at: done.append(at)
    )
    assert found.expected is None
    assert np.all(np.abs(found.mean[1] - X @ X.T) < 5 * np.sqrt(3 * np.max(np.sum(X**2, 1)) ** 2 / 768))
    assert found.deviations.shape == (2, 3)
    assert done[-1] == (6, 6)
    assert " -\n" in str(found)
    key = jax.random.fold_in(jax.random.key(5), 1)
    again = np.asarray(ntkit.random_features(signs, 256, key=key)(X)) - X @ X.T
    np.testing.assert_allclose(found.deviations[1, 1], np.linalg.norm(again) / np.linalg.norm(X @ X.T), rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "source, numbers, seeds, word",
    [
        (KERNEL, [8], 3, "at least two different"),
        (KERNEL, [8, 8], 3, "at least two different"),
        (KERNEL, [8, 0], 3, "whole numbers >= 1"),
        (KERNEL, 8, 3, "must be a list"),
        (KERNEL, [8, 16], 1, "at least 2 draws"),
        (nn.Dense(8), [8, 16], 3, "width_study"),
        (0.0 * KERNEL, [8, 16], 3, "is 0 on `x`"),
    ],
)
def test_wrong_arguments_are_refused(source, numbers, seeds, word):
    with pytest.raises(ntkit.InputError, match=word):
        ntkit.feature_study(source, X, numbers, seeds)
