"""Gradient flow on any differentiable loss, integrated with error control."""

import bisect
import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkit._progress import Meter
from ntkit.errors import ComputationError, InputError
from ntkit.predict._data import parse_number
from ntkit.predict.flow.accelerated import Momentum
from ntkit.predict.flow.losses import Loss, mean_loss, slopes
from ntkit.predict.flow.trajectory import Problem

# Multiplications between two looks at the clock, for Ctrl-C and the bar; each step takes twelve products with K.
_GLANCE = 1 << 33


@dataclasses.dataclass(frozen=True)
class ODE:
    """Dormand and Prince's method of order 8, with steps chosen so that the error of each stays within a tolerance.

    It is explicit: a step cannot exceed about 6 n / (learning_rate lambda_max h), where lambda_max is the largest
    eigenvalue of the kernel matrix and h the curvature of the loss, so that a time t takes at least
    t learning_rate lambda_max h / (6 n) steps of 12 products with the matrix. An implicit method would solve systems
    of n o unknowns for its longer steps. Losses of classification flatten as they are fitted, and the steps grow.

    - `rtol`, `atol`: the error of a step, in the largest output, is kept below atol + rtol |f|; None for 1e-8 and 1e-10
      in float64, 1e-4 and 1e-5 in float32.
    - `max_steps`: steps, accepted or not, up to one time asked for; beyond it a `ComputationError` with the statistics.

    E. Hairer, S. Norsett and G. Wanner, "Solving Ordinary Differential Equations I" (1993), section II.5. Equivalent to
    `diffrax.Dopri8` with `diffrax.PIDController`.
    """

    rtol: float | None = None
    atol: float | None = None
    max_steps: int = 100_000

    def __post_init__(self):
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if value is not None:
                parse_number(value, name)
        if isinstance(self.max_steps, bool) or not isinstance(self.max_steps, int) or self.max_steps < 1:
            raise InputError(f"`max_steps` must be a whole number, 1 or more, but got {self.max_steps!r}.")

    def tolerances(self, dtype: np.dtype) -> tuple[float, float]:
        rtol, atol = (1e-8, 1e-10) if dtype == np.float64 else (1e-4, 1e-5)
        return self.rtol or rtol, self.atol or atol


class FlowStatistics(NamedTuple):
    """How the integration went, up to the largest `time` reached.

    - `steps`, `rejected`: steps taken, and tried in vain;
    - `cost`: C at that time;
    - `deviation`: C must fall by the integral of learning_rate |d|_K^2, d = dC/df, and with momentum by what friction
      took and the energy of motion, |d theta / dt|^2 / (2 learning_rate); the largest difference between both at any
      time that was asked for or looked at, in units of the C at the start.
    """

    time: float
    steps: int
    rejected: int
    cost: float
    deviation: float


class _State(NamedTuple):
    """Outputs f (n, o), dual coefficients a (n, o), and the integral of learning_rate |d|_K^2."""

    f: Any
    a: Any
    fallen: Any


class _Moving(NamedTuple):
    """The same where there is momentum, which has taken `fallen` by friction; and df/dt, da/dt."""

    f: Any
    a: Any
    fallen: Any
    df: Any
    da: Any

    def energy(self, rate: float) -> float:
        """Of motion: |d theta / dt|^2 / (2 learning_rate)."""
        return float(jnp.sum(self.df * self.da)) / (2 * rate)


class Integrator:
    """df/dt = -(rate / n) K d, da/dt = -(rate / n) d with d_i = loss'(f_i, y_i), from f = f_0, a = 0. With momentum the
    same are the second derivatives, less friction, from rest.

    Both are integrated by one product K d a stage; f = f_0 + K a is linear in them and stays true to rounding. States
    at times that were asked for are kept, and later times go on from them.
    """

    def __init__(self, problem: Problem, kernel: Any, rate: float, ode: ODE, momentum: Momentum | None = None):
        self._problem, self._kernel, self._rate, self._ode = problem, kernel, rate, ode
        self.momentum = momentum
        f = jnp.asarray(problem.start)
        at_rest = f, jnp.zeros_like(f), jnp.zeros((), f.dtype)
        start = _State(*at_rest) if momentum is None else _Moving(*at_rest, jnp.zeros_like(f), jnp.zeros_like(f))
        self._kept: dict[float, _State | _Moving] = {0.0: start}
        self._start_cost = mean_loss(problem.loss, start.f, problem.y)
        if not np.isfinite(self._start_cost):
            raise ComputationError(f"The loss is {self._start_cost} before training. Check `loss`, `y` and `f0`.")
        self.statistics = FlowStatistics(0.0, 0, 0, self._start_cost, 0.0)
        # The largest sum of a row bounds the largest eigenvalue; the curvature is unknown, and this is a first guess.
        fastest = len(problem.x) / (rate * float(_row_sum(kernel)))
        self._first = 0.1 * (fastest if momentum is None else fastest**0.5)

    def states(self, times: np.ndarray) -> list[_State | _Moving]:
        """At each of the times (t,), in their order."""
        for time in np.unique(times):
            if float(time) not in self._kept:
                self._advance(float(time))
        return [self._kept[float(t)] for t in times]

    def _advance(self, end: float) -> None:
        known = sorted(self._kept)
        at = known[bisect.bisect_left(known, end) - 1]
        state, begin, step, taken = self._kept[at], at, self._first, 0
        (n, o), tolerances = state.f.shape, self._ode.tolerances(self._problem.dtype)
        glance = min(self._ode.max_steps, int(np.clip(_GLANCE // (12 * n * n * o), 8, 512)))
        with Meter(self._problem.progress, 0, 100, "flow", "% of the time") as meter:
            while at < end:
                meter(int(100 * (at - begin) / (end - begin)))
                args = state, self._kernel, jnp.asarray(self._problem.y), self._rate, at, end, min(step, end - at)
                state, reached, accepted, rejected = _run(self._problem.loss, self.momentum, glance, *args, *tolerances)
                accepted, rejected, taken = int(accepted), int(rejected), taken + int(accepted) + int(rejected)
                step = (float(reached) - at) / max(accepted, 1)
                at = end if float(reached) >= end else float(reached)
                self._note(state, at, accepted, rejected)
                if not accepted or (at < end and taken >= self._ode.max_steps):
                    raise ComputationError(self._why(end, at, taken, accepted))
            meter(100)
        self._kept[end] = state

    def _note(self, state: _State | _Moving, at: float, accepted: int, rejected: int) -> None:
        old, cost = self.statistics, mean_loss(self._problem.loss, state.f, self._problem.y)
        if not np.isfinite(cost):
            raise ComputationError(f"The loss is {cost} at t = {at:.6g}, though its slope was finite. Check `loss`.")
        moving = state.energy(self._rate) if isinstance(state, _Moving) else 0.0
        off = abs(self._start_cost - cost - float(state.fallen) - moving) / (abs(self._start_cost) or 1.0)
        last = (at, cost) if at >= old.time else (old.time, old.cost)
        worst = max(old.deviation, off)
        self.statistics = FlowStatistics(last[0], old.steps + accepted, old.rejected + rejected, last[1], worst)

    def _why(self, end: float, at: float, taken: int, accepted: int) -> str:
        what = f"The flow was not integrated to t = {end:.6g}: it stands at t = {at:.6g} after {taken} steps"
        if not accepted:
            return (
                f"{what}, and no step is small enough for the tolerances: the slope of the loss is not finite, or "
                f"jumps. Check `loss`, or raise `rtol` and `atol` ({self.statistics})."
            )
        return (
            f"{what} (`max_steps`). Pass `ode=ODE(max_steps=...)`, looser tolerances or a shorter `t` "
            f"({self.statistics})."
        )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _run(loss: Loss, momentum: Momentum | None, steps: int, state, kernel, y, rate, begin, end, step, rtol, atol):
    """At most `steps` steps towards `end`: state and time reached, steps accepted and rejected."""
    import diffrax  # takes 0.2 s to import

    n = y.shape[0]

    def slope(time, state, args):
        d = slopes(loss, state.f, y)
        kd = kernel @ d
        forces = -(rate / n) * kd, -(rate / n) * d
        if momentum is None:
            return _State(*forces, rate / n**2 * jnp.sum(d * kd))
        velocity = state.df, state.da
        friction = [momentum.resistance(time, v, force) for v, force in zip(velocity, forces, strict=True)]
        lost = jnp.sum(state.da * friction[0]) / rate
        return _Moving(*velocity, lost, forces[0] - friction[0], forces[1] - friction[1])

    found = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Dopri8(),
        begin,
        end,
        step,
        state,
        stepsize_controller=diffrax.PIDController(rtol, atol, norm=_largest),
        adjoint=diffrax.ForwardMode(),
        max_steps=steps,
        throw=False,
    )
    state, reached = jax.tree.map(lambda v: v[0], (found.ys, found.ts))
    return state, reached, found.stats["num_accepted_steps"], found.stats["num_rejected_steps"]


def _largest(error: _State | _Moving):
    """The error of the outputs, in tolerances: dual coefficients have no scale of their own."""
    return jnp.max(jnp.abs(error.f))


@jax.jit
def _row_sum(kernel):
    return jnp.max(jnp.sum(jnp.abs(kernel), axis=1))
