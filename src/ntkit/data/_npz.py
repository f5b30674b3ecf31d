"""Arrays in .npz and .npy files, read without pickle: a file from elsewhere cannot run code here."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ntkit.errors import InputError

# Names of the arrays in a file, in the order they are looked for.
_TRAIN = [("x_train", "y_train"), ("X_train", "y_train"), ("x", "y"), ("X", "y")]
_TEST = [("x_test", "y_test"), ("X_test", "y_test")]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What NumPy raises for a broken file or for pickled objects, as one error that names the file."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        if path.stat().st_size and not _is_numpy(path):
            raise InputError(
                f"{path.name} is not a readable {path.suffix} file: it does not begin as one. Write it with NumPy."
            ) from error
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise InputError(
                f"{path.name} holds Python objects (pickled), which could run code and are never read. Save plain "
                "arrays of numbers or text: `np.savez(path, x=x, y=y)` with `x.dtype` float."
            ) from error
        raise InputError(f"{path.name} is not a readable {path.suffix} file: {error}.") from error


def _is_numpy(path: Path) -> bool:
    """Whether the file begins as a .npy or as a zip: what begins otherwise, NumPy takes for a pickle."""
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x93NUMPY", b"PK"))


def read_npz(path: Path, *, targets: bool = True) -> dict[str, np.ndarray]:
    """The arrays "x", "y" and, if the file has them, "x_test", "y_test"; without `targets` only "x" and "x_test".

    The file names them x, y or X, y or x_train, y_train, and x_test, y_test. Other arrays are left alone.

    **Raises:** `InputError`.
    """
    with _opened(path) as archive:
        return {name: archive[key] for name, key in _keys(path, archive.files, targets).items()}


def names_of(path: Path) -> set[str]:
    """Which of "x" and "x_test" a file has, without reading them. **Raises:** `InputError`."""
    with _opened(path) as archive:
        return set(_keys(path, archive.files, targets=False))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    # NumPy leaks the file if it opens it itself and cannot read it.
    with _readable(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        yield archive


def _keys(path: Path, files: list[str], targets: bool) -> dict[str, str]:
    """Our names of the arrays, and the file's."""
    have = set(files)
    pairs = [pair for pair in _TRAIN if set(pair[: 1 + targets]) <= have]
    if not pairs:
        wanted = "x and y (or X and y, or x_train and y_train)" if targets else "x (or X, or x_train)"
        raise InputError(f"{path.name} must hold the arrays {wanted}, but holds {', '.join(files) or 'nothing'}.")
    found: dict[str, str] = {"x": pairs[0][0]} | ({"y": pairs[0][1]} if targets else {})
    for x, y in _TEST:
        if ({x, y} if targets else {x}) <= have:
            found |= {"x_test": x, "y_test": y} if targets else {"x_test": x}
    return found


def read_npy(path: Path) -> np.ndarray:
    """One array; raises `InputError` if the file is broken or pickled."""
    with _readable(path), path.open("rb") as file:
        return np.load(file, allow_pickle=False)
