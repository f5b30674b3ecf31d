"""Deviations that fall as a power of a size."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Real
from matplotlib.axes import Axes

from ntkit.diagnose import Rate
from ntkit.plots._figure import COLOURS, framed
from ntkit.plots.widths import mark_sizes, power

_MARKS, _STYLES = "osD^vP", ("-", "--", "-.", ":")


def powers(
    ax: Axes,
    sizes: Real[np.ndarray, " w"],
    groups: Mapping[str, tuple[Float[np.ndarray, "w s"], Rate]],
    *,
    of: str = "m",
    squared: bool = False,
    expected: Mapping[str, Float[np.ndarray, " w"]] | None = None,
) -> Axes:
    """Deviations over sizes, both on logarithmic scales: of each group a dot for every draw, a mark for their mean, and
    the fitted power of the size as a line.

    - `of`: what the size is called in the legend. `squared`: root mean squares in place of geometric means.
      `expected`: curves in black.
    """
    ends = np.array([sizes.min(), sizes.max()], float)
    for k, (name, (values, rate)) in enumerate(groups.items()):
        colour, positive = COLOURS[k % len(COLOURS)], np.where(values > 0, values, np.nan)
        middle = np.sqrt(np.mean(values**2, axis=1)) if squared else np.exp(np.log(positive).mean(axis=1))
        each = np.broadcast_to(sizes[:, None], values.shape)
        ax.plot(each.ravel(), positive.ravel(), "o", color=colour, markersize=2.5, alpha=0.3, linewidth=0)
        ax.plot(
            ends, rate.constant * ends**rate.slope, _STYLES[k % len(_STYLES)], color=colour, linewidth=1.5, zorder=3
        )
        ax.plot(
            sizes, middle, _MARKS[k % len(_MARKS)], color=colour, markersize=6, linewidth=0, markerfacecolor="white",
            markeredgewidth=1.5, label=f"{name}: {power(rate, of)}", zorder=4,
        )  # fmt: skip
    for name, values in (expected or {}).items():
        ax.plot(sizes, values, linestyle=(0, (1, 1)), color="black", linewidth=1.8, label=name, zorder=5)
    ax.set(xscale="log", yscale="log")
    mark_sizes(ax, sizes)
    framed(ax, 1, of_many=1)
    return ax
