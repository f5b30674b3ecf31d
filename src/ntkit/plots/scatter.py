"""Examples in the plane."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes

from ntkit.errors import InputError
from ntkit.plots._figure import FAINT, INK


def scattered(
    ax: Axes, points: Float[np.ndarray, "n 2"], labels: Shaped[np.ndarray, " n"], *, names: Sequence[str]
) -> Axes:
    """Each example as its label, at its place: ten classes are more than colours can tell apart.

    `names`: of the two axes.
    """
    if len(points) != len(labels):
        raise InputError(f"`labels` must be one for each of the {len(points)} points, but are {len(labels)}.")
    for (a, b), label in zip(points, labels, strict=True):
        ax.text(a, b, str(label), ha="center", va="center", fontsize=7, color=INK, alpha=0.8)
    margin = 0.06 * np.ptp(points, axis=0)
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel=names[0], ylabel=names[1])
    ax.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    return ax
