"""What prediction takes in: labels, noise, precision; refused by name."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkit._check import as_host_array, check_dtype, check_finite, check_inputs, check_same_features
from ntkit.errors import InputError
from ntkit.gram.masked import OfPacked, pack
from ntkit.nn._masks import Masked


def parse_dtype(dtype: Any) -> np.dtype:
    """float64 or float32, or `InputError`."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in ("float64", "float32"):
        raise InputError(f"`dtype` must be float64 or float32, but got {dtype!r}.")
    return found


def precision(dtype: np.dtype) -> contextlib.AbstractContextManager:
    """Double precision for the length of a `with` block if `dtype` asks for it, else nothing."""
    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


def without_masks(kernel: Any, x: Any) -> tuple[Any, Any]:
    """Of `Masked` training examples arrays, and the kernel that takes them; others as they are."""
    return (OfPacked(kernel), pack(kernel, "x", x)) if isinstance(x, Masked) else (kernel, x)


def parse_test(x_test: Any, kernel: Any, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Test examples, like the training examples `x`, for the kernel that `without_masks` made."""
    if isinstance(kernel, OfPacked):
        packed = pack(kernel.kernel, "x_test", x_test)
        check_same_features("x_test", packed[..., 1:], "x", x[..., 1:])  # without the mask's channel
        return np.asarray(packed, dtype)
    if isinstance(x_test, Masked):
        raise InputError(
            "`x_test` is `Masked`, but `x` was an array. Pass `x` with its masks as well: `ntkit.Masked(x, "
            "np.ones(x.shape[:-1], bool))`."
        )
    return parse_x("x_test", x_test, dtype, x)


def parse_x(name: str, x: Any, dtype: np.dtype, like: Any = None) -> np.ndarray:
    """Inputs as a host array of `dtype`: (n, ...), finite, not empty; with `like`, of its examples' shape."""
    x = check_inputs(name, x)
    if like is not None:
        check_same_features(name, x, "x", like)
    return np.asarray(x, dtype=dtype)


def parse_y(y: Any, n: int, dtype: np.dtype) -> tuple[np.ndarray, bool]:
    """(labels as (n, o), whether they came as (n,))."""
    y = np.asarray(as_host_array("y", y))
    if y.dtype.kind in "iub":
        y = y.astype(np.float64)
    check_dtype("y", y)
    if y.ndim not in (1, 2):
        raise InputError(f"`y` must have shape (n,) or (n, outputs), but has shape {y.shape}.")
    if y.shape[0] != n:
        raise InputError(
            f"`y` must have one row for each of the {n} examples of `x`, but has shape {y.shape}."
            + (" Transpose it: `y.T`." if y.ndim == 2 and y.shape[1] == n else "")
        )
    if y.size == 0:
        raise InputError(f"`y` must hold at least one output, but has shape {y.shape}.")
    check_finite("y", y)
    return np.asarray(y, dtype=dtype).reshape(n, -1), y.ndim == 1


# What the variance of the labels is called.
_NOISES = ("noise", "alpha")


def parse_noise(noise: Any, n: int, dtype: np.dtype, *, name: str = "noise", zero: bool = False) -> np.ndarray:
    """A positive variance, or one for each example; with `zero`, zero is allowed."""
    value = np.asarray(noise)
    if value.dtype.kind not in "iuf" or value.ndim > 1 or (value.ndim == 1 and value.shape != (n,)):
        raise InputError(
            f"`{name}` must be a number or one number for each of the {n} examples, but got "
            + (f"an array of shape {value.shape}." if value.ndim else f"{noise!r}.")
        )
    value = value.astype(dtype)
    good = np.isfinite(value) & ((value >= 0) if zero else (value > 0))
    if not good.all():
        worst = value if value.ndim == 0 else value[int(np.argmin(good))]
        raise InputError(
            f"`{name}` must be finite and {'zero or more' if zero else 'positive'}, but got {float(worst)!r}."
            + (f" For labels without noise pass a small one, such as `{name}=1e-6`." if name in _NOISES else "")
        )
    return value


def parse_number(value: Any, name: str, *, zero: bool = False) -> float:
    """A positive number; with `zero`, zero is allowed."""
    found = parse_noise(value, 1, np.dtype(np.float64), name=name, zero=zero)
    if found.ndim:
        raise InputError(f"`{name}` must be one number, but got an array of shape {found.shape}.")
    return float(found)


def restore(value: Any, flat: bool) -> np.ndarray:
    """A result (..., n, o) as the labels came: (..., n) if they were (n,)."""
    value = np.asarray(value)
    return value[..., 0] if flat else value


def as_device(*arrays: Any) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(a) for a in arrays)
