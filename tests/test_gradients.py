"""Gradients of whole kernels against central differences in float64, at the rows where they are easily wrong."""

import numpy as np
import pytest

import laws
import ntkit
from ntkit import nn

pytestmark = pytest.mark.usefixtures("x64")


def deep(phi, b_std=0.3):
    return nn.mlp(2, 8, phi, w_std=1.4, b_std=b_std)


@pytest.mark.parametrize("features", [5, 20])
def test_smooth_one_hot_and_multiple_rows(features):
    rows = laws.hard_rows(features)
    laws.has_right_gradients(deep(nn.Relu(), 0.0), rows[[0, 1, 4, 8]], rows[[2, 9]])


@pytest.mark.parametrize("features", [5, 20])
@pytest.mark.parametrize("phi", [nn.Relu(), nn.Erf()], ids=lambda phi: phi.name)
def test_at_a_zero_row(features, phi):
    # With a bias the kernel is smooth at x = 0: K' = w^2 x.y / d + b^2. The gradient used to be 0 there.
    rows = laws.hard_rows(features)
    laws.has_right_gradients(deep(phi), rows[[3]], rows[[0, 4, 8]])


@pytest.mark.parametrize("features", [5, 20])
def test_at_duplicates_antipodes_and_multiples(features):
    # The NNGP of one hidden layer is differentiable there, and so is the NTK of a smooth activation.
    rows = laws.hard_rows(features)
    laws.has_right_gradients(nn.mlp(1, 8, nn.Relu(), w_std=1.4, b_std=0.3), rows[[4]], rows[[5, 6, 7]], kernel=ntkit.NNGP)
    laws.has_right_gradients(deep(nn.Erf()), rows[[4]], rows[[5, 6, 7]])


@pytest.mark.parametrize("features", [5, 20])
def test_where_the_bias_cancels_the_covariance_of_antipodes(features):
    # w^2 x.y / d + b^2 = 0 exactly: |xy| has a kink there, the kernel none.
    net = nn.Sequential(nn.Dense(4, 1.0, 1.0), nn.Relu(), nn.Dense(1, 1.0, 0.5))
    row = np.eye(features)[:1] * np.sqrt(features)
    laws.has_right_gradients(net, row, -row)
