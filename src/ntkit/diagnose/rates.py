"""How fast deviations fall, fitted with an error; and the seeds that a study takes."""

import math
import operator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ntkit.errors import InputError


class Rate(NamedTuple):
    """deviation = constant * size^slope, the size being a width or a number of features, by least squares over the
    logarithms of all draws; NaN where a deviation is 0 and has none. `standard_error`: of the slope, from the scatter
    around the line."""

    slope: float
    standard_error: float
    constant: float


def fit(sizes: Float[np.ndarray, " w"], deviations: Float[np.ndarray, "w s"]) -> Rate:
    """The line through log deviation over log size, of all draws."""
    if not (deviations > 0).all():
        return Rate(math.nan, math.nan, math.nan)
    at = np.repeat(np.log(sizes), deviations.shape[1])
    y = np.log(deviations).ravel()
    centred = at - at.mean()
    slope = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - slope * centred
    error = math.sqrt(float(rest @ rest) / (len(y) - 2) / float(centred @ centred))
    return Rate(slope, error, math.exp(float(y.mean() - slope * at.mean())))


def checked_seeds(seeds: Any, what: str = "networks of each width") -> list[int]:
    """A number of seeds, or these themselves, as a list. **Raises:** `InputError`; `what` are drawn with them."""
    try:
        # `index` takes whole numbers only.
        listed: Any = range(seeds) if isinstance(seeds, (int, np.integer)) and not isinstance(seeds, bool) else seeds
        numbers = [operator.index(seed) for seed in listed]
    except (TypeError, ValueError):
        raise InputError(f"`seeds` must be a number of seeds, or a list of them; got {seeds!r}.") from None
    if len(numbers) < 2 or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise InputError(
            f"`seeds` must be at least 2 {what}, or there is no standard error, or as many different seeds >= 0; got "
            f"{seeds!r}."
        )
    return numbers
