"""What a data set is: inputs, targets, and where they came from."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Shaped

from ntkit.errors import InputError

Kind = Literal["classification", "regression"]

# A column of whole numbers with at most this many distinct values is read as class labels.
_MOST_CLASSES = 20


@dataclass(frozen=True)
class Dataset:
    """Examples and their targets, one row each.

    - `x`, `x_test`: the inputs, floating point, images flattened row by row.
    - `y`, `y_test`: class labels (whole numbers or text), or real targets (n,) or (n, outputs).
    - `shape`: the shape of one example before it was flattened, such as (28, 28).
    - `source`: where the data came from, for people.
    - `columns`: the names of the features, () if they have none.

    `x_test` and `y_test` are None if the source has no test set of its own; `ntkit.data.split` makes one.
    """

    x: Float[np.ndarray, "n d"]
    y: Shaped[np.ndarray, "n ..."]
    x_test: Float[np.ndarray, "m d"] | None
    y_test: Shaped[np.ndarray, "m ..."] | None
    kind: Kind
    shape: tuple[int, ...]
    name: str
    source: str
    columns: tuple[str, ...] = ()

    @property
    def classes(self) -> Shaped[np.ndarray, " k"]:
        """The distinct labels, sorted, of the training and the test examples; empty for regression."""
        if self.kind == "regression":
            return np.empty(0, self.y.dtype)
        return np.unique(self.y if self.y_test is None else np.concatenate([self.y, self.y_test]))

    def __str__(self) -> str:
        tests = 0 if self.x_test is None else len(self.x_test)
        what = f"{len(self.classes)} classes" if self.kind == "classification" else "regression"
        return f"{self.name}: {len(self.x)} training and {tests} test examples of shape {self.shape}, {what}"


def make_dataset(
    x: np.ndarray,
    y: np.ndarray,
    x_test: np.ndarray | None = None,
    y_test: np.ndarray | None = None,
    *,
    name: str,
    source: str,
    kind: Kind | None = None,
    columns: tuple[str, ...] = (),
) -> Dataset:
    """The data set of raw arrays, checked: lengths, shapes, dtypes, NaN. `kind=None` decides by the targets."""
    if (x_test is None) != (y_test is None):
        raise InputError(f"{source}: test inputs and test targets must come together, but only one of them is there.")
    inputs = [_inputs(x, "the inputs", source)]
    targets = [_targets(y, len(x), "the targets", source)]
    if x_test is not None and y_test is not None:
        inputs.append(_inputs(x_test, "the test inputs", source))
        targets.append(_targets(y_test, len(x_test), "the test targets", source))
        if x_test.shape[1:] != x.shape[1:]:
            raise InputError(f"{source}: examples have shape {x.shape[1:]}, but test examples {x_test.shape[1:]}.")
    kind = _kind(targets[0], source) if kind is None else _check_kind(kind)
    targets = [_as_kind(y, kind, source) for y in targets]
    if kind == "classification" and len(np.unique(targets[0])) < 2:
        raise InputError(f"{source}: all labels are {targets[0][0].item()!r}; a classifier needs two classes or more.")
    tests = (inputs[1], targets[1]) if len(inputs) == 2 else (None, None)
    return Dataset(inputs[0], targets[0], *tests, kind, x.shape[1:], name, source, columns)


def _inputs(x: np.ndarray, what: str, source: str) -> Float[np.ndarray, "n d"]:
    """Flattened floats: 8-bit images become float32 in [0, 1], all else float64 unless it is float32."""
    if x.ndim < 2 or x.size == 0:
        raise InputError(f"{source}: {what} must be (examples, features) and not empty, but have shape {x.shape}.")
    flat = x.reshape(len(x), -1)
    if x.dtype == np.uint8:
        return flat.astype(np.float32) / np.float32(255)
    if x.dtype.kind in "iub":
        return flat.astype(np.float64)
    if x.dtype.kind != "f":
        raise InputError(f"{source}: {what} must be numbers, but have dtype {x.dtype}. Encode them first.")
    if not np.isfinite(flat).all():
        row, column = np.argwhere(~np.isfinite(flat))[0]
        raise InputError(
            f"{source}: {what} must be finite, but row {row}, column {column} (both from 0) is {flat[row, column]}. "
            "Remove or fill in such entries first."
        )
    return flat if x.dtype in (np.float32, np.float64) else flat.astype(np.float64)


def _targets(y: np.ndarray, n: int, what: str, source: str) -> np.ndarray:
    """The targets, one for each of the n inputs: (n,), or (n, outputs) for several outputs."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or len(y) != n:
        raise InputError(f"{source}: {what} must have one row for each of the {n} inputs, but have shape {y.shape}.")
    if y.dtype.kind not in "biufU":
        raise InputError(f"{source}: {what} must be numbers or text, but have dtype {y.dtype}.")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = int(np.argwhere(~np.isfinite(y))[0][0])
        raise InputError(f"{source}: {what} must be finite, but row {row} (from 0) is {y[row]}.")
    return y


def _kind(y: np.ndarray, source: str) -> Kind:
    """Labels are text or truth values, integers (dtype) of which some come twice, or few distinct whole numbers."""
    distinct = len(np.unique(y))
    if y.ndim == 1 and (y.dtype.kind in "bU" or (y.dtype.kind in "iu" and 2 * distinct <= max(len(y), 4))):
        return "classification"
    whole = y.dtype.kind == "f" and bool((y == np.round(y)).all())
    few = distinct <= min(_MOST_CLASSES, len(y) // 2)
    return "classification" if y.ndim == 1 and whole and few else "regression"


def _check_kind(kind: str) -> Kind:
    for known in get_args(Kind):
        if kind == known:
            return known
    raise InputError(f'`kind` must be "classification", "regression" or None, but is {kind!r}.')


def _as_kind(y: np.ndarray, kind: Kind, source: str) -> np.ndarray:
    """Labels as integers or text, real targets as float64."""
    if kind == "regression":
        if y.dtype.kind == "U":
            raise InputError(f"{source}: the targets of a regression must be numbers, but one is {y.flat[0].item()!r}.")
        return y.astype(np.float64)
    if y.ndim != 1:
        raise InputError(f"{source}: class labels must be one column, but have shape {y.shape}.")
    if y.dtype.kind == "U":
        return y
    if not (y == np.round(y)).all():
        raise InputError(f"{source}: class labels must be whole numbers or text, but one is {y[y != np.round(y)][0]}.")
    return y.astype(np.int64)
