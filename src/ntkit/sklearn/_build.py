"""From an estimator's parameters to a kernel, checked; shared by everything behind this door."""

import contextlib
import math
import numbers
from typing import Any

import jax
import numpy as np

from ntkit.errors import InputError
from ntkit.kernels import NNGP, NTK
from ntkit.nn import Sequential, mlp
from ntkit.nn.activations.registry import activation as parse_activation

# Of the finite network only; in the NTK parameterization the kernels do not depend on it.
WIDTH = 512
KINDS = {"ntk": NTK, "nngp": NNGP}


def network(depth: Any, activation: Any, w_std: Any, b_std: Any, fixed_layers: Any, outputs: int = 1) -> Sequential:
    """The multilayer perceptron that the parameters describe. **Raises:** `InputError` naming the parameter."""
    return mlp(
        whole("depth", depth),
        WIDTH,
        parse_activation(activation),
        w_std=real("w_std", w_std),
        b_std=real("b_std", b_std),
        fixed_layers=whole("fixed_layers", fixed_layers),
        outputs=outputs,
    )


def kernel_of(kernel: Any, **architecture: Any) -> Any:
    """`kernel` if it is an object, else the kernel of that name of the network that `architecture` describes."""
    if isinstance(kernel, str):
        if kernel not in KINDS:
            raise InputError(f'`kernel` must be "ntk", "nngp" or a kernel such as `ntkit.NTK(net)`; got {kernel!r}.')
        return KINDS[kernel](network(**architecture))
    if isinstance(kernel, type) or not (callable(kernel) and hasattr(kernel, "diagonal")):
        raise InputError(
            f'`kernel` must be "ntk", "nngp" or a kernel such as `ntkit.NTK(net)`, with `kernel(x1, x2=None)` and '
            f"`kernel.diagonal(x)`; got {kernel!r}."
        )
    return kernel


def whole(name: str, value: Any) -> int:
    """A whole number >= 0, also as NumPy has it in a parameter grid."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral) or value < 0:
        raise InputError(f"`{name}` must be a whole number >= 0; got {value!r}.")
    return int(value)


def real(name: str, value: Any, *, positive: bool = False) -> float:
    """A finite number, >= 0 or > 0."""
    good = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)) and math.isfinite(value)
    if not good or value < 0 or (positive and value == 0):
        raise InputError(f"`{name}` must be a finite number {'> 0' if positive else '>= 0'}; got {value!r}.")
    return float(value)


def noise(name: str, value: Any) -> Any:
    """A positive number, or an array of them, one for each example."""
    return real(name, value, positive=True) if np.ndim(value) == 0 else np.asarray(value, dtype=np.float64)


def move_to_host(owner: Any) -> Any:
    """`owner` with its JAX arrays as NumPy arrays, so that a pickle keeps float64 wherever it is opened."""
    for name, value in vars(owner).items():
        if isinstance(value, jax.Array):
            setattr(owner, name, np.asarray(value))
    return owner


def precision(dtype: np.dtype) -> contextlib.AbstractContextManager:
    """Double precision for the length of a `with` block if `dtype` asks for it, else nothing."""
    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()
