"""float32 against float64 at every depth from 1 to 20 and input scales from 1e-3 to 1e4, and near-duplicate rows."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn

SCALES = (1e-3, 1e-1, 1.0, 1e2, 1e3, 1e4)
ACTIVATIONS = {
    "Relu": nn.Relu(),
    "Erf": nn.Erf(),
    "Gelu": nn.Gelu(),
    "Abs": nn.Abs(),
    "LeakyRelu": nn.LeakyRelu(0.2),
    "Sin": nn.Sin(),
    "Gaussian": nn.Gaussian(),
    "Cos": nn.Cos(),
    "Sign": nn.Sign(),
    "Tanh": nn.Tanh(),
    "Elu": nn.Elu(),
}
# Off the diagonal layers are run one by one, so that all depths are seen. The diagonal is that of whole networks.


def both_precisions(net, x):
    """Kernels behind every Dense, in float32 and in float64, of one and the same float32 input."""
    x = np.asarray(x, np.float32)
    single = laws.every_depth(net, jnp.asarray(x))
    with jax.enable_x64(True):
        double = laws.every_depth(net, jnp.asarray(x, jnp.float64))
    return list(zip(single, double, strict=True))


def spread_rows(features, n=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, features)) * rng.uniform(0.3, 3, (n, 1))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("features, b_std", [(20, 0.0), (5, 0.3)])
def test_1e_5_off_the_diagonal(name, features, b_std):
    """Errors are relative to sqrt(K_ii K_jj)."""
    net = nn.mlp(20, 8, ACTIVATIONS[name], w_std=1.4, b_std=b_std)
    for scale in SCALES:
        for which, (single, double) in zip(
            ("nngp", "ntk"), both_precisions(net, scale * spread_rows(features)), strict=True
        ):
            assert np.isfinite(single).all()
            for depth in range(21):
                error = np.abs(single[depth] - double[depth]) / laws.natural(double[depth])
                worst = error[~np.eye(len(error), dtype=bool)].max()
                assert worst <= 1e-5, f"{which} at depth {depth}, scale {scale}: {worst}"


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("depth, b_std", [(1, 0.3), (5, 0.0), (10, 0.0), (20, 0.3)])
def test_1e_6_on_the_diagonal(name, depth, b_std):
    # As the user has it, in a JAX of 32 bits: inside, these n numbers are computed in float64.
    net = nn.mlp(depth, 8, ACTIVATIONS[name], w_std=1.4, b_std=b_std)
    x = np.concatenate([scale * spread_rows(5, n=5) for scale in SCALES]).astype(np.float32)
    single = jax.jit(ntkit.Both(net).diagonal)(x)
    with jax.enable_x64(True):
        double = jax.jit(ntkit.Both(net).diagonal)(x.astype(float))
    for one, exact in zip(single, double, strict=True):
        assert (one.dtype, exact.dtype) == (jnp.float32, jnp.float64)
        np.testing.assert_allclose(one, exact, rtol=1e-6)


@pytest.mark.parametrize("name", ["Gelu", "Cos"])
def test_the_diagonal_of_a_whole_matrix_is_that_diagonal(name):
    net = nn.mlp(5, 8, ACTIVATIONS[name], w_std=1.4, b_std=0.3)
    x = jnp.asarray(np.concatenate([scale * spread_rows(5, n=3) for scale in SCALES]), jnp.float32)
    for full, diagonal in zip(*jax.jit(lambda x: (ntkit.Both(net)(x), ntkit.Both(net).diagonal(x)))(x), strict=True):
        np.testing.assert_array_equal(np.diag(full), diagonal)


def test_a_diagonal_in_float64_leaves_no_trace_in_a_jax_of_32_bits():
    # Inside, n numbers are computed in float64: values, derivatives and leaves keep the caller's dtype all the same.
    x = jnp.asarray(laws.hard_rows(), jnp.float32)
    net = jax.tree.map(jnp.float32, nn.mlp(2, 8, nn.Gelu(), w_std=1.4, b_std=0.3))

    def total(net, x):
        return jnp.sum(ntkit.NTK(net).diagonal(x))

    slopes = {
        "jit": jax.jit(jax.grad(total, (0, 1))),
        "eager": jax.grad(total, (0, 1)),
        "remat": jax.jit(jax.grad(jax.checkpoint(total), (0, 1))),
        "forward": jax.jit(jax.jacfwd(total, (0, 1))),
        "vmap": lambda net, x: jax.tree.map(lambda g: g[0], jax.vmap(jax.grad(total, (0, 1)), (None, 0))(net, x[None])),
    }
    with jax.enable_x64(True):
        exact = jax.jit(jax.grad(total, (0, 1)))(jax.tree.map(lambda leaf: leaf.astype(float), net), x.astype(float))
    for way, slope in slopes.items():
        for got, want in zip(jax.tree.leaves(slope(net, x)), jax.tree.leaves(exact), strict=True):
            assert got.dtype == jnp.float32, way
            np.testing.assert_allclose(got, want, rtol=2e-7, atol=2e-7 * np.abs(want).max(), err_msg=way)
    second = jax.jit(jax.grad(lambda x: jnp.sum(jax.grad(total, 1)(net, x) ** 2)))(x)
    assert second.dtype == jnp.float32
    assert np.isfinite(second).all()


def test_a_float32_gram_matrix_has_the_diagonal_of_float64():
    net, x = nn.mlp(3, 8, nn.Gelu(), w_std=1.4), spread_rows(20).astype(np.float32)
    single, double = (ntkit.gram(ntkit.NTK(net), x, dtype=d, progress=False) for d in ("float32", "float64"))
    np.testing.assert_allclose(np.diag(single), np.diag(double), rtol=1e-7)


def near_duplicates(kind, features, n, seed=0):
    """n rows of which each has a twin 1e-4 away, of variance about 1."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n // 2, features))
    nudge = rng.standard_normal(rows.shape)
    nudge *= 1e-4 * np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(nudge, axis=1, keepdims=True)
    if kind == "scaled":
        twins = rows * (1 + 1e-4)
    elif kind == "antipodes":
        twins = -rows + nudge
    else:
        twins = rows + nudge
    return np.concatenate([rows, twins])


@pytest.mark.parametrize("features", [10, 30])
@pytest.mark.parametrize("kind", ["turned", "antipodes"])
def test_large_near_duplicates_keep_their_entry(features, kind):
    # Of Erf at variance 1e8 the slope falls as 1 / sin(angle): what is wrong with an angle of 1e-4 is wrong with it.
    x = (1e4 * near_duplicates(kind, features, 10)).astype(np.float32)
    theta = ntkit.NTK(nn.mlp(1, 8, nn.Erf(), w_std=1.4, b_std=0.1))
    single, double = (ntkit.gram(theta, x, dtype=d, progress=False) for d in ("float32", "float64"))
    np.testing.assert_allclose(np.diag(single, 5), np.diag(double, 5), rtol=1e-5)


def dense(b_std=0.0):
    return nn.Dense(8, 1.4, b_std)


def stacks(b):
    residual = nn.Residual(nn.Sequential(nn.Relu(), dense(b)))
    return {
        "relu": nn.mlp(3, 8, nn.Relu(), w_std=1.4, b_std=b),
        "abs": nn.mlp(3, 8, nn.Abs(), w_std=1.4, b_std=b),
        "erf": nn.mlp(3, 8, nn.Erf(), w_std=1.4, b_std=b),
        "sign": nn.mlp(1, 8, nn.Sign(), w_std=1.4, b_std=b),  # the root of an angle, twice, is beyond float32
        "residual": nn.Sequential(dense(b), residual, dense(b), residual, nn.Relu(), dense(b)),
        "layer norm": nn.Sequential(dense(b), nn.LayerNorm(), nn.Relu(), dense(b), nn.LayerNorm(), nn.Relu(), dense(b)),
        "erf then relu": nn.Sequential(dense(b), nn.Erf(), dense(b), nn.Relu(), dense(b)),
        "gelu then abs": nn.Sequential(dense(b), nn.Gelu(), dense(b), nn.Abs(), dense(b)),
        "sin then relu": nn.Sequential(dense(b), nn.Sin(), dense(b), nn.Relu(), dense(b)),
        "cos then relu": nn.Sequential(dense(b), nn.Cos(), dense(b), nn.Relu(), dense(b)),
        "shifted sin then relu": nn.Sequential(dense(b), nn.Sin(phase=0.7), dense(b), nn.Relu(), dense(b)),
        "gaussian then relu": nn.Sequential(dense(b), nn.Gaussian(), dense(b), nn.Relu(), dense(b)),
        "normalised relu then relu": nn.Sequential(dense(b), nn.Relu().normalized(), dense(b), nn.Relu(), dense(b)),
        "tanh then relu": nn.Sequential(dense(b), nn.Tanh(), dense(b), nn.Relu(), dense(b)),
        "elu": nn.mlp(2, 8, nn.Elu(), w_std=1.4, b_std=b),
    }


@pytest.mark.parametrize("stack", stacks(0.0))
@pytest.mark.parametrize("b_std", [0.0, 0.3])
def test_near_duplicates_keep_the_smallest_eigenvalue(stack, b_std):
    net = stacks(b_std)[stack]
    for features in (5, 784):
        for kind in ("nudged", "scaled", "antipodes"):
            for n in (2, 50):
                for which, (single, double) in zip(
                    ("nngp", "ntk"), both_precisions(net, near_duplicates(kind, features, n)), strict=True
                ):
                    for depth, (s, d) in enumerate(zip(single, double, strict=True)):
                        low, high = np.linalg.eigvalsh(d)[[0, -1]]
                        off = abs(np.linalg.eigvalsh(s)[0] - low) / high
                        assert off <= 1e-5, f"{which}, depth {depth}, {features} features, {kind}, n = {n}: {off}"


SEEN_THROUGH = {
    "Erf": nn.Erf(),
    "Gelu": nn.Gelu(),
    "Gaussian": nn.Gaussian(),
    "Gaussian(3)": nn.Gaussian(3.0),
    "Sin": nn.Sin(),
    "Cos": nn.Cos(),
    "Tanh": nn.Tanh(),
    "Gelu.normalized()": nn.Gelu().normalized(),
    "Gaussian.normalized()": nn.Gaussian().normalized(),
    "Cos.normalized()": nn.Cos().normalized(),
    "Relu.normalized()": nn.Relu().normalized(),
    "Silu": nn.Silu(),
    "Elu": nn.Elu(),
    "Softplus.normalized()": nn.Softplus().normalized(),
    "Sigmoid.normalized()": nn.Sigmoid().normalized(),
    "bent line": nn.Activation(lambda x: x + jnp.maximum(x - 1, 0)),
}
LINES = ("bent line",)


@pytest.mark.parametrize("name", SEEN_THROUGH)
@pytest.mark.parametrize("b_std", [0.0, 0.3])
def test_a_kink_behind_an_activation_sees_what_parallel_rows_of_unequal_length_cost(name, b_std):
    # With one feature all rows are parallel: the gap behind the activation comes from their lengths alone.
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((6, 1)) * rng.uniform(0.3, 2, (6, 1))
    rows = np.concatenate([rows, *(sign * rows * (1 + d) for d in 10.0 ** np.arange(-4, 0.1, 0.5) for sign in (1, -1))])
    net = nn.Sequential(dense(b_std), SEEN_THROUGH[name], dense(b_std), nn.Relu(), dense(b_std))
    for scale in (1e-2, 1.0) if name in LINES else (1e-2, 1.0, 1e2):
        for which, (single, double) in zip(("nngp", "ntk"), both_precisions(net, scale * rows), strict=True):
            for depth, (s, d) in enumerate(zip(single, double, strict=True)):
                worst = (np.abs(s - d) / laws.natural(d)).max()
                assert worst <= 1e-5, f"{which} at depth {depth}, scale {scale}: {worst}"


@pytest.mark.parametrize("phi", [nn.Gelu(), nn.Relu(), nn.Cos()], ids=lambda phi: phi.name)
def test_the_gap_behind_a_shift_survives_rows_of_very_different_length(phi):
    # It was the difference of two squares of the longer row: 5 times the true gap for rows of ratio 1e8.
    a, b = np.random.default_rng(0).standard_normal((2, 5))
    branch = nn.Sequential(phi.normalized(), dense())
    net = nn.Sequential(dense(0.3), nn.Residual(branch), nn.LayerNorm(), nn.Abs(), dense())
    for ratio in (1e2, 1e4, 1e8):
        rows = np.stack([ratio * a, a, ratio * b, b])
        for single, double in both_precisions(net, rows):
            laws.close(single, double, 1e-5, scale=np.stack([laws.natural(d) for d in double]))
