"""Networks of images on the command line: fit, predict, kernel, and what is refused."""

import csv
import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.cli._architecture import Architecture
from ntkit.cli._choose import _Together, choose
from ntkit.cli._model import VERSION, load_model
from ntkit.errors import InputError

CNTK = ("--network", "cntk", "--depth", "2", "--scale", "none")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def drawn():
    """Twenty 4 x 5 images of two channels: the class is the brighter side."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4, 5, 2)), np.arange(20) % 2
    x[y == 1, :, :2] += 2
    return x, y


@pytest.fixture
def pictures():
    x, y = drawn()
    np.savez("p.npz", x=x, y=y)
    return x, y


@pytest.fixture(scope="module")
def matrix():
    """The kernel itself on the pictures, without any of the command line's machinery."""
    with jax.enable_x64(True):
        return np.asarray(ntkit.NTK(nn.presets.cntk(2))(jnp.asarray(drawn()[0])))


def test_a_kernel_of_images_is_the_librarys(run, pictures, matrix):
    x, _ = pictures
    assert run("kernel", "p.npz", "--out", "k.npy", *CNTK)[0] == 0
    np.testing.assert_allclose(np.load("k.npy"), matrix, rtol=1e-10)
    # The same as a table, whose rows the option says to be images.
    np.savetxt("rows.csv", x.reshape(20, -1), delimiter=",", fmt="%.17g")
    code, out, _ = run("kernel", "rows.csv", "--out", "k2.npy", *CNTK, "--image", "4x5x2", "--json")
    assert code == 0
    assert json.loads(out)["network"]["image"] == [4, 5, 2]
    np.testing.assert_array_equal(np.load("k2.npy"), np.load("k.npy"))


def test_a_fitted_model_predicts_images(run, pictures, matrix):
    x, y = pictures
    code, out, _ = run("fit", "p.npz", *CNTK, "--alpha", 0.1, "--out", "m.ntk")
    assert code == 0
    assert "cntk, depth 2, flatten, relu" in out
    assert load_model_image("m.ntk") == (4, 5, 2)
    assert "4 x 5 x 2" in run("info", "m.ntk")[1]
    np.save("new.npy", x[::-1])
    assert run("predict", "m.ntk", "new.npy", "--out", "p.csv")[0] == 0
    with open("p.csv") as file:
        found = [row["prediction"] for row in csv.DictReader(file)]
    scores = matrix @ np.linalg.solve(matrix + 0.1 * np.eye(20), y - 0.5)
    assert found == [str(int(score > 0)) for score in scores[::-1]]


def load_model_image(path):
    return load_model(Path(path)).architecture.image


def test_images_of_another_shape_are_no_predictions(run, pictures):
    x, _ = pictures
    run("fit", "p.npz", *CNTK, "--alpha", 0.1, "--out", "m.ntk")
    np.save("turned.npy", np.swapaxes(x, 1, 2))  # as many numbers
    code, _, err = run("predict", "m.ntk", "turned.npy")
    assert code == 2
    assert "(4, 5, 2)" in err
    assert "(5, 4, 2)" in err
    code, _, err = run("kernel", "p.npz", "--data2", "turned.npy", *CNTK, "--out", "k.npy")
    assert code == 2
    assert "(5, 4, 2)" in err


@pytest.mark.parametrize(
    "argv, words",
    [
        (("p.npz", "--pooling", "global"), "--network cntk"),
        (("p.npz", "--image", "4x5x2"), "--network cntk"),
        (("p.npz", "--network", "cntk", "--depth", "1"), "at least 2"),
        (("p.npz", "--network", "cntk", "--fixed-layers", "1"), "--fixed-layers"),
        (("p.npz", "--network", "cntk", "--image", "5x4x2"), "does not fit"),
        (("p.npz", "--network", "cntk", "--image", "4,5"), "height x width"),
        (("iris", "--network", "cntk"), "--image"),
        (("first.npz", "--network", "cntk"), "channels first"),
        (("p.npz", "--network", "rnn"), "rnn"),
    ],
)
def test_wrong_input_in_one_line(run, pictures, argv, words):
    np.savez("first.npz", x=np.zeros((4, 3, 8, 8)), y=[0, 1, 0, 1])
    for command in ("fit", "kernel"):
        code, out, err = run(command, *argv, "--out", {"fit": "m.ntk", "kernel": "k.npy"}[command])
        assert code == 2
        assert words in out + err


def test_the_choice_among_networks_of_images_is_tiled(pictures, x64):
    x, y = pictures
    net = Architecture(2, network_name="cntk", b_std=0.0).on((4, 5, 2), "pictures")
    labels = (y[:, None] == [0, 1]) - 0.5
    found = choose([net], x.reshape(20, -1), labels, memory="64MiB")
    assert found.architecture == net
    assert found.best.loo_accuracy == 1


def test_the_finite_network_takes_images():
    net = Architecture(2, network_name="cntk", b_std=0.0).on((4, 5), "pictures")
    rows = jnp.zeros((3, 20))
    finite = net.network(net.width, outputs=2)
    assert finite.shape(net.examples(rows).shape) == (3, 2)
    assert net.width < Architecture().width


def test_tiles_are_chosen_by_pairs_of_pixels():
    """Else a first tile of thousands of images would be compiled, and found too large, again and again."""
    kernels = [
        Architecture(2, network_name="cntk", pooling=p).on((4, 5), "pictures").as_kernel()
        for p in ("flatten", "global")
    ]
    assert [kernel.weight((20,)) for kernel in kernels] == [20, 20 * 20]
    assert _Together(tuple(kernels)).weight((20,)) == 400
    assert _Together((Architecture(2).as_kernel(),)).weight((20,)) == 1


def test_a_network_that_is_none_is_refused():
    with pytest.raises(InputError, match="mlp"):
        Architecture(network_name="rnn")


def test_a_model_of_before_there_were_images_is_read(run):
    rng = np.random.default_rng(0)
    np.savez("rows.npz", x=rng.normal(size=(9, 2)), y=rng.normal(size=9))
    run("fit", "rows.npz", "--depth", 1, "--activation", "relu", "--alpha", 0.1, "--out", "new.ntk")
    with zipfile.ZipFile("new.ntk") as new, zipfile.ZipFile("old.ntk", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name == "header.json":
                header = json.loads(content)
                assert header["version"] == VERSION
                header["version"] = 1
                for key in ("network_name", "pooling", "image"):
                    del header["architecture"][key]
                content = json.dumps(header)
            old.writestr(name, content)
    assert load_model(Path("old.ntk")).architecture == load_model(Path("new.ntk")).architecture
