"""What a user hands in is checked here, once, and refused with the argument's name, what came, and the way out."""

import re
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from ntkit.errors import InputError

HostArray = np.ndarray | jax.Array

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_MEMORY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_MOST = 2**62
# Entries looked at in one go: the check of a memory-mapped input must not itself need the input's size in memory.
_CHUNK = 1 << 22


def parse_memory(memory: Any, *, name: str = "memory") -> int | None:
    """Bytes of a memory budget: `"512MiB"`, `"2GB"` (decimal), a number of bytes, or None for no limit.

    **Raises:** `InputError` for another type, an unknown unit, or a budget below one byte.
    """
    if memory is None:
        return None
    if isinstance(memory, bool) or not isinstance(memory, (str, int, np.integer)):
        raise InputError(f'`{name}` must be a string such as "1GiB", a number of bytes, or None, but got {memory!r}.')
    if isinstance(memory, str):
        match = _MEMORY.fullmatch(memory)
        if match is None or match[2].upper() not in _UNITS:
            raise InputError(
                f'`{name}` must be a number with a unit such as "512MiB" or "2GB", but got {memory!r}. '
                "Units: B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024)."
            )
        amount = float(match[1]) * _UNITS[match[2].upper()]
        size = int(min(amount, float(_MOST)))
    else:
        size = int(memory)
    if size < 1:
        raise InputError(f"`{name}` must be at least one byte, but got {memory!r}.")
    if size >= _MOST:
        raise InputError(f"`{name}` must be below 2^62 bytes, or None for no limit, but got {str(memory)[:40]}.")
    return size


def format_bytes(size: int | float) -> str:
    """`1536` -> `"1.5 KiB"`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def is_float(dtype: Any) -> bool:
    """Whether `dtype` is a real floating-point type, bfloat16 included."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def as_host_array(name: str, x: Any) -> HostArray:
    """`x` as it is if it is a NumPy (memory-mapped or not) or a concrete JAX array, else `numpy.asarray(x)`."""
    if isinstance(x, jax.core.Tracer):
        raise InputError(
            f"`{name}` is being traced by a JAX transformation, but this function computes on concrete arrays. "
            "Inside jit, grad or vmap call the kernel itself: `kernel(x1, x2)`."
        )
    if isinstance(x, np.ma.MaskedArray):
        return _unmasked(name, x)
    if isinstance(x, (np.ndarray, jax.Array)):
        return x
    try:
        return np.asarray(x)
    except InputError:  # of an array-like that says itself what it is
        raise
    except ValueError as error:  # NumPy: "inhomogeneous shape"
        raise InputError(f"`{name}` must be an array (n, features), but its rows have different lengths.") from error


def _unmasked(name: str, x: np.ma.MaskedArray) -> np.ndarray:
    """The data of a masked array of which nothing is masked."""
    if np.ma.is_masked(x):
        count = int(np.ma.count_masked(x))
        raise InputError(
            f"`{name}` is a masked array with {count} masked {'entry' if count == 1 else 'entries'}, whose values are "
            f"unknown. Fill them (`{name}.filled(value)`) or remove their examples first."
        )
    return np.asarray(x.data)


def check_inputs(
    name: str, x: Any, *, min_ndim: int = 2, max_ndim: int | None = None, integers: str = "refuse"
) -> HostArray:
    """`x` as a non-empty array of finite floating-point numbers, examples along axis 0.

    **Arguments:**

    - `name`: what the caller calls the argument; it stands in every message.
    - `min_ndim`, `max_ndim`: the ranks allowed, both included; None allows any higher rank.
    - `integers`: `"refuse"` integer and boolean input, or `"convert"` it to float64 (doors such as scikit-learn's).

    **Raises:** `InputError`.
    """
    x = check_dtype(name, as_host_array(name, x), integers=integers)
    if x.ndim < min_ndim or (max_ndim is not None and x.ndim > max_ndim):
        wanted = f"{min_ndim}" if max_ndim == min_ndim else f"{min_ndim} or more"
        if max_ndim is not None and max_ndim > min_ndim:
            wanted = f"{min_ndim} to {max_ndim}"
        hint = f" For a single example pass `{name}[None, :]`." if x.ndim == 1 and min_ndim == 2 else ""
        raise InputError(f"`{name}` must have {wanted} axes, examples first, but has shape {x.shape}.{hint}")
    if x.size == 0:
        raise InputError(f"`{name}` must hold at least one example and one feature, but has shape {x.shape}.")
    check_finite(name, x)
    return x


def check_dtype(name: str, x: HostArray, *, integers: str = "refuse") -> HostArray:
    """`x` if it is real floating point; see `check_inputs`."""
    kind = np.dtype(x.dtype).kind
    if is_float(x.dtype):
        return x
    if kind in "iub":
        if integers == "convert":
            return np.asarray(x, dtype=np.float64)
        raise InputError(
            f"`{name}` must be floating point, but has dtype {x.dtype}. Convert it: `{name}.astype(np.float32)`."
        )
    if kind == "c":
        raise InputError(f"`{name}` must be real, but has dtype {x.dtype}. Stack `{name}.real` and `{name}.imag`.")
    raise InputError(
        f"`{name}` must be an array of floating-point numbers, but has dtype {x.dtype}. Convert it "
        f"(`np.asarray({name}, dtype=np.float64)`; for a sparse matrix `{name}.toarray()`). Encode text columns first."
    )


def check_finite(name: str, x: HostArray) -> None:
    """Raises `InputError` naming the first NaN or infinite entry of `x`; never holds more than a few MB."""
    host = np.asarray(x) if not isinstance(x, np.ndarray) else x
    rows = max(1, _CHUNK // max(1, host[:1].size))
    for start in range(0, len(host), rows):
        finite = np.isfinite(host[start : start + rows])
        if not finite.all():
            offset, *rest = (int(i) for i in np.unravel_index(int(np.argmin(finite)), finite.shape))
            index = (start + offset, *rest)
            raise InputError(
                f"`{name}` must be finite, but `{name}{list(index)}` is {host[index]}. "
                "Remove or impute such entries first."
            )


def check_same_features(name1: str, x1: HostArray, name2: str, x2: HostArray) -> None:
    """Raises `InputError` unless the examples of `x1` and `x2` have the same shape."""
    if x1.shape[1:] != x2.shape[1:]:
        raise InputError(
            f"`{name1}` and `{name2}` must have examples of one shape, but `{name1}` has shape {x1.shape} "
            f"and `{name2}` has shape {x2.shape}."
        )
