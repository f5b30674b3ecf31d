"""Kernels of infinitely wide networks: one pair in, one number out; batching lives here.

A kernel is anything with `kernel(x1, x2=None) -> (n, m)` and `kernel.diagonal(x) -> (n,)`. Whatever stands behind it,
infinite networks here, empirical ones or sketches elsewhere, kernels add and multiply, and all else takes them alike.
"""

from ntkit.kernels.kernel import (
    NNGP,
    NTK,
    Both,
    Inputs,
    Kernel,
    Kernels,
    OfNetwork,
    Others,
    Unflattened,
    check_examples,
    finite,
    kernels,
    settled,
)
from ntkit.kernels.together import Together

__all__ = [
    "NNGP",
    "NTK",
    "Both",
    "Inputs",
    "Kernel",
    "Kernels",
    "OfNetwork",
    "Others",
    "Together",
    "Unflattened",
    "check_examples",
    "finite",
    "kernels",
    "settled",
]
