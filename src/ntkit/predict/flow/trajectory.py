"""What all trainings in function space share: f_t(x) = f_0(x) + K(x, x_train) a_t, asked at any point, in tiles."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ntkit._check import as_host_array, check_dtype, check_finite
from ntkit._progress import Meter, Progress
from ntkit.errors import InputError
from ntkit.kernels import settled
from ntkit.nn._masks import Masked
from ntkit.predict._data import (
    parse_dtype,
    parse_number,
    parse_test,
    parse_x,
    parse_y,
    precision,
    restore,
    without_masks,
)
from ntkit.predict._evaluate import check_kernel, evaluate
from ntkit.predict.flow.losses import Loss, mean_loss, parse_loss
from ntkit.predict.posterior import CROSS, parse_matrix


class Problem(NamedTuple):
    """What is trained, checked. `start` (n, o): the model's outputs at the training examples before training."""

    kernel: Any
    x: np.ndarray
    y: np.ndarray
    flat: bool
    loss: Loss
    start: np.ndarray
    f0: Any
    scale: float
    dtype: np.dtype
    memory: Any
    progress: Progress

    def matrix(self, given: Any):
        """kernel(x), computed or as given."""
        return parse_matrix(self.kernel, self.x, given, self.dtype, self.memory, self.progress)


def parse_problem(kernel, x, y, loss, f0, scale, dtype, memory, progress) -> Problem:
    check_kernel(kernel)
    dtype = parse_dtype(dtype)
    kernel, arrays = without_masks(kernel, x)
    arrays = parse_x("x", arrays, dtype)
    y, flat = parse_y(y, arrays.shape[0], dtype)
    scale = parse_number(scale, "scale")
    with precision(dtype):
        value = called(f0, x, arrays) if callable(f0) else f0
        start = np.zeros_like(y) if f0 is None else scale * parse_outputs("f0", value, y.shape, dtype)
        loss = parse_loss(loss, y)
        kernel = settled(kernel, arrays)
    return Problem(kernel, arrays, y, flat, loss, start, f0, scale, dtype, memory, progress)


def called(f0: Callable[[Any], Any], x: Any, arrays: np.ndarray) -> Any:
    """f0 at examples, in the dtype that the kernel sees them in; `Masked` ones as they came."""
    return f0(x if isinstance(x, Masked) else arrays)


def parse_outputs(name: str, value: Any, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Outputs of a function at some examples as (n, o); (n,) for one output."""
    value = np.asarray(check_dtype(name, as_host_array(name, value)))
    if value.shape != shape and value.shape + (1,) != shape:
        raise InputError(f"`{name}` must give outputs of shape {shape} for these examples, but has {value.shape}.")
    check_finite(name, value)
    return np.asarray(value, dtype).reshape(shape)


class Trajectory:
    """A training in function space: what `ntkit.gradient_flow` and `ntkit.descend` return."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self.kernel, self.x, self.dtype = problem.kernel, problem.x, problem.dtype

    @property
    def y(self) -> Float[np.ndarray, "n *outputs"]:
        return restore(self._problem.y, self._problem.flat)

    def _outputs(self, times: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t n o"]:
        """The model's outputs f_t at the training examples."""
        raise NotImplementedError

    def _duals(self, times: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t n o"]:
        """The dual coefficients a_t."""
        raise NotImplementedError

    def _at(self, x_test: Any, times: np.ndarray, f0_test: Any) -> Float[np.ndarray, "..."]:
        """The model's outputs: `times` is a number or has one axis, which then stands first."""
        several = np.atleast_1d(times)
        if x_test is None:
            if f0_test is not None:
                raise InputError("`f0_test` belongs to `x_test`: at the training examples it is `f0`. Leave it out.")
            with precision(self.dtype):
                values = self._outputs(several)
        else:
            rows = parse_test(x_test, self.kernel, self.x, self.dtype)
            with precision(self.dtype):
                start = self._start_at(x_test, rows, f0_test)
                values = start + self._reach(rows, self._duals(several))
        values = values if np.ndim(times) else values[0]
        return restore(values, self._problem.flat)

    def _start_at(self, x_test: Any, rows: np.ndarray, f0_test: Any) -> np.ndarray:
        """The model's outputs at test examples before training."""
        p, f0, shape = self._problem, self._problem.f0, (rows.shape[0], self._problem.y.shape[1])
        if f0_test is not None and (f0 is None or callable(f0)):
            raise InputError("`f0_test` is for an `f0` that was given as an array. Leave it out, or pass `f0` as well.")
        if f0 is None:
            return np.zeros(shape, p.dtype)
        if f0_test is None and not callable(f0):
            raise InputError(
                "`f0` was given as an array, at the training examples only. Pass `f0_test`, the same function's "
                "outputs at `x_test`; or `f0` as a function of the examples."
            )
        value, name = (called(f0, x_test, rows), "f0") if callable(f0) else (f0_test, "f0_test")
        return p.scale * parse_outputs(name, value, shape, p.dtype)

    def _reach(self, x_test: np.ndarray, duals: np.ndarray) -> np.ndarray:
        """K(x_test, x) a for each a (n, o) of `duals` (t, n, o): (t, m, o). The cross kernel is held in tiles."""
        t, n, o = duals.shape
        p, m = self._problem, x_test.shape[0]
        columns = jnp.asarray(np.moveaxis(duals, 0, 1).reshape(n, t * o))
        rows = max(1, CROSS // (self.dtype.itemsize * n))
        found = np.empty((m, t * o), self.dtype)
        with Meter(p.progress, 0, m, "predict", "examples") as meter:
            for start in range(0, m, rows):
                meter(start)
                block = x_test[start : start + rows]
                found[start : start + rows] = _product(evaluate(p.kernel, block, self.x, memory=p.memory), columns)
            meter(m)
        return np.moveaxis(found.reshape(m, t, o), 1, 0)


def validation(flow: Trajectory, x_val: Any, y_val: Any, f0_val: Any) -> Callable[[np.ndarray], list[float]]:
    """The mean loss on a validation set, as a function of times (t,)."""
    if x_val is None or y_val is None:
        raise InputError("`x_val` and `y_val` belong together: pass both.")
    problem = flow._problem

    def losses_at(times):
        outputs = flow._at(x_val, times, f0_val)
        labels = parse_outputs("y_val", y_val, (outputs.shape[1], problem.y.shape[1]), problem.dtype)
        with precision(problem.dtype):
            return [mean_loss(problem.loss, f.reshape(labels.shape), labels) for f in outputs]

    return losses_at


@jax.jit
def _product(a, b):
    return a @ b
