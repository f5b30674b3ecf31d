"""What a Gram matrix looks like, and its eigenvalues."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes

from ntkit.errors import InputError
from ntkit.plots._figure import COLOURS, FAINT


def gram_matrix(
    ax: Axes,
    matrix: Float[np.ndarray, "n m"],
    *,
    labels: Shaped[np.ndarray, " k"] | None = None,
    name: str = "kernel",
    correlation: bool = True,
) -> Axes:
    """A Gram matrix as an image, its rows and columns sorted by `labels`, with the classes marked.

    `correlation`: k(x, y) / sqrt(k(x, x) k(y, y)), which does not depend on the lengths of the examples. Labels that
    are more than 20 different numbers, as in regression, only sort.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise InputError(f"`matrix` must be square, (n, n), but has shape {matrix.shape}.")
    labels = None if labels is None else np.asarray(labels)
    if labels is not None and labels.shape != matrix.shape[:1]:
        raise InputError(f"`labels` must be one for each of the {len(matrix)} examples, but has shape {labels.shape}.")
    if correlation:
        root = np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))
        matrix = matrix / root[:, None] / root[None, :]
    order = np.arange(len(matrix)) if labels is None else np.argsort(labels, kind="stable")
    shown = matrix[np.ix_(order, order)]
    # The diagonal is 1; the colours are for the rest.
    off = shown[~np.eye(len(shown), dtype=bool)] if len(shown) > 1 else shown
    low, high = np.percentile(off, [1, 99])
    image = ax.imshow(shown, cmap="viridis", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03, extend="both")
    bar.set_label(f"correlation under the {name}" if correlation else f"{name}(x, x')")
    bar.outline.set_visible(False)
    ax.spines[:].set_visible(False)
    if labels is None or len(np.unique(labels)) > 20:
        what = "training examples" if labels is None else "training examples, sorted by target"
        ax.set(xlabel=what, ylabel=what)
        return ax
    _mark_classes(ax, labels[order])
    return ax


def _mark_classes(ax: Axes, labels: Shaped[np.ndarray, " n"]) -> None:
    names, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    for edge in starts[1:]:
        ax.axhline(edge - 0.5, color="white", linewidth=0.6)
        ax.axvline(edge - 0.5, color="white", linewidth=0.6)
    middle = starts + counts / 2 - 0.5
    crowded = max(len(str(n)) for n in names) * len(names) > 40
    ax.set_xticks(middle, [str(n) for n in names], rotation=60 if crowded else 0, ha="right" if crowded else "center")
    ax.set_yticks(middle, [str(n) for n in names])
    ax.tick_params(length=0)
    ax.set(xlabel="class of x'", ylabel="class of x")


def spectrum(
    ax: Axes,
    eigenvalues: Mapping[str, Float[np.ndarray, " n"]],
    *,
    ridge: Mapping[str, float] | None = None,
) -> Axes:
    """Eigenvalues of Gram matrices against their rank, both on logarithmic scales, one line for each name.

    `ridge`: a level for some of the names, drawn dashed: directions below it are hardly learned. Eigenvalues at or
    below the rounding of the largest are left out, and their number is said.
    """
    styles: list[Any] = ["-", "--", "-.", ":"]
    for i, (name, values) in enumerate(eigenvalues.items()):
        values = np.sort(np.asarray(values, np.float64))[::-1]
        seen = values[values > np.finfo(np.float64).eps * values[0]]
        colour, left = COLOURS[i % len(COLOURS)], len(values) - len(seen)
        label = f"{name} ({left} of {len(values)} are 0 within rounding)" if left else name
        ax.loglog(np.arange(1, len(seen) + 1), seen, styles[i % 4], color=colour, linewidth=1.8, label=label)
    for i, name in enumerate(eigenvalues):
        if ridge and name in ridge:
            ax.axhline(
                ridge[name], color=COLOURS[i % len(COLOURS)], linewidth=1, linestyle=(0, (4, 3)), label=f"ridge, {name}"
            )
    ax.set(xlabel="rank of the eigenvalue", ylabel="eigenvalue of the Gram matrix")
    ax.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    if len(ax.lines) > 1 or "(" in str(ax.lines[0].get_label()):
        ax.legend(frameon=False)
    return ax
