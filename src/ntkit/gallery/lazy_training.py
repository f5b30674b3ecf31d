"""Lazy training: the scale alpha of a model, and how near its training comes to that of its linearization.

L. Chizat, E. Oyallon and F. Bach, "On Lazy Training in Differentiable Programming", NeurIPS 2019, equations 2 and 3 and
theorem 2.2.

**Theirs.** The model alpha h(w) with h(w_0) = 0, trained on R(alpha h(w)) / alpha^2. As alpha grows the parameters move
by O(1 / alpha), and until any fixed time the trained model stays within O(1 / alpha) of its linearization, trained
alike.

**Ours.** `ntkit.compare_training`: h = f - f_0 for networks f with one hidden layer of Erf, on the sphere in R^4,
trained by gradient descent with each alpha in float64, always from the same w_0; the distance
sqrt(mean (alpha h - lin)^2) over training and test examples. In the NTK parameterization the width m is a scale as
well: to lowest order h's second derivatives along the path add m terms of random signs and of size m^(-3/2), so that
the distance is of order 1 / (alpha m). Only the width brings the kernel at the start to the infinite one, by m^(-1/2),
whatever alpha is.

**Criteria.** At each width the distance to the linearization falls as alpha^(-1), and at the largest alpha as m^(-1),
within three standard errors and 0.05 for the terms of higher order; slopes in alpha are fitted to each network, as all
alphas share its w_0, and averaged. It falls from each alpha to the next, and is at the smallest at least ten times that
at the largest. The distance to the training with the infinite kernel does not vanish with alpha: at the largest it is
at least half of that at the smallest.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

import ntkit
from ntkit import nn
from ntkit.diagnose import Rate, TrainingStudy
from ntkit.diagnose.rates import fit
from ntkit.gallery._compared import counted, largest_ratio, plain, restored, sphere, told
from ntkit.gallery._study import Criterion, Numbers, Rows, Study, Table

DIMENSION = 4
# The bend of the slopes by terms of higher order, at the scales and widths that are trained here.
BEND = 0.05


@dataclasses.dataclass(frozen=True)
class Settings:
    scales: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0)
    widths: tuple[int, ...] = (256, 1024, 4096)
    seeds: int = 30
    examples: int = 32
    test: int = 64
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    seed: int = 0


def network() -> nn.Sequential:
    return nn.mlp(depth=1, width=1, activation=nn.Erf(), w_std=1.5, b_std=0.3)


def measure(settings: Settings, rows: Rows, meter: Callable[[float], None]) -> dict[str, Any]:
    """The distances at each scale, of the same networks."""
    x, y = sphere(settings.examples + settings.test, DIMENSION, settings.seed)
    n, seeds = settings.examples, [1000 * settings.seed + k for k in range(settings.seeds)]
    groups, each = [], len(seeds) * len(settings.widths)
    for done, scale in enumerate(settings.scales):
        train = partial(
            ntkit.compare_training, network(), x[:n], y[:n], settings.widths, seeds, x_test=x[n:],
            steps=settings.steps, scale=scale, centred=True, linearized=True, progress=counted(meter, done * each),
        )  # fmt: skip
        with jax.enable_x64(True):
            groups.append(rows(f"scale {scale:g}", lambda train=train: plain(train())))
        meter((done + 1) * each)
    return {"groups": groups}


def find(numbers: Numbers) -> dict[str, Any]:
    studies = [restored(group) for group in numbers["groups"]]
    last, widths = studies[-1], studies[0].train.widths.tolist()
    found: dict[str, Any] = {"scales": [s.scale for s in studies], "widths": widths, "time": float(last.times[-1])}
    for which in ("linear_train", "linear_test", "train", "test"):
        ends = np.stack([s.distances[which].mean[0, :, -1] for s in studies], axis=1)
        found[which] = ends.tolist()
    found["rates_in_scale"] = {
        which: [list(_in_scale(studies, which, at)[:2]) for at in range(len(widths))]
        for which in ("linear_train", "linear_test")
    }
    found["rates_in_width"] = {
        which: [list(s.distances[which].rate()[:2]) for s in (studies[0], last)]
        for which in ("linear_train", "linear_test", "train", "test")
    }
    return found


def _ends(studies: Sequence[TrainingStudy], which: str, width: int) -> Float[np.ndarray, "a s"]:
    """After the last step, at each scale, of each network of one width."""
    return np.stack([study.distances[which].values[0, width, :, -1] for study in studies])


def _in_scale(studies: Sequence[TrainingStudy], which: str, width: int) -> Rate:
    """The mean over the networks of the slopes of each one, with the standard error of that mean."""
    scales, ends = np.array([study.scale for study in studies]), _ends(studies, which, width)
    logs = np.log(scales) - np.log(scales).mean()
    slopes = logs @ np.log(ends) / (logs @ logs)
    error = float(slopes.std(ddof=1)) / math.sqrt(len(slopes))
    return Rate(float(slopes.mean()), error, fit(scales, ends).constant)


def criteria(findings: Numbers) -> list[Criterion]:
    found, largest = [], findings["scales"][-1]
    for which, words in (("linear_train", "training"), ("linear_test", "test")):
        for width, (slope, error) in zip(findings["widths"], findings["rates_in_scale"][which], strict=True):
            found.append(_minus_one(f"rate in alpha, width {width}, {words} examples", slope, error))
        slope, error = findings["rates_in_width"][which][-1]
        found.append(_minus_one(f"rate in the width, alpha {largest:g}, {words} examples", slope, error))
    ratios, wide = max(map(largest_ratio, findings["linear_test"])), findings["test"][-1]
    overall = min(each[0] / each[-1] for each in findings["linear_test"])
    return [
        *found,
        Criterion("distance to that at the alpha before, test examples", ratios, high=1),
        Criterion("distance at the smallest alpha to that at the largest, test examples", overall, low=10),
        Criterion("distance to the infinite kernel's, largest alpha to smallest, widest", wide[-1] / wide[0], low=0.5),
    ]


def _minus_one(name: str, slope: float, error: float) -> Criterion:
    apart = 3 * error + BEND
    return Criterion(name, slope, -1 - apart, -1 + apart)


def table(findings: Numbers) -> Table:
    widths = findings["widths"]
    rows = [
        (
            f"{scale:g}",
            *(f"{findings[which][k][i]:.2e}" for which in ("linear_test", "test") for k in range(len(widths))),
        )
        for i, scale in enumerate(findings["scales"])
    ]
    rates = (told(*rate) for rate in findings["rates_in_scale"]["linear_test"])
    names = (f"{words}, {width}" for words in ("linearization", "infinite") for width in widths)
    return Table(("alpha", *names), (*rows, ("rate", *rates, *[""] * len(widths))))


def draw(axes: Sequence[Any], numbers: Numbers, findings: Numbers) -> None:
    from ntkit import plots

    studies = [restored(group) for group in numbers["groups"]]
    scales, widths, time = np.array(findings["scales"]), findings["widths"], findings["time"]
    curves = {f"α = {s.scale:g}": s.distances["linear_test"].mean[0, -1][None] for s in studies}
    plots.trainings(axes[0], studies[0].times, curves)
    axes[0].set(
        xscale="log", yscale="log", ylabel="distance to the own linearization\non test examples (units of y)",
        title=f"Width {widths[-1]}, mean of {studies[0].train.values.shape[2]} networks",
    )  # fmt: skip
    groups = {
        f"width {w}": (_ends(studies, "linear_test", k), _in_scale(studies, "linear_test", k))
        for k, w in enumerate(widths)
    }
    plots.powers(axes[1], scales, groups, of="\\alpha")
    axes[1].set(
        xlabel="scale α",
        ylabel="distance to the own linearization\non test examples (units of y)",
        title=f"Over the scale, t = {time:.3g}",
    )
    pair = studies[0], studies[-1]
    groups = {
        f"{words}, α = {s.scale:g}": (s.distances[which].values[0, :, :, -1], s.distances[which].rate())
        for which, words in (("linear_test", "own linearization"), ("test", "infinite NTK"))
        for s in pair
    }
    plots.powers(axes[2], np.asarray(widths, float), groups)
    axes[2].set(
        xlabel="hidden width m",
        ylabel="distance on test examples (units of y)",
        title=f"Over the width, t = {time:.3g}",
    )


STUDY = Study(
    name="lazy-training",
    words="The scale of a model, and how near its training comes to that of its linearization",
    source="Chizat, Oyallon and Bach 2019, theorem 2.2",
    full=Settings(),
    quick=Settings(scales=(1.0, 4.0, 16.0), widths=(128, 512), seeds=30, examples=16, test=16, steps=(1, 4, 16, 64)),
    cost="3 minutes of processor time, 1 GB",
    measure=measure, find=find, criteria=criteria, table=table, draw=draw,
    steps=lambda settings: settings.seeds * len(settings.widths) * len(settings.scales),
    panels=3,
)  # fmt: skip
