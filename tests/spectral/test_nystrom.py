"""Nyström's eigenfunctions against dense eigendecompositions and the eigenvalues on the circle."""

import sys

import numpy as np
import pytest

import ntkit
from ntkit import nn

RNG = np.random.default_rng(0)
X, NEW = RNG.standard_normal((20, 3)), RNG.standard_normal((5, 3))
KERNEL = ntkit.NTK(nn.mlp(1, 8, nn.Relu(), b_std=0.3))


def test_it_is_the_eigendecomposition():
    found = ntkit.nystrom(KERNEL, X, 6)
    k, cross = (ntkit.gram(KERNEL, x, X, progress=False) for x in (X, NEW))
    values = np.linalg.eigvalsh(k / 20)[::-1]
    np.testing.assert_allclose(found.eigenvalues, values[:6], rtol=1e-10)
    np.testing.assert_allclose(found.explained, values[:6].sum() / values.sum())
    phi = found(X)
    np.testing.assert_allclose(k @ phi / 20, phi * found.eigenvalues, atol=1e-11)
    np.testing.assert_allclose(phi.T @ phi / 20, np.eye(6), atol=1e-11)
    np.testing.assert_allclose(found(), phi, atol=1e-11)
    # Elsewhere what makes them eigenfunctions of the mean over the data.
    np.testing.assert_allclose(cross @ found() / 20, found(NEW) * found.eigenvalues, atol=1e-12)
    assert "rank=6" in repr(found)


def test_all_of_them_give_the_kernel_back():
    found = ntkit.nystrom(KERNEL, X, 20)
    expected = ntkit.gram(KERNEL, NEW, X, progress=False)
    np.testing.assert_allclose(found(NEW) * found.eigenvalues @ found(X).T, expected, atol=1e-10)
    np.testing.assert_allclose(found.explained, 1)


def test_on_the_circle_it_is_mercers_decomposition():
    """On n equally spaced points frequencies k, n - k, n + k, ... look alike, and their eigenvalues add up."""
    n, kernel = 24, ntkit.NTK(nn.mlp(1, 8, nn.Erf(), w_std=1.3, b_std=0.4))
    angle = 2 * np.pi * np.arange(n) / n + 0.1
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    exact = ntkit.mercer(kernel, 2, 60)
    sums = [
        exact.eigenvalues[k] + sum(exact.eigenvalues[abs(k + j * n)] for j in (-2, -1, 1, 2) if abs(k + j * n) <= 60)
        for k in range(4)
    ]
    order = np.sort([sums[0], *np.repeat(sums[1:], 2)])[::-1]
    found = ntkit.nystrom(kernel, x, 7)
    np.testing.assert_allclose(found.eigenvalues, order, rtol=1e-10)
    # The spaces of the functions, at other points: those that look alike are below 1e-10 of the first.
    new = np.array([[np.cos(t), np.sin(t)] for t in (0.5, 2.0, 4.0)])
    psi = found(new)
    expected = sum(exact.zonal(new, new, k) for k in range(4))
    np.testing.assert_allclose(psi @ psi.T, expected, atol=1e-5)


def test_matrices_at_hand_float32_and_tiles(monkeypatch):
    whole = ntkit.nystrom(KERNEL, X, 3)
    k = ntkit.gram(KERNEL, X, progress=False)
    np.testing.assert_allclose(ntkit.nystrom(KERNEL, X, 3, matrix=2 * k).eigenvalues, 2 * whole.eigenvalues)
    single = ntkit.nystrom(KERNEL, X, 3, dtype="float32")
    assert single(NEW).dtype == np.float32
    np.testing.assert_allclose(single(NEW), whole(NEW), rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(sys.modules["ntkit.spectral.nystrom"], "_CROSS", 40)
    np.testing.assert_allclose(whole(NEW), ntkit.nystrom(KERNEL, X, 3)(NEW), rtol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_refused():
    for rank, word in ((0, "`rank` must be a whole number"), (21, "at most 20"), (2.0, "`rank`")):
        with pytest.raises(ntkit.InputError, match=word):
            ntkit.nystrom(KERNEL, X, rank)
    with pytest.raises(ntkit.InputError, match="`x` must be finite"):
        ntkit.nystrom(KERNEL, X * np.nan, 3)
    with pytest.raises(ntkit.InputError, match="`kernel` must be callable"):
        ntkit.nystrom("ntk", X, 3)
    with pytest.raises(ntkit.InputError, match=r"shape \(20, 20\)"):
        ntkit.nystrom(KERNEL, X, 3, matrix=np.eye(3))
    with pytest.raises(ntkit.InputError, match="x_test"):
        ntkit.nystrom(KERNEL, X, 3)(NEW[:, :2])
    with pytest.raises(ntkit.ComputationError, match=r"Only 3 of the 5.*rank=3"):
        ntkit.nystrom(lambda x, y=None: x @ (x if y is None else y).T, X, 5)
