"""Activations: closed forms, and a series for any function."""

from ntkit.nn.activations._base import Affine, Diagonal, Dual, Nonlinearity
from ntkit.nn.activations.closed import Abs, Cos, Erf, Gaussian, Gelu, Identity, LeakyRelu, Relu, Sign, Sin

__all__ = [
    "Abs", "Affine", "Cos", "Diagonal", "Dual", "Erf", "Gaussian", "Gelu", "Identity", "LeakyRelu", "Nonlinearity", "Relu", "Sign", "Sin",
]
