"""`ntkit fit`, `predict` and `kernel` with a network of the user's own."""

import csv
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ntkit

JAX_NETS = """
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(0)
params = {"w": rng.standard_normal((3, 20)).astype("f"), "v": rng.standard_normal((20, 2)).astype("f")}
other = {"w": params["w"] + 1e-3, "v": params["v"]}

def fn(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]

def net():
    return fn, params

def changed():
    return fn, other
"""
TORCH_NETS = """
import torch
from torch import nn

torch.manual_seed(0)
cnn = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with networks and data, and modules of these names that are none of an earlier test."""
    monkeypatch.chdir(tmp_path)
    Path("own_jax.py").write_text(JAX_NETS)
    Path("own_torch.py").write_text(TORCH_NETS)
    for name in ("own_jax", "own_torch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((30, 3))
    np.savez("rows.npz", x=x, y=np.sin(x.sum(1)))
    np.savez("images.npz", x=rng.integers(0, 255, (30, 8, 8), np.uint8), y=np.arange(30) % 3)


def predictions(path="predictions.csv"):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_jax_network_is_fitted_and_predicts(run, x64):
    code, out, err = run("fit", "rows.npz", "--network", "own_jax:net", "--alpha", "0.1", "--json")
    assert code == 0, err
    said = json.loads(out)["network"]
    assert (said["own"], said["library"], said["shape"]) == ("own_jax:net", "jax", [3])
    code, _, err = run("predict", "model.ntk", "rows.npz", "--network", "own_jax:net")
    assert code == 0, err
    from own_jax import fn, params

    data = np.load("rows.npz")
    y = (data["y"] - data["y"].mean()) / data["y"].std()
    k = np.asarray(ntkit.EmpiricalNTK(fn, params)(data["x"]))
    want = data["y"].mean() + data["y"].std() * (k @ np.linalg.solve(k + 0.1 * np.eye(30), y))
    np.testing.assert_allclose([float(row["prediction"]) for row in predictions()], want, rtol=1e-8)
    assert "own_jax:net (jax)" in run("info", "model.ntk")[1]


def test_a_torch_network_is_fitted_and_predicts(run):
    torch = pytest.importorskip("torch")
    own = ("--network", "own_torch:cnn")
    code, out, err = run("fit", "images.npz", *own, "--channels", "first", "--image", "8x8x1")
    assert code == 0, err
    assert "own_torch:cnn (torch)" in out
    assert run("predict", "model.ntk", "images.npz", *own)[0] == 0
    assert {row["prediction"] for row in predictions()} <= {"0", "1", "2"}
    assert run("kernel", "images.npz", *own, "--channels", "first", "--out", "k.npy")[0] == 0
    from own_torch import cnn

    x = ntkit.data.load("images.npz", kind="classification").x.reshape(30, 1, 8, 8)
    want = ntkit.torch.EmpiricalNTK(cnn.double())(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(np.load("k.npy"), want, rtol=1e-10)


def test_the_model_alone_runs_nobodys_code(run):
    assert run("fit", "rows.npz", "--network", "own_jax:net", "--alpha", "0.1")[0] == 0
    with zipfile.ZipFile("model.ntk") as file:
        assert b"jnp.tanh" not in file.read("header.json")
    sys.modules.pop("own_jax")
    code, _, err = run("predict", "model.ntk", "rows.npz")
    assert code == 2
    assert "--network own_jax:net" in err
    assert "own_jax" not in sys.modules


@pytest.mark.parametrize(
    "argv, message",
    [
        (("fit", "rows.npz", "--network", "own_jax:net", "--depth", "3"), "`--depth` is for networks that ntkit makes"),
        (("fit", "rows.npz", "--network", "own_jax:net", "--kernel", "nngp"), "is a finite one"),
        (("fit", "rows.npz", "--tokens"), "`--tokens` is for a network of your own"),
        (("fit", "rows.npz", "--network", "resnet"), "module:attribute"),
        (("fit", "rows.npz", "--network", "nowhere:net"), "There is no module 'nowhere'"),
        (("fit", "images.npz", "--network", "own_jax:net"), "`--channels` says how images are laid out"),
        (("kernel", "rows.npz", "--network", "own_jax:net", "--kind", "both", "--out", "k.npy"), "is a finite one"),
        (("kernel", "rows.npz", "--network", "own_jax:net", "--image", "3x1", "--out", "k.npy"), "--channels first"),
        (("predict", "own.ntk", "rows.npz", "--network", "own_jax:changed"), "are not those of `own_jax:net`"),
        (("predict", "made.ntk", "rows.npz", "--network", "own_jax:net"), "a network that ntkit makes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, argv, message):
    if argv[0] == "predict":
        given = ("--network", "own_jax:net") if argv[1] == "own.ntk" else ("--depth", 1, "--activation", "relu")
        assert run("fit", "rows.npz", *given, "--alpha", "0.1", "--out", argv[1])[0] == 0
    code, _, err = run(*argv)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
