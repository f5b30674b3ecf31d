"""Accuracies of several models beside those that were published."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ntkit.errors import InputError
from ntkit.plots._figure import COLOURS, FAINT


def accuracies(
    ax: Axes,
    names: Sequence[str],
    ours: Sequence[float],
    errors: Sequence[float],
    published: Sequence[Mapping[int, float]],
    *,
    name: str = "ntkit",
) -> Axes:
    """Test accuracies as dots with bars of one standard error, a line for each model, the first one on top.

    `published`: of each model accuracies by the number of training images, drawn as hollow marks, one colour and one
    shape for each number. All are shares between 0 and 1, drawn in percent.
    """
    if not len(names) == len(ours) == len(errors) == len(published):
        raise InputError(
            f"`names`, `ours`, `errors` and `published` must go together, but are {len(names)}, {len(ours)}, "
            f"{len(errors)}, {len(published)}."
        )
    height = np.arange(len(names))
    percent, bars = 100 * np.asarray(ours, np.float64), 100 * np.asarray(errors, np.float64)
    ax.errorbar(percent, height, xerr=bars, fmt="o", color=COLOURS[0], markersize=6, capsize=3, label=name, zorder=3)
    shapes = "sD^v"
    for k, images in enumerate(sorted({n for known in published for n in known})):
        rows = [i for i, known in enumerate(published) if images in known]
        ax.plot(
            [100 * published[i][images] for i in rows], rows, shapes[k % 4], color=COLOURS[1 + k % 6], markersize=7,
            markerfacecolor="none", markeredgewidth=1.6, label=f"published, {images} images",
        )  # fmt: skip
    ax.set_yticks(height, list(names))
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel("test accuracy (%)")
    ax.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] != name)  # ours first
    figure: Any = ax.figure
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=3, frameon=False
    )
    return ax
