"""Jacot et al. 2018, "Neural Tangent Kernel: Convergence and Generalization in Neural Networks", figure 3.

**Theirs.** The principal components f^(1), f^(2), ... of 512 digits of MNIST with respect to the NTK, not centred, by
power iteration with a network of width 10 000: eigenvalues 0.0457, 0.00108, 0.00078. Networks of widths 100, 1000 and
10 000, two of each, are trained from f_0 towards f* = f_0 + 0.5 f^(2); f_t - f* is taken apart into g_t along f^(2) and
h_t orthogonal to it. At infinite width g_t = -0.5 exp(-lambda_2 t) f^(2) and h_t = 0, a straight line. The wider the
network, the less it deviates; smaller ones seem to be faster, as their NTK inflates.

**Ours.** The same, with the infinite NTK in place of the power iteration: eigenvectors of K / N, in float64, scaled to
mean square 1. Depth 4, ReLU, beta = 0.1 (figure 3 does not say; 1 and 2 do), pixels in [0, 1]; which leading
eigenvalue the published one resembles speaks for both. Networks are trained in float32, with a step of `stride` /
lambda_1 at most: 2 / lambda_1 is the largest stable one at infinite width, and kernels of narrow networks inflate. At a
stride of 1 those of width 100 leave the line in spikes. Measured over the times:

    deviation = largest |h_t|,                        |h|^2 the mean square over the digits
    lag       = largest | |g_t| - 0.5 exp(-lambda_2 t) |

**Criteria.** In the mean over the networks of a width, the deviation and the lag fall from each width to the next. The
rate of the deviation in the width, fitted to all networks, is -1/2 within 0.25: kernels are so far from their limit,
and smaller networks bend the line. The leading eigenvalue is within a factor of 2 of the published one (on MNIST).
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import ntkit
from ntkit.diagnose.widths import fit
from ntkit.gallery._circle import network
from ntkit.gallery._digits import digits
from ntkit.gallery._study import Criterion, Numbers, Rows, Study, Table, beyond
from ntkit.gallery._training import descent

PUBLISHED = (0.0457, 0.00108, 0.00078)
SIZE = 0.5


@dataclasses.dataclass(frozen=True)
class Settings:
    data: str = "mnist"
    examples: int = 512
    widths: tuple[int, ...] = (100, 1000, 10_000)
    networks: int = 2
    times: int = 31
    span: float = 3.0  # lambda_2 t at the end
    stride: float = 0.5
    seed: int = 0


def measure(settings: Settings, rows: Rows, meter: Callable[[float], None]) -> dict[str, Any]:
    """Components of the digits, and of each network |g_t| (with its sign) and |h_t|."""
    x, labels = digits(settings.data, settings.examples, settings.seed)
    values, components = principal(x)
    gap = settings.span / values[1] / (settings.times - 1)
    steps = int(np.ceil(gap * values[0] / settings.stride))
    groups, done = [], 0
    for width in settings.widths:
        one, found = _Network(width, x, components[:, 1], gap / steps), []
        for trial in range(settings.networks):
            key = jax.random.fold_in(jax.random.key(settings.seed), trial)
            found.append(
                rows(f"width {width}, {trial}", partial(one.follow, key, settings.times, steps, beyond(meter, done)))
            )
            done += 1
            meter(done)
        groups.append({"width": width} | {name: [own[name] for own in found] for name in ("along", "across")})
    return {
        "data": settings.data,
        "eigenvalues": values[:3].tolist(),
        "second": components[:, 1].tolist(),
        "third": components[:, 2].tolist(),
        "labels": labels.tolist(),
        "times": (gap * np.arange(settings.times)).tolist(),
        "groups": groups,
    }


def principal(x: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "n 3"]]:
    """The three largest eigenvalues of K / n, and eigenvectors of mean square 1, their largest entry positive."""
    with jax.enable_x64(True):
        kernel = ntkit.gram(ntkit.NTK(network(1)), x.astype(np.float64), progress=False)
    values, vectors = np.linalg.eigh(np.asarray(kernel) / len(x))
    values, vectors = values[:-4:-1], vectors[:, :-4:-1] * np.sqrt(len(x))
    return values, vectors * np.sign(vectors[np.argmax(np.abs(vectors), axis=0), np.arange(3)])


class _Network:
    """Of one width, compiled once: drawn, and trained towards f_0 + 0.5 f^(2)."""

    def __init__(self, width: int, x: np.ndarray, component: np.ndarray, step: float):
        net = network(width)
        self._init = jax.jit(lambda key: net.init(key, x.shape, dtype=jnp.float32))
        self._apply, self._descend = jax.jit(net.apply), descent(net.apply, step)
        self._x, self._component = jnp.asarray(x), component

    def follow(self, key: Any, times: int, steps: int, part: Callable[[float], None]) -> dict[str, Any]:
        params = self._init(key)
        goal = np.asarray(self._apply(params, self._x))[:, 0] + SIZE * self._component
        y, along, across = jnp.asarray(goal[:, None], jnp.float32), [], []
        for k in range(times):
            if k:
                params = self._descend(params, self._x, y, steps)
            rest = np.asarray(self._apply(params, self._x), np.float64)[:, 0] - goal
            share = float(np.mean(rest * self._component))
            along.append(share)
            across.append(float(np.sqrt(np.mean((rest - share * self._component) ** 2))))
            part(k / times)
        return {"along": along, "across": across}


def _limit(numbers: Numbers) -> Float[np.ndarray, " t"]:
    return SIZE * np.exp(-numbers["eigenvalues"][1] * np.asarray(numbers["times"]))


def find(numbers: Numbers) -> dict[str, Any]:
    limit = _limit(numbers)
    found, deviations = [], []
    for group in numbers["groups"]:
        deviation = np.max(group["across"], axis=1)
        lag = np.max(np.abs(np.abs(group["along"]) - limit), axis=1)
        deviations.append(deviation)
        own = {"deviation": float(deviation.mean()), "lag": float(lag.mean())}
        own["end"] = float(np.mean(group["along"], axis=0)[-1])
        found.append({"width": group["width"], "networks": len(lag)} | own)
    rate = fit(np.array([float(w["width"]) for w in found]), np.array(deviations))
    published = {"eigenvalues": list(PUBLISHED)} if numbers["data"] == "mnist" else {}
    return {
        "eigenvalues": numbers["eigenvalues"],
        "published": published,
        "widths": found,
        "rate": {"slope": rate.slope, "standard_error": rate.standard_error},
        "end": float(-limit[-1]),
    }


def criteria(findings: Numbers) -> list[Criterion]:
    found = [
        Criterion(f"{name} at width {b['width']} over that at {a['width']}", b[name] / a[name], high=1)
        for name in ("deviation", "lag")
        for a, b in zip(findings["widths"], findings["widths"][1:])
    ]
    found.append(Criterion("rate of the deviation in the width", findings["rate"]["slope"], -0.75, -0.25))
    if findings["published"]:
        ratio = findings["eigenvalues"][0] / findings["published"]["eigenvalues"][0]
        found.append(Criterion("leading eigenvalue over the published one", ratio, 0.5, 2))
    return found


def table(findings: Numbers) -> Table:
    rows = [
        (str(w["width"]), str(w["networks"]), f"{w['deviation']:.4f}", f"{w['lag']:.4f}", f"{w['end']:.4f}")
        for w in findings["widths"]
    ]
    rate = findings["rate"]
    return Table(
        ("width", "networks", "deviation from the line", "lag along it", "distance at the end"),
        (*rows, ("infinite", "", "0", "0", f"{findings['end']:.4f}"),
         ("rate", "", f"{rate['slope']:.2f} ± {rate['standard_error']:.2f}", "", "")),
    )  # fmt: skip


def draw(axes: Sequence[Any], numbers: Numbers, findings: Numbers) -> None:
    from ntkit import plots

    times, groups = np.asarray(numbers["times"]), numbers["groups"]
    second, third = findings["eigenvalues"][1:]
    names = [f"f⁽²⁾, eigenvalue {second:.2g}", f"f⁽³⁾, eigenvalue {third:.2g}"]
    points = np.stack([numbers["second"], numbers["third"]], axis=1)
    plots.scattered(axes[0], points, np.asarray(numbers["labels"]), names=names)
    axes[0].set_title("Digits along two principal components")
    across = {f"width {g['width']}": np.asarray(g["across"]) for g in groups}
    plots.trainings(axes[1], times, across, limit=np.zeros_like(times))
    axes[1].set(ylabel="root mean square of h", title="Deviation from the straight line")
    along = {f"width {g['width']}": np.abs(g["along"]) for g in groups}
    plots.trainings(axes[2], times, along, limit=_limit(numbers), name="infinitely wide, 0.5 exp(-λ₂ t)")
    axes[2].set(ylabel="root mean square of g", title="Convergence along f⁽²⁾")


STUDY = Study(
    name="jacot2018-fig3",
    words="Convergence along the second principal component, MNIST",
    source="Jacot, Gabriel and Hongler 2018, figure 3",
    full=Settings(),
    quick=Settings(data="digits", examples=64, widths=(64, 256, 1024), networks=2, times=11, span=2.0),
    cost="about half an hour on 2 cores and 3 GB, nearly all for the two networks of width 10 000",
    measure=measure, find=find, criteria=criteria, table=table, draw=draw,
    steps=lambda settings: settings.networks * len(settings.widths),
    panels=3,
)  # fmt: skip
