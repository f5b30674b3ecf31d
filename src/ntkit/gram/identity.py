"""What a job is: a digest of the kernel, the inputs and the versions, the same in every process."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ntkit.kernels import finite

# Raised when the same inputs would be written as other bytes.
FORMAT = 1
_CHUNK = 1 << 24
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def digest(*parts: bytes | memoryview) -> str:
    """32 hexadecimal digits."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(part)
    return h.hexdigest()


def identity(kernel: Callable, x1: np.ndarray, x2: np.ndarray | None, dtype: np.dtype) -> dict[str, str]:
    """The parts by which two jobs are told apart, by name, so that a message can say which one differs."""
    with jax.enable_x64(dtype.itemsize == 8):
        programs = [one.program(seen) for one, seen in finite(kernel, np.asarray(x1[:1], dtype))]
    return {
        "kernel": kernel_digest((kernel, programs)),
        "x1": array_digest(x1),
        "x2": "" if x2 is None else array_digest(x2),
        "dtype": str(dtype),
        "ntkit": _version(),
        "jax": jax.__version__,
    }


def _version() -> str:
    try:
        return importlib.metadata.version("ntkit")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def array_digest(x: np.ndarray) -> str:
    """Shape, dtype and contents, read in pieces of some MB: `x` may be memory-mapped."""
    h = hashlib.blake2b(f"{x.shape} {x.dtype.str}".encode(), digest_size=16)
    rows = max(1, _CHUNK // max(1, x[:1].nbytes)) if x.ndim else 1
    for start in range(0, len(x) if x.ndim else 1, rows):
        h.update(np.ascontiguousarray(x[start : start + rows] if x.ndim else x).data.cast("B"))
    return h.hexdigest()


def kernel_digest(kernel: Any) -> str:
    """Types, names and values of everything a kernel consists of.

    Functions count by their code, constants, defaults and what they enclose, not by their address. What a function
    reads from its module's globals is not followed; of finite networks `identity` adds the program, which has it all.
    """
    h = hashlib.blake2b(digest_size=16)
    _describe(kernel, h.update, [])
    return h.hexdigest()


def _describe(value: Any, put: Callable[[bytes], None], above: list[int]) -> None:
    """Feeds an unambiguous text for `value` to `put`: each is a tag, and a number of parts."""

    def say(*words: Any) -> None:
        put(("\x1f".join(map(str, words)) + "\x1e").encode())

    if id(value) in above:  # an object that contains itself, such as a recursive function
        return say("above", above.index(id(value)))
    parts = _parts(value)
    if parts is None:
        return say(type(value).__qualname__, _ADDRESS.sub("", repr(value)))
    name, children = parts
    say(name, len(children))
    above = [*above, id(value)]
    for key, child in children:
        say(key)
        _describe(child, put, above)
    return None


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]]] | None:
    """A name for the kind of thing `value` is, and its parts; None where its `repr` says it all."""
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, float):
        return f"float {value.hex()}", []
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return f"array {array_digest(np.asarray(value))}", []
    if isinstance(value, functools.partial):
        return name, [("", value.func), ("", value.args), ("", value.keywords)]
    if isinstance(value, types.MethodType):
        return name, [("", value.__func__), ("", value.__self__)]
    if isinstance(value, types.FunctionType):
        return f"function {value.__module__}.{value.__qualname__}", _parts_of_function(value)
    if isinstance(value, types.CodeType):
        return f"code {value.co_code.hex()} {value.co_names}", [("", c) for c in value.co_consts]
    if isinstance(value, (type, types.BuiltinFunctionType, types.ModuleType)):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}", []
    if dataclasses.is_dataclass(value):
        return name, [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return name, [(repr(k), v) for k, v in value.items()]
    if isinstance(value, (tuple, list)):
        return name, [("", v) for v in value]
    if hasattr(value, "__wrapped__"):  # jax.jit and its like
        return name, [("", value.__wrapped__)]
    if getattr(value, "__dict__", None) and type(value).__repr__ is object.__repr__:
        return name, sorted(vars(value).items())
    return None


def _parts_of_function(f: types.FunctionType) -> list[tuple[str, Any]]:
    cells = [_content(cell) for cell in f.__closure__ or ()]
    return [("", f.__code__), ("", f.__defaults__), ("", f.__kwdefaults__), ("", cells)]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None
