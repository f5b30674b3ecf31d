"""`ImageResize` and `Index`: against `jax.image` and NumPy, and against the sums over all pairs of pixels."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.nn.resizing import _linear, _nearest

RNG = np.random.default_rng(8)
IMAGES = RNG.standard_normal((3, 4, 5, 2))
SIGNALS = RNG.standard_normal((3, 6, 2))
relu, flat, pooled = nn.Relu(), nn.Flatten(), nn.GlobalAvgPool()


def conv(filter_shape=(3, 3), **kwargs):
    return nn.Conv(8, filter_shape, 1.3, 0.2, **kwargs)


def matrix(sources, n):
    """The weights as an (outputs, inputs) matrix."""
    w = np.zeros((sources.size, n))
    for index, weight in zip(sources.index, sources.weights, strict=True):
        np.add.at(w, (np.arange(sources.size), index), weight)
    return w


@pytest.mark.parametrize("method, taps", [("nearest", _nearest), ("linear", _linear)])
def test_the_weights_are_those_of_jax(method, taps, x64):
    for n, out in ((1, 3), (2, 1), (2, 7), (5, 2), (5, 3), (5, 5), (6, 3), (6, 4), (6, 9)):
        want = jax.image.resize(jnp.eye(n), (out, n), method, antialias=False)
        np.testing.assert_allclose(matrix(taps(n, out), n), want, atol=1e-15, err_msg=f"{n} to {out}")


def test_in_front_it_is_a_change_of_the_data(x64):
    x = jnp.asarray(IMAGES)
    resize, part = nn.ImageResize((7, 3)), nn.Index(np.s_[::-1, 1:])
    larger = jax.image.resize(x, (3, 7, 3, 2), "linear", antialias=False)
    y = larger[:, ::-1, 1:]
    np.testing.assert_array_equal(resize.apply((), x), larger)
    np.testing.assert_array_equal(part.apply((), larger), y)
    assert (resize.shape(x.shape), part.shape(larger.shape)) == (larger.shape, y.shape)
    behind = [conv(strides=2), relu, pooled, nn.Dense(1)]
    same(ntkit.kernels(nn.Sequential(resize, part, *behind), x), ntkit.kernels(nn.Sequential(*behind), y))


ROW, PIXEL = (conv((3,), strides=2), flat, nn.Dense(1)), (nn.Dense(1, 1.3, 0.2),)


@pytest.mark.parametrize("idx, behind", [((2, slice(None)), ROW), (np.s_[1:, -1], ROW), ((2, -1), PIXEL)])
def test_numbers_drop_axes(idx, behind, x64):
    x, layer = jnp.asarray(IMAGES), nn.Index(idx)
    y = x[(slice(None), *idx)]
    assert layer.shape(x.shape) == y.shape
    np.testing.assert_array_equal(layer.apply((), x), y)
    same(ntkit.kernels(nn.Sequential(layer, *behind), x), ntkit.kernels(nn.Sequential(*behind), y))


def same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


@functools.cache
def hidden():
    """Both kernels between all pixels of all signals behind a convolution and a Relu, (3, 6, 3, 6): a `Dense` layer on
    patches."""
    padded = np.pad(SIGNALS, ((0, 0), (1, 1), (0, 0)))
    patches = np.stack([padded[:, i : i + 6] for i in range(3)], 2).reshape(18, 6)
    found = ntkit.kernels(nn.Sequential(nn.Dense(8, 1.3, 0.2), relu), jnp.asarray(patches))
    return [np.asarray(k).reshape(3, 6, 3, 6) for k in found]


@pytest.mark.parametrize(
    "size, method, end", [(4, "linear", "pooled"), (9, "linear", "flatten"), (4, "nearest", "flatten")]
)
def test_behind_a_layer_it_is_a_matrix_on_both_sides(size, method, end, x64):
    w = np.asarray(jax.image.resize(jnp.eye(6), (size, 6), method, antialias=False))
    sigma, theta = (np.einsum("op,ipjq,rq->iojr", w, k, w) for k in hidden())
    if end == "flatten":
        sigma, theta = (np.einsum("iojo->ij", k) / size for k in (sigma, theta))
    else:
        sigma, theta = (k.mean((1, 3)) for k in (sigma, theta))
    way = flat if end == "flatten" else pooled
    net = nn.Sequential(conv((3,)), relu, nn.ImageResize((size,), method), way, nn.Dense(1, 1.1))
    got = ntkit.kernels(net, jnp.asarray(SIGNALS))
    np.testing.assert_allclose(got.nngp, 1.1**2 * sigma, rtol=1e-9)
    np.testing.assert_allclose(got.ntk, 1.1**2 * (theta + sigma), rtol=1e-9)


def test_resizing_is_the_limit_of_its_finite_networks():
    # Behind the Relu the law of resized pixels takes covariances of different pixels.
    net = nn.Sequential(conv((3,)), nn.ImageResize((4,)), relu, nn.Index(np.s_[::-2]), flat, nn.Dense(8, 1.1))
    laws.is_limit_of_finite(net, SIGNALS, 2500)


def test_down_and_up_in_a_branch(x64):
    # As in a U-net. Resizing to a pixel and back replaces a signal by its middle.
    through = nn.Sequential(nn.ImageResize((1,), "nearest"), nn.ImageResize((6,), "nearest"), conv((1,)))
    net = nn.Sequential(nn.Sum(conv((1,)), through), relu, pooled)
    got = ntkit.NNGP(net)(jnp.asarray(SIGNALS))
    both = np.concatenate([SIGNALS, np.repeat(SIGNALS[:, 3:4], 6, 1)], -1)
    # The sum of two convolutions is one of both inputs' channels, with as much weight and bias.
    one = nn.Sequential(nn.Conv(8, (1,), 1.3 * 2**0.5, 0.2 * 2**0.5), relu, pooled)
    np.testing.assert_allclose(got, ntkit.NNGP(one)(jnp.asarray(both)), rtol=1e-12)
