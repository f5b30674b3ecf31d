"""Gradients of whole kernels against central differences in float64, at the rows where they are easily wrong."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn

pytestmark = pytest.mark.usefixtures("x64")


def deep(phi, b_std=0.3):
    return nn.mlp(1 if b_std == 0 else 2, 8, phi, w_std=1.4, b_std=b_std)


@pytest.mark.parametrize("features", [5, 20])
def test_smooth_one_hot_and_multiple_rows(features):
    rows = laws.hard_rows(features)
    laws.has_right_gradients(deep(nn.Relu(), 0.0), rows[[0, 1, 4, 8]], rows[[2, 9]])


@pytest.mark.parametrize("features, phi", [(5, nn.Relu()), (20, nn.Erf())], ids=["relu", "erf"])
def test_at_a_zero_row(features, phi):
    # With a bias the kernel is smooth at x = 0: K' = w^2 x.y / d + b^2. The gradient used to be 0 there.
    rows = laws.hard_rows(features)
    laws.has_right_gradients(deep(phi), rows[[3]], rows[[0, 4, 8]])


@pytest.mark.parametrize("features", [5, 20])
def test_at_duplicates_antipodes_and_multiples(features):
    # The NNGP of one hidden layer is differentiable there, and so is the NTK of a smooth activation.
    rows = laws.hard_rows(features)
    laws.has_right_gradients(
        nn.mlp(1, 8, nn.Relu(), w_std=1.4, b_std=0.3), rows[[4]], rows[[5, 6, 7]], kernel=ntkit.NNGP
    )
    if features == 20:
        laws.has_right_gradients(deep(nn.Erf()), rows[[4]], rows[[5, 6, 7]])


@pytest.mark.parametrize(
    "first", [nn.Gelu(), nn.Sin(), nn.Sin(1.3, 0.6, 0.4), nn.Cos()], ids=["Gelu", "Sin", "shifted Sin", "Cos"]
)
def test_the_gap_behind_an_activation_has_the_right_slope_at_a_zero_row(first):
    # It is 0 there with the slope -d|K(x, y)|, which `maximum(gap, 0)` would halve; the next activation sees it.
    net = nn.Sequential(nn.Dense(8, 1.2), first, nn.Dense(8, 1.3, 0.2), nn.Erf(), nn.Dense(1))
    rows = laws.hard_rows()
    laws.has_right_gradients(net, rows[[3]], rows[[4, 6]], kernel=ntkit.NNGP)


def test_behind_a_series_of_an_odd_and_an_even_part():
    # Nearly opposite rows take another side of the gap.
    rows = laws.hard_rows()
    net = nn.Sequential(nn.Dense(8, 1.4), nn.Silu(), nn.Dense(8, 1.4, 0.3))
    laws.has_right_gradients(net, rows[[4]], rows[[0, 5, 6, 7]], kernel=ntkit.NNGP)
    laws.has_finite_gradients(nn.Sequential(*net.layers, nn.Relu(), nn.Dense(8)), rows)


def test_at_exact_duplicates_the_kink_of_the_ntk_counts_as_flat():
    # The NTK of Relu falls by the angle on every side of a duplicate: the mean of its slopes, as central differences
    # see it,
    # is that of the smooth part. A rounding error of the gap, divided by the angle, gave slopes of order 1.
    rows = laws.hard_rows(20)
    laws.has_right_gradients(deep(nn.Relu(), 0.0), rows[[0, 2, 4]], rows[[2, 4]])


def test_a_bias_of_zero_that_is_traced_leaves_zero_rows_zero():
    # Its square used to become 1e-154: rows of that variance had gradients beyond all numbers.
    branch = nn.Sequential(nn.LayerNorm(), nn.Gelu().normalized(), nn.Dense(8))
    net = nn.Sequential(nn.Dense(8), nn.Residual(branch), nn.Sign(), nn.Dense(1))
    rows = jnp.asarray(laws.hard_rows(20)[3:5])
    traced = jax.tree.map(jnp.asarray, net)
    assert not np.any(ntkit.NNGP(traced[:1])(rows)[0])
    slopes = laws.quickly(jax.grad(lambda net: jnp.sum(ntkit.NNGP(net)(rows, rows))))(traced)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(slopes))


def test_where_the_bias_cancels_the_covariance_of_antipodes():
    # w^2 x.y / d + b^2 = 0 exactly: |xy| has a kink there, the kernel none.
    net = nn.Sequential(nn.Dense(4, 1.0, 1.0), nn.Relu(), nn.Dense(1, 1.0, 0.5))
    row = 2 * np.eye(4)[:1]  # |x|^2 / 4 = 1, without rounding
    laws.has_right_gradients(net, row, -row)


@pytest.mark.parametrize("phi", [nn.Erf(), nn.Gaussian(), nn.Gelu()], ids=["Erf", "Gaussian", "Gelu"])
def test_finite_in_float32_for_huge_and_tiny_inputs(phi):
    # Duplicates, antipodes, multiples: a quotient's gradient squares what is small there.
    rows = jnp.asarray(laws.hard_rows()[[0, 1, 3, 4, 5, 6, 7]], jnp.float32)
    net = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), deep(phi))
    slopes = laws.quickly(jax.grad(lambda net, x, y: sum(jnp.sum(k) for k in ntkit.kernels(net, x, y)), (0, 1, 2)))
    for scale in (1e-15, 1e-8, 1e8, 1e12, 1e15):
        found = slopes(net, scale * rows, scale * rows[::-1])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)), f"at scale {scale}"
