"""Architectures by name."""

import math
from typing import Literal

from ntkit.errors import InputError
from ntkit.nn._law import Scalar
from ntkit.nn._layer import Layer
from ntkit.nn.activations import Identity, Nonlinearity, Relu
from ntkit.nn.combinators import Sequential, Sum
from ntkit.nn.conv import Conv
from ntkit.nn.dense import Dense
from ntkit.nn.pooling import AvgPool, Flatten, GlobalAvgPool, LocalAvgPool
from ntkit.nn.weights import Law, Parameterization


def mlp(
    depth: int,
    width: int,
    activation: Nonlinearity,
    *,
    beta: Scalar | None = None,
    w_std: Scalar | None = None,
    b_std: Scalar | None = None,
    outputs: int = 1,
    parameterization: Parameterization = "ntk",
    init: Law = "normal",
    fixed_layers: int = 0,
) -> Sequential:
    """A fully connected network with `depth` hidden layers and a linear readout, all with the same `w_std` and `b_std`.

    `beta` in [0, 1] sets Jacot's balance w_std = sqrt(1 - beta^2), b_std = beta; it excludes `w_std` and `b_std`, whose
    defaults are 1 and 0. The first `fixed_layers` of the depth + 1 dense layers are frozen.
    """
    if not isinstance(depth, int) or depth < 0:
        raise InputError(f"`depth` of `mlp` counts the hidden layers and must be a whole number >= 0; got {depth!r}.")
    if not 0 <= fixed_layers <= depth:
        raise InputError(f"`fixed_layers` must lie between 0 and depth = {depth}; got {fixed_layers!r}.")
    if not isinstance(activation, Nonlinearity):
        hint = (
            " Create it first: add parentheses."
            if isinstance(activation, type)
            else " Wrap a function in `nn.Activation(fn)`."
        )
        raise InputError(f"`activation` of `mlp` must be an activation such as `nn.Relu()`; got {activation!r}.{hint}")
    if beta is not None:
        if w_std is not None or b_std is not None:
            raise InputError("`beta` sets `w_std` and `b_std`: give either `beta`, or these two.")
        if isinstance(beta, (int, float)) and not 0 <= beta <= 1:
            raise InputError(f"`beta` of `mlp` must lie in [0, 1]; got {beta!r}.")
        w_std, b_std = (math.sqrt(1 - beta**2) if isinstance(beta, (int, float)) else (1 - beta * beta) ** 0.5), beta
    w_std, b_std = (1.0 if w_std is None else w_std), (0.0 if b_std is None else b_std)

    def dense(position: int, size: int) -> Dense:
        return Dense(
            size, w_std, b_std, trainable=position >= fixed_layers, parameterization=parameterization, init=init
        )

    hidden = [layer for i in range(depth) for layer in (dense(i, width), activation)]
    return Sequential(*hidden, dense(depth, outputs))


HE = math.sqrt(2.0)
"""The weights that keep the variance of a ReLU network."""

# Convolutions per stage (Shankar et al. 2020, figure 2; Simonyan and Zisserman 2015; He et al. 2016).
_MYRTLE = {5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}
_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_RESNET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def myrtle(
    depth: int,
    width: int = 64,
    activation: Nonlinearity | None = None,
    *,
    w_std: Scalar = HE,
    b_std: Scalar = 0.0,
    outputs: int = 10,
) -> Sequential:
    """The Myrtle networks of 5, 7 or 10 layers (Shankar et al. 2020): 3 x 3 convolutions in three stages, each followed
    by 2 x 2 average pooling; the last pooling goes on until one pixel is left, as over all of it. For images whose
    sides are multiples of 8 or more, such as 32 x 32."""
    stages = _known("myrtle", depth, _MYRTLE)
    phi = Relu() if activation is None else activation
    layers: list[Layer] = []
    for position, count in enumerate(stages):
        layers += [layer for _ in range(count) for layer in (Conv(width, (3, 3), w_std, b_std), phi)]
        layers.append(AvgPool((2, 2)) if position < 2 else GlobalAvgPool())
    return Sequential(*layers, Dense(outputs, w_std, b_std))


def vgg(
    depth: int,
    width: int = 64,
    activation: Nonlinearity | None = None,
    *,
    w_std: Scalar = HE,
    b_std: Scalar = 0.0,
    outputs: int = 10,
) -> Sequential:
    """The convolutions of VGG 11, 13, 16 or 19 with average pooling in place of the maximum, which has no infinite
    reading, and one dense layer: depth - 2 layers of weights. For images whose sides are multiples of 32."""
    stages = _known("vgg", depth, _VGG)
    phi = Relu() if activation is None else activation
    layers: list[Layer] = []
    for position, count in enumerate(stages):
        wide = width * min(2**position, 8)
        layers += [layer for _ in range(count) for layer in (Conv(wide, (3, 3), w_std, b_std), phi)]
        layers.append(AvgPool((2, 2)))
    return Sequential(*layers, Flatten(), Dense(outputs, w_std, b_std))


def resnet(
    depth: int,
    width: int = 64,
    activation: Nonlinearity | None = None,
    *,
    w_std: Scalar = HE,
    b_std: Scalar = 0.0,
    outputs: int = 10,
) -> Sequential:
    """The residual networks of 18 or 34 layers for small images, without batch normalisation.

    Pre-activation blocks of two 3 x 3 convolutions; the first block of each later stage has stride 2 and a 1 x 1
    convolution beside it. In front one 3 x 3 convolution of stride 1, behind global average pooling.
    """
    stages = _known("resnet", depth, _RESNET)
    phi = Relu() if activation is None else activation
    layers: list[Layer] = [Conv(width, (3, 3), w_std, b_std)]
    for position, count in enumerate(stages):
        wide = width * 2**position
        for block in range(count):
            strides = 2 if position and not block else 1
            branch = Sequential(
                phi, Conv(wide, (3, 3), w_std, b_std, strides=strides), phi, Conv(wide, (3, 3), w_std, b_std)
            )
            beside = Identity() if strides == 1 else Conv(wide, (1, 1), w_std, b_std, strides=2)
            layers.append(Sum(beside, branch))
    return Sequential(*layers, phi, GlobalAvgPool(), Dense(outputs, w_std, b_std))


def cntk(
    depth: int,
    width: int = 64,
    activation: Nonlinearity | None = None,
    *,
    pooling: Literal["flatten", "global", "local"] = "flatten",
    window: int = 11,
    w_std: Scalar = HE,
    b_std: Scalar = 0.0,
    first_w_std: Scalar | None = 1.0,
    fixed_ends: bool = False,
    outputs: int = 10,
) -> Sequential:
    """The plain convolutional network of Arora et al. 2019: depth - 1 convolutions of 3 x 3 with SAME padding, each
    followed by the activation, and a dense layer behind `pooling`.

    `pooling`: "flatten" (CNTK-V), "global" (CNTK-GAP), or "local": averages over overlapping windows of `window`
    pixels a side (Li et al. 2019, whose best c = 5 is 11 pixels), then flattened. `first_w_std`: of the first
    convolution, which Arora et al. do not scale; None takes `w_std`. `fixed_ends` freezes the first and the last layer.
    The dense layer has w_std = 1 and no bias, as theirs.
    """
    if not isinstance(depth, int) or depth < 2:
        raise InputError(f"`depth` of `cntk` counts the layers with weights and must be at least 2; got {depth!r}.")
    if pooling not in ("flatten", "global", "local"):
        raise InputError(f'`pooling` of `cntk` must be "flatten", "global" or "local"; got {pooling!r}.')
    phi = Relu() if activation is None else activation
    first = Conv(width, (3, 3), w_std if first_w_std is None else first_w_std, b_std, trainable=not fixed_ends)
    rest = [layer for _ in range(depth - 2) for layer in (Conv(width, (3, 3), w_std, b_std), phi)]
    ends = {
        "flatten": [Flatten()],
        "global": [GlobalAvgPool()],
        "local": [LocalAvgPool((window, window)), Flatten()],
    }
    return Sequential(first, phi, *rest, *ends[pooling], Dense(outputs, trainable=not fixed_ends))


def _known(name: str, depth: int, stages: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    if depth not in stages:
        raise InputError(f"`depth` of `{name}` must be one of {', '.join(map(str, stages))}; got {depth!r}.")
    return stages[depth]
