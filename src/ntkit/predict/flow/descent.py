"""Training in function space by steps: what optimisers do to a function whose kernel stays as it is."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ntkit._progress import Meter, Progress
from ntkit.errors import InputError
from ntkit.linalg import Spectrum, spectrum
from ntkit.predict._data import parse_test, precision
from ntkit.predict._evaluate import evaluate
from ntkit.predict.flow.iterated import LossDescent, parse_steps
from ntkit.predict.flow.losses import Loss, Squared
from ntkit.predict.flow.optimizers import LineSearch, Optimizer
from ntkit.predict.flow.spectral import Spectral
from ntkit.predict.flow.stochastic import SGD, run
from ntkit.predict.flow.trajectory import Problem, parse_problem


class SquaredDescent(Spectral):
    """Descent on the squared loss: what `ntkit.descend` returns for it.

    `SGD` has a `covariance` as well.
    """

    def __init__(self, problem: Problem, spec: Spectrum, optimizer: Optimizer, matrix: Any):
        super().__init__(problem, spec)
        self.optimizer, self._matrix = optimizer, matrix
        if not optimizer.surely_stable(spec) and optimizer.step >= self.largest_stable_step:
            raise InputError(
                f"`step` must be below the largest stable one of {type(optimizer).__name__} with this kernel, "
                f"{self.largest_stable_step:.6g}, but is {optimizer.step!r}: training would diverge."
            )

    def __repr__(self) -> str:
        n, o = self._problem.y.shape
        return f"SquaredDescent(n={n}, outputs={o}, dtype={self.dtype}; {self.optimizer})"

    @functools.cached_property
    def largest_stable_step(self) -> float:
        """The step of this optimiser below which all directions converge, of `SGD` in the mean square.

        Infinite for a line search, which cannot diverge.
        """
        return self.optimizer.largest_stable_step(self._spectrum)

    def __call__(self, x_test: Any, steps: Any = None, *, f0_test: Any = None) -> Float[np.ndarray, "..."]:
        """The model's outputs at `x_test` after a number of steps, in NumPy: (m,) or (m, o). For `SGD`, their mean.

        With momentum any number of steps costs the logarithm of it; a line search takes them one by one, n o each.

        - `x_test`: (m, ...); None for the training examples.
        - `steps`: a whole number >= 0, infinity, or an array of such, whose axis then stands first; None is infinity.
        - `f0_test`: f_0 at `x_test`, where `f0` was given as an array.
        """
        counts = parse_steps(steps)
        self._warn_if_singular(counts)
        return self._at(x_test, counts, f0_test)

    def _rotated(self, times):
        values = np.asarray(self._spectrum.values, np.float64)
        alive = self._alive[:, None]
        limit = np.where(alive, self._residual / np.where(self._alive, values, 1.0)[:, None], 0.0)
        finite, residual = sorted({int(t) for t in times if np.isfinite(t)}), self._residual.astype(np.float64)
        with Meter(self._problem.progress, 0, max(finite, default=0), "descend", "steps") as meter:
            found = dict(zip(finite, self.optimizer.duals(values, residual, finite, meter), strict=True))
        return np.stack([found[int(t)] * alive if np.isfinite(t) else limit for t in times]).astype(self.dtype)

    def covariance(self, x_test: Any, steps: Any) -> Float[np.ndarray, "..."]:
        """Of `SGD`: the covariance of the model's outputs at `x_test` over draws of the batches, after some steps.

        (m, m) for labels (n,), (m, m, o) for (n, o), each output for itself; an array of `steps` has its axis first.
        From the exact recursion, step by step: two products of n x n matrices for each step and output.
        """
        if not isinstance(self.optimizer, SGD):
            raise InputError(f"Only `SGD` has a covariance: {self.optimizer} draws nothing.")
        counts = parse_steps(steps)
        if np.isinf(counts).any():
            raise InputError("`steps` must be finite for a covariance, which is followed step by step.")
        with precision(self.dtype):
            if x_test is None:
                cross = self._matrix
            else:
                rows = parse_test(x_test, self.kernel, self.x, self.dtype)
                cross = evaluate(self.kernel, rows, self.x, memory=self._problem.memory)
            outputs = [self._covariances(cross, np.atleast_1d(counts), o) for o in range(self._problem.y.shape[1])]
        found = np.stack(outputs, axis=-1) if not self._problem.flat else outputs[0]
        return found if np.ndim(counts) else found[0]

    def _covariances(self, cross, counts: np.ndarray, output: int) -> np.ndarray:
        """(t, m, m) of one output."""
        n = len(self.x)
        mean = jnp.asarray((self._problem.start - self._problem.y)[:, output])
        state, done, found = (jnp.zeros((n, n), mean.dtype), mean), 0, {}
        # At most this many steps between two looks at the clock.
        glance = max(1, (1 << 33) // n**3)
        with Meter(self._problem.progress, 0, int(counts.max()), "covariance", "steps") as meter:
            for count in sorted({int(c) for c in counts}):
                while done < count:
                    meter(done)
                    taken = min(glance, count - done)
                    state, done = run(self.optimizer, self._matrix, state, taken), done + taken
                found[count] = np.asarray(_sandwich(cross, state[0]))
            meter(done)
        return np.stack([found[int(c)] for c in counts])


@jax.jit
def _sandwich(cross, a):
    return cross @ a @ cross.T


def _is_exact(optimizer: Optimizer) -> bool:
    return isinstance(optimizer, LineSearch) and optimizer.kind == "exact"


def descend(
    kernel: Any,
    x: Any,
    y: Any,
    optimizer: Optimizer,
    *,
    loss: str | Loss = "squared",
    f0: Any = None,
    scale: float = 1.0,
    matrix: Any = None,
    dtype: Any = np.float64,
    memory: str | int | None = None,
    progress: Progress = True,
) -> SquaredDescent | LossDescent:
    """One function trained on (x, y) by the steps of an optimiser, with a kernel that stays as it is.

        descent = ntkit.descend(ntkit.NTK(net), x, y, HeavyBall(step=0.5, momentum=0.9))
        descent(x_test, steps=1000)

    It is what the optimiser does to a network that is linear in its parameters (`ntkit.linearize`), exactly, or to an
    infinitely wide one. On the squared loss gradient descent and both momenta are powers of small matrices in the
    eigenbasis of the kernel: any number of steps at once. `ntkit.gradient_flow` is the limit of small steps: k steps of
    gradient descent are time k step.

    **Arguments:**

    - `optimizer`: `GradientDescent(step)`, `HeavyBall(step, momentum)`, `Nesterov(step, momentum)`,
      `LineSearch("exact")`, `LineSearch("backtracking", step)` or `SGD(step, batch)`, of `ntkit.predict`.
    - `kernel`, `x`, `y`, `loss`, `f0`, `scale`, `matrix`, `dtype`, `memory`, `progress`: as in `ntkit.gradient_flow`. A
      loss other than the squared one is descended step by step; not by `SGD` nor by exact line search.

    **Returns:** `SquaredDescent` or `LossDescent`, to be called as `descent(x_test, steps)`. For `SGD` that is the
    mean, and `covariance` is what the draws of batches add.

    **Raises:** `InputError`, also for a step that would diverge on the squared loss: it names the largest stable one;
    `ComputationError` for a kernel not finite or not positive semi-definite.
    """
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            "`optimizer` must be one of `GradientDescent(step)`, `HeavyBall(step, momentum)`, `Nesterov(step, "
            f"momentum)`, `LineSearch(kind)` and `SGD(step, batch)` of `ntkit.predict`, but got {optimizer!r}."
        )
    problem = parse_problem(kernel, x, y, loss, f0, scale, dtype, memory, progress)
    if isinstance(optimizer, SGD) and not optimizer.replacement and optimizer.batch > len(problem.x):
        raise InputError(
            f"`batch` must be at most n = {len(problem.x)} without replacement, but got {optimizer.batch!r}."
        )
    squared = isinstance(problem.loss, Squared)
    if not squared and (isinstance(optimizer, SGD) or _is_exact(optimizer)):
        raise InputError(f'{optimizer} needs `loss="squared"`. Use `GradientDescent` or `LineSearch("backtracking")`.')
    with precision(problem.dtype):
        values = problem.matrix(matrix)
        if not squared:
            return LossDescent(problem, values, optimizer)
        return SquaredDescent(problem, spectrum(values), optimizer, values if isinstance(optimizer, SGD) else None)
