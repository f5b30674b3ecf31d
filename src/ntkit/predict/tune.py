"""Choose a kernel and a noise: one eigendecomposition per kernel answers the whole grid of noises."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkit._progress import Meter, Progress
from ntkit.errors import InputError
from ntkit.linalg import Spectrum, spectrum
from ntkit.predict._data import parse_dtype, parse_noise, parse_x, parse_y, precision, without_masks
from ntkit.predict._evaluate import check_kernel
from ntkit.predict.posterior import parse_matrix

CRITERIA = {
    "likelihood": "log_marginal_likelihood",
    "leave-one-out": "loo_log_density",
    "leave-one-out-error": "loo_error",
    "leave-one-out-accuracy": "loo_accuracy",
}


@dataclasses.dataclass(frozen=True)
class KFold:
    """k-fold cross-validation of the mean squared error: `folds` parts of a random permutation from `key`; None keeps
    order."""

    folds: int = 5
    key: Array | None = None


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One kernel with one noise, and how it did.

    - `log_marginal_likelihood`: log p(y | x), summed over outputs;
    - `loo_log_density`: mean over labels of the leave-one-out log predictive density;
    - `loo_error`: mean square of the leave-one-out errors; `loo_accuracy`: how often the largest output is the right
      one (two or more outputs only, else None);
    - `fold_error`: mean squared error over the folds, None unless asked.
    """

    name: str
    noise: float
    log_marginal_likelihood: float
    loo_log_density: float
    loo_error: float
    loo_accuracy: float | None = None
    fold_error: float | None = None


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The table of all candidates, best first by `criterion`; `kernel` and `noise` are the winner's."""

    candidates: tuple[Candidate, ...]
    criterion: str
    kernel: Any
    at_edge: bool

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    @property
    def name(self) -> str:
        return self.best.name

    @property
    def noise(self) -> float:
        return self.best.noise

    def __str__(self) -> str:
        width = max(6, *(len(c.name) for c in self.candidates))
        fields = ["log_marginal_likelihood", "loo_log_density", "loo_error", "loo_accuracy", "fold_error"]
        fields = [f for f in fields if getattr(self.best, f) is not None]
        head = f"{'kernel':<{width}} {'noise':>9} " + " ".join(f"{f.replace('log_marginal_', ''):>15}" for f in fields)
        rows = [
            f"{c.name:<{width}} {c.noise:>9.2e} " + " ".join(f"{getattr(c, f):>15.6g}" for f in fields)
            for c in self.candidates
        ]
        edge = ["The best noise is the grid's first or last: widen `noise`."] if self.at_edge else []
        return "\n".join([f"best by {self.criterion}: {self.name}, noise {self.noise:.2e}", head, *rows, *edge])


def tune(
    kernels: Mapping[str, Any] | Sequence[Any],
    x: Any,
    y: Any,
    *,
    noise: Any = tuple(10.0**e for e in range(-6, 3)),
    relative: bool = False,
    criterion: str | KFold = "likelihood",
    matrices: Any = None,
    dtype: Any = np.float64,
    memory: str | int | None = None,
    progress: Progress = True,
) -> Tuning:
    """Score every kernel with every noise.

        chosen = ntkit.predict.tune({"depth 1": NTK(shallow), "depth 3": NTK(deep)}, x, y)
        print(chosen)
        post = ntkit.posterior(chosen.kernel, x, y, noise=chosen.noise)

    With K = V diag(v) V^T once, C^-1 y, diag C^-1 and log det C for C = K + noise I cost n^2 per noise; a fold of
    k-fold validation of b examples needs the b x b block of C^-1 alone: mean error C^-1_bb^-1 [C^-1 y]_b.

    **Arguments:**

    - `kernels`: name to kernel, or a list (named by position).
    - `noise`: the grid, positive variances; with `relative`, in units of each kernel's mean diagonal.
    - `criterion`: `"likelihood"` (highest), `"leave-one-out"` (log density, highest), `"leave-one-out-error"` (lowest),
      `"leave-one-out-accuracy"` (highest; the largest of two or more outputs), or `KFold(folds, key)` (lowest).
    - `matrices`: kernel(x) of each kernel if they are at hand, by the same names or in the same order.
    - `progress`: as in `ntkit.gram`; of several kernels it counts the kernels.

    **Raises:** as `ntkit.posterior`. GPML eq. 2.30, 5.10 - 5.12.
    """
    named = _named(kernels)
    dtype = parse_dtype(dtype)
    seen = {name: without_masks(kernel, x) for name, kernel in named.items()}
    x = parse_x("x", next(iter(seen.values()))[1], dtype)
    n = x.shape[0]
    y, _ = parse_y(y, n, dtype)
    grid = _grid(noise)
    _check_criterion(criterion, n, y.shape[1])
    folds = _folds(criterion, n) if isinstance(criterion, KFold) else None
    given = _given(matrices, named)
    scored: list[tuple[Candidate, int]] = []
    several = len(named) > 1
    with precision(dtype), Meter(progress if several else False, 0, len(named), "tune", "kernels") as meter:
        for number, name in enumerate(named):
            meter(number)
            matrix = parse_matrix(seen[name][0], x, given[name], dtype, memory, False if several else progress)
            noises = grid * float(_mean_diagonal(matrix)) if relative else grid
            spec = spectrum(matrix, what=f"kernel matrix of {name}")
            del matrix
            scored += [(c, i) for i, c in enumerate(_score(name, spec, y, noises, folds))]
        meter(len(named))
    field = "fold_error" if folds is not None else CRITERIA[str(criterion)]
    sign = 1.0 if field.endswith("error") else -1.0
    scored.sort(key=lambda pair: sign * getattr(pair[0], field))
    best, place = scored[0]
    order = np.argsort(grid)
    edge = len(grid) > 1 and place in (order[0], order[-1])
    shown = f"{criterion.folds}-fold error" if isinstance(criterion, KFold) else criterion
    return Tuning(tuple(c for c, _ in scored), shown, named[best.name], bool(edge))


def _grid(noise: Any) -> np.ndarray:
    grid = np.atleast_1d(np.asarray(noise))
    if grid.ndim != 1 or grid.size == 0:
        raise InputError(f"`noise` must be one or more numbers, but has shape {grid.shape}.")
    return np.array([float(parse_noise(v, 1, np.dtype(np.float64))) for v in grid])


def _named(kernels: Any) -> dict[str, Any]:
    named = dict(kernels) if isinstance(kernels, Mapping) else None
    if named is None:
        items = list(kernels) if isinstance(kernels, Sequence) else [kernels]
        named = {f"kernel {i}": k for i, k in enumerate(items)}
    if not named:
        raise InputError("`kernels` must hold at least one kernel, but is empty.")
    for kernel in named.values():
        check_kernel(kernel)
    return named


def _given(matrices: Any, named: dict[str, Any]) -> dict[str, Any]:
    """The matrix of each kernel, None where it has to be computed."""
    if matrices is None:
        return dict.fromkeys(named)
    found = dict(matrices) if isinstance(matrices, Mapping) else dict(zip(named, matrices, strict=False))
    if found.keys() != named.keys() or len(matrices) != len(named):
        raise InputError(
            f"`matrices` must hold one matrix for each of the {len(named)} kernels, by the same names or in the same "
            f"order, but holds {len(matrices)}."
        )
    return found


def _check_criterion(criterion: Any, n: int, outputs: int) -> None:
    if isinstance(criterion, KFold):
        if not 2 <= criterion.folds <= n:
            raise InputError(
                f"`folds` must lie between 2 and the number of examples, {n}, but got {criterion.folds!r}."
            )
    elif criterion not in CRITERIA:
        raise InputError(
            f"`criterion` must be `KFold(...)` or one of {', '.join(map(repr, CRITERIA))}, but got {criterion!r}."
        )
    elif criterion == "leave-one-out-accuracy" and outputs < 2:
        raise InputError(
            "Accuracy needs `y` with one column for each class (`ntkit.predict.one_hot`), but it has one column."
        )


def _folds(criterion: KFold, n: int) -> list[np.ndarray]:
    order = np.arange(n) if criterion.key is None else np.asarray(jax.random.permutation(criterion.key, n))
    return np.array_split(order, criterion.folds)


def _score(name: str, spec: Spectrum, y: np.ndarray, noises: np.ndarray, folds) -> list[Candidate]:
    rotated, squares = _rotated(spec.vectors, y)
    found = []
    for noise in noises:
        weights, inverse, likelihood = (
            np.asarray(v) for v in _ridge(spec.values, spec.vectors, squares, rotated, noise)
        )
        error = weights / inverse[:, None]
        density = 0.5 * (np.log(inverse / (2 * np.pi))[:, None] - error**2 * inverse[:, None])
        right = None if y.shape[1] < 2 else float(np.mean((y - error).argmax(1) == y.argmax(1)))
        fold = None if folds is None else _fold_error(spec, weights, noise, folds)
        found.append(
            Candidate(
                name, float(noise), float(likelihood), float(density.mean()), float(np.mean(error**2)), right, fold
            )
        )
    return found


# Jitted as wholes: run operation by operation, each one would be compiled for each new size.
@jax.jit
def _mean_diagonal(matrix):
    return jnp.mean(jnp.diagonal(matrix))


@jax.jit
def _rotated(vectors, y):
    return vectors.T @ y, vectors**2


@jax.jit
def _ridge(values, vectors, squares, rotated, noise):
    """(C^-1 y, diag C^-1, log marginal likelihood) for C = V diag(values + noise) V^T."""
    v = values + noise
    scaled = rotated / v[:, None]
    n, o = rotated.shape
    likelihood = -0.5 * jnp.sum(rotated * scaled) - 0.5 * o * (jnp.sum(jnp.log(v)) + n * jnp.log(2 * jnp.pi))
    return vectors @ scaled, squares @ (1.0 / v), likelihood


def _fold_error(spec: Spectrum, weights: Float[np.ndarray, "n o"], noise: float, folds) -> float:
    total = 0.0
    for part in folds:
        rows = np.asarray(spec.vectors[part])
        block = (rows / (np.asarray(spec.values) + noise)) @ rows.T
        total += float(np.sum(np.linalg.solve(block, weights[part]) ** 2))
    return total / weights.size
