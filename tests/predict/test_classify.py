"""Class probabilities against Monte Carlo, closed forms and adaptive quadrature."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from prediction_examples import RBF

from ntkit.errors import InputError
from ntkit.predict import class_probabilities, classify, fit_temperature, one_hot


def cases(classes, rows=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, classes)), rng.uniform(0.05, 3.0, size=(rows, classes))


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("shared", [True, False])
def test_they_sum_to_one_and_match_monte_carlo(classes, shared):
    mean, variance = cases(classes)
    variance = variance[:, 0] if shared else variance
    p = class_probabilities(mean, variance, temperature=1.7)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-9)
    rng = np.random.default_rng(1)
    size = 20_000
    std = np.sqrt(1.7 * variance.reshape(len(mean), -1))
    for row in range(10):
        winner = (mean[row] + std[row] * rng.normal(size=(size, classes))).argmax(axis=1)
        share = np.bincount(winner, minlength=classes) / size
        assert np.all(np.abs(share - p[row]) <= 5 * np.sqrt(p[row] * (1 - p[row]) / size) + 1 / size)


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 100.0])
def test_two_classes_are_the_closed_form_far_into_the_tails(scale):
    mean, variance = cases(2)
    variance = variance * scale
    want = scipy.stats.norm.logcdf((mean[:, 0] - mean[:, 1]) / np.sqrt(variance.sum(1)))
    got = class_probabilities(mean, variance, log=True)[:, 0]
    near = want > -100
    assert near.sum() > 5
    np.testing.assert_allclose(got[near], want[near], rtol=1e-8, atol=1e-9)
    want = scipy.stats.norm.logcdf((mean[:, 0] - mean[:, 1]) / np.sqrt(2 * variance[:, 0]))
    got = class_probabilities(mean, variance[:, 0], log=True)[:, 0]
    near = want > -300
    np.testing.assert_allclose(got[near], want[near], rtol=1e-8, atol=1e-9)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e3])
def test_unequal_variances_match_adaptive_quadrature(spread):
    mean, std = np.array([0.3, -0.2, 0.5]), np.array([1.0, 0.7 * spread, 1.3])
    got = class_probabilities(mean[None], std[None] ** 2)[0]
    for c in range(3):
        others = [j for j in range(3) if j != c]

        def integrand(u, c=c, others=others):
            product = math.prod(scipy.stats.norm.cdf(u, mean[j], std[j]) for j in others)
            return scipy.stats.norm.pdf(u, mean[c], std[c]) * product

        ends = np.unique(np.concatenate([m + s * np.arange(-10.0, 11.0, 2.0) for m, s in zip(mean, std, strict=True)]))
        want = sum(scipy.integrate.quad(integrand, a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(ends))
        np.testing.assert_allclose(got[c], want, atol=1e-9)


def test_equal_outputs_are_equally_probable():
    np.testing.assert_allclose(class_probabilities(np.zeros((1, 10)), np.ones(1)), 0.1, rtol=1e-10)
    np.testing.assert_allclose(class_probabilities(np.zeros((1, 10)), np.ones((1, 10))), 0.1, rtol=1e-9)
    np.testing.assert_allclose(class_probabilities(np.zeros((1, 1000)), np.ones(1)), 1e-3, rtol=1e-8)


def test_one_hot_rows_have_mean_zero():
    y, classes = one_hot(["b", "a", "c", "a"])
    assert classes.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(y.sum(axis=1), 0.0, atol=1e-15)
    assert classes[y.argmax(axis=1)].tolist() == ["b", "a", "c", "a"]
    assert one_hot([1, 1], classes=[0, 1, 2]).y.shape == (2, 3)
    for bad, words in (([1, 1], "two classes"), ([], "one label"), ([[1]], "one label"), ([1.0, np.nan], "finite")):
        with pytest.raises(InputError, match=words):
            one_hot(bad)
    with pytest.raises(InputError, match="not among"):
        one_hot([1, 5], classes=[0, 1])


def test_the_temperature_is_the_minimum_of_the_loss():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(300, 3))
    index = (mean + 2.0 * rng.normal(size=mean.shape)).argmax(axis=1)
    # The outputs were drawn with variance 4 and are said to have variance 1: the factor is 4, up to sampling.
    found = fit_temperature(mean, np.ones(300), index)
    assert found.negative_log_likelihood < found.uncalibrated

    def loss(temperature):
        logs = class_probabilities(mean, np.ones(300), temperature=temperature, log=True)
        return -np.mean(logs[np.arange(300), index])

    assert loss(found.temperature) <= min(loss(found.temperature * 1.01), loss(found.temperature / 1.01))
    step = 0.05
    curvature = (loss(4 * math.exp(step)) - 2 * loss(4.0) + loss(4 * math.exp(-step))) / step**2
    slope = (loss(4 * math.exp(step)) - loss(4 * math.exp(-step))) / (2 * step)
    assert abs(math.log(found.temperature / 4)) < 5 / math.sqrt(300 * curvature) + abs(slope / curvature)


def test_a_classifier_is_calibrated_without_a_hold_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 2))
    labels = np.array(["no", "yes"])[(x[:, 0] + 0.7 * rng.normal(size=150) > 0).astype(int)]
    test = rng.normal(size=(400, 2))
    truth = (test[:, 0] + 0.7 * rng.normal(size=400) > 0).astype(int)
    model = classify(RBF(1.0), x, labels, noise=0.01)
    plain = classify(RBF(1.0), x, labels, noise=0.01, calibrate=False)
    assert plain.calibration.temperature == 1.0
    loss, uncalibrated = (-np.mean(np.log(m.probabilities(test)[np.arange(400), truth])) for m in (model, plain))
    assert loss < uncalibrated
    np.testing.assert_array_equal(model(test), model.classes[model.probabilities(test).argmax(axis=1)])


def test_bad_input_is_refused_by_name():
    mean = np.zeros((2, 3))
    for arguments, words in (
        ((mean[:, :1], np.ones(2)), "`mean`"),
        ((mean, np.ones(3)), "`variance`"),
        ((mean, np.zeros(2)), "positive"),
        ((mean * np.nan, np.ones(2)), "finite"),
    ):
        with pytest.raises(InputError, match=words):
            class_probabilities(*arguments)
    with pytest.raises(InputError, match="`temperature`"):
        class_probabilities(mean, np.ones(2), temperature=0.0)
    with pytest.raises(InputError, match="`index`"):
        fit_temperature(mean, np.ones(2), np.zeros(3, int))
