"""Optimisers as the function sees them: how one step changes its outputs, and the largest step that is stable.

All steps are in the units of gradient descent on C = (1/n) sum_i loss(f(x_i), y_i): theta <- theta - step grad C.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

from ntkit.errors import InputError
from ntkit.linalg import Spectrum
from ntkit.predict._data import parse_number


class Optimizer:
    """A rule for steps."""

    step: float

    def largest_stable_step(self, spec: Spectrum) -> float:
        """The step below which all directions of this kernel matrix converge on the squared loss; may be infinite."""
        raise NotImplementedError

    def surely_stable(self, spec: Spectrum) -> bool:
        """Whether `step` is stable for a reason that is cheap to see."""
        return self.step < self.largest_stable_step(spec)

    def duals(
        self,
        values: Float[np.ndarray, " n"],
        residual: Float[np.ndarray, "n o"],
        counts: list[int],
        meter: Callable[[float], None],
    ) -> list[Float[np.ndarray, "n o"]]:
        """Dual coefficients in the eigenbasis after each of increasing numbers of steps on the squared loss.

        `values` are the eigenvalues, `residual` is V^T (y - f_0).
        """
        raise NotImplementedError


class Moving(Optimizer):
    """Steps of one size along the gradient, with or without momentum: linear on the squared loss."""

    momentum = 0.0
    nesterov = False

    def duals(self, values, residual, counts, meter):
        gains = [momentum_gains(self, values, k) for k in counts]
        return [gain[:, None] * residual for gain in gains]


def step_to_size(spec: Spectrum) -> float:
    """n / lambda_max, which all largest stable steps are multiples of; infinite for a kernel that is 0."""
    largest = float(spec.values[-1])
    return spec.values.shape[0] / largest if largest > 0 else np.inf


def _check_momentum(momentum: float) -> None:
    parse_number(momentum, "momentum", zero=True)
    if momentum >= 1:
        raise InputError(f"`momentum` must lie in [0, 1), but got {momentum!r}.")


@dataclasses.dataclass(frozen=True)
class GradientDescent(Moving):
    """theta <- theta - step grad C. Stable on the squared loss for step < 2 n / lambda_max.

    Equivalent to `optax.sgd(step)` and `torch.optim.SGD(params, step)` on the whole training set.
    """

    step: float

    def __post_init__(self):
        parse_number(self.step, "step")

    def largest_stable_step(self, spec):
        return 2.0 * step_to_size(spec)


@dataclasses.dataclass(frozen=True)
class HeavyBall(Moving):
    """v <- momentum v + grad C, theta <- theta - step v, from v = 0. Stable for step < 2 (1 + momentum) n / lambda_max.

    B. Polyak, "Some methods of speeding up the convergence of iteration methods" (1964). Equivalent to
    `optax.sgd(step, momentum)` and `torch.optim.SGD(params, step, momentum)`.
    """

    step: float
    momentum: float = 0.9

    def __post_init__(self):
        parse_number(self.step, "step")
        _check_momentum(self.momentum)

    def largest_stable_step(self, spec):
        return 2.0 * (1 + self.momentum) * step_to_size(spec)


@dataclasses.dataclass(frozen=True)
class Nesterov(Moving):
    """v <- momentum v + grad C, theta <- theta - step (momentum v + grad C), from v = 0.

    Stable for step < 2 (1 + momentum) / (1 + 2 momentum) n / lambda_max. Equivalent to
    `optax.sgd(step, momentum, nesterov=True)` and `torch.optim.SGD(params, step, momentum, nesterov=True)`, whose theta
    is the point that Y. Nesterov (1983) takes the gradient at: one momentum step ahead of his own iterate.
    """

    step: float
    momentum: float = 0.9

    def __post_init__(self):
        parse_number(self.step, "step")
        _check_momentum(self.momentum)

    nesterov = True

    def largest_stable_step(self, spec):
        return 2.0 * (1 + self.momentum) / (1 + 2 * self.momentum) * step_to_size(spec)


@dataclasses.dataclass(frozen=True)
class LineSearch(Optimizer):
    """Steepest descent with a step chosen anew each time.

    - `"exact"`: the step that minimises C along the gradient; squared loss only. Equivalent to the method of steepest
      descent for linear systems.
    - `"backtracking"`: the first of `step`, `step shrink`, `step shrink^2`, ... with
      C(theta - s grad C) <= C - `decrease` s |grad C|^2 (Armijo 1966; Nocedal and Wright 2006, algorithm 3.1).
    """

    kind: Literal["exact", "backtracking"] = "exact"
    step: float = 1.0
    shrink: float = 0.5
    decrease: float = 1e-4

    def __post_init__(self):
        if self.kind not in ("exact", "backtracking"):
            raise InputError(f'`kind` must be "exact" or "backtracking", but got {self.kind!r}.')
        parse_number(self.step, "step")
        for name, value in (("shrink", self.shrink), ("decrease", self.decrease)):
            if not 0 < parse_number(value, name) < 1:
                raise InputError(f"`{name}` must lie between 0 and 1, but got {value!r}.")

    def largest_stable_step(self, spec):
        return np.inf  # C falls at each step, whatever the first one tried

    def duals(self, values, residual, counts, meter):
        left, duals, found, done = residual, np.zeros_like(residual), [], 0
        for count in counts:
            for _ in range(done, count):
                s = self._length(values[:, None], left)
                duals, left = duals + s * left, left - s * values[:, None] * left
                done += 1
                meter(done)
            found.append(duals)
        return found

    def _length(self, values: Float[np.ndarray, "n 1"], left: Float[np.ndarray, "n o"]) -> float:
        """step / n for y - f = `left` in the eigenbasis. Along the gradient C falls by step g - step^2 q / 2."""
        n = len(left)
        g, q = float(np.sum(values * left**2)) / n**2, float(np.sum((values * left) ** 2)) / n**3
        if q < np.finfo(np.float64).tiny:
            return 0.0
        if self.kind == "exact":
            return g / q / n
        # The longest that Armijo's condition allows, and the first of the geometric series below it.
        longest = 2 * (1 - self.decrease) * g / q
        return self.step * self.shrink ** max(0, int(np.ceil(np.log(longest / self.step) / np.log(self.shrink)))) / n


def momentum_gains(optimizer: Moving, values: Float[np.ndarray, " n"], steps: int) -> Float[np.ndarray, " n"]:
    """u_k (n,) such that after k steps the dual coefficients are V diag(u_k) V^T (y - f_0), for each eigenvalue v.

    With s = step / n and the velocity w, in units of the label's component,

        w' = momentum w - (1 - v u)
        u' = u - s w'                                                  or, Nesterov,
        u' = u - s (momentum w' - (1 - v u))

    an affine map of (u, w), whose k-th power is taken by squaring: 3 x 3 matrices, log k products. The residual's
    component is 1 - v u_k; u itself is powered, as (1 - residual) / v has no digits for small v.
    """
    s, m, zero, one = optimizer.step / values.size, optimizer.momentum, np.zeros_like(values), np.ones_like(values)
    if optimizer.nesterov:
        first = one - s * (1 + m) * values, -s * m**2 * one, s * (1 + m) * one
    else:
        first = one - s * values, -s * m * one, s * one
    rows = [first, (values, m * one, -one), (zero, zero, one)]
    square = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    power, state = steps, np.broadcast_to(np.array([0.0, 0.0, 1.0])[:, None], (values.size, 3, 1))
    while power:
        if power & 1:
            state = square @ state
        power >>= 1
        square = square @ square if power else square
    return state[:, 0, 0]
