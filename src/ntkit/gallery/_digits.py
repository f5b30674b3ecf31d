"""The images of digits that experiments train on: MNIST, or scikit-learn's small ones for a first look."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from ntkit import data as sets
from ntkit.errors import ComputationError, InputError


def available(source: str) -> tuple[str, str]:
    """The name of the images that there are, `source` or in place of MNIST scikit-learn's digits, and what they are."""
    try:
        return source, sets.load(source).source
    except ComputationError as error:
        if source != "mnist":
            raise
        return "digits", f"scikit-learn's digits in place of MNIST. {error}"


def digits(source: str, count: int, seed: int) -> tuple[Float[np.ndarray, "n d"], Shaped[np.ndarray, " n"]]:
    """`count` images as rows of pixels in [0, 1], in float32, drawn class by class, and their labels.

    **Raises:** `InputError` for data without classes, or too few examples.
    """
    dataset: Any = sets.load(source)
    if dataset.kind != "classification":
        raise InputError(f"`data` must have classes, as mnist or digits, but {source!r} is for regression.")
    if len(dataset.x) < count:
        raise InputError(f"`data` must have {count} training examples for this experiment, but has {len(dataset.x)}.")
    chosen = sets.sample(dataset, count, seed=seed)
    return chosen.x.astype(np.float32), chosen.y
