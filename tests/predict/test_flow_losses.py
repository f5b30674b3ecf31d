"""Gradient flow on any loss against the closed form, scipy's integrators and conserved quantities."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.special
from prediction_examples import RBF, dense_rbf, regression

from ntkit.errors import ComputationError, InputError
from ntkit.predict import ODE, CrossEntropy, Huber, Logistic, Squared, gradient_flow

TIGHT = ODE(rtol=1e-11, atol=1e-12)


def classes(n=20, c=3):
    x, _, x_test = regression(n=n)
    labels = np.argmax(x @ np.random.default_rng(1).normal(size=(3, c)), axis=1)
    return x, np.eye(c)[labels], x_test


def half_square(f, y):
    return 0.5 * jnp.sum((f - y) ** 2)


def test_integrated_it_is_the_closed_form():
    x, y, x_test = regression(n=15, outputs=2)
    times = [30.0, 0.0, 400.0, 1.0]
    f0 = {"f0": lambda x: x[:, :2], "scale": 2.0, "learning_rate": 0.7}
    closed, found = gradient_flow(RBF(1.0), x, y, **f0), gradient_flow(RBF(1.0), x, y, loss=half_square, **f0)
    np.testing.assert_allclose(found(x_test, times), closed(x_test, times), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found(None, times), closed(None, times), rtol=1e-8, atol=1e-8)
    assert found.statistics.deviation < 1e-8
    assert found.statistics.time == 400.0
    np.testing.assert_allclose(found.statistics.cost, np.mean(np.sum((closed(None, 400.0) - y) ** 2, 1)) / 2, rtol=1e-8)
    # An earlier time afterwards, and a time of its own: the same function.
    np.testing.assert_allclose(found(x_test, 17.0), closed(x_test, 17.0), rtol=1e-8, atol=1e-8)
    assert found.statistics.time == 400.0


def softmax_slope(f, y):
    return scipy.special.softmax(f, axis=1) - y


def logistic_slope(f, y):
    return -y * scipy.special.expit(-y * f)


def huber_slope(f, y):
    return np.clip(f - y, -0.4, 0.4)


def nonconvex_slope(f, y):
    return 2 * (f - y) / (1 + (f - y) ** 2) ** 2


CASES = {
    "cross-entropy": ("cross-entropy", softmax_slope),
    "logistic": ("logistic", logistic_slope),
    "huber": (Huber(0.4), huber_slope),
    "own, not convex": (lambda f, y: jnp.sum(1 - 1 / (1 + (f - y) ** 2)), nonconvex_slope),
}


@pytest.mark.parametrize("case", CASES)
def test_it_solves_the_stated_differential_equation(case):
    """Over training and test examples together, by scipy, with slopes written by hand."""
    loss, slope = CASES[case]
    x, y, x_test = classes() if case == "cross-entropy" else regression(n=20, outputs=2)
    y = np.sign(y) if case == "logistic" else y
    k = dense_rbf(np.concatenate([x, x_test]), x, 1.0)

    def down(_, f):
        return -(0.5 / 20) * (k @ slope(f.reshape(27, -1)[:20], y)).ravel()

    path = scipy.integrate.solve_ivp(
        down, (0, 50.0), np.zeros(27 * y.shape[1]), method="DOP853", rtol=1e-11, atol=1e-12
    )
    want = path.y[:, -1].reshape(27, -1)
    flow = gradient_flow(RBF(1.0), x, y, 0.5, loss=loss, ode=TIGHT)
    np.testing.assert_allclose(flow(x_test, 50.0), want[20:], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(flow(None, 50.0), want[:20], rtol=1e-8, atol=1e-9)
    # dC/dt = -learning_rate |d|_K^2.
    assert flow.statistics.deviation < 1e-9
    if case == "huber":
        single = gradient_flow(RBF(1.0), x, y, 0.5, loss=loss, dtype=np.float32)
        assert single(x_test, 50.0).dtype == np.float32
        np.testing.assert_allclose(single(x_test, 50.0), want[20:], atol=1e-3)
        assert single.statistics.steps < 100  # tolerances below its rounding took 900


def test_the_energy_balance_shows_a_wrong_slope():
    """A loss whose derivative is not its own, as of a rule that is written wrongly."""
    import jax

    @jax.custom_jvp
    def wrong(f, y):
        return half_square(f, y)

    wrong.defjvp(lambda at, along: (wrong(*at), 1.1 * jax.jvp(half_square, at, along)[1]))
    x, y, _ = regression(n=10)
    flow = gradient_flow(RBF(1.0), x, y, loss=wrong)
    flow(None, 20.0)
    assert flow.statistics.deviation > 0.01


@pytest.mark.parametrize(
    "loss, peer",
    [
        (Squared(), lambda f, y: jnp.sum(optax.l2_loss(f, y))),
        (CrossEntropy(), optax.safe_softmax_cross_entropy),
        (Huber(0.4), lambda f, y: jnp.sum(optax.huber_loss(f, y, delta=0.4))),
        (Logistic(), lambda f, y: jnp.sum(optax.sigmoid_binary_cross_entropy(f, (y + 1) / 2))),
    ],
    ids=lambda v: type(v).__name__,
)
def test_losses_are_those_of_the_field(x64, loss, peer):
    f = jnp.asarray([0.3, -2.0, 30.0])
    y = jnp.asarray([-1.0, 1.0, 1.0]) if isinstance(loss, Logistic) else jnp.asarray([0.0, 1.0, 0.0])
    np.testing.assert_allclose(loss(f, y), peer(f, y), rtol=1e-13)


def test_ctrl_c_leaves_what_was_integrated():
    x, y, _ = classes()
    asked = []

    def interrupt(done, total):
        asked.append((done, total))
        if len(asked) == 3:
            raise KeyboardInterrupt

    flow = gradient_flow(RBF(1.0), x, y, loss="cross-entropy", progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        flow(None, [1.0, 20.0])
    assert asked == [(0, 100), (100, 100), (0, 100)]
    fresh = gradient_flow(RBF(1.0), x, y, loss="cross-entropy")
    np.testing.assert_allclose(flow(None, [1.0, 20.0]), fresh(None, [1.0, 20.0]), rtol=1e-12)


def test_what_cannot_be_integrated_is_said_with_its_statistics():
    x, y, _ = regression(n=10)
    flow = gradient_flow(RBF(1.0), x, y, loss=half_square, ode=ODE(max_steps=5))
    with pytest.raises(ComputationError, match=r"not integrated to t = 1e\+09.*`max_steps`.*FlowStatistics"):
        flow(None, 1e9)
    for beyond, words in (
        (lambda f: f * jnp.nan, r"no step is small enough.*FlowStatistics"),
        (lambda f: jnp.nan, "nan at"),
    ):
        flow = gradient_flow(RBF(1.0), x, y, loss=lambda f, y, b=beyond: jnp.sum(jnp.where(f < 0.1, -f, b(f))))
        with pytest.raises(ComputationError, match=words):
            flow(None, 100.0)
    with pytest.raises(ComputationError, match="loss is nan before training"):
        gradient_flow(RBF(1.0), x, y, loss=lambda f, y: jnp.sum(jnp.log(f - y - 5)))


def test_bad_input_is_refused_by_name():
    x, y, x_test = classes()
    twos = np.where(np.arange(20)[:, None] == 3, 2 * y, y)
    with pytest.raises(InputError, match=r"one-hot.*row 3 sums to 2.*np.eye"):
        gradient_flow(RBF(1.0), x, twos, loss="cross-entropy")
    with pytest.raises(InputError, match=r"`y` has 1 column.*np.eye"):
        gradient_flow(RBF(1.0), x, y.argmax(1), loss="cross-entropy")
    with pytest.raises(InputError, match=r"-1 or 1, but `y` holds 0\.0.*2 \* y - 1"):
        gradient_flow(RBF(1.0), x, y, loss=Logistic())
    with pytest.raises(InputError, match=r"`loss` must be one of 'squared'"):
        gradient_flow(RBF(1.0), x, y, loss="mse")
    with pytest.raises(InputError, match=r"`loss` must give one number.*\(3,\)"):
        gradient_flow(RBF(1.0), x, y, loss=lambda f, y: (f - y) ** 2)
    with pytest.raises(InputError, match="`delta`"):
        Huber(0.0)
    with pytest.raises(InputError, match="`rtol`"):
        ODE(rtol=-1.0)
    with pytest.raises(InputError, match="`max_steps`"):
        ODE(max_steps=0)
    flow = gradient_flow(RBF(1.0), x, y, loss="cross-entropy")
    for t in (-1.0, np.nan, [[1.0]]):
        with pytest.raises(InputError, match="`t` must be"):
            flow(x_test, t)
