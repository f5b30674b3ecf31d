"""Gradient flow by products alone, against the eigendecomposition, its bound against the true error."""

import jax
import numpy as np
import pytest
from prediction_examples import RBF, regression

import ntkit
from ntkit.errors import ComputationError, InputError
from ntkit.linalg import operators
from ntkit.predict import Lanczos

TIMES = [0.0, 1.0, 30.0, 1000.0]


def both(n=60, outputs=2, dtype=np.float64, f0=None, **method):
    x, y, x_test = regression(n=n, outputs=outputs)
    options = {"dtype": dtype, "f0": f0, "progress": False}
    exact = ntkit.gradient_flow(RBF(1.5), x, y, 0.7, **options)
    return exact, ntkit.gradient_flow(RBF(1.5), x, y, 0.7, method=Lanczos(**method), **options), x_test


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("block", [None, 7])
def test_it_is_the_flow_of_the_eigendecomposition(outputs, block):
    exact, flow, x_test = both(outputs=outputs, block=block, rtol=1e-10)
    for where in (None, x_test):
        found = flow(where, TIMES)
        assert found.shape == (4, 60 if where is None else len(x_test)) + exact.y.shape[1:]
        np.testing.assert_allclose(found, exact(where, TIMES), atol=1e-8)
    assert flow.statistics.steps < 60
    assert flow.statistics.bound <= 1e-10


def test_it_starts_at_f0_and_learns_all_that_the_kernel_reaches():
    exact, flow, x_test = both(f0=lambda x: np.sin(x[:, :2]), rtol=1e-9)
    np.testing.assert_array_equal(flow(None, 0.0), np.sin(exact.x[:, :2]))
    np.testing.assert_allclose(flow(x_test, [0.0, 5.0]), exact(x_test, [0.0, 5.0]), atol=1e-8)
    np.testing.assert_allclose(flow(None), exact.y, atol=1e-7)


def test_the_bound_holds_and_is_not_far_off():
    exact, _, _ = both()
    errors = []
    for steps in (4, 7, 10, 13):
        _, flow, _ = both(max_steps=steps, rtol=1e-12)
        with pytest.raises(ComputationError):
            flow(None, 300.0)
        bound = flow.statistics.bound
        away = np.linalg.norm(flow._of_output(np.array([300.0]), 0, lambda v, g: g * v)[0] - exact(None, 300.0)[:, 0])
        error = away / np.linalg.norm(exact.y[:, 0])
        errors.append(error)
        assert error <= bound < 100 * max(error, 1e-15)
    assert errors[-1] < 1e-1 * errors[0]


def test_how_far_it_came_is_said_and_true():
    exact, flow, _ = both(max_steps=10, rtol=1e-6)
    with pytest.raises(ComputationError, match=r"after 10 products .* up to t = [\d.e+]+ it is") as error:
        flow(None, 1e9)
    reached = float(str(error.value).split("up to t = ")[1].split(" it is")[0])
    _, again, _ = both(max_steps=10, rtol=1e-6)
    assert reached > 0
    np.testing.assert_allclose(again(None, 0.99 * reached), exact(None, 0.99 * reached), atol=1e-4)
    with pytest.raises(ComputationError):
        again(None, 1.01 * reached)


def test_later_times_go_on_from_earlier_ones(monkeypatch):
    _, flow, x_test = both()
    flow(x_test, 1.0)
    first = flow.statistics.steps
    flow(x_test, 0.5)
    assert flow.statistics.steps == first
    flow(x_test, 100.0)
    assert flow.statistics.steps > first


def test_duplicates_zero_labels_and_a_kernel_of_low_rank():
    x, y, _ = regression(n=20)
    y[3:] = 0.0
    twice = np.concatenate([x, x])
    labels = np.stack([np.concatenate([y, -y]), np.zeros(40)], axis=1)  # none of it can be learned; nothing to learn
    flow = ntkit.gradient_flow(RBF(1.5), twice, labels, method=Lanczos(), progress=False)
    np.testing.assert_allclose(flow(None, [1.0, 1e6, np.inf]), 0.0, atol=1e-8)
    rank = x[:, :1] @ x[:, :1].T
    exact = ntkit.gradient_flow(RBF(1.5), x, y, matrix=rank, progress=False)
    flow = ntkit.gradient_flow(RBF(1.5), x, y, matrix=rank, method=Lanczos(), progress=False)
    np.testing.assert_allclose(flow(None, TIMES), exact(None, TIMES), atol=1e-9)
    assert flow.statistics.steps <= 5


def test_in_float32():
    exact, flow, x_test = both(dtype=np.float32)
    assert flow(x_test, TIMES).dtype == np.float32
    np.testing.assert_allclose(flow(x_test, TIMES[:3]), exact(x_test, TIMES[:3]), atol=1e-3)


def test_a_matrix_at_hand_and_the_best_time():
    x, y, x_test = regression(n=30)
    y_test = np.sin(x_test[:, 0])
    with jax.enable_x64(True):
        matrix = np.asarray(RBF(1.5)(x))
    exact = ntkit.gradient_flow(RBF(1.5), x, y, progress=False)
    flow = ntkit.gradient_flow(RBF(1.5), x, y, matrix=matrix, method=Lanczos(block=4), progress=False)
    assert isinstance(flow._krylov._operator, operators.MatrixOperator)
    grid = np.geomspace(0.1, 100, 5)
    found = flow.best_time(x_test, y_test, times=grid)
    assert found.time == pytest.approx(exact.best_time(x_test, y_test, times=grid).time)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"rtol": 0.0}, "`rtol`"),
        ({"max_steps": 0}, "`max_steps`"),
        ({"block": 0}, "`block`"),
    ],
)
def test_bad_settings(arguments, words):
    with pytest.raises(InputError, match=words):
        Lanczos(**arguments)


def test_what_it_is_not_for():
    x, y, _ = regression(n=5)
    for options in ({"loss": "huber"}, {"momentum": ntkit.predict.NesterovFlow()}):
        with pytest.raises(InputError, match="gradient flow on"):
            ntkit.gradient_flow(RBF(1.0), x, y, method=Lanczos(), **options)
    with pytest.raises(InputError, match="`method` must be"):
        ntkit.gradient_flow(RBF(1.0), x, y, method=ntkit.CG())
