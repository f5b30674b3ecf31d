"""Descent on any loss, step by step."""

import bisect
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ntkit._progress import Meter
from ntkit.errors import ComputationError, InputError
from ntkit.predict.flow.losses import Loss, mean_loss, slopes
from ntkit.predict.flow.optimizers import Moving, Optimizer
from ntkit.predict.flow.trajectory import Problem, Trajectory


class LossDescent(Trajectory):
    """Descent on any other loss, step by step: what `ntkit.descend` returns for it."""

    def __init__(self, problem: Problem, kernel: Any, optimizer: Optimizer):
        super().__init__(problem)
        self.optimizer, self._matrix = optimizer, kernel
        f = jnp.asarray(problem.start)
        self._kept = {0: _State(f, jnp.zeros_like(f), jnp.zeros_like(f), jnp.zeros_like(f))}

    def __repr__(self) -> str:
        n, o = self._problem.y.shape
        return f"LossDescent(n={n}, outputs={o}, dtype={self.dtype}; {self.optimizer})"

    def __call__(self, x_test: Any, steps: Any, *, f0_test: Any = None) -> Float[np.ndarray, "..."]:
        """The model's outputs at `x_test` after a number of steps, in NumPy: (m,) or (m, o).

        A step costs n^2 o. States that were asked for are kept, and more steps go on from them.

        - `x_test`, `f0_test`: as in `ntkit.gradient_flow`.
        - `steps`: a finite whole number >= 0, or an array of such, whose axis then stands first.

        **Raises:** `ComputationError` when the outputs stop being finite: the step is too large.
        """
        counts = parse_steps(steps)
        if np.isinf(counts).any():
            raise InputError("`steps` must be finite for a loss other than the squared one.")
        return self._at(x_test, counts, f0_test)

    def _outputs(self, times):
        return np.stack([np.asarray(state.f) for state in self._states(times)])

    def _duals(self, times):
        return np.stack([np.asarray(state.a) for state in self._states(times)])

    def _states(self, times) -> list["_State"]:
        for count in np.unique(times):
            self._advance(int(count))
        return [self._kept[int(t)] for t in times]

    def _advance(self, end: int) -> None:
        known = sorted(self._kept)
        at = begin = known[bisect.bisect_right(known, end) - 1]
        state, (n, o) = self._kept[at], self._problem.y.shape
        glance = max(1, (1 << 32) // (n * n * o))
        with Meter(self._problem.progress, 0, end - begin, "descend", "steps") as meter:
            while at < end:
                meter(at - begin)
                taken = min(glance, end - at, 4096)
                state = _run(self._problem.loss, self.optimizer, state, self._matrix, self._problem.y, taken)
                at += taken
                if not np.isfinite(mean_loss(self._problem.loss, state.f, self._problem.y)):
                    raise ComputationError(
                        f"The loss is not finite after {at} steps: {self.optimizer} diverges. Pass a smaller "
                        '`step`, or `LineSearch("backtracking")`.'
                    )
            meter(end - begin)
        self._kept[end] = state


class _State(NamedTuple):
    """Outputs f and dual coefficients a of the training examples, (n, o), and the velocities of both."""

    f: Any
    a: Any
    f_velocity: Any
    a_velocity: Any


@partial(jax.jit, static_argnums=(0, 1))
def _run(loss: Loss, optimizer: Optimizer, state: _State, kernel, y, count):
    step = _moving(loss, optimizer) if isinstance(optimizer, Moving) else _searching(loss, optimizer)
    return jax.lax.fori_loop(0, count, lambda _, s: step(s, kernel, y), state)


def _moving(loss: Loss, optimizer: Moving):
    s, m = optimizer.step, optimizer.momentum

    def move(value, velocity, gradient):
        velocity = m * velocity + gradient
        return value - s * (m * velocity + gradient if optimizer.nesterov else velocity), velocity

    def step(state: _State, kernel, y) -> _State:
        d = slopes(loss, state.f, y) / len(y)
        f, f_velocity = move(state.f, state.f_velocity, kernel @ d)
        a, a_velocity = move(state.a, state.a_velocity, d)
        return _State(f, a, f_velocity, a_velocity)

    return step


def _searching(loss: Loss, optimizer: Any):
    def step(state: _State, kernel, y) -> _State:
        def cost(f):
            return jnp.mean(jax.vmap(loss)(f, y))

        d = slopes(loss, state.f, y) / len(y)
        kd = kernel @ d
        now, square = cost(state.f), jnp.sum(d * kd)

        def too_long(s):
            # A step that changes nothing is short enough: at a minimum rounding may hide the decrease.
            short = cost(state.f - s * kd) <= now - optimizer.decrease * s * square
            return ~short & jnp.any(state.f - s * kd != state.f)

        s = jax.lax.while_loop(too_long, lambda s: s * optimizer.shrink, jnp.asarray(optimizer.step, state.f.dtype))
        return _State(state.f - s * kd, state.a - s * d, state.f_velocity, state.a_velocity)

    return step


def parse_steps(steps: Any) -> np.ndarray:
    """Numbers of steps as float64, a number or one axis; None is infinity."""
    counts = np.asarray(np.inf if steps is None else steps)
    if counts.dtype.kind not in "iuf" or counts.ndim > 1 or counts.size == 0:
        raise InputError(f"`steps` must be a whole number, None or a one-dimensional array of such, but got {steps!r}.")
    counts = counts.astype(np.float64)
    if np.isnan(counts).any() or (counts < 0).any() or (counts[np.isfinite(counts)] % 1 != 0).any():
        raise InputError(f"`steps` must be whole numbers of zero or more (infinity is one), but got {steps!r}.")
    return counts
