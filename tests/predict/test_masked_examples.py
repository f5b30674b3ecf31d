"""Predictors of images and signals of several sizes, against dense solves with the matrices of `ntkit.gram`."""

import jax
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.errors import InputError


def masked_signals(seed, lengths):
    rng = np.random.default_rng(seed)
    return ntkit.pad([rng.standard_normal((length, 2)) for length in lengths], size=(8,))


READER = nn.Sequential(nn.Conv(8, (3,), padding="VALID"), nn.Relu(), nn.GlobalAvgPool(), nn.Dense(1))


def test_masked_examples_are_learned_and_predicted():
    x, new, y, theta = masked_signals(0, (5, 8, 6, 7)), masked_signals(1, (7, 4)), np.arange(4.0), ntkit.NTK(READER)
    with jax.enable_x64(True):
        k, cross = (np.asarray(ntkit.gram(theta, *pair)) for pair in ((x,), (new, x)))
        prior = np.asarray(theta.diagonal(new))
    inverse = np.linalg.inv(k + 0.1 * np.eye(4))
    found = ntkit.posterior(theta, x, y, noise=0.1)(new)
    np.testing.assert_allclose(found.mean, cross @ inverse @ y, rtol=1e-9)
    np.testing.assert_allclose(found.variance, prior - np.diag(cross @ inverse @ cross.T), rtol=1e-9)
    np.testing.assert_allclose(ntkit.ridge(theta, x, y, alpha=0.1)(new), found.mean, rtol=1e-9)


def test_masked_examples_in_ensembles_and_in_tune():
    x, new, y, theta = masked_signals(0, (5, 8, 6, 7)), masked_signals(1, (7, 4)), np.arange(4.0), ntkit.NTK(READER)
    ridge = ntkit.ridge(theta, x, y, alpha=0.1)
    ensemble = ntkit.ensemble(READER, x, y, noise=0.1)
    np.testing.assert_allclose(ensemble(new, covariance=None).mean, ridge(new), rtol=1e-9)
    tuned = ntkit.predict.tune([theta], x, y, noise=[0.1], progress=False)
    likelihood = ntkit.posterior(theta, x, y, noise=0.1).log_marginal_likelihood
    np.testing.assert_allclose(tuned.best.log_marginal_likelihood, likelihood, rtol=1e-9)
    assert tuned.kernel is theta


def test_masks_on_one_side_only():
    x, y, theta = masked_signals(0, (5, 8, 6, 7)), np.arange(4.0), ntkit.NTK(READER)
    whole = np.random.default_rng(2).standard_normal((2, 8, 2))
    found = ntkit.posterior(theta, x, y, noise=0.1)(whole).mean
    all_there = ntkit.Masked(whole, np.ones((2, 8), bool))
    np.testing.assert_allclose(found, ntkit.posterior(theta, x, y, noise=0.1)(all_there).mean, rtol=1e-12)
    with pytest.raises(InputError, match="Pass `x` with its masks"):
        ntkit.posterior(theta, whole, np.arange(2.0), noise=0.1)(x)
    with pytest.raises(InputError, match="x_test"):
        ntkit.posterior(theta, x, y, noise=0.1)(whole[:, :, :1])
