"""How fast the kernels of random features come to their mean."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from ntkit._check import check_inputs
from ntkit._progress import Meter, Progress
from ntkit.diagnose.rates import Rate, checked_seeds, fit
from ntkit.empirical import random_features
from ntkit.errors import InputError
from ntkit.nn import Layer


@dataclasses.dataclass(frozen=True)
class FeatureStudy:
    """What `feature_study` found: w numbers of features, s draws of each, n examples.

    - `numbers` (w,): P.
    - `kernel` (n, n): the fixed kernel K; `mean`, `standard_error` (w, n, n): of K_P over the draws.
    - `deviations` (w, s): |K_P - K|_F / |K|_F of each draw; `rms` (w,): the root of the mean of their squares.
    - `expected` (w,): sqrt((1 + tr(K)^2 / |K|_F^2) / P), what `rms` is the estimate of, for Gaussian features; None for
        others.
    - `rate`: the fit of P^slope to the deviations, -1/2 in theory.
    """

    numbers: Int[np.ndarray, " w"]
    kernel: Float[np.ndarray, "n n"]
    mean: Float[np.ndarray, "w n n"]
    standard_error: Float[np.ndarray, "w n n"]
    deviations: Float[np.ndarray, "w s"]
    expected: Float[np.ndarray, " w"] | None
    rate: Rate

    @property
    def rms(self) -> Float[np.ndarray, " w"]:
        return np.sqrt(np.mean(self.deviations**2, axis=1))

    def __str__(self) -> str:
        lines = [f"{'P':>8}  {'rms deviation':>13}  {'expected':>10}"]
        wanted = ["-"] * len(self.numbers) if self.expected is None else [f"{value:.4g}" for value in self.expected]
        for number, own, value in zip(self.numbers, self.rms, wanted, strict=True):
            lines.append(f"{number:8}  {own:13.4g}  {value:>10}")
        return "\n".join([*lines, f"rate: P^({self.rate.slope:.3f} ± {self.rate.standard_error:.3f})"])


def feature_study(
    source: Any,
    x: Float[Array | np.ndarray, "n ..."],
    numbers: Iterable[int],
    seeds: int | Iterable[int] = 20,
    *,
    kernel: Any = None,
    progress: Progress = False,
) -> FeatureStudy:
    """The kernels of `ntkit.random_features` on `x`, at growing numbers P of features, against the fixed kernel.

    For Gaussian features E |K_P - K|_F^2 = (|K|_F^2 + tr(K)^2) / P exactly, so the deviation, in units of |K|_F, falls
    as P^(-1/2), and is the larger the more directions the kernel has: tr(K)^2 / |K|_F^2 lies between 1 and n.

    **Arguments:**

    - `source`: a kernel, whose Gaussian process is drawn on `x`; or, with `kernel`, functions as `random_features`
        takes them, whose covariance is `kernel`.
    - `numbers`: at least two different P.
    - `seeds`: how many draws of each, at least 2, or the seeds themselves. A draw depends on its seed and on the place
        of its P in `numbers`.
    - `progress`: a bar, or a function of the draws done and all, as for `ntkit.gram`.

    **Raises:** `ntkit.InputError` as `random_features` does, for fewer than two numbers or seeds, for a network as the
    source (its width is its number of features: `ntkit.width_study`), and for a kernel that is 0 on `x`.
    """
    counts, keys, x = _checked_numbers(numbers), checked_seeds(seeds, "draws of each number"), check_inputs("x", x)
    if isinstance(source, Layer):
        raise InputError("`source` is a network, whose features are as many as its width: use `ntkit.width_study`.")
    drawn: Any = random_features(source, 1, key=0, points=x) if kernel is None else None
    matrix = np.asarray(source(x) if kernel is None else kernel(x), np.float64)
    norm = float(np.linalg.norm(matrix))
    if norm == 0:
        raise InputError("The kernel is 0 on `x`: deviations have no unit. Take other examples.")
    means, errors, deviations = [], [], []
    with Meter(progress, 0, len(counts) * len(keys), "features", "draws") as meter:
        for at, count in enumerate(counts):
            apart = []
            for number, seed in enumerate(keys):
                meter(at * len(keys) + number)
                key = jax.random.fold_in(jax.random.key(seed), at)
                own = drawn.redrawn(count, key=key) if kernel is None else random_features(source, count, key=key)
                apart.append(np.asarray(_values(own, x), np.float64) - matrix)
            means.append(matrix + np.mean(apart, axis=0))
            errors.append(np.std(apart, axis=0, ddof=1) / math.sqrt(len(keys)))
            deviations.append(np.linalg.norm(apart, axis=(1, 2)) / norm)
        meter(len(counts) * len(keys))
    expected = np.sqrt((1 + (np.trace(matrix) / norm) ** 2) / np.array(counts)) if kernel is None else None
    rate = fit(np.array(counts, float), np.array(deviations))
    return FeatureStudy(
        np.array(counts), matrix, np.array(means), np.array(errors), np.array(deviations), expected, rate
    )


@eqx.filter_jit
def _values(kernel: Any, x: Any) -> Any:
    return kernel(x)


def _checked_numbers(numbers: Any) -> list[int]:
    try:
        counts = list(numbers)
    except TypeError:
        raise InputError(f"`numbers` must be a list such as [64, 256, 1024]; got {numbers!r}.") from None
    whole = all(isinstance(c, (int, np.integer)) and not isinstance(c, bool) and c >= 1 for c in counts)
    if not whole or len(set(counts)) < 2:
        raise InputError(f"`numbers` must be at least two different whole numbers >= 1, of features; got {numbers!r}.")
    return [int(c) for c in counts]
