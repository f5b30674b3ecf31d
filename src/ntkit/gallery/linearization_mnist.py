"""The loss of a network in training beside that of its linearization: the example `weight_space` of neural-tangents.

R. Novak et al., "Neural Tangents: fast and easy infinite neural networks in Python", ICLR 2020; the theory is J. Lee,
L. Xiao et al., "Wide neural networks of any depth evolve as linear models under gradient descent", NeurIPS 2019.

**Theirs.** 64 images of MNIST, Dense(512) - Erf - Dense(10), w_std = 1, b_std = 0.05, gradient descent with learning
rate 1, and f_lin(theta) = f(theta_0) + J (theta - theta_0) trained alike. The losses at t = 0, 100, ..., 900 are below
(`PUBLISHED`): 0.2444 both at first, 0.0239 of the network and 0.0229 of its linearization at last.

**The loss** is the mean over examples and outputs of (f - y)^2 / 2, of one-hot labels minus 0.1; images are centred
and scaled by the mean and the standard deviation of all pixels. At t = 0 it is 0.045 from the labels, plus half the
variance of the outputs, (2 / pi) arcsin(2 q / (1 + 2 q)) + 0.0025 = 0.467 with q = 1.0025, on average: 0.279. Ten
outputs of one network scatter about it; the published 0.2444 is such a draw.

**Ours.** The same with five draws of images and parameters, in float32; and as a third curve the same descent in
function space with the infinite kernel, `ntkit.descend`, from the network's f_0.

**Criteria.** Images and parameters are other draws, so that digits cannot be compared. The relative gap between the two
losses, |network / linearization - 1|, is at each time at most twice the largest published one, in the mean over draws;
and at t = 900 the network's loss, as a share of that at t = 0, lies within a factor of 2 of the published share.
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
from ntkit import nn
from ntkit.gallery._digits import digits
from ntkit.gallery._study import Criterion, Numbers, Rows, Study, Table
from ntkit.gallery._training import descent
from ntkit.predict.flow import GradientDescent

CLASSES, EVERY = 10, 100
PUBLISHED = {
    "network": (0.2444, 0.1231, 0.0854, 0.0652, 0.0523, 0.0434, 0.0367, 0.0315, 0.0273, 0.0239),
    "linearized": (0.2444, 0.1234, 0.0855, 0.0649, 0.0519, 0.0427, 0.0359, 0.0306, 0.0263, 0.0229),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    data: str = "mnist"
    examples: int = 64
    width: int = 512
    draws: int = 5
    learning_rate: float = 1.0
    seed: int = 0


def network(width: int) -> nn.Sequential:
    return nn.mlp(depth=1, width=width, activation=nn.Erf(), w_std=1.0, b_std=0.05, outputs=CLASSES)


def measure(settings: Settings, rows: Rows, meter: Callable[[float], None]) -> dict[str, Any]:
    """The losses of each draw at t = 0, 100, ..., 900."""
    trainings, draws = _Trainings(settings), []
    for seed in range(settings.draws):
        draws.append(rows(f"draw {seed}", partial(trainings.losses, settings.seed + seed)))
        meter(seed + 1)
    times = [EVERY * k for k in range(len(PUBLISHED["network"]))]
    return {"times": times, "draws": draws, "published": {k: list(v) for k, v in PUBLISHED.items()}}


class _Trainings:
    """The network, its linearization and its limit, compiled once."""

    def __init__(self, settings: Settings):
        self._settings, self._net = settings, network(settings.width)
        # The mean over outputs is in the learning rate: `descent` and `descend` sum over them.
        self._step = settings.learning_rate / CLASSES
        self._run, self._run_linear = descent(self._net.apply, self._step), descent(self._linear, self._step)
        self._theta = ntkit.NTK(self._net)

    def _linear(self, theta: Any, at: tuple[Any, Any]) -> Any:
        """f(theta_0) + J (theta - theta_0), `at` (theta_0, images)."""
        return ntkit.linearize(self._net.apply, at[0])(theta, at[1])

    def losses(self, seed: int) -> dict[str, Any]:
        x, y = map(jnp.asarray, _examples(self._settings, seed))
        params = self._net.init(jax.random.key(seed), x.shape, dtype=x.dtype)
        start = np.asarray(self._net.apply(params, x))
        found = {
            "linearized": self._trained(self._linear, self._run_linear, params, (params, x), y),
            "network": self._trained(self._net.apply, self._run, params, x, y),
        }
        steps = [EVERY * k for k in range(len(PUBLISHED["network"]))]
        wide = ntkit.descend(self._theta, x, y, GradientDescent(self._step), f0=start, progress=False)
        return found | {"infinite": [_loss(f, y) for f in wide(None, steps)]}

    def _trained(self, fn: Any, run: Any, params: Any, x: Any, y: Any) -> list[float]:
        losses, params = [], jax.tree.map(jnp.copy, params)
        for _ in PUBLISHED["network"]:
            losses.append(_loss(fn(params, x), y))
            params = run(params, x, y, EVERY)
        return losses


def _examples(settings: Settings, seed: int) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n c"]]:
    x, labels = digits(settings.data, settings.examples, seed)
    y = (labels[:, None] == np.arange(CLASSES)).astype(np.float32) - np.float32(1 / CLASSES)
    return (x - x.mean()) / x.std(), y


def _loss(f: Any, y: Any) -> float:
    return float(np.mean((np.asarray(f, np.float64) - np.asarray(y)) ** 2) / 2)


def find(numbers: Numbers) -> dict[str, Any]:
    network, linear, infinite = (
        np.array([draw[name] for draw in numbers["draws"]]) for name in ("network", "linearized", "infinite")
    )
    theirs = {name: np.array(numbers["published"][name]) for name in PUBLISHED}
    gaps, published = np.abs(network / linear - 1), np.abs(theirs["network"] / theirs["linearized"] - 1)
    return {
        "times": numbers["times"],
        "network": network.mean(axis=0).tolist(),
        "linearized": linear.mean(axis=0).tolist(),
        "infinite": infinite.mean(axis=0).tolist(),
        "gap": gaps.mean(axis=0).tolist(),
        "published": {name: values.tolist() for name, values in theirs.items()} | {"gap": published.tolist()},
        "first": network[:, 0].tolist(),
        "share": float(np.mean(network[:, -1] / network[:, 0])),
        "published_share": float(theirs["network"][-1] / theirs["network"][0]),
    }


def criteria(findings: Numbers) -> list[Criterion]:
    theirs, share = findings["published"], findings["published_share"]
    return [
        Criterion("largest relative gap of the two losses", max(findings["gap"]), high=2 * max(theirs["gap"])),
        Criterion("the network's loss at the end, as a share of the first", findings["share"], share / 2, 2 * share),
    ]  # fmt: skip


def table(findings: Numbers) -> Table:
    theirs = findings["published"]
    columns = findings["times"], findings["network"], findings["linearized"], findings["infinite"], findings["gap"]
    rows = tuple(
        (str(t), f"{a:.4f}", f"{b:.4f}", f"{c:.4f}", f"{100 * gap:.1f}", f"{a0:.4f}", f"{b0:.4f}", f"{100 * gap0:.1f}")
        for (t, a, b, c, gap, a0, b0, gap0) in zip(
            *columns, theirs["network"], theirs["linearized"], theirs["gap"], strict=True
        )
    )
    own = ("t", "network", "linearized", "infinite", "gap, %")
    return Table((*own, "published network", "published linearized", "gap, %"), rows)


def draw(axes: Sequence[Any], numbers: Numbers, findings: Numbers) -> None:
    from ntkit import plots

    curves = {
        "network": findings["network"],
        "linearized": findings["linearized"],
        "infinite width": findings["infinite"],
    }
    published = {f"published, {name}": findings["published"][name] for name in PUBLISHED}
    times = np.asarray(findings["times"], float)
    plots.trainings(axes[0], times, {k: np.asarray(v)[None] for k, v in curves.items()}, marks=published)
    axes[0].set(yscale="log", ylabel="loss", title=f"Loss, mean of {len(numbers['draws'])} draws")


STUDY = Study(
    name="linearization-mnist",
    words="The loss of a network beside that of its linearization, MNIST",
    source="Novak et al. 2020, example weight_space; Lee, Xiao et al. 2019",
    full=Settings(),
    quick=Settings(data="digits", draws=2),
    cost="less than 2 minutes on 2 cores",
    measure=measure, find=find, criteria=criteria, table=table, draw=draw,
    steps=lambda settings: settings.draws,
)  # fmt: skip
