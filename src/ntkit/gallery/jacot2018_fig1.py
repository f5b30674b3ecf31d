"""Jacot et al. 2018, "Neural Tangent Kernel: Convergence and Generalization in Neural Networks", figure 1.

**Theirs.** The NTK of networks of depth L = 4, ReLU, beta = 0.1, as gamma -> Theta((1, 0), (cos gamma, sin gamma)), at
widths 500 and 10 000, ten initialisations each; at t = 0, and after 200 steps of gradient descent with learning
rate 1 on f(x) = x1 x2, with least squares on N(0, 1) inputs. The wider the network, the less variance, and the less the
kernel moves; that it "inflates" is seen at the smaller width; the expectations are very close.

**Ours.** The same, with 32 inputs (the paper does not say how many), the kernels being those of `ntkit.EmpiricalNTK`,
in float32, one network at a time; and the infinite kernel in the middle. What is measured:

    spread = sqrt(mean over angles of Var over networks of K_0) / rms K_inf
    drift  = mean over networks of |K_t - K_0| / |K_0|,      norms over the angles.

**Criteria.** The spread falls as width^(-1/2), the rate of a mean over independent units, within three of its standard
errors, which the networks left out one at a time give (jackknife). The drift falls at least as width^(-1/2), the rate
of the bounds. Kernels at t = 0 have the mean K_inf, within 5 standard errors at every angle. Training inflates the
kernel of the smaller network: the mean of K_t((1, 0), (1, 0)) is above that of K_0.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import ntkit
from ntkit.gallery._circle import goal, network, on_circle
from ntkit.gallery._study import Criterion, Numbers, Rows, Study, Table, beyond
from ntkit.gallery._training import descent

# Steps between two movements of the bar.
SOME = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    widths: tuple[int, int] = (500, 10_000)
    seeds: int = 10
    steps: int = 200
    examples: int = 32
    angles: int = 61
    seed: int = 0


def measure(settings: Settings, rows: Rows, meter: Callable[[float], None]) -> dict[str, Any]:
    """The kernels along the circle, of each width those of each network before and after training."""
    rng = np.random.default_rng(settings.seed)
    x = rng.normal(size=(settings.examples, 2)).astype(np.float32)
    angles = np.linspace(-np.pi, np.pi, settings.angles)
    circle = on_circle(angles)
    with jax.enable_x64(True):
        infinite = np.asarray(ntkit.NTK(network(1))(jnp.asarray([[1.0, 0.0]]), jnp.asarray(circle)))[0]
    groups, done = [], 0
    for width in settings.widths:
        one = _Network(width, x, circle.astype(np.float32), settings.steps)
        kernels = []
        for seed in range(settings.seeds):
            key = jax.random.fold_in(jax.random.key(settings.seed), seed)
            kernels.append(rows(f"width {width}, {seed}", partial(one.kernels, key, beyond(meter, done))))
            done += 1
            meter(done)
        groups.append({"width": width} | {k: [own[k] for own in kernels] for k in ("before", "after")})
    return {"angles": angles.tolist(), "infinite": infinite.tolist(), "steps": settings.steps, "groups": groups}


class _Network:
    """Of one width, compiled once: drawn, measured, trained, measured."""

    def __init__(self, width: int, x: np.ndarray, circle: np.ndarray, steps: int):
        self._net, self._circle, self._steps = network(width), jnp.asarray(circle), steps
        self._init = jax.jit(lambda key: self._net.init(key, x.shape, dtype=x.dtype))
        self._x, self._y, self._descend = jnp.asarray(x), jnp.asarray(goal(x)), descent(self._net.apply, 1.0)

    def kernels(self, key: Any, part: Callable[[float], None]) -> dict[str, Any]:
        params = self._init(key)
        before = self._along(params)
        for start in range(0, self._steps, SOME):
            part(start / self._steps)
            some = min(SOME, self._steps - start)
            params = jax.block_until_ready(self._descend(params, self._x, self._y, some))
        return {"before": before, "after": self._along(params)}

    def _along(self, params: Any) -> list[float]:
        first = jnp.asarray([[1.0, 0.0]], self._circle.dtype)
        return np.asarray(ntkit.EmpiricalNTK(self._net.apply, params)(first, self._circle), np.float64)[0].tolist()


def find(numbers: Numbers) -> dict[str, Any]:
    infinite, peak = np.asarray(numbers["infinite"]), int(np.argmin(np.abs(numbers["angles"])))
    scale, found, errors = math.sqrt(np.mean(infinite**2)), [], []
    for group in numbers["groups"]:
        before, after = np.asarray(group["before"]), np.asarray(group["after"])
        error = before.std(axis=0, ddof=1) / math.sqrt(len(before))
        drift = np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1)
        found.append({
            "width": group["width"],
            "networks": len(before),
            "spread": _spread(before) / scale,
            "drift": float(drift.mean()),
            "drift_error": float(drift.std(ddof=1)) / math.sqrt(len(drift)),
            "largest_z": float(np.max(np.abs(before.mean(axis=0) - infinite) / error)),
            "inflation": float(after[:, peak].mean() / before[:, peak].mean()),
        })  # fmt: skip
        errors.append(_error_of_log_spread(before))
    narrow, wide = found
    ratio = math.log(wide["width"] / narrow["width"])
    rates = {f"{name}_rate": math.log(wide[name] / narrow[name]) / ratio for name in ("spread", "drift")}
    ratios = {f"{name}_ratio": narrow[name] / wide[name] for name in ("spread", "drift")}
    return {"widths": found} | ratios | rates | {"rate_error": math.hypot(*errors) / ratio}


def _spread(kernels: Float[np.ndarray, "s a"]) -> float:
    return math.sqrt(np.mean(kernels.var(axis=0, ddof=1)))


def _error_of_log_spread(kernels: Float[np.ndarray, "s a"]) -> float:
    """The jackknife's standard error: B. Efron and C. Stein, "The jackknife estimate of variance" (1981)."""
    count = len(kernels)
    left_out = np.log([_spread(np.delete(kernels, i, axis=0)) for i in range(count)])
    return math.sqrt((count - 1) / count * np.sum((left_out - left_out.mean()) ** 2))


def criteria(findings: Numbers) -> list[Criterion]:
    error = 3 * findings["rate_error"]
    return [
        Criterion("rate of the spread in the width", findings["spread_rate"], -0.5 - error, -0.5 + error),
        Criterion("rate of the drift in the width", findings["drift_rate"], high=-0.5),
        *(
            Criterion(f"standard errors from the infinite kernel, width {w['width']}", w["largest_z"], high=5)
            for w in findings["widths"]
        ),
        Criterion("growth of K((1, 0), (1, 0)) by training, smaller width", findings["widths"][0]["inflation"], low=1),
    ]  # fmt: skip


def table(findings: Numbers) -> Table:
    rows = [
        (str(w["width"]), str(w["networks"]), f"{w['spread']:.4f}", f"{w['drift']:.4f} ± {w['drift_error']:.4f}",
         f"{w['inflation']:.3f}", f"{w['largest_z']:.2f}")
        for w in findings["widths"]
    ]  # fmt: skip
    rates = f"{findings['spread_rate']:.2f} ± {findings['rate_error']:.2f}", f"{findings['drift_rate']:.2f}"
    return Table(("width", "networks", "spread", "drift", "growth", "largest z"), (*rows, ("rate", "", *rates, "", "")))


def draw(axes: Sequence[Any], numbers: Numbers, findings: Numbers) -> None:
    from ntkit import plots

    times = (("before", "t = 0"), ("after", f"t = {numbers['steps']}"))
    groups = {f"width {g['width']}, {label}": np.asarray(g[which]) for g in numbers["groups"] for which, label in times}
    plots.along_circle(axes[0], np.asarray(numbers["angles"]), groups, limit=np.asarray(numbers["infinite"]))
    axes[0].set(
        ylabel="NTK of (1, 0) and (cos γ, sin γ)", title="The NTK of finite networks, before and after training"
    )


STUDY = Study(
    name="jacot2018-fig1",
    words="The NTK of finite networks on the circle, before and after training",
    source="Jacot, Gabriel and Hongler 2018, figure 1",
    full=Settings(),
    quick=Settings(widths=(64, 512), seeds=8, steps=50, examples=16, angles=25),
    cost="about 20 minutes on 2 cores and 4 GB; a network of width 10 000 takes two minutes",
    measure=measure, find=find, criteria=criteria, table=table, draw=draw,
    steps=lambda settings: settings.seeds * len(settings.widths),
)  # fmt: skip
