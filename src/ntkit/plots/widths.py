"""Kernels of finite networks coming to the infinite one."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from ntkit.diagnose import Rate, WidthStudy
from ntkit.plots._figure import COLOURS, FAINT, INK

# So many layers can be told apart by colour and shape.
_MARKS = "osD^vP"


def width_study(ax: Axes, study: WidthStudy, *, bounds: bool = True, delta: float = 0.05) -> Axes:
    """Deviations of finite kernels from the infinite one over the width, both on logarithmic scales.

    Each draw is a small dot, their geometric mean a large one; the line is the fitted power of the width. With them go
    the means of each layer's own deviation; of more than six layers the first five and the last. `bounds`: what theory
    promises, dashed in grey, with its constants set to 1, as `study.bounds(delta)` has them: their slopes say
    something, their heights do not.
    """
    m = study.widths
    ends, order = np.array([m.min(), m.max()]), np.argsort(m)
    if bounds:
        for (name, values), style in zip(study.bounds(delta).items(), ("--", "-.", ":"), strict=True):
            ax.plot(
                m[order],
                values[order],
                style,
                color=FAINT,
                linewidth=1.4,
                label=f"bound, constants 1:\n{name}",
                zorder=1,
            )
    count = study.deviations_by_layer.shape[1]
    shown = list(range(count)) if count <= 6 else [*range(5), count - 1]
    for place, layer in enumerate(shown if count > 1 else []):
        means = _means(study.deviations_by_layer[:, layer])
        label = f"layer {study.layers[layer]}: {power(study.rate_by_layer[layer])}"
        ax.plot(
            m[order], means[order], _MARKS[place] + "-", color=COLOURS[1 + place], markersize=4, linewidth=0.9,
            markerfacecolor="white", label=label, zorder=2,
        )  # fmt: skip
    each = np.broadcast_to(m[:, None], study.deviations.shape)
    ax.plot(
        each.ravel(), study.deviations.ravel(), "o", color=COLOURS[0], markersize=2.5, alpha=0.35, linewidth=0,
        label="one draw",
    )  # fmt: skip
    line = study.rate.constant * ends**study.rate.slope
    ax.plot(ends, line, color=COLOURS[0], linewidth=1.8, label=f"whole kernel: {power(study.rate)}", zorder=3)
    ax.plot(
        m, _means(study.deviations), "o", color=COLOURS[0], markersize=6, linewidth=0, zorder=4,
        label="geometric mean of the draws",
    )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel=_abscissa(study))
    ax.set_ylabel(r"$\|K - K_\infty\|_F \;/\; \|K_\infty\|_F$", color=INK)
    mark_sizes(ax, m)
    ax.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax


def _means(deviations: np.ndarray) -> np.ndarray:
    """Geometric, as the fit takes the draws; NaN, which is not drawn, where one is 0."""
    positive = np.where(deviations > 0, deviations, np.nan)
    return np.exp(np.log(positive).mean(axis=1))


def power(rate: Rate, of: str = "m") -> str:
    return rf"${of}^{{{rate.slope:.3f} \pm {rate.standard_error:.3f}}}$" if np.isfinite(rate.slope) else "no rate"


def _abscissa(study: WidthStudy) -> str:
    random = (study.drawn != study.drawn[:, :1, :1]).any()
    return "harmonic mean of the random hidden widths m" if random else "hidden width m"


def mark_sizes(ax: Axes, m: np.ndarray) -> None:
    """The sizes themselves as ticks, as far as their numbers do not touch."""
    ticks: list[float] = []
    for width in np.sort(m):
        if not ticks or width / ticks[-1] > (m.max() / m.min()) ** 0.09:
            ticks.append(float(width))
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{tick:.0f}" if tick >= 10 else f"{tick:.3g}" for tick in ticks])
