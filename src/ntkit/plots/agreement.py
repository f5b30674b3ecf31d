"""Measured values over predicted ones."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from ntkit.plots._figure import COLOURS, framed

_MARKS = "osD^vPXd*"


def agreement(
    ax: Axes,
    groups: Mapping[str, tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]],
    *,
    line: str = "measured = predicted",
) -> Axes:
    """Groups of (predicted, measured, standard error), a colour and a shape each, both axes logarithmic; bars are two
    standard errors long to each side. The diagonal is dashed in black."""
    for k, (name, (predicted, measured, error)) in enumerate(groups.items()):
        ax.errorbar(
            predicted, measured, yerr=[np.minimum(2 * error, 0.99 * measured), 2 * error], fmt=_MARKS[k % len(_MARKS)],
            color=COLOURS[k % len(COLOURS)], markersize=6, markerfacecolor="none", markeredgewidth=1.4, capsize=3,
            label=name, zorder=3,
        )  # fmt: skip
    every = np.concatenate([predicted for predicted, *_ in groups.values()])
    ends = np.array([every.min() / 1.5, every.max() * 1.5])
    ax.plot(ends, ends, color="black", linewidth=1.2, linestyle=(0, (4, 2)), label=line, zorder=2)
    ax.set(xscale="log", yscale="log", xlabel="predicted", ylabel="measured")
    for axis in (ax.xaxis, ax.yaxis):  # matplotlib's own labels between decades touch
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    framed(ax, 2)
    return ax
