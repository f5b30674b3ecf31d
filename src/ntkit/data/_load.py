"""One function from a name or a path to a data set."""

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ntkit.data._csv import read_table
from ntkit.data._dataset import Dataset, Kind, make_dataset
from ntkit.data._npz import names_of, read_npy, read_npz
from ntkit.errors import ComputationError, InputError

SHIPPED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
FETCHED = ("cifar10", "mnist")
NAMES = (*FETCHED, *SHIPPED)
Split = Literal["train", "test"]


def load(
    source: str | os.PathLike[str],
    *,
    target: str | int | None = None,
    header: bool | None = None,
    kind: Kind | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Dataset:
    """A data set by name or from a file.

    **Arguments:**

    - `source`: a name in `ntkit.data.NAMES`, or the path of a .npz file (arrays x, y or X, y or x_train, y_train, and
      perhaps x_test, y_test; never unpickled) or of a .csv file (numbers; commas, semicolons or tabs; UTF-8).
    - `target`: the column of a .csv that is predicted, by name or number; None means the last one.
    - `header`: whether the first row of a .csv holds names; None: if none of its cells is a number.
    - `kind`: "classification" or "regression"; None decides by the targets: text, integer arrays with repeated values,
      and columns of at most 20 distinct whole numbers are class labels.
    - `cache`: for "mnist" and "cifar10", the file mnist.npz or cifar10.npz, or the folder it lies in or is kept in.
      Looked at next are `NTKIT_DATA` (file or folder) and `~/.cache/ntkit`; then the set is fetched from OpenML, once.
    - `progress`: whether to show on the error stream that something is being fetched.

    8-bit images become float32 in [0, 1], the digits float64 in [0, 1], all else is left as it was, not standardised.

    **Raises:** `InputError` if the source is unknown or its contents cannot be used (naming row and column);
    `ComputationError` if fetching fails.
    """
    name = os.fspath(source)
    path = Path(name).expanduser()
    if path.suffix.lower() != ".csv" and (target is not None or header is not None):
        raise InputError(f"`target` and `header` are for .csv files, but the data is {name!r}.")
    if name in FETCHED:
        get, words = {
            "mnist": (_openml_mnist, "MNIST (LeCun, Cortes and Burges)"),
            "cifar10": (_openml_cifar10, "CIFAR-10 (Krizhevsky)"),
        }[name]
        return _named(read_npz(_kept(name, get, cache, progress=progress)), name, words, kind)
    if name in SHIPPED:
        return _shipped(name, kind)
    _check_file(path, (".npz", ".csv"))
    if path.suffix.lower() == ".npz":
        return _named(read_npz(path), path.stem, path.name, kind)
    table = read_table(path, header)
    column = table.column(-1 if target is None else target)
    others = [i for i in range(len(table.rows[0])) if i != column]
    if not others:
        raise InputError(f"{path.name} has one column only; it needs at least one feature and the target.")
    names = tuple(table.names[i] for i in others) if table.names else ()
    x, y = table.numbers(others), table.target(column)
    return make_dataset(x, y, name=path.stem, source=path.name, kind=kind, columns=names)


def load_inputs(
    source: str | os.PathLike[str],
    *,
    header: bool | None = None,
    drop: str | int | None = None,
    split: Split = "train",
) -> Float[np.ndarray, "n d"]:
    """Inputs without targets, to predict at: a .csv (all columns, but `drop`), an .npy, or the x of an .npz file.

    `split="test"` takes the x_test of an .npz file in place of its x.

    **Raises:** `InputError`, as `load` does, or if there are no test inputs.
    """
    return inputs_of(source, header=header, drop=drop, split=split).x


def inputs_of(
    source: str | os.PathLike[str],
    *,
    header: bool | None = None,
    drop: str | int | None = None,
    split: Split = "train",
    maybe: bool = False,
) -> Dataset:
    """The same as a data set of stand-in targets, which knows the shape that examples had. `maybe`: a column `drop` of
    a table need not be there."""
    path = Path(source).expanduser()
    _check_file(path, (".csv", ".npy", ".npz"))
    if path.suffix.lower() == ".csv":
        table = read_table(path, header)
        there = drop is not None and not (maybe and isinstance(drop, str) and drop not in table.names)
        dropped = table.column(drop) if drop is not None and there else None
        x = table.numbers([i for i in range(len(table.rows[0])) if i != dropped]) if split == "train" else None
    else:
        arrays = {"x": read_npy(path)} if path.suffix.lower() == ".npy" else read_npz(path, targets=False)
        x = arrays["x"] if split == "train" else arrays.get("x_test")
    if x is None:
        raise InputError(f"{path.name} has no test examples (x_test) of its own.")
    # The targets are a stand-in: the checks of the inputs are those of a data set.
    return make_dataset(x, np.zeros(len(x) if x.ndim else 0), name=path.stem, source=path.name, kind="regression")


def pixels(source: str | os.PathLike[str]) -> bool:
    """Whether the x of a file are 8-bit integers, which are divided by 255."""
    path = Path(source).expanduser()
    if path.suffix.lower() == ".npy" and path.is_file():
        return read_npy(path).dtype == np.uint8
    return path.suffix.lower() == ".npz" and path.is_file() and read_npz(path, targets=False)["x"].dtype == np.uint8


def has_test_inputs(path: Path) -> bool:
    """Whether a file is an .npz with test inputs beside the training inputs. **Raises:** `InputError`."""
    _check_file(path, (".csv", ".npy", ".npz"))
    return path.suffix.lower() == ".npz" and "x_test" in names_of(path)


def _check_file(path: Path, suffixes: tuple[str, ...]) -> None:
    """A readable file of a kind we know, or an `InputError` that lists what there is."""
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder, no file.")
    if path.suffix.lower() not in suffixes:
        raise InputError(
            f"Unknown data {str(path)!r}. Give the path of a file ({', '.join(suffixes)}) or one of the names "
            f"{', '.join(NAMES)}."
        )
    if not path.is_file():
        raise InputError(f"There is no file {str(path)!r}.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"The file {str(path)!r} cannot be read: {error.strerror}.") from error


def _named(arrays: dict[str, np.ndarray], name: str, source: str, kind: Kind | None) -> Dataset:
    tests = (arrays.get("x_test"), arrays.get("y_test"))
    return make_dataset(arrays["x"], arrays["y"], *tests, name=name, source=source, kind=kind)


def _shipped(name: str, kind: Kind | None) -> Dataset:
    """One of the sets inside scikit-learn: no network."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    # The digits are 8 x 8 counts from 0 to 16.
    x = bunch.images / 16 if name == "digits" else bunch.data
    columns = () if name == "digits" else tuple(bunch.feature_names)
    kind = kind or ("regression" if name == "diabetes" else "classification")
    return make_dataset(x, bunch.target, name=name, source="shipped with scikit-learn", kind=kind, columns=columns)


_Get = Callable[[Path], dict[str, np.ndarray]]


def _kept(name: str, get: _Get, cache: str | os.PathLike[str] | None, *, progress: bool) -> Path:
    """The path of <name>.npz: given, in `NTKIT_DATA`, in the cache, or fetched into it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ntkit"
    file = f"{name}.npz"
    given = [Path(place).expanduser() for place in (cache, os.environ.get("NTKIT_DATA")) if place]
    if cache is not None and given[0].suffix == ".npz" and not given[0].is_file():
        raise InputError(f"`cache`: there is no file {str(given[0])!r}.")
    for place in [*given, home]:
        path = place if place.suffix == ".npz" else place / file
        # `NTKIT_DATA` may name the file of another set.
        if path.is_file() and (cache is not None or place.suffix != ".npz" or _may_be(path, name)):
            return path
    path = (given[0] if cache is not None else home) / file
    _fetch(path, get, progress=progress)
    return path


def _may_be(path: Path, name: str) -> bool:
    """Whether a file is not named after another set."""
    return not any(other in path.stem for other in FETCHED if other != name)


def _openml_mnist(folder: Path) -> dict[str, np.ndarray]:
    """MNIST from https://www.openml.org/d/554: 60 000 training examples, then 10 000 test examples."""
    from sklearn.datasets import fetch_openml

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Retrying": if that does not help either, the error says so
        # The parser that needs no pandas.
        bunch: Any = fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff", data_home=str(folder))
    x, y = bunch.data.reshape(-1, 28, 28).astype(np.uint8), bunch.target.astype(np.uint8)
    return {"x_train": x[:60_000], "y_train": y[:60_000], "x_test": x[60_000:], "y_test": y[60_000:]}


def _openml_cifar10(folder: Path) -> dict[str, np.ndarray]:
    """CIFAR-10 from https://www.openml.org/d/40927, channels last. The last 10 000 of its 60 000 images are the tests;
    OpenML does not say whether these are the official ones."""
    from sklearn.datasets import fetch_openml

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bunch: Any = fetch_openml("CIFAR_10", version=1, as_frame=False, parser="liac-arff", data_home=str(folder))
    x = np.moveaxis(bunch.data.reshape(-1, 3, 32, 32).astype(np.uint8), 1, -1)
    y = bunch.target.astype(np.uint8)
    return {"x_train": x[:50_000], "y_train": y[:50_000], "x_test": x[50_000:], "y_test": y[50_000:]}


def _fetch(path: Path, get: _Get, *, progress: bool) -> None:
    """Writes what `get` fetches to `path`, whole or not at all."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    spinner = console.status(f"Fetching {path.stem} from OpenML (once; a few minutes)") if progress else nullcontext()
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with spinner:
            arrays: dict[str, Any] = get(path.parent)
            np.savez_compressed(partial, **arrays)
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise ComputationError(
            f"Fetching {path.stem} from OpenML failed: {error}. Try again when there is a network, or put {path.name} "
            "(arrays x_train, y_train, x_test, y_test) into a folder and name it: NTKIT_DATA=folder."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
