"""Convolutional neural tangent kernels on CIFAR-10: Arora et al. 2019, "On exact computation with an infinitely wide
neural net", Table 1; pooling over windows by Li et al. 2019, "Enhanced convolutional neural tangent kernels"."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, Shaped

import ntkit
from ntkit import data as sets
from ntkit.data import Dataset
from ntkit.gallery._configuration import POOLINGS, Configuration, Pooling, configurations
from ntkit.gallery._folder import Folder
from ntkit.gallery._passes import Pass, families, note, passes
from ntkit.gram.identity import array_digest
from ntkit.predict import one_hot

SOURCE = "Arora et al. 2019, Table 1"
# Test accuracies by pooling and depth: (training images, accuracy), by networks as `Configuration.network` builds them.
PUBLISHED: dict[tuple[str, int], tuple[tuple[int, float], ...]] = {
    ("global", 3): ((2000, 0.4971),),
    ("global", 4): ((2000, 0.5106),),
    ("global", 11): ((50_000, 0.7743),),
}
# Relative to the mean diagonal.
RIDGES = tuple(10.0 ** np.arange(-6.0, 1.5, 0.5))
FULL = 50_000
# Pairs of pixels in the pairs of images by whose time a run is estimated, and images on a side at most.
PROBED, SIDE = 1 << 24, 64


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table. `accuracy`: with the `ridge` (relative to the mean diagonal) that leave-one-out chooses;
    `ridgeless`: without one, as published. `seconds`: of the kernel matrices it needs, compilation aside;
    `seconds_per_pair`: of one pair of images; `hours_full`: what the kernel of all 50 000 training images would take,
    extrapolated from it. Of kernels computed together each has what all `together` of them took."""

    pooling: Pooling
    depth: int
    zca: float | None
    window: int | None
    flips: bool
    train: int
    test: int
    accuracy: float
    ridgeless: float
    ridge: float
    seconds: float
    seconds_per_pair: float
    hours_full: float
    published: tuple[tuple[int, float], ...]
    together: int = 1

    @property
    def standard_error(self) -> float:
        """Of the accuracy, as a mean over independent test images."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.test))

    @property
    def label(self) -> str:
        found = Configuration(self.pooling, self.depth, self.zca, self.window or 11)
        return str(found) + (", flips" if self.flips else "")


class Experiment:
    """What is asked for, checked, on images that are prepared once.

    **Raises:** `InputError` for data without images, classes or test examples; too few or too many images for the data;
    a depth below 2; a pooling that does not exist; an even window; or an `out` that belongs to other settings.
    """

    def __init__(
        self,
        dataset: Dataset,
        out: Path,
        *,
        train: int = 2000,
        test: int = 1000,
        poolings: Sequence[str] = POOLINGS,
        depths: Sequence[int] = (3, 5),
        flips: bool = False,
        zca: float | None = None,
        window: int = 11,
        dtype: str = "float32",
        memory: str | int | None = "1GiB",
        seed: int = 0,
        overwrite: bool = False,
    ):
        self.configurations = configurations(poolings, depths, zca, window)
        self.flips, self.memory, self.dtype = flips, memory, dtype
        sets.image_shape(dataset.shape, dataset.source)
        self.dataset = sets.balanced(dataset, train, test, seed=seed)
        settings = {"data": _digest(self.dataset), "train": train, "test": test, "seed": seed, "dtype": dtype}
        self.folder = Folder(out, "cifar10", settings, overwrite=overwrite)
        self._prepared: dict[float | None, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def rows(self) -> list[Row]:
        """All rows in the folder, those of earlier calls too, in the order of pooling, depth, ZCA and flips."""
        found: list[Any] = [row | {"published": tuple(map(tuple, row["published"]))} for row in self.folder.rows]
        rows = [Row(**row) for row in found]
        return sorted(rows, key=lambda r: (POOLINGS.index(r.pooling), r.depth, r.zca or 0, r.window or 0, r.flips))

    def images(self, zca: float | None) -> tuple[Float[np.ndarray, "n h w c"], Float[np.ndarray, "m h w c"]]:
        """Training and test images, each channel standardised; or whitened."""
        if zca not in self._prepared:
            if zca is None:
                x, x_test = sets.images(sets.standardise_channels(self.dataset))
            else:
                kept = self.folder.arrays(f"zca{zca:g}", lambda: _whitened(self.dataset, zca))
                x, x_test = kept["x"], kept["x_test"]
            assert x_test is not None
            self._prepared[zca] = x.astype(self.dtype), x_test.astype(self.dtype)
        return self._prepared[zca]


def _digest(dataset: Dataset) -> str:
    """Of the images and labels that were chosen."""
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    arrays = (dataset.x, dataset.y, dataset.x_test, dataset.y_test)
    return "-".join(array_digest(a)[:8] for a in arrays)


def _whitened(dataset: Dataset, regularisation: float) -> dict[str, np.ndarray]:
    x, x_test = sets.images(sets.zca(dataset, regularisation=regularisation))
    assert x_test is not None
    return {"x": x, "x_test": x_test}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is left to do for configurations whose kernels are computed together: pairs of images, seconds for one,
    seconds in all."""

    configurations: tuple[Configuration, ...]
    pairs: float
    seconds_per_pair: float

    @property
    def seconds(self) -> float:
        return self.pairs * self.seconds_per_pair

    def __str__(self) -> str:
        return "; ".join(map(str, self.configurations))


def estimate(experiment: Experiment, *, progress: Callable[[str], Any] = lambda name: None) -> list[Estimate]:
    """The cost of what is not yet done, from a few pairs of the images themselves; measured once and kept."""
    n, m = (len(x) for x in experiment.images(experiment.configurations[0].zca))
    left: dict[tuple[Configuration, ...], float] = {}
    rate: dict[tuple[Configuration, ...], float] = {}
    for family in families(experiment.configurations):
        for of in passes(experiment.folder, family, experiment.flips):
            cost = experiment.folder.cost(of.names[0])
            pairs = of.pairs(n, m) * (1 - (cost.done if cost else 0))
            left[of.configurations] = left.get(of.configurations, 0) + pairs
            if cost and cost.done:
                rate.setdefault(of.configurations, cost.seconds_per_pair)
            elif pairs and of.configurations not in rate:
                progress(of.title)
                rate[of.configurations] = _probe(experiment, of)
    return [Estimate(which, pairs, rate.get(which, 0.0) if pairs else 0.0) for which, pairs in left.items()]


def _probe(experiment: Experiment, of: Pass) -> float:
    """Seconds for a pair of images, from a few of them, compiled before."""
    x, _ = experiment.images(of.configurations[0].zca)
    kernel = dataclasses.replace(of, flipped=False).kernel
    side = max(2, min(SIDE, len(x), int(np.sqrt(PROBED / kernel.weight(x.shape[1:])))))

    def measure() -> float:
        for _ in range(2):
            start = time.perf_counter()
            ntkit.gram(kernel, x[:side], x[-side:], memory=experiment.memory, progress=False)
        return (time.perf_counter() - start) / side**2

    return experiment.folder.probe(" ".join(c.name for c in of.configurations), measure)


def run(
    experiment: Experiment, *, progress: bool = True, finished: Callable[[Row], Any] = lambda row: None
) -> list[Row]:
    """Computes what is missing and returns all rows of the folder; `finished` is called with each row of this call.

    With flips every configuration gives two rows, since the average contains the kernel without them. Kernels with
    pooling are computed together.
    """
    for family in families(experiment.configurations):
        matrices: dict[str, np.ndarray] = {}
        for of in passes(experiment.folder, family, experiment.flips):
            note(experiment.folder, of)
            x, x_test = experiment.images(of.configurations[0].zca)
            pair = (x_test, x) if of.of_tests else (x, None)
            matrices |= experiment.folder.matrices(
                of.names, of.title, of.kernel, *pair, memory=experiment.memory, progress=progress
            )
        for configuration in family:
            for flips in (False, True) if experiment.flips else (False,):
                row = _row(experiment, configuration, flips, matrices)
                experiment.folder.keep_row(configuration.name + ("-flips" if flips else ""), dataclasses.asdict(row))
                finished(row)
    return experiment.rows


def _row(experiment: Experiment, configuration: Configuration, flips: bool, matrices: dict[str, np.ndarray]) -> Row:
    data = experiment.dataset
    assert data.y_test is not None
    kinds = [(flipped, of_tests) for flipped in ((False, True) if flips else (False,)) for of_tests in (False, True)]
    names = [Pass((configuration,), *kind).names[0] for kind in kinds]
    train, cross = (np.asarray(matrices[name], np.float64) for name in names[:2])
    if flips:
        train, cross = (train + _symmetric(matrices[names[2]])) / 2, (cross + np.asarray(matrices[names[3]])) / 2
    verdict = judge(train, cross, data.y, data.y_test, rounding=float(np.finfo(experiment.dtype).eps))
    costs = [cost for name in names if (cost := experiment.folder.cost(name)) is not None]
    seconds = sum(cost.seconds for cost in costs)
    per_pair = seconds / sum(cost.pairs for cost in costs)
    hours = per_pair * (2 if flips else 1) * FULL * (FULL + 1) / 2 / 3600
    local = configuration.pooling == "local"
    plain = not flips and configuration.zca is None
    return Row(
        configuration.pooling, configuration.depth, configuration.zca, configuration.window if local else None, flips,
        len(data.y), len(data.y_test), *verdict, seconds, per_pair, hours,
        PUBLISHED.get((configuration.pooling, configuration.depth), ()) if plain else (),
        max(cost.together for cost in costs),
    )  # fmt: skip


def _symmetric(matrix: Any) -> Float[np.ndarray, "n n"]:
    matrix = np.asarray(matrix, np.float64)
    return (matrix + matrix.T) / 2


class Verdict(NamedTuple):
    """Test accuracies with and without a ridge, and the ridge."""

    accuracy: float
    ridgeless: float
    ridge: float


class _Known(eqx.Module):
    """A kernel whose matrix is at hand; an example is its number, (n, 1)."""

    matrix: Any

    def __call__(self, x1: Any, x2: Any = None) -> Any:
        i, j = (x[:, 0].astype(int) for x in (x1, x1 if x2 is None else x2))
        return self.matrix[i[:, None], j[None, :]]

    def diagonal(self, x: Any) -> Any:
        i = x[:, 0].astype(int)
        return self.matrix[i, i]


def judge(
    train: Float[np.ndarray, "n n"],
    cross: Float[np.ndarray, "m n"],
    y: Shaped[np.ndarray, " n"],
    y_test: Shaped[np.ndarray, " m"],
    *,
    rounding: float,
) -> Verdict:
    """Kernel regression on labels 0.9 and -0.1 (of ten classes), in float64.

    The ridge has the highest leave-one-out accuracy, and is the smallest of those; the leave-one-out error, of few
    images, prefers to predict nothing. To all of them, 0 too, 2 sqrt(n) `rounding` of the mean diagonal is added, the
    norm of the matrix of rounding errors that a kernel in float32 carries.
    """
    target, classes = one_hot(y)
    n = len(train)
    diagonal = float(np.mean(np.diagonal(train)))
    floor = 2 * np.sqrt(n) * rounding * diagonal
    matrix = train + floor * np.eye(n)
    kernel, rows = _Known(matrix), np.arange(float(n))[:, None]
    how: Any = {"noise": diagonal * np.asarray(RIDGES), "criterion": "leave-one-out-accuracy", "progress": False}
    noise = ntkit.tune([kernel], rows, target, matrices=[matrix], **how).noise

    def accuracy(alpha: float) -> float:
        model = ntkit.ridge(kernel, rows, target, alpha=alpha, matrix=matrix, progress=False)
        return float(np.mean(classes[(cross @ model.weights).argmax(axis=1)] == y_test))

    return Verdict(accuracy(noise), accuracy(0.0), float((noise + floor) / diagonal))


def shrunk(dataset: Dataset, train: int, test: int) -> tuple[int, int]:
    """So many training and test images at most as the classes of the data can give evenly."""
    if dataset.y_test is None:
        return train, test  # refused by `Experiment`

    def most(labels: Shaped[np.ndarray, " n"]) -> int:
        counts = [int(np.sum(labels == c)) for c in np.unique(dataset.y)]
        return len(counts) * min(counts)

    return min(train, most(dataset.y)), min(test, most(dataset.y_test))
