"""`ImageResize` and `Index`: against `jax.image` and NumPy, and against the sums over all pairs of pixels."""

import functools
import math

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.nn.resizing import _sources

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


@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_the_weights_are_those_of_jax(method, x64):
    for n, out in ((1, 3), (2, 1), (2, 7), (5, 2), (5, 3), (5, 5), (6, 3), (6, 4), (6, 9)):
        want = jax.image.resize(jnp.eye(n), (out, n), method, antialias=False)
        for size in (n, jnp.asarray(n)):  # known, or data
            np.testing.assert_allclose(
                matrix(_sources(size, out, method), n), want, atol=1e-15, err_msg=f"{n} to {out}"
            )


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


def test_behind_a_stride_that_does_not_divide_the_size(x64):
    strided = nn.Sequential(conv((2,), strides=2, padding="VALID"), relu, nn.ImageResize((4,)), flat)
    picked = nn.Sequential(conv((2,), padding="VALID"), nn.Index(np.s_[::2]), relu, nn.ImageResize((4,)), flat)
    same(*(ntkit.kernels(net, jnp.asarray(SIGNALS[:, :5])) for net in (strided, picked)))


@pytest.mark.parametrize("end", [pooled, flat], ids=["pooled", "flat"])
def test_down_and_up_in_a_branch(end, x64):
    # As in a U-net. Resizing to a pixel and back replaces a signal by its middle.
    through = nn.Sequential(nn.ImageResize((1,), "nearest"), nn.ImageResize((6,), "nearest"), conv((1,)))
    net = nn.Sequential(nn.Sum(conv((1,)), through), relu, end)
    got = ntkit.NNGP(net)(jnp.asarray(SIGNALS))
    both = np.concatenate([SIGNALS, np.repeat(SIGNALS[:, 3:4], 6, 1)], -1)
    # The sum of two convolutions is one of both inputs' channels, with as much weight and bias.
    one = nn.Sequential(nn.Conv(8, (1,), 1.3 * 2**0.5, 0.2 * 2**0.5), relu, end)
    np.testing.assert_allclose(got, ntkit.NNGP(one)(jnp.asarray(both)), rtol=1e-12)


# Masked images: an oracle of matrices between all pixels of all truncated images


SIZES = [(4, 5), (2, 3), (3, 1), (1, 2), (4, 2)]
SEVERAL = [RNG.standard_normal((*size, 2)) for size in SIZES]


def masked(images):
    """With garbage where no pixels exist."""
    padded = ntkit.pad(images, (4, 5))
    return ntkit.Masked(np.where(padded.mask[..., None], padded.x, np.nan), padded.mask)


def resizing(sizes, shape, method):
    """Of all pixels of images of these sizes, one after the other: by jax.image of each on its own."""
    each = [np.eye(h * w).reshape(h, w, h * w) for h, w in sizes]
    each = [np.asarray(jax.image.resize(x, (*shape, x.shape[-1]), method, antialias=False)) for x in each]
    whole = np.zeros((len(sizes), math.prod(shape), sum(x.shape[-1] for x in each)))
    first = 0
    for w, x in zip(whole, each, strict=True):
        w[:, first : first + x.shape[-1]] = x.reshape(len(w), -1)
        first += x.shape[-1]
    return whole.reshape(-1, first)


def behind_erf(sigma, theta):
    """Both kernels of all pixels. Smooth: of copies of a pixel a Relu would see the root of the rounding."""
    spread = np.sqrt(1 + 2 * np.diag(sigma))
    scale = np.outer(spread, spread)
    slope = 4 / np.pi / np.sqrt(scale**2 - 4 * sigma**2)
    return 2 / np.pi * np.arcsin(2 * sigma / scale), theta * slope


@functools.cache
def resized(shape, methods):
    """Both kernels, (images, pixels, images, pixels), behind a convolution, an Erf, a resizing, a convolution of single
    pixels, an Erf, and a resizing to the shape transposed."""
    patches = []
    for x in SEVERAL:
        around = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        patches += [around[i : i + 3, j : j + 3].ravel() for i, j in np.ndindex(x.shape[:2])]
    first = 1.3**2 * np.stack(patches) @ np.stack(patches).T / 18 + 0.2**2
    w = resizing(SIZES, shape, methods[0])
    sigma, theta = (w @ k @ w.T for k in behind_erf(first, first))
    sigma, theta = behind_erf(1.3**2 * sigma + 0.2**2, 1.3**2 * (theta + sigma) + 0.2**2)
    w = resizing([shape] * len(SIZES), shape[::-1], methods[1])
    return [(w @ k @ w.T).reshape(len(SIZES), -1, len(SIZES), len(w) // len(SIZES)) for k in (sigma, theta)]


@pytest.mark.parametrize(
    "shape, methods, end", [((3, 2), ("linear", "nearest"), pooled), ((5, 6), ("nearest", "linear"), flat)]
)
def test_masked_images_are_resized_each_on_its_own(shape, methods, end, x64):
    first, second = (nn.ImageResize(size, method) for size, method in zip((shape, shape[::-1]), methods, strict=True))
    net = nn.Sequential(conv(), nn.Erf(), first, conv((1, 1)), nn.Erf(), second, end)
    images = masked(SEVERAL)
    got = laws.quickly(lambda x: (kernel := ntkit.Both(net))(x[:2], x[2:]) + kernel.diagonal(x))(images)
    several = slice(2), slice(2, None)
    for pairs, own, dense in zip(got[:2], got[2:], resized(shape, methods), strict=True):
        want = np.einsum("ipjp->ij", dense) / dense.shape[1] if end is flat else dense.mean((1, 3))
        np.testing.assert_allclose(pairs, want[several], rtol=1e-10)
        np.testing.assert_allclose(own, np.diag(want), rtol=1e-10)


def test_masked_images_in_front_and_finite(x64):
    resize = nn.ImageResize((3, 4))
    want = np.concatenate([jax.image.resize(x, (3, 4, 2), "linear", antialias=False)[None] for x in SEVERAL])
    for images in (masked(SEVERAL), jax.tree.map(jnp.asarray, masked(SEVERAL))):
        got = resize.apply((), images)
        assert np.asarray(got.mask).all()
        np.testing.assert_allclose(got.x, want, rtol=1e-13, atol=1e-15)
    net = nn.Sequential(conv(), nn.BatchNorm(), relu, flat)
    same(ntkit.kernels(nn.Sequential(resize, net), masked(SEVERAL)), ntkit.kernels(net, jnp.asarray(want)))


def test_a_resized_pixel_exists_if_those_that_it_reads_do():
    hole = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    layer, shape = nn.ImageResize((4,)), (3, 5, 2)
    # Four pixels to four read one each; five and three read between two of them.
    want = [[True, True, False, True], [False, True, True, True], [True, True, True, True]]
    for mask in (hole, jnp.asarray(hole)):
        np.testing.assert_array_equal(layer.exists(shape, mask), want)
        np.testing.assert_array_equal(layer.exists(shape, mask[0]), want[0])
    hole[1] = False
    nothing = ntkit.Masked(np.where(hole[..., None], np.ones(shape), np.nan), hole)
    with pytest.raises(ntkit.InputError, match="Image 1 has no pixels behind `ImageResize`"):
        layer.apply((), nothing)
    unknown = jax.jit(lambda mask: layer.apply((), ntkit.Masked(nothing.x, mask)))(hole)
    np.testing.assert_array_equal(unknown.mask[1], False)
    assert np.isfinite(unknown.x).all()
    kernel = ntkit.NTK(nn.Sequential(layer, conv((1,)), pooled))
    assert np.isfinite(jax.jit(lambda mask: kernel(ntkit.Masked(nothing.x, mask)))(hole)).all()


def test_what_32_bits_cannot_count_is_refused():
    x = ntkit.Masked(np.ones((1, 40000, 1), np.float32), np.arange(40000)[None] < 39999)
    layer = nn.ImageResize((30000,))
    with pytest.raises(
        ntkit.InputError, match=r"`ImageResize` of masked images \(40000,\) to \(30000,\) counts beyond"
    ):
        layer.apply((), jax.tree.map(jnp.asarray, x))
    np.testing.assert_allclose(layer.apply((), x).x, 1, rtol=1e-6)  # NumPy's masks are counted in 64 bits


def test_gradients_of_resized_masked_images(x64):
    images = ntkit.pad([x[0] for x in SEVERAL[:2]])
    kernel = ntkit.NTK(nn.Sequential(conv((3,)), nn.ImageResize((4,)), nn.Erf(), pooled))

    @laws.quickly
    def total_and_slope(x):
        return jax.value_and_grad(lambda x: jnp.sum(jnp.cos(kernel(ntkit.Masked(x, images.mask)))))(x)

    slope = np.asarray(total_and_slope(images.x)[1])
    np.testing.assert_array_equal(slope[~images.mask], 0)
    step = 1e-5 * RNG.standard_normal(slope.shape)
    up, down = (total_and_slope(images.x + s)[0] for s in (step, -step))
    np.testing.assert_allclose(up - down, 2 * np.sum(slope * step), rtol=1e-7)
