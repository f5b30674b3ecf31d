"""Jacot et al. 2018, "Neural Tangent Kernel: Convergence and Generalization in Neural Networks", figure 2.

**Theirs.** Ten networks of depth L = 4 for each of the widths 50 and 1000, ReLU, beta = 0.1, trained on f(x) = x1 x2 at
4 points of the unit circle for 1000 steps of gradient descent with learning rate 1; along the circle with the 10th,
50th and 90th percentiles of the asymptotic Gaussian. Already at width 50 the networks follow it.

**Ours.** The same with many networks, whose percentiles are drawn, and counted: the Gaussian is `ntkit.ensemble` at
t = 1000. The points are at the angles -2.4, -1.1, 0.4 and 2 (the paper gives none). What is measured, at N networks of
each width, over the angles that are 0.1 or more from every point (there the Gaussian is as good as a point):

    coverage  = share of networks between the 10th and the 90th percentile; 0.8 of the Gaussian's own
    offset    = root mean square over angles of (mean of networks - mean) / standard deviation
    variance  = mean over angles of (variance of networks / variance)

**Criteria**, at the larger width. Coverage: within 3 standard errors of 0.8, the binomial one sqrt(0.8 0.2 / N)
(averages over angles can only be better). Offset: at most 3 / sqrt(N), as the mean of N draws has the error
1 / sqrt(N). Variance: within 3 sqrt(2 / (N - 1)) of 1. At the smaller width nothing is promised; the numbers are there.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

import ntkit
from ntkit.gallery._circle import goal, network, on_circle
from ntkit.gallery._study import Criterion, Numbers, Rows, Study, Table
from ntkit.gallery._training import descent

POINTS = (-2.4, -1.1, 0.4, 2.0)
APART = 0.1
SHARE = 0.8
# Networks between two movements of the bar.
TOGETHER = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    widths: tuple[int, int] = (50, 1000)
    networks: int = 100
    steps: int = 1000
    angles: int = 121
    seed: int = 0


def measure(settings: Settings, rows: Rows, meter: Callable[[float], None]) -> dict[str, Any]:
    """The networks along the circle, and mean and standard deviation of the Gaussian there."""
    points, angles = np.asarray(POINTS), np.linspace(-np.pi, np.pi, settings.angles)
    x, circle = on_circle(points), on_circle(angles)
    limit = ntkit.ensemble(network(1), x, goal(x), learning_rate=1.0, progress=False)
    mean, variance = limit(circle, float(settings.steps), covariance="diagonal")
    assert variance is not None
    groups, done = [], 0
    for width in settings.widths:
        train, outputs = _trainer(width, x, circle, settings.steps), []
        for start in range(0, settings.networks, TOGETHER):
            count = min(TOGETHER, settings.networks - start)
            seeds = jnp.arange(start, start + count)
            keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(settings.seed)))(seeds)
            outputs += rows(f"width {width}, {start}", partial(_outputs, train, keys))["outputs"]
            done += count
            meter(done)
        groups.append({"width": width, "outputs": outputs})
    limits = {"mean": mean[:, 0].tolist(), "deviation": np.sqrt(variance).tolist()}
    labels = {"points": list(POINTS), "labels": goal(x)[:, 0].tolist()}
    return {"angles": angles.tolist(), "steps": settings.steps, "groups": groups} | limits | labels


def _outputs(train: Callable[[Any], Any], keys: Any) -> dict[str, Any]:
    return {"outputs": np.asarray(train(keys), np.float64).tolist()}


def _trainer(width: int, x: np.ndarray, circle: np.ndarray, steps: int) -> Callable[[Any], Any]:
    """keys (k,) -> the outputs (k, a) of as many networks, one after the other, as each stays in cache."""
    net, inputs = network(width), jnp.asarray(x, jnp.float32)
    run, y, asked = descent(net.apply, 1.0), jnp.asarray(goal(x), jnp.float32), jnp.asarray(circle, jnp.float32)

    def one(key: Any) -> Any:
        return net.apply(run(net.init(key, inputs.shape, dtype=jnp.float32), inputs, y, steps), asked)[:, 0]

    return jax.jit(lambda keys: jax.lax.map(one, keys))


def find(numbers: Numbers) -> dict[str, Any]:
    mean, deviation, angles = (np.asarray(numbers[k]) for k in ("mean", "deviation", "angles"))
    points = np.asarray(numbers["points"])
    away = (np.abs(np.angle(np.exp(1j * (angles[:, None] - points)))) >= APART).all(axis=1)
    found = []
    for group in numbers["groups"]:
        z = ((np.asarray(group["outputs"]) - mean) / deviation)[:, away]
        found.append({
            "width": group["width"],
            "networks": len(z),
            "coverage": float(np.mean(np.abs(z) <= ndtri((1 + SHARE) / 2))),
            "coverage_error": float(np.sqrt(SHARE * (1 - SHARE) / len(z))),
            "offset": float(np.sqrt(np.mean(z.mean(axis=0) ** 2))),
            "variance": float(np.mean(z.var(axis=0, ddof=1))),
        })  # fmt: skip
    return {"widths": found}


def criteria(findings: Numbers) -> list[Criterion]:
    wide = findings["widths"][-1]
    count, at = wide["networks"], f"at width {wide['width']}"
    error, spread = 3 * wide["coverage_error"], 3 * (2 / (count - 1)) ** 0.5
    return [
        Criterion(f"share between 10th and 90th percentile {at}", wide["coverage"], SHARE - error, SHARE + error),
        Criterion(f"offset of their mean in standard deviations {at}", wide["offset"], high=3 / count**0.5),
        Criterion(f"variance of networks over the Gaussian's {at}", wide["variance"], 1 - spread, 1 + spread),
    ]  # fmt: skip


def table(findings: Numbers) -> Table:
    rows = tuple(
        (str(w["width"]), str(w["networks"]), f"{w['coverage']:.3f} ± {w['coverage_error']:.3f}", f"{w['offset']:.3f}",
         f"{w['variance']:.3f}")
        for w in findings["widths"]
    )  # fmt: skip
    limit = ("Gaussian", "", f"{SHARE}", "0", "1")
    return Table(("width", "networks", "coverage", "offset of the mean", "variance"), (*rows, limit))


def draw(axes: Sequence[Any], numbers: Numbers, findings: Numbers) -> None:
    from ntkit import plots

    count = findings["widths"][0]["networks"]
    groups = {f"{count} networks of width {g['width']}": np.asarray(g["outputs"]) for g in numbers["groups"]}
    angles, mean, deviation, points, labels = (
        np.asarray(numbers[k]) for k in ("angles", "mean", "deviation", "points", "labels")
    )
    plots.band_on_circle(axes[0], angles, mean, deviation, draws=groups, points=(points, labels))
    axes[0].set(
        ylabel="network at (cos γ, sin γ)", title=f"Trained to t = {numbers['steps']}: 10th, 50th, 90th percentiles"
    )


STUDY = Study(
    name="jacot2018-fig2",
    words="Trained networks on the circle against the asymptotic Gaussian",
    source="Jacot, Gabriel and Hongler 2018, figure 2",
    full=Settings(),
    quick=Settings(widths=(32, 128), networks=40, steps=300, angles=41),
    cost="about 5 minutes on 2 cores",
    measure=measure, find=find, criteria=criteria, table=table, draw=draw,
    steps=lambda settings: settings.networks * len(settings.widths),
)  # fmt: skip
