"""Scales, test sets and subsets, against scikit-learn where it has the same."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from sklearn.preprocessing import StandardScaler

import ntkit.data
from ntkit.data import balanced, images, load, sample, split, standardise, standardise_channels, unit_sphere, zca
from ntkit.errors import InputError


@pytest.mark.parametrize("name", ["wine", "digits", "diabetes"])
def test_standardise_is_scikit_learns(name):
    data = split(load(name), 0.3)
    scaler = StandardScaler().fit(data.x)
    done = standardise(data)
    np.testing.assert_allclose(done.x, scaler.transform(data.x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(done.x_test, scaler.transform(data.x_test), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_feature_becomes_zero(dtype):
    data = load("wine")
    x = data.x.astype(dtype)
    x[:, 3] = dtype(0.1)
    done = standardise(replace(data, x=x))
    assert done.x.dtype == dtype
    assert (done.x[:, 3] == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rows_get_one_length_at_any_scale(scale):
    data = split(load("wine"), 0.3)
    x = (data.x * scale).astype(np.float32)
    x[2] = 0
    done = unit_sphere(replace(data, x=x), radius=3.0)
    norms = np.linalg.norm(done.x, axis=1)
    assert norms[2] == 0
    np.testing.assert_allclose(np.delete(norms, 2), 3, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(done.x_test, axis=1), 3, rtol=1e-12)


@pytest.mark.parametrize("radius", [0.0, -1.0, np.inf, np.nan])
def test_a_length_must_be_positive(radius):
    with pytest.raises(InputError, match="`radius`"):
        unit_sphere(load("iris"), radius=radius)


def rows(x):
    return sorted(map(tuple, x))


@pytest.mark.parametrize("name", ["iris", "wine", "diabetes"])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_split_loses_nothing_and_keeps_the_proportions(name, fraction):
    data = load(name)
    done = split(data, fraction, seed=1)
    assert len(done.x_test) == round(fraction * len(data.x))
    assert rows(np.column_stack([data.x, data.y])) == rows(
        np.vstack([np.column_stack([done.x, done.y]), np.column_stack([done.x_test, done.y_test])])
    )
    for label in data.classes:
        assert abs((done.y_test == label).sum() - fraction * (data.y == label).sum()) <= 1


def test_a_split_depends_on_its_seed_only():
    a, b, c = (split(load("iris"), 0.2, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.x_test, b.x_test)
    assert (a.x_test != c.x_test).any()


def test_a_class_of_one_stays_in_the_training_set():
    data = load("iris")
    y = data.y.copy()
    y[0] = 7
    done = split(replace(data, y=y), 0.5)
    assert 7 in done.y
    assert 7 not in done.y_test


def test_a_second_split_is_refused():
    done = split(load("iris"), 0.5)
    with pytest.raises(InputError, match="test set of its own"):
        split(done, 0.5)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1e-6, np.nan])
def test_a_split_of_nothing_is_refused(fraction):
    with pytest.raises(InputError, match="`fraction`"):
        split(load("iris"), fraction)


def test_a_split_that_would_empty_a_class_is_refused():
    with pytest.raises(InputError, match="keep 1 each"):
        split(load("iris"), 0.99)


def test_a_sample_keeps_the_proportions():
    data = split(load("digits"), 0.25)
    done = sample(data, 100)
    assert len(done.x) == 100
    assert abs(np.bincount(done.y) - 100 * np.bincount(data.y) / len(data.y)).max() <= 1
    assert done.x_test is data.x_test
    assert sample(data, 10**6) is data
    with pytest.raises(InputError, match="`n`"):
        sample(data, 0)


def test_float32_features_are_standardised_as_precisely_as_they_are_stored():
    rng = np.random.default_rng(0)
    data = load("iris")
    x = (100 + rng.normal(size=(100_000, 4))).astype(np.float32)
    done = standardise(replace(data, x=x, y=np.zeros(len(x), int)))
    exact = StandardScaler().fit_transform(x.astype(np.float64))
    assert done.x.dtype == np.float32
    # Storing the mean (about 100) in float32 moves it by half a unit in the last place, 4e-6.
    np.testing.assert_allclose(done.x, exact, atol=1e-5, rtol=1e-6)


@pytest.fixture
def pictures(tmp_path):
    """Images of 3 x 4 x 2 whose channels have other scales; 40 to train on, 10 as tests."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 3, 4, 2)) * [1.0, 30.0] + [5.0, -2.0]
    y = np.concatenate([rng.permutation(np.arange(40) % 5), np.arange(10) % 5])
    path = tmp_path / "pictures.npz"
    np.savez(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    return load(path, kind="classification")


def test_channels_get_one_scale(pictures):
    done, (x, x_test) = standardise_channels(pictures), images(pictures)
    mean, std = x.mean(axis=(0, 1, 2)), x.std(axis=(0, 1, 2))
    np.testing.assert_allclose(images(done)[0], (x - mean) / std, rtol=1e-12)
    np.testing.assert_allclose(images(done)[1], (x_test - mean) / std, rtol=1e-12)
    with pytest.raises(InputError, match="must be images"):
        standardise_channels(load("wine"))


def test_zca_is_the_inverse_root_of_the_training_covariance(pictures):
    done = zca(pictures, regularisation=0.3)
    c = np.cov(pictures.x.T, bias=True)
    want = np.linalg.inv(scipy.linalg.sqrtm(c + 0.3 * np.trace(c) / len(c) * np.eye(len(c))))
    mean = pictures.x.mean(axis=0)
    np.testing.assert_allclose(done.x, (pictures.x - mean) @ want, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(done.x_test, (pictures.x_test - mean) @ want, rtol=1e-9, atol=1e-10)
    # With next to no regularisation, more examples than features: white.
    white = zca(pictures, regularisation=1e-12).x
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(24), atol=1e-6)


def test_zca_of_fewer_examples_than_features(pictures):
    done = zca(replace(pictures, x=pictures.x[:5].astype(np.float32), y=pictures.y[:5]), regularisation=0.1)
    assert done.x.dtype == np.float32
    assert np.isfinite(done.x).all()
    assert np.isfinite(done.x_test).all()


@pytest.mark.parametrize("regularisation", [0.0, -1.0, np.nan])
def test_zca_refuses(pictures, regularisation):
    with pytest.raises(InputError, match="regularisation"):
        zca(pictures, regularisation=regularisation)
    with pytest.raises(InputError, match="nothing to whiten"):
        zca(replace(pictures, x=np.ones_like(pictures.x)))


def test_balanced_subsets_are_even_and_nested(pictures):
    few, more = balanced(pictures, 7, 5, seed=1), balanced(pictures, 20, 5, seed=1)
    assert np.bincount(few.y).tolist() == [2, 2, 1, 1, 1]
    assert np.bincount(more.y).tolist() == [4] * 5
    inside = {row.tobytes() for row in more.x}
    assert all(row.tobytes() in inside for row in few.x)
    assert {row.tobytes() for row in few.x} != {row.tobytes() for row in balanced(pictures, 7, 5, seed=2).x}


@pytest.mark.parametrize("n, m, words", [(4, 5, "5 classes"), (45, 5, "at most"), (10, 0, "test"), (10, 15, "test")])
def test_balanced_refuses(pictures, n, m, words):
    with pytest.raises(InputError, match=words):
        balanced(pictures, n, m)


def test_balanced_needs_classes_and_tests():
    for source in ("digits", "diabetes"):
        with pytest.raises(InputError, match="classes and test examples"):
            balanced(load(source), 10, 10)


def test_images_have_their_pixels_on_axes(pictures):
    x, x_test = images(pictures)
    assert (x.shape, x_test.shape) == ((40, 3, 4, 2), (10, 3, 4, 2))
    assert images(load("digits"))[0].shape == (1797, 8, 8, 1)
    assert ntkit.data.image_shape((32, 32, 3), "them") == (32, 32, 3)
    with pytest.raises(InputError, match=r"them.*channels first.*moveaxis"):
        ntkit.data.image_shape((3, 32, 32), "them")
    with pytest.raises(InputError, match=r"must be images.*\(13,\)"):
        images(load("wine"))
