"""The demo's study of one data set: arrays in, findings out; nothing is printed or drawn."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Float, Int, Shaped

import ntkit
from ntkit.cli._architecture import Architecture
from ntkit.cli._choose import ACTIVATIONS_OF_IMAGES, RIDGES, Choice, Criterion, candidates, choose
from ntkit.cli._console import Clock
from ntkit.cli._rivals import support_vectors, train_network
from ntkit.cli._scaling import Scaling
from ntkit.data import Dataset
from ntkit.predict import one_hot, tune

STEPS = 800
DEPTHS = (1, 2, 3)
ACTIVATIONS = ("relu", "erf", "gelu")
# Of convolutional networks.
DEPTHS_OF_IMAGES = (2, 3, 4)
BATCH_OF_IMAGES = 32
# Examples by which a network is chosen: more choose no better, and the time goes with the cube.
MOST = 600
# Examples, training and test together, whose kernels are computed in one piece.
ONE_TILE = 3000


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
    seconds_kernels: float
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
    base: Architecture = Architecture(),
    criterion: Criterion = Criterion.leave_one_out_error,
    seed: int = 0,
    quick: bool = False,
    step: Callable[[str], None] = lambda name: None,
) -> Study:
    """Chooses depth, activation and ridge on the training examples, then compares four models on the test examples.

    `base`: all else about the networks to choose among.

    One temperature turns scores into probabilities: it minimises the negative log likelihood of the kernel's
    leave-one-out scores, and serves the network of finite width as well. In regression the leave-one-out error does.
    """
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    # Pictures keep their shape of brightness; the columns of a table have units of their own.
    scaling = Scaling.of(dataset.x, "sphere" if len(dataset.shape) > 1 else "standard")
    x, x_test = scaling(dataset.x), scaling(dataset.x_test)
    problem = _Problem(dataset)
    criterion.check(dataset.kind, min(len(x), MOST))
    clock = Clock()
    options = networks(base, quick=quick)
    # Of images a tile is work for one core.
    how: Any = {"memory": "1GiB" if base.image else None, "most": MOST, "step": step}
    choice = choose(options, x, problem.y, criterion=criterion, seed=seed, **how)
    net, alpha, chosen = choice.architecture, choice.alpha, clock.seconds
    assert isinstance(net, Architecture)  # as all options are
    step("both kernels")
    clock = Clock()
    known = _Known.of(net, x, x_test)
    computed = clock.seconds
    eigenvalues = {"NTK": np.linalg.eigvalsh(known.ntk), "NNGP": np.linalg.eigvalsh(known.nngp)}
    step("infinite ensemble")
    first, values, spread, loo = _ensemble(problem, alpha, known)
    step("NNGP posterior")
    second = _bayes(problem, known, criterion, seed)
    step(f"network of width {net.width}")
    third = _finite(problem, net, alpha, x, x_test, loo, seed, quick)
    step("support vector machine")
    fourth = _machine(problem, x, x_test, quick)
    rows = (first, second, third, fourth)
    seconds, matrices = (chosen, computed), (known.ntk, known.nngp)
    return Study(dataset, choice, rows, net.width, *seconds, *matrices, eigenvalues, problem.classes, values, spread)


def networks(base: Architecture = Architecture(), *, quick: bool = False) -> list[Architecture]:
    """The networks that a study chooses among."""
    depths, activations = (DEPTHS_OF_IMAGES, ACTIVATIONS_OF_IMAGES) if base.image else (DEPTHS, ACTIVATIONS)
    return candidates(base, depths[:2], activations[:2]) if quick else candidates(base, depths, activations)


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


def _ensemble(problem, alpha, known):
    """Infinitely wide networks trained without end: (row, values, spread, (leave-one-out error, its calibration))."""
    clock = Clock()
    pair = known.nngp, known.ntk
    trained = ntkit.ensemble(known.both, known.rows, problem.y, noise=alpha, matrices=pair, progress=False)
    mean, variance = trained(known.test_rows, covariance="diagonal")
    assert variance is not None
    options: Any = {"matrix": known.ntk, "progress": False}
    post = ntkit.posterior(_Lookup(known.both.matrices.ntk), known.rows, problem.y, noise=alpha, **options)
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


def _bayes(problem, known, criterion, seed) -> Row:
    """The Bayesian network of infinite width, with a ridge of its own."""
    clock = Clock()
    kernel, x, nngp = known.of_nngp(), known.rows, known.nngp
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:MOST])
    some: Any = {"matrices": [nngp[np.ix_(rows, rows)]], "criterion": criterion.for_tune(seed), "noise": RIDGES}
    noise = tune([kernel], x[rows], problem.y[rows], relative=True, progress=False, **some).noise
    post = ntkit.posterior(kernel, x, problem.y, noise=noise, matrix=nngp, progress=False)
    factor = _calibrate(problem, post.leave_one_out())
    if problem.classification:
        mean = post(known.test_rows, covariance=None).mean
        return problem.judge_classes("NNGP posterior", scipy.special.softmax(mean / factor, axis=1), clock)
    mean, variance = post(known.test_rows, observation=True)
    assert variance is not None
    mean, std = problem.offset + problem.scale * mean[:, 0], problem.scale * np.sqrt(factor * variance)
    return problem.judge_numbers("NNGP posterior", mean, std, clock)


class _Lookup(eqx.Module):
    """Kernels whose matrices on all examples are at hand: an example is its number, (n, 1)."""

    matrices: Any

    def __call__(self, x1: Any, x2: Any = None) -> Any:
        i, j = (x[:, 0].astype(int) for x in (x1, x1 if x2 is None else x2))
        return jax.tree.map(lambda matrix: jnp.asarray(matrix)[i[:, None], j[None, :]], self.matrices)

    def diagonal(self, x: Any) -> Any:
        i = x[:, 0].astype(int)
        return jax.tree.map(lambda matrix: jnp.asarray(matrix)[i, i], self.matrices)


@dataclasses.dataclass(frozen=True)
class _Known:
    """Both kernels on training and test examples, computed in one pass, and as a kernel of their numbers."""

    both: _Lookup
    rows: Float[np.ndarray, "n 1"]
    test_rows: Float[np.ndarray, "m 1"]

    @staticmethod
    def of(net: Architecture, x: Float[np.ndarray, "n d"], x_test: Float[np.ndarray, "m d"]) -> "_Known":
        every = np.concatenate([x, x_test])
        # One tile is one program to compile, which takes longer than its second half of a symmetric matrix.
        tile = len(every) if len(every) <= ONE_TILE and not net.image else None
        found = ntkit.gram(net.of_kind("both"), every, tile=tile, memory=None, progress=False)
        number = np.arange(float(len(every)))[:, None]
        return _Known(_Lookup(ntkit.Kernels(*found)), number[: len(x)], number[len(x) :])

    def of_nngp(self) -> _Lookup:
        return _Lookup(self.both.matrices.nngp)

    @property
    def ntk(self) -> Float[np.ndarray, "n n"]:
        n = len(self.rows)
        return self.both.matrices.ntk[:n, :n]

    @property
    def nngp(self) -> Float[np.ndarray, "n n"]:
        n = len(self.rows)
        return self.both.matrices.nngp[:n, :n]


def _finite(problem, net, alpha, x, x_test, loo, seed, quick) -> Row:
    clock = Clock()
    error, factor = loo
    steps = STEPS // 5 if quick else STEPS
    how: Any = {"width": net.width, "steps": steps, "seed": seed} | ({"batch": BATCH_OF_IMAGES} if net.image else {})
    scores = train_network(net, x, problem.y, x_test, alpha=alpha, **how)
    name = f"one network, width {net.width}"
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
