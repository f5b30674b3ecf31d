"""Random features against the laws of Gaussian matrices, dense conditional means, and their model really trained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import ntkit
from ntkit import nn
from ntkit.gram.identity import kernel_digest

RNG = np.random.default_rng(0)
X, NEW = RNG.standard_normal((6, 3)), RNG.standard_normal((4, 3))
KERNEL = ntkit.NNGP(nn.mlp(1, 8, nn.Relu(), w_std=1.4, b_std=0.3))


def cosines(key):
    """A random function whose covariance is exp(-|x - y|^2 / 2) (Rahimi and Recht 2007)."""
    w, b = jax.random.split(key)
    shift = jax.random.uniform(b, (), float) * 2 * np.pi
    return lambda x: jnp.sqrt(2.0) * jnp.cos(x @ jax.random.normal(w, x.shape[1:], x.dtype) + shift.astype(x.dtype))


def rbf(x, y):
    return np.exp(-0.5 * np.sum((x[:, None] - y[None]) ** 2, axis=2))


def near(found, exact, p):
    """Within five standard errors of a mean of P products of two Gaussian variables: (K_ii K_jj + K_ij^2) / P."""
    d = np.diag(exact)
    error = np.sqrt((np.outer(d, d) + exact**2) / p)
    assert error.max() < 0.1 * d.max()
    assert np.all(np.abs(found - exact) <= 5 * error)


@pytest.mark.usefixtures("x64")
def test_on_the_points_functions_have_the_covariance():
    drawn = ntkit.random_features(KERNEL, 20_000, key=0, points=X)
    near(drawn(X), np.asarray(KERNEL(X)), 20_000)
    assert drawn.features(X).shape == (6, 20_000)
    np.testing.assert_allclose(drawn.missing(X), 0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_deviation_is_that_of_a_wishart_matrix():
    """Of 7 features each, 800 times."""
    k, f = np.asarray(KERNEL(X)), np.asarray(ntkit.random_features(KERNEL, 5600, key=0, points=X).features(X))
    squares = [np.linalg.norm(part @ part.T / 7 - k) ** 2 for part in np.split(f, 800, axis=1)]
    mean, error = np.mean(squares), np.std(squares) / np.sqrt(len(squares))
    exact = (np.linalg.norm(k) ** 2 + np.trace(k) ** 2) / 7
    assert error < 0.07 * exact  # or the test would not tell the two terms apart
    assert abs(mean - exact) < 5 * error


@pytest.mark.usefixtures("x64")
def test_elsewhere_functions_are_their_mean_given_the_points():
    drawn = ntkit.random_features(KERNEL, 5, key=3, points=X)
    k, cross = np.asarray(KERNEL(X)), np.asarray(KERNEL(NEW, X))
    expected = cross @ np.linalg.solve(k, np.asarray(drawn.features(X)))
    np.testing.assert_allclose(drawn.features(NEW), expected, atol=1e-10)
    missing = np.asarray(KERNEL.diagonal(NEW)) - np.sum(cross.T * np.linalg.solve(k, cross.T), axis=0)
    np.testing.assert_allclose(drawn.missing(NEW), missing, atol=1e-12)
    assert missing.min() > 1e-3
    np.testing.assert_allclose(drawn(NEW, X), expected @ np.asarray(drawn.features(X)).T / 5, atol=1e-10)


@pytest.mark.parametrize("source", ["points", "functions", "network"])
def test_it_is_a_kernel_as_any(source):
    sources = {
        "points": lambda: ntkit.random_features(KERNEL, 12, key=1, points=np.concatenate([X, NEW])),
        "functions": lambda: ntkit.random_features(cosines, 12, key=jax.random.key(1)),
        "network": lambda: ntkit.random_features(nn.Sequential(nn.Dense(12), nn.Relu()), 12, key=1),
    }
    drawn, x, new = sources[source](), X.astype(np.float32), NEW.astype(np.float32)
    both = np.asarray(drawn(np.concatenate([x, new])))
    tol = {"rtol": 2e-3, "atol": 2e-3} if source == "points" else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(drawn(x, new), both[:6, 6:], **tol)
    np.testing.assert_allclose(drawn.diagonal(x), np.diag(both)[:6], **tol)
    if source == "network":
        np.testing.assert_allclose(eqx.filter_jit(drawn)(x), both[:6, :6], **tol)
    else:
        np.testing.assert_allclose(ntkit.gram(drawn, x, progress=False, tile=3), both[:6, :6], **tol)
    again = sources[source]()(x)
    np.testing.assert_array_equal(again, drawn(x))
    if source == "points":
        exact = np.asarray(drawn(new, x), float) @ np.linalg.solve(np.asarray(again, float) + 0.1 * np.eye(6), x[:, 0])
        np.testing.assert_allclose(ntkit.posterior(drawn, x, x[:, 0], noise=0.1)(new).mean, exact, rtol=0.02, atol=0.02)


def test_files_know_a_draw_by_its_key():
    digests = [kernel_digest(ntkit.random_features(cosines, 3, key=key)) for key in (0, 0, 1)]
    digests += [kernel_digest(ntkit.random_features(KERNEL, 3, key=key, points=X)) for key in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert digests[3] == digests[4] != digests[5]


@pytest.mark.usefixtures("x64")
def test_the_linear_model_really_trained_follows_the_flow():
    """theta by a matrix exponential in the space of parameters."""
    drawn, y = ntkit.random_features(cosines, 9, key=2), np.sin(X[:, 0])
    theta = np.random.default_rng(1).standard_normal(9)
    slopes = jax.jacobian(drawn.apply)(jnp.asarray(theta), X)
    np.testing.assert_allclose(slopes @ slopes.T, drawn(X), rtol=1e-12)
    z = np.asarray(drawn.features(X)) / 3
    np.testing.assert_allclose(drawn.apply(theta, X), z @ theta, rtol=1e-12)
    best = np.linalg.lstsq(z, y)[0] + (theta - np.linalg.pinv(z) @ (z @ theta))
    trained = best + scipy.linalg.expm(-0.7 / 6 * 20.0 * z.T @ z) @ (theta - best)
    flow = ntkit.gradient_flow(drawn, X, y, learning_rate=0.7, f0=lambda x: drawn.apply(theta, x))
    np.testing.assert_allclose(flow(NEW, 20.0), drawn.apply(trained, NEW), rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_functions_and_networks_have_their_covariance():
    p = 6000
    found = np.asarray(ntkit.random_features(cosines, p, key=0)(X))
    # Cosines are bounded: each product has a variance below 4.
    assert np.all(np.abs(found - rbf(X, X)) <= 5 * 2 / np.sqrt(p))
    layer = nn.Sequential(nn.Dense(p), nn.Relu())
    hidden = np.asarray(ntkit.random_features(layer, p, key=0)(X))
    exact = np.asarray(ntkit.NNGP(nn.Sequential(nn.Dense(8), nn.Relu(), nn.Dense(1)))(X))
    # E relu(u)^2 relu(v)^2 <= E u^4 / 2 + E v^4 / 2, each 3 / 2 of a variance squared.
    largest = 1.5 * np.max(np.mean(X**2, axis=1)) ** 2
    assert np.all(np.abs(hidden - exact) <= 5 * np.sqrt(largest / p))
    assert np.linalg.norm(exact - rbf(X, X)) > 1


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_refused():
    def refused(word, *args, **kwargs):
        with pytest.raises(ntkit.InputError, match=word):
            ntkit.random_features(*args, **({"key": 0} | kwargs))

    refused("drawn jointly on stated points", KERNEL, 3)
    refused("must be a kernel; got Sequential", nn.mlp(1, 8, nn.Relu()), 3, points=X)
    refused("`P` must be a whole number", KERNEL, 0, points=X)
    refused("`P` must be a whole number", cosines, 2.5)
    refused("`key` must be", cosines, 2, key="zero")
    refused("`points` must be finite", KERNEL, 2, points=X * np.nan)
    refused("`dtype` must be float32 or float64", KERNEL, 2, points=X, dtype="int32")
    refused("`dtype` is that of a drawing on `points`", cosines, 2, dtype="float32")
    refused("`source` must be a kernel", "relu", 2)
    with pytest.raises(ntkit.InputError, match="P = 3 outputs"):
        ntkit.random_features(nn.Dense(4), 3, key=0)(X)
    with pytest.raises(ntkit.InputError, match="one number each"):
        ntkit.random_features(lambda key: lambda x: x, 3, key=0)(X)
    with pytest.raises(ntkit.InputError, match="drawn in float64"):
        ntkit.random_features(KERNEL, 3, key=0, points=X, dtype="float64")(X)
    with pytest.raises(ntkit.ComputationError, match="covariance of the functions"):
        ntkit.random_features(lambda x, y=None: -KERNEL(x, y), 3, key=0, points=X)
