"""Quantities in training, over time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from ntkit.plots._figure import COLOURS, framed

_STYLES: list[Any] = ["-", (0, (5, 2)), (0, (1, 1)), "-.", (0, (3, 1, 1, 1, 1, 1))]
_MARKS = "sDo^v"


def trainings(
    ax: Axes,
    times: Float[np.ndarray, " t"],
    curves: Mapping[str, Float[np.ndarray, "s t"]],
    *,
    limit: Float[np.ndarray, " t"] | None = None,
    name: str = "infinitely wide",
    marks: Mapping[str, Sequence[float]] | None = None,
) -> Axes:
    """Curves over the time of training, a colour and a dash for each group, a line for each of its draws.

    `limit`: a curve drawn dashed in black. `marks`: values at the same times, drawn as hollow marks.
    """
    for k, (label, lines) in enumerate(curves.items()):
        colour, style = COLOURS[k % len(COLOURS)], _STYLES[k % len(_STYLES)]
        for i, line in enumerate(lines):
            ax.plot(times, line, linestyle=style, color=colour, linewidth=1.6, label=label if i == 0 else None)
    if limit is not None:
        ax.plot(times, limit, linestyle=(0, (4, 2)), color="black", linewidth=1.8, label=name, zorder=5)
    for k, (label, values) in enumerate((marks or {}).items()):
        ax.plot(
            times, values, _MARKS[k % len(_MARKS)], color=COLOURS[(len(curves) + k) % len(COLOURS)], markersize=6,
            markerfacecolor="none", markeredgewidth=1.4, label=label,
        )  # fmt: skip
    ax.set_xlabel("time t (steps times learning rate)")
    framed(ax, 3)
    return ax
