"""Activations: closed forms, and a series for any function."""

from ntkit.nn.activations._base import Affine, Diagonal, Dual, Nonlinearity
from ntkit.nn.activations.piecewise import Abs, Identity, LeakyRelu, Relu, Sign
from ntkit.nn.activations.registry import activation
from ntkit.nn.activations.series import Activation, Elu, Selu, Sigmoid, Silu, Softplus, Tanh
from ntkit.nn.activations.smooth import Cos, Erf, Gaussian, Gelu, Sin

__all__ = [
    "Abs",
    "Activation",
    "Affine",
    "Cos",
    "Diagonal",
    "Dual",
    "Elu",
    "Erf",
    "Gaussian",
    "Gelu",
    "Identity",
    "LeakyRelu",
    "Nonlinearity",
    "Relu",
    "Selu",
    "Sigmoid",
    "Sign",
    "Silu",
    "Sin",
    "Softplus",
    "Tanh",
    "activation",
]
