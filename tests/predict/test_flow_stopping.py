"""Early stopping against refits without each example, dense ridge regression, and validation by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from prediction_examples import RBF, dense_rbf, regression

from ntkit.errors import InputError
from ntkit.predict import gradient_flow


def start(x):
    return np.stack([np.cos(x.sum(1)), x[:, 0]], axis=1)


@pytest.mark.parametrize("time", [0.0, 1e-4, 1.0, 30.0, 1e5])
def test_leave_one_out_is_that_of_refits(time):
    x, y, _ = regression(n=12, outputs=2)
    flow = gradient_flow(RBF(1.0), x, y, 0.7, f0=start)
    found = flow.leave_one_out(time)
    k = dense_rbf(x, x, 1.0)
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        inner, cross = k[np.ix_(rest, rest)], k[i, rest]
        learned = np.eye(11) - scipy.linalg.expm(-0.7 * time / 11 * inner)
        mean = start(x)[i] + cross @ np.linalg.solve(inner, learned @ (y - start(x))[rest])
        np.testing.assert_allclose(found.mean[i], mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.error, y - found.mean, atol=1e-14)
    np.testing.assert_allclose(found.squared, np.mean(found.error**2))


def test_leave_one_out_is_that_of_gradient_flow_itself_also_with_duplicates():
    x, y, _ = regression(n=8)
    x, y = np.concatenate([x, x[:2]]), np.concatenate([y, y[:2] + 1.0])
    flow = gradient_flow(RBF(1.0), x, y)
    for time in (25.0, 1e16):
        found = flow.leave_one_out(time).mean
        for i in (0, 5):
            rest = np.delete(np.arange(10), i)
            want = gradient_flow(RBF(1.0), x[rest], y[rest])(x[i : i + 1], time)[0]
            np.testing.assert_allclose(found[i], want, rtol=1e-8)


@pytest.mark.parametrize("time", [1e-6, 0.5, 40.0, 1e5])
def test_the_ridge_that_matches_a_time_has_its_degrees_of_freedom(time):
    x, y, _ = regression(n=12)
    k = dense_rbf(x, x, 1.0)
    match = gradient_flow(RBF(1.0), x, y, 0.5).ridge_at(time)
    left = scipy.linalg.expm(-0.5 * time / 12 * k)
    values = np.linalg.eigvalsh(k)
    np.testing.assert_allclose(match.degrees, -np.expm1(-0.5 * time / 12 * values).sum(), rtol=1e-9)
    ridge = np.linalg.solve(k + match.alpha * np.eye(12), np.eye(12))
    # What is left is compared, too: at late times it alone has digits.
    np.testing.assert_allclose(match.alpha * np.trace(ridge), np.exp(-0.5 * time / 12 * values).sum(), rtol=1e-8)
    np.testing.assert_allclose(np.trace(k @ ridge), match.degrees, rtol=1e-9)
    np.testing.assert_allclose(match.ridge, match.eigenvalue / (match.eigenvalue + match.alpha))
    np.testing.assert_allclose(match.flow, np.sort(1 - np.linalg.eigvalsh(left))[::-1], atol=1e-12)
    # Ali et al. 2019: near 1 / (learning_rate t / n) while most directions are still to be learned.
    if time < 1:
        np.testing.assert_allclose(match.alpha, 12 / (0.5 * time), rtol=0.1)


def test_no_time_is_all_ridge():
    x, y, _ = regression(n=12)
    match = gradient_flow(RBF(1.0), x, y).ridge_at(0.0)
    assert match.alpha == np.inf
    assert match.degrees == 0.0
    np.testing.assert_array_equal(match.ridge, 0.0)


def test_the_best_time_has_the_least_loss():
    x, y, _ = regression(n=40, outputs=2)
    flow = gradient_flow(RBF(1.0), x[:30], y[:30])
    dense = np.geomspace(flow.statistics.fastest / 10, flow.statistics.slowest, 400)

    by_itself = flow.best_time()
    losses = [flow.leave_one_out(t).squared for t in dense]  # half the square, summed over two outputs
    assert by_itself.loss <= min(losses) * (1 + 1e-4)
    np.testing.assert_allclose(by_itself.time, dense[np.argmin(losses)], rtol=0.05)
    assert not by_itself.at_edge
    assert by_itself.losses.min() == by_itself.loss

    by_others = flow.best_time(x[30:], y[30:])
    losses = np.mean(np.sum((flow(x[30:], dense) - y[30:]) ** 2, axis=2), axis=1) / 2
    assert by_others.loss <= losses.min() * (1 + 1e-4)
    np.testing.assert_allclose(by_others.time, dense[np.argmin(losses)], rtol=0.05)
    assert flow.best_time(x[30:], y[30:], times=[0.01, 0.02]).at_edge


def test_the_best_time_of_another_loss_is_asked_of_a_validation_set():
    x, y, _ = regression(n=30)
    y = np.sign(y)
    flow = gradient_flow(RBF(0.3), x[:20], y[:20], loss="logistic")
    times = np.geomspace(0.1, 1e4, 12)
    best = flow.best_time(x[20:], y[20:], times=times)
    losses = np.mean(np.logaddexp(0, -y[20:] * flow(x[20:], times)), axis=1)
    np.testing.assert_allclose([best.losses[np.argmin(abs(best.times - t))] for t in times], losses, rtol=1e-6)
    assert best.loss <= losses.min()


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused_by_name():
    x, y, x_test = regression()
    flow = gradient_flow(RBF(1.0), x, y)
    for ask in (flow.ridge_at, flow.leave_one_out):
        for t in (np.inf, [1.0, 2.0]):
            with pytest.raises(InputError, match="one finite time"):
                ask(t)
        with pytest.raises(InputError, match="`t` must be times of zero or more"):
            ask(-1.0)
    with pytest.raises(InputError, match="two examples or more"):
        gradient_flow(RBF(1.0), x[:1], y[:1]).leave_one_out(1.0)
    for times in ([], [0.0, 1.0], [np.inf], [[1.0]]):
        with pytest.raises(InputError, match="`times` must be"):
            flow.best_time(times=times)
    with pytest.raises(InputError, match="belong together"):
        flow.best_time(x_test)
    with pytest.raises(InputError, match="`y_val` must give outputs of shape"):
        flow.best_time(x_test, y)
    with pytest.raises(InputError, match="belong together"):
        gradient_flow(RBF(1.0), x, y, loss=lambda f, y: jnp.sum((f - y) ** 4)).best_time(x_test, None, times=[1.0])
