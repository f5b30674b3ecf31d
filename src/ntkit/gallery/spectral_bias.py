"""Y. Cao, Z. Fang, Y. Wu, D. Zhou and Q. Gu 2021, "Towards Understanding the Spectral Bias of Deep Learning", IJCAI.

**Theirs.** Early in training a wide ReLU network learns the part of the target along an eigenfunction of its NTK at the
rate of the eigenvalue: on spheres, harmonics of low degree first, which they show with sums of harmonics. B. Bowman and
G. Montufar ("Spectral Bias Outside the Training Set for Deep Networks in the Kernel Regime", NeurIPS 2022) prove it for
widths only linear in the number n of examples; R. Basri, D. Jacobs, Y. Kasten and S. Kritchman ("The Convergence Rate
of Neural Networks for Learned Functions of Different Frequencies", NeurIPS 2019) measure it on the circle.

**Ours.** `ntkit.frequency_study`: one hidden layer of ReLU with biases, w_std^2 = 2, b_std = 0.5, trained by gradient
descent in float32 on the sum of one harmonic of each degree, times 0.1 so that the networks stay near their start, on
the circle and on spheres in 3 and 10 dimensions, at widths n, 4 n and 16 n. The rate of a degree is the share of what
is left of it that a step learns. It is predicted by the eigenvalue of `ntkit.mercer`; that of the infinite network on
the same n points, which miss some of the sphere, is the one that networks tend to.

**Criteria.** On each sphere: at width n already, rates go as a power of the eigenvalues of 1, within 0.1; of at least
nine in ten of all networks they fall in the order of the eigenvalues. At the largest width the means over networks are
those of the infinite network on the points, within 5 standard errors. The deviation from these, in the norm over
degrees of the ratios minus 1, falls as width^(-1/2), within three standard errors of the fitted rate.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

import ntkit
from ntkit import nn
from ntkit.diagnose.rates import fit
from ntkit.gallery._study import Criterion, Numbers, Rows, Study, Table

NET = nn.mlp(depth=1, width=1, activation=nn.Relu(), w_std=2**0.5, b_std=0.5, outputs=1)
# Of what is left over time so many points are kept.
KEPT = 80


@dataclasses.dataclass(frozen=True)
class Settings:
    dimensions: tuple[int, ...] = (2, 3, 10)
    examples: tuple[int, ...] = (64, 240, 300)
    degrees: tuple[int, ...] = (3, 3, 2)  # the largest of each sphere
    multiples: tuple[int, ...] = (1, 4, 16)  # of the number of examples, the widths
    networks: int = 10
    amplitude: float = 0.1
    seed: int = 0


def measure(settings: Settings, rows: Rows, meter: Callable[[float], None]) -> dict[str, Any]:
    """Of each sphere and width the rates of all networks, and what is left of each degree over time."""
    spheres, done = [], 0
    for d, n, degree in zip(settings.dimensions, settings.examples, settings.degrees, strict=True):
        found = []
        for multiple in settings.multiples:
            # Of no two widths the same: JAX's draws of two shapes may have a beginning in common.
            seeds = range((settings.seed * len(settings.multiples) + len(found)) * settings.networks, 10**9)
            make = partial(_row, settings, d, n, degree, multiple * n, seeds[: settings.networks])
            found.append(rows(f"dimension {d}, width {multiple * n}", make))
            done += 1
            meter(done)
        shared = {key: found[0][key] for key in ("degrees", "predicted", "expected", "steps", "infinite")}
        widths = [{key: own[key] for key in ("width", "rates", "left")} for own in found]
        spheres.append({"dimension": d, "examples": n} | shared | {"widths": widths})
    return {"spheres": spheres}


def _row(settings: Settings, d: int, n: int, degree: int, width: int, seeds: Sequence[int]) -> dict[str, Any]:
    study = ntkit.frequency_study(
        NET, range(degree + 1), [width], seeds, dimension=d, examples=n, amplitude=settings.amplitude
    )
    steps = np.unique(np.geomspace(1, len(study.infinite) - 1, KEPT).astype(int))
    return {
        "width": width,
        "degrees": study.degrees.tolist(),
        "predicted": study.predicted.tolist(),
        "expected": study.expected.tolist(),
        "rates": study.rates[0].tolist(),
        "steps": steps.tolist(),
        "left": study.left[0][:, steps].tolist(),
        "infinite": study.infinite[steps].tolist(),
    }


def find(numbers: Numbers) -> dict[str, Any]:
    return {"spheres": [_sphere(own) for own in numbers["spheres"]]}


def _sphere(own: Numbers) -> dict[str, Any]:
    predicted, expected = np.asarray(own["predicted"]), np.asarray(own["expected"])
    rates = np.array([group["rates"] for group in own["widths"]])  # (w, s, k)
    mean, error = rates.mean(axis=1), rates.std(axis=1, ddof=1) / math.sqrt(rates.shape[1])
    ordered = (np.diff(rates[:, :, np.argsort(-predicted)], axis=2) < 0).all(axis=2)
    widths = np.array([group["width"] for group in own["widths"]])
    return {
        "dimension": own["dimension"],
        "examples": own["examples"],
        "degrees": own["degrees"],
        "predicted": predicted.tolist(),
        "expected": expected.tolist(),
        "widths": widths.tolist(),
        "mean": mean.tolist(),
        "error": error.tolist(),
        "ratio": (mean / expected).tolist(),
        "power": [_power(predicted, own) for own in mean],
        "ordered": float(ordered.mean()),
        "largest_z": float(np.max(np.abs(mean[-1] - expected) / error[-1])),
        "rate": fit(widths.astype(float), np.linalg.norm(rates / expected - 1, axis=2))._asdict(),
    }


def _power(predicted: Float[np.ndarray, " k"], measured: Float[np.ndarray, " k"]) -> float:
    """a in measured = constant predicted^a, by least squares over the logarithms."""
    x, y = np.log(predicted), np.log(measured)
    return float((x - x.mean()) @ y / np.sum((x - x.mean()) ** 2))


def _named(own: Numbers) -> str:
    return "circle" if own["dimension"] == 2 else f"sphere in {own['dimension']} dimensions"


def _in_n(own: Numbers, at: int) -> str:
    multiple = own["widths"][at] // own["examples"]
    return "n" if multiple == 1 else f"{multiple} n"


def criteria(findings: Numbers) -> list[Criterion]:
    found = []
    for own in findings["spheres"]:
        name, slope, error = _named(own), own["rate"]["slope"], 3 * own["rate"]["standard_error"]
        found += [
            Criterion(f"{name}: power of the eigenvalue, width n", own["power"][0], 0.9, 1.1),
            Criterion(f"{name}: networks that learn in the order of the eigenvalues", own["ordered"], low=0.9),
            Criterion(f"{name}: standard errors from the infinite network", own["largest_z"], high=5),
            Criterion(f"{name}: rate of the deviation in the width", slope, -0.5 - error, -0.5 + error),
        ]
    return found


def table(findings: Numbers) -> Table:
    rows = []
    for own in findings["spheres"]:
        for k, degree in enumerate(own["degrees"]):
            first = (_named(own), str(own["examples"])) if k == 0 else ("", "")
            ratios = (
                f"{mean[k] / own['expected'][k]:.3f} ± {error[k] / own['expected'][k]:.3f}"
                for mean, error in zip(own["mean"], own["error"], strict=True)
            )
            rows.append((*first, str(degree), f"{own['predicted'][k]:.3g}", f"{own['expected'][k]:.3g}", *ratios))
    first = findings["spheres"][0]
    widths = (f"measured / on points, width {_in_n(first, at)}" for at in range(len(first["widths"])))
    return Table(("", "n", "degree", "predicted", "on points", *widths), tuple(rows))


def draw(axes: Sequence[Any], numbers: Numbers, findings: Numbers) -> None:
    from ntkit import plots

    shown = numbers["spheres"][min(1, len(numbers["spheres"]) - 1)]
    steps, left, infinite = (np.asarray(v) for v in (shown["steps"], shown["widths"][0]["left"], shown["infinite"]))
    curves = {f"degree {k}": np.where(left > 0, left, np.nan)[:, :, at] for at, k in enumerate(shown["degrees"])}
    plots.trainings(axes[0], steps.astype(float), curves)
    for at in range(len(curves)):
        label = "infinite width" if at == 0 else None
        axes[0].plot(steps, infinite[:, at], color="black", linewidth=1.6, linestyle=(0, (1, 1)), label=label, zorder=5)
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    width, name = shown["widths"][0]["width"], _named(shown)
    axes[0].set(xscale="log", ylim=(0, 1.1), xlabel="steps", ylabel="part of the harmonic that is left")
    axes[0].set(title=f"{name[0].upper()}{name[1:]}, width {width} = n")
    groups = {}
    for own in findings["spheres"]:
        for at in sorted({0, len(own["widths"]) - 1}):
            name = f"{_named(own)}, width {_in_n(own, at)}"
            groups[name] = (np.asarray(own["predicted"]), np.asarray(own["mean"][at]), np.asarray(own["error"][at]))
    plots.agreement(axes[1], groups)
    axes[1].set(xlabel="step size times eigenvalue", ylabel="share of the harmonic learned in a step")
    axes[1].set(title="Learning rate of each degree, means of networks")


STUDY = Study(
    name="spectral-bias",
    words="What finite networks learn first on circles and spheres, against eigenvalues of the NTK",
    source="Cao et al. 2021; Bowman and Montufar 2022; Basri et al. 2019",
    full=Settings(),
    quick=Settings(dimensions=(3,), examples=(48,), degrees=(2,), multiples=(1, 16)),
    cost="about 2 minutes on 2 cores",
    measure=measure, find=find, criteria=criteria, table=table, draw=draw,
    steps=lambda settings: len(settings.dimensions) * len(settings.multiples),
    panels=2,
)  # fmt: skip
