"""Jacot et al. 2018, "Neural Tangent Kernel: Convergence and Generalization in Neural Networks", section 3.1.

**Theirs.** Random functions f^(1), ..., f^(P), independent with covariance K, and the linear model

    f_theta = P^(-1/2) sum_p theta_p f^(p)

They show, without an experiment: gradient flow on theta is kernel gradient flow with the tangent kernel K_P(x, y) =
(1/P) sum_p f^(p)(x) f^(p)(y), which stays as it is in training; and K_P tends to K as P grows, by the law of large
numbers. Both make it the model of what a wide network does.

**Ours.** Gaussian functions whose covariance K is the NTK of section 6's networks (depth 4, ReLU, beta = 0.1), drawn
jointly on random training points and on a grid of the unit circle; labels x1 x2; in float64. The flow runs from 0 until
a tenth of the labels, in the root mean square, is left with K. Measured of each draw, K_P on all points, f on the grid:

    deviation of the kernel = |K_P - K|_F / |K|_F,      of the flow = |f_P - f| / |f|,

and, of one draw, theta trained by steps of gradient descent, against `ntkit.descend` with K_P, in units of rms f.

**Criteria.** Both deviations fall as P^(-1/2), within three standard errors of the fitted rate. The mean square of the
kernel's is (1 + tr(K)^2 / |K|_F^2) / P, exact for Gaussian functions, within 5 standard errors at every P. The trained
model is what the fixed kernel K_P predicts, to 1e-8: training does not move it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Float

import ntkit
from ntkit.diagnose.rates import Rate, fit
from ntkit.gallery._circle import goal, network, on_circle
from ntkit.gallery._study import Criterion, Numbers, Rows, Study, Table
from ntkit.gallery._training import descent
from ntkit.predict import GradientDescent, SquaredFlow

# What is left of the labels at the time that is looked at.
LEFT = 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    features: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
    draws: int = 40
    examples: int = 24
    angles: int = 61
    seed: int = 0


def measure(settings: Settings, rows: Rows, meter: Callable[[float], None]) -> dict[str, Any]:
    """Of each P the deviations of the draws and their flows on the grid; and one model trained."""
    task = _Task(settings)
    seeds = [settings.draws * settings.seed + k for k in range(settings.draws)]
    kernels = rows("kernels", lambda: task.kernels(settings.features, seeds))
    meter(1)
    flows = []
    for at, P in enumerate(settings.features):
        flows.append(rows(f"flows, {P}", partial(task.flows, P, at, seeds))["flows"])
        meter(2 + at)
    return task.numbers | kernels | {"flows": flows} | rows("trained", lambda: task.trained(settings.features[0]))


class _Table(eqx.Module):
    """A kernel on points that have numbers, by its matrix there: drawings are made of hundreds, in one program."""

    matrix: Float[np.ndarray, "q q"]

    def __call__(self, x1: Any, x2: Any = None) -> Any:
        first, second = (jnp.asarray(x)[:, 0].astype(int) for x in (x1, x1 if x2 is None else x2))
        return jnp.asarray(self.matrix, x1.dtype)[first[:, None], second[None, :]]


class _Task:
    """Points, labels, and the flow with the fixed kernel."""

    def __init__(self, settings: Settings):
        rng, n = np.random.default_rng(settings.seed), settings.examples
        angles = np.linspace(-np.pi, np.pi, settings.angles)
        points = on_circle(np.concatenate([rng.uniform(-np.pi, np.pi, n), angles]))
        with jax.enable_x64(True):
            self._kernel = _Table(np.asarray(ntkit.NTK(network(1))(jnp.asarray(points))))
        self._points = np.arange(len(points), dtype=float)[:, None]
        self._x, self._grid, self._y = self._points[:n], self._points[n:], goal(points[:n])[:, 0]
        flow = self._flow(self._kernel)
        self._time = _time(flow, self._y)
        self._drawn: Any = ntkit.random_features(self._kernel, 1, key=0, points=self._points, dtype="float64")
        self.numbers = {
            "angles": angles.tolist(),
            "time": self._time,
            "fixed": flow(self._grid, self._time).tolist(),
        }

    def _flow(self, kernel: _Table) -> SquaredFlow:
        n = len(self._x)
        flow: Any = ntkit.gradient_flow(kernel, self._x, self._y, matrix=kernel.matrix[:n, :n], progress=False)
        return flow

    def kernels(self, features: Sequence[int], seeds: list[int]) -> dict[str, Any]:
        with jax.enable_x64(True):
            study = ntkit.feature_study(self._kernel, jnp.asarray(self._points), features, seeds)
        expected: Any = study.expected
        return {"P": list(features), "kernels": study.deviations.tolist(), "expected": expected.tolist()}

    def flows(self, P: int, at: int, seeds: list[int]) -> dict[str, Any]:
        """Of the draws of `feature_study`, on the grid."""
        found = []
        for seed in seeds:
            drawn = self._drawn.redrawn(P, key=jax.random.fold_in(jax.random.key(seed), at))
            with jax.enable_x64(True):
                matrix = np.asarray(drawn(jnp.asarray(self._points)))
            found.append(self._flow(_Table(matrix))(self._grid, self._time).tolist())
        return {"flows": found}

    def trained(self, P: int) -> dict[str, Any]:
        """The linear model's outputs on the grid after gradient descent on theta from 0, and those by its kernel."""
        drawn = self._drawn.redrawn(P, key=jax.random.key(0))
        with jax.enable_x64(True):
            x, y = jnp.asarray(self._x), jnp.asarray(self._y)
            rate = len(x) / float(np.linalg.eigvalsh(drawn(x))[-1])  # half of the largest stable step
            steps = math.ceil(self._time / rate)
            theta = descent(drawn.apply, rate)(jnp.zeros(P), x, y, steps)
            model = np.asarray(drawn.apply(theta, jnp.asarray(self._grid)))
        kernel: Any = ntkit.descend(drawn, self._x, self._y, GradientDescent(rate), progress=False)
        return {"steps": steps, "model": model.tolist(), "kernel": kernel(self._grid, steps).tolist()}


def _time(flow: SquaredFlow, y: Float[np.ndarray, " n"]) -> float:
    """When `LEFT` of the labels is left, in the root mean square, by the components of the flow."""
    parts = flow.components

    def excess(log_time: float) -> float:
        rest = np.exp(-math.exp(log_time) / parts.time) * parts.coefficient
        return float(np.linalg.norm(rest) / np.linalg.norm(y)) - LEFT

    ends = math.log(parts.time.min() / 100), math.log(parts.time.max() * 100)
    return math.exp(scipy.optimize.root_scalar(excess, bracket=ends).root)


def find(numbers: Numbers) -> dict[str, Any]:
    P, kernels, expected = (np.asarray(numbers[name]) for name in ("P", "kernels", "expected"))
    fixed, flows = np.asarray(numbers["fixed"]), np.asarray(numbers["flows"])
    apart = np.linalg.norm(flows - fixed, axis=2) / np.linalg.norm(fixed)
    squares = kernels**2
    error = squares.std(axis=1, ddof=1) / math.sqrt(squares.shape[1])
    model, kernel = np.asarray(numbers["model"]), np.asarray(numbers["kernel"])
    return {
        "P": P.tolist(),
        "draws": kernels.shape[1],
        "kernel": np.sqrt(squares.mean(axis=1)).tolist(),
        "expected": expected.tolist(),
        "flow": np.sqrt(np.mean(apart**2, axis=1)).tolist(),
        "kernel_rate": fit(P.astype(float), kernels)._asdict(),
        "flow_rate": fit(P.astype(float), apart)._asdict(),
        "largest_z": float(np.max(np.abs(squares.mean(axis=1) - expected**2) / error)),
        "trained": float(np.max(np.abs(model - kernel)) / np.sqrt(np.mean(kernel**2))),
    }


def criteria(findings: Numbers) -> list[Criterion]:
    def rate(what: str) -> Criterion:
        found = findings[f"{what}_rate"]
        error = 3 * found["standard_error"]
        return Criterion(f"rate of the {what}'s deviation in P", found["slope"], -0.5 - error, -0.5 + error)

    return [
        rate("kernel"),
        rate("flow"),
        Criterion("standard errors from the expected mean square, kernel", findings["largest_z"], high=5),
        Criterion("trained parameters against the fixed kernel of the features", findings["trained"], high=1e-8),
    ]


def table(findings: Numbers) -> Table:
    columns = (findings[name] for name in ("P", "kernel", "expected", "flow"))
    rows = [(str(P), f"{a:.4f}", f"{b:.4f}", f"{c:.4f}") for P, a, b, c in zip(*columns, strict=True)]
    kernel, flow = (
        f"{r['slope']:.3f} ± {r['standard_error']:.3f}" for r in (findings["kernel_rate"], findings["flow_rate"])
    )
    return Table(("P", "kernel, rms deviation", "expected", "flow, rms deviation"), (*rows, ("rate", kernel, "", flow)))


def draw(axes: Sequence[Any], numbers: Numbers, findings: Numbers) -> None:
    from ntkit import plots

    flows, P = np.asarray(numbers["flows"]), np.asarray(numbers["P"])
    some = {f"P = {P[k]}": flows[k, :10] for k in (0, len(P) // 2)}
    angles, fixed = np.asarray(numbers["angles"]), np.asarray(numbers["fixed"])
    plots.along_circle(axes[0], angles, some, limit=fixed, name="fixed kernel")
    axes[0].set(ylabel="f(cos γ, sin γ)", title=f"Random features trained for t = {numbers['time']:.3g}, 10 draws")
    apart = np.linalg.norm(flows - fixed, axis=2) / np.linalg.norm(fixed)
    each = {"kernel": np.asarray(numbers["kernels"]), "flow": apart}
    groups = {name: (values, Rate(**findings[f"{name}_rate"])) for name, values in each.items()}
    exact = {"kernel, exact expectation": np.asarray(numbers["expected"])}
    plots.powers(axes[1], P, groups, of="P", squared=True, expected=exact)
    axes[1].set(xlabel="number of features P", ylabel="relative deviation", title="Deviation from the fixed kernel")


STUDY = Study(
    name="random-features",
    words="Random features: their kernel and their training against the fixed kernel",
    source="Jacot, Gabriel and Hongler 2018, section 3.1",
    full=Settings(),
    quick=Settings(features=(256, 1024, 4096), draws=20, examples=12, angles=25),
    cost="half a minute on 2 cores",
    measure=measure, find=find, criteria=criteria, table=table, draw=draw,
    steps=lambda settings: 1 + len(settings.features),
    panels=2,
)  # fmt: skip
