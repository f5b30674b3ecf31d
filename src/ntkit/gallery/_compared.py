"""Trained networks beside what their kernel says, as JSON has them, and back."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ntkit.diagnose import Distances, TrainingStudy
from ntkit.gallery._study import Numbers


def plain(study: TrainingStudy) -> dict[str, Any]:
    """The axes, how the networks were trained, and all distances."""
    axes = {name: getattr(study.train, name).tolist() for name in ("examples", "widths", "steps")}
    how = {name: getattr(study, name) for name in ("learning_rate", "batch", "scale", "centred")}
    measured = study.distances | {"residual": study.residual}
    return axes | how | {name: each.values.tolist() for name, each in measured.items()}


def restored(row: Numbers) -> TrainingStudy:
    """The study of such a row."""
    examples, widths, steps = (np.asarray(row[name]) for name in ("examples", "widths", "steps"))
    kinds = ("train", "test", "linear_train", "linear_test", "residual")
    found: dict[str, Any] = {
        name: Distances(examples, widths, steps, np.asarray(row[name], float)) if name in row else None
        for name in kinds
    }
    how: dict[str, Any] = {name: row[name] for name in ("learning_rate", "batch", "scale", "centred")}
    return TrainingStudy(**found, **how)


def sphere(count: int, dimension: int, seed: int) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Inputs drawn evenly from the sphere of radius sqrt(d), and the targets sin(x_1) + x_1 x_2 / 2."""
    x = np.random.default_rng(seed).normal(size=(count, dimension))
    x *= np.sqrt(dimension) / np.linalg.norm(x, axis=1, keepdims=True)
    return x, np.sin(x[:, 0]) + x[:, 0] * x[:, 1] / 2


def counted(meter: Callable[[float], None], done: int) -> Callable[[int, int], None]:
    """Moves the bar by the networks that `compare_training` says are done, after `done` others."""
    return lambda own, _: meter(done + own)


def told(slope: float, error: float) -> str:
    return f"{slope:.3f} ± {error:.3f}"


def largest_ratio(values: Sequence[float] | Float[np.ndarray, " k"]) -> float:
    """Of each value to the one before: below 1 where they fall."""
    array = np.asarray(values, float)
    return float(np.max(array[1:] / array[:-1]))
