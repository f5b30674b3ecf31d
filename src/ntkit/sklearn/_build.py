"""From an estimator's parameters to a kernel, checked; shared by everything behind this door."""

import contextlib
import math
import numbers
from typing import Any

import jax
import numpy as np

from ntkit.data import image_shape as checked_image
from ntkit.errors import InputError
from ntkit.kernels import NNGP, NTK, Unflattened
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


def rows_of(X: Any, image_shape: Any, kernel: Any) -> tuple[Any, tuple[int, ...] | None]:
    """X with examples as rows, as scikit-learn has them, and the shape of an image: given, or X's own.

    **Raises:** `InputError` where the two differ, a row is no image of the shape, or channels come first for a `kernel`
    of infinite networks; a finite network knows itself where it wants them.
    """
    shape = None if image_shape is None else parse_shape(image_shape)
    ndim = getattr(X, "ndim", 2)  # of lists scikit-learn takes care
    if ndim > 2:
        own = tuple(X.shape[1:])
        if shape is not None and own != shape:
            raise InputError(f"`X` has images of shape {own}, but `image_shape` is {shape}.")
        if ndim == 4 and not hasattr(kernel, "check_examples"):
            checked_image(own, "`X`")
        return X.reshape(len(X), -1), own
    columns = X.shape[1] if ndim == 2 and hasattr(X, "shape") else None
    if shape is not None and columns is not None and columns != math.prod(shape):
        raise InputError(
            f"`X` has {columns} features, but an image of `image_shape` {shape} has {math.prod(shape)} numbers."
        )
    return X, shape


def parse_shape(value: Any) -> tuple[int, ...]:
    """(height, width, channels) and the like."""
    good = isinstance(value, (tuple, list)) and len(value) >= 2
    if not good or not all(isinstance(n, (int, np.integer)) and n >= 1 for n in value):
        raise InputError(f"`image_shape` must be whole numbers, (height, width, channels); got {value!r}.")
    return tuple(map(int, value))


def on_images(kernel: Any, shape: tuple[int, ...] | None, by_name: bool) -> Any:
    """The kernel for examples as rows: of images of a shape, or of rows themselves."""
    if shape is None:
        return kernel
    if by_name:
        raise InputError(
            f"`X` has images of shape {shape}, but `kernel` is the name of a kernel of dense networks. Pass one of "
            "images, such as `kernel=ntkit.NTK(nn.presets.cntk(3))`, or flatten X: `X.reshape(len(X), -1)`."
        )
    return Unflattened(kernel, shape)


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
