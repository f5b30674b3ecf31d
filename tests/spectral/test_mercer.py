"""Eigenvalues on circles and spheres against mpmath, a dense FFT, closed forms of Bach, and Monte Carlo."""

import math

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special

import ntkit
from ntkit import nn
from ntkit.spectral.harmonics import basis, gegenbauer, multiplicity, zonal

RELU = nn.mlp(1, 8, nn.Relu())
DEEP = ntkit.NTK(nn.mlp(3, 8, nn.Relu(), w_std=2**0.5, b_std=0.2))


def rough(x1, x2=None):
    """exp(-|x - y|^(1/2)): of |theta|^(1/2) at 0, where Gauss's rules have three digits."""
    x2 = x1 if x2 is None else x2
    square = jnp.sum((x1[:, None] - x2[None]) ** 2, axis=2)
    return jnp.exp(-(square**0.25))


def circle(n):
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def sphere(n, d, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def bach(dimension, degree):
    """Eigenvalues of E relu(w . x) relu(w . y), w uniform on the sphere: those of relu, by Rodrigues' formula, squared
    (Bach 2017, appendix D.2)."""
    d, k = dimension - 1, degree
    if k == 0:
        return (scipy.special.beta(1, d / 2) / scipy.special.beta(0.5, d / 2) / 2) ** 2
    if k == 1:
        return (1 / (2 * (d + 1))) ** 2
    if k % 2:
        return 0.0
    gamma = math.lgamma
    constant = gamma((d + 1) / 2) - np.log(np.pi) / 2 - gamma(d / 2) - k * np.log(2)
    return np.exp(constant + gamma(d / 2) + gamma(k - 1) - gamma(k / 2) - gamma((k + d + 2) / 2)) ** 2


@pytest.mark.parametrize("dimension", [3, 4, 9, 784])
def test_relu_has_the_eigenvalues_of_bach(dimension):
    """At radius 1 the weights of the first layer have variance 1/d, and those on the sphere have mean square 1/d."""
    found = ntkit.mercer(ntkit.NNGP(RELU), dimension, 14)
    assert 0.9 < found.explained < 1
    exact = np.array([bach(dimension, k) for k in range(15)])
    # The logarithms of gamma functions of 400 have 12 digits after the point.
    assert np.all(np.abs(found.eigenvalues - exact) <= found.errors + 1e-11 * exact)
    assert np.all(found.errors[[0, 1, 2]] < 1e-9 * exact[:3])
    assert np.all(exact[3::2] == 0)


def by_mpmath(kappa, dimension, degree):
    """Funk and Hecke's integral in the cosine, 25 digits, with Gegenbauer's polynomial by its definition."""
    with mpmath.workdps(25):
        d = mpmath.mpf(dimension)
        index = (d - 2) / 2
        one = mpmath.gegenbauer(degree, index, 1)

        def term(t):
            return kappa(t) * mpmath.gegenbauer(degree, index, t) / one * (1 - t * t) ** ((d - 3) / 2)

        constant = mpmath.gamma(d / 2) / mpmath.sqrt(mpmath.pi) / mpmath.gamma((d - 1) / 2)
        return float(constant * mpmath.quad(term, [-1, 0, 1]))


def deep_in_mpmath(t):
    """DEEP by the arc-cosine formulas, on the unit sphere in 3 dimensions."""
    bias = mpmath.mpf(0.2) ** 2
    s, q = 2 * t / 3 + bias, mpmath.mpf(2) / 3 + bias
    ntk = s
    for _ in range(3):
        c = s / q
        angle = mpmath.acos(c)
        rest = (mpmath.pi - angle) / mpmath.pi
        ntk, s = ntk * rest, q * (mpmath.sqrt(1 - c * c) / mpmath.pi + rest * c) + bias
        q, ntk = q + bias, ntk + s
    return ntk


@pytest.mark.parametrize("degree", [0, 1, 4, 7])
def test_deep_kernels_by_mpmath(degree):
    found = ntkit.mercer(DEEP, 3, [degree])
    exact = by_mpmath(deep_in_mpmath, 3, degree)
    assert abs(found.eigenvalues[0] - exact) <= 1e-14 * found.trace
    assert abs(found.eigenvalues[0] - exact) <= 2 * found.errors[0]


@pytest.mark.parametrize("dimension", [3, 6])
def test_a_root_of_the_angle_by_mpmath(dimension):
    found = ntkit.mercer(rough, dimension, [0, 2, 5])
    for degree, value in zip([0, 2, 5], found.eigenvalues, strict=True):
        exact = by_mpmath(lambda t: mpmath.exp(-((2 - 2 * t) ** mpmath.mpf(0.25))), dimension, degree)
        assert abs(value - exact) < 1e-13


@pytest.mark.parametrize(
    "kernel, order",
    [
        (ntkit.NNGP(nn.mlp(2, 8, nn.Erf(), b_std=0.3)), None),
        (ntkit.NNGP(nn.mlp(1, 8, nn.Relu(), b_std=0.5)), 4),
        (DEEP, 2),
        (ntkit.NNGP(nn.mlp(1, 8, nn.Sign())) + ntkit.NTK(nn.mlp(1, 8, nn.Gelu())) * 0.5, 2),
    ],
    ids=["erf", "nngp", "ntk", "sum"],
)
def test_on_the_circle_by_fft(kernel, order):
    """Eigenvalues fall as k^-order, so those that look alike on n points add an error of n^-order, which is
    extrapolated away; a smooth kernel has none."""
    found = ntkit.mercer(kernel, 2, 9)
    row = ntkit.gram(kernel, circle(2**14)[:1], circle(2**14), progress=False)[0]
    coarse, fine = (np.fft.rfft(part).real[:10] / len(part) for part in (row[::2], row))
    exact = fine if order is None else (2**order * fine - coarse) / (2**order - 1)
    np.testing.assert_allclose(found.eigenvalues, exact, rtol=0, atol=1e-12 * found.trace)


def test_degrees_by_thousands():
    """kappa = (sin + (pi - theta) cos) / (4 pi) has 1 / (pi (k^2 - 1))^2 at even k, and 0 at odd ones above 1."""
    found = ntkit.mercer(ntkit.NNGP(RELU), 2, [200, 2000, 2001])
    exact = [1 / (np.pi * (k * k - 1)) ** 2 for k in (200, 2000)] + [0.0]
    assert np.all(np.abs(found.eigenvalues - exact) <= found.errors)
    assert found.errors.max() < 1e-14


@pytest.mark.parametrize("dimension", [2, 3, 7])
def test_eigenfunctions_are_harmonics(dimension):
    """They sum to the zonal ones, at all pairs, as only an orthonormal basis does, and have mean square 1."""
    found, x, y = ntkit.mercer(DEEP, dimension, 3), sphere(5, dimension), sphere(4, dimension, 1)
    many = sphere(10_000, dimension, 2)
    for degree in range(4):
        phi, psi = found.eigenfunctions(x, degree), found.eigenfunctions(y, degree)
        assert phi.shape == (5, multiplicity(dimension, degree))
        np.testing.assert_allclose(phi @ psi.T, found.zonal(x, y, degree), atol=1e-10)
        values = found.eigenfunctions(many, degree)
        squares = (values**2).mean(axis=0)
        errors = (values**2).std(axis=0) / 100
        assert np.all(np.abs(squares - 1) <= 5 * errors + 1e-12)
        # Monte Carlo of f -> E k(., y) f(y), for the first function.
        kernel = ntkit.gram(DEEP, x, many, progress=False) * values[:, 0]
        error = 5 * kernel.std(axis=1) / 100
        assert np.all(np.abs(kernel.mean(axis=1) - found.eigenvalue(degree) * phi[:, 0]) <= error)


def test_the_sum_is_the_kernel_but_for_the_rest_of_the_trace():
    kernel = ntkit.NTK(nn.mlp(1, 8, nn.Erf(), w_std=1.2, b_std=0.2))
    found, x, y = ntkit.mercer(kernel, 4, 12, radius=2.0), 2 * sphere(6, 4), 2 * sphere(3, 4, 1)
    apart = np.abs(found(x, y) - ntkit.gram(kernel, x, y, progress=False))
    assert apart.max() <= (1 - found.explained) * found.trace + 1e-13
    assert 1 - found.explained < 1e-3
    np.testing.assert_allclose(found.trace, ntkit.gram(kernel, x, progress=False)[0, 0], rtol=1e-13)
    np.testing.assert_allclose(np.diag(found(x)), found.explained * found.trace)
    assert "of k(x, x)" in str(found)


def test_polynomials_and_numbers_of_harmonics():
    t = np.linspace(-1, 1, 23)
    for dimension in (3, 8):
        index = (dimension - 2) / 2
        for degree in (0, 1, 2, 9):
            exact = scipy.special.eval_gegenbauer(degree, index, t) / scipy.special.eval_gegenbauer(degree, index, 1.0)
            np.testing.assert_allclose(zonal(dimension, degree, t), exact, atol=1e-13)
    np.testing.assert_allclose(zonal(2, 40, t), np.cos(40 * np.arccos(t)), atol=1e-12)
    near = list(gegenbauer(2, 3000, np.array([2 * np.sin(5e-5) ** 2]), np.array([True])))
    np.testing.assert_allclose(near[-1], np.cos(0.3), rtol=1e-12)
    assert [multiplicity(3, k) for k in range(4)] == [1, 3, 5, 7]
    assert [multiplicity(2, k) for k in range(4)] == [1, 2, 2, 2]
    assert multiplicity(10, 2) == 54
    np.testing.assert_array_equal(basis(3, 0, sphere(2, 3)), 1)


def kinked(x1, x2=None):
    """A kink at the angle 1."""
    t = x1 @ (x1 if x2 is None else x2).T
    return 2.0 + jnp.abs(jnp.arccos(jnp.clip(t, -1.0, 1.0)) - 1.0) ** 0.5


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_refused():
    for dimension in (1, 2.0, True):
        with pytest.raises(ntkit.InputError, match="`dimension` must be a whole number, 2"):
            ntkit.mercer(DEEP, dimension, 3)
    for degrees in (-1, [], [1, 1], [0.5], "all"):
        with pytest.raises(ntkit.InputError, match="`degrees` must be"):
            ntkit.mercer(DEEP, 2, degrees)
    for name in ("radius", "tol"):
        with pytest.raises(ntkit.InputError, match=f"`{name}` must be finite and positive"):
            ntkit.mercer(DEEP, 2, 3, **{name: 0.0})
    with pytest.raises(ntkit.InputError, match="`kernel` must be callable"):
        ntkit.mercer("ntk", 2, 3)
    with pytest.raises(ntkit.InputError, match="depend on the angle"):
        ntkit.mercer(lambda x, y=None: x[:, :1] @ (x if y is None else y)[:, :1].T + 1.0, 2, 3)
    with pytest.raises(ntkit.InputError, match="more than 1e300 harmonics"):
        ntkit.mercer(DEEP, 3072, [1, 200])
    with pytest.raises(ntkit.InputError, match="several matrices"):
        ntkit.mercer(ntkit.Both(RELU), 2, 3)
    with pytest.raises(ntkit.InputError, match="positive at two equal points"):
        ntkit.mercer(lambda x, y=None: -x @ (x if y is None else y).T, 2, 3)
    with pytest.raises(ntkit.ComputationError, match=r"not positive semi-definite.*degree 2"):
        ntkit.mercer(lambda x, y=None: 2.0 - (x @ (x if y is None else y).T) ** 2, 3, 3)
    with pytest.raises(ntkit.ComputationError, match="still move by"):
        ntkit.mercer(kinked, 2, 3)


@pytest.mark.usefixtures("unchecked")
def test_wrong_points_are_refused():
    found = ntkit.mercer(ntkit.NNGP(RELU), 3, [0, 2])
    for x in (2 * sphere(2, 3), sphere(2, 4)):
        with pytest.raises(ntkit.InputError, match="on the sphere of radius 1"):
            found(x)
    with pytest.raises(ntkit.InputError, match="Degree 1 was not asked for"):
        found.eigenvalue(1)
    with pytest.raises(ntkit.InputError, match="`degree` must be a whole number"):
        found.zonal(sphere(2, 3), sphere(2, 3), -1)
    with pytest.raises(ntkit.InputError, match="4000 at most"):
        found.eigenfunctions(sphere(2, 3), 3000)
