"""A fitted model that can be saved: arrays and a header in one file, read without ever running what is in it."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special
from jaxtyping import Float, Shaped

import ntkit
from ntkit._files import atomically
from ntkit.cli._architecture import Architecture
from ntkit.cli._own import OwnNetwork
from ntkit.cli._scaling import Scaling
from ntkit.data import Dataset
from ntkit.errors import ComputationError, InputError
from ntkit.gram.run import NotFiniteError

FORMAT = "ntkit-model"
# Raised when a file changes its meaning; a reader refuses what is above its own.
VERSION = 3
# Test examples whose kernel with the training examples is held at once.
BLOCK = 2048


@dataclasses.dataclass(frozen=True)
class Predictions:
    """`values` (m,) or (m, o): labels, or means with `std`; `probabilities` (m, c), for labels only."""

    values: Shaped[np.ndarray, "m *o"]
    std: Float[np.ndarray, "m *o"] | None = None
    probabilities: Float[np.ndarray, "m c"] | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """What `ntkit fit` saves. Scores of scaled inputs are k(x, inputs) weights.

    Regression: value = offset + spread * score, and std = spread * sqrt(amplitude (k(x, x) - |L^-1 k(inputs, x)|^2 +
    alpha)), the deviation of a new label; `amplitude` makes the squared leave-one-out errors as large as they
    should be.
    Classification: probabilities are softmax(score / temperature).
    """

    task: str
    architecture: Architecture | OwnNetwork
    alpha: float
    scaling: Scaling
    inputs: Float[np.ndarray, "n d"]
    weights: Float[np.ndarray, "n o"]
    columns: tuple[str, ...] = ()
    target: str = ""
    source: str = ""
    # By what network and ridge were chosen, a name of `Criterion`; empty where both were given, and in older files.
    criterion: str = ""
    # Regression.
    offset: Float[np.ndarray, " r"] = dataclasses.field(default_factory=lambda: np.zeros(1))
    spread: Float[np.ndarray, " r"] = dataclasses.field(default_factory=lambda: np.ones(1))
    factor: Float[np.ndarray, "f f"] = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    amplitude: float = 1.0
    flat: bool = True
    # Classification.
    classes: Shaped[np.ndarray, " c"] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    temperature: float = 1.0

    def __call__(
        self,
        x: Float[np.ndarray, "m d"],
        *,
        memory: str | None = None,
        progress: Callable[[int], Any] = lambda rows: None,
    ) -> Predictions:
        """Predictions at inputs that are not yet scaled. `progress` is called with the number of rows done."""
        if x.ndim != 2 or x.shape[1] != self.inputs.shape[1]:
            raise InputError(
                f"The model was fitted to {self.inputs.shape[1]} features, but the data has shape {x.shape}."
            )
        x = self.scaling(x)
        pieces = []
        for start in range(0, len(x), BLOCK):
            pieces.append(self._block(x[start : start + BLOCK], start, memory))
            progress(min(start + BLOCK, len(x)))
        scores, variance = (np.concatenate(part) for part in zip(*pieces, strict=True))
        if self.task == "classification":
            probabilities = scipy.special.softmax(scores / self.temperature, axis=1)
            return Predictions(self.classes[scores.argmax(axis=1)], probabilities=probabilities)
        mean = self.offset + self.spread * scores
        std = np.sqrt(np.multiply.outer(self.amplitude * (variance + self.alpha), self.spread**2))
        return Predictions(mean[:, 0], std[:, 0]) if self.flat else Predictions(mean, std)

    def _block(self, x: np.ndarray, start: int, memory: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Scores (b, o), and for regression the variances (b,) of f at amplitude 1; `start` numbers the examples."""
        kernel = self.architecture.as_kernel()
        try:
            cross = ntkit.gram(kernel, x, self.inputs, memory=memory, progress=False, dtype="float64")
        except NotFiniteError as error:
            raise ComputationError(
                f"The kernel of example {start + error.pair[0]} (from 0) and the training examples is not finite: its "
                "features are too large."
            ) from error
        scores = cross @ self.weights
        if self.task == "classification":
            return scores, np.zeros(len(x))
        half = scipy.linalg.solve_triangular(self.factor, cross.T, lower=True, check_finite=False)
        with jax.enable_x64(True):
            prior = np.asarray(kernel.diagonal(jnp.asarray(x)))
        return scores, np.maximum(prior - np.sum(half * half, axis=0), 0)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. **Raises:** `ComputationError` if it cannot be written."""
        arrays, plain = {}, {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            (arrays if isinstance(value, np.ndarray) else plain)[field.name] = value
        plain["architecture"], plain["scaling"] = self.architecture.record(), self.scaling.kind
        arrays |= {"scaling.shift": self.scaling.shift, "scaling.scale": self.scaling.scale}
        header = {"format": FORMAT, "version": VERSION, "ntkit": ntkit.__version__, "arrays": sorted(arrays)} | plain
        with atomically(path) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as file:
            file.writestr("header.json", json.dumps(header, indent=1))
            for name, array in arrays.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)


def check_replaceable(path: Path) -> None:
    """Refuses to write a model over what is none: the data, say."""
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        with zipfile.ZipFile(path) as file:
            known = json.loads(file.read("header.json"))["format"] == FORMAT
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError, NotImplementedError):
        known = False
    if not known:
        raise InputError(f"`--out`: {str(path)!r} is there, and is no model of ntkit's: choose another name.")


def load_model(path: Path) -> Model:
    """A model from a file. **Raises:** `InputError` if it is missing, damaged, of another format, or too new."""
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder, not a model. `ntkit fit` makes one.")
    if not path.is_file():
        raise InputError(f"There is no file {str(path)!r}. `ntkit fit` makes one.")
    try:
        with zipfile.ZipFile(path) as file:
            header = _header(file, path)
            arrays = {name: _array(file, name) for name in header["arrays"]}
        return _assembled(header, arrays)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"{path.name} is damaged, or not a model that `ntkit fit` saved ({error}). Fit and save it again."
        ) from error


def _header(file: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    header = json.loads(file.read("header.json"))
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError("this is not a model that `ntkit fit` saved.")
    if header.get("version") not in range(1, VERSION + 1):
        raise InputError(
            f"the model has format version {header.get('version')}, written by ntkit {header.get('ntkit')}, but this "
            f"is ntkit {ntkit.__version__}, which reads versions 1 to {VERSION}. Upgrade ntkit, or fit again."
        )
    return header


def _array(file: zipfile.ZipFile, name: str) -> np.ndarray:
    # Reading the entry whole checks its checksum before anything is made of it.
    return np.lib.format.read_array(io.BytesIO(file.read(f"{name}.npy")), allow_pickle=False)


def _assembled(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Model:
    fields = {field.name for field in dataclasses.fields(Model)}
    plain = {name: value for name, value in header.items() if name in fields}
    known = plain["architecture"]
    plain["architecture"] = (OwnNetwork if "own" in known else Architecture).recorded(known)
    plain["columns"] = tuple(plain["columns"])
    shift, scale = arrays.pop("scaling.shift"), arrays.pop("scaling.scale")
    plain["scaling"] = Scaling(plain["scaling"], shift, scale)
    plain |= {name: float(plain[name]) for name in ("alpha", "amplitude", "temperature")}
    fields_of_model: dict[str, Any] = plain | arrays
    model = Model(**fields_of_model)
    if model.task not in ("regression", "classification"):
        raise ValueError(f"its task is {model.task!r}")
    n = len(model.inputs)
    square = model.factor.shape == ((n, n) if model.task == "regression" else (0, 0))
    if model.inputs.ndim != 2 or model.weights.shape[:1] != (n,) or not square:
        raise ValueError("its arrays do not fit together")
    for name, value in (fields_of_model | {"scaling.shift": shift, "scaling.scale": scale}).items():
        if isinstance(value, (float, np.ndarray)) and not _is_finite(value):
            raise ValueError(f"its {name} holds what is not finite")
    return model


def _is_finite(value: Any) -> bool:
    """Of numbers; labels may be text."""
    value = np.asarray(value)
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def fit_model(
    dataset: Dataset,
    scaling: Scaling,
    architecture: Architecture | OwnNetwork,
    alpha: float,
    *,
    memory: str | None = None,
    target: str = "",
    criterion: str = "",
) -> Model:
    """Fits `NTKRegressor` or `NTKClassifier` to the training examples of a data set."""
    from ntkit.sklearn import NTKClassifier, NTKRegressor

    x, kernel = scaling(dataset.x), architecture.as_kernel()
    common: dict[str, Any] = {
        "task": dataset.kind,
        "architecture": architecture,
        "alpha": alpha,
        "scaling": scaling,
        "inputs": x,
        "columns": dataset.columns,
        "target": target,
        "source": dataset.source,
        "criterion": criterion,
    }
    if dataset.kind == "classification":
        classifier = NTKClassifier(kernel=kernel, alpha=alpha, memory=memory).fit(x, dataset.y)
        return Model(
            **common,
            weights=classifier.posterior_.weights,
            classes=classifier.classes_,
            temperature=classifier.temperature_,
        )
    regressor = NTKRegressor(kernel=kernel, alpha=alpha, normalize_y=True, memory=memory).fit(x, dataset.y)
    left_out = regressor.posterior_.leave_one_out()
    y = regressor.posterior_.y
    errors = (y - left_out.mean).reshape(len(x), -1) ** 2
    return Model(
        **common,
        weights=regressor.posterior_.weights.reshape(len(x), -1),
        offset=np.atleast_1d(regressor._offset),
        spread=np.atleast_1d(regressor._scale),
        factor=np.asarray(regressor.posterior_._solver.lower),
        amplitude=float(np.mean(errors / left_out.variance[:, None])),
        flat=dataset.y.ndim == 1,
    )
