"""Masks: images of several sizes, padded to one, have the kernels and outputs of the images on their own."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.errors import InputError
from ntkit.nn._masks import behind_windows
from ntkit.nn._taps import Window
from ntkit.nn.activations.registry import activation_names
from ntkit.nn.activations.series import Tabulated

RNG = np.random.default_rng(8)
relu = nn.Relu()


def conv(filter_shape, **kwargs):
    return nn.Conv(4, filter_shape, 1.3, 0.2, **kwargs)


def garbled(masked, value=np.nan):
    """With garbage where no pixels exist."""
    return ntkit.Masked(np.where(masked.mask[..., None], masked.x, value), masked.mask)


def several(*sizes):
    return [RNG.standard_normal((*size, 2)) for size in sizes]


# Every layer: the larger image's size, the smaller one's, and the network.
NETWORKS = {
    "signals": (
        (10,),
        (6,),
        [
            conv((2,), dilation=2, padding="VALID"),
            nn.LayerNorm(),
            relu,
            conv((3,), strides=2),
            nn.Dropout(0.2),
            nn.ConvTranspose(4, (4,), 1.2, 0.3, strides=2),
            nn.Sign(),
            conv((2,), padding=((2, 1),)),
            nn.AvgPool((2,), 1),
            nn.GlobalAvgPool(),
            nn.Dense(4, 1.1, 0.2),
            relu,
        ],
    ),
    "images": (
        (5, 4),
        (3, 2),
        [
            conv((3, 2)),
            nn.Residual(nn.Sequential(nn.LocalAvgPool((2, 2)), relu, conv((2, 3)))),
            nn.GlobalSumPool(),
        ],
    ),
    "transposed": (
        (5,),
        (3,),
        [nn.LocalConv(4, (2,), 1.1, 0.1), nn.Erf(), nn.ConvTranspose(4, (3,), 1.2, 0.3, strides=2, padding="VALID")]
        + [nn.SumPool((3,), 1, "SAME"), nn.GlobalAvgPool()],
    ),
    "volumes": (
        (3, 3, 2),
        (2, 3, 1),
        [
            conv((2, 1, 1), padding="VALID"),
            nn.Product(conv((1, 1, 1)), conv((1, 2, 1), padding=((0, 0), (1, 0), (0, 0)))),
            nn.Concat(nn.Identity(), conv((1, 1, 1))),
            nn.LayerNorm(axis="all"),
            nn.Index(np.s_[:, 0:2, 0]),
            nn.LocalConv(4, (1, 2), 1.2, 0.3, strides=(1, 2)),
            relu,
            nn.Flatten(),
        ],
    ),
    "resized signals": (
        (7,),
        (4,),
        [
            conv((3,)),
            relu,
            nn.ImageResize((6,)),
            conv((3,), strides=2),
            nn.Residual(nn.Sequential(nn.ImageResize((5,), "nearest"), nn.ImageResize((3,)), conv((1,)))),
            nn.GlobalAvgPool(),
        ],
    ),
    "resized images": (
        (4, 5),
        (3, 2),
        [
            conv((2, 2), padding="VALID"),
            nn.Sum(
                nn.ImageResize((3, 3)),
                nn.Sequential(nn.LocalAvgPool((2, 2)), nn.ImageResize((3, 3), "nearest"), relu, conv((1, 1))),
            ),
            relu,
            nn.Flatten(),
        ],
    ),
    "resized volumes": (
        (3, 3, 2),
        (2, 3, 1),
        [
            conv((2, 1, 1), padding="VALID"),
            nn.Product(nn.ImageResize((2, 2, 2), "nearest"), nn.Sequential(conv((1, 1, 1)), nn.ImageResize((2, 2, 2)))),
            nn.AvgPool((1, 2, 1), 1),
            nn.Flatten(),
        ],
    ),
}
NETWORKS = {name: (large, small, nn.Sequential(*layers)) for name, (large, small, layers) in NETWORKS.items()}


def quickly(fn, *args):
    """fn(*args), by a program that is compiled in half the time."""
    return laws.quickly(fn)(*args)


def on_its_own(net, large, small):
    """What a smaller image makes of the kernel: the padded shape is the fan-in of `Flatten`."""
    sizes = [net.shape((1, *size, 2))[-1] for size in (small, large)]
    return sizes[0] / sizes[1] if isinstance(net[-1], nn.Flatten) else 1.0


@pytest.mark.parametrize("name", ["images", "volumes", "resized images", "resized volumes"])
def test_masked_is_truncated(name, x64):
    large, small, net = NETWORKS[name]
    images = several(large, small, small)
    masked = garbled(ntkit.pad(images))
    got = quickly(ntkit.Both(net), masked[:2], masked)
    want = quickly(ntkit.Both(net), *(jnp.asarray(image[None]) for image in images[1:]))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g[1, 2], w[0, 0] * on_its_own(net, large, small), rtol=1e-10)
        np.testing.assert_allclose(g[0, 1], g[1, 0], rtol=1e-10)


@pytest.mark.parametrize("name", ["signals", "transposed", "resized signals"])
def test_the_diagonal_of_masked_is_that_of_truncated(name, x64):
    large, small, net = NETWORKS[name]
    images = several(small, large)
    got = quickly(ntkit.Both(net).diagonal, garbled(ntkit.pad(images)))
    want = quickly(ntkit.Both(net).diagonal, jnp.asarray(images[0][None]))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g[0], w[0] * on_its_own(net, large, small), rtol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_finite_network_reads_masked_as_truncated(name, x64):
    large, small, net = NETWORKS[name]
    images = [jnp.asarray(image) for image in several(small, large)]
    masked = jax.tree.map(jnp.asarray, garbled(ntkit.pad(images)))
    struct = jax.eval_shape(lambda key: net.init(key, masked.shape), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(RNG.standard_normal(leaf.shape)), struct)
    got = quickly(net.apply, params, masked)[0]
    want = quickly(net.apply, _cut(net, params, (1, *small, 2)), images[0][None])[0]
    if isinstance(net[-1], nn.Flatten):
        there = net[:-1].exists(masked.shape, np.asarray(masked.mask))[0]
        got = got.reshape(*there.shape, -1)
        np.testing.assert_array_equal(got[~there], 0)
        got = got[there].ravel()
    np.testing.assert_allclose(got, want, rtol=1e-12)


def _cut(net, params, shape):
    """The parameters for a smaller image: `LocalConv` has some for each pixel."""
    own = []
    for layer, mine in zip(net.layers, params, strict=True):
        shape = layer.shape(shape)
        box = tuple(slice(n) for n in shape[1:-1])
        own.append({k: leaf[box] for k, leaf in mine.items()} if isinstance(layer, nn.LocalConv) else mine)
    return tuple(own)


# Every activation


EVERY = [nn.activation(name) for name in activation_names()]
SERIES = [phi for phi in EVERY if isinstance(phi, Tabulated)]
CLOSED = [phi for phi in EVERY if phi not in SERIES]


def of_rows(images, phis, *ends):
    """Both kernels of a network of `Masked` signals; and of their patches as rows, behind the activations."""
    # No bias: a missing pixel is a zero row, but behind some activations not zero: cos(0) = 1.
    net = nn.Sequential(nn.Conv(4, (3,), 1.2), nn.Concat(*phis), *ends)
    rows = nn.Sequential(nn.Dense(4, 1.2), nn.Concat(*phis))
    around = [np.pad(image, ((1, 1), (0, 0))) for image in images]
    patches = [np.concatenate([x[:-2], x[1:-1], x[2:]], 1) for x in around]
    return ntkit.Both(net), garbled(ntkit.pad(images), 1e3), ntkit.Both(rows), jnp.asarray(np.concatenate(patches))


def test_pooling_reads_the_pixels_that_exist(x64):
    # Here images of two sizes meet, too. Sign first: peers' pooling of it was wrong without masks already.
    sizes = (3, 2, 4)
    images = several(*[(n,) for n in sizes])
    kernel, masked, of, rows = of_rows(images, [nn.Sign(), nn.Cos(), relu], nn.LocalAvgPool((3,)), nn.GlobalAvgPool())
    # The mean over all windows of three pixels, of which the outer ones have but two.
    shares = [np.convolve(np.ones(n), np.ones(3))[1:-1] / (3 * n) for n in sizes]
    for got, hidden in zip(quickly(kernel, masked[2:], masked[:2]), quickly(of, rows[5:], rows[:5]), strict=True):
        want = [[shares[2] @ hidden[:, :3] @ shares[0], shares[2] @ hidden[:, 3:] @ shares[1]]]
        np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize("phis", [CLOSED, pytest.param(SERIES, marks=pytest.mark.slow)], ids=["closed forms", "series"])
def test_every_activation_is_read_where_pixels_exist(phis, x64):
    images = several((3,), (2,), (4,))
    kernel, masked, of, rows = of_rows(images, phis, nn.Flatten())
    for got, all_rows in zip(quickly(kernel.diagonal, masked), quickly(of.diagonal, rows), strict=True):
        want = [all_rows[a:b].sum() / 4 for a, b in ((0, 3), (3, 5), (5, 9))]
        np.testing.assert_allclose(got, want, rtol=1e-10)


# What is and is not a mask


def small_net(*layers, end=None):
    return nn.Sequential(nn.Conv(4, (2,), 1.2, 0.1), *layers, nn.GlobalAvgPool() if end is None else end)


def test_gradients_are_finite_and_zero_at_missing_pixels(x64):
    # A zero image, an image, its copy, its antipode, and all missing pixels are zero rows.
    one, other = several((2,), (3,))
    masked = jax.tree.map(jnp.asarray, garbled(ntkit.pad([0 * one, one, one, -one, other])))

    def total(x):
        images = ntkit.Masked(x, masked.mask)
        return jnp.sum(jnp.cos(ntkit.NTK(small_net(relu))(images, images)))

    slope = np.asarray(quickly(jax.grad(total), masked.x))
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[~np.asarray(masked.mask)], 0)
    assert (slope[np.asarray(masked.mask)] != 0).mean() > 0.5


def test_masks_that_hide_nothing_cost_nothing(x64):
    x = RNG.standard_normal((3, 4, 2))
    kernel, everything = ntkit.NTK(small_net(end=nn.Flatten())), np.ones((3, 4), bool)
    np.testing.assert_array_equal(kernel(ntkit.Masked(x, everything)), kernel(x))
    circular = ntkit.NTK(nn.Sequential(nn.Conv(4, (3,), padding="CIRCULAR"), nn.Flatten()))
    np.testing.assert_array_equal(circular.diagonal(ntkit.Masked(x, everything)), circular.diagonal(x))


def test_one_side_may_be_an_array(x64):
    x, masked = RNG.standard_normal((2, 4, 2)), garbled(ntkit.pad(several((3,), (4,), (2,))))
    kernel = ntkit.NTK(small_net(end=nn.Flatten()))
    both = kernel(ntkit.Masked(np.concatenate([x, masked.x]), np.concatenate([np.ones((2, 4), bool), masked.mask])))
    np.testing.assert_allclose(kernel(x, masked), both[:2, 2:], rtol=1e-14)
    np.testing.assert_allclose(kernel(masked, x), both[2:, :2], rtol=1e-14)


def test_gram_of_masked_images_knows_the_mask(tmp_path):
    images = [image.astype(np.float32) for image in several((3,), (4,), (2,))]
    masked = garbled(ntkit.pad(images))
    kernel, path = ntkit.Both(small_net(end=nn.Flatten())), tmp_path / "k.zarr"
    got = ntkit.gram(kernel, masked, tile=2, progress=False, out=path)
    for leaf, want in zip(got, kernel(masked), strict=True):
        np.testing.assert_allclose(leaf[:], want, rtol=1e-6)
    with pytest.raises(ntkit.InputError, match="x1"):  # another job
        ntkit.gram(kernel, ntkit.Masked(masked.filled(), masked.mask[::-1]), tile=2, progress=False, out=path)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((0, 1),), ((2, 0),), ((1, 1),), ((3, 4),)])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_outputs_exist_as_those_of_the_truncated_image_do(padding, strides, dilation):
    each = padding if isinstance(padding, str) else padding[0]
    whole = Window.of("test", 9, 3, strides, dilation, each)
    for n in range(5, 10):
        mask = np.arange(9) < n
        left = behind_windows("test", mask, [whole])
        want = np.arange(whole.size) < Window.of("test", n, 3, strides, dilation, each).size
        np.testing.assert_array_equal(left, want)
        np.testing.assert_array_equal(behind_windows("test", jnp.asarray(mask)[None], [whole])[0], want)


def test_a_pixel_exists_behind_branches_if_it_does_in_all_of_them():
    # The sizes 6 and 4 suit both, 5 does not.
    net = nn.Sum(conv((2,), strides=2), conv((2,), strides=2, padding="VALID"))
    masked = jax.tree.map(jnp.asarray, ntkit.pad([np.ones((n, 2), np.float32) for n in (6, 5, 4)]))
    want = [[True, True, True], [True, True, False], [True, True, False]]
    np.testing.assert_array_equal(net.exists(masked.shape, masked.mask), want)
    np.testing.assert_array_equal(net.apply(net.init(jax.random.key(0), masked.shape), masked).mask, want)


IMAGES = np.zeros((2, 3, 4, 2), np.float32)


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.ones((2, 3, 4)), "must be boolean, .* has dtype float64"),
        (np.ones((2, 3, 4, 2), bool), r"the shape of `x` without channels, \(2, 3, 4\), but has \(2, 3, 4, 2"),
        (np.ones((2, 4, 3), bool), r"\(2, 4, 3\)"),
        (None, "needs two arrays"),
    ],
)
def test_masks_of_a_wrong_shape_or_type_are_refused(mask, message, unchecked):
    with pytest.raises(ntkit.InputError, match=message):
        ntkit.Masked(IMAGES, mask)


@pytest.mark.parametrize(
    "layer, sizes, message",
    [
        (nn.Conv(2, (3,), padding="VALID"), [(4,), (2,)], "Image 1 of `x1?` has no pixels behind `Conv`"),
        (nn.AvgPool((3,)), [(2,), (3,)], "Image 0 of `x1?` has no pixels behind `AvgPool`"),
        (nn.Conv(2, (3,), padding="CIRCULAR"), [(2,), (3,)], '`Conv` has `padding="CIRCULAR"`'),
    ],
)
def test_layers_refuse_images_that_are_too_small_and_circles(layer, sizes, message):
    masked = jax.tree.map(jnp.asarray, ntkit.pad([image.astype(np.float32) for image in several(*sizes)]))
    net = nn.Sequential(layer, nn.Flatten())
    for call in (ntkit.NTK(net), ntkit.NTK(net).diagonal, lambda x: ntkit.gram(ntkit.NTK(net), x)):
        with pytest.raises(ntkit.InputError, match=message):
            call(masked)
    with pytest.raises(ntkit.InputError, match=message.replace(" of `x1?`", "")):
        net.apply(net.init(jax.random.key(0), masked.shape), masked)


def test_images_without_pixels_and_rows_are_refused():
    masked = ntkit.Masked(IMAGES, np.arange(2)[:, None, None] < np.ones((2, 3, 4)))
    kernel = ntkit.NTK(nn.Sequential(nn.Flatten()))
    with pytest.raises(ntkit.InputError, match="Image 1 of `x` has no pixels: its mask"):
        kernel.diagonal(masked)
    with pytest.raises(ntkit.InputError, match="`x` is `Masked` and must have shape"):
        kernel.diagonal(ntkit.Masked(IMAGES[0, 0], np.arange(4) < 3))
    with pytest.raises(ntkit.InputError, match="Image 1 of `x` has no pixels"):
        ntkit.posterior(kernel, masked, np.zeros(2), noise=0.1)
    bad = IMAGES.copy()
    bad[0, 0, 0, 0] = np.nan
    with pytest.raises(ntkit.InputError, match=r"x1?\[0, 0, 0, 0\]` is nan"):
        kernel.diagonal(ntkit.Masked(bad, np.arange(4) < np.full((2, 3, 4), 3)))


@pytest.mark.parametrize(
    "images, size, message",
    [
        ([], None, "at least one image"),
        ([IMAGES[0], IMAGES[0, 0]], None, "equally many axes"),
        ([IMAGES[0], IMAGES[0, ..., :1]], None, "equally many axes"),
        ([IMAGES[0], IMAGES[0, :0]], None, r"`images\[1\]` has no pixels"),
        ([IMAGES[0]], (3, 3), r"at least \(3, 4\)"),
        ([IMAGES[0]], (3,), "must be 2 numbers"),
    ],
)
def test_pad_refuses(images, size, message):
    with pytest.raises(ntkit.InputError, match=message):
        ntkit.pad(images, size)


def test_pad_puts_images_into_the_corner():
    masked = ntkit.pad([IMAGES[0, :2] + 1, IMAGES[0] + 1], (4, 4))
    assert (masked.shape, masked.dtype, len(masked)) == ((2, 4, 4, 2), np.float32, 2)
    np.testing.assert_array_equal(masked.mask[0], np.arange(4)[:, None] < np.full((4, 4), 2))
    np.testing.assert_array_equal(masked.x[..., 0], masked.mask)
    np.testing.assert_array_equal(masked[1:].x, masked.x[1:])


def test_every_layer_is_in_a_test_of_masks():
    layers = {type(leaf) for _, _, net in NETWORKS.values() for leaf in _all_layers(net)}
    layers |= {type(phi) for phi in EVERY}
    exported = {getattr(nn, name) for name in nn.__all__}
    known = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, nn.Layer)}
    of_functions = {nn.Layer, nn.Nonlinearity, nn.Dual, nn.Affine, nn.Activation}
    # It has its tests in `test_batch`: its images share their means.
    assert known - of_functions - layers == {nn.BatchNorm}


def test_layers_that_take_no_masks_say_so():
    class Unaware(nn.Identity):
        elementwise = False

    net = nn.Sequential(nn.Conv(8, (3, 3)), Unaware(), nn.GlobalAvgPool())
    with pytest.raises(InputError, match="`Unaware` takes no masks"):
        ntkit.NTK(net)(ntkit.pad([IMAGES[0, :2] + 1, IMAGES[0] + 1], (4, 4)))


def test_one_pixel_of_masked_images(x64):
    images = several((3, 4), (2, 2))
    net = nn.Sequential(conv((2, 2)), relu, nn.Index((1, 1)))
    got, want = (ntkit.NTK(net)(x) for x in (garbled(ntkit.pad(images)), jnp.asarray(images[1][None])))
    np.testing.assert_allclose(got[1, 1], want[0, 0], rtol=1e-10)


@pytest.mark.parametrize(
    "idx, message",
    [
        ((2, 0), r"picks pixel \(2, 0\), which image 1 does not have"),
        ((-1, 0), "`-1`, which counts from the end of the padded image"),
        (np.s_[:-1, :], "counts from the end of the padded image"),
        (np.s_[::-1, :], "counts from the end of the padded image"),
        (np.s_[2, :], "Image 1 of .* has no pixels behind `Index`"),
    ],
)
def test_parts_that_masked_images_do_not_have_are_refused(idx, message):
    layer = nn.Index(idx)
    ends = () if all(isinstance(i, int) for i in idx) else (nn.GlobalAvgPool(),)
    with pytest.raises(InputError, match=message):
        ntkit.NTK(nn.Sequential(nn.Conv(8, (3, 3)), layer, *ends))(ntkit.pad(several((3, 4), (2, 2))))


def _all_layers(net):
    yield net
    for child in getattr(net, "layers", getattr(net, "branches", ())):
        yield from _all_layers(child)


def test_one_axis_may_be_padded_to_a_number():
    padded = ntkit.pad([np.ones((3, 2)), np.ones((5, 2))], size=8)
    assert padded.mask.sum(1).tolist() == [3, 5]
    assert padded.mask.shape == (2, 8)
