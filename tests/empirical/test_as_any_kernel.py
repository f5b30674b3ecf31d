"""Everything that takes a kernel takes an `EmpiricalNTK`: against solves with its own matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.svm import SVC

import ntkit
from ntkit.errors import InputError
from ntkit.gram.identity import identity
from ntkit.kernels import Unflattened
from ntkit.sklearn import NTKClassifier, NTKKernel, NTKRegressor, gram_function

RNG = np.random.default_rng(3)
PARAMS = {"w": RNG.standard_normal((4, 6)), "v": RNG.standard_normal((6, 2))}
X, X_TEST = RNG.standard_normal((16, 4)), RNG.standard_normal((3, 4))
Y = np.sin(X[:, 0])
CLASSES = (Y > 0).astype(int)


def helper(h):
    return jnp.tanh(h)


def fn(params, x):
    return helper(x @ params["w"]) @ params["v"]


@pytest.fixture(scope="module")
def matrices():
    """k(x, x) and k(x_test, x) by Jacobians."""
    with jax.enable_x64(True):
        rows = []
        for x in (X, X_TEST):
            jacobian = jax.jacrev(fn)({k: jnp.asarray(v) for k, v in PARAMS.items()}, jnp.asarray(x))
            rows.append(np.concatenate([np.asarray(j).reshape(len(x), 2, -1) for j in jax.tree.leaves(jacobian)], 2))
    return [np.einsum("iap,jap->ij", a, rows[0]) / 2 for a in rows]


KERNEL = ntkit.EmpiricalNTK(fn, PARAMS)


@pytest.mark.parametrize("kernel", [KERNEL, Unflattened(KERNEL, (4,))], ids=["rows", "unflattened"])
def test_regressors(kernel, matrices):
    k, across = matrices
    want = across @ np.linalg.solve(k + 0.1 * np.eye(16), Y)
    np.testing.assert_allclose(NTKRegressor(kernel=kernel, alpha=0.1).fit(X, Y).predict(X_TEST), want, rtol=1e-9)
    if kernel is KERNEL:
        np.testing.assert_allclose(ntkit.ridge(kernel, X, Y, alpha=0.1)(X_TEST), want, rtol=1e-9)


def test_gaussian_processes_and_support_vectors(matrices):
    k, across = matrices
    kernel = NTKKernel(kernel=KERNEL)
    assert kernel.theta.size == 0
    process = GaussianProcessRegressor(kernel, alpha=0.1).fit(X, Y)
    want = across @ np.linalg.solve(k + 0.1 * np.eye(16), Y)
    np.testing.assert_allclose(process.predict(X_TEST), want, rtol=1e-9)
    # In a sum its neighbours are tuned.
    tuned = GaussianProcessRegressor(ConstantKernel(0.1) * kernel + WhiteKernel(1.0)).fit(X, Y)
    fixed = GaussianProcessRegressor(tuned.kernel, optimizer=None).fit(X, Y)
    assert tuned.log_marginal_likelihood_value_ > fixed.log_marginal_likelihood_value_ + 1
    machine = SVC(kernel=gram_function(KERNEL)).fit(X, CLASSES)
    same = SVC(kernel="precomputed").fit(k, CLASSES)
    np.testing.assert_allclose(machine.decision_function(X_TEST), same.decision_function(across), rtol=1e-7)
    assert NTKClassifier(kernel=KERNEL).fit(X, CLASSES).score(X, CLASSES) == 1


def test_a_file_is_resumed_for_the_same_network_alone(tmp_path, matrices):
    path = tmp_path / "k.npy"
    done = []

    def stop(tiles, _):
        done.append(tiles)
        if tiles == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ntkit.gram(KERNEL, X, out=path, tile=4, progress=stop)
    again = ntkit.EmpiricalNTK(fn, {k: v.copy() for k, v in PARAMS.items()})
    found = ntkit.gram(again, X, out=path, progress=lambda tiles, _: done.append(tiles))
    assert done[done.index(2) + 1] >= 2  # not from the start
    np.testing.assert_allclose(found, matrices[0], rtol=1e-9)
    moved = ntkit.EmpiricalNTK(fn, {**PARAMS, "v": PARAMS["v"] * (1 + 1e-12)})
    for other in (moved, KERNEL.restricted("w"), ntkit.EmpiricalNTK(lambda p, x: fn(p, 2 * x), PARAMS)):
        with pytest.raises(InputError, match="differs in: kernel"):
            ntkit.gram(other, X, out=path, progress=False)


def test_a_function_is_known_by_all_that_it_calls(monkeypatch):
    before = identity(KERNEL, X, None, X.dtype)
    assert identity(ntkit.EmpiricalNTK(fn, PARAMS), X, None, X.dtype) == before
    monkeypatch.setitem(globals(), "helper", jnp.sin)
    assert identity(KERNEL, X, None, X.dtype)["kernel"] != before["kernel"]


def test_what_tiles_hide_is_refused():
    def centred(params, x):
        return fn(params, x - x.mean(0, keepdims=True))

    kernel = ntkit.EmpiricalNTK(centred, PARAMS)
    for use in (
        lambda: ntkit.gram(kernel, X, progress=False),
        lambda: ntkit.gram(0.5 * kernel + KERNEL, X, X_TEST, progress=False),
        lambda: ntkit.posterior(kernel, X, Y, noise=0.1),
        lambda: ntkit.gram(Unflattened(kernel, (4,)), X, progress=False),
    ):
        with pytest.raises(InputError, match="depend on other examples"):
            use()
