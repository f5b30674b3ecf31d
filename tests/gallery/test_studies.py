"""The judged experiments: each quick run end to end, that verdicts follow from numbers, and what is refused."""

import copy
import json

import numpy as np
import pytest

from ntkit import data as sets
from ntkit import gallery
from ntkit.errors import ComputationError, InputError
from ntkit.gallery import _study
from ntkit.gallery._study import Criterion
from ntkit.gallery.jacot2018_fig3 import principal

LOAD = sets.load


def still(numbers):
    """The wide networks scatter as the narrow ones."""
    numbers["groups"][1]["before"] = numbers["groups"][0]["before"]


def moving(numbers):
    wide = numbers["groups"][1]
    wide["after"] = (np.asarray(wide["after"]) * 1.5).tolist()


def shifted(numbers):
    wide = numbers["groups"][1]
    wide["outputs"] = (np.asarray(wide["outputs"]) + np.asarray(numbers["deviation"])).tolist()


def narrowed(numbers):
    wide, mean = numbers["groups"][1], np.asarray(numbers["mean"])
    wide["outputs"] = (mean + 0.3 * (np.asarray(wide["outputs"]) - mean)).tolist()


def bent(numbers):
    wide = numbers["groups"][-1]
    wide["across"] = (10 * np.asarray(wide["across"])).tolist()


def slow(numbers):
    wide = numbers["groups"][-1]
    wide["along"] = np.full(np.shape(wide["along"]), -0.5).tolist()


def apart(numbers):
    for own in numbers["draws"]:
        own["network"][-1] *= 1.2


def untrained(numbers):
    for own in numbers["draws"]:
        own["network"] = own["linearized"] = [own["network"][0]] * len(own["network"])


def standing(numbers):
    """The kernels of all numbers of features deviate as those of the smallest."""
    numbers["kernels"] = [numbers["kernels"][0]] * len(numbers["kernels"])


def scattered(numbers):
    """Flows as far from the fixed kernel's at any number of features."""
    fixed, flows = np.asarray(numbers["fixed"]), np.asarray(numbers["flows"])
    apart = flows - fixed
    numbers["flows"] = (fixed + apart / np.linalg.norm(apart, axis=2, keepdims=True)).tolist()


def turned(numbers):
    """A kernel of the features that moves in training."""
    numbers["model"] = (1.001 * np.asarray(numbers["model"])).tolist()


def late(numbers):
    for own in numbers["draws"]:
        own["chosen"]["excess"] = own["end"]


def risky(numbers):
    own = numbers["draws"][-1]["risks"]
    own["flow"][-1] = 1.7 * own["ridge"][-1]


def alike(numbers):
    """Networks that learn all frequencies at one rate."""
    for own in numbers["spheres"][-1]["widths"]:
        own["rates"] = np.broadcast_to(np.mean(own["rates"], axis=1, keepdims=True), np.shape(own["rates"])).tolist()


def hasty(numbers):
    wide = numbers["spheres"][-1]["widths"][-1]
    wide["rates"] = (1.5 * np.asarray(wide["rates"])).tolist()


def level(numbers):
    """Wide networks are as far as narrow ones."""
    numbers["full"]["test"][0][-1] = numbers["full"]["test"][0][0]


def steep(numbers):
    own = numbers["batches"]["train"][0]
    own[-1] = (np.asarray(own[-1]) / 3).tolist()


def stuck(numbers):
    """Networks that are near to their kernel because they do not learn."""
    for own in numbers.values():
        residual = np.asarray(own["residual"])
        own["residual"] = np.broadcast_to(residual[..., :1], residual.shape).tolist()


def unscaled(numbers):
    for own in numbers["groups"]:
        own["linear_test"] = numbers["groups"][0]["linear_test"]


def rooted(numbers):
    """The distance falls as the root of the scale."""
    for own in numbers["groups"]:
        own["linear_train"] = (np.asarray(own["linear_train"]) * own["scale"] ** 0.5).tolist()


def lazy_all_the_way(numbers):
    last = numbers["groups"][-1]
    last["test"] = (np.asarray(last["test"]) / 10).tolist()


NUMBERS = {"network", "outputs", "after", "across", "flows", "ridge", "rates", "train", "linear_test"}


def broken(numbers):
    """Not a number where a width or a draw should have some."""
    for key, own in numbers.items():
        if key in NUMBERS:
            numbers[key] = np.full(np.shape(own), np.nan).tolist()
        elif isinstance(own, dict):
            broken(own)
        elif isinstance(own, list) and own and isinstance(own[0], dict):
            for inner in own:
                broken(inner)


DOCTORS = {
    "jacot2018-fig1": (still, moving),
    "jacot2018-fig2": (shifted, narrowed),
    "jacot2018-fig3": (bent, slow),
    "linearization-mnist": (apart, untrained),
    "random-features": (standing, scattered, turned),
    "early-stopping": (late, risky),
    "spectral-bias": (alike, hasty),
    "finite-vs-infinite": (level, steep, stuck),
    "lazy-training": (unscaled, rooted, lazy_all_the_way),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", gallery.STUDIES)
def test_a_quick_run_and_its_verdict(tmp_path, name):
    """One run for all claims, as it takes seconds: files, numbers, verdict, and that doctored numbers fail."""
    study = gallery.study(name)
    found = gallery.reproduce(study, study.settings(quick=True), tmp_path, progress=False)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [f.name for f in found.files] == ["figure.png", "results.json"]
    assert found.files[0].read_bytes().startswith(b"\x89PNG")
    assert found.verdict == results["verdict"] == "reproduced"
    assert all(c["holds"] for c in results["criteria"])
    # The numbers alone give the verdict again.
    findings, criteria = gallery.judge(study, results["numbers"])
    assert json.loads(json.dumps(findings)) == results["findings"]
    assert [c.plain() for c in criteria] == results["criteria"]
    table = study.table(findings)
    assert all(len(row) == len(table.columns) for row in table.rows)
    for doctor in (*DOCTORS[name], broken):
        numbers = copy.deepcopy(results["numbers"])
        doctor(numbers)
        assert gallery.verdict(gallery.judge(study, numbers)[1]) == "not reproduced", doctor.__name__


def test_a_criterion_is_an_interval():
    assert Criterion("a", 1.0, 1.0, 2.0).holds
    assert not Criterion("a", 2.1, 1.0, 2.0).holds
    assert not Criterion("a", float("nan"), high=2.0).holds
    assert Criterion("a", float("nan"), high=2.0).plain() == {
        "name": "a", "value": None, "low": None, "high": 2.0, "holds": False,
    }  # fmt: skip
    assert [Criterion("a", 0, **k).interval for k in ({"low": 1}, {"high": 2}, {"low": 1, "high": 2})] == [
        "at least 1", "at most 2", "1 to 2",
    ]  # fmt: skip
    assert gallery.verdict([]) == "not reproduced"


def test_principal_components_are_those_of_the_kernel():
    """Against the definition: K f / n = eigenvalue f, mean square 1, orthogonal."""
    x = np.random.default_rng(0).uniform(size=(12, 5)).astype(np.float32)
    values, f = principal(x)
    np.testing.assert_allclose(f.T @ f / 12, np.eye(3), atol=1e-10)
    assert (np.diff(values) < 0).all()
    # The trace of K / n is the mean of the diagonal, which three eigenvalues do not exceed.
    again, g = principal(np.concatenate([x, x]))
    np.testing.assert_allclose(again, values, rtol=1e-9)  # the mean over examples that are there twice
    np.testing.assert_allclose(np.abs(g[:12]), np.abs(f), atol=1e-6)


# Stopped, resumed, refused


@pytest.fixture
def toy(monkeypatch):
    """A study whose rows are counted, and that can be stopped."""
    made = []

    def measure(settings, rows, meter):
        def row(k):
            if k in stop:
                raise KeyboardInterrupt
            made.append(k)
            return {"value": float(k)}

        values = [rows(f"row {k}", lambda k=k: row(k))["value"] for k in range(3)]
        return {"values": values}

    stop = {2}
    known = gallery.STUDIES["jacot2018-fig1"]
    changes = {
        "measure": measure,
        "find": lambda numbers: {"sum": sum(numbers["values"])},
        "criteria": lambda findings: [Criterion("sum", findings["sum"], 3, 3)],
        "table": lambda findings: gallery.Table(("sum",), ((str(findings["sum"]),),)),
        "draw": lambda axes, numbers, findings: axes[0].plot(numbers["values"]),
        "steps": lambda settings: 3,
    }
    study = gallery.Study(**{f: getattr(known, f) for f in known.__dataclass_fields__} | changes)
    monkeypatch.setitem(gallery.STUDIES, study.name, study)
    return study, made, stop


def test_a_run_goes_on_where_it_was_stopped(toy, tmp_path):
    study, made, stop = toy
    with pytest.raises(KeyboardInterrupt):
        gallery.reproduce(study, study.settings(), tmp_path, progress=False)
    assert [f.name for f in tmp_path.iterdir()] == ["gallery.json"]
    stop.clear()
    calls = []
    found = gallery.reproduce(study, study.settings(), tmp_path, progress=lambda *at: calls.append(at))
    assert made == [0, 1, 2]
    assert found.verdict == "reproduced"
    assert calls[0] == (0, 3)
    # Other settings need another folder.
    with pytest.raises(InputError, match=r"seed 0 and not 1.*overwrite=True"):
        gallery.reproduce(study, study.settings(seed=1), tmp_path, progress=False)
    gallery.reproduce(study, study.settings(seed=1), tmp_path, overwrite=True, progress=False)
    assert made == [0, 1, 2] * 2


def test_a_figure_that_fails_leaves_none(toy, tmp_path, monkeypatch):
    study, _, stop = toy
    stop.clear()
    monkeypatch.setattr(_study, "_draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gallery.reproduce(study, study.settings(), tmp_path, progress=False)
    assert [f.name for f in tmp_path.iterdir()] == ["gallery.json"]


@pytest.fixture
def command(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *argv: run("gallery", *argv)


def test_the_list_names_all(command):
    code, out, _ = command("list")
    assert code == 0
    assert all(name in out for name in [*gallery.STUDIES, "cifar10"])
    assert list(json.loads(command("list", "--json")[1])) == list(gallery.EXPERIMENTS)


def test_the_command_prints_a_verdict(command, toy, tmp_path):
    toy[2].clear()
    code, out, err = command("run", "jacot2018-fig1", "--quick")
    assert code == 0
    assert "Verdict: reproduced, 1 of 1 criteria hold." in out
    assert "figure 1" in err
    assert (tmp_path / "ntkit-gallery" / "jacot2018-fig1-quick" / "results.json").is_file()
    found = json.loads(command("run", "jacot2018-fig1", "--quick", "--json")[1])
    assert found["verdict"] == "reproduced"
    assert found["criteria"][0]["value"] == 3


def test_what_does_not_hold_ends_with_1(command, toy):
    toy[2].clear()
    object.__setattr__(toy[0], "criteria", lambda findings: [Criterion("sum", findings["sum"], high=2)])
    code, out, _ = command("run", "jacot2018-fig1", "--quick")
    assert code == 1
    assert "not reproduced, 0 of 1" in out


@pytest.mark.parametrize(
    "argv, words",
    [
        (("run", "jacot2018-fig4"), "Did you mean"),
        (("run", "nothing"), "cifar10"),
        (("run", "jacot2018-fig1", "--data", "mnist"), "makes its own"),
        (("run", "linearization-mnist", "--quick", "--data", "diabetes"), "must have classes"),
        (("run", "jacot2018-fig3", "--data", "iris"), "512 training examples"),
        (("run", "jacot2018-fig1", "--quick", "--out", "file"), "must be a folder"),
        (("run", "jacot2018-fig1", "--quick", "--out", "file/below"), "is a file"),
        (("run", "cifar10", "--data", "iris"), "must be images"),
    ],
)
def test_wrong_usage_is_one_line(command, tmp_path, argv, words):
    (tmp_path / "file").write_text("")
    code, _, err = command(*argv)
    assert code == 2
    assert words in err.splitlines()[-1]
    assert err.count("Error") == 1


def test_where_mnist_cannot_be_had_the_digits_take_its_place(monkeypatch, tmp_path):
    def none():
        raise ComputationError("Fetching mnist from OpenML failed: no network.")

    monkeypatch.setattr(sets, "load", lambda name: none() if name == "mnist" else LOAD(name))
    for name, sizes in (("jacot2018-fig3", (512, None)), ("early-stopping", (200, 600))):
        study = gallery.study(name)
        settings, words = gallery.with_images(study, study.settings())
        assert (settings.data, settings.examples, getattr(settings, "test", None)) == ("digits", *sizes)
        assert "digits in place of MNIST. Fetching mnist" in words
        assert settings.seed == study.full.seed
    study = gallery.study("linearization-mnist")
    assert gallery.with_images(study, study.settings(quick=True)) == (study.quick, "shipped with scikit-learn")
    circle = gallery.study("jacot2018-fig1")
    assert gallery.with_images(circle, circle.full) == (circle.full, None)
