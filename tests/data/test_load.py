"""Names, .npz files and the search for MNIST."""

import urllib.error

import numpy as np
import pytest
import sklearn.datasets

import ntkit.data
from ntkit.data import NAMES, load, load_inputs
from ntkit.errors import ComputationError, InputError


@pytest.fixture
def npz(tmp_path):
    """Writes arrays to arrays.npz and returns its path."""

    def write(**arrays):
        path = tmp_path / "arrays.npz"
        np.savez(path, **arrays)
        return path

    return write


X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 1, 0])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("mnist", "cifar10")])
def test_the_shipped_sets_are_those_of_scikit_learn(name):
    data, bunch = load(name), getattr(sklearn.datasets, f"load_{name}")()
    scale = 16 if name == "digits" else 1
    np.testing.assert_array_equal(data.x * scale, bunch.data)
    np.testing.assert_array_equal(data.y, bunch.target)
    assert data.kind == ("regression" if name == "diabetes" else "classification")
    assert data.shape == ((8, 8) if name == "digits" else bunch.data.shape[1:])
    assert name in str(data)


@pytest.mark.parametrize("x, y", [("x", "y"), ("X", "y"), ("x_train", "y_train"), ("X_train", "y_train")])
def test_arrays_go_by_several_names(npz, x, y):
    data = load(npz(**{x: X, y: Y, "something_else": np.zeros(3)}))
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)
    assert (data.kind, data.source) == ("classification", "arrays.npz")


def test_images_are_flattened_and_scaled(npz):
    images = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3) * 10
    data = load(npz(x_train=images, y_train=[0, 1], x_test=images[:1], y_test=[1]))
    assert (data.shape, data.x.dtype) == ((4, 3), np.float32)
    np.testing.assert_allclose(data.x, images.reshape(2, 12) / 255, rtol=1e-7)
    np.testing.assert_array_equal(data.x_test, data.x[:1])
    np.testing.assert_array_equal(data.y_test, [1])


@pytest.mark.parametrize(
    "y, kind",
    [
        (np.array([0, 1, 0, 1, 1, 0]), "classification"),
        (np.array([[0], [1], [0], [1], [1], [0]]), "classification"),
        (np.array([True, False, True, False, True, False]), "classification"),
        (np.array(list("abcabc")), "classification"),
        (np.array([0.0, 1, 0, 1, 1, 0]), "classification"),
        (np.arange(6), "regression"),
        (np.arange(6.0), "regression"),
        (np.array([0.5, 1, 0, 1, 1, 0]), "regression"),
        (np.zeros((6, 2)), "regression"),
    ],
)
def test_the_kind_follows_from_the_targets(npz, y, kind):
    assert load(npz(x=X, y=y)).kind == kind


BAD = np.array([[1.0, 2.0], [3.0, np.nan]])


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"x": X}, "must hold the arrays x and y .* but holds x"),
        ({"a": X, "b": Y}, "but holds a, b"),
        ({"x": X, "y": Y[:5]}, r"one row for each of the 6 inputs, but have shape \(5,\)"),
        ({"x": X[:0], "y": Y[:0]}, "not empty"),
        ({"x": X[:, 0], "y": Y}, r"have shape \(6,\)"),
        ({"x": BAD, "y": [0, 1]}, "row 1, column 1 .* is nan"),
        ({"x": X, "y": [0.5, 1, 2, 3, 4, np.inf]}, "targets must be finite, but row 5"),
        ({"x": X.astype(str), "y": Y}, "must be numbers, but have dtype <U"),
        ({"x": X + 1j, "y": Y}, "dtype complex128"),
        ({"x": X, "y": Y + 1j}, "dtype complex128"),
        ({"x": X, "y": np.zeros((6, 2, 2))}, r"have shape \(6, 2, 2\)"),
        ({"x": X, "y": np.zeros(6, int)}, "all labels are 0"),
        ({"x": X, "y": Y, "x_test": X[:, :1], "y_test": Y}, r"test examples \(1,\)"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y[:2]}, "test targets"),
        ({"x": np.array([[None, 1.0]] * 6), "y": Y}, "pickled"),
        ({"x": X, "y": np.array([None] * 6)}, "pickled"),
    ],
)
def test_bad_archives_are_refused(npz, arrays, words):
    with pytest.raises(InputError, match=words):
        load(npz(**arrays))


@pytest.mark.parametrize("contents", [b"", b"not a zip", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("name", ["broken.npz", "broken.npy"])
def test_broken_files_are_refused(tmp_path, name, contents):
    path = tmp_path / name
    path.write_bytes(contents)
    with pytest.raises(InputError, match=f"{name} is not a readable|{name} holds Python objects"):
        load_inputs(path)


def test_a_cut_off_archive_is_refused(npz):
    path = npz(x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="not a readable"):
        load(path)


def test_a_changed_byte_is_noticed(npz):
    path = npz(x=np.zeros((100, 5)), y=np.arange(100.0))
    contents = bytearray(path.read_bytes())
    contents[1000] ^= 1
    path.write_bytes(contents)
    with pytest.raises(InputError, match="not a readable"):
        load(path)


@pytest.mark.parametrize(
    "source, words",
    [
        ("mnits", "Unknown data 'mnits'.*mnist"),
        ("nowhere.npz", "no file 'nowhere.npz'"),
        ("nowhere.csv", "no file 'nowhere.csv'"),
        ("data.pkl", "Unknown data"),
    ],
)
def test_unknown_sources_are_refused(source, words):
    with pytest.raises(InputError, match=words):
        load(source)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="no file"):
        load(tmp_path / "folder.csv")


def test_options_of_tables_are_refused_elsewhere(npz):
    with pytest.raises(InputError, match="`target`"):
        load(npz(x=X, y=Y), target="a")


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_kind_is_refused(npz):
    with pytest.raises(InputError, match="`kind`"):
        load(npz(x=X, y=Y), kind="ranking")


def test_inputs_of_arrays(npz, tmp_path):
    np.testing.assert_array_equal(load_inputs(npz(x=X)), X)
    np.testing.assert_array_equal(load_inputs(npz(x=X, x_test=X[:2]), split="test"), X[:2])
    with pytest.raises(InputError, match="no test examples"):
        load_inputs(npz(x=X), split="test")
    np.save(tmp_path / "x.npy", X.astype(np.float16))
    assert load_inputs(tmp_path / "x.npy").dtype == np.float64
    np.save(tmp_path / "x.npy", np.float64(1.0))
    with pytest.raises(InputError, match=r"shape \(\)"):
        load_inputs(tmp_path / "x.npy")


IMAGES = {
    "x_train": np.zeros((4, 28, 28), np.uint8),
    "y_train": np.array([0, 1, 0, 1], np.uint8),
    "x_test": np.zeros((2, 28, 28), np.uint8),
    "y_test": np.array([0, 1], np.uint8),
}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty cache."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NTKIT_DATA", raising=False)


@pytest.mark.usefixtures("offline")
def test_mnist_is_found_where_it_lies(tmp_path, monkeypatch):
    path = tmp_path / "mnist.npz"
    np.savez(path, **IMAGES)
    assert len(load("mnist", cache=tmp_path).x) == 4
    assert len(load("mnist", cache=path).x) == 4
    monkeypatch.setenv("NTKIT_DATA", str(tmp_path))
    assert load("mnist").shape == (28, 28)
    monkeypatch.setenv("NTKIT_DATA", str(path))
    assert load("mnist").x_test.shape == (2, 784)
    monkeypatch.delenv("NTKIT_DATA")
    (tmp_path / "cache" / "ntkit").mkdir(parents=True)
    path.rename(tmp_path / "cache" / "ntkit" / "mnist.npz")
    assert load("mnist").kind == "classification"


@pytest.mark.usefixtures("offline")
def test_mnist_without_a_network_says_what_to_do(tmp_path):
    with pytest.raises(ComputationError, match=r"no network.*NTKIT_DATA=folder"):
        load("mnist", progress=False)
    assert not list(tmp_path.rglob("*.npz"))
    with pytest.raises(InputError, match="`cache`"):
        load("mnist", cache=tmp_path / "nowhere.npz")


def test_mnist_is_fetched_once(offline, monkeypatch, tmp_path):
    calls = []

    def fetch(name, **options):
        calls.append(name)
        x, y = np.zeros((70_000, 784), np.float32), np.array(["0", "1"] * 35_000)
        return sklearn.utils.Bunch(data=x, target=y)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    for _ in range(2):
        data = load("mnist", progress=False)
        assert (len(data.x), len(data.x_test)) == (60_000, 10_000)
    assert calls == ["mnist_784"]


def test_cifar10_is_fetched_with_its_channels_last(offline, monkeypatch, tmp_path):
    def fetch(name, **options):
        assert name == "CIFAR_10"
        x = np.zeros((60_000, 3072))
        x[0] = np.arange(3072) % 256
        x[-1, 1024:2048] = 255  # green
        return sklearn.utils.Bunch(data=x, target=np.array(["3", "5"] * 30_000))

    np.savez(tmp_path / "mnist.npz", **IMAGES)
    monkeypatch.setenv("NTKIT_DATA", str(tmp_path / "mnist.npz"))  # another set
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    data = load("cifar10", progress=False)
    x, x_test = ntkit.data.images(data)
    assert (len(x), len(x_test), data.shape) == (50_000, 10_000, (32, 32, 3))
    assert x_test[-1, 5, 7].tolist() == [0, 1, 0]
    np.testing.assert_allclose(255 * x[0, 1, 2], [34, 34, 34], rtol=1e-6)


def test_the_real_mnist(shared_data):
    data = load("mnist", cache=shared_data)
    assert (data.x.shape, data.x_test.shape, len(data.classes)) == ((60_000, 784), (10_000, 784), 10)
    assert (data.x.min(), data.x.max()) == (0, 1)


def test_every_uci_set_is_read_as_classes(shared_data):
    for path in sorted((shared_data / "uci").glob("*.npz")):
        assert load(path).kind == "classification", path.name


def test_every_regression_set_is_read_as_numbers(shared_data):
    for path in sorted((shared_data / "regression").glob("*.npz")):
        assert load(path).kind == "regression", path.name
