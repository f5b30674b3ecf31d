"""Examples and what was predicted for them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes

from ntkit.errors import InputError
from ntkit.plots._figure import COLOURS, FAINT, INK


def examples(
    ax: Axes, images: Float[np.ndarray, "k h w *c"], captions: Sequence[str], *, wrong: Sequence[bool], columns: int = 6
) -> Axes:
    """A board of images, each with a caption below; captions of those that are `wrong` are orange and in bold."""
    if not len(images) == len(captions) == len(wrong):
        raise InputError(
            f"`images`, `captions` and `wrong` must go together, but are {len(images)}, {len(captions)}, {len(wrong)}."
        )
    lines = 1 + max((c.count("\n") for c in captions), default=0)
    step = 1.1 + 0.17 * lines
    for i, (image, caption, bad) in enumerate(zip(images, captions, wrong, strict=True)):
        left, top = (i % columns) * 1.15, -(i // columns) * step
        ax.imshow(image, cmap="gray_r", extent=(left, left + 1, top - 1, top), interpolation="nearest", aspect="equal")
        ax.text(
            left + 0.5, top - 1.05, caption, ha="center", va="top", fontsize=8,
            color=COLOURS[1] if bad else INK, fontweight="bold" if bad else "normal",
        )  # fmt: skip
    rows = -(-len(images) // columns)
    ax.set(xlim=(-0.1, columns * 1.15 - 0.05), ylim=(-rows * step + 0.05, 0.1))
    ax.set_axis_off()
    return ax


def probabilities(
    ax: Axes,
    probability: Float[np.ndarray, "k c"],
    classes: Shaped[np.ndarray, " c"],
    truth: Shaped[np.ndarray, " k"],
    names: Sequence[str],
) -> Axes:
    """The predicted probabilities of each row as a bar, the parts being its classes; the true class carries a mark."""
    if len(classes) > len(COLOURS):
        top = np.argsort(-probability.mean(axis=0))[: len(COLOURS)]
        probability, classes = probability[:, np.sort(top)], classes[np.sort(top)]
    height = np.arange(len(names))
    start = np.zeros(len(names))
    for i, name in enumerate(classes):
        ax.barh(
            height, probability[:, i], left=start, color=COLOURS[i], height=0.75, label=str(name), edgecolor="white"
        )
        hit = truth == name
        middle = (start + probability[:, i] / 2)[hit]
        ax.plot(middle, height[hit], "o", color="white", markeredgecolor=INK, markersize=6)
        start = start + probability[:, i]
    ax.plot([], [], "o", color="white", markeredgecolor=INK, markersize=6, label="true class")
    ax.set_yticks(height, names)
    ax.invert_yaxis()
    ax.set(xlabel="predicted probability", xlim=(0, 1))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title="class", frameon=False)
    return ax


def predictions(
    ax: Axes,
    truth: Float[np.ndarray, " m"],
    mean: Float[np.ndarray, " m"],
    std: Float[np.ndarray, " m"],
    *,
    unit: str = "target",
) -> Axes:
    """Predictions against the truth, with bars of two standard deviations; the diagonal is where they agree."""
    covered = np.abs(truth - mean) <= 2 * std
    low, high = min(truth.min(), mean.min()), max(truth.max(), mean.max())
    margin = 0.05 * (high - low)
    for hit, colour, label in ((covered, COLOURS[0], "within two deviations"), (~covered, COLOURS[1], "outside")):
        if hit.any():
            label = f"{label}: {100 * hit.mean():.1f} %"
            ax.errorbar(
                truth[hit],
                mean[hit],
                2 * std[hit],
                fmt="o",
                color=colour,
                markersize=3,
                linewidth=0.6,
                alpha=0.6,
                label=label,
            )
    ax.plot([low - margin, high + margin], [low - margin, high + margin], color=FAINT, linewidth=1, zorder=0)
    ax.set(xlabel=f"true {unit}", ylabel=f"predicted {unit}", xlim=(low - margin, high + margin))
    ax.legend(loc="upper left", frameon=False)
    return ax
