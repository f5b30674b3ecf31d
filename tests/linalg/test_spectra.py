"""Spectra from products against dense eigendecompositions, and the standard errors against what they claim."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse.linalg as sparse

from ntkit.errors import ComputationError, InputError
from ntkit.linalg import effective_rank, logdet, top_eigenpairs, trace
from ntkit.linalg.products import Products
from ntkit.linalg.quadrature import enclosed

RNG = np.random.default_rng(0)
N = 80
ROTATION = np.linalg.qr(RNG.normal(size=(N, N)))[0]
VALUES = 3.0 / np.arange(1, N + 1) ** 1.5 + 1e-3 * RNG.random(N)
K = (ROTATION * VALUES) @ ROTATION.T
DESCENDING = np.sort(VALUES)[::-1]
DOORS = {
    "matrix": lambda: K,
    "float32": lambda: K.astype(np.float32),
    "scipy": lambda: sparse.aslinearoperator(K),
    "lineax": lambda: lx.MatrixLinearOperator(jnp.asarray(K), lx.positive_semidefinite_tag),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("door", DOORS)
def test_eigenpairs_are_those_of_the_dense_matrix(door):
    found = top_eigenpairs(DOORS[door](), 7)
    np.testing.assert_allclose(found.values, DESCENDING[:7], rtol=0, atol=1e-6 * DESCENDING[0])
    again = np.linalg.norm(K @ found.vectors - found.vectors * found.values, axis=0) / found.values[0]
    np.testing.assert_allclose(found.residuals, again, rtol=0, atol=3e-7)
    assert found.residuals.max() < 1e-6
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(7), atol=1e-6)
    assert found.rest == pytest.approx(DESCENDING[7], abs=1e-5)
    assert "7 eigenpairs" in str(found)


@pytest.mark.parametrize("seed", range(3))
def test_all_copies_of_an_eigenvalue_are_found(seed):
    """As of every kernel of a linear model, X X^T (x) I: one start of Lanczos alone misses copies."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(12, 12)))[0]
    values = 1.0 / np.arange(1, 13) ** 2
    found = top_eigenpairs(np.kron((q * values) @ q.T, np.eye(10)), 20)
    np.testing.assert_allclose(found.values, np.repeat(values[:2], 10), rtol=1e-6)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(20), atol=1e-8)
    assert found.rest == pytest.approx(values[2], rel=1e-4)


@pytest.mark.parametrize("n, k", [(1, 1), (5, 5), (30, 15), (30, 28)])
def test_small_operators(n, k):
    found = top_eigenpairs(K[:n, :n], k)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(K[:n, :n])[::-1][:k], atol=1e-12)


def test_an_operator_of_low_rank_has_zeros():
    low = (ROTATION[:, :2] * [3.0, 1.0]) @ ROTATION[:, :2].T
    np.testing.assert_allclose(top_eigenpairs(low, 5).values, [3, 1, 0, 0, 0], atol=1e-12)


def test_no_convergence_is_an_error():
    with pytest.raises(ComputationError, match="Not converged after 30 products"):
        top_eigenpairs(K, 10, max_products=30)
    with pytest.raises(ComputationError, match="is `operator` symmetric"):
        top_eigenpairs(sparse.aslinearoperator(K + np.triu(K)), 3)
    with pytest.raises(ComputationError, match="is `operator` zero"):
        top_eigenpairs(np.zeros((50, 50)), 3)
    with pytest.raises(ComputationError, match="not finite"):
        top_eigenpairs(sparse.LinearOperator((50, 50), matvec=lambda v: v * np.inf, dtype=float), 3)


def test_progress_is_shown_and_an_interruption_harmless():
    seen = []
    found = top_eigenpairs(K, 3, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (found.products, 2000)
    assert [done for done, _ in seen] == list(range(1, found.products + 1))

    def interrupted(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        top_eigenpairs(K, 3, progress=interrupted)
    with pytest.raises(KeyboardInterrupt):
        trace(K, key=0, progress=interrupted)
    np.testing.assert_array_equal(top_eigenpairs(K, 3).values, found.values)


NOISE, KEYS = 0.1, 40
P = VALUES / VALUES.sum()
ESTIMATES = {
    "trace": (trace, {}, VALUES.sum()),
    "hutchinson": (trace, {"rank": 0}, VALUES.sum()),
    "logdet": (logdet, {"noise": NOISE}, np.log(VALUES + NOISE).sum()),
    "participation": (effective_rank, {}, VALUES.sum() ** 2 / (VALUES**2).sum()),
    "intrinsic": (effective_rank, {"definition": "intrinsic"}, VALUES.sum() / VALUES.max()),
    "entropy": (effective_rank, {"definition": "entropy"}, np.exp(-(P * np.log(P)).sum())),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_standard_errors_are_what_they_say(name):
    """The mean squared deviation is the mean squared standard error, and the mean is right, within 5 of theirs."""
    estimate, settings, truth = ESTIMATES[name]
    settings = {"rank": 6, "samples": 20, **settings}
    found = [estimate(K, key=key, progress=False, **settings) for key in range(KEYS)]
    values, errors = (np.array([getattr(e, field) for e in found]) for field in ("value", "standard_error"))
    assert abs(values.mean() - truth) <= 5 * values.std() / KEYS**0.5 + max(e.bracket for e in found)
    excess = (values - truth) ** 2 - errors**2
    assert abs(excess.mean()) <= 5 * excess.std() / KEYS**0.5
    assert 0 < errors.mean() < 0.3 * abs(truth)
    assert found[0].samples == 20


@pytest.mark.parametrize("definition", ["participation", "entropy"])
def test_of_equal_eigenvalues_the_effective_rank_is_the_trace(definition):
    """K = c P: the ratios' errors must be the trace's over c, to rounding, whatever vectors are drawn."""
    flat = 3.0 * ROTATION[:, :25] @ ROTATION[:, :25].T
    found = effective_rank(flat, key=1, definition=definition, rank=0, samples=20)
    whole = trace(flat, key=1, rank=0, samples=20)
    assert found.value == pytest.approx(whole.value / 3)
    assert found.standard_error == pytest.approx(whole.standard_error / 3)


def test_hutchinsons_variance_is_the_formula():
    """2 (norm(K)_F^2 - sum_i K_ii^2) / samples, for random signs."""
    squares = np.array([trace(K, key=key, rank=0, samples=50).standard_error ** 2 for key in range(KEYS)])
    formula = 2 * ((K**2).sum() - (np.diag(K) ** 2).sum()) / 50
    assert abs(squares.mean() - formula) <= 5 * squares.std() / KEYS**0.5


@pytest.mark.usefixtures("x64")
def test_the_same_key_gives_the_same_numbers_through_every_door():
    numbers = [trace(DOORS[door](), key=jax.random.key(3)).value for door in DOORS]
    np.testing.assert_allclose(numbers, numbers[0], rtol=1e-6)
    assert trace(K, key=3) == trace(K, key=3) != trace(K, key=4)


@pytest.mark.parametrize("name", ["trace", "logdet", "participation", "entropy"])
def test_the_whole_space_is_exact(name):
    estimate, settings, truth = ESTIMATES[name]
    found = estimate(K, key=0, **{**settings, "rank": N})
    assert found.standard_error == 0
    assert abs(found.value - truth) <= found.bracket + 1e-9 * abs(truth)
    assert found.bracket < 1e-3 * abs(truth)
    assert "+- 0 (0 samples" in str(found)


@pytest.mark.parametrize(
    "f", [lambda x: np.log1p(x / NOISE), lambda x: x * np.log(np.maximum(x, 1e-300)), lambda x: x / (x + NOISE)]
)
def test_quadrature_encloses_the_truth(f):
    for v in RNG.normal(size=(5, N)):
        truth, last = (v @ ROTATION) ** 2 @ f(VALUES), np.inf
        for steps in range(1, 12):
            found = enclosed(Products(K), v, f, 0.0, steps)
            low, high = sorted([found.gauss, found.radau])
            assert low - 1e-10 <= truth <= high + 1e-10
            assert high - low < last
            last = high - low
            assert found.first == pytest.approx(v @ K @ v)
        exact = enclosed(Products(K), v, f, 1e-12, N)
        np.testing.assert_allclose([exact.gauss, exact.radau], truth, rtol=1e-9)


def test_quadrature_stopped_early_says_so():
    few = logdet(K, noise=NOISE, key=0, steps=4, rank=N)
    assert few.bracket > 0.1
    assert abs(few.value - ESTIMATES["logdet"][2]) <= few.bracket


def test_what_no_kernel_is():
    for estimate in (trace, effective_rank):
        with pytest.raises(ComputationError, match="not positive semi-definite"):
            estimate(-K, key=0)
    with pytest.raises(ComputationError, match="not positive semi-definite"):
        logdet(K - np.eye(N), noise=NOISE, key=0)
    with pytest.raises(ComputationError, match="zero kernel has no effective rank"):
        effective_rank(np.zeros((30, 30)), key=0)
    with pytest.raises(ComputationError, match="does not resolve it"):
        logdet(K.astype(np.float32), noise=1e-7, key=0)
    assert logdet(K, noise=1e-7, key=0, rank=N).value == pytest.approx(np.log(VALUES + 1e-7).sum(), rel=1e-3)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: top_eigenpairs(K, 0), "`k` must be a whole number"),
        (lambda: top_eigenpairs(K, 2.0), "`k` must be a whole number"),
        (lambda: top_eigenpairs(K, N + 1), "at most 80"),
        (lambda: top_eigenpairs(K, 2, tol=0.0), "`tol`"),
        (lambda: top_eigenpairs(K[:3], 2), "symmetric matrix; got ndarray of shape"),
        (lambda: top_eigenpairs(np.triu(K), 2), "differs from its transpose"),
        (lambda: top_eigenpairs(np.eye(3, dtype=int), 2), "float32 or float64"),
        (lambda: trace(K, key=None), "`key` must be"),
        (lambda: trace(K, key=-1), "`key` must be"),
        (lambda: trace(K, key=0, samples=1), "`samples`"),
        (lambda: trace(K, key=0, rank=-1), "`rank`"),
        (lambda: logdet(K, noise=0.0, key=0), "`noise`"),
        (lambda: logdet(K, noise=1.0, key=0, steps=0), "`steps`"),
        (lambda: effective_rank(K, key=0, definition="numerical"), "`definition`"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input(call, words):
    with pytest.raises(InputError, match=words):
        call()
