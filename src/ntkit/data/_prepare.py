"""What kernels want from data: features of one scale or whitened, rows of one length, a test set, fewer examples."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int, Shaped

from ntkit.data._dataset import Dataset
from ntkit.data._images import image_shape
from ntkit.errors import InputError


def standardise(dataset: Dataset) -> Dataset:
    """Features with mean 0 and standard deviation 1 over the training examples; the test examples move along.

    Equivalent to `sklearn.preprocessing.StandardScaler` fitted on `dataset.x`: a constant feature becomes 0.
    """
    mean, std = _moments(dataset.x)
    x_test = None if dataset.x_test is None else (dataset.x_test - mean) / std
    return replace(dataset, x=(dataset.x - mean) / std, x_test=x_test)


def standardise_channels(dataset: Dataset) -> Dataset:
    """Images whose channels have mean 0 and standard deviation 1 over the pixels of all training images.

    The test images move along; a constant channel becomes 0. As Arora et al. 2019 prepare CIFAR-10.

    **Raises:** `InputError` if the examples are no images.
    """
    channels = image_shape(dataset.shape, dataset.source)[2]
    mean, std = _moments(dataset.x.reshape(-1, channels))

    def moved(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return ((x.reshape(-1, channels) - mean) / std).reshape(x.shape)

    x_test = None if dataset.x_test is None else moved(dataset.x_test)
    return replace(dataset, x=moved(dataset.x), x_test=x_test)


def zca(dataset: Dataset, *, regularisation: float = 0.1) -> Dataset:
    """Whitened inputs (x - mean) W, W = (C + r I)^(-1/2), r = `regularisation` times the mean eigenvalue of C.

    C is the covariance of the training inputs, to which alone W and the mean are fitted; the test inputs move along.
    Without regularisation every direction would get variance 1, noise included, and C had to be of full rank. One
    eigendecomposition of C (d, d) in float64. Regularised ZCA as in Lee et al. 2020, "Finite versus infinite neural
    networks", and Shankar et al. 2020, "Neural kernels without tangents", whose r is a constant.

    **Raises:** `InputError` if `regularisation` is not positive, or all training inputs are the same.
    """
    if not (np.isfinite(regularisation) and regularisation > 0):
        raise InputError(f"`regularisation` must be positive and finite, but is {regularisation}.")
    x = dataset.x.astype(np.float64)
    mean = x.mean(axis=0)
    values, vectors = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    if not values.max() > 0:
        raise InputError(f"{dataset.source}: all training inputs are the same; there is nothing to whiten.")
    # Rounding makes eigenvalues that are 0 slightly negative.
    whiten = vectors / np.sqrt(np.maximum(values, 0) + regularisation * values.mean()) @ vectors.T

    def moved(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return ((x - mean) @ whiten).astype(x.dtype)

    x_test = None if dataset.x_test is None else moved(dataset.x_test)
    return replace(dataset, x=moved(dataset.x), x_test=x_test)


def unit_sphere(dataset: Dataset, *, radius: float = 1.0) -> Dataset:
    """Every example scaled to Euclidean length `radius`; examples that are 0 stay 0.

    `radius=sqrt(d)` gives E[x_i^2] = 1, the scale that `w_std` is made for.
    """
    if not (np.isfinite(radius) and radius > 0):
        raise InputError(f"`radius` must be positive and finite, but is {radius}.")
    x_test = None if dataset.x_test is None else _scaled(dataset.x_test, radius)
    return replace(dataset, x=_scaled(dataset.x, radius), x_test=x_test)


def split(dataset: Dataset, fraction: float = 0.25, *, seed: int = 0) -> Dataset:
    """Sets a random `fraction` of the training examples aside as the test set, class by class for labels.

    Each class gives its share, rounded so that the total is right, and keeps at least one training example.

    **Raises:** `InputError` if there is a test set already, or if nothing would be left to train or to test on.
    """
    if dataset.x_test is not None:
        raise InputError(f"{dataset.name} has a test set of its own; `split` would mix it up.")
    if not 0 < fraction < 1:
        raise InputError(f"`fraction` must lie between 0 and 1, but is {fraction}.")
    n = len(dataset.x)
    count = round(fraction * n)
    if not 0 < count < n:
        raise InputError(f"`fraction` {fraction} of {n} examples leaves nothing to train or nothing to test on.")
    chosen = _stratified(dataset, count, np.random.default_rng(seed), keep=1)
    rest = np.setdiff1d(np.arange(n), chosen)
    x, y = dataset.x, dataset.y
    return replace(dataset, x=x[rest], y=y[rest], x_test=x[chosen], y_test=y[chosen])


def sample(dataset: Dataset, n: int, *, seed: int = 0) -> Dataset:
    """A random subset of `n` training examples, class by class for labels; all of them if there are fewer.

    The test examples stay as they are.
    """
    if n < 1:
        raise InputError(f"`n` must be at least 1, but is {n}.")
    if n >= len(dataset.x):
        return dataset
    chosen = _stratified(dataset, n, np.random.default_rng(seed), keep=0)
    return replace(dataset, x=dataset.x[chosen], y=dataset.y[chosen])


def balanced(dataset: Dataset, n: int, m: int, *, seed: int = 0) -> Dataset:
    """`n` training and `m` test examples, of each class as many, one more of the first where that leaves a remainder.

    Of a class the first are taken, in an order that `seed` draws: with one seed, smaller subsets lie in larger ones.

    **Raises:** `InputError` without classes or test examples, for fewer training examples than classes, and where a
    class has too few.
    """
    if dataset.kind != "classification" or dataset.x_test is None or dataset.y_test is None:
        raise InputError(
            f"{dataset.source}: `balanced` needs classes and test examples. `ntkit.data.split` makes some."
        )
    if m < 1:
        raise InputError(f"`m`, the number of test examples, must be at least 1, but is {m}.")
    classes = np.unique(dataset.y)
    if n < len(classes):
        raise InputError(f"`n` must be one training example of each of the {len(classes)} classes or more, but is {n}.")
    rng = np.random.default_rng(seed)
    rows = _evenly(dataset.y, classes, n, rng, f"{dataset.source}: training")
    tests = _evenly(dataset.y_test, classes, m, rng, f"{dataset.source}: test")
    subsets = {"x": dataset.x[rows], "y": dataset.y[rows]}
    return replace(dataset, **subsets, x_test=dataset.x_test[tests], y_test=dataset.y_test[tests])


def _evenly(
    labels: Shaped[np.ndarray, " n"], classes: Shaped[np.ndarray, " c"], count: int, rng: np.random.Generator, what: str
) -> Int[np.ndarray, " k"]:
    """Sorted positions of `count` examples, evenly from the classes."""
    take = count // len(classes) + (np.arange(len(classes)) < count % len(classes))
    order = rng.permutation(len(labels))
    places = [order[labels[order] == c] for c in classes]
    for c, have, wanted in zip(classes, places, take, strict=True):
        if len(have) < wanted:
            most = len(classes) * min(map(len, places))
            raise InputError(
                f"{what} examples: {count}, evenly from the classes, need {wanted} of class {c.item()!r}, but there "
                f"are {len(have)}. Take at most {most}."
            )
    return np.sort(np.concatenate([have[:wanted] for have, wanted in zip(places, take, strict=True)]))


def _moments(x: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Mean and standard deviation of each column; of a constant one its value and 1."""
    # Sums in float64: over many rows a float32 mean loses digits. A constant column has a std of 0 only up to rounding.
    constant = (x == x[0]).all(axis=0)
    mean = np.where(constant, x[0], x.mean(axis=0, dtype=np.float64)).astype(x.dtype)
    std = np.where(constant, 1, x.std(axis=0, dtype=np.float64)).astype(x.dtype)
    return mean, std


def _scaled(x: Float[np.ndarray, "n d"], radius: float) -> Float[np.ndarray, "n d"]:
    # By the largest entry first: the squares of 1e-30 or 1e30 leave float32.
    largest = np.abs(x).max(axis=1, keepdims=True)
    x = x / np.where(largest == 0, np.ones_like(largest), largest)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x * (np.asarray(radius, x.dtype) / np.where(norm == 0, np.ones_like(norm), norm))


def _stratified(dataset: Dataset, count: int, rng: np.random.Generator, *, keep: int) -> Int[np.ndarray, " k"]:
    """Sorted positions of `count` random examples, the classes in proportion, at least `keep` of each left behind."""
    n = len(dataset.x)
    if dataset.kind == "regression":
        return np.sort(rng.permutation(n)[:count])
    labels, sizes = np.unique(dataset.y, return_inverse=True, return_counts=True)[1:]
    most = sizes - keep
    if most.sum() < count:
        raise InputError(f"{count} of {n} examples is more than the classes can give and keep {keep} each.")
    share = count * sizes / n
    take = np.minimum(np.floor(share).astype(int), most)
    # What rounding down left over goes to the classes furthest below their share.
    while take.sum() < count:
        take[np.argmax(np.where(take < most, share - take, -np.inf))] += 1
    chosen = [rng.permutation(np.flatnonzero(labels == c))[: take[c]] for c in range(len(sizes))]
    return np.sort(np.concatenate(chosen))
