"""Images and layers of images that cannot be: refused by name and with the way out."""

import numpy as np
import pytest

import ntkit
from ntkit import InputError, nn

pytestmark = pytest.mark.usefixtures("unchecked")

X = np.ones((2, 4, 5, 2), np.float32)
CONV, RELU, FLAT, POOL, DENSE = nn.Conv(8, (3, 3)), nn.Relu(), nn.Flatten(), nn.GlobalAvgPool(), nn.Dense(1)

REFUSED = {
    "too small": ((nn.Conv(8, (5, 5), padding="VALID"), RELU, FLAT), X, 'covers 5 pixels.*only 4.*padding="SAME"'),
    "no channels": ((CONV, RELU, FLAT), X[..., 0], r"`Conv`.*\(n, height, width, channels\).*`x\[\.\.\., None\]`"),
    "rows": ((CONV, RELU, FLAT), X[:, 0, 0], "`Conv`.*Rows have no pixels: reshape them"),
    "rows, flattened": ((FLAT,), X[:, 0, 0], "`Flatten` needs images"),
    "images, dense": ((DENSE, RELU), X, r"shape \(n, features\).*Flatten them first.*`nn\.Flatten\(\)`"),
    "window": (
        (CONV, nn.AvgPool((2, 2)), FLAT),
        X,
        '`AvgPool` do not cover an axis of 5.*Crop the image.*"SAME"',
    ),
    "global twice": ((CONV, POOL, POOL), X, "`GlobalAvgPool` needs images.*no pixels left"),
    "conv behind the exit": ((CONV, POOL, CONV), X, "`Conv`.*before `Flatten` or global pooling"),
    "resized rows": ((CONV, POOL, nn.ImageResize((2, 2)), FLAT), X, "`ImageResize`.*Rows have no pixels"),
    "resized along one axis": ((CONV, nn.ImageResize((2,)), FLAT), X, "`ImageResize` here needs inputs of shape"),
    "pixel": ((CONV, nn.Index((1, 5))), X, "`Index` picks pixel 5 of spatial axis 1, which has only 5"),
    "no pixel": (
        (CONV, nn.Index(np.s_[4:, :]), FLAT),
        X,
        "`Index` picks no pixel of spatial axis 0: .*4, None, None.* of 4 is",
    ),
    "too few axes": ((CONV, nn.Index(1), FLAT), X, "`Index` names 1 axes.*Write `:`.*cannot be indexed"),
    "channel": ((CONV, nn.Index(np.s_[:, :, 0]), FLAT), X, "`Index` names 3 axes.*channels cannot be indexed"),
    "channels in groups": (
        (nn.Conv(6, (3, 3)), RELU, nn.Conv(8, (3, 3), groups=4), FLAT),
        X,
        "`groups`.*6 channels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_images_that_do_not_fit_are_refused(name):
    layers, x, message = REFUSED[name]
    kernel = ntkit.NTK(nn.Sequential(*layers, DENSE))
    with pytest.raises(InputError, match=message):
        kernel(x)
    with pytest.raises(InputError, match=message):
        kernel.diagonal(x)


def test_a_network_that_ends_with_pixels_is_refused():
    with pytest.raises(InputError, match=r"hands on images of shape \(4, 5, 8\).*`nn\.Flatten\(\)`"):
        ntkit.NTK(nn.Sequential(CONV, RELU))(X)


def test_images_of_two_sizes_are_refused():
    with pytest.raises(InputError, match=r"examples of one shape.*\(2, 4, 5, 2\).*\(2, 3, 5, 2\)"):
        ntkit.NTK(nn.Sequential(CONV, RELU, FLAT, DENSE))(X, X[:, :3])


@pytest.mark.parametrize(
    "layers, message",
    [
        ((CONV, FLAT, RELU), "`Relu` needs a Gaussian input.*follows `Flatten`"),
        ((CONV, RELU, RELU, FLAT), "`Relu` needs a Gaussian input.*follows `Relu`"),
        ((CONV, RELU, nn.LayerNorm(), FLAT), "`LayerNorm`.*zero mean.*`Relu`"),
    ],
)
def test_networks_without_an_infinite_reading_are_refused(layers, message):
    with pytest.raises(InputError, match=message):
        ntkit.NTK(nn.Sequential(*layers, DENSE))


@pytest.mark.parametrize("layer", [nn.Conv, nn.ConvTranspose, nn.LocalConv])
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"filter_shape": 3}, "`filter_shape`.*tuple of 1 to 3 sizes"),
        ({"filter_shape": (3, 3, 3, 3)}, "`filter_shape`.*tuple of 1 to 3 sizes"),
        ({"filter_shape": (3.0, 3)}, "`filter_shape`.*positive whole number"),
        ({"strides": "2"}, "`strides`.*positive whole number"),
        ({"strides": 0}, "`strides`.*positive whole number"),
        ({"strides": (1, 1, 1)}, "`strides`.*2 of them"),
        ({"padding": "same"}, '`padding`.*"SAME"'),
        ({"padding": 1}, "`padding`.*pairs"),
        ({"padding": ((0, -1), (0, 0))}, "`padding`.*>= 0"),
        ({"padding": ((0.5, 1), (0, 0))}, "`padding`.*pairs"),
    ],
)
def test_wrong_arguments_are_refused(layer, arguments, message):
    with pytest.raises(InputError, match=f"{message}"):
        layer(8, **{"filter_shape": (3, 3), **arguments})


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nn.Conv(8, (3, 3), groups=3), "`groups` of `Conv` must divide its width 8; got 3"),
        (lambda: nn.Conv(8, (3, 3), groups=True), "`groups`"),
        (lambda: nn.Conv(8, (3, 3), dilation=0), "`dilation` of `Conv`"),
        (lambda: nn.ConvTranspose(8, (3,), padding=((1, 1),)), '`padding` of `ConvTranspose` must be "SAME"'),
        (lambda: nn.AvgPool(2), "`window_shape` of `AvgPool`.*tuple"),
        (lambda: nn.SumPool((2, 2), 0), "`strides` of `SumPool`"),
        (lambda: nn.ImageResize(4), "`shape` of `ImageResize` must be a tuple.*Got 4"),
        (lambda: nn.ImageResize((4, 0)), "`shape` of `ImageResize` must be a positive whole number"),
        (lambda: nn.ImageResize((4, 4), "cubic"), '`method` of `ImageResize` must be "nearest" or "linear"; got'),
        (lambda: nn.Index("1"), "`idx` of `Index`.*whole numbers and slices"),
        (lambda: nn.Index((..., 1)), "`idx` of `Index`.*write `:`"),
        (lambda: nn.Index(np.s_[::0]), "`idx` of `Index`.*step other than 0"),
        (lambda: nn.Index(np.s_[0.5:]), "`idx` of `Index`.*whole numbers"),
        (lambda: nn.Index(()), "`idx` of `Index` must name 1 to 3 spatial axes"),
    ],
)
def test_wrong_arguments_of_single_layers_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
