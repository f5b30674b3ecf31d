"""The table of candidates against direct factorisations and real refits."""

import jax
import numpy as np
import pytest
from prediction_examples import RBF, Indefinite, regression
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF as SklearnRBF

from ntkit.errors import ComputationError, InputError
from ntkit.predict import KFold, posterior, tune

KERNELS = {"short": RBF(0.3), "middle": RBF(1.3), "long": RBF(5.0)}
GRID = [1e-3, 1e-2, 1e-1, 1.0, 10.0]


@pytest.mark.parametrize("outputs", [None, 2])
def test_every_row_is_the_direct_computation(outputs):
    x, y, _ = regression(outputs=outputs)
    table = tune(KERNELS, x, y, noise=GRID)
    assert len(table.candidates) == 15
    for row in table.candidates:
        post = posterior(KERNELS[row.name], x, y, noise=row.noise)
        left_out = post.leave_one_out()
        np.testing.assert_allclose(row.log_marginal_likelihood, post.log_marginal_likelihood, rtol=1e-9)
        np.testing.assert_allclose(row.loo_log_density, left_out.log_density.mean(), rtol=1e-9)
        np.testing.assert_allclose(row.loo_error, np.mean((y - left_out.mean) ** 2), rtol=1e-9)
        if outputs:
            right = left_out.mean.argmax(1) == y.argmax(1)
            assert row.loo_accuracy == pytest.approx(right.mean())


def test_progress_counts_kernels():
    x, y, _ = regression()
    seen = []
    tune(KERNELS, x, y, noise=GRID, progress=lambda *counts: seen.append(counts))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_folds_are_real_refits():
    x, y, _ = regression()
    table = tune(KERNELS, x, y, noise=GRID, criterion=KFold(4))
    for row in table.candidates:
        model = GaussianProcessRegressor(SklearnRBF(KERNELS[row.name].lengthscale), alpha=row.noise, optimizer=None)
        folds = np.array_split(np.arange(30), 4)
        splits = [(np.setdiff1d(np.arange(30), f), f) for f in folds]
        total = sum(np.sum((model.fit(x[a], y[a]).predict(x[b]) - y[b]) ** 2) for a, b in splits)
        np.testing.assert_allclose(row.fold_error, total / 30, rtol=1e-9)
    shuffled = tune(KERNELS, x, y, noise=GRID, criterion=KFold(4, jax.random.key(0)))
    assert shuffled.best.fold_error != table.best.fold_error


@pytest.mark.parametrize(
    "criterion, field, largest",
    [
        ("likelihood", "log_marginal_likelihood", True),
        ("leave-one-out", "loo_log_density", True),
        ("leave-one-out-error", "loo_error", False),
        ("leave-one-out-accuracy", "loo_accuracy", True),
        (KFold(3), "fold_error", False),
    ],
)
def test_the_best_is_the_best_by_the_criterion(criterion, field, largest):
    x, y, _ = regression(outputs=3)
    table = tune(KERNELS, x, y, noise=GRID, criterion=criterion)
    values = [getattr(row, field) for row in table.candidates]
    assert values == sorted(values, reverse=largest)
    assert table.kernel is KERNELS[table.name]
    assert f"{table.noise:.2e}" in str(table)
    assert all(name in str(table) for name in KERNELS)


def test_noise_may_be_relative_to_the_diagonal_and_the_edge_of_the_grid_is_announced():
    x, y, _ = regression()
    table = tune([RBF(1.3, 10.0)], x, y, noise=[1e-4], relative=True)
    np.testing.assert_allclose(table.noise, 1e-4 * 100.0)
    assert table.name == "kernel 0"
    assert not table.at_edge
    wrong = tune([RBF(1.3)], x, y, noise=[100.0, 1000.0])
    assert wrong.at_edge
    assert "widen" in str(wrong)


def test_matrices_at_hand_are_used_and_not_computed():
    x, y, _ = regression()

    class Never(RBF):
        def __call__(self, x1, x2=None):
            raise AssertionError("computed")

    with jax.enable_x64(True):
        found = {name: np.asarray(kernel(x)) for name, kernel in KERNELS.items()}
    never = {name: Never(1.0) for name in KERNELS}
    want = tune(KERNELS, x, y, noise=GRID)
    for kernels, matrices in ((never, found), (never, list(found.values()))):
        got = tune(kernels, x, y, noise=GRID, matrices=matrices)
        assert [(c.name, c.noise) for c in got.candidates] == [(c.name, c.noise) for c in want.candidates]
        for one, two in zip(got.candidates, want.candidates, strict=True):
            np.testing.assert_allclose(one.log_marginal_likelihood, two.log_marginal_likelihood, rtol=1e-9)
            np.testing.assert_allclose(one.loo_error, two.loo_error, rtol=1e-9)
    assert tune(list(never.values()), x, y, noise=GRID, matrices=list(found.values())).noise == want.noise


def test_bad_input_is_refused_by_name():
    x, y, _ = regression()
    for arguments, words in (
        ({"kernels": {}}, "`kernels` must hold"),
        ({"kernels": [3]}, "`kernel` must be callable"),
        ({"noise": [0.1, 0.0]}, "`noise`"),
        ({"noise": []}, "one or more numbers"),
        ({"noise": [[1.0]]}, "one or more numbers"),
        ({"criterion": "luck"}, "`criterion`"),
        ({"criterion": KFold(1)}, "`folds`"),
        ({"criterion": "leave-one-out-accuracy"}, "one column for each class"),
        ({"y": y[:-1]}, "`y`"),
        ({"matrices": [np.eye(30)]}, "`matrices` must hold one matrix for each of the 3"),
        ({"matrices": {"short": np.eye(30)}}, "`matrices` must hold"),
        ({"matrices": [np.eye(29)] * 3}, r"must have shape \(30, 30\)"),
    ):
        with pytest.raises(InputError, match=words):
            tune(**({"kernels": KERNELS, "x": x, "y": y} | arguments))
    with pytest.raises(ComputationError, match=r"kernel matrix of bad .* is not positive semi-definite"):
        tune({"bad": Indefinite()}, x, y)
