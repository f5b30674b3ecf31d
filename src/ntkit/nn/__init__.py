"""Layers. Each is one object with two readings: a finite network, and its infinitely wide limit."""

from ntkit.nn._law import Covariance
from ntkit.nn._layer import Layer, Signal
from ntkit.nn.activations import (
    Abs,
    Cos,
    Dual,
    Erf,
    Gaussian,
    Gelu,
    Identity,
    LeakyRelu,
    Nonlinearity,
    Relu,
    Sign,
    Sin,
)
from ntkit.nn.combinators import Residual, Sequential, Sum
from ntkit.nn.dense import Dense
from ntkit.nn.normalization import Dropout, LayerNorm
from ntkit.nn.presets import mlp

__all__ = [
    "Abs", "Cos", "Covariance", "Dense", "Dropout", "Dual", "Erf", "Gaussian", "Gelu", "Identity", "Layer", "LayerNorm",
    "LeakyRelu", "Nonlinearity", "Relu", "Residual", "Sequential", "Sign", "Signal", "Sin", "Sum", "mlp",
]
