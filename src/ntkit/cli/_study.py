"""The demo's study of one data set: arrays in, findings out; nothing is printed or drawn."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Float, Int, Shaped

import ntkit
from ntkit.cli._architecture import Architecture
from ntkit.cli._choose import ERROR, RIDGES, Choice, candidates, choose
from ntkit.cli._console import Clock
from ntkit.cli._rivals import support_vectors, train_network
from ntkit.cli._scaling import Scaling
from ntkit.data import Dataset
from ntkit.predict import one_hot, tune

WIDTH = 512
STEPS = 800
DEPTHS = (1, 2, 3)
ACTIVATIONS = ("relu", "erf", "gelu")
# Examples by which a network is chosen: more choose no better, and the time goes with the cube.
MOST = 600


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: `score` is the accuracy, or the root mean squared error in the unit of the target."""

    name: str
    score: float
    negative_log_likelihood: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Study:
    """What the demo found. `values`, `spread` are the infinite ensemble's: probabilities (m, c) and None, or means and
    deviations (m,)."""

    dataset: Dataset
    choice: Choice
    rows: tuple[Row, ...]
    width: int
    seconds_choosing: float
    ntk: Float[np.ndarray, "n n"]
    nngp: Float[np.ndarray, "n n"]
    eigenvalues: dict[str, Float[np.ndarray, " n"]]
    classes: Shaped[np.ndarray, " c"]
    values: Float[np.ndarray, "m *c"]
    spread: Float[np.ndarray, " m"] | None

    @property
    def least_sure(self) -> Int[np.ndarray, " m"]:
        """The test examples, those with the smallest largest probability, or the largest deviation, first."""
        doubt = -self.values.max(axis=1) if self.spread is None else self.spread
        return np.argsort(-doubt, kind="stable")

    @property
    def score_name(self) -> str:
        return "accuracy" if self.dataset.kind == "classification" else "RMSE"


def study(
    dataset: Dataset,
    *,
    seed: int = 0,
    quick: bool = False,
    step: Callable[[str], None] = lambda name: None,
) -> Study:
    """Chooses depth, activation and ridge on the training examples, then compares four models on the test examples.

    One temperature turns scores into probabilities: it minimises the negative log likelihood of the kernel's
    leave-one-out scores, and serves the network of finite width as well. In regression the leave-one-out error does.
    """
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    # Pictures keep their shape of brightness; the columns of a table have units of their own.
    scaling = Scaling.of(dataset.x, "sphere" if len(dataset.shape) > 1 else "standard")
    x, x_test = scaling(dataset.x), scaling(dataset.x_test)
    problem = _Problem(dataset)
    clock = Clock()
    options = networks(quick=quick)
    choice = choose(options, x, problem.y, seed=seed, most=MOST, step=step)
    net, alpha, chosen = choice.architecture, choice.alpha, clock.seconds
    step("both kernels")
    nngp, ntk = ntkit.gram(ntkit.Both(net.network()), x, progress=False)
    eigenvalues = {"NTK": np.linalg.eigvalsh(ntk), "NNGP": np.linalg.eigvalsh(nngp)}
    step("infinite ensemble")
    first, values, spread, loo = _ensemble(problem, net, alpha, x, x_test, ntk)
    step("NNGP posterior")
    second = _bayes(problem, net, x, x_test, nngp, seed)
    step(f"network of width {WIDTH}")
    third = _finite(problem, net, alpha, x, x_test, loo, seed, quick)
    step("support vector machine")
    fourth = _machine(problem, x, x_test, quick)
    rows = (first, second, third, fourth)
    return Study(dataset, choice, rows, WIDTH, chosen, ntk, nngp, eigenvalues, problem.classes, values, spread)


def networks(*, quick: bool = False) -> list[Architecture]:
    """The networks that a study chooses among."""
    return (
        candidates(Architecture(), DEPTHS[:2], ACTIVATIONS[:2])
        if quick
        else candidates(Architecture(), DEPTHS, ACTIVATIONS)
    )


class _Problem:
    """Targets as regression targets (n, o), and the two scores of predictions at the test examples."""

    def __init__(self, dataset: Dataset):
        self.classification = dataset.kind == "classification"
        assert dataset.y_test is not None
        self.labels, self.truth = dataset.y, dataset.y_test
        self.classes = dataset.classes
        if self.classification:
            self.y, self.offset, self.scale = one_hot(dataset.y, classes=self.classes).y, 0.0, 1.0
            self.index = np.searchsorted(self.classes, dataset.y)
            self.test_index = np.searchsorted(self.classes, self.truth)
        else:
            self.offset, self.scale = float(dataset.y.mean()), float(dataset.y.std()) or 1.0
            self.y = (dataset.y[:, None] - self.offset) / self.scale

    def judge_classes(self, name: str, probability: Float[np.ndarray, "m c"], clock: Clock) -> Row:
        seconds = clock.seconds
        right = probability.argmax(axis=1) == self.test_index
        likelihood = probability[np.arange(len(right)), self.test_index]
        loss = -np.log(np.maximum(likelihood, np.finfo(float).tiny))
        return Row(name, float(right.mean()), float(loss.mean()), seconds)

    def judge_numbers(
        self, name: str, mean: Float[np.ndarray, " m"], std: Float[np.ndarray, "..."], clock: Clock
    ) -> Row:
        """`mean` and `std` in the unit of the target."""
        seconds = clock.seconds
        error = self.truth - mean
        loss = 0.5 * (np.log(2 * np.pi * std**2) + (error / std) ** 2)
        return Row(name, float(np.sqrt(np.mean(error**2))), float(np.mean(np.broadcast_to(loss, error.shape))), seconds)


def _calibrate(problem: _Problem, loo) -> float:
    """The temperature, or the amplitude, under which the leave-one-out predictions are most likely."""
    if problem.classification:
        from ntkit.sklearn._classifier import fit_temperature

        return fit_temperature(loo.mean, problem.index)
    return float(np.mean((problem.y - loo.mean) ** 2 / loo.variance[:, None]))


def _ensemble(problem, net, alpha, x, x_test, ntk):
    """Infinitely wide networks trained without end: (row, values, spread, (leave-one-out error, its calibration))."""
    clock = Clock()
    trained = ntkit.ensemble(net.network(), x, problem.y, noise=alpha, progress=False)
    mean, variance = trained(x_test, covariance="diagonal")
    assert variance is not None
    post = ntkit.posterior(ntkit.NTK(net.network()), x, problem.y, noise=alpha, matrix=ntk, progress=False)
    loo = post.leave_one_out()
    factor = _calibrate(problem, loo)
    error = float(np.sqrt(np.mean((problem.y - loo.mean) ** 2)))
    if problem.classification:
        values = scipy.special.softmax(mean / factor, axis=1)
        return problem.judge_classes("infinite ensemble", values, clock), values, None, (error, factor)
    # A new label differs by the spread of the networks, and by what no network explains.
    std = problem.scale * np.sqrt(variance + error**2)
    values = problem.offset + problem.scale * mean[:, 0]
    return problem.judge_numbers("infinite ensemble", values, std, clock), values, std, (error, factor)


def _bayes(problem, net, x, x_test, nngp, seed) -> Row:
    """The Bayesian network of infinite width, with a ridge of its own."""
    clock = Clock()
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:MOST])
    given = _Given(nngp[np.ix_(rows, rows)])
    noise = tune([given], x[rows], problem.y[rows], relative=True, noise=RIDGES, criterion=ERROR, progress=False).noise
    post = ntkit.posterior(net.of_kind("nngp"), x, problem.y, noise=noise, matrix=nngp, progress=False)
    factor = _calibrate(problem, post.leave_one_out())
    if problem.classification:
        mean = post(x_test, covariance=None).mean
        return problem.judge_classes("NNGP posterior", scipy.special.softmax(mean / factor, axis=1), clock)
    mean, variance = post(x_test, observation=True)
    assert variance is not None
    mean, std = problem.offset + problem.scale * mean[:, 0], problem.scale * np.sqrt(factor * variance)
    return problem.judge_numbers("NNGP posterior", mean, std, clock)


class _Given(eqx.Module):
    """A kernel whose matrix on the training examples is at hand: nothing is compiled to have it again."""

    matrix: Float[np.ndarray, "n n"]

    def __call__(self, x1: Any, x2: Any = None) -> Any:
        return jnp.asarray(self.matrix)


def _finite(problem, net, alpha, x, x_test, loo, seed, quick) -> Row:
    clock = Clock()
    error, factor = loo
    steps = STEPS // 5 if quick else STEPS
    scores = train_network(net, x, problem.y, x_test, alpha=alpha, width=WIDTH, steps=steps, seed=seed)
    name = f"one network, width {WIDTH}"
    if problem.classification:
        return problem.judge_classes(name, scipy.special.softmax(scores / factor, axis=1), clock)
    mean = problem.offset + problem.scale * scores[:, 0]
    return problem.judge_numbers(name, mean, np.asarray(problem.scale * error), clock)


def _machine(problem, x, x_test, quick) -> Row:
    clock = Clock()
    if problem.classification:
        classes, found = support_vectors(x, problem.labels, x_test, classification=True, quick=quick)
        probability = np.zeros((len(x_test), len(problem.classes)))
        probability[:, np.searchsorted(problem.classes, classes)] = found
        return problem.judge_classes("SVM, RBF kernel", probability, clock)
    mean, error = support_vectors(x, problem.y[:, 0], x_test, classification=False, quick=quick)
    mean, std = problem.offset + problem.scale * mean, np.asarray(problem.scale * error)
    return problem.judge_numbers("SVM, RBF kernel", mean, std, clock)
