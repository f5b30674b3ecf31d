"""`error` is never below the error: hostile functions, on random pairs, against nested quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_series import law, line, nested

from ntkit.nn.activations._kinks import find_kinks
from ntkit.nn.activations._quadrature import derivative_of, hosted
from ntkit.nn.activations.series import Activation


def shrunk_tanh(x):
    t = jnp.tanh(x)
    return jnp.sign(t) * jnp.maximum(jnp.abs(t) - 0.3, 0)


def gated_softplus(x):
    return jnp.where(x > 0.5, jax.nn.softplus(x), 0.0)


def stepped_softsign(x):
    return x / (1 + jnp.abs(x)) + jnp.where(x > 0, 0.5, 0.0)


def cubic(x):
    return jnp.maximum(x - 1, 0) ** 3


def late_relu(x):
    return jnp.maximum(x - 2, 0)


def parabolas(x):
    return x * jnp.abs(x - 2)


# The functions, and how many deviations the oracle reaches: at variance 1e-2 gates lie beyond ten and twenty.
LOCALISED = ((shrunk_tanh, 9), (gated_softplus, 12), (stepped_softsign, 9))
CLOSED = ((cubic, 18), (late_relu, 30), (parabolas, 9))


def pairs(count):
    """All over the promised range, half of them nearly parallel or antiparallel, a third of nearly equal variances."""
    draw = np.random.default_rng(7)
    q1, q2 = 10 ** draw.uniform(-2, 2, (2, count))
    near = np.arange(count) % 3 == 0
    q2 = np.where(near, np.clip(q1 * (1 + 10 ** draw.uniform(-4, -0.5, count)), 1e-2, 1e2), q2)
    q1[:4], q2[:4] = (1e-2, 1e-2, 1e2, 1e2), (1e-2, 1e2, 1e-2, 1e2)
    theta = np.where(np.arange(count) % 2, draw.uniform(0, np.pi, count), 10 ** draw.uniform(-3.5, 0, count))
    return q1, q2, np.where(np.arange(count) % 4, theta, np.pi - theta)


def padded(fn):
    """fn on the host, compiled for a few shapes rather than for each pair's."""
    f = hosted(fn)

    def evaluate(x):
        count = max(1024, 1 << (x.size - 1).bit_length())
        return f(np.pad(x.ravel(), (0, count - x.size)))[: x.size].reshape(x.shape)

    return evaluate


def worst_errors(activation, fn, dtypes, reach=9):
    """The largest error of both duals relative to their norms, one a dtype."""
    q1, q2, theta = pairs(16)
    knots = tuple({k.place for k in find_kinks(fn, None)})
    found = [jax.jit(activation.dual)(*law(q1, q2, theta, d)) for d in dtypes]
    worst = np.zeros(len(dtypes))
    for which, f in enumerate((padded(fn), padded(derivative_of(fn)))):
        exact = np.array([nested(f, f, knots, *p, reach) for p in zip(q1, q2, theta, strict=True)])
        squares = [[line(lambda x, f=f: f(x) ** 2, knots, q, reach) for q in side] for side in (q1, q2)]
        scale = np.sqrt(squares[0]) * np.sqrt(squares[1])
        for i, got in enumerate(found):
            # What underflows counts as right.
            away = np.abs(np.asarray(got[which], np.float64) - exact) - 100 * float(np.finfo(dtypes[i]).tiny)
            worst[i] = max(worst[i], np.max(np.maximum(away, 0) / scale))
    return worst


@pytest.mark.parametrize("fn, reach", LOCALISED)
def test_the_estimate_covers_the_error_of_localised_kinks(fn, reach, x64):
    activation = Activation(fn)
    (error,) = worst_errors(activation, fn, [np.float64], reach)
    assert error <= float(activation.error(jnp.asarray(1e2))) <= 1e-9


@pytest.mark.parametrize("fn, reach", CLOSED)
def test_the_estimate_covers_the_error_of_closed_forms(fn, reach, x64):
    activation = Activation(fn)
    (double,) = worst_errors(activation, fn, [np.float64], reach)
    # The oracle itself is good to about 1e-12.
    assert double - 1e-11 <= float(activation.error(jnp.asarray(1e2))) <= 1e-9
