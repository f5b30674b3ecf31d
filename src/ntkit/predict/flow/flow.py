"""Gradient flow in function space: kernel gradient descent with infinitely small steps.

A. Jacot, F. Gabriel and C. Hongler, "Neural Tangent Kernel: Convergence and Generalization in Neural Networks", NeurIPS
2018, sections 3 and 5; L. Chizat, E. Oyallon and F. Bach, "On Lazy Training in Differentiable Programming", NeurIPS
2019, eq. 2 and 3, for the scale.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from ntkit._progress import Progress
from ntkit.errors import InputError
from ntkit.linalg import Spectrum, spectrum
from ntkit.predict._data import parse_number, parse_test, precision, restore
from ntkit.predict._times import gain, parse_times, time_scales
from ntkit.predict.flow.accelerated import (
    AcceleratedFlow,
    HeavyBallFlow,
    NesterovFlow,
    check_rest,
    parse_momentum,
)
from ntkit.predict.flow.krylov import Lanczos, LanczosFlow
from ntkit.predict.flow.limit import Limit, find_limit
from ntkit.predict.flow.losses import Loss, Squared
from ntkit.predict.flow.ode import ODE, FlowStatistics, Integrator
from ntkit.predict.flow.spectral import Components, Spectral
from ntkit.predict.flow.stopping import (
    BestTime,
    RidgeMatch,
    leave_one_out_errors,
    match_ridge,
    minimise,
    parse_grid,
)
from ntkit.predict.flow.trajectory import Problem, Trajectory, parse_problem, validation
from ntkit.predict.ridge import RidgeLeaveOneOut


class SquaredFlow(Spectral):
    """Gradient flow on the squared loss, in closed form: what `ntkit.gradient_flow` returns for it.

    `components` has the directions and what is learned in each; `statistics` the time scales.
    """

    def __init__(self, problem: Problem, spec: Spectrum, rate: float):
        super().__init__(problem, spec)
        self._rate = rate
        self.statistics = time_scales(spec, rate)

    def __repr__(self) -> str:
        n, o = self._problem.y.shape
        return f"SquaredFlow(n={n}, outputs={o}, dtype={self.dtype}; {self.statistics})"

    def __call__(self, x_test: Any, t: Any = None, *, f0_test: Any = None) -> Float[np.ndarray, "..."]:
        """The model's outputs at `x_test` after training for time `t`, in NumPy: (m,) or (m, o).

            f_t(x) = f_0(x) + K(x, x_train) K^-1 (I - exp(-learning_rate t K / n)) (y - f_0(x_train))

        A time costs n^2 o, and m n o for the test examples, whose kernel is computed once for all times, in tiles.

        - `x_test`: (m, ...); None for the training examples.
        - `t`: a time >= 0, infinity, or an array of such, whose axis then stands first; None is infinity.
        - `f0_test`: f_0 at `x_test`, where `f0` was given as an array.

        Directions whose eigenvalue is zero within rounding stay as they are; a `SingularKernelWarning` says so at
        infinity, if labels have a part in them.
        """
        times = parse_times(t)
        self._warn_if_singular(times)
        return self._at(x_test, times, f0_test)

    @property
    def components(self) -> Components:
        """The part of f_0 - y along each eigenvector of the kernel matrix, and the part that is never learned."""
        flat, fast = self._problem.flat, slice(-1, -1 - int(self._alive.sum()), -1)  # views: V may be large
        values, vectors = np.asarray(self._spectrum.values)[fast], np.asarray(self._spectrum.vectors)[:, fast]
        time = len(self.x) / (self._rate * values)
        return Components(values, vectors, restore(-self._residual[fast], flat), time, restore(self._null(), flat))

    def component(self, index: Any, x_test: Any = None) -> Float[np.ndarray, "..."]:
        """Delta_i(x) = K(x, x_train) v_i v_i^T (f_0 - y) / eigenvalue_i, of `components` number `index`, at `x_test`.

        At the training examples (None) it is v_i v_i^T (f_0 - y). `index` is a number, or a list of them, whose axis
        then stands first. Gradient flow is f_t(x) = f_infinity(x) + sum_i exp(-t / time_i) Delta_i(x), everywhere.
        """
        order = np.flatnonzero(self._alive)[::-1]
        wanted = np.atleast_1d(index)
        if wanted.dtype.kind not in "iu" or wanted.ndim > 1 or (wanted < 0).any() or (wanted >= order.size).any():
            raise InputError(f"`index` must be numbers of components, 0 to {order.size - 1}, but got {index!r}.")
        order = order[wanted]
        rotated = np.zeros((order.size, *self._residual.shape), self.dtype)
        values = np.asarray(self._spectrum.values)[order, None]
        rotated[np.arange(order.size), order] = -self._residual[order] / (1.0 if x_test is None else values)
        with precision(self.dtype):
            found = self._unrotated(rotated)
            if x_test is not None:
                found = self._reach(parse_test(x_test, self.kernel, self.x, self.dtype), found)
        return restore(found if np.ndim(index) else found[0], self._problem.flat)

    def ridge_at(self, t: float) -> RidgeMatch:
        """The ridge regression that regularises as much as stopping at `t`: as many degrees of freedom.

        The comparison is of functions that start at f_0: with an f_0, it is the ridge regression of y - f_0. A. Ali,
        J. Z. Kolter and R. J. Tibshirani, "A Continuous-Time View of Early Stopping for Least Squares Regression",
        AISTATS 2019, compare the two at alpha = n / (learning_rate t).
        """
        values = np.asarray(self._spectrum.values, np.float64)[self._alive][::-1]
        return match_ridge(values, self._rate * self._one_time(t) / len(self.x))

    def leave_one_out(self, t: float) -> RidgeLeaveOneOut:
        """Each example predicted at time `t` by the flow trained on all others, from the one eigendecomposition.

        Exact (to about 1e-12 of the largest error in float64) for `gradient_flow` on n - 1 examples with the same
        learning rate, without solving again: derived in docs/derivations/flows.md. A time costs some 60 n^2 (o + 1)
        operations. Beyond 40 times the slowest time scale it is what it is there.
        """
        return self._leave_one_out(self._one_time(t))

    def _leave_one_out(self, time: float) -> RidgeLeaveOneOut:
        n, flat = len(self.x), self._problem.flat
        if n < 2:
            raise InputError("Leave-one-out needs two examples or more, but `x` has one.")
        labels = self._problem.y - self._problem.start
        with precision(self.dtype):
            # e^-40 is less than rounding, and the contour stays away from eigenvalues that are zero within it.
            time = min(time, 40 * self.statistics.slowest)
            error = leave_one_out_errors(self._spectrum, self._residual, labels, self._rate * time / (n - 1))
        return RidgeLeaveOneOut(
            restore(self._problem.y - error, flat), restore(error, flat), float(np.mean(error.astype(np.float64) ** 2))
        )

    def best_time(self, x_val: Any = None, y_val: Any = None, *, times: Any = None, f0_val: Any = None) -> BestTime:
        """When to stop: the time of the smallest loss on `x_val`, `y_val`, or without these of leave-one-out.

        A grid of times, by default five per decade from a tenth of the fastest time scale to ten times the slowest
        (at most twelve decades), is refined twice around its best.
        """
        if times is None:
            fast, slow = self.statistics.fastest / 10, self.statistics.slowest * 10
            slow = min(slow, 1e12 * fast)
            times = np.geomspace(fast, slow, 2 + int(5 * np.log10(slow / fast)))
        grid = parse_grid(times)
        outputs = self._problem.y.shape[1]
        if x_val is None:
            return minimise(grid, lambda t: [0.5 * outputs * self._leave_one_out(v).squared for v in t])
        return minimise(grid, validation(self, x_val, y_val, f0_val))

    def _one_time(self, t: Any) -> float:
        time = parse_times(t)
        if time.ndim or np.isinf(time):
            raise InputError(f"`t` must be one finite time here, but got {t!r}.")
        return float(time)

    def _gains(self, times: Float[np.ndarray, " t"]) -> np.ndarray:
        """(t, n): (1 - exp(-rate t v / n)) / v, zero in null directions."""
        rate, values = self._rate / len(self.x), self._spectrum.values
        found = [np.asarray(gain(values, self._spectrum.rounding, 0.0, rate, time)) for time in times]
        return np.where(self._alive, np.stack(found), 0.0).astype(self.dtype)

    def _rotated(self, times):
        return self._gains(times)[:, :, None] * self._residual


class LossFlow(Trajectory):
    """Gradient flow on any other loss, integrated numerically: what `ntkit.gradient_flow` returns for it.

    `statistics` says how the integration went so far, and how well the energy balance holds.
    """

    def __init__(self, problem: Problem, integrator: Integrator, matrix: Any):
        super().__init__(problem)
        self._integrator, self._matrix = integrator, matrix
        self._limit: Limit | None = None

    def __repr__(self) -> str:
        n, o = self._problem.y.shape
        return f"LossFlow(n={n}, outputs={o}, dtype={self.dtype}; {self.statistics})"

    @property
    def statistics(self) -> FlowStatistics:
        return self._integrator.statistics

    def __call__(self, x_test: Any, t: Any, *, f0_test: Any = None) -> Float[np.ndarray, "..."]:
        """The model's outputs at `x_test` after training for time `t`, in NumPy: (m,) or (m, o).

            f_t(x) = f_0(x) + K(x, x_train) a_t,      a_t = -(learning_rate / n) integral_0^t loss'(f_s, y) ds

        or, with momentum, a_t'' + friction a_t' = -(learning_rate / n) loss'(f_t, y).

        a_t is integrated once and kept: other test examples cost a product, later times go on from the last ones.

        - `x_test`: (m, ...); None for the training examples.
        - `t`: a time >= 0, infinity, or an array of such, whose axis then stands first.
        - `f0_test`: f_0 at `x_test`, where `f0` was given as an array.

        At infinity the loss is to be convex and the kernel matrix K of full rank. The flow then ends where each
        example's loss is smallest, a_infinity = K^-1 (f_infinity - f_0); directions that the loss never sees stay as
        they are. It is found by Newton's method, an example at a time, and costs one eigendecomposition.

        **Raises:** `ComputationError` with the statistics when the integration does not reach `t`; at infinity for a
        matrix that is singular within rounding, and for a loss that is found not to be convex, to have no minimum (as
        those of classification have none with labels that are certain), or many.
        """
        times = parse_times(t)
        check_rest(times, self._integrator.momentum)
        return self._at(x_test, times, f0_test)

    def best_time(self, x_val: Any, y_val: Any, *, times: Any, f0_val: Any = None) -> BestTime:
        """When to stop: the time of the smallest mean loss on `x_val`, `y_val`, among `times`, refined around it."""
        return minimise(parse_grid(times), validation(self, x_val, y_val, f0_val))

    def _outputs(self, times):
        return np.stack([np.asarray(state.f) for state in self._states(times)])

    def _duals(self, times):
        return np.stack([np.asarray(state.a) for state in self._states(times)])

    def _states(self, times: np.ndarray) -> list[Any]:
        if np.isinf(times).any() and self._limit is None:
            self._limit = find_limit(self._problem, self._matrix)
        finite = iter(self._integrator.states(times[np.isfinite(times)]))
        return [self._limit if np.isinf(t) else next(finite) for t in times]


def gradient_flow(
    kernel: Any,
    x: Any,
    y: Any,
    learning_rate: float = 1.0,
    *,
    loss: str | Loss = "squared",
    f0: Any = None,
    scale: float = 1.0,
    momentum: HeavyBallFlow | NesterovFlow | None = None,
    method: Any = None,
    ode: ODE | None = None,
    matrix: Any = None,
    dtype: Any = np.float64,
    memory: str | int | None = None,
    progress: Progress = True,
) -> SquaredFlow | LanczosFlow | LossFlow | AcceleratedFlow:
    """One function trained on (x, y) by gradient flow with a kernel that stays as it is.

        flow = ntkit.gradient_flow(ntkit.NTK(net), x, y)
        flow(x_test, t=10.0)
        flow(x_test, [0.0, 1.0, 10.0, float("inf")])

    With C = (1/n) sum_i loss(f(x_i), y_i), the function moves by

        df_t(x)/dt = -(learning_rate / n) sum_i K(x, x_i) loss'(f_t(x_i), y_i)

    which is what gradient flow on C does to a network whose NTK is K: an infinitely wide one, or a linearised one. One
    step of gradient descent with a small step size s is time s, as in `ntkit.ensemble`, whose mean is it.

    **Arguments:**

    - `kernel`, `x`, `y`: as in `ntkit.posterior`; outputs share the kernel.
    - `learning_rate`: positive; only its product with t matters.
    - `loss`: `"squared"`, |f - y|^2 / 2, which is solved in closed form; `"cross-entropy"` (softmax; one-hot labels),
      `"logistic"` (labels -1 and 1), `"huber"` or `Huber(delta)`; or your own `loss(f, y)` of the outputs and labels
      (o,) of one example, written in JAX. A loss other than `"squared"` or `Squared()` is integrated numerically.
    - `f0`: the function at t = 0: None for 0; a function x -> (n,) or (n, o), called with examples in `dtype` as
      the kernel is; or its outputs at the training examples, in which case predictions ask for `f0_test`.
    - `scale`: alpha of lazy training (Chizat et al. 2019): the model is alpha f, its cost C(alpha f) / alpha^2, where
      `kernel` is the NTK of f and `f0` its initial value. The model alpha f is what is returned. It obeys the equation
      above, in which alpha cancels: what alpha scales is where it starts, alpha f_0.
    - `momentum`: `HeavyBallFlow(friction)` or `NesterovFlow()` of `ntkit.predict`, the limits of small steps of both
      momentum methods, in place of gradient flow.
    - `method`: `Lanczos()` of `ntkit.predict` for the squared loss and a matrix too large to decompose, which it need
      not even hold; None decomposes it.
    - `ode`: tolerances of the numerical integration, `ntkit.predict.ODE(rtol, atol, max_steps)`.
    - `matrix`: kernel(x) if it is at hand (from `ntkit.gram`); it is then not computed.
    - `dtype`, `memory`, `progress`: as in `ntkit.posterior`; the bar shows kernel matrices, predictions, integration.

    **Returns:** `SquaredFlow` or `LossFlow`, to be called as `flow(x_test, t)`; `AcceleratedFlow` for the squared loss
    with momentum. The squared loss costs one eigendecomposition, or as `LanczosFlow` some products.

    **Raises:** `InputError`; `ComputationError` for a kernel not finite or not positive semi-definite.
    """
    rate = parse_number(learning_rate, "learning_rate")
    problem = parse_problem(kernel, x, y, loss, f0, scale, dtype, memory, progress)
    if ode is not None and not isinstance(ode, ODE):
        raise InputError(f"`ode` must be `ntkit.predict.ODE(...)`, but got {ode!r}.")
    parse_momentum(momentum)
    _check_method(method, problem.loss, momentum)
    with precision(problem.dtype):
        if method is not None:
            return LanczosFlow(problem, method.operator(problem, matrix), rate, method)
        if not isinstance(problem.loss, Squared):
            held = problem.matrix(matrix)
            return LossFlow(problem, Integrator(problem, held, rate, ode or ODE(), momentum), held)
        if momentum is not None:
            return AcceleratedFlow(problem, spectrum(problem.matrix(matrix)), rate, momentum)
        return SquaredFlow(problem, spectrum(problem.matrix(matrix)), rate)


def _check_method(method: Any, loss: Loss, momentum: Any) -> None:
    if method is None:
        return
    if not isinstance(method, Lanczos):
        raise InputError(f"`method` must be `ntkit.predict.Lanczos(...)`, or None to decompose, but got {method!r}.")
    if momentum is not None or not isinstance(loss, Squared):
        raise InputError('`method=Lanczos(...)` is for gradient flow on `loss="squared"`, without `momentum`.')
