"""Drift and alignment, against their definitions written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn

RNG = np.random.default_rng(0)
N = 6
FACTOR = RNG.standard_normal((N, N))
K = FACTOR @ FACTOR.T
Y = RNG.standard_normal((N, 2)) + 3


def defined(k, target):
    return np.trace(k @ target) / np.sqrt(np.trace(k @ k) * np.trace(target @ target))


def test_alignment_is_what_its_definition_says():
    h = np.eye(N) - np.ones((N, N)) / N
    target = Y @ Y.T
    np.testing.assert_allclose(ntkit.alignment(K, Y), defined(K, target))
    np.testing.assert_allclose(ntkit.alignment(K, Y, centered=True), defined(h @ K @ h, h @ target @ h))
    np.testing.assert_allclose(ntkit.alignment(jnp.asarray(K), Y[:, 0]), defined(K, np.outer(Y[:, 0], Y[:, 0])), 1e-6)


def test_alignment_of_the_labels_with_themselves_is_one():
    y = np.sign(RNG.standard_normal(N))
    np.testing.assert_allclose(ntkit.alignment(3 * np.outer(y, y), y), 1)
    # What is constant in the kernel or in y moves only the uncentered one.
    shifted = ntkit.alignment(np.outer(y, y) + 5, y + 2, centered=True)
    np.testing.assert_allclose(shifted, 1)
    assert ntkit.alignment(np.outer(y, y) + 5, y + 2) < 0.99


X = jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32)
TARGET = np.array([1.0, -1.0, 1.0, -1.0])
NET = nn.mlp(1, 5, nn.Erf())
START = jax.tree.map(
    lambda leaf: jnp.asarray(RNG.standard_normal(leaf.shape), jnp.float32),
    jax.eval_shape(lambda key: NET.init(key, X.shape), jax.random.key(0)),
)
KERNEL = ntkit.EmpiricalNTK(NET.apply, START)


def trajectory(steps):
    """Gradient descent."""
    params = START
    for _ in range(steps):
        yield params
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, GRADIENT(params))


JACOBIAN = jax.jit(jax.jacrev(lambda p: NET.apply(p, X)[:, 0]))
GRADIENT = jax.jit(jax.grad(lambda p: jnp.mean((NET.apply(p, X)[:, 0] - TARGET.astype(np.float32)) ** 2)))


def by_jacobian(params):
    jacobian = JACOBIAN(params)
    flat = np.concatenate([np.asarray(leaf, np.float64).reshape(4, -1) for leaf in jax.tree.leaves(jacobian)], axis=1)
    return flat @ flat.T


def test_drift_along_a_training():
    found = ntkit.drift(KERNEL, trajectory(3), X, TARGET)
    matrices = [by_jacobian(params) for params in trajectory(3)]
    expected = [np.linalg.norm(k - matrices[0]) / np.linalg.norm(matrices[0]) for k in matrices]
    np.testing.assert_allclose(found.drift, expected, rtol=1e-4)
    assert found.drift[0] == 0
    assert found.drift[2] > found.drift[1] > 0.01
    np.testing.assert_allclose(found.alignment, [ntkit.alignment(k, TARGET) for k in matrices], rtol=1e-5)
    centered = [ntkit.alignment(k, TARGET, centered=True) for k in matrices]
    np.testing.assert_allclose(found.centered_alignment, centered, rtol=1e-5)
    assert str(found).count("\n") == 3
    # The kernel's own parameters are not the start, and labels may be left out.
    later = ntkit.drift(KERNEL, list(trajectory(3))[1:], X)
    assert later.drift[0] == 0
    assert later.alignment is None
    assert later.centered_alignment is None


def wrong(trajectory):
    return lambda: ntkit.drift(KERNEL, trajectory, X, TARGET)


NAN = jax.tree.map(lambda leaf: leaf * jnp.nan, START)


@pytest.mark.parametrize(
    "call, word",
    [
        (wrong([]), "`trajectory` is empty"),
        (wrong(iter(())), "`trajectory` is empty"),
        (wrong(3), "must be an iterable"),
        (wrong([START[0]]), "at time 0"),
        (wrong([START, jax.tree.map(lambda leaf: leaf[:1], START)]), "at time 1"),
        (wrong([START, NAN]), "At time 1"),
        (lambda: ntkit.drift(KERNEL, [START], X, TARGET[:3]), "labels of the 4 examples"),
        (lambda: ntkit.drift(KERNEL, [START], X, np.array([1, 2, 3, 4])), "floating point"),
        (lambda: ntkit.drift(KERNEL, [START], X, np.array([1.0, np.nan, 3, 4])), "`y` must be finite"),
        (lambda: ntkit.drift(ntkit.NTK(NET), [START], X), "`kernel` must be"),
        (lambda: ntkit.drift(ntkit.EmpiricalNTK(NET.apply, START, outputs="full"), [START], X), '"mean"'),
        (lambda: ntkit.alignment(K, Y[:2]), "labels of the 6 examples"),
        (lambda: ntkit.alignment(K[:2], Y), "square"),
        (lambda: ntkit.alignment(K, np.zeros(N)), "`y` is 0"),
        (lambda: ntkit.alignment(0 * K, Y), "The kernel is 0"),
        (lambda: ntkit.alignment(K, np.full(N, 0.1), centered=True), "constant"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_refused(call, word):
    with pytest.raises(ntkit.InputError, match=word):
        call()


def test_a_kernel_that_is_not_finite_is_a_failure():
    with pytest.raises(ntkit.ComputationError, match="not finite"):
        ntkit.alignment(K * np.nan, Y)
