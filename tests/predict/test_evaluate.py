"""The kernel that predictions see is the kernel that the user sees."""

import jax
import jax.numpy as jnp
import numpy as np

import ntkit
from ntkit import nn


def test_no_bias_is_no_bias_also_in_a_prediction():
    """In the standard parameterization a bias of exactly 0 is left out; traced, it would add 1 to the NTK."""
    x = np.random.default_rng(0).normal(size=(6, 5))
    theta = ntkit.NTK(nn.mlp(1, 8, nn.Relu(), parameterization="standard"))
    y = x[:, 0]
    with jax.enable_x64(True):
        expected = np.linalg.solve(np.asarray(theta(jnp.asarray(x))) + 0.5 * np.eye(6), y)
    model = ntkit.ridge(theta, x, y, alpha=0.5)
    np.testing.assert_allclose(model.weights, expected, rtol=1e-10)
