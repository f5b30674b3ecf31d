"""Solvers against dense NumPy, one claim at a time."""

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg

from ntkit.errors import ComputationError, InputError
from ntkit.linalg import (
    CG,
    Cholesky,
    JitterWarning,
    KernelOperator,
    MatrixOperator,
    Statistics,
    pivoted_cholesky,
    spectrum,
)

pytestmark = pytest.mark.usefixtures("x64")


def definite(n=40, decay=0.8, seed=0):
    """A positive definite matrix with eigenvalues decay^i."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return (q * decay ** np.arange(n)) @ q.T


class Gaussian(eqx.Module):
    lengthscale: float

    def __call__(self, x1, x2=None):
        x2 = x1 if x2 is None else x2
        return jnp.exp(-jnp.sum((x1[:, None] - x2[None]) ** 2, axis=-1) / (2 * self.lengthscale**2))

    def diagonal(self, x):
        return jnp.ones(x.shape[0], x.dtype)


def test_cholesky_is_the_dense_inverse():
    a = definite()
    b = np.random.default_rng(1).normal(size=(40, 3))
    solver = Cholesky().factorise(jnp.asarray(a), jnp.asarray(0.1))
    full = a + 0.1 * np.eye(40)
    inverse = np.linalg.inv(full)
    np.testing.assert_allclose(solver.solve(jnp.asarray(b)), inverse @ b, rtol=1e-11)
    np.testing.assert_allclose(solver.quadratic(jnp.asarray(b), full=True), b.T @ inverse @ b, rtol=1e-11)
    np.testing.assert_allclose(solver.quadratic(jnp.asarray(b)), np.diag(b.T @ inverse @ b), rtol=1e-11)
    np.testing.assert_allclose(solver.inverse_diagonal(), np.diag(inverse), rtol=1e-11)
    np.testing.assert_allclose(solver.log_determinant(), np.linalg.slogdet(full)[1], rtol=1e-12)
    _, statistics = solver.solve_with_statistics(jnp.asarray(b))
    assert statistics == Statistics("cholesky", 40, 0.0, (0.0,), statistics.condition, statistics.residual, 0)
    assert "no jitter" in str(statistics)


def test_the_ladder_is_climbed_rung_by_rung_and_relative_to_the_diagonal():
    a = definite(decay=0.5) * 1e6
    a -= np.eye(40) * (np.linalg.eigvalsh(a)[0] + 1e-3 * np.trace(a) / 40)
    unit = float(np.trace(a) / 40)
    with pytest.warns(JitterWarning, match="1e-02 of its mean diagonal"):
        solver = Cholesky(ladder=(1e-5, 1e-4, 1e-2)).factorise(jnp.asarray(a), jnp.asarray(0.0))
    np.testing.assert_allclose(solver.ladder, [0.0, 1e-5 * unit, 1e-4 * unit, 1e-2 * unit], rtol=1e-10)
    b = np.ones((40, 1))
    with_jitter = a + 1e-2 * unit * np.eye(40)
    x, statistics = solver.solve_with_statistics(jnp.asarray(b))
    np.testing.assert_allclose(x, np.linalg.solve(with_jitter, b), rtol=1e-9)
    # The residual is against the matrix that was asked for: it tells what the jitter changed.
    np.testing.assert_allclose(statistics.residual, np.linalg.norm(a @ x - b) / np.linalg.norm(b), rtol=1e-6)
    with pytest.raises(ComputationError, match="smallest eigenvalue"):
        Cholesky(ladder=(1e-5,)).factorise(jnp.asarray(a), jnp.asarray(0.0))


@pytest.mark.parametrize("a", [definite(), definite(decay=0.6), scipy.linalg.hilbert(7), np.eye(5), np.eye(1) * 3])
def test_condition_is_within_a_factor_of_three(a):
    solver = Cholesky().factorise(jnp.asarray(a), jnp.asarray(0.0))
    _, statistics = solver.solve_with_statistics(jnp.ones((len(a), 1)))
    want = np.linalg.cond(a, 1)
    assert want / 3 <= statistics.condition <= want * (1 + 1e-6)


@pytest.mark.parametrize("rank", [0, 5, 40, 100])
@pytest.mark.parametrize("block", [None, 7, 50])
def test_cg_is_the_dense_solve(rank, block):
    x = np.random.default_rng(0).normal(size=(50, 2))
    b = np.random.default_rng(1).normal(size=(50, 3))
    b[:, 1] = 0.0
    kernel = Gaussian(0.7)
    matrix = np.asarray(kernel(jnp.asarray(x)))
    noise = jnp.asarray(1e-2)
    operator = (
        MatrixOperator(jnp.asarray(matrix), noise)
        if block is None
        else KernelOperator(kernel, jnp.asarray(x), noise, block)
    )
    got, statistics = CG(rtol=1e-11, rank=rank).prepare(operator, noise).solve_with_statistics(jnp.asarray(b))
    np.testing.assert_allclose(got, np.linalg.solve(matrix + 1e-2 * np.eye(50), b), rtol=1e-7, atol=1e-8)
    assert statistics.residual <= 2e-11
    assert statistics.iterations >= 1
    np.testing.assert_allclose(operator.as_matrix(), matrix + 1e-2 * np.eye(50), rtol=1e-12)
    np.testing.assert_allclose(lx.diagonal(operator), np.diag(matrix) + 1e-2, rtol=1e-12)


def test_the_preconditioner_saves_iterations():
    x = np.random.default_rng(0).normal(size=(200, 1))
    operator = MatrixOperator(Gaussian(1.0)(jnp.asarray(x)), jnp.asarray(1e-4))
    b = jnp.asarray(np.random.default_rng(1).normal(size=(200, 1)))
    plain, helped = (
        CG(rtol=1e-8, rank=rank).prepare(operator, jnp.asarray(1e-4)).solve_with_statistics(b)[1] for rank in (0, 20)
    )
    # 20 rows exhaust this kernel down to the noise: what is left has condition near 1.
    assert helped.iterations <= 5 < plain.iterations


def test_cg_takes_anyones_operator_and_fails_loudly():
    a = definite()
    tagged = lx.MatrixLinearOperator(jnp.asarray(a), lx.positive_semidefinite_tag)
    b = jnp.ones((40, 1))
    np.testing.assert_allclose(CG(rtol=1e-10).prepare(tagged).solve(b), np.linalg.solve(a, np.ones((40, 1))), rtol=1e-5)
    with pytest.raises(InputError, match="positive_semidefinite_tag"):
        CG().prepare(lx.MatrixLinearOperator(jnp.asarray(a)))
    with pytest.raises(ComputationError, match=r"did not converge: the relative residual is .* after 2 steps"):
        CG(rtol=1e-10, max_steps=2).prepare(tagged).solve(b)


def test_a_kernel_in_blocks_is_never_held_whole():
    """The memory XLA plans for a product grows like n, not like n^2."""

    def planned(n):
        operator = KernelOperator(Gaussian(1.0), jnp.zeros((n, 2)), jnp.asarray(1.0), 16)
        solver = CG(rtol=1e-6, rank=0).prepare(operator, jnp.asarray(1.0))
        from ntkit.linalg.cg import _solve

        arguments = (operator, None, solver.floor, jnp.ones((n, 1)), 1e-6, 10)
        return _solve.lower(*arguments).compile().compiled.memory_analysis().temp_size_in_bytes

    small, large = planned(512), planned(2048)
    assert large < 8 * small
    assert large < 2048**2 * 8 / 4


@pytest.mark.parametrize("rank", [1, 6, 40])
def test_pivoted_cholesky_interpolates_its_pivots_and_knows_its_error(rank):
    a = jnp.asarray(definite())
    factor, error = pivoted_cholesky(lambda i: a[i], jnp.diagonal(a), rank)
    rest = np.asarray(a - factor @ factor.T)
    np.testing.assert_allclose(error, np.trace(rest), atol=1e-12)
    assert np.linalg.eigvalsh(rest)[0] > -1e-12
    assert np.sum(np.abs(rest).max(axis=1) < 1e-12) >= rank
    # Never better than the best approximation of this rank, in the trace norm.
    assert error >= np.sort(np.linalg.eigvalsh(a))[: 40 - rank].sum() - 1e-12


def test_pivoted_cholesky_of_a_low_rank_matrix_has_zero_columns():
    v = np.random.default_rng(0).normal(size=(20, 3))
    a = jnp.asarray(v @ v.T)
    factor, error = pivoted_cholesky(lambda i: a[i], jnp.diagonal(a), 8)
    np.testing.assert_allclose(factor @ factor.T, a, atol=1e-12)
    np.testing.assert_array_equal(factor[:, 3:], 0.0)
    assert error < 1e-12


def test_spectrum_answers_every_ridge_and_tells_rounding_from_indefinite():
    a = definite()
    spec = spectrum(jnp.asarray(a))
    b = np.random.default_rng(1).normal(size=(40, 2))
    for noise in (1e-6, 1e-2, 10.0):
        want = np.linalg.solve(a + noise * np.eye(40), b)
        np.testing.assert_allclose(spec.solve(jnp.asarray(b), noise), want, rtol=1e-7)
    low = spectrum(jnp.asarray(a[:, :3] @ a[:3, :]))
    assert float(low.values[0]) == 0.0
    assert abs(low.smallest) <= low.rounding
    with pytest.raises(ComputationError, match=r"its smallest eigenvalue is -1.000e-03"):
        spectrum(jnp.asarray(np.diag([1.0, -1e-3])))


@pytest.mark.parametrize("bad", [{"rtol": 0.0}, {"max_steps": 0}, {"rank": -1}, {"block": 0}])
def test_bad_options_are_refused_by_name(bad):
    with pytest.raises(InputError, match=f"`{next(iter(bad))}`"):
        CG(**bad)


def test_everything_stays_in_float32():
    a = jnp.asarray(definite(), jnp.float32)
    solver = Cholesky().factorise(a, jnp.asarray(0.1, jnp.float32))
    assert solver.solve(jnp.ones((40, 1), jnp.float32)).dtype == jnp.float32
    operator = MatrixOperator(a, jnp.asarray(0.1, jnp.float32))
    found = CG(rtol=1e-4).prepare(operator, jnp.asarray(0.1, jnp.float32)).solve(jnp.ones((40, 1), jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.linalg.solve(np.asarray(a) + 0.1 * np.eye(40), np.ones((40, 1))), rtol=1e-2)
