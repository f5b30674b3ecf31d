"""Gradient ascent of the log marginal likelihood on a kernel's leaves and the noise (type II maximum likelihood)."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ntkit._progress import Meter, Progress
from ntkit.errors import ComputationError, InputError
from ntkit.predict._data import parse_dtype, parse_noise, parse_x, parse_y, precision
from ntkit.predict._evaluate import check_kernel
from ntkit.predict.likelihood import log_marginal_likelihood


class NotConvergedWarning(UserWarning):
    """An optimiser stopped before its gradient was small; the result says how large it is."""


@dataclasses.dataclass(frozen=True)
class Maximum:
    """Where the ascent ended.

    - `kernel`, `noise`: the kernel with its new leaves, and the new variance of the labels;
    - `log_marginal_likelihood`, `initial`: its value there and at the start;
    - `gradient`: the largest |d log p / d log parameter|; `steps`; `converged`: whether `gradient` is below the
      tolerance;
    - `parameters`: the path of each parameter that moved, its value before and after; `fixed`: leaves that were not
      positive and could not move on a logarithmic scale.
    """

    kernel: Any
    noise: float
    log_marginal_likelihood: float
    initial: float
    gradient: float
    steps: int
    converged: bool
    parameters: dict[str, tuple[float, float]]
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        head = f"log marginal likelihood {self.initial:.6g} -> {self.log_marginal_likelihood:.6g} in {self.steps} steps"
        rows = [f"  {name:<40} {before:>12.6g} -> {after:.6g}" for name, (before, after) in self.parameters.items()]
        state = "converged" if self.converged else "NOT converged"
        tail = [f"  fixed (not positive): {', '.join(self.fixed)}"] if self.fixed else []
        return "\n".join([f"{head}, {state} (gradient {self.gradient:.1e})", *rows, *tail])


def maximise_likelihood(
    kernel: Any,
    x: Any,
    y: Any,
    noise: float,
    *,
    where: Callable[[Any], Any] | None = None,
    fix_noise: bool = False,
    max_steps: int = 100,
    tolerance: float = 1e-3,
    dtype: Any = np.float64,
    progress: Progress = True,
) -> Maximum:
    """Climb log p(y | x) in the logarithms of the kernel's leaves and of the noise, by L-BFGS with a zoom line search.

    Parameters stay positive because it is their logarithms that move. The likelihood has local maxima: the result
    depends on the start.

    **Arguments:**

    - `kernel`, `x`, `y`, `noise`: as in `ntkit.posterior`; where the ascent starts. n^3 per step: for n up to a few
      thousand.
    - `where`: the leaves to move, as in `equinox.tree_at`: `lambda k: [layer.w_std for layer in k.net.layers[::2]]`.
      None for every floating-point leaf that is positive; the others stay, and are named in the result.
    - `fix_noise`: leave the noise as it is.
    - `max_steps`, `tolerance`: stop when no |d log p / d log parameter| exceeds `tolerance` times max(1, |log p|).
    - `progress`: as in `ntkit.gram`, counting steps of at most `max_steps`.

    **Raises:** `InputError` for a leaf of `where` that is not a positive number; `ComputationError` if log p is not
    finite at the start. Warns `NotConvergedWarning` when `max_steps` did not suffice.
    """
    check_kernel(kernel)
    dtype = parse_dtype(dtype)
    x = parse_x("x", x, dtype)
    y, _ = parse_y(y, x.shape[0], dtype)
    start = parse_noise(noise, 1, dtype)
    if start.ndim:
        raise InputError(f"`noise` must be one number here, but has shape {start.shape}.")
    mask, fixed = _select(kernel, where)
    with precision(dtype):
        moving, rest = eqx.partition(kernel, mask)
        logs = jax.tree.map(lambda v: jnp.log(jnp.asarray(v, dtype)), (moving, None if fix_noise else float(start)))
        if not jax.tree.leaves(logs):
            raise InputError("`kernel` has no positive floating-point leaf and `fix_noise` is set: nothing can move.")

        def objective(logs, x, y):
            leaves, noise = jax.tree.map(jnp.exp, logs)
            noise = jnp.asarray(start) if noise is None else noise
            return -log_marginal_likelihood(eqx.combine(leaves, rest), x, y, noise)

        meter = Meter(progress, 0, max_steps, "maximise_likelihood", "steps")
        # optax mixes int32 and int64 counters in double precision.
        with meter, jax.numpy_dtype_promotion("standard"):
            first, final, gradient, steps, found = _climb(
                objective, logs, jnp.asarray(x), jnp.asarray(y), max_steps, tolerance, meter
            )
        leaves, after = jax.tree.map(lambda v: float(jnp.exp(v)), found)
    converged = gradient <= tolerance * max(1.0, abs(final))
    if not converged:
        warnings.warn(
            f"The ascent stopped after {steps} steps with a gradient of {gradient:.1e} per unit of log parameter. "
            f"Raise `max_steps` ({max_steps}) or `tolerance` ({tolerance}), or start elsewhere.",
            NotConvergedWarning,
            stacklevel=2,
        )
    names = {jax.tree_util.keystr(p): float(v) for p, v in jax.tree_util.tree_leaves_with_path(moving)}
    moved = {n: (b, a) for (n, b), a in zip(names.items(), jax.tree.leaves(leaves), strict=True)}
    if after is not None:
        moved["noise"] = (float(start), after)
    return Maximum(
        eqx.combine(leaves, rest),
        float(start) if after is None else after,
        -final,
        -first,
        gradient,
        steps,
        converged,
        moved,
        fixed,
    )


def _select(kernel, where) -> tuple[Any, tuple[str, ...]]:
    """A mask of the leaves that move, and the paths of those that could not."""
    if where is None:

        def positive(v):
            return eqx.is_inexact_array_like(v) and np.ndim(v) == 0 and float(v) > 0

        stuck = [
            jax.tree_util.keystr(path)
            for path, v in jax.tree_util.tree_leaves_with_path(kernel)
            if eqx.is_inexact_array_like(v) and not positive(v)
        ]
        return jax.tree.map(positive, kernel), tuple(stuck)
    for v in jax.tree.leaves(where(kernel)):
        if not (eqx.is_inexact_array_like(v) and np.ndim(v) == 0 and float(v) > 0 and math.isfinite(float(v))):
            raise InputError(
                f"`where` must select positive numbers, which move on a logarithmic scale, but selected {v!r}."
            )
    nothing = jax.tree.map(lambda _: False, kernel)
    return eqx.tree_at(where, nothing, replace_fn=lambda _: True), ()


def _climb(objective, logs, x, y, max_steps, tolerance, meter):
    """(first value, last value, largest gradient, steps, parameters)."""
    optimiser = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    @jax.jit
    def step(logs, state, x, y):
        value, grad = value_and_grad(logs, x, y, state=state)
        updates, state = optimiser.update(
            grad, state, logs, value=value, grad=grad, value_fn=lambda p: objective(p, x, y)
        )
        return optax.apply_updates(logs, updates), state

    @jax.jit
    def measure(logs, x, y):
        value, grad = jax.value_and_grad(objective)(logs, x, y)
        return value, jnp.max(jnp.abs(jnp.stack(jax.tree.leaves(grad))))

    value, gradient = (float(v) for v in measure(logs, x, y))
    first = value
    if not math.isfinite(value) or not math.isfinite(gradient):
        raise ComputationError(
            f"The log marginal likelihood or its gradient is not finite at the start ({-value}): the kernel matrix "
            "plus noise is not positive definite. Raise `noise`."
        )
    # Its numbers are weakly typed, and those that a step returns are not: it would be compiled twice.
    state = jax.tree.map(lambda v: jnp.asarray(v, v.dtype), optimiser.init(logs))
    for taken in range(max_steps):
        meter(taken)
        if gradient <= tolerance * max(1.0, abs(value)):
            return first, value, gradient, taken, logs
        moved, state = step(logs, state, x, y)
        after, slope = (float(v) for v in measure(moved, x, y))
        if not math.isfinite(after) or after > value or not math.isfinite(slope):
            return first, value, gradient, taken, logs  # the line search found nothing better: rounding's floor
        logs, value, gradient = moved, after, slope
    return first, value, gradient, max_steps, logs
