"""The estimators, by scikit-learn's own law and by independent solves."""

import pickle

import jax
import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import ntkit
from ntkit import nn
from ntkit.sklearn import NTKClassifier, NTKRegressor, gram_function
from ntkit.sklearn._classifier import fit_temperature


@pytest.mark.slow
@parametrize_with_checks([NTKRegressor(), NTKClassifier()])
def test_scikit_learns_checks(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it one check is skipped
    check(estimator)


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    return x, np.sin(x[:, 0]) + 3.0, rng.normal(size=(7, 3))


def matrix(kernel, *xs):
    """The kernel itself, without any of the estimators' machinery."""
    with jax.enable_x64(True):
        return np.asarray(kernel(*(jax.numpy.asarray(x) for x in xs)))


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_the_mean_is_scikit_learns_kernel_ridge(table, kind):
    x, y, x_test = table
    y = np.stack([y, y**2], axis=1)
    kernel = {"ntk": ntkit.NTK, "nngp": ntkit.NNGP}[kind](
        nn.mlp(3, 512, nn.Erf(), w_std=1.3, b_std=0.2, fixed_layers=1)
    )
    model = NTKRegressor(3, "erf", w_std=1.3, b_std=0.2, fixed_layers=1, alpha=1e-2, kernel=kind).fit(x, y)
    want = KernelRidge(alpha=1e-2, kernel="precomputed").fit(matrix(kernel, x), y).predict(matrix(kernel, x_test, x))
    np.testing.assert_allclose(model.predict(x_test), want, rtol=1e-9)


def test_the_spread_is_a_dense_solve(table):
    x, y, x_test = table
    kernel = ntkit.NTK(nn.mlp(2, 512, nn.Relu(), w_std=2**0.5, b_std=0.1))
    model = NTKRegressor(alpha=1e-2).fit(x, y)
    k, cross, prior = matrix(kernel, x), matrix(kernel, x_test, x), matrix(kernel, x_test)
    want = prior - cross @ np.linalg.inv(k + 1e-2 * np.eye(len(x))) @ cross.T
    mean, std = model.predict(x_test, return_std=True)
    again, cov = model.predict(x_test, return_cov=True)
    np.testing.assert_allclose(cov, want, rtol=1e-7, atol=1e-10 * prior.max())
    np.testing.assert_allclose(std, np.sqrt(np.diag(want)), rtol=1e-7)
    np.testing.assert_allclose(mean, again, rtol=1e-12)
    with pytest.raises(ValueError, match="At most one"):
        model.predict(x_test, return_std=True, return_cov=True)


def test_normalize_y_moves_with_the_unit_of_y(table):
    x, y, x_test = table
    one = NTKRegressor(normalize_y=True).fit(x, y)
    two = NTKRegressor(normalize_y=True).fit(x, 1000 * y - 5)
    (mean, std), (mean2, std2) = (m.predict(x_test, return_std=True) for m in (one, two))
    np.testing.assert_allclose(mean2, 1000 * mean - 5, rtol=1e-9)
    np.testing.assert_allclose(std2, 1000 * std, rtol=1e-9)
    # p(1000 y) = p(y) / 1000 for each of the n labels.
    assert two.log_marginal_likelihood_value_ == pytest.approx(
        one.log_marginal_likelihood_value_ - len(y) * np.log(1000), rel=1e-9
    )


def test_spread_of_several_outputs_has_the_shape_of_the_mean(table):
    x, y, x_test = table
    model = NTKRegressor(normalize_y=True).fit(x, np.stack([y, 10 * y], axis=1))
    mean, std = model.predict(x_test, return_std=True)
    assert mean.shape == std.shape == (7, 2)
    np.testing.assert_allclose(std[:, 1], 10 * std[:, 0], rtol=1e-9)
    assert model.predict(x_test, return_cov=True)[1].shape == (7, 7, 2)


def test_one_noise_for_each_example(table):
    x, y, x_test = table
    alpha = np.full(len(x), 1e-2)
    alpha[0] = 1e6  # an example that is not to be believed is as good as absent
    model = NTKRegressor(alpha=alpha).fit(x, np.where(np.arange(len(x)) == 0, 99.0, y))
    want = NTKRegressor(alpha=1e-2).fit(x[1:], y[1:])
    np.testing.assert_allclose(model.predict(x_test), want.predict(x_test), rtol=1e-2)


@pytest.mark.parametrize("estimator", [NTKRegressor, NTKClassifier])
@pytest.mark.parametrize(
    "bad, word",
    [
        ({"depth": -1}, "depth"),
        ({"depth": 1.5}, "depth"),
        ({"depth": True}, "depth"),
        ({"activation": "rleu"}, "relu"),
        ({"activation": 3}, "activation"),
        ({"w_std": -1.0}, "w_std"),
        ({"w_std": float("nan")}, "w_std"),
        ({"b_std": "0.1"}, "b_std"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": -1e-3}, "alpha"),
        ({"alpha": [1e-3]}, "alpha|noise"),
        ({"fixed_layers": 3}, "fixed_layers"),
        ({"kernel": "ntkk"}, "kernel"),
        ({"kernel": ntkit.NTK}, "kernel"),
        ({"dtype": "float16"}, "dtype"),
        ({"memory": "many"}, "memory"),
    ],
)
def test_wrong_parameters_are_refused_in_fit(estimator, bad, word):
    x, y = load_iris(return_X_y=True)
    model = estimator(**bad)
    with pytest.raises(ntkit.InputError, match=word):
        model.fit(x[::10], y[::10])


@pytest.mark.parametrize("alpha", [1e-3, 1.0])
def test_scores_are_ridge_on_centred_one_hot_labels(alpha):
    x, y = load_iris(return_X_y=True)
    x, names = x / 4, np.array(["setosa", "versicolor", "virginica"])[y]
    model = NTKClassifier(1, "gelu", alpha=alpha).fit(x[::2], names[::2])
    targets = np.eye(3)[y] - 1 / 3
    want = NTKRegressor(1, "gelu", alpha=alpha).fit(x[::2], targets[::2]).predict(x[1::2])
    np.testing.assert_allclose(model.decision_function(x[1::2]), want, rtol=1e-9, atol=1e-12)
    probabilities = model.predict_proba(x[1::2])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(model.predict_log_proba(x[1::2]), np.log(probabilities), rtol=1e-9, atol=1e-12)
    assert (model.classes_[probabilities.argmax(axis=1)] == model.predict(x[1::2])).all()
    assert model.score(x[1::2], names[1::2]) > 0.9


def test_two_classes_have_one_score():
    x, y = load_iris(return_X_y=True)
    x, y = x[50:] / 4, y[50:]
    model = NTKClassifier().fit(x[::2], y[::2])
    score = model.decision_function(x)
    assert score.shape == (100,)
    np.testing.assert_array_equal(model.predict(x), np.where(score > 0, 2, 1))
    odds = np.log(model.predict_proba(x)[:, 1] / model.predict_proba(x)[:, 0])
    np.testing.assert_allclose(odds, score / model.temperature_, rtol=1e-6, atol=1e-9)


def test_the_temperature_is_where_the_likelihood_is_highest():
    rng = np.random.default_rng(1)
    # Labels drawn from softmax(z / 0.3): that is the temperature to find, within its standard error.
    z = rng.normal(size=(20_000, 4))
    index = (z / 0.3 + rng.gumbel(size=z.shape)).argmax(axis=1)
    found = fit_temperature(z, index)
    grid = np.exp(np.linspace(-3, 1, 4001))
    losses = [-log_softmax(z / t, axis=1)[np.arange(len(z)), index].sum() for t in grid]
    best = int(np.argmin(losses))
    curvature = (losses[best + 40] + losses[best - 40] - 2 * losses[best]) / (40 * 0.001) ** 2
    assert abs(np.log(found / 0.3)) < 5 / np.sqrt(curvature)
    assert abs(np.log(found / grid[best])) < 0.01
    # All on the right side: smoothing keeps the probabilities from claiming certainty.
    assert 0 < fit_temperature(np.eye(4)[index], index) < 1


def test_one_class_is_refused():
    with pytest.raises(ntkit.InputError, match="one class"):
        NTKClassifier().fit(np.eye(3), ["a", "a", "a"])


def test_a_grid_over_every_parameter_in_a_pipeline():
    x, y = load_iris(return_X_y=True)
    grid = {
        "ntkclassifier__depth": np.arange(1, 3),  # NumPy's integers
        "ntkclassifier__activation": ["relu", nn.Erf()],
        "ntkclassifier__w_std": [1.0, 2**0.5],
        "ntkclassifier__b_std": [0.0],
        "ntkclassifier__alpha": [1e-3, 1e-1],
        "ntkclassifier__fixed_layers": [0, 1],
    }
    pipeline = make_pipeline(StandardScaler(), NTKClassifier())
    search = GridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss", error_score="raise").fit(x, y)
    assert len(search.cv_results_["params"]) == 32
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.score(x, y) > 0.9


def test_new_numbers_do_not_compile_again(table):
    x, y, x_test = table
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, _, **kw: compiled.append(event))
    try:
        NTKRegressor().fit(x, y).predict(x_test)
        compiled.clear()
        for value in (0.5, 0.7, 1.1):
            NTKRegressor(w_std=1 + value, b_std=value, alpha=value).fit(x, y).predict(x_test)
        assert not [event for event in compiled if "compile" in event]
        NTKRegressor(depth=3).fit(x, y)
        assert [event for event in compiled if "compile" in event]  # or the test would see nothing at all
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize("x64", [False, True])
def test_float64_whatever_the_global_setting(table, x64):
    x, y, x_test = table
    want = NTKRegressor().fit(x, y).predict(x_test)
    with jax.enable_x64(x64):
        model = NTKRegressor().fit(x.astype(np.float32).astype(np.float64), y)
        got = NTKRegressor().fit(x, y).predict(x_test)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, want)
    assert np.abs(model.predict(x_test) - want).max() > 0  # what float32 inputs would have done is visible


def test_float32_when_asked(table):
    x, y, x_test = table
    want = NTKRegressor().fit(x, y).predict(x_test)
    got = NTKRegressor(dtype="float32").fit(x, y).predict(x_test)
    assert got.dtype == np.float32
    # Condition number about 1e4 times the rounding 6e-8.
    np.testing.assert_allclose(got, want, rtol=1e-2)


def softsign(z):
    """A function of the user's own: JAX's ufuncs (`jnp.tanh`) cannot be pickled, by their own design."""
    return z / (1 + jax.numpy.abs(z))


@pytest.mark.parametrize("activation", ["relu", "tanh", nn.Gelu(), softsign], ids=["relu", "tanh", "layer", "function"])
def test_clone_and_pickle(table, activation):
    x, y, x_test = table
    model = NTKRegressor(activation=activation).fit(x, y)
    copy = pickle.loads(pickle.dumps(model))
    for one, two in zip(model.predict(x_test, return_std=True), copy.predict(x_test, return_std=True), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(clone(model).fit(x, y).predict(x_test), model.predict(x_test))
    classifier = NTKClassifier(activation=activation).fit(x, y > 3)
    copy = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(copy.predict_proba(x_test), classifier.predict_proba(x_test))


def test_a_kernel_object(table):
    x, y, x_test = table
    net = nn.Sequential(nn.Dense(64), nn.LayerNorm(), nn.Dense(64), nn.Relu(), nn.Dense(1))
    kernel = ntkit.NTK(net) + 0.5 * ntkit.NNGP(net)
    model = clone(NTKRegressor(kernel=kernel)).fit(x, y)
    weights = np.linalg.solve(matrix(kernel, x) + 1e-3 * np.eye(len(x)), y)
    np.testing.assert_allclose(model.predict(x_test), matrix(kernel, x_test, x) @ weights, rtol=1e-8)
    assert pickle.loads(pickle.dumps(model)).predict(x_test).shape == (7,)


def test_folds_in_several_processes():
    x, y = load_iris(return_X_y=True)
    scores = cross_val_score(NTKClassifier(), x, y, cv=2, n_jobs=2)
    assert scores.shape == (2,)
    assert (scores > 0.8).all()


# Images


@pytest.fixture(scope="module")
def pictures():
    """(images (16, 3, 4, 2), classes, the kernel of a convolutional network, its matrix by the kernel itself)."""
    x, y = np.random.default_rng(2).normal(size=(16, 3, 4, 2)), np.arange(16) % 2
    x[y == 1, :, :2] += 1.5
    kernel = ntkit.NTK(nn.presets.cntk(2))
    return x, y, kernel, matrix(kernel, x)


def test_images_are_taken_as_images_or_as_rows(pictures):
    x, y, kernel, k = pictures
    rows = x.reshape(16, -1)
    want = KernelRidge(alpha=0.1, kernel="precomputed").fit(k, y).predict(k)
    one = NTKRegressor(kernel=kernel, alpha=0.1).fit(x, y)
    two = NTKRegressor(kernel=kernel, alpha=0.1, image_shape=(3, 4, 2)).fit(rows, y)
    for model, inputs in ((one, x), (one, rows), (two, rows), (two, x)):
        np.testing.assert_allclose(model.predict(inputs), want, rtol=1e-8)
    assert one.image_shape_ == two.image_shape_ == (3, 4, 2)
    assert one.n_features_in_ == 24
    again = pickle.loads(pickle.dumps(two))
    np.testing.assert_allclose(again.predict(x), want, rtol=1e-8)
    classifier = clone(NTKClassifier(kernel=kernel, alpha=0.1, image_shape=[3, 4, 2])).fit(rows.tolist(), y)
    scores = KernelRidge(alpha=0.1, kernel="precomputed").fit(k, y - 0.5).predict(k)
    np.testing.assert_array_equal(classifier.predict(x), scores > 0)
    np.testing.assert_allclose(gram_function(kernel, image_shape=(3, 4, 2))(rows), k, rtol=1e-9)


@pytest.mark.parametrize("estimator", [NTKRegressor, NTKClassifier])
def test_wrong_images_are_refused_by_name(pictures, estimator):
    x, y, kernel, _ = pictures
    rows = x.reshape(16, -1)
    with pytest.raises(ntkit.InputError, match=r"`X` has images.*name of a kernel of dense"):
        estimator().fit(x, y)
    with pytest.raises(ntkit.InputError, match="name of a kernel of dense"):
        estimator(image_shape=(3, 4, 2)).fit(rows, y)
    with pytest.raises(ntkit.InputError, match=r"24 features.*has 12"):
        estimator(kernel=kernel, image_shape=(3, 4, 1)).fit(rows, y)
    with pytest.raises(ntkit.InputError, match=r"\(3, 4, 2\), but `image_shape`"):
        estimator(kernel=kernel, image_shape=(4, 3, 2)).fit(x, y)
    with pytest.raises(ntkit.InputError, match="channels first"):
        estimator(kernel=kernel).fit(np.zeros((16, 3, 8, 8)), y)
    for wrong in ("3x4", (3,), (3, 4, 0), (3.0, 4, 2)):
        with pytest.raises(ntkit.InputError, match="image_shape"):
            estimator(kernel=kernel, image_shape=wrong).fit(rows, y)
    bad = x.copy()
    bad[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        estimator(kernel=kernel).fit(bad, y)
    fitted = estimator(kernel=kernel, alpha=0.1).fit(x, y)
    with pytest.raises(ntkit.InputError, match=r"\(4, 3, 2\)"):
        fitted.predict(np.swapaxes(x, 1, 2))
