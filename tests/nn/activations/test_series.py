"""Duals of any activation: against nested quadrature, itself held to mpmath, and against closed forms."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from laws import quickly
from numpy.polynomial.legendre import leggauss
from scipy.special import expit

from ntkit.errors import InputError
from ntkit.nn.activations.piecewise import Relu
from ntkit.nn.activations.series import Activation, Elu, Selu, Sigmoid, Silu, Softplus, Tanh

VARIANCES = (1e-2, 0.3, 7.0, 1e2)
THETAS = (1e-3, 0.05, 0.7, np.pi / 2, 2.4, np.pi - 1e-3)


def hard_tanh(x):
    return jnp.clip(x, -1, 1)


def shifted_abs(x):
    return jnp.abs(x - 0.5)


SMOOTH = {
    "tanh": (Tanh(), lambda x: np.tanh(x), ()),
    "sigmoid": (Sigmoid(), lambda x: expit(x), ()),
    "softplus": (Softplus(), lambda x: np.logaddexp(0, x), ()),
    "silu": (Silu(), lambda x: x * expit(x), ()),
    "elu": (Elu(), lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), (0.0,)),
    "selu": (
        Selu(),
        lambda x: 1.0507009873554804934 * np.where(x > 0, x, 1.6732632423543772848 * np.expm1(np.minimum(x, 0))),
        (0.0,),
    ),
    "hard tanh": (Activation(hard_tanh), lambda x: np.clip(x, -1, 1), (-1.0, 1.0)),
    "relu6": (Activation(jax.nn.relu6), lambda x: np.clip(x, 0, 6), (0.0, 6.0)),
    "shifted abs": (Activation(shifted_abs), lambda x: np.abs(x - 0.5), (0.5,)),
}
SLOPES = {
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
    "sigmoid": lambda x: 1 / (2 + 2 * np.cosh(np.clip(x, -300, 300))),
    "softplus": lambda x: expit(x),
    "silu": lambda x: expit(x) + x / (2 + 2 * np.cosh(np.clip(x, -300, 300))),
    "elu": lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
    "selu": lambda x: 1.0507009873554804934 * np.where(x > 0, 1, 1.6732632423543772848 * np.exp(np.minimum(x, 0))),
    "hard tanh": lambda x: 1.0 * (np.abs(x) < 1),
    "relu6": lambda x: 1.0 * ((x > 0) & (x < 6)),
    "shifted abs": lambda x: np.sign(x - 0.5),
}
X, W = leggauss(12)


def composite(edges):
    """Gauss nodes and weights on consecutive panels; `edges` (..., panels + 1) ascending."""
    low, width = edges[..., :-1, None], np.diff(edges, axis=-1)[..., None]
    shape = (*edges.shape[:-1], -1)
    return (low + width * (X + 1) / 2).reshape(shape), (width * W / 2 + 0 * low).reshape(shape)


def nested(f, g, kinks, q1, q2, theta, reach=9):
    """E[f(u) g(v)]: u by panels, v given u by panels, both split at the kinks and drawn to where f is sharp.

    They end at so many deviations, 9 or a multiple of 3 beyond: for functions that vanish around 0, where nothing else
    counts.
    """
    cos, sin = np.cos(theta), np.sin(theta)
    s1, s2 = np.sqrt(q1), np.sqrt(q2)
    sharp = np.array([*kinks, -8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 8])
    steps = sin * np.array([-8, -5, -3, -1.5, 0, 1.5, 3, 5, 8])
    crossings = (sharp[:, None] / s2 * np.sign(cos) + steps).ravel() / max(abs(cos), 0.1)
    outer = np.unique(np.clip(np.concatenate([sharp / s1, crossings, np.arange(-reach, reach + 1)]), -reach, reach))
    x, wx = composite(outer)
    there = f(s1 * x) != 0
    x, wx = x[there], wx[there]
    fixed = np.arange(-reach, reach + 1.0, 1.5)
    inner = np.broadcast_to(fixed, (len(x), len(fixed)))
    moved = (sharp / s2 - cos * x[:, None]) / sin
    y, wy = composite(np.sort(np.clip(np.concatenate([moved, inner], 1), -reach, reach), axis=1))
    given = np.sum(wy * np.exp(-y * y / 2) * g(s2 * (cos * x[:, None] + sin * y)), 1)
    return np.sum(wx * np.exp(-x * x / 2) * f(s1 * x) * given) / (2 * np.pi)


def line(f, kinks, q, reach=9):
    """E[f(u)] by panels, up to so many deviations."""
    edges = np.array([*kinks, *np.arange(-8, 8.5, 0.5)]) / np.sqrt(q)
    z, w = composite(np.unique(np.clip(np.concatenate([edges, np.arange(-reach, reach + 0.5, 0.5)]), -reach, reach)))
    return np.sum(w * np.exp(-z * z / 2) * f(np.sqrt(q) * z)) / np.sqrt(2 * np.pi)


def law(q1, q2, theta, dtype):
    """(xx, xy, yy, gap) of a pair, each array of the broadcast shape."""
    q1, q2, theta = np.broadcast_arrays(q1, q2, theta)
    s = np.sqrt(q1 * q2)
    gap = 2 * s * np.where(theta < np.pi / 2, np.sin(theta / 2), np.cos(theta / 2)) ** 2
    return tuple(jnp.asarray(a, dtype) for a in (q1, s * np.cos(theta), q2, gap))


def grid():
    """All pairs of variances, up to order, at all angles."""
    points = [(a, b, t) for a in VARIANCES for b in VARIANCES if a <= b for t in THETAS]
    return np.array(points).T


def test_the_oracle_is_mpmath():
    mpmath.mp.dps = 15
    cos, sin = mpmath.cos(0.7), mpmath.sin(0.7)
    exact = mpmath.quad(
        lambda x, y: mpmath.tanh(x) * mpmath.tanh(2 * (cos * x + sin * y)) * mpmath.npdf(x) * mpmath.npdf(y),
        [-9, -3, 0, 3, 9], [-9, -3, 0, 3, 9], maxdegree=6,
    )  # fmt: skip
    assert abs(nested(np.tanh, np.tanh, (), 1.0, 4.0, 0.7) - float(exact)) < 1e-11


@pytest.mark.parametrize("name", SMOOTH)
def test_duals_to_1e_9_and_the_estimate_covers_the_error(name, x64):
    activation, value, kinks = SMOOTH[name]
    q1, q2, theta = grid()
    found = jax.jit(activation.dual)(*law(q1, q2, theta, jnp.float64))
    for f, got in ((value, found.value), (SLOPES[name], found.derivative)):
        norm = {q: np.sqrt(line(lambda x, f=f: f(x) ** 2, kinks, q)) for q in VARIANCES}
        exact = np.array([nested(f, f, kinks, *p) for p in zip(q1, q2, theta, strict=True)])
        scale = np.array([norm[a] * norm[b] for a, b in zip(q1, q2, strict=True)])
        error = np.abs(np.asarray(got) - exact) / scale
        assert error.max() < 1e-9
    assert float(activation.error(jnp.asarray(1e2))) <= 1e-9


@pytest.mark.parametrize("name", SMOOTH)
def test_diagonal_and_mean(name, x64):
    activation, value, kinks = SMOOTH[name]
    q = np.array([1e-2, 0.3, 1.0, 20.0, 1e2])
    found, mean = jax.jit(activation.diagonal)(jnp.asarray(q)), jax.jit(activation.mean)(jnp.asarray(q))
    for i, variance in enumerate(q):
        square, slope = (
            line(lambda x: value(x) ** 2, kinks, variance),
            line(lambda x: SLOPES[name](x) ** 2, kinks, variance),
        )
        assert abs(found.value[i] / square - 1) < 2e-9
        assert abs(found.derivative[i] / slope - 1) < 2e-9
        assert abs(mean[i] - line(value, kinks, variance)) < 2e-9 * np.sqrt(square)


@pytest.mark.parametrize("dtype, bound", [(np.float32, 6e-7), (np.float64, 1e-9)])
def test_relu_is_the_arc_cosine_kernel_everywhere(dtype, bound, x64):
    rho = np.array([-1, -0.999999, 0, 0.999999, 1, 0.5, -0.5])
    q1, q2, theta = np.meshgrid(np.logspace(-2, 2, 9), np.logspace(-2, 2, 9), np.arccos(rho), indexing="ij")
    found = jax.jit(Activation(jax.nn.relu).dual)(*law(q1, q2, theta, dtype))
    exact = jax.jit(Relu().dual)(*law(q1, q2, theta, np.float64))
    scale = np.sqrt(q1 * q2) / 2
    assert np.max(np.abs(np.asarray(found.value, np.float64) - exact.value) / scale) < bound
    assert np.max(np.abs(np.asarray(found.derivative, np.float64) - exact.derivative)) < bound
    close = np.asarray(exact.gap) > 0
    ratio = np.asarray(found.gap, np.float64)[close] / np.asarray(exact.gap)[close]
    # The gap of nearly parallel pairs keeps its relative precision: of a negative pair only against the norms.
    assert np.max(np.abs(ratio - 1)) < 4 * bound


@pytest.mark.parametrize("name", ["tanh", "elu", "selu", "softplus"])
def test_float32_is_within_1e_6_of_float64(name, x64):
    activation = SMOOTH[name][0]
    q1, q2, theta = grid()
    single, double = (jax.jit(activation.dual)(*law(q1, q2, theta, d)) for d in (np.float32, np.float64))
    ends = [jax.jit(activation.diagonal)(jnp.asarray(q)) for q in (q1, q2)]
    for got, want, a, b in zip(single[:2], double[:2], *ends, strict=True):
        assert got.dtype == np.float32
        error = np.abs(np.asarray(got, np.float64) - want) / np.sqrt(np.asarray(a) * np.asarray(b))
        assert error.max() < 1e-6
        assert error.max() < float(activation.error(jnp.asarray(1e2, np.float32)))


@pytest.mark.parametrize("name", ["silu", "elu", "selu"])
@pytest.mark.parametrize("dtype, bound", [(np.float32, 1e-6), (np.float64, 1e-9)])
def test_the_angle_behind_opposite_rows_is_that_of_the_even_part(name, dtype, bound, x64):
    """At small variances these are nearly linear: phi(-x) is nearly -phi(x), and a kink behind sees what is left."""
    activation, value, kinks = SMOOTH[name]
    s, ratio = (x.ravel() for x in np.meshgrid([1e-3, 1e-2, 0.3, 5.0], [1.0, 1.001, 1.4]))
    found = jax.jit(activation.dual)(*law(s * s, (ratio * s) ** 2, np.pi, dtype))

    def halves(s):
        """phi(s z) over its norm, as an odd and an even part."""
        norm = np.sqrt(line(lambda x: value(x) ** 2, kinks, s * s))
        return norm, *(lambda z, sign=sign: (value(s * z) + sign * value(-s * z)) / (2 * norm) for sign in (-1, 1))

    for a, b, gap in zip(s, ratio * s, np.asarray(found.gap, np.float64), strict=True):
        (n1, odd1, even1), (n2, odd2, even2) = halves(a), halves(b)
        # At v = -(b / a) u.
        exact = line(lambda z: (odd1(z) - odd2(z)) ** 2 + (even1(z) + even2(z)) ** 2, kinks, 1.0)  # noqa: B023
        assert abs(np.sqrt(2 * gap / (n1 * n2)) - np.sqrt(exact)) < bound


@pytest.mark.parametrize("name", ["sigmoid", "softplus"])
def test_normalized_is_the_series_of_the_shifted_function(name, x64):
    activation, value, kinks = SMOOTH[name]
    phi = activation.normalized()
    assert phi == activation.normalized()
    mean = line(value, kinks, 1.0)
    scale = (line(lambda x: value(x) ** 2, kinks, 1.0) - mean**2) ** -0.5

    def shifted(x):
        return scale * (value(x) - mean)

    points = np.array([(1e-2, 1e-2, 0.7), (1e-2, 7.0, 2.4), (1.0, 1.0, np.pi - 1e-3), (1e2, 7.0, 0.05)])
    q = jnp.asarray(points[:, 0])
    found = jax.jit(phi.dual)(*law(*points.T, np.float64)).value
    squares, means = (phi.variance(q), phi.diagonal(q).value), phi.mean(q)
    for i, (q1, q2, theta) in enumerate(points):
        norms = [np.sqrt(line(lambda x: shifted(x) ** 2, kinks, q)) for q in (q1, q2)]
        assert abs(found[i] - nested(shifted, shifted, kinks, q1, q2, theta)) < 1e-9 * norms[0] * norms[1]
        assert abs(means[i] - line(shifted, kinks, q1)) < 2e-9 * norms[0]
        for square in squares:
            assert abs(square[i] / norms[0] ** 2 - 1) < 2e-9


def test_a_tolerance_buys_a_shorter_series(x64):
    rough, fine = (Activation(jnp.tanh, kinks=(), tolerance=t) for t in (1e-5, 1e-10))
    assert float(rough.error(jnp.asarray(1.0))) <= 1e-5
    assert float(fine.error(jnp.asarray(1.0))) <= 1e-10
    pair = law(1.0, 2.0, 0.7, np.float64)
    exact = nested(np.tanh, np.tanh, (), 1.0, 2.0, 0.7)
    assert abs(float(fine.dual(*pair).value) - exact) < 1e-10
    assert 1e-10 < abs(float(rough.dual(*pair).value) - exact) < 1e-5


@pytest.mark.parametrize("name", ["tanh", "elu", "hard tanh"])
def test_the_estimate_is_honest_beyond_the_range(name, x64):
    activation, value, kinks = SMOOTH[name]
    dual = jax.jit(activation.dual)
    for q in (1e-4, 1e3, 1e4):
        estimate = float(activation.error(jnp.asarray(q)))
        for theta in (0.05, 0.7, 2.4):
            found = dual(*law(q, q, theta, np.float64))
            for f, got in ((value, found.value), (SLOPES[name], found.derivative)):
                error = abs(float(got) - nested(f, f, kinks, q, q, theta)) / line(lambda x, f=f: f(x) ** 2, kinks, q)
                assert error <= estimate + 1e-12


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "elu", "selu", "hard tanh"])
def test_values_and_gradients_are_finite_at_the_edges(name):
    activation = SMOOTH[name][0]
    laws = jnp.asarray(
        [(0, 0, 0, 0), (0, 0, 1, 0), (1, 1, 1, 0), (1, -1, 1, 0), (1, 0, 1, 1), (1, 2, 4, 0)], jnp.float32
    )

    def total(law):
        return sum(activation.dual(*law)) + sum(activation.diagonal(law[0])) + activation.mean(law[0])

    values, slopes = quickly(jax.vmap(jax.value_and_grad(total)))(laws)
    assert np.isfinite(values).all()
    assert np.isfinite(slopes).all()


def test_price(x64):
    """d E[phi phi] / d E[u v] = E[phi' phi']."""
    for activation in (Tanh(), Elu(), Activation(hard_tanh)):

        def value(c, activation=activation):
            return activation.dual(jnp.asarray(1.5), c, jnp.asarray(0.7), jnp.sqrt(1.5 * 0.7) - jnp.abs(c)).value

        slopes = jax.jit(jax.vmap(jax.grad(value)))(jnp.asarray([-0.8, -0.1, 0.0, 0.4, 0.9]))
        c = np.array([-0.8, -0.1, 0.0, 0.4, 0.9])
        theta = np.arccos(c / np.sqrt(1.5 * 0.7))
        exact = jax.jit(activation.dual)(*law(1.5, 0.7, theta, np.float64)).derivative
        np.testing.assert_allclose(slopes, exact, rtol=0, atol=1e-7)


def test_rows_and_columns_broadcast_as_vmap_does():
    q1, q2 = jnp.asarray([0.3, 1.0, 4.0]), jnp.asarray([0.5, 2.0])
    s = jnp.sqrt(q1[:, None] * q2[None, :])
    c = 0.6 * s
    for activation in (Tanh(), Elu()):
        mapped = jax.jit(jax.vmap(jax.vmap(activation.dual, (None, 0, 0, 0)), (0, 0, None, 0)))(q1, c, q2, s - c)
        for xx, yy in ((q1[:, None], q2[None, :]), (q1[:, None] + 0 * s, q2[None, :] + 0 * s)):
            for a, b in zip(jax.jit(activation.dual)(xx, c, yy, s - c), mapped, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-6)


def test_parity_and_names():
    assert [a.parity for a in (Tanh(), Elu(), Activation(jnp.cos), Activation(hard_tanh))] == [
        "odd",
        "none",
        "even",
        "odd",
    ]
    assert Activation(jax.nn.relu6, name="six").name == "six"
    assert Tanh() == Tanh()
    assert jax.tree.leaves(Tanh()) == []


@pytest.mark.parametrize(
    "arguments",
    [{"tolerance": 0.0}, {"variances": (2.0, 1.0)}, {"kinks": "there"}, {"kinks": (float("nan"),)}, {"derivative": 3}],
)
def test_bad_arguments_are_named(arguments):
    (name,) = arguments
    with pytest.raises(InputError, match=f"`{name}`"):
        Activation(jnp.tanh, **arguments)
    with pytest.raises(InputError, match="`fn`"):
        Activation(3.0)


@pytest.mark.parametrize(("fn", "word"), [(jnp.ones_like, "constant"), (lambda x: jnp.exp(x**4), "overflows")])
def test_functions_without_a_kernel_are_refused(fn, word):
    one = jnp.ones(())
    with pytest.raises(InputError, match=word):
        Activation(fn).dual(one, one, one, 0 * one)
