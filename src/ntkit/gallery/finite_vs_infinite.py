"""Finite networks, really trained, beside the training of the infinite one: distance in function space over the width.

J. Lee, L. Xiao et al., "Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent", NeurIPS
2019, theorem 2.1; A. Jacot, F. Gabriel and C. Hongler, "Neural Tangent Kernel", NeurIPS 2018.

**Theirs.** Trained by gradient descent with a learning rate below the critical one, the outputs of a network of width m
stay within O(m^(-1/2)) of those of its linearization, in the supremum over all times, with high probability; and the
kernel at the start is within O(m^(-1/2)) of the infinite one.

**Ours.** `ntkit.compare_training`: networks with two hidden layers of Erf on the sphere in R^4, trained by full batches
and by stochastic gradient descent, in float32. The distance sqrt(mean (f - g)^2) to g, the training of the same f_0 by
the infinite kernel on the same batches, over training and test examples; and to the network's own linearization. The
same again from 1/4 and 1/2 of the training examples, at the two largest widths: how it depends on n is measured, not
judged.

**Criteria.** Distances to the infinite kernel's training fall with the width as m^(-1/2), within three standard errors
of the slope and 0.05, for the terms of higher order at the smaller widths: of full batches and of batches, on training
and test examples. Those to the own linearization fall faster, at least as m^(-3/4): of smooth activations their order
is 1/m, the bound m^(-1/2). On test examples the mean distance falls from each width to the next at every time. And the
networks have learned: what is left of |f - y| is at most half, at every width.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import ntkit
from ntkit import nn
from ntkit.gallery._compared import counted, largest_ratio, plain, restored, sphere, told
from ntkit.gallery._study import Criterion, Numbers, Rows, Study, Table

DIMENSION = 4
NAMES = {"full": "full batches", "batches": "batches"}
# The bend of the slope by terms of higher order in 1 / m, at the widths that are trained here.
BEND = 0.05


@dataclasses.dataclass(frozen=True)
class Settings:
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    depth: int = 2
    seeds: int = 40
    examples: int = 32
    test: int = 64
    batch: int = 8
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    parts: tuple[int, ...] = (8, 16, 32)
    linearized: bool = True
    seed: int = 0


def network(depth: int) -> nn.Sequential:
    return nn.mlp(depth=depth, width=1, activation=nn.Erf(), w_std=1.5, b_std=0.3)


def measure(settings: Settings, rows: Rows, meter: Callable[[float], None]) -> dict[str, Any]:
    """The distances by full batches, by batches, and by full batches from fewer examples."""
    x, y = (a.astype(np.float32) for a in sphere(settings.examples + settings.test, DIMENSION, settings.seed))
    n, seeds = settings.examples, [1000 * settings.seed + k for k in range(settings.seeds)]
    ways: dict[str, dict[str, Any]] = {
        "full": {"linearized": settings.linearized},
        "batches": {"batch": settings.batch},
    }
    if settings.parts:
        ways["parts"] = {"examples": settings.parts}
    found, done = {}, 0
    for name, way in ways.items():
        widths = settings.widths[-2:] if name == "parts" else settings.widths
        train = partial(
            ntkit.compare_training, network(settings.depth), x[:n], y[:n], widths, seeds, x_test=x[n:],
            steps=settings.steps, progress=counted(meter, done), **way,
        )  # fmt: skip
        found[name] = rows(name, lambda train=train: plain(train()))
        done += len(seeds) * len(widths) * len(way.get("examples", [n]))
        meter(done)
    return found


def trained(settings: Settings) -> int:
    return settings.seeds * (2 * len(settings.widths) + 2 * len(settings.parts))


def find(numbers: Numbers) -> dict[str, Any]:
    full = restored(numbers["full"])
    rates = {}
    for name in NAMES:
        for which, each in restored(numbers[name]).distances.items():
            rates[f"{NAMES[name]}, {which}"] = each.rate()[:2]
    means = {name: restored(numbers[name]).test.mean[0] for name in NAMES}  # type: ignore[union-attr]
    left = [restored(numbers[name]).residual.mean[0] for name in NAMES]
    found = {
        "widths": full.train.widths.tolist(),
        "times": full.times.tolist(),
        "distances": {which: each.mean[0, :, -1].tolist() for which, each in full.distances.items()},
        "errors": {which: each.standard_error[0, :, -1].tolist() for which, each in full.distances.items()},
        "rates": {name: list(rate) for name, rate in rates.items()},
        "largest_ratio": {NAMES[name]: max(map(largest_ratio, mean.T)) for name, mean in means.items()},
        "left": max(float(np.max(each[:, -1] / each[:, 0])) for each in left),
    }
    if "parts" in numbers:
        # Of training examples there is none to be had: few of them are learned to the end by both.
        found["rate_in_examples"] = list(restored(numbers["parts"]).distances["test"].rate_in_examples()[:2])
    return found


def criteria(findings: Numbers) -> list[Criterion]:
    found = []
    for name, (slope, error) in findings["rates"].items():
        apart = 3 * error + BEND
        if "linear" in name:
            found.append(Criterion(f"rate in the width, {name}", slope, high=-0.75))
        else:
            found.append(Criterion(f"rate in the width, {name}", slope, -0.5 - apart, -0.5 + apart))
    ratios = findings["largest_ratio"].items()
    found += [Criterion(f"distance to that of the width before, test, {name}", value, high=1) for name, value in ratios]
    return [*found, Criterion("share of |f - y| that is left", findings["left"], high=0.5)]


def table(findings: Numbers) -> Table:
    kinds = list(findings["distances"])
    rows = [
        (str(width), *(f"{findings['distances'][k][i]:.4f} ± {findings['errors'][k][i]:.4f}" for k in kinds))
        for i, width in enumerate(findings["widths"])
    ]
    rates = findings["rates"]
    rows.append(("rate", *(told(*rates[f"{NAMES['full']}, {kind}"]) for kind in kinds)))
    last = (f"{NAMES['batches']}, {kind}" for kind in kinds)
    rows.append(("rate, batches", *(told(*rates[name]) if name in rates else "" for name in last)))
    if "rate_in_examples" in findings:
        own = told(*findings["rate_in_examples"])
        rows.append(("rate in n", *(own if kind == "test" else "" for kind in kinds)))
    return Table(("width", *(kind.replace("_", " ") for kind in kinds)), tuple(rows))


def draw(axes: Sequence[Any], numbers: Numbers, findings: Numbers) -> None:
    from ntkit import plots

    full = restored(numbers["full"])
    plots.training_study(axes[0], full, "test")
    axes[0].set_title(
        f"{full.train.examples[0]} training examples, {full.train.values.shape[2]} networks of each width"
    )
    plots.training_rates(axes[1], full)
    axes[1].set_title("Distance over the width, full batches")


STUDY = Study(
    name="finite-vs-infinite",
    words="Trained networks beside the training of the infinite one, over the width",
    source="Lee, Xiao et al. 2019, theorem 2.1",
    full=Settings(),
    quick=Settings((128, 1024), 1, examples=16, test=16, batch=4, steps=(1, 4, 16, 64), parts=(), linearized=False),
    cost="5 minutes of processor time, 2 GB",
    measure=measure, find=find, criteria=criteria, table=table, draw=draw,
    steps=trained,
    panels=2,
)  # fmt: skip
