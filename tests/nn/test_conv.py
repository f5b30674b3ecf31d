"""Convolutions: the finite reading against `jax.lax` and loops, the infinite one against Monte Carlo and identities."""

import itertools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
from jax import lax

import ntkit
from ntkit import nn

RNG = np.random.default_rng(5)
IMAGES = RNG.standard_normal((3, 4, 5, 2))
SIGNALS = RNG.standard_normal((3, 6, 2))
relu, pooled, flat = nn.Relu(), nn.GlobalAvgPool(), nn.Flatten()


def drawn(layer, x):
    params = layer.init(jax.random.key(0), x.shape)
    return params, np.asarray(layer.apply(params, x))


# The finite reading


@pytest.mark.parametrize(
    "filter_shape, strides, padding, dilation, groups, size",
    [
        ((3, 3), 1, "SAME", 1, 1, (4, 5)),
        ((3, 2), (2, 1), "SAME", 1, 2, (2, 5)),
        ((2, 3), 1, "VALID", 1, 1, (3, 3)),
        ((2, 2), 2, "VALID", (3, 1), 1, (1, 2)),
        ((3, 3), 1, ((2, 0), (1, 3)), 1, 1, (4, 7)),
        ((3, 2), (1, 2), ((0, 2), (1, 0)), 2, 2, (2, 2)),
    ],
)
def test_a_convolution_is_that_of_jax(filter_shape, strides, padding, dilation, groups, size, x64):
    layer = nn.Conv(4, filter_shape, 1.3, 0.4, strides=strides, padding=padding, dilation=dilation, groups=groups)
    x = jnp.asarray(IMAGES)
    params, z = drawn(layer, x)
    pads = padding if isinstance(padding, str) else list(padding)
    want = lax.conv_general_dilated(
        x,
        params["w"],
        layer.strides,
        pads,
        rhs_dilation=layer.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    fan_in = np.prod(filter_shape) * 2 / groups
    assert params["w"].shape == (*filter_shape, 2 // groups, 4)
    assert z.shape == layer.shape(x.shape) == (3, *size, 4)
    np.testing.assert_allclose(
        z, 1.3 / np.sqrt(fan_in) * np.asarray(want) + 0.4 * np.asarray(params["b"]), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("strides, taps", [(1, 3), (2, 3), (1, 4), (2, 2)])
def test_a_circular_convolution_goes_around(strides, taps, x64):
    layer = nn.Conv(3, (taps,), strides=strides, padding="CIRCULAR")
    x = jnp.asarray(SIGNALS)
    params, z = drawn(layer, x)
    w = np.asarray(params["w"]) / np.sqrt(2 * taps)
    outputs = 6 // strides
    before = max((outputs - 1) * strides + taps - 6, 0) // 2
    want = np.zeros((3, outputs, 3))
    for o, f in itertools.product(range(outputs), range(taps)):
        want[:, o] += SIGNALS[:, (strides * o + f - before) % 6] @ w[f]
    np.testing.assert_allclose(z, want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("taps, strides", [((3, 3), 2), ((2, 3), (3, 1)), ((1, 4), (2, 3)), ((3, 2), 1)])
def test_a_transposed_convolution_is_that_of_jax(padding, taps, strides, x64):
    layer = nn.ConvTranspose(4, taps, strides=strides, padding=padding)
    x = jnp.asarray(IMAGES)
    params, z = drawn(layer, x)
    want = lax.conv_transpose(x, params["w"], layer.strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert z.shape == layer.shape(x.shape) == want.shape
    np.testing.assert_allclose(z, np.asarray(want) / np.sqrt(2 * np.prod(taps)), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "padding, strides, before",
    [("SAME", 1, (1, 1)), ("VALID", 2, (0, 0)), (((2, 0), (0, 1)), (1, 2), (2, 0)), ("CIRCULAR", 1, (1, 1))],
)
def test_a_local_convolution_is_a_loop(padding, strides, before, x64):
    layer = nn.LocalConv(4, (3, 3), 1.2, 0.3, strides=strides, padding=padding)
    x = jnp.asarray(IMAGES)
    params, z = drawn(layer, x)
    size = layer.shape(x.shape)[1:3]
    # The taps of the last axis come first.
    w, b = np.asarray(params["w"]).reshape(*size, 3, 3, 2, 4).swapaxes(2, 3), np.asarray(params["b"])
    want = np.broadcast_to(0.3 * b, (3, *size, 4)).copy()
    for oy, ox, fy, fx in itertools.product(*map(range, (*size, 3, 3))):
        row, column = (s * o + f - p for s, o, f, p in zip(layer.strides, (oy, ox), (fy, fx), before, strict=True))
        if padding == "CIRCULAR":
            row, column = row % 4, column % 5
        if 0 <= row < 4 and 0 <= column < 5:
            want[:, oy, ox] += 1.2 / np.sqrt(18) * IMAGES[:, row, column] @ w[oy, ox, fy, fx]
    np.testing.assert_allclose(z, want, rtol=1e-13, atol=1e-13)


# The infinite reading by identities


def behind(layer, x1, x2):
    """The kernels of a network with a nonlinearity behind a layer."""
    net = nn.Sequential(layer, relu, pooled, nn.Dense(1))
    return np.asarray(ntkit.kernels(net, jnp.asarray(x1), jnp.asarray(x2)))


@pytest.mark.parametrize(
    "layer, x_of",
    [
        ({"padding": ((2, 1), (0, 3))}, lambda x: np.pad(x, ((0, 0), (2, 1), (0, 3), (0, 0)))),
        ({"padding": "SAME"}, lambda x: np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))),
        ({"padding": "CIRCULAR"}, lambda x: np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")),
        ({"padding": "SAME", "strides": (1, 2)}, lambda x: np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))),
    ],
    ids=["explicit", "same", "circular", "strides"],
)
def test_padding_is_the_kernel_of_padded_images(layer, x_of, x64):
    x1, x2 = IMAGES[:2], IMAGES[1:]
    got = behind(nn.Conv(8, (3, 3), 1.3, 0.2, **layer), x1, x2)
    plain = nn.Conv(8, (3, 3), 1.3, 0.2, strides=layer.get("strides", 1), padding="VALID")
    np.testing.assert_allclose(got, behind(plain, x_of(x1), x_of(x2)), rtol=1e-11)


def test_a_transposed_convolution_is_the_kernel_of_spread_images(x64):
    def spread(x):
        out = np.zeros((len(x), 9, 11, 2))  # VALID puts taps - 1 zeros around: here 2, of which 1 with SAME before
        out[:, 1:8:2, 1:10:2] = x
        return out

    x1, x2 = IMAGES[:2], IMAGES[1:]
    plain = behind(nn.Conv(8, (2, 2), 1.3, 0.2, padding="VALID"), spread(x1), spread(x2))
    got = behind(nn.ConvTranspose(8, (2, 2), 1.3, 0.2, strides=2), x1, x2)
    np.testing.assert_allclose(got, plain, rtol=1e-11)


@pytest.mark.parametrize(
    "layer, sources",
    [
        (nn.Conv(4, (2,), 1.1, padding=((1, 2),)), lambda o, f: o + f - 1),
        (nn.Conv(4, (1,), 1.1, padding=((0, 2),)), lambda o, f: o),
        (nn.ConvTranspose(4, (3,), 1.1, padding="VALID"), lambda o, f: o + f - 2),
    ],
)
def test_outputs_longer_than_the_image_read_zeros_beyond_it(layer, sources, x64):
    # Behind a layer with a bias what is stored beyond the image is no zero: there it was read.
    x = jnp.asarray(SIGNALS)
    inner = 0.5**2 * np.einsum("ipc,jqc->ipjq", SIGNALS, SIGNALS) / 2 + 0.3**2
    taps, n, longer = layer.filter_shape[0], 6, layer.shape((1, 6, 4))[1]
    want = np.zeros((3, 3))
    for o, p, f in itertools.product(range(longer), range(longer), range(taps)):
        a, b = sources(o, f), sources(p, f)
        if 0 <= a < n and 0 <= b < n:
            want += 1.1**2 / taps * inner[:, a, :, b]
    net = nn.Sequential(nn.Conv(4, (1,), 0.5, 0.3), layer, nn.GlobalSumPool())
    np.testing.assert_allclose(ntkit.NNGP(net)(x), want, rtol=1e-12)


# The infinite reading against finite networks. One nonlinearity: exact at any width, see tests/laws.py.


def conv(width, filter_shape=(3, 3), b_std=0.3, **kwargs):
    return nn.Conv(width, filter_shape, 1.3, b_std, **kwargs)


STANDARD = {"parameterization": "standard"}

LIMITS = {
    "dilation, groups, explicit padding": [
        conv(16, (2, 3), dilation=(2, 1), padding=((1, 2), (0, 1))),
        relu,
        conv(8, (2, 2), dilation=2, groups=4, padding=((1, 0), (0, 2))),
        pooled,
    ],
    "transposed": [
        nn.ConvTranspose(16, (3, 3), 1.3, 0.3, strides=2),
        relu,
        nn.ConvTranspose(4, (2, 3), 1.3, 0.3, strides=(1, 2), padding="VALID"),
        pooled,
    ],
    "local": [nn.LocalConv(16, (3, 3), 1.3, 0.3), relu, pooled],
    "standard, groups": [conv(16, **STANDARD), relu, conv(8, (2, 2), groups=4, **STANDARD), pooled],
    "standard, frozen": [conv(16, trainable=False, **STANDARD), relu, conv(8, b_std=0.0, **STANDARD), flat],
    "residual, sum of branches": [
        conv(8),
        nn.Residual(nn.Sequential(relu, conv(8))),
        nn.Sum(conv(8, (1, 1), strides=(2, 1)), conv(8, strides=(2, 1))),
        pooled,
    ],
    "dropout": [conv(32), relu, nn.Dropout(0.3), conv(8), pooled],
}


@pytest.mark.parametrize("name", LIMITS)
def test_kernels_are_the_means_of_finite_networks(name):
    readout = nn.Dense(4, 1.1, 0.2, **(STANDARD if "standard" in name else {}))
    net = nn.Sequential(*LIMITS[name], readout)
    laws.is_limit_of_finite(net, IMAGES, 2000, dropout=name == "dropout")


def test_kernels_of_signals_are_the_means_of_finite_networks():
    net = nn.Sequential(conv(16, (3,), strides=2), relu, conv(8, (3,), padding="CIRCULAR"), pooled, nn.Dense(4))
    laws.is_limit_of_finite(net, SIGNALS, 2000)


def test_a_shifted_series_can_be_traced_between_pixels():
    # Beside numbers, its tables give each pixel rows: what is laid out together must be of one shape.
    net = nn.Sequential(conv(8, (3,)), nn.Tanh().normalized(), pooled, nn.Dense(4))
    assert jax.eval_shape(ntkit.NTK(net), SIGNALS).shape == (len(SIGNALS),) * 2


def test_a_normalised_series_between_pixels_is_that_of_the_shifted_function(x64):
    phi = nn.Softplus().normalized()
    around = lambda phi: ntkit.NTK(nn.Sequential(conv(8, (3,)), phi, pooled, nn.Dense(4)))(SIGNALS)  # noqa: E731
    np.testing.assert_allclose(around(phi), around(nn.Activation(phi.fn)), rtol=1e-8)


def test_groups_on_the_raw_channels_are_refused():
    # There each group reads some of the finitely many channels, and the channels behind have different laws.
    with pytest.raises(ntkit.InputError, match=r"`groups` of `Conv`.*raw input.*groups=1"):
        ntkit.NTK(nn.Sequential(conv(8, groups=2), relu, pooled, nn.Dense(1)))
