"""Functions along the unit circle: kernels of single networks, and trained networks, about their limits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from ntkit.plots._figure import COLOURS, FAINT, INK, framed

_QUANTILE = 1.2815515655446004  # the 90th percentile of the standard normal
_STYLES: list[Any] = ["-", (0, (1, 1)), "-.", (0, (5, 1))]


def along_circle(
    ax: Axes,
    angles: Float[np.ndarray, " a"],
    draws: Mapping[str, Float[np.ndarray, "s a"]],
    *,
    limit: Float[np.ndarray, " a"] | None = None,
    name: str = "infinitely wide",
) -> Axes:
    """Groups of functions of the angle, a thin line for each draw, a colour and a dash for each group.

    `limit`: what they tend to, dashed in black on top of them.
    """
    for k, (label, lines) in enumerate(draws.items()):
        colour, style = COLOURS[k % len(COLOURS)], _STYLES[k % len(_STYLES)]
        for i, line in enumerate(lines):
            ax.plot(
                angles, line, linestyle=style, color=colour, linewidth=0.9, alpha=0.75, label=label if i == 0 else None
            )
    if limit is not None:
        ax.plot(angles, limit, linestyle=(0, (4, 2)), color="black", linewidth=1.8, label=name, zorder=5)
    _frame(ax)
    return ax


def band_on_circle(
    ax: Axes,
    angles: Float[np.ndarray, " a"],
    mean: Float[np.ndarray, " a"],
    deviation: Float[np.ndarray, " a"],
    *,
    draws: Mapping[str, Float[np.ndarray, "s a"]],
    points: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]] | None = None,
) -> Axes:
    """The 10th, 50th and 90th percentiles of a Gaussian along the circle, grey, and those of some draws, coloured.

    `points`: angles and labels of the training examples.
    """
    low, high = mean - _QUANTILE * deviation, mean + _QUANTILE * deviation
    ax.fill_between(angles, low, high, color=FAINT, alpha=0.25, linewidth=0, label="Gaussian, 10 % to 90 %")
    ax.plot(angles, mean, color=INK, linewidth=1.6, linestyle=(0, (4, 2)), label="Gaussian, median")
    for k, (label, functions) in enumerate(draws.items()):
        for i, values in enumerate(np.percentile(functions, [10, 50, 90], axis=0)):
            ax.plot(
                angles, values, linestyle=_STYLES[k % len(_STYLES)], color=COLOURS[k % len(COLOURS)], linewidth=1.4,
                label=label if i == 0 else None,
            )  # fmt: skip
    if points is not None:
        ax.plot(*points, "o", color="black", markersize=6, zorder=6, label="training examples")
    _frame(ax)
    return ax


def _frame(ax: Axes) -> None:
    ax.set_xlim(-np.pi, np.pi)
    ax.set_xticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["-π", "-π/2", "0", "π/2", "π"])
    ax.set_xlabel("angle γ (rad)")
    framed(ax, 2)
