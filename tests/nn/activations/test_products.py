"""Sums of products: against nested quadrature, and inside a network against the series."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.nn._law import not_negative
from ntkit.nn.activations._quadrature import duals
from ntkit.nn.activations.series import TOPS, Tabulated

# Laws that float32 holds: what differs is not what was asked.
S = np.array([2.0**-20, 0.0625, 0.75, 1.96875, 4.9375])
THETAS = np.arccos([1.0, 0.9990234375, 0.625, 0.0, -0.8125, -1.0])


def even(x):
    """Its slope vanishes at 0, as do the norms of both."""
    return x * jnp.tanh(x)


@pytest.mark.parametrize("name", ["tanh", "silu", "even"])
def test_duals_are_within_the_tolerance(name, x64):
    fn, layer, parity = {
        "tanh": (jnp.tanh, nn.Tanh(), -1),
        "silu": (jax.nn.silu, nn.Silu(), 0),
        "even": (even, nn.Activation(even, kinks=()), 1),
    }[name]
    slope = jax.vmap(jax.vmap(jax.vmap(jax.grad(fn))))
    exact = [duals(f, S, THETAS, angles=90, radii=90, parity=p) for f, p in ((fn, parity), (slope, -parity))]
    norms = [np.sqrt(np.diagonal(each[0])) for each in exact]
    for dtype, bound in ((np.float32, 1e-6), (np.float64, 1e-9)):
        ways = layer.narrower(dtype)
        assert [limit for limit, _ in ways] == [top**2 for top in TOPS]
        for limit, way in ways:
            inside = limit >= S**2
            q = jnp.asarray(S**2, dtype)[inside]
            xy = jnp.asarray(np.cos(THETAS)[:, None, None] * np.outer(S, S)[inside][:, inside], dtype)
            gap = jnp.asarray((1 - np.abs(np.cos(THETAS)))[:, None, None] * np.outer(S, S)[inside][:, inside], dtype)
            got, variance = jax.jit(lambda way, *law: (way.dual(*law), way.variance(law[0])))(
                way, q[None, :, None], xy, q[None, None, :], gap
            )
            for mine, theirs, norm in zip(map(np.asarray, got[:2]), exact, norms, strict=True):
                errors = np.abs(mine - theirs[:, inside][:, :, inside]) / np.outer(norm, norm)[inside][:, inside]
                assert errors.max() < bound, (limit, dtype)
            length = np.sqrt(np.asarray(variance).ravel())
            assert np.max(np.abs(length / norms[0][inside] - 1)) < bound
            lengths = np.outer(length, length)
            np.testing.assert_allclose(got.gap, lengths - np.abs(np.asarray(got.value)), atol=3e-6)


@pytest.mark.parametrize(("dtype", "shortest", "longest"), [(np.float32, 12, 20), (np.float64, 16, 32)])
def test_a_sum_is_short_and_of_nodes_of_the_longest(dtype, shortest, longest):
    # Hundreds of terms at deviation 5: they fall off like exp(-pi sqrt(j) / s).
    table, _ = nn.Tanh().narrower(dtype)[0][1].table
    lengths = [len(sums.slope.places) for sums in table.sums]
    assert lengths == sorted(lengths)
    assert lengths[-1] == len(table.powers) < longest
    assert lengths[0] < shortest
    for sums in table.sums:
        assert set(sums.value.places) <= set(sums.slope.places)
        assert min(sums.slope.weights + sums.value.weights) > 0


@pytest.mark.parametrize("q", [0.0, 1e-42, 1e-20])
def test_tiny_variances_give_numbers(q):
    (_, way), *_ = nn.Silu().narrower(np.float32)
    law = [jnp.float32(a) for a in (q, 0.0, 0.5, 0.0)]
    found = jax.jit(lambda *law: way.dual(*law))(*law)
    known = nn.Silu().dual(*law)
    np.testing.assert_allclose(found[:2], known[:2], atol=1e-6)


def test_functions_that_are_not_smooth_or_turn_too_fast_are_left_to_the_series():
    assert nn.Elu().narrower(np.float32) == ()
    assert nn.Activation(lambda x: jnp.sin(9 * x), kinks=()).narrower(np.float32) == ()


def signals(scale):
    x = np.random.default_rng(0).standard_normal((3, 5, 2)) * np.array([0.3, 1.0, 1.0])[:, None, None]
    x[2] = x[1]
    x[1, :3] *= -1
    return scale * x


NET = nn.Sequential(nn.Conv(8, (3,), w_std=1.5, b_std=0.3), nn.Tanh(), nn.GlobalAvgPool(), nn.Dense(1))


@pytest.fixture
def by_the_series(monkeypatch):
    def run(fn):
        # Else the programs of before would be run again.
        jax.clear_caches()
        with monkeypatch.context() as patch:
            patch.setattr(Tabulated, "narrower", lambda self, dtype: ())
            found = jax.block_until_ready(fn())
        jax.clear_caches()
        return found

    return run


def test_kernels_of_signals_are_those_of_the_series(by_the_series):
    # Within the first table, beyond it, and beyond all.
    each = [signals(scale).astype(np.float32) for scale in (0.5, 3.0, 20.0)]
    found, known = ([ntkit.kernels(NET, x) for x in each], by_the_series(lambda: [ntkit.kernels(NET, x) for x in each]))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(known), strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-6, atol=5e-6 * np.abs(b).max())


def total(layer, point):
    """Both duals of two variances and a covariance."""
    q1, c, q2 = point
    dual = layer.dual(q1, c, q2, not_negative(jnp.sqrt(q1 * q2) - jnp.abs(c)))
    return dual.value + 0.3 * dual.derivative


def test_gradients_are_those_of_the_series(x64):
    # Opposite and equal signs, and none.
    points = jnp.array([[0.8, 0.5, 1.1], [1.3, -0.9, 0.7], [0.4, 0.0, 0.2]])
    (_, way), *_ = nn.Silu().narrower(np.float64)
    found, known = (jax.jit(jax.vmap(jax.grad(total, 1), (None, 0)))(phi, points) for phi in (way, nn.Silu()))
    np.testing.assert_allclose(found, known, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("beyond", [0.0, 4e-16])
def test_gradients_of_equal_pixels_survive_the_rounding_of_their_correlation(beyond, x64):
    q = 0.6
    (_, way), *_ = nn.Silu().narrower(np.float64)
    found = jax.jit(lambda point: jax.grad(total, 1)(way, point))(jnp.array([q, q * (1 + beyond), q]))
    # By Price's theorem, d/dc E[f(u) g(v)] = E[f' g'], d/dq1 E[f(u) g(v)] = E[f'' g] / 2.
    z, w = np.polynomial.hermite_e.hermegauss(80)
    each = [jax.nn.silu]
    for _ in range(3):
        each.append(jax.grad(each[-1]))
    f = [np.asarray(jax.vmap(g)(q**0.5 * z)) for g in each]
    of_c, of_q = (w @ a / w.sum() for a in (f[1] ** 2 + 0.3 * f[2] ** 2, (f[2] * f[0] + 0.3 * f[3] * f[1]) / 2))
    np.testing.assert_allclose(found, [of_q, of_c, of_q], rtol=1e-6)
