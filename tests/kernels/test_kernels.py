"""Whole kernels: against a slow recursion in mpmath, against neural-tangents' numbers, and the algebra of kernels."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import laws
import mpmath as mp
import numpy as np
import pytest
import scipy.sparse

import ntkit
from ntkit import nn
from ntkit.errors import InputError

pytestmark = pytest.mark.usefixtures("x64")

NETS = {
    "relu": nn.mlp(2, 8, nn.Relu(), w_std=1.4, b_std=0.1),
    "leaky relu, no bias": nn.mlp(2, 8, nn.LeakyRelu(0.2), w_std=1.3),
    "erf, standard": nn.mlp(2, 8, nn.Erf(), w_std=1.4, b_std=0.1, parameterization="standard"),
    "gelu then abs": nn.Sequential(nn.Dense(8, 1.4, 0.1), nn.Gelu(), nn.Dense(8, 1.3), nn.Abs(), nn.Dense(1)),
    "sin, cos, gaussian": nn.Sequential(
        nn.Sum(nn.Dense(8), nn.Dense(8, 0.5)), nn.Sin(), nn.Dense(8), nn.Gaussian(), nn.Dense(8), nn.Cos(), nn.Dense(1)
    ),
    "normalised residual": nn.Sequential(
        nn.Dense(8),
        nn.Residual(nn.Sequential(nn.LayerNorm(), nn.Gelu().normalized(), nn.Dense(8))),
        nn.Sign(),
        nn.Dense(1),
    ),
}


@pytest.mark.parametrize("name, features", [*((name, 5) for name in NETS), ("relu", 20), ("normalised residual", 20)])
def test_every_kernel_obeys_the_laws(name, features):
    laws.is_kernel(ntkit.Both(NETS[name]), laws.hard_rows(features), eager=name == "relu" and features == 5)


@pytest.mark.parametrize("name", ["relu", "normalised residual"])
def test_gradients_are_finite_at_hard_rows(name):
    laws.has_finite_gradients(NETS[name], laws.hard_rows(5 if name == "relu" else 20))


def test_rows_of_one_length_at_one_place_are_not_taken_for_one_row():
    # Entries of +1 and -1: all variances are 1 to the last bit, only the rows tell who is who.
    x1, x2 = np.random.default_rng(0).choice([-1.0, 1.0], (2, 6, 20))
    x2[3] = x1[3]
    theta = np.arccos(np.clip(x1 @ x2.T / 20, -1, 1))
    exact = (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
    got = ntkit.NNGP(nn.Sequential(nn.Dense(8), nn.Relu(), nn.Dense(1)))(x1, x2)
    np.testing.assert_allclose(got, exact, atol=1e-12)
    assert got[3, 3] == 0.5


def recursion(x, y, depth, w, b, value, slope):
    """(Sigma, Theta) of `nn.mlp` for one pair, in mpmath, straight from Jacot et al.: three covariances, no gap, no
    batches."""
    dot = lambda u, v: mp.fsum(mp.mpf(float(p)) * mp.mpf(float(q)) for p, q in zip(u, v)) / len(u)  # noqa: E731
    k = [w * w * c + b * b for c in (dot(x, x), dot(x, y), dot(y, y))]
    theta = k[1]
    for _ in range(depth):
        theta = w * w * slope(*k) * theta
        k = [w * w * value(*c) + b * b for c in ((k[0], k[0], k[0]), tuple(k), (k[2], k[2], k[2]))]
        theta += k[1]
    return k[1], theta


def relu_value(q1, c, q2):
    theta = mp.acos(max(min(c / mp.sqrt(q1 * q2), mp.mpf(1)), mp.mpf(-1)))
    return mp.sqrt(q1 * q2) * (mp.sin(theta) + (mp.pi - theta) * mp.cos(theta)) / (2 * mp.pi)


def relu_slope(q1, c, q2):
    return (mp.pi - mp.acos(max(min(c / mp.sqrt(q1 * q2), mp.mpf(1)), mp.mpf(-1)))) / (2 * mp.pi)


def erf_value(q1, c, q2):
    return 2 / mp.pi * mp.asin(2 * c / mp.sqrt((1 + 2 * q1) * (1 + 2 * q2)))


def erf_slope(q1, c, q2):
    return 4 / mp.pi / mp.sqrt((1 + 2 * q1) * (1 + 2 * q2) - 4 * c * c)


@pytest.mark.parametrize("features", [5, 20])
@pytest.mark.parametrize("phi, value, slope", [(nn.Relu(), relu_value, relu_slope), (nn.Erf(), erf_value, erf_slope)])
@pytest.mark.parametrize("depth, beta", [(1, 0.3), (4, 0.1)])
def test_recursion_in_mpmath(features, phi, value, slope, depth, beta):
    mp.mp.dps = 40
    rows = laws.hard_rows(features)[[0, 1, 4, 5, 6, 7, 8, 9]]
    near = rows[2] + 1e-6 * rows[6]
    rows = np.concatenate([rows, near[None]])
    w = mp.sqrt(1 - mp.mpf(beta) ** 2)
    want = np.array(
        [[[float(v) for v in recursion(x, y, depth, w, mp.mpf(beta), value, slope)] for y in rows] for x in rows]
    )
    got = jax.jit(ntkit.Both(nn.mlp(depth, 8, phi, beta=beta)))(jnp.asarray(rows))
    for k, g in enumerate(got):
        # The angle between rows an eps apart is known to eps; all else to some units of rounding per layer.
        laws.close(g, want[..., k], 2e-14 * depth, scale=laws.natural(want[..., k]))


def test_beta_is_the_balance_of_jacot():
    a, b = nn.mlp(2, 8, nn.Relu(), beta=0.6), nn.mlp(2, 8, nn.Relu(), w_std=0.8, b_std=0.6)
    x = jnp.asarray(laws.hard_rows())
    for p, q in zip(ntkit.kernels(a, x), ntkit.kernels(b, x), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-14)


def test_beta_as_an_array_is_differentiable():
    x = jnp.asarray(laws.hard_rows())
    f = jax.jit(lambda beta: jnp.sum(ntkit.NTK(nn.mlp(1, 8, nn.Relu(), beta=beta))(x)))
    slope = jax.grad(f)(jnp.asarray(0.3))
    np.testing.assert_allclose(slope, (f(jnp.asarray(0.3 + 1e-6)) - f(jnp.asarray(0.3 - 1e-6))) / 2e-6, rtol=1e-7)


def test_fixed_layers_leave_the_ntk():
    x = jnp.asarray(laws.hard_rows())
    net = nn.mlp(2, 8, nn.Erf(), fixed_layers=2)
    assert [layer.trainable for layer in net.layers[::2]] == [False, False, True]
    np.testing.assert_allclose(ntkit.NTK(net)(x), ntkit.NNGP(net)(x), rtol=1e-14)


def test_leaves_can_be_edited():
    x = jnp.asarray(laws.hard_rows())
    net = nn.mlp(1, 8, nn.Relu(), w_std=1.2, b_std=0.1)
    edited = eqx.tree_at(lambda net: net.layers[0].b_std, net, 0.5)
    by_hand = nn.Sequential(nn.Dense(8, 1.2, 0.5), nn.Relu(), nn.Dense(1, 1.2, 0.1))
    np.testing.assert_array_equal(ntkit.NTK(edited)(x), ntkit.NTK(by_hand)(x))


def test_both_kernels_in_one_pass_are_each_alone():
    x, y = jnp.asarray(laws.hard_rows()), jnp.asarray(laws.hard_rows(seed=1)[:4])
    net = NETS["relu"]
    for args in ((x,), (x, y)):
        both = ntkit.kernels(net, *args)
        # Programs of their own: the last digit may be rounded differently.
        np.testing.assert_allclose(both.ntk, ntkit.NTK(net)(*args), rtol=1e-14, atol=1e-16)
        np.testing.assert_allclose(both.nngp, ntkit.NNGP(net)(*args), rtol=1e-14, atol=1e-16)
        np.testing.assert_array_equal(both.ntk, ntkit.Both(net)(*args).ntk)
    assert ntkit.kernels(net, x, y).ntk.shape == (10, 4)


def test_sums_products_and_multiples_are_kernels():
    x, y = jnp.asarray(laws.hard_rows()), jnp.asarray(laws.hard_rows(seed=1)[:4])
    a, b = ntkit.NTK(NETS["relu"]), ntkit.NNGP(nn.mlp(1, 8, nn.Erf()))
    for kernel, want in (
        (a + b, np.add),
        (a * b, np.multiply),
        (2.5 * a, lambda p, q: 2.5 * p),
        (a * 2.5, lambda p, q: 2.5 * p),
    ):
        np.testing.assert_allclose(kernel(x, y), want(np.asarray(a(x, y)), np.asarray(b(x, y))), rtol=1e-15)
        np.testing.assert_allclose(kernel(x), want(np.asarray(a(x)), np.asarray(b(x))), rtol=1e-15)
        np.testing.assert_array_equal(np.diag(kernel(x)), kernel.diagonal(x))
    laws.is_kernel(2.0 * a * b + b, laws.hard_rows())


def test_dtype_follows_the_input():
    x = laws.hard_rows()
    for dtype in (np.float32, np.float64):
        assert {k.dtype for k in ntkit.kernels(NETS["relu"], jnp.asarray(x, dtype))} == {np.dtype(dtype)}


def test_a_kernel_of_no_rows_is_empty():
    net, x = NETS["relu"], jnp.asarray(laws.hard_rows())
    assert ntkit.NTK(net)(x[:0], x).shape == (0, 10)


def test_agrees_with_neural_tangents():
    """Numbers of neural-tangents 0.6.5 (tests/oracles/neural_tangents_reference.py), float64."""
    with np.load(Path(__file__).parents[1] / "oracles" / "neural_tangents.npz") as file:
        reference = dict(file)
    x1, x2 = jnp.asarray(reference["x1"]), jnp.asarray(reference["x2"])
    dense = lambda w=1.3, b=0.2, **kw: nn.Dense(16, w, b, **kw)  # noqa: E731
    nets = {
        name: nn.Sequential(dense(), phi, dense(), phi, dense())
        for name, phi in {
            "Relu": nn.Relu(),
            "LeakyRelu": nn.LeakyRelu(0.2),
            "Abs": nn.Abs(),
            "Erf": nn.Erf(),
            "Gelu": nn.Gelu(),
            "Sin": nn.Sin(),
            "Cos": nn.Cos(),
            "Gaussian": nn.Gaussian(),
            "Sign": nn.Sign(),
        }.items()
    }
    standard = lambda: dense(parameterization="standard")  # noqa: E731
    nets["standard"] = nn.Sequential(standard(), nn.Relu(), standard(), nn.Relu(), standard())
    nets["residual"] = nn.Sequential(dense(), nn.Residual(nn.Sequential(nn.Relu(), dense())), nn.Erf(), dense())
    nets["layer norm"] = nn.Sequential(dense(), nn.LayerNorm(eps=1e-12), nn.Relu(), dense())
    assert {key.split("/")[0] for key in reference if "/" in key} == set(nets)
    for name, net in nets.items():
        for key, value in laws.quickly(ntkit.Both(net))(x1, x2)._asdict().items():
            want = reference[f"{name}/{key}"]
            np.testing.assert_allclose(
                value, want, rtol=1e-10, atol=1e-10 * np.abs(want).max(), err_msg=f"{name} {key}"
            )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "bad, words",
    [
        (np.ones((3, 4), object), "must be an array of floating-point numbers, but has dtype object"),
        (np.array([["a"]]), "Encode text columns"),
        (scipy.sparse.csr_array(np.eye(3)), r"toarray\(\)"),
        (None, "must be an array of floating-point numbers"),
        (np.arange(12).reshape(3, 4), "must be floating point, but has dtype int64"),
        (np.ones((3, 4), complex), "must be real, but has dtype complex128"),
        (np.array([[1.0, np.nan]]), r"`x1\[0, 1\]` is nan"),
        (np.ma.array(np.ones((2, 2)), mask=np.eye(2)), "masked"),
        (np.ones(3), r"shape \(n, features\)"),
    ],
)
def test_a_kernel_refuses_what_is_no_array_of_finite_floats(bad, words):
    for evaluate in (ntkit.NTK(NETS["relu"]), ntkit.NNGP(NETS["relu"]).diagonal):
        with pytest.raises(InputError, match=words) as refusal:
            evaluate(bad)
        assert "`x1" in str(refusal.value)
