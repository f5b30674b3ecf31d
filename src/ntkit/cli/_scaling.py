"""What is done to the features before a network sees them; remembered by a saved model."""

import dataclasses

import numpy as np
from jaxtyping import Float

from ntkit.data import Dataset, unit_sphere
from ntkit.errors import InputError


@dataclasses.dataclass(frozen=True)
class Scaling:
    """`"standard"`: (x - shift) / scale of each feature; `"sphere"`: each example to mean square 1; `"none"`."""

    kind: str
    shift: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]

    @staticmethod
    def of(x: Float[np.ndarray, "n d"], kind: str) -> "Scaling":
        """Fitted to the training inputs. **Raises:** `InputError` where they are too large."""
        x = np.asarray(x, np.float64)
        shift, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
        if kind == "standard":
            from sklearn.preprocessing import StandardScaler

            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                fitted = StandardScaler().fit(x)
                shift, scale = np.asarray(fitted.mean_), np.asarray(fitted.scale_)
                good = np.isfinite(scale) & np.isfinite(np.mean((x - shift) ** 2, axis=0))
            if not good.all():
                raise InputError(
                    f"Feature {int(np.argmin(good))} (from 0) cannot be standardised: its squares are beyond the range "
                    "of numbers. Rescale it."
                )
        return Scaling(kind, shift, scale)

    def __call__(self, x: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m d"]:
        x = np.asarray(x, np.float64)
        if self.kind == "sphere":
            # The targets are a stand-in: only the inputs are moved.
            wrapped = Dataset(x, np.zeros(len(x)), None, None, "regression", x.shape[1:], "inputs", "inputs")
            return unit_sphere(wrapped, radius=float(np.sqrt(x.shape[1]))).x
        return (x - self.shift) / self.scale
