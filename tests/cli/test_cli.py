"""Every command, its help, its JSON, and every wrong input: one line of error, the right exit code, no traceback."""

import csv
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import ntkit
from ntkit import nn
from ntkit.cli import main
from ntkit.cli._model import VERSION, load_model

COMMANDS = [
    "demo",
    "kernel",
    "empirical",
    "fit",
    "predict",
    "width",
    "info",
    "gallery",
    "gallery list",
    "gallery run",
    "gallery cifar10",
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Every test writes into a folder of its own."""
    monkeypatch.chdir(tmp_path)


def table(path, n=30, *, header=True, text=False, seed=0):
    """A CSV with two features and a real target; with `text`, labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = x[:, 0] + 0.1 * rng.normal(size=n)
    last = [("low" if v < 0 else "high") if text else repr(float(v)) for v in y]
    rows = [f"{a!r},{b!r},{c}" for (a, b), c in zip(x.tolist(), last, strict=True)]
    Path(path).write_text("\n".join((["u,v,y"] if header else []) + rows) + "\n")
    return x, y


QUICK = ("--depth", 1, "--activation", "relu", "--alpha", 0.1)


# Help, versions


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert f"ntkit {command}" in out
    assert "--json" in out
    assert command.split()[0] in run("--help")[1]


def test_the_reference_has_the_help_of_every_command(monkeypatch):
    pytest.importorskip("latex2mathml")
    root = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location("docs_hooks", root / "tools" / "docs_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.on_page_markdown((root / "docs" / "reference" / "cli.md").read_text())
    for command in COMMANDS:
        assert f"Usage: ntkit {command}" in page
    assert "--criterion" in page
    assert "HELP " not in page
    assert "\x1b" not in page
    with pytest.raises(ValueError, match="nonsense"):
        hooks.on_page_markdown("HELP nonsense")


def test_info(run):
    code, out, _ = run("info", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["ntkit"] == ntkit.__version__
    assert found["libraries"]["numpy"] == np.__version__
    assert found["cores"] >= 1
    assert "devices" in run("info")[1]


def test_info_of_a_model(run):
    table("train.csv", text=True)
    run("fit", "train.csv", "--out", "m.ntk", *QUICK)
    found = json.loads(run("info", "m.ntk", "--json")[1])
    assert found["task"] == "classification"
    assert found["classes"] == ["high", "low"]
    assert found["features"] == ["u", "v"]
    assert "depth 1, relu" in run("info", "m.ntk")[1]
    assert run("info", "train.csv")[0] == 2


def test_version(run):
    assert run("--version") == (0, f"ntkit {ntkit.__version__}\n", "")
    assert "--version" in run("--help")[1]


def test_no_command_shows_help(run):
    code, out, err = run()
    assert code == 2
    assert "Usage" in out + err


# ntkit kernel


def test_kernel_is_the_librarys(run, x64):
    x, _ = table("data.csv")
    code, out, _ = run(
        "kernel", "data.csv", "--target", "y", "--out", "k.npy", "--depth", 2, "--activation", "erf", "--w-std", 1.2,
        "--b-std", 0.3, "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["shape"] == [30, 30]
    want = ntkit.NTK(nn.mlp(2, 8, nn.Erf(), w_std=1.2, b_std=0.3))(jnp.asarray(x))
    np.testing.assert_allclose(np.load("k.npy"), want, rtol=1e-10)


def test_kernel_of_two_sets_as_zarr_and_both(run, x64):
    x1, _ = table("a.csv", 9)
    x2, _ = table("b.csv", 5, seed=1)
    options = ("--data2", "b.csv", "--target", "2", "--depth", 1, "--beta", 0.5, "--kind", "both")
    assert run("kernel", "a.csv", "--out", "k.zarr", *options)[0] == 0
    want = ntkit.kernels(nn.mlp(1, 8, nn.Relu(), beta=0.5), jnp.asarray(x1), jnp.asarray(x2))
    group = zarr.open_group("k.zarr", mode="r")
    np.testing.assert_allclose(group["ntk"][:], want.ntk, rtol=1e-10)
    assert run("kernel", "a.csv", "--out", "k.npy", *options)[0] == 0
    np.testing.assert_allclose(np.load("k-nngp.npy"), want.nngp, rtol=1e-10)
    np.testing.assert_allclose(np.load("k-ntk.npy"), want.ntk, rtol=1e-10)


def test_kernel_does_not_overwrite_another_job(run):
    table("a.csv", 9)
    assert run("kernel", "a.csv", "--out", "k.npy")[0] == 0
    before = Path("k.npy").read_bytes()
    code, _, err = run("kernel", "a.csv", "--out", "k.npy", "--depth", 1)
    assert code == 2
    assert "--overwrite" in err
    assert Path("k.npy").read_bytes() == before
    assert run("kernel", "a.csv", "--out", "k.npy", "--depth", 1, "--overwrite")[0] == 0
    assert Path("k.npy").read_bytes() != before


def test_kernel_scales_and_samples(run, x64):
    table("a.csv", 12)
    options = ("--target", "y", "--n", 5, "--seed", 3, "--scale", "sphere", "--depth", 1)
    assert run("kernel", "a.csv", "--out", "k.npy", *options)[0] == 0
    # On the sphere of mean square 1 every example has the same variance.
    np.testing.assert_allclose(np.diag(np.load("k.npy")), np.load("k.npy")[0, 0], rtol=1e-12)
    assert np.load("k.npy").shape == (5, 5)


# ntkit fit, ntkit predict


def test_regression_there_and_back(run):
    x, y = table("train.csv", 60)
    code, out, _ = run("fit", "train.csv", "--target", "y", *QUICK, "--json")
    assert code == 0
    assert json.loads(out)["task"] == "regression"
    x_test, y_test = table("test.csv", 40, seed=1)
    code, out, _ = run("predict", "model.ntk", "test.csv", "--out", "p.csv", "--json")
    assert code == 0
    assert json.loads(out)["examples"] == 40
    rows = np.array(list(csv.reader(Path("p.csv").read_text().splitlines()))[1:], float)
    # Independent of the command line: the estimator on standardised features.
    from sklearn.preprocessing import StandardScaler

    from ntkit.sklearn import NTKRegressor

    scaler = StandardScaler().fit(x)
    model = NTKRegressor(1, "relu", alpha=0.1, normalize_y=True).fit(scaler.transform(x), y)
    mean = model.predict(scaler.transform(x_test))
    np.testing.assert_allclose(rows[:, 0], mean, rtol=1e-8, atol=1e-10)
    # The deviations are those of new labels: about a third lie outside one, about one in twenty outside two.
    inside = np.mean(np.abs(rows[:, 0] - y_test) < 2 * rows[:, 1])
    assert inside > 0.8
    assert (rows[:, 1] > 0).all()


def test_classification_there_and_back(run):
    table("train.csv", 60, text=True)
    code, out, _ = run("fit", "train.csv", "--out", "m.ntk", *QUICK)
    assert code == 0
    assert "accuracy" in out
    table("test.csv", 40, seed=1, text=True)
    assert run("predict", "m.ntk", "test.csv")[0] == 0
    rows = list(csv.DictReader(Path("predictions.csv").read_text().splitlines()))
    assert list(rows[0]) == ["prediction", "p_high", "p_low"]
    truth = [line.split(",")[2] for line in Path("test.csv").read_text().splitlines()[1:]]
    assert np.mean([row["prediction"] == t for row, t in zip(rows, truth, strict=True)]) > 0.8
    for row in rows:
        assert float(row["p_high"]) + float(row["p_low"]) == pytest.approx(1)
        assert (float(row["p_high"]) > 0.5) == (row["prediction"] == "high")


def test_columns_are_found_by_name(run):
    table("train.csv")
    run("fit", "train.csv", "--target", "y", *QUICK)
    run("predict", "model.ntk", "train.csv", "--out", "a.csv")
    lines = [line.split(",") for line in Path("train.csv").read_text().splitlines()]
    Path("other.csv").write_text(
        "\n".join(",".join([line[1], "7" if i else "z", line[0]]) for i, line in enumerate(lines))
    )
    run("predict", "model.ntk", "other.csv", "--out", "b.csv")
    assert Path("a.csv").read_text() == Path("b.csv").read_text()
    Path("less.csv").write_text("u,w\n1,2\n")
    code, _, err = run("predict", "model.ntk", "less.csv")
    assert code == 2
    assert "'v'" in err


def test_what_is_not_given_is_chosen(run):
    code, out, _ = run("fit", "iris", "--activation", "erf", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["tried"] == 4
    assert found["loo_accuracy"] > 0.9
    assert found["network"]["activation"] == "erf"
    assert run("predict", "model.ntk", "iris")[0] == 0


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_saved_model_is_read_back_exactly(run, task):
    table("train.csv", text=task == "classification")
    run("fit", "train.csv", *QUICK)
    first = load_model(Path("model.ntk"))
    first.save(Path("again.ntk"))
    second = load_model(Path("again.ntk"))
    assert Path("model.ntk").read_bytes() != b""
    x = np.random.default_rng(5).normal(size=(4, 2))
    for one, two in zip(vars(first(x)).values(), vars(second(x)).values(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert first.architecture == second.architecture
    assert first.columns == second.columns == ("u", "v")


def rewrite(change, path="model.ntk"):
    """The saved model with its header changed."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    header = json.loads(parts["header.json"])
    change(header)
    parts["header.json"] = json.dumps(header).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)


def flip(path="model.ntk"):
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 255
    Path(path).write_bytes(content)


def pickled(path="model.ntk"):
    """An array of Python objects where the weights should be."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist() if name != "weights.npy"}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
        with file.open("weights.npy", "w") as entry:
            np.lib.format.write_array(entry, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda: rewrite(lambda h: h.update(version=VERSION + 1)), "Upgrade"),
        (lambda: rewrite(lambda h: h.update(version=0)), "format version 0"),
        (lambda: rewrite(lambda h: h.update(format="other")), "not a model"),
        (lambda: rewrite(lambda h: h.pop("architecture")), "damaged"),
        (lambda: rewrite(lambda h: h["architecture"].update(activation="nope")), "no activation"),
        (lambda: rewrite(lambda h: h["arrays"].remove("weights")), "damaged"),
        (flip, "damaged"),
        (pickled, "damaged"),
        (lambda: Path("model.ntk").write_bytes(Path("model.ntk").read_bytes()[:500]), "damaged"),
        (lambda: Path("model.ntk").write_text("hello"), "damaged"),
        (lambda: Path("model.ntk").unlink(), "no file"),
    ],
)
def test_models_that_cannot_be_read_are_refused(run, damage, word):
    table("train.csv")
    run("fit", "train.csv", *QUICK)
    damage()
    code, _, err = run("predict", "model.ntk", "train.csv")
    assert code == 2
    assert word in err
    assert not Path("predictions.csv").exists()


@pytest.mark.parametrize(
    "argv, word",
    [
        (("fit", "train.csv", "--out", "train.csv"), "is no model of ntkit's"),
        (("fit", "train.csv", "--out", "notes.txt"), "is no model of ntkit's"),
        (("predict", "model.ntk", "train.csv", "--out", "train.csv"), "the data itself"),
        (("predict", "model.ntk", "train.csv", "--split", "train"), "is one set, with no test examples"),
    ],
)
def test_nothing_of_the_users_is_overwritten(run, argv, word):
    table("train.csv")
    Path("notes.txt").write_text("mine")
    before = Path("train.csv").read_bytes()
    assert run("fit", "train.csv", *QUICK)[0] == 0
    assert run("fit", "train.csv", *QUICK)[0] == 0  # a model replaces a model
    code, _, err = run(*argv, *(QUICK if argv[0] == "fit" else ()))
    assert code == 2
    assert word in err
    assert Path("train.csv").read_bytes() == before
    assert Path("notes.txt").read_text() == "mine"


def test_new_rows_need_not_have_the_target(run):
    table("train.csv")
    lines = [line.rsplit(",", 1)[0] for line in Path("train.csv").read_text().splitlines()]
    Path("new.csv").write_text("\n".join(lines[:4]) + "\n")
    target = Path("train.csv").read_text().splitlines()[0].rsplit(",", 1)[1]
    assert run("kernel", "train.csv", "--target", target, "--data2", "new.csv", "--out", "k.npy")[0] == 0
    assert np.load("k.npy").shape == (30, 3)


# Bad input


def write(text):
    Path("bad.csv").write_text(text)
    return "bad.csv"


BAD = [
    (lambda: write("u,v,y\n1,2,3\n1,nan,3\n"), "missing"),
    (lambda: write("u,v,y\n1,2,3\n1,,3\n"), "missing"),
    (lambda: write("u,v,y\n1,2,3\n1,inf,3\n"), "not finite"),
    (lambda: write("u,v,y\n1,2,3\n1,red,3\n"), "'red'"),
    (lambda: write("u,v,y\n1,2,3\n1,2\n"), "columns"),
    (lambda: write(""), "empty"),
    (lambda: write("u,v,y\n"), "no rows"),
    (lambda: "absent.csv", "no file"),
    (lambda: "data.parquet", "Unknown data"),
    (lambda: "digitz", "digits"),
]


@pytest.mark.parametrize("make, word", BAD)
@pytest.mark.parametrize("command", ["kernel", "fit", "demo"])
def test_bad_data_is_refused(run, command, make, word):
    out = {"kernel": "k.npy", "fit": "m.ntk", "demo": "pictures"}[command]
    argv = ["demo", "--data", make()] if command == "demo" else [command, make()]
    code, printed, err = run(*argv, "--out", out, "--json")
    assert code == 2
    message = json.loads(err)
    assert message["error"] == "usage"
    assert word in message["message"]
    assert printed == ""
    assert not Path(out).is_file()


def arrays(**values):
    np.savez("bad.npz", **values)
    return "bad.npz"


X = np.ones((6, 2)) * np.arange(6)[:, None]


@pytest.mark.parametrize(
    "make",
    [
        lambda: arrays(x=X, y=np.arange(5.0)),
        lambda: arrays(x=X[:0], y=np.zeros(0)),
        lambda: arrays(x=X[0], y=np.zeros(2)),
        lambda: arrays(x=np.where(X > 3, np.nan, X), y=np.arange(6.0)),
        lambda: arrays(x=X.astype(object), y=np.arange(6.0)),
        lambda: arrays(x=X.astype(complex), y=np.arange(6.0)),
        lambda: arrays(z=X),
        lambda: arrays(x=X, y=np.full(6, np.inf)),
    ],
)
def test_bad_arrays_are_refused(run, make):
    code, _, err = run("fit", make())
    assert code == 2
    assert err.startswith("Error: ")
    assert not Path("model.ntk").exists()


@pytest.mark.parametrize(
    "argv, word",
    [
        (("kernel", "iris", "--out", "k.npy", "--activation", "rleu"), "relu"),
        (("kernel", "iris", "--out", "k.npy", "--memory", "100"), "memory"),
        (("kernel", "iris", "--out", "k.npy", "--memory", "lots"), "memory"),
        (("kernel", "iris", "--out", "k.txt"), ".npy"),
        (("kernel", "iris", "--out", "absent/k.npy"), "folder"),
        (("kernel", "iris", "--out", "k.npy", "--data2", "wine"), "features"),
        (("kernel", "iris", "--out", "k.npy", "--beta", "0.1", "--w-std", "1"), "beta"),
        (("kernel", "iris", "--out", "k.npy", "--fixed-layers", "9"), "`--fixed-layers`"),
        (("kernel", "iris", "--out", "k.npy", "--w-std", "inf"), "`--w-std` must be"),
        (("kernel", "iris", "--out", ""), "it is empty"),
        (("fit", "iris", "--out", ""), "it is empty"),
        (("fit", "iris", "--out", "."), "'.' is a folder"),
        (("fit", "iris", "--out", "/dev/null"), "a device or a pipe"),
        (("fit", "iris", "--w-std", "0", "--b-std", "0", "--depth", "1", "--activation", "relu"), "is 0 for all"),
        (("predict", "absent.ntk", "iris", "--out", ""), "it is empty"),
        (("demo", "--out", ""), "it is empty"),
        (("kernel", "iris", "--out", "k.npy", "--target", "y"), "target"),
        (("kernel", "iris", "--out", "k.npy", "--depth", "-1"), "depth"),
        (("kernel", "iris", "--out", "k.npy", "--kind", "gp"), "kind"),
        (("kernel", "iris"), "--out"),
        (("fit", "iris", "--alpha", "0"), "alpha"),
        (("fit", "iris", "--alpha", "nan"), "alpha"),
        (("gallery", "cifar10", "--poolings", "max"), "poolings"),
        (("fit", "iris", "--activation", "rleu"), "relu"),
        (("fit", "iris", "--out", "absent/m.ntk"), "--out"),
        (("fit", "iris", "--fixed-layers", "9"), "fixed"),
        (("fit", "iris", "--n", "0"), "n"),
        (("predict", "absent.ntk", "iris"), "no file"),
        (("demo", "--n", "3"), "n"),
        (("demo", "--no-such-option"), "option"),
        (("nonsense",), "nonsense"),
    ],
)
def test_wrong_options_are_usage(run, argv, word):
    code, _, err = run(*argv)
    assert code == 2
    assert word in err


def test_targets_beyond_the_range_of_numbers_are_refused(run):
    np.savez("large.npz", x=np.random.default_rng(0).normal(size=(6, 2)), y=[1.0, 2.0, 3.0, 1e300, 5.0, 6.5])
    code, _, err = run("fit", "large.npz", *QUICK)
    assert code == 2
    assert "target of example 3 (from 0) is too large: 1e+300" in err
    assert not Path("model.ntk").exists()


def large(scale):
    """Examples whose squares are beyond float64."""
    rng = np.random.default_rng(0)
    np.savez("large.npz", x=scale * rng.normal(size=(6, 2)), y=rng.normal(size=6))
    return "large.npz"


@pytest.mark.parametrize("out", ["k.npy", "k.zarr"])
@pytest.mark.parametrize("kind", ["ntk", "both"])
def test_a_kernel_that_is_not_finite_is_not_kept(run, out, kind):
    code, printed, err = run("kernel", large(1e200), "--out", out, "--kind", kind, "--depth", 1)
    assert code == 1
    assert "not finite" in err
    assert printed == ""
    assert os.listdir() == ["large.npz"]


def test_inputs_too_large_to_be_fitted_or_predicted(run, recwarn):
    code, _, err = run("fit", large(1e200), *QUICK)
    assert code == 2
    assert err.count("\n") == 1
    assert "Feature" in err
    assert not recwarn.list
    run("fit", large(1.0), *QUICK)
    code, _, err = run("predict", "model.ntk", large(1e200))
    assert code == 1
    assert "example 0" in err
    assert not Path("predictions.csv").exists()


def test_one_example_is_no_fit(run):
    table("one.csv", 1)
    code, _, err = run("fit", "one.csv", *QUICK)
    assert code == 2
    assert "two or more" in err


def test_arguments_of_functions_are_named_as_options(run):
    table("a.csv", 9)
    for argv in (("kernel", "a.csv", "--out", "k.npy"), ("fit", "a.csv", *QUICK)):
        assert "`--memory=" in run(*argv, "--memory", "1B")[2]
    assert "`--target`" in run("kernel", "a.csv", "--out", "k.npy", "--target", 9)[2]


def test_what_is_for_programmers_is_left_out(run):
    err = run("kernel", "iris", "--out", "k.npy", "--activation", "foo")[2]
    assert err.endswith("selu, identity.\n")
    table("a.csv", 9)
    run("kernel", "a.csv", "--out", "k.npy")
    assert "another `--out`" in run("kernel", "a.csv", "--out", "k.npy", "--depth", 1)[2]


@pytest.mark.parametrize(
    "argv, ready",
    [
        (("kernel", "absent.csv", "--out", "shut/k.npy"), False),
        (("fit", "absent.csv", "--out", "shut/m.ntk"), False),
        (("predict", "absent.ntk", "absent.csv", "--out", "shut/p.csv"), False),
        (("demo", "--data", "iris", "--out", "shut"), True),
    ],
)
def test_a_folder_that_is_not_writable_is_refused_first(run, monkeypatch, argv, ready):
    Path("shut").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "shut")  # root may write everywhere
    if ready:  # its data decide whether there is something to be put there
        monkeypatch.setattr("ntkit.cli.demo.study", lambda *_, **__: pytest.fail("work began"))
    code, _, err = run(*argv)
    assert code == 2
    assert "`--out`" in err
    assert "not writable" in err


@pytest.mark.parametrize("command", ["kernel", "fit", "predict"])
def test_a_wrong_budget_is_refused_first(run, command):
    data = ("absent.ntk", "absent.csv") if command == "predict" else ("absent.csv",)
    out = {"kernel": "k.npy", "fit": "m.ntk", "predict": "p.csv"}[command]
    code, _, err = run(command, *data, "--out", out, "--memory", "lots")
    assert code == 2
    assert err.startswith("Error: `--memory` must be a number with a unit")


def test_both_kernels_are_called_both(run):
    table("a.csv", 5)
    found = json.loads(run("kernel", "a.csv", "--out", "k.npy", "--kind", "both", "--depth", 1, "--json")[1])
    assert found["kind"] == found["network"]["kernel"] == "both"


def test_which_examples_are_predicted_is_said(run):
    table("train.csv")
    run("fit", "train.csv", *QUICK)
    rng = np.random.default_rng(0)
    x, x_test = rng.normal(size=(6, 2)), rng.normal(size=(4, 2))
    np.savez("both.npz", x_train=x, y_train=np.arange(6.0), x_test=x_test)
    np.save("x.npy", x)
    np.save("x_test.npy", x_test)
    for options, rows, alone in (
        ((), "4 test examples of both.npz", "x_test.npy"),
        (("--split", "test"), "4 test examples of both.npz", "x_test.npy"),
        (("--split", "train"), "6 training examples of both.npz", "x.npy"),
    ):
        code, out, err = run("predict", "model.ntk", "both.npz", *options)
        assert code == 0
        assert rows in err
        assert f"at the {rows.split(' ', 1)[1]}" in out
        predicted = Path("predictions.csv").read_text()
        assert f"{rows[0]} examples of {alone}" in run("predict", "model.ntk", alone)[2]
        assert Path("predictions.csv").read_text() == predicted
    assert json.loads(run("predict", "model.ntk", "both.npz", "--json")[1])["split"] == "test"
    code, _, err = run("predict", "model.ntk", "x.npy", "--split", "test")
    assert code == 2
    assert "no test examples" in err


@pytest.mark.parametrize("where", ["weights", "inputs", "scaling.scale"])
def test_a_model_with_nan_is_named(run, where):
    table("train.csv")
    run("fit", "train.csv", *QUICK)
    with zipfile.ZipFile("model.ntk") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    array = np.load(io.BytesIO(parts[f"{where}.npy"]))
    array.flat[1] = np.nan
    with zipfile.ZipFile("model.ntk", "w") as file:
        for name, content in parts.items():
            if name != f"{where}.npy":
                file.writestr(name, content)
        with file.open(f"{where}.npy", "w") as entry:
            np.lib.format.write_array(entry, array)
    code, _, err = run("predict", "model.ntk", "train.csv")
    assert code == 2
    assert err.startswith("Error: model.ntk is damaged")
    assert f"its {where} holds what is not finite" in err


def test_what_is_taken_for_granted_is_said(run):
    table("train.csv")
    assert "The task, regression, is told from the target" in run("fit", "train.csv", *QUICK)[2]
    assert "told from" not in run("fit", "train.csv", *QUICK, "--task", "regression")[2]
    assert "told from" not in run("fit", "iris", *QUICK)[2]
    assert "Every column of train.csv is a feature" in run("kernel", "train.csv", "--out", "a.npy")[2]
    assert "Every column" not in run("kernel", "train.csv", "--out", "b.npy", "--target", "y")[2]
    Path("flat.csv").write_text("".join(f"{i},{i * i},3.5\n" for i in range(9)))
    code, _, err = run("fit", "flat.csv", *QUICK)
    assert code == 0
    assert err.count("The target is constant, 3.5") == 1
    assert any("constant" in note for note in json.loads(run("fit", "flat.csv", *QUICK, "--json")[1])["notes"])


def test_errors_are_named_with_their_unit(run):
    table("train.csv")
    found = json.loads(run("fit", "train.csv", *QUICK[:4], "--json")[1])
    out = run("fit", "train.csv", *QUICK[:4])[1]
    squared = f"{found['criterion_value']:.4g}"
    assert f"mean squared leave-one-out error on 30 examples: {squared} of the target's variance" in out
    root = f"{found['criterion_value'] ** 0.5:.4f}"
    assert f"root mean squared leave-one-out error {root} of the target's standard deviation" in out
    table("classes.csv", text=True)
    out = run("fit", "classes.csv", *QUICK[:4], "--criterion", "k-fold")[1]
    assert "mean squared 5-fold error" in out
    assert "(of one-hot classes)" in out


def test_a_refused_demo_leaves_no_folder(run):
    np.savez(
        "two.npz", x=np.random.default_rng(0).normal(size=(30, 2)), y=np.random.default_rng(1).normal(size=(30, 2))
    )
    assert run("demo", "--data", "two.npz")[0] == 2
    assert not Path("ntkit-demo").exists()


def test_text_is_not_called_a_pickle(run):
    Path("text.npz").write_text("hello")
    assert "pickled" not in run("kernel", "text.npz", "--out", "k.npy")[2]


def test_an_output_folder_that_is_a_file(run):
    Path("pictures").write_text("")
    assert run("demo", "--out", "pictures")[0] == 2


def test_a_model_and_data_that_do_not_go_together(run):
    run("fit", "iris", *QUICK)
    code, _, err = run("predict", "model.ntk", "wine")
    assert code == 2
    assert "4 features" in err


def test_a_full_disk_leaves_what_was_there(run, monkeypatch):
    table("train.csv")
    run("fit", "train.csv", *QUICK)
    run("predict", "model.ntk", "train.csv")
    before = {name: Path(name).read_bytes() for name in ("model.ntk", "predictions.csv")}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for argv in (("fit", "train.csv", *QUICK, "--depth", 2), ("predict", "model.ntk", "train.csv")):
        code, _, err = run(*argv)
        assert code == 1
        assert "No space left" in err
    assert {name: Path(name).read_bytes() for name in before} == before
    assert sorted(os.listdir()) == ["model.ntk", "predictions.csv", "train.csv"]


def test_a_kernel_on_a_full_disk(run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(os, "pwrite", full)
    code, _, err = run("kernel", "iris", "--out", "k.npy")
    assert code == 1
    assert "disk" in err.lower() or "space" in err.lower()


def test_an_unexpected_error_is_one_line(run, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("boom")

    monkeypatch.setattr("ntkit.cli.info.collect", broken)
    code, _, err = run("info", "--json")
    assert code == 1
    assert "boom" in json.loads(err)["message"]
    monkeypatch.setenv("NTKIT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="boom"):
        main(["info"])


def test_ctrl_c_between_any_two_lines(run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ntkit.cli._model.np.lib.format.write_array", stop)
    code, _, err = run("fit", "iris", *QUICK)
    assert code == 130
    assert "Stopped" in err
    assert os.listdir() == []


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own():
    rng = np.random.default_rng(0)
    np.savez("large.npz", x=rng.normal(size=(9000, 500)), y=rng.normal(size=9000))
    # A test run in the background of a shell would hand on that SIGINT is to be ignored.
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start = heed + "from ntkit.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "kernel", "large.npz", "--out", "k.npy", "--depth", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and (
        not Path("k.npy.journal").exists() or Path("k.npy.journal").read_text().count("\n") < 3
    ):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Stopped" in err
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "9000 x 9000" in done.stdout


@pytest.mark.parametrize("module", ["ntkit", "ntkit.cli"])
def test_the_installed_command(module):
    run = subprocess.run([sys.executable, "-m", module, "info", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["ntkit"] == ntkit.__version__


def test_a_warning_is_one_line_in_words_of_the_command():
    Path("twice.csv").write_text("".join(f"{i % 3},{i % 2},{1.37 * i}\n" for i in range(30)))
    command = [sys.executable, "-m", "ntkit", "fit", "twice.csv", *map(str, QUICK[:4]), "--alpha", "1e-300"]
    err = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    warned = [line for line in err.splitlines() if line.startswith("Warning: ")]
    assert warned
    assert "`--alpha`" in warned[0]
    assert "_solver" not in err
    assert "Warning:" not in "".join(line for line in err.splitlines() if line not in warned)


# ntkit demo


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "wine", "diabetes"])
def test_demo(run, data):
    code, out, _ = run("demo", "--data", data, "--quick", "--n", 150, "--out", "pictures", "--json")
    found = json.loads(out)
    assert code == 0
    names = ["infinite ensemble", "NNGP posterior", "one network, width 512", "SVM, RBF kernel"]
    assert [row["model"] for row in found["table"]] == names
    for row in found["table"]:
        assert np.isfinite(row["negative_log_likelihood"])
        assert row["seconds"] > 0
        if data != "diabetes":
            assert row["accuracy"] > 0.8
    if data == "diabetes":
        # The standard deviation of the target is 77: all must be better than a constant.
        assert max(row["rmse"] for row in found["table"]) < 70
    assert found["data"]["source"] == "shipped with scikit-learn"
    for file in ("gram.png", "spectrum.png", "least-sure.png"):
        assert Path("pictures", file).stat().st_size > 10_000


@pytest.mark.slow
def test_demo_of_a_file_prints_a_table(run):
    table("mine.csv", 80, text=True)
    code, out, _ = run("demo", "--data", "mine.csv", "--quick")
    assert code == 0
    assert "mine.csv" in out
    assert "infinite ensemble" in out
    assert "negative log likelihood" in out
