"""What networks learn first: a model that is linear in what is trained, by its own matrix, and means over wide ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.diagnose.frequencies import _checked_examples, _orthonormal, _points, _rates, _spans
from ntkit.nn.widths import with_widths

NET = nn.mlp(1, 8, nn.Relu(), w_std=2**0.5, b_std=0.5)


@pytest.mark.parametrize("dimension, n", [(2, 12), (3, 30)])
def test_a_network_whose_last_layer_is_trained_follows_its_own_matrix(x64, dimension, n):
    """Of such, the residual after t steps is (I - rate K / n)^t y, K its empirical NTK at the start."""
    net, degrees = nn.mlp(1, 8, nn.Relu(), w_std=1.5, b_std=0.7, fixed_layers=1), [0, 1, 2]
    found = ntkit.frequency_study(
        net, degrees, [20], [4, 7], dimension=dimension, examples=n, amplitude=0.5, radius=1.3
    )
    unit = _points(dimension, n)
    t = unit[:, 0]
    second = 2**0.5 * (2 * t**2 - 1) if dimension == 2 else 5**0.5 * (1.5 * t**2 - 0.5)  # Chebyshev's, Legendre's
    phi, x = np.stack([np.ones(n), dimension**0.5 * t, second], axis=1), 1.3 * unit
    np.testing.assert_allclose(phi.T @ phi / n, np.diag([1, 1, phi[:, 2] @ phi[:, 2] / n]), atol=1e-12)
    phi[:, 2] /= np.sqrt(np.mean(phi[:, 2] ** 2))
    wide = with_widths(net, 20)
    for number, seed in enumerate((4, 7)):
        params = wide.init(jax.random.fold_in(jax.random.key(seed), 0), x.shape, dtype=jnp.float64)
        last = [params[-1][name] for name in ("w", "b")]
        hidden = np.asarray(wide.layers[1].fn(wide.layers[0].apply(params[0], jnp.asarray(x))))
        k = 1.5**2 / 20 * hidden @ hidden.T + 0.7**2
        assert sum(p.size for p in last) == 21
        step = np.eye(n) - found.learning_rate / n * k
        for t in (0, 1, 5, found.left.shape[2] - 1):
            rest = np.linalg.matrix_power(step, t) @ phi.sum(axis=1)
            np.testing.assert_allclose(found.left[0, number, t], phi.T @ rest / n, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.eigenvalues, ntkit.mercer(ntkit.NTK(net), dimension, 2, radius=1.3).eigenvalues)
    np.testing.assert_allclose(found.predicted.max(), 0.5)


def test_points_of_spheres_are_designs():
    """Means of all monomials of degree 3 and less are those over the sphere, and the points have length 1."""
    for d, n in ((3, 12), (5, 20)):
        x = _points(d, n)
        assert x.shape == (n, d)
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-12)
        np.testing.assert_allclose(x.T @ x / n, np.eye(d) / d, atol=1e-14)
        np.testing.assert_allclose(np.einsum("ni,nj,nk->ijk", x, x, x), 0, atol=1e-14)
        assert len(np.unique(np.round(x, 9), axis=0)) == n
    np.testing.assert_allclose(_points(2, 4), [[1, 0], [0, 1], [-1, 0], [0, -1]], atol=1e-15)


def test_harmonics_are_made_orthonormal_by_falling_eigenvalues():
    """Gram and Schmidt written out: what is learned first stays as it is, what is learned last is changed most."""
    phi = np.random.default_rng(0).normal(size=(20, 3))
    found = _orthonormal(phi, np.array([2, 0, 1]))
    wanted = np.zeros_like(phi)
    for k in (2, 0, 1):
        rest = phi[:, k] - wanted @ (wanted.T @ phi[:, k]) / 20
        wanted[:, k] = rest / np.sqrt(np.mean(rest**2))
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_examples_of_a_study_that_is_not_told_how_many():
    assert [_checked_examples(None, d) for d in (2, 3, 7, 500)] == [64, 240, 252, 1000]


def test_wide_networks_on_a_sphere_learn_at_the_rate_expected_on_its_points():
    """And not at the eigenvalue of the whole sphere, which 64 points miss by more than the scatter of the networks."""
    study = ntkit.frequency_study(NET, [0, 1, 2], [64, 2048], 12, dimension=4, examples=64, amplitude=0.1)
    assert study.dimension == 4
    assert np.all(study.standard_error[1] < 0.02 * study.expected)
    assert np.all(np.abs(study.mean - study.expected) < 5 * study.standard_error)
    assert abs(study.mean[1, 2] - study.predicted[2]) > 5 * study.standard_error[1, 2]
    rate = study.convergence
    assert rate.standard_error < 0.1
    assert abs(rate.slope + 0.5) < 5 * rate.standard_error


def test_what_is_expected_on_points_comes_to_the_eigenvalue_as_they_grow():
    """Degrees 0 and 1 as 1 / n. Degree 2 is the eigenvalue times the mean square of its harmonic, exactly 1 over the
    sphere, to the order 1 / n. And on any points it is descent with the kernel's own matrix, step by step."""
    few, many = (ntkit.frequency_study(NET, [2, 0, 1], [1], 2, dimension=3, examples=n, steps=2) for n in (60, 960))
    second = [5**0.5 * (1.5 * _points(3, n)[:, 0] ** 2 - 0.5) for n in (60, 960)]
    apart = [
        np.abs(study.expected / study.predicted - [np.mean(harmonic**2), 1, 1])
        for study, harmonic in zip((few, many), second, strict=True)
    ]
    assert np.all(apart[0] < 0.2)
    assert np.all(apart[1] < apart[0] / 8)
    x = _points(3, 60)
    with jax.enable_x64(True):
        k = np.asarray(ntkit.NTK(NET)(jnp.asarray(x)))
    phi = np.stack([second[0] / np.sqrt(np.mean(second[0] ** 2)), np.ones(60), 3**0.5 * x[:, 0]], axis=1)
    rest = phi.sum(axis=1)
    for t in range(3):
        np.testing.assert_allclose(few.infinite[t], phi.T @ rest / 60, rtol=1e-9, atol=1e-12)
        rest = rest - few.learning_rate / 60 * k @ rest


def test_wide_networks_learn_at_the_rate_of_the_eigenvalue():
    """At width n as well, within its scatter, as Bowman and Montufar have it."""
    study = ntkit.frequency_study(NET, [0, 1, 2], [64, 1024], 16, amplitude=0.1)
    assert study.widths[0] == study.examples
    assert np.all(study.standard_error[1] < 0.03 * study.predicted)
    assert np.all(np.abs(study.mean - study.predicted) < 5 * study.standard_error)
    assert study.predicted[0] > 5 * study.predicted[2]
    # Their scatter falls with the width.
    rate = study.convergence
    assert rate.standard_error < 0.1  # or it would not be told from 0
    assert abs(rate.slope + 0.5) < 5 * rate.standard_error
    assert "deviation: width^(-0." in str(study)
    assert np.isnan(study.left).sum() == 0
    np.testing.assert_allclose(study.left[:, :, 0], 1, rtol=1e-4)


def test_a_rate_is_the_factor_of_a_step():
    t = np.arange(12)
    path = np.stack([0.9**t, 0.5**t, np.where(t < 3, 0.2**t, -1.0), -(0.5**t)], axis=1)[None]
    np.testing.assert_allclose(_rates(path, [11, 4, 8, 2]), [[0.1, 0.5, 0.8, 1.0]], rtol=1e-12)
    assert _spans([0, 1], np.array([0.5, 0.01]), None) == [2, 100]
    assert _spans([0, 1], np.array([0.5, 0.01]), 30) == [2, 30]
    with pytest.raises(ntkit.ComputationError, match="diverged"):
        _rates(path * np.nan, [2, 2, 2, 2])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "change, word",
    [
        ({"degrees": [0, 32]}, "from 0 to 31"),
        ({"degrees": []}, "`degrees` must be"),
        ({"degrees": [1, 1]}, "`degrees` must be"),
        ({"degrees": 3}, "`degrees` must be"),
        ({"widths": []}, "`widths` must be a list"),
        ({"widths": [0]}, "`widths` must be"),
        ({"seeds": 1}, "at least 2 networks"),
        ({"amplitude": 0.0}, "`amplitude` must be finite and positive"),
        ({"learning_rate": 10.0}, "`learning_rate` must be below"),
        ({"steps": 0}, "`steps` must be"),
        ({"learning_rate": 1e-9}, "needs .* steps"),
        ({"examples": 2}, "`examples` must be"),
        ({"dimension": 1}, "`dimension` must be"),
        ({"dimension": 3, "examples": 63}, "multiple of 6.*Take 66"),
        ({"dimension": 3, "examples": 12}, "from 0 to 2"),
        ({"net": nn.mlp(1, 8, nn.Relu())}, "holds 3, whose eigenvalue is zero"),
        ({"net": nn.mlp(1, 8, nn.Relu(), outputs=2)}, "one output"),
        ({"net": nn.mlp(1, 8, nn.Relu(), parameterization="standard")}, "standard"),
    ],
)
def test_wrong_arguments_are_refused(change, word):
    arguments = {"net": NET, "degrees": [1, 3], "widths": [8], "seeds": 2} | change
    with pytest.raises(ntkit.InputError, match=word):
        ntkit.frequency_study(**arguments)
