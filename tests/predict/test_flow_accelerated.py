"""Flows with momentum against mpmath, a numerical integration of the whole system, and many small steps."""

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
from prediction_examples import RBF, dense_rbf, regression

import ntkit
from ntkit.errors import InputError
from ntkit.predict import ODE, HeavyBall, HeavyBallFlow, NesterovFlow
from ntkit.predict.flow.accelerated import rolled

FRICTIONS = [0.0, 1e-9, 1e-4, 0.5, 1.9, 3.0, 4.0, 20.0, 1e4, 1e8]


def exact(z, m):
    with mpmath.workdps(100):
        z, m = mpmath.mpf(z) or mpmath.mpf("1e-25"), mpmath.mpf(m)
        h = mpmath.sqrt(m * m - z * z)
        q = mpmath.exp(-m) * (mpmath.cosh(h) + m * (mpmath.sinh(h) / h if h else 1))
        return float(mpmath.re((1 - q) / z**2))


@pytest.mark.parametrize("m", FRICTIONS)
def test_an_oscillator_keeps_its_digits_in_every_regime(m):
    z = np.array([0, 1e-12, 1e-6, 1e-3, 0.1, 0.9, 2, 3.99, 4.01, 7, 20, 100, 1e4])
    z = np.concatenate([z, m * np.array([0.5, 0.87, 0.9, 1 - 1e-9, 1, 1 + 1e-9, 1.1, 2])])
    want = np.array([exact(value, m) for value in z])
    found = rolled(z, m)
    # Where q swings back to 1 the difference has absolute digits only.
    np.testing.assert_array_less(np.minimum(np.abs(found / want - 1), np.abs(found - want) * z**2), 2e-13)


def test_what_nesterov_leaves_is_a_bessel_function():
    for z in (0.0, 1e-8, 0.1, 0.49, 0.51, 5.0, 1e3):
        value = mpmath.mpf(z) or mpmath.mpf("1e-10")
        with mpmath.workdps(50):
            want = float((1 - 2 * mpmath.besselj(1, value) / value) / value**2)
        np.testing.assert_allclose(NesterovFlow().learned(np.array([z / 2]), 2.0), 4 * want, rtol=1e-13)


def start(x):
    return np.cos(x.sum(1))


def log_cosh(f, y):
    return jnp.sum(jnp.log(jnp.cosh(f - y)))


@pytest.mark.parametrize("momentum", [HeavyBallFlow(0.0), HeavyBallFlow(0.3), HeavyBallFlow(50.0), NesterovFlow()])
@pytest.mark.parametrize("loss", ["squared", log_cosh], ids=["in closed form", "integrated"])
def test_the_flow_is_the_integrated_system(momentum, loss):
    x, y, x_test = regression(n=12)
    both, rate, times = np.concatenate([x, x_test]), 2.0, [0.0, 0.5, 7.0]
    own = np.tanh if loss is log_cosh else (lambda d: d)
    k, m = dense_rbf(both, x, 1.0), len(both)

    def slope(t, state):
        f, velocity = state[:m], state[m:]
        friction = 3 / t if isinstance(momentum, NesterovFlow) else momentum.friction
        return np.concatenate([velocity, -friction * velocity - rate * k @ own(f[:12] - y) / 12])

    # Near t = 0 Nesterov's friction is infinite: f'' = -rate K d / 4n there.
    first, d = 1e-5, k @ own(start(x) - y) / 12
    begin = np.concatenate([start(both) - rate * d * first**2 / 8, -rate * d * first / 4])
    if isinstance(momentum, HeavyBallFlow):
        first, begin = 0.0, np.concatenate([start(both), np.zeros(m)])
    want = scipy.integrate.solve_ivp(slope, (first, 7.0), begin, t_eval=times[1:], rtol=1e-11, atol=1e-13).y[:m].T
    options = {"momentum": momentum, "f0": start, "loss": loss, "ode": ODE(1e-10, 1e-12)}
    flow = ntkit.gradient_flow(RBF(1.0), x, y, rate, **options)
    np.testing.assert_allclose(flow(x_test, times), np.vstack([start(x_test), want[:, 12:]]), atol=1e-8)
    np.testing.assert_allclose(flow(None, times), np.vstack([start(x), want[:, :12]]), atol=1e-8)
    if loss is log_cosh:
        assert flow.statistics.deviation < 1e-8  # of the energy balance
        np.testing.assert_allclose(flow(x_test, 3.0), ntkit.gradient_flow(RBF(1.0), x, y, rate, **options)(x_test, 3.0))


def test_small_steps_of_the_heavy_ball_come_near_at_first_order():
    x, y, x_test = regression(n=12)
    flow = ntkit.gradient_flow(RBF(1.0), x, y, momentum=HeavyBallFlow(0.4))
    errors = []
    for root in (0.02, 0.01):
        steps = HeavyBall(root**2, 1 - 0.4 * root)
        errors.append(np.abs(ntkit.descend(RBF(1.0), x, y, steps)(x_test, round(6 / root)) - flow(x_test, 6.0)).max())
    assert errors[1] < 1e-2
    assert 1.8 < errors[0] / errors[1] < 2.2


def test_the_end_is_that_of_gradient_flow_and_much_friction_is_it():
    x, y, x_test = regression(n=12)
    plain = ntkit.gradient_flow(RBF(1.0), x, y)
    for momentum in (HeavyBallFlow(0.5), NesterovFlow()):
        flow = ntkit.gradient_flow(RBF(1.0), x, y, momentum=momentum)
        np.testing.assert_allclose(flow(x_test), plain(x_test), rtol=1e-10)
    slow = ntkit.gradient_flow(RBF(1.0), x, y, momentum=HeavyBallFlow(1e7))
    np.testing.assert_allclose(slow(x_test, 3e7), plain(x_test, 3.0), rtol=1e-6)


def test_wrong_momenta_are_refused(unchecked):
    x, y, _ = regression(n=5)
    with pytest.raises(InputError, match=r"`friction` must be finite and zero or more"):
        HeavyBallFlow(-1.0)
    with pytest.raises(InputError, match=r"belong to `ntkit.descend`"):
        ntkit.gradient_flow(RBF(1.0), x, y, momentum=HeavyBall(0.1, 0.9))
    for loss in ("squared", "huber"):
        with pytest.raises(InputError, match="swings for ever"):
            ntkit.gradient_flow(RBF(1.0), x, y, loss=loss, momentum=HeavyBallFlow(0.0))(None, np.inf)
