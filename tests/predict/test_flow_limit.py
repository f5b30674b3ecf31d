"""Flows on convex losses at t = infinity: against closed forms, against long integrations, and what has no limit."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from prediction_examples import RBF, regression

from ntkit.errors import ComputationError
from ntkit.predict import Huber, gradient_flow


def half_square(f, y):
    return 0.5 * jnp.sum((f - y) ** 2)


def entropy(f, y):
    """The logistic loss of labels that are probabilities."""
    return jnp.sum(jnp.logaddexp(jnp.zeros_like(f), f) - y * f)


def probabilities(n, c):
    return scipy.special.softmax(2 * np.random.default_rng(2).normal(size=(n, c)), axis=1)


@pytest.mark.parametrize("loss", [half_square, Huber(0.01)])
def test_the_squared_loss_and_hubers_end_at_the_labels(loss):
    x, y, x_test = regression(n=12, outputs=2)
    f0 = {"f0": lambda x: 100 * x[:, :2]}
    closed, found = gradient_flow(RBF(1.0), x, y, **f0), gradient_flow(RBF(1.0), x, y, loss=loss, **f0)
    np.testing.assert_allclose(found(None, np.inf), y, rtol=1e-10, atol=1e-10)
    scale = np.abs(closed(x_test, np.inf)).max()
    np.testing.assert_allclose(found(x_test, np.inf), closed(x_test, np.inf), atol=1e-8 * scale)


def test_cross_entropy_of_probabilities_ends_at_their_logarithms():
    """But for a constant, which the loss does not see: the mean over classes stays f_0's."""
    x, _, x_test = regression(n=10)
    y, f0 = probabilities(10, 3), np.random.default_rng(3).normal(size=(10, 3))
    flow = gradient_flow(RBF(1.0), x, y, loss="cross-entropy", f0=f0)
    found = flow(None, np.inf)
    wanted = np.log(y) - np.log(y).mean(axis=1, keepdims=True) + f0.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    # Elsewhere it is the interpolant of f_infinity - f_0 in the kernel's space.
    zero = np.zeros((len(x_test), 3))
    interpolant = gradient_flow(RBF(1.0), x, wanted - f0)(x_test)
    np.testing.assert_allclose(flow(x_test, np.inf, f0_test=zero), interpolant, rtol=1e-7, atol=1e-7)


def test_long_integrations_come_to_it():
    x, _, x_test = regression(n=6)
    x = 3 * x  # far apart, so that all eigenvalues are of one size
    y = probabilities(6, 2)[:, 0]
    flow = gradient_flow(RBF(1.0), x, y, loss=entropy, f0=lambda x: x[:, 0])
    far, end, start = flow(x_test, [30_000.0, np.inf, 0.0])
    assert np.abs(end - start).max() > 0.1
    np.testing.assert_allclose(far, end, atol=1e-6)
    np.testing.assert_allclose(flow(None, np.inf), scipy.special.logit(y), rtol=1e-9)


def two_outputs(f, y):
    """One output with a minimum far away, the other with none."""
    return Huber(0.1)(f[:1], y[:1] + 1e6) + jnp.logaddexp(0.0, -f[1])


@pytest.mark.parametrize(
    "loss, y, words",
    [
        ("logistic", [1.0, -1.0, 1.0, 1.0], "no minimum"),
        ("cross-entropy", [[0.5, 0.5, 0.0]] * 4, "no minimum"),
        (two_outputs, [[0.0, 0.0]] * 4, "no minimum"),
        (lambda f, y: jnp.sum(f - y), [0.0] * 4, "no minimum"),
        (lambda f, y: jnp.sum(jnp.cos(f - y)), [0.0] * 4, "not convex"),
        (lambda f, y: jnp.sum(jnp.maximum(f - y, 0) ** 2), [[-1.0, 3.0]] * 4, "many minima"),
    ],
)
def test_what_has_no_limit_of_its_own_is_refused(loss, y, words):
    x = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(ComputationError, match=words):
        gradient_flow(RBF(1.0), x, np.array(y), loss=loss)(None, np.inf)


def test_equal_examples_are_refused_and_float32_will_do():
    x, y, x_test = regression(n=6)
    twice = gradient_flow(RBF(1.0), np.concatenate([x, x[:1]]), np.append(y, 0.0), loss="huber")
    with pytest.raises(ComputationError, match="1 of its 7 eigenvalues"):
        twice(x_test, np.inf)
    rough = gradient_flow(RBF(1.0), x, y, loss="huber", dtype=np.float32)(None, np.inf)
    assert rough.dtype == np.float32
    np.testing.assert_allclose(rough, y, rtol=1e-5, atol=1e-5)
