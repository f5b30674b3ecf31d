"""`ntkit width`: the numbers of `ntkit.width_study`, a picture, and one line for every wrong option."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris

import ntkit
from ntkit import nn
from ntkit.cli.width import _widths


@pytest.fixture
def run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return functools.partial(run, "width")


def test_numbers_picture_and_table(run):
    options = ("iris", "--n", 3, "--widths", "4,8", "--seeds", 3, "--seed", 5, "--depth", 1, "--init", "rademacher")
    how = (*options, "--scale", "none", "--b-std", 0)
    code, out, _ = run(*how, "--json")
    assert code == 0
    printed = json.loads(out)
    assert Path("ntkit-width/width.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(Path("ntkit-width/width.json").read_text())
    assert printed == found | {"files": ["ntkit-width/width.png", "ntkit-width/width.json"]} | {
        "seconds": printed["seconds"]
    }
    x = load_iris().data
    x = x[np.sort(np.random.default_rng(5).permutation(len(x))[:3])].astype(np.float32)
    net = nn.mlp(1, 8, nn.Relu(), w_std=2**0.5, init="rademacher")
    study = ntkit.width_study(net, x, [4, 8], [5, 6, 7])
    np.testing.assert_allclose(found["deviations"], study.deviations, rtol=1e-5)
    np.testing.assert_allclose(found["rate"]["slope"], study.rate.slope, rtol=1e-4)
    assert found["network"]["init"] == "rademacher"
    assert [layer["layer"] for layer in found["layers"]] == ["0 Dense", "2 Dense"]
    code, out, _ = run(*how)
    assert code == 0
    assert f"width^({study.rate.slope:.3f} ± {study.rate.standard_error:.3f})" in out


def test_a_spread_makes_widths_random():
    first, second = _widths("10, 20", 0.5)
    assert [law.support() for law in (first, second)] == [(5, 15), (10, 30)]
    assert _widths("10,20", 0.0) == [10, 20]


@pytest.mark.parametrize(
    "options, word",
    [
        (("--widths", "8,0"), "--widths"),
        (("--widths", "8,-4"), "--widths"),
        (("--widths", "8,a"), "--widths"),
        (("--widths", ""), "--widths"),
        (("--widths", "8"), "at least two different"),
        (("--seeds", 0), "--seeds"),
        (("--spread", 2), "--spread"),
        (("--delta", 0), "--delta"),
        (("--init", "cauchy"), "--init"),
        (("--depth", 0), "hidden layer"),
        (("--network", "cntk"), "--network cntk"),
        (("--out", "file"), "--out"),
        (("--activation", "nonsense"), "nonsense"),
        (("--n", 0), "--n"),
    ],
)
def test_wrong_options_are_refused(run, options, word):
    Path("file").write_text("")
    code, out, err = run("iris", *options)
    assert code == 2
    assert word in err
    assert not out
