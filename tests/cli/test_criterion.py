"""The criterion of `ntkit fit` and `ntkit demo`: the choice against brute force, what is printed, and what is kept."""

import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats

from ntkit.cli import main
from ntkit.cli._architecture import Architecture
from ntkit.cli._choose import FOLDS, RIDGES, Criterion, candidates, choose
from ntkit.cli._model import load_model
from ntkit.predict import one_hot
from ntkit.predict.tune import CRITERIA


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def data(n=20, noise=0.3):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, 2))
    return x, x[:, 0] ** 2 + noise * rng.normal(size=n)


def table(path="t.csv", *, text=False):
    x, y = data()
    last = [("low" if v < 0.5 else "high") if text else repr(float(v)) for v in y]
    Path(path).write_text("".join(f"{a!r},{b!r},{c}\n" for (a, b), c in zip(x.tolist(), last, strict=True)))
    return path


def refits(k, y, alpha, parts):
    """Squared errors, log densities and hits of models that have not seen a part, refitted for each."""
    error, density, hit = np.zeros_like(y), np.zeros_like(y), np.zeros(len(y))
    for part in parts:
        rest = np.setdiff1d(np.arange(len(y)), part)
        inverse = np.linalg.inv(k[np.ix_(rest, rest)] + alpha * np.eye(len(rest)))
        gain = k[np.ix_(part, rest)] @ inverse
        mean = gain @ y[rest]
        variance = np.diag(k)[part] + alpha - np.sum(gain * k[np.ix_(part, rest)], axis=1)
        error[part] = (y[part] - mean) ** 2
        density[part] = scipy.stats.norm.logpdf(y[part], mean, np.sqrt(variance)[:, None])
        hit[part] = mean.argmax(axis=1) == y[part].argmax(axis=1)
    return error.mean(), density.mean(), hit.mean()


def value(criterion, k, y, alpha):
    """Larger is better."""
    n = len(y)
    if criterion == "likelihood":
        law = scipy.stats.multivariate_normal(np.zeros(n), k + alpha * np.eye(n))
        return sum(law.logpdf(column) for column in y.T)
    if criterion == "k-fold":
        order = np.asarray(jax.random.permutation(jax.random.key(7), n))
        return -refits(k, y, alpha, np.array_split(order, FOLDS))[0]
    error, density, hit = refits(k, y, alpha, [np.array([i]) for i in range(n)])
    return {"leave-one-out-error": -error, "leave-one-out": density, "leave-one-out-accuracy": hit}[criterion]


@pytest.mark.parametrize("criterion", list(Criterion))
def test_the_choice_is_that_of_brute_force(criterion, x64):
    x, y = data()
    y = one_hot((y > 0.5).astype(int) + (y > 1.5)).y if "accuracy" in criterion else (y - y.mean())[:, None]
    options = candidates(Architecture(), (1, 2), ("relu", "erf"))
    found = choose(options, x, y, criterion=criterion, seed=7)
    every = {}
    for net in options:
        k = np.asarray(net.as_kernel()(x))
        for ridge in RIDGES:
            alpha = ridge * np.diag(k).mean()
            every[str(net), f"{alpha:.6g}"] = value(str(criterion), k, y, alpha)
    best = max(every.values())
    assert every[str(found.architecture), f"{found.alpha:.6g}"] == pytest.approx(best, rel=1e-6)
    assert abs(criterion.of(found.best)) == pytest.approx(abs(best), rel=1e-6)
    assert len(found.tried) == 4


def test_the_criteria_are_those_of_the_library():
    assert {str(c) for c in Criterion} == {*CRITERIA, "k-fold"}
    for criterion in Criterion:
        assert criterion == "k-fold" or CRITERIA[criterion] == criterion.field


@pytest.mark.parametrize(
    "criterion, words", [("likelihood", "log marginal likelihood"), ("k-fold", "mean squared 5-fold error")]
)
def test_it_is_printed_and_kept(criterion, words, capsys):
    argv = ["fit", table(), "--criterion", criterion, "--depth", "1", "--activation", "relu"]
    assert main(argv) == 0
    assert f"chosen among 7 ridges by {words} on 20 examples" in capsys.readouterr().out
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["criterion"] == criterion
    assert np.isfinite(found["criterion_value"])
    assert load_model(Path("model.ntk")).criterion == criterion
    assert main(["info", "model.ntk"]) == 0
    assert criterion in capsys.readouterr().out


def test_where_nothing_is_open_nothing_is_said(capsys):
    assert main(["fit", table(), "--depth", "1", "--activation", "relu", "--alpha", "0.1"]) == 0
    assert "chosen" not in capsys.readouterr().out
    assert load_model(Path("model.ntk")).criterion == ""


def test_files_from_before_the_criterion_are_read():
    assert main(["fit", table(), "--depth", "1", "--activation", "relu", "--alpha", "0.1"]) == 0
    with zipfile.ZipFile("model.ntk") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    header = json.loads(parts["header.json"])
    del header["criterion"]
    parts["header.json"] = json.dumps(header).encode()
    with zipfile.ZipFile("model.ntk", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    assert load_model(Path("model.ntk")).criterion == ""


@pytest.mark.parametrize(
    "argv, word",
    [
        (["fit", "t.csv", "--criterion", "luck"], "likelihood"),
        (["demo", "--criterion", "luck"], "likelihood"),
        (["fit", "t.csv", "--criterion", "leave-one-out-accuracy"], "needs classes"),
        (["demo", "--data", "diabetes", "--criterion", "leave-one-out-accuracy"], "needs classes"),
        (["fit", "t.csv", "--criterion", "k-fold", "--n", "4"], "5 examples"),
    ],
)
def test_wrong_criteria_are_usage(argv, word, capsys):
    table()
    assert main(argv) == 2
    assert word in capsys.readouterr().err
    assert not Path("model.ntk").exists()


@pytest.mark.slow
def test_the_demo_says_by_what_it_chose(capsys):
    argv = ["demo", "--quick", "--n", "100", "--data", "wine"]
    assert main([*argv, "--criterion", "likelihood"]) == 0
    assert "Chosen by log marginal likelihood on 100 examples among 4 networks" in capsys.readouterr().out
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"]["criterion"] == "leave-one-out-error"
