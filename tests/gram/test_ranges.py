"""Whoever goes beyond the tables of an activation is told, and nobody else."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.errors import AccuracyWarning

LARGE = 300 * np.random.default_rng(0).standard_normal((5, 13)).astype(np.float32)


@pytest.mark.parametrize("phi", [nn.Tanh(), nn.Tanh().normalized()])
def test_large_examples_are_told_of(phi):
    theta = ntkit.NTK(nn.mlp(1, 8, phi, w_std=1.0))
    with pytest.warns(AccuracyWarning, match=r"variances up to 1\.\de\+05.* wrong by \d.*variances=\(0.01, 1e\+06\)"):
        ntkit.gram(theta, LARGE)
    with pytest.warns(AccuracyWarning):
        ntkit.posterior(theta, LARGE, np.zeros(5), noise=1.0, dtype="float32")


NORMALISED = nn.Sequential(nn.Dense(8), nn.LayerNorm(), nn.Tanh(), nn.Dense(1))


@pytest.mark.parametrize(
    "net, scale",
    [
        (nn.mlp(1, 8, nn.Tanh(), w_std=1.0), 1 / 300),
        (nn.mlp(1, 8, nn.Relu()), 1.0),
        (NORMALISED, 1.0),
        (nn.mlp(1, 8, nn.Activation(jnp.tanh, variances=(0.01, 1e4)), w_std=1.0), 1 / 5),
    ],
    ids=["small", "relu", "normalised", "wide tables"],
)
def test_others_are_not(net, scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccuracyWarning)
        ntkit.gram(ntkit.NTK(net), LARGE * np.float32(scale))
