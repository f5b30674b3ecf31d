"""Pooling and the ways out of space, and the laws that every kernel of images must satisfy."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn

RNG = np.random.default_rng(6)
IMAGES = RNG.standard_normal((3, 4, 6, 2))
relu = nn.Relu()


def conv(width=8, filter_shape=(3, 3), **kwargs):
    return nn.Conv(width, filter_shape, 1.3, 0.2, **kwargs)


# The finite reading

BLOCKS = IMAGES.reshape(3, 2, 2, 2, 3, 2)
ROWS = IMAGES[:, ::2] + IMAGES[:, 1::2]
AROUND = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)))
CIRCLE = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")


def blurred(x):
    return sum(x[:, i : i + 4, j : j + 6] for i in range(3) for j in range(3)) / 9


@pytest.mark.parametrize(
    "layer, want",
    [
        (nn.AvgPool((2, 3)), BLOCKS.mean((2, 4))),
        (nn.SumPool((2, 3)), BLOCKS.sum((2, 4))),
        (nn.AvgPool((2, 2), (2, 1)), (ROWS[:, :, :-1] + ROWS[:, :, 1:]) / 4),
        (nn.LocalAvgPool((3, 3)), blurred(AROUND)),
        (nn.LocalAvgPool((3, 3), "CIRCULAR"), blurred(CIRCLE)),
        (nn.GlobalAvgPool(), IMAGES.mean((1, 2))),
        (nn.GlobalSumPool(), IMAGES.sum((1, 2))),
        (nn.Flatten(), IMAGES.reshape(3, -1)),
    ],
)
def test_pooling_is_that_of_numpy(layer, want, x64):
    x = jnp.asarray(IMAGES)
    z = np.asarray(layer.apply(layer.init(jax.random.key(0), x.shape), x))
    assert z.shape == layer.shape(x.shape)
    np.testing.assert_allclose(z, want, rtol=1e-13, atol=1e-14)


# The infinite reading

ENDS = {"flatten": nn.Flatten(), "average": nn.GlobalAvgPool(), "sum": nn.GlobalSumPool()}


@pytest.mark.parametrize("end", ENDS)
def test_one_convolution_is_a_dense_layer_on_patches(end, x64):
    # Flatten reads the pairs (p, p) alone, global pooling all (p, p').
    x = jnp.asarray(IMAGES)
    patches = np.stack([AROUND[:, i : i + 4, j : j + 6] for i in range(3) for j in range(3)], 3).reshape(3 * 24, 18)
    hidden = ntkit.kernels(nn.Sequential(nn.Dense(8, 1.3, 0.2), relu), jnp.asarray(patches))
    sigma, theta = (np.asarray(k).reshape(3, 24, 3, 24) for k in hidden)
    if end == "flatten":
        sigma, theta = (np.einsum("ipjp->ij", k) / 24 for k in (sigma, theta))
    else:
        sigma, theta = (k.mean((1, 3)) * (24**2 if end == "sum" else 1) for k in (sigma, theta))
    got = ntkit.kernels(nn.Sequential(conv(), relu, ENDS[end], nn.Dense(1, 1.1)), x)
    np.testing.assert_allclose(got.nngp, 1.1**2 * sigma, rtol=1e-9)
    np.testing.assert_allclose(got.ntk, 1.1**2 * (theta + sigma), rtol=1e-9)


@pytest.mark.parametrize(
    "pool",
    [
        nn.LocalAvgPool((3, 5)),
        nn.LocalAvgPool((3, 5), "CIRCULAR"),
        nn.AvgPool((3, 2), (1, 4), "VALID"),
        nn.AvgPool((2, 3), (2, 1), ((1, 1), (0, 2))),
        nn.SumPool((2, 2)),
        nn.LocalAvgPool((7, 9), "CIRCULAR"),
    ],
    ids=str,
)
@pytest.mark.parametrize("wraps", [False, True])
def test_what_is_pooled_and_flattened_are_the_patches(pool, wraps, x64):
    # One convolution sees patches, which are pooled and multiplied; no frame may count a pair twice.
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap" if wraps else "constant")
    patches = np.concatenate([padded[:, i : i + 4, j : j + 6] for i in range(3) for j in range(3)], axis=-1)
    pooled = np.asarray(pool.apply((), jnp.asarray(patches)))
    rows = pooled.reshape(len(pooled), -1)
    want = 1.3**2 * rows @ rows.T / rows.shape[1]
    net = nn.Sequential(nn.Conv(8, (3, 3), 1.3, padding="CIRCULAR" if wraps else "SAME"), pool, nn.Flatten())
    found = ntkit.kernels(nn.Sequential(*net.layers, nn.Dense(1)), IMAGES)
    laws.close(np.asarray(found.nngp), want, 1e-13, scale=laws.natural(want))
    laws.close(np.asarray(found.ntk), 2 * want, 1e-13, scale=laws.natural(want))


def hard_images():
    """Zero, an image, its copy, its antipode, and another."""
    return np.stack([0 * IMAGES[0], IMAGES[0], IMAGES[0], -IMAGES[0], IMAGES[1]])


NETWORKS = {
    "flatten": [conv(), relu, conv(4, (2, 3), strides=2), relu, nn.Flatten(), nn.Dense(1)],
    "pooled": [conv(), nn.AvgPool((2, 2)), relu, nn.GlobalAvgPool(), nn.Dense(1)],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_laws_of_kernels(name, x64):
    kernel, x = ntkit.Both(nn.Sequential(*NETWORKS[name])), jnp.asarray(hard_images())

    @laws.quickly
    def everything(x):
        pairs = jax.vmap(jax.vmap(lambda u, v: laws._single(kernel, u, v), (None, 0)), (0, None))
        return kernel(x), kernel(x, x), kernel.diagonal(x), pairs(x, x)

    for f, t, d, o in zip(*map(laws.leaves, everything(x)), strict=True):
        s = laws.natural(f)
        laws.close(f, f.T, 1e-14, scale=s)
        assert np.linalg.eigvalsh(f)[0] >= -1e-12 * np.linalg.eigvalsh(f)[-1]
        laws.close(np.diag(f), d, 1e-15)
        # Of an image and its copy the gaps are rounded: some eps, an angle of sqrt(2 eps) each.
        copies = np.subtract.outer([0, 1, 1, 3, 4], [0, 1, 1, 3, 4]) == 0
        for between in (t, o):
            laws.close(np.where(copies, f, between), f, 1e-13, scale=s)
            laws.close(between, f, 4 * np.sqrt(np.finfo(float).eps), scale=s)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_finite_at_zero_equal_and_opposite_images(name, x64):
    laws.has_finite_gradients(nn.Sequential(*NETWORKS[name]), hard_images())


@pytest.mark.slow
def test_float32_is_near_float64_behind_20_convolutions():
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    net = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Conv(8, (3, 3), 2**0.5), relu)], nn.Flatten())
    single = ntkit.kernels(net, jnp.asarray(x))
    with jax.enable_x64(True):
        double = [np.asarray(k) for k in ntkit.kernels(net, jnp.asarray(x, jnp.float64))]
    for s, d in zip(single, double, strict=True):
        np.testing.assert_allclose(np.asarray(s, np.float64), d, rtol=1e-5)
