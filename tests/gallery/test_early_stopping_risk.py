"""The exact risks behind the experiment on early stopping, against draws of noise and against dense algebra."""

import numpy as np

from ntkit.gallery.early_stopping import BOUND, noisy, risk, variance


def shrinking(values, vectors, left):
    """The matrix that takes labels to what is learned of them."""
    return vectors @ np.diag(1 - left(values)) @ vectors.T


def test_risks_are_the_means_over_draws_of_labels():
    """At five standard errors, of 4000 draws; and standard errors small enough to tell 3 per cent."""
    rng, n, p, times = np.random.default_rng(0), 20, 0.4, np.array([0.3, 5.0, 200.0])
    features, labels = rng.normal(size=(n, 6)), rng.integers(0, 10, n)
    k = features @ features.T + 0.1 * np.eye(n)
    values, vectors = np.linalg.eigh(k)
    m = 0.6 * ((labels[:, None] == np.arange(10)) - 0.1)
    draws = np.stack([noisy(labels, p, rng) for _ in range(4000)])
    found = risk(values, vectors.T @ m, p, times)
    for at, t in enumerate(times):
        flow = shrinking(values, vectors, lambda v, t=t: np.exp(-t * v / n))
        ridge = k @ np.linalg.inv(k + n / t * np.eye(n))
        for own, matrix in ((found[0][at], flow), (found[1][at], ridge)):
            errors = np.sum((matrix @ draws - m) ** 2, axis=(1, 2)) / n
            scatter = errors.std(ddof=1) / np.sqrt(len(draws))
            assert scatter < 0.03 * own / 5
            assert abs(errors.mean() - own) < 5 * scatter


def test_noise_has_the_mean_and_the_variance_that_are_stated():
    rng, labels = np.random.default_rng(1), np.arange(10)
    draws = np.stack([noisy(labels, 0.3, rng) for _ in range(20_000)])
    m = 0.7 * (np.eye(10) - 0.1)
    assert np.all(np.abs(draws.mean(axis=0) - m) < 5 * draws.std(axis=0) / np.sqrt(len(draws)))
    squares = np.sum((draws - m) ** 2, axis=2)
    np.testing.assert_allclose(squares.mean(axis=0), variance(0.3), atol=5 * squares.std() / np.sqrt(len(draws)))
    assert variance(0.0) == 0


def test_the_bound_is_the_largest_ratio_of_variances():
    """As published: the square of the root rounded up to 1.2985, rounded up."""
    x = np.linspace(1e-3, 20, 200_001)
    largest = np.max((np.expm1(-x) * (1 + x) / x) ** 2)
    assert np.ceil(1e4 * np.sqrt(largest)) == 12985
    assert np.ceil(1e4 * 1.2985**2) == 1e4 * BOUND
    assert np.all(np.exp(-x) <= 1 / (1 + x))
