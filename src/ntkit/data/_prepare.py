"""What kernels want from data: features of one scale, rows of one length, a test set, fewer examples."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from ntkit.data._dataset import Dataset
from ntkit.errors import InputError


def standardise(dataset: Dataset) -> Dataset:
    """Features with mean 0 and standard deviation 1 over the training examples; the test examples move along.

    Equivalent to `sklearn.preprocessing.StandardScaler` fitted on `dataset.x`: a constant feature becomes 0.
    """
    # Sums in float64: over many rows a float32 mean loses digits. A constant column has a std of 0 only up to rounding.
    constant = (dataset.x == dataset.x[0]).all(axis=0)
    mean = np.where(constant, dataset.x[0], dataset.x.mean(axis=0, dtype=np.float64)).astype(dataset.x.dtype)
    std = np.where(constant, 1, dataset.x.std(axis=0, dtype=np.float64)).astype(dataset.x.dtype)
    x_test = None if dataset.x_test is None else (dataset.x_test - mean) / std
    return replace(dataset, x=(dataset.x - mean) / std, x_test=x_test)


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
