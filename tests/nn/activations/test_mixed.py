"""Duals of functions with kinks away from 0 that no parabolas make, and of jumps: against nested split quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import quickly
from scipy.special import expit
from test_series import law, line, nested

from ntkit.nn.activations.series import Activation


def bent_silu(x):
    return jax.nn.silu(x) + jnp.maximum(x - 1, 0) / 2


def cut_cosine(x):
    return jnp.where(x > 0, jnp.cos(x), 0)


# cos(10 z) turns often: the panels of the oracle must follow.
FINE = tuple(np.arange(-50, 51, 4.0))
# The function, its derivative, its kinks.
KINKED = {
    "bent silu": (
        Activation(bent_silu),
        lambda x: x * expit(x) + np.maximum(x - 1, 0) / 2,
        lambda x: expit(x) + x * expit(x) * expit(-x) + (x > 1) / 2,
        (1.0,),
    ),
    "cos x, x > 0": (
        Activation(cut_cosine),
        lambda x: np.where(x > 0, np.cos(x), 0),
        lambda x: np.where(x > 0, -np.sin(x), 0),
        FINE + (0.0,),
    ),
}
# Sharp where s1 = s2 near 0 and pi; all corners of the promised range.
POINTS = np.array(
    [
        (1e-2, 1e-2, 0.7), (1e-2, 7.0, 0.05), (0.3, 1e2, 2.4), (7.0, 7.0, 1e-3), (7.0, 7.0, 0.05), (7.0, 9.0, 0.01),
        (1e2, 1e2, 0.05), (1e2, 1e2, 1.5), (1e2, 1e2, np.pi - 1e-3), (0.3, 0.3, 2.9),
    ]
)  # fmt: skip


def norms(f, kinks):
    return [np.sqrt([line(lambda x: f(x) ** 2, kinks, q) for q in column]) for column in POINTS.T[:2]]


@pytest.mark.parametrize("name", KINKED)
def test_duals_and_gap(name, x64):
    activation, value, slope, kinks = KINKED[name]
    q1, q2, theta = POINTS.T
    single, double = (jax.jit(activation.dual)(*law(q1, q2, theta, d)) for d in (np.float32, np.float64))
    for f, rough, fine in ((value, single.value, double.value), (slope, single.derivative, double.derivative)):
        exact, (n1, n2) = np.array([nested(f, f, kinks, *p) for p in POINTS]), norms(f, kinks)
        assert np.max(np.abs(fine - exact) / (n1 * n2)) < 1e-9
        promised = float(activation.error(jnp.asarray(1e2, jnp.float32)))
        assert np.max(np.abs(np.asarray(rough, np.float64) - exact) / (n1 * n2)) < promised <= 2e-6
    exact, (n1, n2) = np.array([nested(value, value, kinks, *p) for p in POINTS]), norms(value, kinks)
    np.testing.assert_allclose(double.gap, n1 * n2 - np.abs(exact), rtol=0, atol=1e-9 * np.max(n1 * n2))
    # Nearly parallel pairs of one variance keep their digits.
    near = (q1 == q2) & (theta < 0.01)
    for gap, digits in ((single.gap, 1e-3), (double.gap, 1e-6)):
        np.testing.assert_allclose(np.asarray(gap)[near], (n1 * n2 - exact)[near], rtol=digits)
    assert float(activation.error(jnp.asarray(1e2))) <= 1e-9


@pytest.mark.parametrize("name", KINKED)
def test_diagonal_and_mean(name, x64):
    activation, value, slope, kinks = KINKED[name]
    q = np.array([1e-2, 0.3, 7.0, 1e2])
    found, mean = jax.jit(activation.diagonal)(jnp.asarray(q)), activation.mean(jnp.asarray(q))
    for i, variance in enumerate(q):
        squares = [line(lambda x, f=f: f(x) ** 2, kinks, variance) for f in (value, slope)]
        np.testing.assert_allclose([found.value[i], found.derivative[i]], squares, rtol=2e-9)
        assert abs(mean[i] - line(value, kinks, variance)) < 2e-9 * np.sqrt(squares[0])


@pytest.mark.parametrize("dtype, bound", [(np.float32, 2e-6), (np.float64, 1e-6)])
def test_the_angle_behind_opposite_rows_is_that_of_the_even_part(dtype, bound, x64):
    """At small variances it is nearly linear: phi(-x) is nearly -phi(x), and a kink behind sees what is left."""
    activation, value, _, kinks = KINKED["bent silu"]
    knots = (*kinks, *(-k for k in kinks))
    s, ratio = (x.ravel() for x in np.meshgrid([1e-2, 0.3, 5.0], [1.0, 1.4]))
    gaps = jax.jit(activation.dual)(*law(s * s, (ratio * s) ** 2, np.pi, dtype)).gap

    def unit(z, s):
        return value(s * z) / np.sqrt(line(lambda x: value(x) ** 2, kinks, s * s))

    for a, b, gap in zip(s, ratio * s, np.asarray(gaps, np.float64), strict=True):
        norms = [np.sqrt(line(lambda x: value(x) ** 2, kinks, q)) for q in (a * a, b * b)]
        # At v = -(b / a) u.
        exact = line(lambda x: (unit(x / a, a) + unit(-x / a, b)) ** 2, (*knots, *(k * a / b for k in knots)), a * a)  # noqa: B023
        assert abs(np.sqrt(2 * gap / (norms[0] * norms[1])) - np.sqrt(exact)) < bound


def test_float32_sees_the_angle_between_parallel_rows_of_nearly_equal_length(x64):
    """A kink behind sees the root of what lengths a thousandth apart cost, which a difference of moments rounds off."""
    activation, value, _, kinks = KINKED["bent silu"]
    s, apart = (x.ravel() for x in np.meshgrid([0.1, 0.5, 1.0, 3.0], 10.0 ** np.arange(-4, -0.9, 0.5)))
    gaps = jax.jit(activation.dual)(*law(s * s, (s * (1 + apart)) ** 2, 0.0, np.float32)).gap
    for a, b, gap in zip(s, s * (1 + apart), np.asarray(gaps, np.float64), strict=True):
        norms = [np.sqrt(line(lambda x: value(x) ** 2, kinks, q)) for q in (a * a, b * b)]
        exact = line(lambda x: (value(x) / norms[0] - value(b / a * x) / norms[1]) ** 2, (*kinks, a / b), a * a)  # noqa: B023
        assert abs(np.sqrt(2 * gap / (norms[0] * norms[1])) - np.sqrt(exact)) < 1e-5


def test_finite_at_the_edges():
    activation = KINKED["bent silu"][0]
    laws = jnp.asarray(
        [(0, 0, 0, 0), (0, 0, 1, 0), (1, 1, 1, 0), (1, -1, 1, 0), (1, 0, 1, 1), (1, 2, 4, 0), (900, 90, 100, 210)],
        jnp.float32,
    )

    def total(law):
        return sum(activation.dual(*law)) + sum(activation.diagonal(law[0])) + activation.mean(law[0])

    values, slopes = quickly(jax.vmap(jax.value_and_grad(total)))(laws)
    assert np.isfinite(values).all()
    assert np.isfinite(slopes).all()
