"""Deviations that fall as a power of a size."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes

from ntkit.diagnose import Rate
from ntkit.plots._figure import COLOURS, framed

_MARKS, _STYLES = "osD^v", ("-", "--", "-.", ":")


def powers(
    ax: Axes,
    sizes: Int[np.ndarray, " w"],
    deviations: Mapping[str, Float[np.ndarray, "w s"]],
    rates: Mapping[str, Rate],
    *,
    expected: Mapping[str, Float[np.ndarray, " w"]] | None = None,
) -> Axes:
    """Groups of deviations over the size, both on logarithmic scales: a dot for each draw, a mark for their root mean
    square, and the fitted power of the group's name in `rates` as a line. `expected`: curves in black."""
    ends = np.array([sizes.min(), sizes.max()], float)
    for k, (name, values) in enumerate(deviations.items()):
        colour, rate = COLOURS[k % len(COLOURS)], rates[name]
        each = np.broadcast_to(sizes[:, None], values.shape)
        ax.plot(each.ravel(), values.ravel(), "o", color=colour, markersize=2.5, alpha=0.3, linewidth=0)
        ax.plot(
            sizes, np.sqrt(np.mean(values**2, axis=1)), _MARKS[k % len(_MARKS)], color=colour, markersize=7,
            markerfacecolor="white", markeredgewidth=1.5, label=f"{name}, rms of the draws", zorder=4,
        )  # fmt: skip
        ax.plot(
            ends, rate.constant * ends**rate.slope, _STYLES[k % len(_STYLES)], color=colour, linewidth=1.5,
            label=f"{name}, fit: power {rate.slope:.3f} ± {rate.standard_error:.3f}", zorder=3,
        )  # fmt: skip
    for name, values in (expected or {}).items():
        ax.plot(sizes, values, linestyle=(0, (1, 1)), color="black", linewidth=1.8, label=name, zorder=5)
    ax.set(xscale="log", yscale="log", ylabel="relative deviation")
    framed(ax, 2)
    return ax
