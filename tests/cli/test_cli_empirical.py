"""`ntkit empirical`: kernels of networks in the current folder, against the library; each wrong input in one line."""

import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import ntkit

NETS = """
import numpy as np
import jax.numpy as jnp

rng = np.random.default_rng(0)
params = {"w": rng.standard_normal((4, 5)), "v": rng.standard_normal((5, 2))}

def fn(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]

pair = fn, params
number = 3

def made():
    return pair

def needs(size):
    return pair

def broken():
    raise OSError("no such checkpoint\\nat all")

def none():
    return 7

embedded = lambda p, x: p["table"][x].sum(1), {"table": rng.standard_normal((9, 3)).astype(np.float32)}
batchwise = lambda p, x: fn(p, x - x.mean(0, keepdims=True)), params
"""
TORCH = """
import torch
from torch import nn

torch.manual_seed(0)
cnn = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 2))
words = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 2))

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 2))
"""
RNG = np.random.default_rng(1)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with two modules, which no other test sees, and data."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("torch_nets.py").write_text(TORCH)
    np.savez("rows.npz", x=RNG.standard_normal((7, 4)), y=np.arange(7) % 2)
    np.save("images.npy", RNG.standard_normal((5, 3, 2, 2)))
    np.save("words.npy", RNG.integers(0, 9, (6, 4)))
    before = list(sys.path)
    yield
    for name in ("nets", "torch_nets", "sick"):
        sys.modules.pop(name, None)
    assert sys.path == before


@pytest.fixture
def run(run):
    return functools.partial(run, "empirical")


def test_of_a_jax_pair(run, x64):
    options = ("nets:pair", "rows.npz", "--outputs", "full", "--by-layer", "--labels", "--out", "o", "--json")
    code, out, err = run(*options)
    assert code == 0, err
    found = json.loads(out)
    import nets

    x = np.load("rows.npz")["x"]
    kernel = ntkit.EmpiricalNTK(nets.fn, nets.params, outputs="full")
    want = np.asarray(kernel(jnp.asarray(x)))
    np.testing.assert_allclose(np.load("o/kernel.npy"), want, rtol=0, atol=1e-12 * want.max())
    layers = {name: np.load(path) for name, path in found["layers"].items()}
    for name, part in kernel.by_layer(jnp.asarray(x)).items():
        np.testing.assert_allclose(layers.pop(name), part, rtol=0, atol=1e-12 * want.max())
    assert layers == {}
    flat = want.transpose(0, 2, 1, 3).reshape(14, 14)
    np.testing.assert_allclose(np.load("o/eigenvalues.npy"), np.linalg.eigvalsh(flat)[::-1], atol=1e-10)
    y = np.eye(2)[np.arange(7) % 2]
    centring = np.eye(7) - 1 / 7
    k, yy = (centring @ m @ centring for m in (np.einsum("ijaa->ij", want), y @ y.T))
    np.testing.assert_allclose(found["alignment"], np.sum(k * yy) / np.linalg.norm(k) / np.linalg.norm(yy), rtol=1e-10)
    plan = json.loads(Path("o/plan.json").read_text())
    assert [line["parameter"] for line in plan["parameters"]] == ["v", "w"]
    assert "pairs of rows" in Path("o/plan.txt").read_text()
    assert Path("o/spectrum.png").stat().st_size > 5000
    # What is there is recognised; with another parameter it is another job.
    stamp = Path("o/kernel.npy").stat().st_mtime_ns
    assert run(*options)[0] == 0
    assert Path("o/kernel.npy").stat().st_mtime_ns == stamp
    nets.params["w"][0, 0] += 1e-9
    code, _, err = run(*options)
    assert code == 2
    assert "--overwrite" in err


def test_of_torch_modules(run):
    pytest.importorskip("torch")
    import torch

    code, out, err = run("torch_nets:cnn", "images.npy", "--channels", "first", "--only", "0", "--by-layer",
                         "--format", "zarr")  # fmt: skip
    assert code == 0, err
    assert "as it predicts" in err
    assert "5 x 5, float32" in out
    from torch_nets import cnn

    assert cnn.training
    x = torch.as_tensor(np.moveaxis(np.load("images.npy"), -1, 1)).float()
    want = ntkit.torch.EmpiricalNTK(cnn.eval(), ["0.weight", "0.bias"])(x).numpy()
    folder = Path("ntkit-empirical")
    np.testing.assert_allclose(zarr.open_array(folder / "kernel.zarr")[:], want, rtol=1e-5)
    parts = [zarr.open_array(path)[:] for path in sorted((folder / "layers").iterdir())]
    np.testing.assert_allclose(sum(parts), want, rtol=1e-5)
    assert len(parts) == 2
    code, _, err = run("torch_nets:cnn", "images.npy", "--channels", "first", "--format", "zarr")
    assert code == 2
    assert "another job" in err
    assert "--overwrite" in err
    assert run("torch_nets:Net", "rows.npz", "--dtype", "float64", "--out", "n", "--outputs", "diagonal")[0] == 0
    assert np.load("n/kernel.npy").shape == (7, 7, 2)
    assert np.load("n/eigenvalues.npy").shape == (2, 7)
    assert not [path for path in folder.iterdir() if "tmp" in path.name]


def test_of_tokens(run):
    code, out, err = run("nets:embedded", "words.npy", "--tokens", "--json", "--out", "j")
    assert code == 0, err
    tokens = np.load("words.npy")
    counts = np.stack([np.bincount(row, minlength=9) for row in tokens])
    np.testing.assert_allclose(np.load("j/kernel.npy"), counts @ counts.T, rtol=1e-6)
    assert json.loads(out)["dtype"] == "float32"
    pytest.importorskip("torch")
    assert run("torch_nets:words", "words.npy", "--tokens", "--out", "t")[0] == 0
    code, _, err = run("torch_nets:words", "words.npy", "--out", "u")
    assert code == 2
    assert "`--tokens` that the inputs are whole" in err


@pytest.mark.parametrize(
    "argv, code, message",
    [
        (("nets", "rows.npz"), 2, "must be named `module:attribute`"),
        (("nets.py:pair", "rows.npz"), 2, "name the module that it is: `nets:pair`"),
        (("nowhere:pair", "rows.npz"), 2, "no module 'nowhere'"),
        (("nets:nothing", "rows.npz"), 2, "has no `nothing`. It has "),
        (("nets:number", "rows.npz"), 2, "`nets:number` is an object of type int, which is no network"),
        (("nets:none", "rows.npz"), 2, "`nets:none` returns an object of type int"),
        (("nets:needs", "rows.npz"), 2, "cannot be called without arguments"),
        (("nets:broken", "rows.npz"), 1, "`nets:broken()` failed: OSError: no such checkpoint."),
        (("sick:net", "rows.npz"), 1, "Importing 'sick' failed: ZeroDivisionError"),
        (("nets:pair", "images.npy"), 2, "float64 of shape (1, 3, 2, 2): TypeError"),
        (("nets:batchwise", "rows.npz"), 2, "depend on other examples"),
        (("nets:pair", "rows.npz", "--only", "u"), 2, "`--only` names 'u'"),
        (("nets:pair", "rows.npz", "--channels", "first"), 2, "`--channels first` needs images"),
        (("nets:pair", "rows.npz", "--image", "2x2"), 2, "give `--channels first` or `last`"),
        (("nets:pair", "rows.npz", "--tokens"), 2, "not whole"),
        (("nets:pair", "images.npy", "--labels"), 2, "`--labels` needs targets"),
        (("nets:pair", "rows.npz", "--memory", "much"), 2, "--memory"),
        (("nets:pair", "rows.npz", "--out", "nets.py"), 2, "must be a folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, argv, code, message):
    Path("sick.py").write_text("1 / 0")
    found, out, err = run(*argv)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_torch_that_is_missing_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, _, err = run("torch_nets:cnn", "images.npy")
    assert code == 2
    assert "pip install 'ntkit[torch]'" in err


def test_some_eigenvalues_of_a_large_matrix(monkeypatch):
    from ntkit.cli import _summary

    monkeypatch.setattr(_summary, "SOME", 5)
    a = RNG.standard_normal((40, 12))
    values = _summary.eigenvalues(a @ a.T, "1kB")
    np.testing.assert_allclose(values, np.linalg.eigvalsh(a @ a.T)[::-1][:5], rtol=1e-9)
    # In blocks of a few rows, too.
    blocks = list(_summary.Matrix((a @ a.T)[:, :, None] * np.ones(3), 1).rows(most=500))
    assert len(blocks) > 5
    np.testing.assert_allclose(np.concatenate([b for _, b in blocks]), a @ a.T)


def test_a_factory_makes_the_network(run):
    assert run("nets:made", "rows.npz", "--out", "m")[0] == 0
    assert jax.config.read("jax_enable_x64") is False
