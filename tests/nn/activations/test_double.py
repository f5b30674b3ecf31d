"""Functions with kinks away from 0 compute in float64 inside: float32 loses nothing, however JAX transforms it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import quickly
from test_mixed_hostile import shrunk_tanh

import ntkit
from ntkit import nn
from ntkit.nn.activations._double import in_double

HARD_TANH = nn.Activation(lambda x: jnp.clip(x, -1, 1), name="hard tanh")
TENT = nn.Activation(lambda x: jnp.maximum(1 - jnp.abs(x), 0), name="tent")
NET = nn.Sequential(nn.Dense(8, w_std=1.3, b_std=0.2), HARD_TANH, nn.Dense(1))


def kernels(net, x):
    """NNGP and NTK, over the roots of their diagonals."""
    return [np.asarray(k, np.float64) / np.sqrt(np.outer(np.diag(k), np.diag(k))) for k in ntkit.kernels(net, x)]


@pytest.mark.parametrize("activation", [HARD_TANH, TENT], ids=lambda a: a.name)
def test_float32_at_any_scale_of_the_inputs(activation):
    base = np.random.default_rng(0).normal(size=(8, 16))
    base[4:] = base[:4] + 1e-2 * base[4:]
    x = np.concatenate([base * scale for scale in (0.1, 10.0, 1e3)])
    net = nn.Sequential(nn.Dense(8, w_std=1.3, b_std=0.1), activation, nn.Dense(1, b_std=0.1))
    single = kernels(net, jnp.asarray(x, jnp.float32))
    with jax.enable_x64(True):
        for a, b in zip(single, kernels(net, jnp.asarray(np.float32(x), jnp.float64)), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_relu_behind_a_localised_kink_sees_parallel_rows_of_unequal_length():
    """A tanh that is 0 up to 0.3: at a variance of 0.03 nearly nothing of it is seen."""
    rng = np.random.default_rng(1)
    row = rng.normal(size=16)
    row *= np.sqrt(0.03) / np.linalg.norm(row) * 4
    x = np.stack([row * (1 + apart) for apart in (0, 0.01, 0.02, 0.03, 0.1)]) + 1e-3 * rng.normal(size=(5, 16))
    net = nn.Sequential(nn.Dense(8), nn.Activation(shrunk_tanh), nn.Dense(8), nn.Relu(), nn.Dense(1))
    single = kernels(net, jnp.asarray(x, jnp.float32))
    with jax.enable_x64(True):
        for a, b in zip(single, kernels(net, jnp.asarray(np.float32(x), jnp.float64)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_derivatives_of_a_kernel_are_those_of_float64():
    """Also of its diagonal, which is in float64 inside and read backwards outside."""
    x = np.float32(np.random.default_rng(0).normal(size=(4, 3)))

    def total(x):
        return jnp.sum(ntkit.NNGP(NET)(x))

    found = quickly(jax.grad(total))(jnp.asarray(x))
    with jax.enable_x64(True):
        exact = quickly(jax.grad(total))(jnp.asarray(x, float))
    np.testing.assert_allclose(np.asarray(found), np.asarray(exact), rtol=1e-5, atol=1e-5)


def test_what_was_compiled_is_batched_and_differentiated():
    """A product of matrices in float64 is among what JAX would otherwise round when it batches it later."""

    def formula(x, y):
        return jnp.tensordot(jnp.asarray([1e8, -1e8, 1.0]), jnp.stack([x * y, x * y, jnp.sin(x * y)]), 1)

    @jax.jit
    def f(x, y):
        return in_double(formula, x, y)

    x, y = jnp.linspace(0.1, 1, 4), jnp.asarray(0.7)
    np.testing.assert_allclose(jax.vmap(f, (0, None))(x, y), np.sin(0.7 * x), rtol=1e-6)
    pairs = jax.vmap(jax.vmap(f, (None, 0)), (0, None))
    np.testing.assert_allclose(pairs(x, x), np.sin(np.outer(x, x)), rtol=1e-6)
    by_both = jax.grad(lambda x, y: jnp.sum(jax.vmap(f, (0, None))(x, y)), (0, 1))(x, y)
    np.testing.assert_allclose(by_both[0], 0.7 * np.cos(0.7 * x), rtol=1e-6)
    np.testing.assert_allclose(by_both[1], np.sum(x * np.cos(0.7 * x)), rtol=1e-6)
    assert by_both[0].dtype == jnp.float32
