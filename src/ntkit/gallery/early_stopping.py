"""Ali, Kolter and Tibshirani 2019, "A Continuous-Time View of Early Stopping for Least Squares Regression", AISTATS.

**Theirs.** Gradient flow from 0 for a time t is compared with ridge regression of alpha = n / t. Along an eigenvector
of K / n of eigenvalue v, with x = v t, the flow leaves exp(-x) of the labels and ridge 1 / (1 + x). For labels m +
noise of mean 0 and variance s^2, independent, whatever m is, the expected square error at the examples is

    risk of the flow  = sum_i exp(-2 x_i) (v_i^T m)^2 + s^2 (1 - exp(-x_i))^2,
    risk of the ridge = sum_i (1 + x_i)^(-2) (v_i^T m)^2 + s^2 (x_i / (1 + x_i))^2

(up to 1 / n), and as exp(-x) <= 1 / (1 + x) and 1 - exp(-x) <= 1.2985 x / (1 + x), the first is at most 1.6862 times
the second, at every t: term by term, as in their proof for the risk of the parameters. At new inputs they have it in
the mean over signals only. Their figures show both risks over t and 1 / alpha, nearly the same curve.

**Ours.** Digits with wrong labels: with probability 0.4 a label is drawn anew, from all ten classes. The kernel is the
NTK of two hidden layers of ReLU, of inputs centred and scaled by all pixels of the training images; labels are one-hot
minus 0.1. Given the true class m = 0.6 (one-hot - 0.1), and the variances of the ten outputs add up to the same for
every example, so that both risks above are exact, summed over outputs. On test images we measure the excess, the mean
of |f - m|^2 / 2: what the loss against noisy labels has above its least. The time to stop is chosen by leave-one-out,
of noisy labels alone (`best_time`); the best time and the best ridge are chosen by the excess itself.

**Criteria.** The risk of the flow is at most 1.6862 times that of the ridge, at all times and draws. In the mean over
draws, the excess at the time of leave-one-out is at most 1.05 times that at the best time, 1.1 times that of the best
ridge n / t of the same grid, and 0.9 times that of training to the end, which stopping is to improve on. These three
numbers are ours: no theorem gives them, and they were set after a look at two draws of digits and two of MNIST.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

import ntkit
from ntkit import nn
from ntkit.gallery._digits import digits
from ntkit.gallery._study import Criterion, Numbers, Rows, Study, Table

CLASSES = 10
# 1.2985^2: of the largest (1 - exp(-x)) (1 + x) / x, rounded up.
BOUND = 1.6862
NET = nn.mlp(depth=2, width=1, activation=nn.Relu(), w_std=2**0.5, b_std=0.1, outputs=1)


@dataclasses.dataclass(frozen=True)
class Settings:
    data: str = "mnist"
    examples: int = 1000
    test: int = 4000
    noise: float = 0.4
    draws: int = 10
    times: int = 61
    span: tuple[float, float] = (1.0, 1e4)
    seed: int = 0


def measure(settings: Settings, rows: Rows, meter: Callable[[float], None]) -> dict[str, Any]:
    """Of each draw of images and labels, the excess and the risk over time, and what leave-one-out chooses."""
    draws, times = [], np.geomspace(*settings.span, settings.times)
    for number in range(settings.draws):
        draws.append(rows(f"draw {number}", partial(_draw, settings, number, times)))
        meter(number + 1)
    return {"examples": settings.examples, "noise": settings.noise, "times": times.tolist(), "draws": draws}


def _draw(settings: Settings, number: int, times: Float[np.ndarray, " t"]) -> dict[str, Any]:
    n, p = settings.examples, settings.noise
    x, labels, rng = _images(settings, number)
    y, m = noisy(labels[:n], p, rng), (1 - p) * _coded(labels)
    kernel = ntkit.NTK(NET)
    matrix = np.asarray(ntkit.gram(kernel, x, progress=False))
    flow: Any = ntkit.gradient_flow(kernel, x[:n], y, matrix=matrix[:n, :n], progress=False)
    values, vectors = np.linalg.eigh(matrix[:n, :n])
    across, rotated = matrix[n:, :n] @ vectors, vectors.T @ y

    def excess(factors: Float[np.ndarray, " n"]) -> float:
        return float(np.mean(np.sum((across @ (factors[:, None] * rotated) - m[n:]) ** 2, axis=1))) / 2

    def of_flow(t: float) -> float:
        return excess(-np.expm1(-t * values / n) / values)

    def of_ridge(alpha: float) -> float:
        return excess(1 / (values + alpha))

    chosen, best = flow.best_time(times=times), flow.best_time(x[n:], m[n:], times=times)
    matched = flow.ridge_at(chosen.time).alpha
    risks = risk(values, vectors.T @ m[:n], p, times)
    return {
        "flow": [of_flow(t) for t in times],
        "ridge": [of_ridge(n / t) for t in times],
        "chosen": {"time": chosen.time, "loss": chosen.loss, "excess": of_flow(chosen.time)},
        "matched": {"alpha": matched, "excess": of_ridge(matched)},
        "best": {"time": best.time, "excess": best.loss},
        "end": float(np.mean(np.sum((flow(x[n:]) - m[n:]) ** 2, axis=1))) / 2,
        "risks": {"flow": risks[0].tolist(), "ridge": risks[1].tolist()},
    }


def _images(settings: Settings, number: int) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"], Any]:
    """Training images and below them those of test, shuffled and scaled; their classes; and a generator for noise."""
    rng = np.random.default_rng([settings.seed, number])
    every = settings.examples + settings.test
    x, labels = digits(settings.data, every, 1000 * settings.seed + number)
    order = rng.permutation(every)
    x, known = x[order].astype(np.float64), x[order[: settings.examples]]
    return (x - known.mean()) / known.std(), labels[order].astype(int), rng


def _coded(labels: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "n c"]:
    return (labels[:, None] == np.arange(CLASSES)) - 1 / CLASSES


def noisy(labels: Int[np.ndarray, " n"], p: float, rng: Any) -> Float[np.ndarray, "n c"]:
    """One-hot labels minus 1/10, of classes drawn anew with probability p: of mean (1 - p) (one-hot - 1/10)."""
    wrong = rng.random(len(labels)) < p
    return _coded(np.where(wrong, rng.integers(0, CLASSES, len(labels)), labels))


def variance(p: float) -> float:
    """Of the noise of one example, added up over outputs: 1 - |q|^2, for classes of probabilities q."""
    return 1 - (1 - p + p / CLASSES) ** 2 - (CLASSES - 1) * (p / CLASSES) ** 2


def risk(
    values: Float[np.ndarray, " n"], mean: Float[np.ndarray, "n c"], p: float, times: Float[np.ndarray, " t"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """E |f(X) - m|^2 / n over the noise of `noisy`, summed over outputs: of the flow at each t, and of the ridge n / t.

    `values`: the eigenvalues of K; `mean`: the parts V^T m along its eigenvectors.
    """
    x = times[:, None] * values / len(values)
    signal, noise = np.sum(mean**2, axis=1), variance(p)
    flow = np.exp(-2 * x) * signal + noise * np.expm1(-x) ** 2
    ridge = signal / (1 + x) ** 2 + noise * (x / (1 + x)) ** 2
    return flow.mean(axis=1), ridge.mean(axis=1)


def find(numbers: Numbers) -> dict[str, Any]:
    draws = numbers["draws"]

    def of(*path: str) -> Float[np.ndarray, "..."]:
        found = draws
        for key in path:
            found = [own[key] for own in found]
        return np.array(found)

    excess, risks = of("chosen", "excess"), {name: of("risks", name) for name in ("flow", "ridge")}
    rivals = {
        "best_time": of("best", "excess"),
        "ridge": of("ridge").min(axis=1),
        "matched_ridge": of("matched", "excess"),
        "end": of("end"),
    }
    return {
        "draws": len(draws),
        "time": float(np.exp(np.mean(np.log(of("chosen", "time"))))),
        "best_time": float(np.exp(np.mean(np.log(of("best", "time"))))),
        "excess": float(excess.mean()),
        "rivals": {name: float(values.mean()) for name, values in rivals.items()},
        "ratios": {name: float(np.mean(excess / values)) for name, values in rivals.items()},
        "errors": {name: _error(excess / values) for name, values in rivals.items()},
        "alpha_t_over_n": float(np.mean(of("matched", "alpha") * of("chosen", "time")) / numbers["examples"]),
        "risk_ratio": float(np.max(risks["flow"] / risks["ridge"])),
    }


def _error(values: Float[np.ndarray, " s"]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def criteria(findings: Numbers) -> list[Criterion]:
    ratios = findings["ratios"]
    return [
        Criterion("largest risk of the flow over that of the ridge n / t", findings["risk_ratio"], high=BOUND),
        Criterion("excess at leave-one-out's time, over that at the best time", ratios["best_time"], high=1.05),
        Criterion("the same over that of the best ridge", ratios["ridge"], high=1.1),
        Criterion("the same over that of training to the end", ratios["end"], high=0.9),
    ]


def table(findings: Numbers) -> Table:
    words = {
        "best_time": "stopped at the best time",
        "ridge": "the best ridge",
        "matched_ridge": "the ridge that leave-one-out's time matches",
        "end": "trained to the end",
    }
    rows = [
        (text, f"{findings['rivals'][k]:.4f}", f"{findings['ratios'][k]:.3f} ± {findings['errors'][k]:.3f}")
        for k, text in words.items()
    ]
    return Table(
        ("", "excess loss", "leave-one-out's over it"),
        (("stopped at the time of leave-one-out", f"{findings['excess']:.4f}", "1"), *rows),
    )


def draw(axes: Sequence[Any], numbers: Numbers, findings: Numbers) -> None:
    from ntkit import plots

    draws = numbers["draws"]
    times, n, share = np.array(numbers["times"]), numbers["examples"], numbers["noise"]
    kinds = {"gradient flow, time t": "flow", "ridge, n / alpha = t": "ridge"}
    plots.trainings(axes[0], times, {kind: np.array([own[name] for own in draws]) for kind, name in kinds.items()})
    chosen = ([own["chosen"][what] for own in draws] for what in ("time", "excess"))
    axes[0].plot(*chosen, "o", color="black", markersize=5, markerfacecolor="none", label="by leave-one-out", zorder=6)
    risks = {kind: np.array([own["risks"][name] for own in draws]) for kind, name in kinds.items()}
    plots.trainings(axes[1], times, risks)
    words = f"{n} images, {share:.0%} of labels drawn anew"
    axes[0].set(ylabel="mean |f - m|² / 2, test images", title=f"Excess loss, {words}")
    axes[1].set(ylabel="E mean |f - m|², training images", title="Expected risk, exact")
    for ax in axes:
        ax.set(xscale="log", ylim=(0, None))
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)


STUDY = Study(
    name="early-stopping",
    words="Early stopping beside ridge regression, and its time by leave-one-out, on digits with wrong labels",
    source="Ali, Kolter and Tibshirani 2019",
    full=Settings(),
    quick=Settings(data="digits", examples=200, test=600, draws=3),
    cost="about 2 minutes on 2 cores",
    measure=measure, find=find, criteria=criteria, table=table, draw=draw,
    steps=lambda settings: settings.draws,
    panels=2,
)  # fmt: skip
