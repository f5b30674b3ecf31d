"""Closed-form duals against mpmath quadrature that does not know them (tests/oracles/duals.py), in float64.

"1e-12 relative" is relative to the value itself, entry by entry, on the whole grid: variances 1e-3 to 1e3, equal and
different, correlations from -1 to 1. The two exceptions are stated where they are made (`floor`): the rounding of the
inputs, amplified by an exponential or by a sum that changes sign.
"""

import importlib.util
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import laws
import mpmath as mp
import numpy as np
import pytest

import ntkit
from ntkit import InputError, nn

ORACLES = Path(__file__).parents[2] / "oracles"
EPS = np.finfo(np.float64).eps


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLES / "duals.npz") as file:
        return dict(file)


def activations():
    return {
        "Identity": nn.Identity(),
        "Relu": nn.Relu(),
        "LeakyRelu": nn.LeakyRelu(0.2),
        "Abs": nn.Abs(),
        "Sign": nn.Sign(),
        "Erf": nn.Erf(),
        "Gelu": nn.Gelu(),
        "Gaussian": nn.Gaussian(),
        "GaussianRate": nn.Gaussian(0.3),
        "Sin": nn.Sin(),
        "Cos": nn.Cos(),
        "SinPhase": nn.Sin(1.3, 0.7, 0.4),
    }


NAMES = list(activations())


def duals(phi, law):
    with jax.enable_x64(True):
        return [np.asarray(v) for v in jax.jit(phi.dual)(*map(jnp.asarray, law))]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["value", "derivative"])
def test_duals_to_1e_12_of_the_value_itself(oracle, name, which):
    got = duals(activations()[name], oracle["law"])[("value", "derivative").index(which)]
    want = oracle[which][list(oracle["names"]).index(name)]
    assert np.isfinite(got).all()
    error = np.abs(got - want)
    bound = 1e-12 * np.abs(want) + floor(name, which, oracle["law"])
    worst = np.unravel_index(np.argmax(error - bound), error.shape)
    assert np.all(error <= bound), (
        f"{(error > bound).sum()} of {error.size} entries; worst at xx, xy, yy, gap = "
        f"{oracle['law'][(slice(None), *worst)]}: "
        f"got {got[worst]}, want {want[worst]}, off by {error[worst]}"
    )


def floor(name, which, law):
    """Where the true value is 0 and "relative to it" means nothing. Abs' = sign has the dual 1 - 2 theta / pi: for
    orthogonal
    inputs, and only there, the bound is 4 eps of E[phi'^2] = 1. Relu's at antipodes may be as large as
    an angle of 1e-150."""
    if (name, which) == ("Abs", "derivative"):
        return np.where(law[1] == 0, 4 * EPS, 0.0)
    return np.where(law[3] == 0, 1e-150, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_diagonals_and_means_to_1e_12(oracle, name):
    phi, index = activations()[name], list(oracle["names"]).index(name)
    with jax.enable_x64(True):
        q = jnp.asarray(np.diagonal(oracle["law"][0, :, :, 0]))
        got = np.stack([phi.mean(q), *phi.diagonal(q)], axis=1)
    want = oracle["points"][index]
    assert np.all(np.abs(got - want) <= 1e-12 * np.abs(want)), (got - want) / np.where(want == 0, 1, want)


@pytest.mark.parametrize("name", NAMES)
def test_the_gap_is_what_is_left_to_the_cauchy_schwarz_bound(oracle, name):
    # In float64 the plain difference has an error of a few eps sqrt(k11 k22): that much, absolutely, is what it can
    # tell.
    index = list(oracle["names"]).index(name)
    square = oracle["points"][index][:, 1]
    top = np.sqrt(np.outer(square, square))[..., None]
    got = duals(activations()[name], oracle["law"])[2]
    assert np.all(got >= 0)
    assert np.all(np.abs(got - (top - np.abs(oracle["value"][index]))) <= 8 * EPS * top)


@pytest.mark.parametrize("name", NAMES)
def test_the_gap_of_nearly_parallel_inputs_keeps_its_digits(name):
    # d value / d c = E[phi' phi'] is continuous for smooth phi, so for equal variances gap' -> E[phi'^2] gap as gap
    # -> 0.
    phi, q, gap = activations()[name], 1.7, 1e-13
    with jax.enable_x64(True):
        got = phi.dual(*map(jnp.asarray, (q, q - gap, q, gap))).gap
        slope = phi.diagonal(jnp.asarray(q)).derivative
    if name == "Sign":
        np.testing.assert_allclose(got, 2 / math.pi * math.sqrt(2 * gap / q), rtol=1e-6)
    else:
        # Kinks add a term of the order gap^(3/2), 2e-6 of it here.
        np.testing.assert_allclose(got, slope * gap, rtol=3e-6)


def exact_kernel(name):
    """The dual as a formula in mpmath, q1, c, q2 -> E[phi phi], which `test_duals_to_1e_12` has compared with
    quadrature."""

    def erf(p, c, q):
        return 2 / mp.pi * mp.asin(2 * c / mp.sqrt((1 + 2 * p) * (1 + 2 * q)))

    def gelu(p, c, q):
        root, h = mp.sqrt((1 + p) * (1 + q) - c * c), 1 / (1 + p) + 1 / (1 + q)
        return (c * mp.atan2(root, -c) + (p * q - c * c + c * c * h) / root) / (2 * mp.pi)

    def gaussian(p, c, q):
        return 1 / mp.sqrt((1 + 2 * p) * (1 + 2 * q) - 4 * c * c)

    def shifted(name):
        inner = exact_kernel(name)
        mean = {"Gelu": lambda q: q / mp.sqrt(2 * mp.pi * (1 + q)), "Gaussian": lambda q: 1 / mp.sqrt(1 + 2 * q)}[name]
        phi = getattr(nn, name)().normalized()
        a, b = mp.mpf(float(phi.scale)), mp.mpf(float(phi.shift))
        return lambda p, c, q: a * a * inner(p, c, q) + a * b * (mean(p) + mean(q)) + b * b

    plain = {"Erf": erf, "Gelu": gelu, "Gaussian": gaussian}
    return plain[name] if name in plain else shifted(name.removesuffix(".normalized()"))


@pytest.mark.parametrize("name", ["Erf", "Gelu", "Gaussian", "Gelu.normalized()", "Gaussian.normalized()"])
@pytest.mark.parametrize("wide", [True, False], ids=["float64", "float32"])
def test_the_gap_keeps_its_digits_for_any_lengths_and_angles(name, wide):
    """Parallel, nearly parallel and general pairs of variances 1e-30 to 1e30: in float64 the gap itself, in float32 the
    angle that it means. The sums behind Gelu and a shift keep nine digits up to 1e4, and from 1e-3 to 1e3."""
    phi = getattr(nn, name.removesuffix(".normalized()"))()
    phi = phi.normalized() if name.endswith("normalized()") else phi
    dtype = np.float64 if wide else np.float32
    shifts = name.endswith("normalized()")
    low, high = 1e-30, 1e30
    if wide and (shifts or name == "Gelu"):
        low, high = (1e-3, 1e3) if shifts else (1e-30, 1e4)
    lengths = [q for q in (1e-30, 1e-12, 1e-3, 0.05, 0.4, 0.5, 1.0, 3.0, 20.0, 1e3, 1e8, 1e30) if low <= q <= high]
    kernel, laws_, wanted, tops = exact_kernel(name), [], [], []
    with mp.workdps(120):
        for q, ratio, turn, sign in itertools.product(
            lengths, (1, 1.001, 1.3, 7, 1e-5, 1e8), (0, 1e-10, 1e-3, 0.5, 1), (1, -1)
        ):
            p = dtype(q * ratio)
            if not low <= p <= high:
                continue
            q, p = mp.mpf(float(dtype(q))), mp.mpf(float(p))
            s = mp.sqrt(q * p)
            gap = min(mp.mpf(float(dtype(s * turn))), s)
            if 0 < gap < np.finfo(dtype).tiny:
                continue
            top = mp.sqrt(kernel(q, q, q) * kernel(p, p, p))
            laws_.append([float(v) for v in (q, sign * (s - gap), p, gap)])
            wanted.append(float((top - abs(kernel(q, sign * (s - gap), p))) / top))
            tops.append(top)
        with jax.enable_x64(wide):
            law = [jnp.asarray(v, dtype) for v in np.array(laws_).T]
            got = np.asarray(jax.jit(phi.dual)(*law).gap)
        got = np.array([float(mp.mpf(float(g)) / top) for g, top in zip(got, tops, strict=True)])
    wanted = np.array(wanted)
    if wide:
        # 1e-3 between lengths is a gap of 1e-6, of which the rounding of the root, 1e-16, leaves 1e-10.
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-24)
    else:
        np.testing.assert_allclose(np.sqrt(2 * got), np.sqrt(2 * wanted), rtol=1e-6, atol=8e-6)


@pytest.mark.parametrize("name", NAMES)
def test_duals_and_their_derivatives_are_finite_where_inputs_degenerate(name):
    phi = activations()[name]
    degenerate = np.array(
        [
            (0, 0, 0, 0),
            (0, 0, 1, 0),
            (1, 0, 0, 0),
            (1, 1, 1, 0),
            (1, -1, 1, 0),
            (1, 0, 1, 1),
            (4, 2, 1, 0),
            (1e8, 1e8, 1e8, 0),
            (1e8, -1e8, 1e8, 0),
            (1e-12, 0, 1e8, 1e-2),
        ]
    ).T

    def everything(law):
        values = [*phi.dual(*law), *phi.diagonal(law[0]), phi.mean(law[0])]
        return sum(map(jnp.sum, values)), jnp.stack(values)

    for wide in (True, False):
        with jax.enable_x64(wide):
            law = jnp.asarray(degenerate, jnp.result_type(float))
            slopes, values = jax.jit(jax.grad(everything, has_aux=True))(law)
        assert np.isfinite(values).all()
        assert np.isfinite(slopes).all()


@pytest.mark.parametrize("name", NAMES)
def test_float32_holds_from_scale_1e_15_to_1e15(name):
    # Variances squared, 1e60, are beyond float32; so is what is divided by them.
    net = nn.Sequential(nn.Dense(8, 1.2), activations()[name], nn.Dense(1))
    a, b = np.random.default_rng(0).standard_normal((2, 4))
    rows = np.stack([a, b, -a, 2 * a, 0 * a, a + b])
    weights = jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, (6, 6)), jnp.float32)

    def total(x):  # each kernel over its largest entry, as 1e30 itself has no slope that float32 could pass back
        return sum(jnp.sum(weights / jnp.max(jnp.abs(jax.lax.stop_gradient(k))) * k) for k in kernel(x, x))

    kernel = ntkit.Both(net)
    values, slopes = jax.jit(kernel), jax.jit(jax.grad(total))
    for scale in 10.0 ** np.arange(-15, 16, 2):
        x = (scale * rows).astype(np.float32)
        with jax.enable_x64(True):
            exact = values(jnp.asarray(x, jnp.float64))
        for got, want in zip(values(jnp.asarray(x)), exact, strict=True):
            laws.close(got, want, 1e-5, scale=laws.natural(want))
        if scale < 1e12:
            assert np.isfinite(slopes(jnp.asarray(x))).all(), scale


def test_normalized_has_zero_mean_and_unit_variance_at_variance_one():
    with jax.enable_x64(True):
        one = jnp.ones(())
        for name, phi in activations().items():
            scaled = phi.normalized()
            assert abs(float(scaled.mean(one))) <= 1e-15, name
            assert abs(float(scaled.diagonal(one).value) - 1) <= 1e-14, name
            x = jnp.linspace(-2.0, 2.0, 5)
            want = (phi.fn(x) - phi.mean(one)) / jnp.sqrt(phi.diagonal(one).value - phi.mean(one) ** 2)
            np.testing.assert_allclose(scaled.fn(x), want, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_normalized_dual_is_that_of_the_shifted_function(oracle, name):
    # E[(a phi(u) + b)(a phi(v) + b)] = a^2 E[phi phi] + a b (E phi(u) + E phi(v)) + b^2, from the oracle's numbers.
    phi, index = activations()[name].normalized(), list(oracle["names"]).index(name)
    a, b = float(phi.scale), float(phi.shift)
    mean, square = oracle["points"][index][:, 0], oracle["points"][index][:, 1]
    want = a * a * oracle["value"][index] + a * b * (mean[:, None] + mean)[..., None] + b * b
    after = a * a * square + 2 * a * b * mean + b * b
    # Shifting subtracts numbers of the size of a^2 E[phi^2] + b^2: that, not the small result, is what a digit is
    # worth.
    size = a * a * np.sqrt(np.outer(square, square)) + b * b
    value, slope, gap = duals(phi, oracle["law"])
    top = np.sqrt(np.outer(after, after))[..., None]
    assert np.all(np.abs(value - want) <= 1e-12 * size[..., None])
    assert np.all(
        np.abs(slope - a * a * oracle["derivative"][index])
        <= 1e-12 * a * a * np.abs(oracle["derivative"][index]) + 4 * a * a * EPS
    )
    # An error e of a variance is one of sqrt(e) at most in its root; only the smallest are that small.
    assert np.all(
        np.abs(gap - (top - np.abs(want)))
        <= 1e-12 * size[..., None] * np.maximum(1, 1 / np.sqrt(np.minimum.outer(after, after)))[..., None]
    )


def test_a_constant_cannot_be_normalized():
    with pytest.raises(InputError, match="constant"):
        nn.Cos(1.0, 0.0).normalized()


@pytest.mark.slow
def test_the_stored_oracle_is_what_its_script_computes(oracle):
    spec = importlib.util.spec_from_file_location("oracle_duals", ORACLES / "duals.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    tasks = script.tasks()
    for task in tasks[:: len(tasks) // 40]:
        name, i, j, k = task
        value, slope, difference = script.case(task)
        index = list(oracle["names"]).index(name)
        assert difference < 1e-8
        assert (oracle["value"][index, i, j, k], oracle["derivative"][index, i, j, k]) == (value, slope)
    np.testing.assert_array_equal(script.laws(), oracle["law"])
