"""CNTK on CIFAR-10, at sizes of a test: against brute force, stopped and resumed, and what is refused."""

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import data, gallery, nn
from ntkit.errors import InputError
from ntkit.gallery import Configuration, _folder
from ntkit.gallery._passes import Mirrored
from ntkit.gallery.cifar10 import PUBLISHED, RIDGES, judge


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Images of 5 x 4 x 3 in three classes, 30 for training and 15 for tests, as an .npz of bytes."""
    rng = np.random.default_rng(0)
    y, y_test = np.arange(30) % 3, np.arange(15) % 3
    centres = rng.normal(size=(3, 5, 4, 3))
    x, x_test = (128 + 15 * (centres[c] + 3 * rng.normal(size=(len(c), 5, 4, 3))) for c in (y, y_test))
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    arrays = {"x_train": x, "x_test": x_test}
    np.savez(path, **{k: v.clip(0, 255).astype(np.uint8) for k, v in arrays.items()}, y_train=y, y_test=y_test)
    return path


SMALL = {"train": 18, "test": 12, "poolings": ["flatten"], "depths": [2]}


def experiment(source, out, **changes):
    return gallery.Experiment(data.load(source), out, **(SMALL | changes))


# Flips


def test_the_average_over_flips_needs_two_kernels_of_four(x64):
    """With pooling over windows, which reads the borders; Flatten: see below."""
    x, y = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 3, 4, 2)))
    kernel = ntkit.NTK(Configuration("local", 3, window=3).network())
    every = [kernel(a, b) for a in (x, x[:, :, ::-1]) for b in (y, y[:, :, ::-1])]
    plain, mirrored = np.asarray(kernel(x, y)), np.asarray(Mirrored(kernel)(x, y))
    np.testing.assert_allclose((plain + mirrored) / 2, np.mean(every, axis=0), rtol=1e-12)
    np.testing.assert_allclose(mirrored, Mirrored(kernel)(y, x).T, rtol=1e-12)
    assert np.abs(mirrored / plain - 1).max() > 0.01


def test_a_network_that_does_not_commute_with_flips_would_be_seen(x64):
    x, y = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 3, 4, 2)))
    # A filter of even size with padding SAME is padded on one side.
    kernel = ntkit.NTK(nn.Sequential(nn.Conv(8, (1, 2)), nn.Relu(), nn.Flatten(), nn.Dense(1)))
    assert np.abs(np.asarray(kernel(x, y)) / np.asarray(kernel(x[:, :, ::-1], y[:, :, ::-1])) - 1).max() > 0.01


# The numbers


def brute(k, cross, y, y_test):
    """Every ridge refitted without each example in turn: (accuracy, that without a ridge, ridge) of the best."""
    classes = np.unique(y)
    target = (y[:, None] == classes) - 1 / len(classes)
    n, mean = len(k), np.diag(k).mean()
    hits = []
    for ridge in RIDGES:
        c = k + ridge * mean * np.eye(n)
        left_out = []
        for i in range(n):
            rest = np.delete(np.arange(n), i)
            left_out.append(k[i, rest] @ np.linalg.solve(c[np.ix_(rest, rest)], target[rest]))
        hits.append(np.sum(classes[np.argmax(left_out, axis=1)] == y))
    ridge = RIDGES[int(np.argmax(hits))]
    assert len(set(hits)) > 1
    scores = [cross @ np.linalg.solve(k + r * mean * np.eye(n), target) for r in (ridge, 0)]
    return *(np.mean(classes[s.argmax(axis=1)] == y_test) for s in scores), ridge


def test_a_row_is_what_brute_force_finds(source, tmp_path, x64):
    found = experiment(source, tmp_path / "run", flips=True)
    rows = gallery.run(found, progress=False)
    # Independently: which images, their preparation, the kernel of both orientations.
    chosen = found.dataset
    assert np.bincount(chosen.y).tolist() == [6, 6, 6]
    images = [a.reshape(-1, 5, 4, 3).astype(np.float64) for a in (chosen.x, chosen.x_test)]
    pixels = images[0].reshape(-1, 3)
    every = (np.concatenate(images) - pixels.mean(axis=0)) / pixels.std(axis=0)
    both = jnp.asarray(np.concatenate([every, every[:, :, ::-1]]))
    full = np.asarray(ntkit.NTK(nn.presets.cntk(2, pooling="flatten"))(both)).reshape(2, 30, 2, 30)
    plain, averaged = full[0, :, 0], full.mean(axis=(0, 2))
    for row, k in zip(rows, (plain, averaged), strict=True):
        k, cross = k[:18, :18], k[18:, :18]
        accuracy, ridgeless, ridge = brute(k, cross, chosen.y, chosen.y_test)
        assert (row.accuracy, row.ridgeless) == (pytest.approx(accuracy), pytest.approx(ridgeless))
        assert row.ridge == pytest.approx(ridge + 2 * 18**0.5 * np.finfo(np.float32).eps, rel=1e-6)
    assert [row.flips for row in rows] == [False, True]
    assert rows[1].hours_full == pytest.approx(2 * rows[1].seconds_per_pair * 50_000 * 50_001 / 2 / 3600)


def test_the_rounding_of_float32_is_part_of_the_ridge():
    k = np.eye(6) + 1e-9
    y = np.arange(6) % 2
    ridge = judge(k, k, y, y, rounding=1e-3).ridge
    assert min(abs(ridge - r - 2e-3 * 6**0.5) for r in RIDGES) < 1e-9


def test_the_published_table():
    """At 2000 training images, as the project's issue quotes them."""
    assert dict(PUBLISHED["global", 3])[2000] == 0.4971
    assert dict(PUBLISHED["global", 4])[2000] == 0.5106
    assert ("global", 5) not in PUBLISHED


def test_pooled_networks_have_frozen_ends_as_the_authors_have_them():
    for pooling, trainable in (("flatten", True), ("local", False), ("global", False)):
        layers = Configuration(pooling, 4).network().layers
        weights = [layer for layer in layers if hasattr(layer, "trainable")]
        assert [layer.trainable for layer in weights] == [trainable, True, True, trainable]


# Stopped and resumed


class Stop:
    """In place of the clock: Ctrl-C when a matrix has so many tiles."""

    def __init__(self, *args):
        self._real = CLOCK(*args)

    def __call__(self, done, total):
        self._real(done, total)
        if self._real._names[0].endswith("-test") and done:
            raise KeyboardInterrupt

    def close(self):
        self._real.close()


CLOCK = _folder._Clock


def test_a_run_goes_on_where_it_was_stopped(source, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(_folder, "_Clock", Stop)
    with pytest.raises(KeyboardInterrupt):
        gallery.run(experiment(source, out), progress=False)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.npy")}
    state = json.loads((out / "gallery.json").read_text())
    assert state["kernels"]["flatten-2-train"]["done"] == 1
    assert not state["rows"]
    monkeypatch.setattr(_folder, "_Clock", CLOCK)
    again = experiment(source, out)
    estimates = gallery.estimate(again)
    assert estimates[0].pairs < 18 * 12  # the training matrix is done
    rows = gallery.run(again, progress=False)
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.npy")}
    assert after["flatten-2-train.npy"] == before["flatten-2-train.npy"]
    assert again.folder.cost("flatten-2-train").seconds == state["kernels"]["flatten-2-train"]["seconds"]
    # Without a break the same numbers come out.
    other = gallery.run(experiment(source, tmp_path / "other"), progress=False)
    assert (rows[0].accuracy, rows[0].ridge) == (other[0].accuracy, other[0].ridge)
    # A third call finds all done.
    assert gallery.estimate(experiment(source, out))[0].pairs == 0


POOLED = {"poolings": ["local", "global"], "depths": [3, 4], "window": 3}


def test_kernels_with_pooling_are_computed_together_and_are_those_alone(source, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(_folder, "_Clock", Stop)
    with pytest.raises(KeyboardInterrupt):
        gallery.run(experiment(source, out, **POOLED), progress=False)
    monkeypatch.setattr(_folder, "_Clock", CLOCK)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*-train.npy")}
    assert len(before) == 4
    # Asked for one of them, what was begun is finished as it was begun; then another depth comes alone.
    rows = gallery.run(experiment(source, out, poolings=["global"], depths=[3], window=3), progress=False)
    assert [(row.pooling, row.depth, row.together) for row in rows] == [("global", 3, 4)]
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*-train.npy")} == before
    found = experiment(source, out, **POOLED | {"depths": [3, 4, 5]})
    assert [(len(e.configurations), e.pairs) for e in gallery.estimate(found)] == [(4, 0), (2, 18 * 19 / 2 + 12 * 18)]
    rows = gallery.run(found, progress=False)
    assert [row.together for row in rows] == [4, 4, 2, 4, 4, 2]
    x, x_test = found.images(None)
    for configuration in found.configurations[::4]:
        alone = ntkit.gram(ntkit.NTK(configuration.network()), x_test, x, progress=False)
        np.testing.assert_allclose(np.load(out / f"{configuration.name}-test.npy"), alone, rtol=1e-5)


def test_other_configurations_add_rows(source, tmp_path):
    out = tmp_path / "run"
    gallery.run(experiment(source, out), progress=False)
    rows = gallery.run(experiment(source, out, zca=0.5), progress=False)
    assert [(row.depth, row.zca) for row in rows] == [(2, None), (2, 0.5)]
    assert [row.published for row in rows] == [(), ()]
    files = gallery.write(rows, out)
    assert [f.name for f in files] == ["table.md", "results.json", "accuracy.png"]
    assert len(json.loads(files[1].read_text())) == 2
    table = files[0].read_text().splitlines()
    assert table[0].count("|") == table[2].count("|") == table[3].count("|")
    assert "| 0.5 |" in table[3]
    assert files[2].stat().st_size > 1000
    # Whitened once, kept: computed again, the last digits could differ, and the matrices with them.
    kept = (out / "zca0.5.npz").stat().st_mtime_ns
    experiment(source, out, zca=0.5).images(0.5)
    assert (out / "zca0.5.npz").stat().st_mtime_ns == kept


def test_a_folder_belongs_to_its_settings(source, tmp_path):
    out = tmp_path / "run"
    gallery.run(experiment(source, out), progress=False)
    kept = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(InputError, match=r"train 18 and not 15.*overwrite=True"):
        experiment(source, out, train=15)
    with pytest.raises(InputError, match="seed 0 and not 1"):
        experiment(source, out, seed=1)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == kept
    experiment(source, out, train=15, overwrite=True)
    assert not list(out.glob("*.npy"))


def test_a_matrix_that_nobody_knows_is_kept(source, tmp_path):
    out = tmp_path / "run"
    gallery.run(experiment(source, out), progress=False)
    (out / "gallery.json").unlink()
    with pytest.raises(InputError, match=r"flatten-2-train\.npy.*does not know"):
        gallery.run(experiment(source, out), progress=False)
    assert (out / "flatten-2-train.npy").exists()
    assert len(gallery.run(experiment(source, out, overwrite=True), progress=False)) == 1


def test_a_damaged_folder_says_so(source, tmp_path):
    (tmp_path / "gallery.json").write_text('{"version": 1, "settin')
    with pytest.raises(InputError, match="cannot be read"):
        experiment(source, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="must be a folder"):
        experiment(source, tmp_path / "file")
    with pytest.raises(InputError, match="file"):
        experiment(source, tmp_path / "file" / "below")


# What is refused


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"train": 2}, "each of the 3 classes"),
        ({"train": 31}, "at most 30"),
        ({"test": 0}, "at least 1"),
        ({"depths": [1]}, "depths"),
        ({"depths": []}, "depths"),
        ({"depths": [3, 2], "poolings": ["flatten", "global"]}, "of two nothing is trained"),
        ({"poolings": ["max"]}, "'max'"),
        ({"poolings": []}, "poolings"),
        ({"window": 4}, "odd"),
        ({"zca": 0.0}, "positive"),
    ],
)
def test_wrong_settings(source, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        experiment(source, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "shape, words",
    [((3, 8, 8), "channels first"), ((12,), "must be images"), ((2, 2, 2, 3), "must be images")],
)
def test_data_that_is_no_images(tmp_path, shape, words):
    x, y = np.random.default_rng(0).normal(size=(8, *shape)), np.arange(8) % 2
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(InputError, match=words):
        experiment(tmp_path / "data.npz", tmp_path / "run", train=4, test=4)


# The command


@pytest.fixture
def run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return functools.partial(run, "gallery")


def test_the_list(run):
    code, out, _ = run()
    assert code == 0
    assert "cifar10" in out
    assert "ntkit gallery run NAME" in out
    assert list(json.loads(run("--json")[1])) == list(gallery.EXPERIMENTS)


def test_the_command(run, source):
    argv = ("cifar10", "--data", source, "--poolings", "flatten", "--depths", 2, "--out", "run", "--test", 12)
    code, out, err = run(*argv, "--train", 18)
    assert code == 0
    assert "Estimated" in err  # before it begins
    assert "table.md" in out
    code, out, _ = run(*argv, "--train", 18, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["rows"][0]["train"] == 18
    assert found["rows"][0]["source"].startswith("Arora")
    code, _, err = run(*argv, "--train", 12)
    assert code == 2
    assert "`--out`" in err
    assert "`--overwrite`" in err
    assert err.count("\n") == 1


def test_by_default_no_more_images_than_there_are(source):
    assert gallery.shrunk(data.load(source), 2000, 12) == (30, 12)


@pytest.mark.parametrize(
    "argv, words",
    [
        (("--data", "nowhere.npz"), "no file"),
        (("--data", "iris"), "must be images"),
        (("--depths", "3,x"), "--depths"),
        (("--train", "2"), "--train"),
        (("--poolings", "max"), "--poolings"),
        (("--zca", "--zca-reg", "0"), "--zca-reg"),
        (("--memory", "much"), "--memory"),
    ],
)
def test_wrong_usage_in_one_line(run, source, argv, words):
    code, _, err = run("cifar10", "--data", source, *argv)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_nan_is_refused_by_row(run, tmp_path):
    x, y = np.zeros((8, 4, 4, 3)), np.arange(8) % 2
    x[3, 0, 0, 1] = np.nan
    np.savez("nan.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    code, _, err = run("cifar10", "--data", "nan.npz")
    assert code == 2
    assert "row 3" in err
