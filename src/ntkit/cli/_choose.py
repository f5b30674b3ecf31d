"""Which network and which ridge: every candidate scored by one criterion, from one eigendecomposition each."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

import ntkit
from ntkit.cli._architecture import Architecture
from ntkit.cli._own import OwnNetwork
from ntkit.errors import InputError
from ntkit.predict import Candidate, KFold, tune
from ntkit.predict._evaluate import evaluate

# Relative to the mean diagonal of each kernel.
RIDGES = tuple(10.0 ** np.arange(-6.0, 1.0))
DEPTHS = (1, 2, 3, 5)
# Of convolutional networks, which take longer, and in ReLU as they are published.
DEPTHS_OF_IMAGES, ACTIVATIONS_OF_IMAGES = (2, 3, 5), ("relu",)
ACTIVATIONS = ("relu", "erf", "gelu")
# More examples than this choose no better network, but the time goes with the cube.
MOST = 2000
FOLDS = 5


class Criterion(StrEnum):
    """By what a network and a ridge are chosen; the names of `ntkit.predict.tune`, and `k-fold` for its `KFold`."""

    leave_one_out_error = "leave-one-out-error"
    leave_one_out = "leave-one-out"
    leave_one_out_accuracy = "leave-one-out-accuracy"
    k_fold = "k-fold"
    likelihood = "likelihood"

    @property
    def words(self) -> str:
        return {
            "leave-one-out-error": "mean squared leave-one-out error",
            "leave-one-out": "leave-one-out log density",
            "leave-one-out-accuracy": "leave-one-out accuracy",
            "k-fold": f"mean squared {FOLDS}-fold error",
            "likelihood": "log marginal likelihood",
        }[self]

    @property
    def field(self) -> str:
        """Of `ntkit.predict.Candidate`."""
        return {
            "leave-one-out-error": "loo_error",
            "leave-one-out": "loo_log_density",
            "leave-one-out-accuracy": "loo_accuracy",
            "k-fold": "fold_error",
            "likelihood": "log_marginal_likelihood",
        }[self]

    def unit(self, kind: str) -> str:
        """What its value is measured in, to be put behind it."""
        if not self.field.endswith("error"):
            return ""
        return " (of one-hot classes)" if kind == "classification" else " of the target's variance"

    def of(self, candidate: Candidate) -> float:
        return getattr(candidate, self.field)

    def for_tune(self, seed: int) -> str | KFold:
        return KFold(FOLDS, jax.random.key(seed)) if self == "k-fold" else str(self)

    def check(self, kind: str, examples: int) -> None:
        """Refuses, in the words of the command line, what the data cannot be judged by."""
        if self == "leave-one-out-accuracy" and kind != "classification":
            raise InputError("`--criterion leave-one-out-accuracy` needs classes, but the target is a number.")
        if self == "k-fold" and examples < FOLDS:
            raise InputError(
                f"`--criterion k-fold` needs {FOLDS} examples or more, but there are {examples}. Take "
                "leave-one-out-error."
            )


@dataclasses.dataclass(frozen=True)
class Choice:
    """The best network and ridge, and all that were tried: (network, its best ridge's scores), best first."""

    architecture: Architecture | OwnNetwork
    alpha: float
    tried: tuple[tuple[Architecture | OwnNetwork, Candidate], ...]
    examples: int
    criterion: Criterion

    @property
    def best(self) -> Candidate:
        return self.tried[0][1]

    def record(self) -> dict[str, object]:
        """What `--json` says of it."""
        found = {"network": self.architecture.record(), "alpha": self.alpha, "tried": len(self.tried)}
        return found | {"criterion": str(self.criterion), "criterion_value": self.criterion.of(self.best)}


def candidates(
    base: Architecture, depths: Sequence[int] = DEPTHS, activations: Sequence[str] = ACTIVATIONS
) -> list[Architecture]:
    """The networks to try: like `base`, with every activation and depth, neighbours of one activation."""
    return [
        dataclasses.replace(base, depth=depth, activation=activation)
        for activation in activations
        for depth in depths
        if depth >= base.fixed_layers
    ]


def choose(
    options: Sequence[Architecture | OwnNetwork],
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n *o"],
    *,
    criterion: Criterion = Criterion.leave_one_out_error,
    alpha: float | None = None,
    seed: int = 0,
    memory: str | None = None,
    most: int = MOST,
    step: Callable[[str], None] = lambda name: None,
) -> Choice:
    """The network and the ridge that are best by `criterion`.

    `alpha` None: the ridge is open. On a random subset where there are more than `most` examples; the ridge is a
    variance, in the kernel's unit, and needs no rescaling.
    """
    if not options:
        raise InputError("There is no network to try: `--fixed-layers` is larger than every depth.")
    if len(x) > most:
        rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:most])
        x, y = x[rows], y[rows]
    noise, relative = (np.asarray(RIDGES), True) if alpha is None else (np.asarray([alpha]), False)
    by = criterion.for_tune(seed)
    tried = []
    for net, matrix in matrices(options, x, memory, step):
        if not np.diagonal(matrix).any():
            raise InputError(f"The kernel of {net} is 0 for all examples: there is nothing to fit.")
        kernel = {str(net): net.as_kernel()}
        tuned = tune(kernel, x, y, noise=noise, relative=relative, criterion=by, matrices=[matrix], progress=False)
        tried.append((net, tuned.best))
    sign = 1.0 if criterion.field.endswith("error") else -1.0
    tried.sort(key=lambda pair: sign * criterion.of(pair[1]))
    return Choice(tried[0][0], tried[0][1].noise, tuple(tried), len(x), criterion)


class _Together(eqx.Module):
    """Several kernels as one program, which costs half of what compiling one after the other does."""

    kernels: tuple[ntkit.Kernel, ...]

    def __call__(self, x1: Array, x2: Array | None = None) -> tuple[Array, ...]:
        return tuple(kernel(x1, x2) for kernel in self.kernels)

    def weight(self, shape: tuple[int, ...]) -> int:
        """As of a kernel of networks: by it `ntkit.gram` chooses its tiles."""
        return max(getattr(kernel, "weight", lambda shape: 1)(shape) for kernel in self.kernels)


def matrices(
    options: Sequence[Architecture | OwnNetwork],
    x: Float[np.ndarray, "n d"],
    memory: str | None,
    step: Callable[[str], None],
) -> Iterator[tuple[Architecture | OwnNetwork, Array]]:
    """Each network with its kernel matrix: one program for each activation, two compiling at a time."""

    def compute(group: list[Architecture | OwnNetwork]) -> tuple[Array, ...]:
        with jax.enable_x64(True):  # a setting of the thread
            if len(group) == 1:
                return (evaluate(group[0].as_kernel(), x, memory=memory),)
            return evaluate(_Together(tuple(net.as_kernel() for net in group)), x, memory=memory)

    groups = [list(group) for _, group in itertools.groupby(options, lambda net: net.activation)]
    step(f"compiling {len(options)} networks")
    with ThreadPoolExecutor(2) as pool:
        for group, found in zip(groups, pool.map(compute, groups), strict=True):
            for net, matrix in zip(group, found, strict=True):
                step(str(net))
                yield net, matrix
