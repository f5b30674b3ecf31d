"""Trained networks coming to their kernel: over the time of training, and over the width."""

from typing import Any

from matplotlib.axes import Axes

from ntkit.diagnose import Distances, TrainingStudy
from ntkit.errors import InputError
from ntkit.plots._figure import COLOURS, framed
from ntkit.plots.powers import powers

_MARKS = "osD^vP"
_NAMES = {
    "train": "infinite NTK, training examples",
    "test": "infinite NTK, test examples",
    "linear_train": "own linearization, training examples",
    "linear_test": "own linearization, test examples",
}


def training_study(ax: Axes, study: TrainingStudy, which: str = "train", *, examples: int = -1) -> Axes:
    """The distance over the time of training, both on logarithmic scales: a curve for each width, the mean over the
    networks in a band of one standard error.

    - `which`: one of `study.distances`: "train", "test", "linear_train", "linear_test". `examples`: the place of n.
    """
    found = _known(study, which)
    seen = found.steps > 0  # a logarithm
    times = study.times[seen]
    for k, width in enumerate(found.widths):
        mean, error = found.mean[examples, k, seen], found.standard_error[examples, k, seen]
        style: Any = {"color": COLOURS[k % len(COLOURS)], "marker": _MARKS[k % len(_MARKS)]}
        ax.plot(times, mean, markersize=4, linewidth=1.4, label=f"width {width}", **style)
        ax.fill_between(times, mean - error, mean + error, color=style["color"], alpha=0.2, linewidth=0)
    words = _NAMES[which].split(", ")
    ax.set(
        xscale="log", yscale="log", xlabel="time t (steps times learning rate)",
        ylabel=f"distance to the {words[0]}\non {words[1]} (units of y)",
    )  # fmt: skip
    framed(ax, 3)
    return ax


def training_rates(ax: Axes, study: TrainingStudy, *, examples: int = -1, step: int = -1) -> Axes:
    """The distances of all networks over the width after some steps, with their fitted powers, as `powers` draws them.

    - `examples`, `step`: places of n and of the number of steps, by default the last.
    """
    groups = {
        _NAMES[name]: (each.values[examples, :, :, step], each.rate(examples=examples, step=step))
        for name, each in study.distances.items()
    }
    powers(ax, study.train.widths.astype(float), groups)
    ax.set(xlabel="hidden width m", ylabel=f"distance at t = {study.times[step]:.3g} (units of y)")
    return ax


def _known(study: TrainingStudy, which: str) -> Distances:
    if which not in study.distances:
        raise InputError(f"`which` must be one of {', '.join(map(repr, study.distances))}; got {which!r}.")
    return study.distances[which]
