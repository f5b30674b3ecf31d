"""One look for all figures: colours that the colour-blind can tell apart, an opaque white ground for dark pages."""

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito 2008; black first, then in the order of contrast on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, FAINT = "#222222", "#888888"

_STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


def figure(width: float = 6.0, height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure of one pair of axes, sizes in inches, 150 dots per inch, without a window."""
    with mpl.rc_context(_STYLE):
        fig = Figure(figsize=(width, height), dpi=150, layout="constrained")
        return fig, fig.add_subplot()


def panels(count: int, width: float = 6.0, height: float = 4.5) -> tuple[Figure, list[Axes]]:
    """A figure of several pairs of axes side by side, each of these sizes in inches."""
    with mpl.rc_context(_STYLE):
        fig = Figure(figsize=(count * width, height), dpi=150, layout="constrained")
        return fig, [fig.add_subplot(1, count, k + 1) for k in range(count)]


def framed(ax: Axes, columns: int, of_many: int = 2) -> None:
    """A faint grid, and the legend below: of a figure of one pair of axes within it, in several columns; of many pairs
    in `of_many`."""
    ax.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    whole: Any = ax.figure
    if len(whole.axes) == 1:
        whole.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
    else:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=of_many, frameon=False)
