"""Layers. Each is one object with two readings: a finite network, and its infinitely wide limit."""

from ntkit.nn import presets
from ntkit.nn._law import Covariance
from ntkit.nn._layer import Layer, Signal
from ntkit.nn.activations import (
    Abs,
    Activation,
    Affine,
    Cos,
    Dual,
    Elu,
    Erf,
    Gaussian,
    Gelu,
    Identity,
    LeakyRelu,
    Nonlinearity,
    Relu,
    Selu,
    Sigmoid,
    Sign,
    Silu,
    Sin,
    Softplus,
    Tanh,
    activation,
)
from ntkit.nn.batch import BatchNorm
from ntkit.nn.combinators import Concat, Product, Residual, Sequential, Sum
from ntkit.nn.conv import Conv, ConvTranspose, LocalConv
from ntkit.nn.dense import Dense
from ntkit.nn.normalization import Dropout, LayerNorm
from ntkit.nn.pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, LocalAvgPool, SumPool
from ntkit.nn.presets import mlp
from ntkit.nn.resizing import ImageResize, Index
from ntkit.nn.widths import with_widths

__all__ = [
    "Abs",
    "Activation",
    "Affine",
    "AvgPool",
    "BatchNorm",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Covariance",
    "Dense",
    "Dropout",
    "Dual",
    "Elu",
    "Erf",
    "Flatten",
    "Gaussian",
    "Gelu",
    "GlobalAvgPool",
    "GlobalSumPool",
    "Identity",
    "ImageResize",
    "Index",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "LocalAvgPool",
    "LocalConv",
    "Nonlinearity",
    "Product",
    "Relu",
    "Residual",
    "Selu",
    "Sequential",
    "Sigmoid",
    "Sign",
    "Signal",
    "Silu",
    "Sin",
    "Softplus",
    "Sum",
    "SumPool",
    "Tanh",
    "activation",
    "mlp",
    "presets",
    "with_widths",
]
