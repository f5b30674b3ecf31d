"""What networks learn first: a model that is linear in what is trained, by its own matrix, and means over wide ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.diagnose.frequencies import _rates, _spans
from ntkit.nn.widths import with_widths

NET = nn.mlp(1, 8, nn.Relu(), w_std=2**0.5, b_std=0.5)


def test_a_network_whose_last_layer_is_trained_follows_its_own_matrix(x64):
    """Of such, the residual after t steps is (I - rate K / n)^t y, K its empirical NTK at the start."""
    net, n, degrees = nn.mlp(1, 8, nn.Relu(), w_std=1.5, b_std=0.7, fixed_layers=1), 12, [0, 1, 2]
    found = ntkit.frequency_study(net, degrees, [20], [4, 7], examples=n, amplitude=0.5, radius=1.3)
    angle = 2 * np.pi * np.arange(n) / n
    x = 1.3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    phi = np.stack([np.ones(n), 2**0.5 * np.cos(angle), 2**0.5 * np.cos(2 * angle)], axis=1)
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
    np.testing.assert_allclose(found.eigenvalues, ntkit.mercer(ntkit.NTK(net), 2, 2, radius=1.3).eigenvalues)
    np.testing.assert_allclose(found.predicted.max(), 0.5)


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
        ({"degrees": [0, 32]}, "below 32"),
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
        ({"net": nn.mlp(1, 8, nn.Relu())}, "holds 3, whose eigenvalue is zero"),
        ({"net": nn.mlp(1, 8, nn.Relu(), outputs=2)}, "one output"),
        ({"net": nn.mlp(1, 8, nn.Relu(), parameterization="standard")}, "standard"),
    ],
)
def test_wrong_arguments_are_refused(change, word):
    arguments = {"net": NET, "degrees": [1, 3], "widths": [8], "seeds": 2} | change
    with pytest.raises(ntkit.InputError, match=word):
        ntkit.frequency_study(**arguments)
