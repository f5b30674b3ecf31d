"""Where gradient flow on a convex loss ends.

With a kernel matrix K of full rank, f_t = f_0 + K a_t may be anything at the examples, so that the cost has its minimum
where every loss(f_i, y_i) has its own. Flow on a convex cost that has a minimiser comes to one. Directions v in which
the loss does not change at all, as f + c 1 of cross-entropy, have v^T loss' = 0, and v^T f_t stays v^T f_0.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ntkit.errors import ComputationError
from ntkit.linalg import spectrum
from ntkit.predict.flow.losses import Loss
from ntkit.predict.flow.trajectory import Problem

# Damped Newton steps at most; ten are the rule, and some for far starts of losses that are linear there.
_STEPS = 1000
# A curvature below this share of an example's largest counts as none.
_FLAT = 1e-6


class Limit(NamedTuple):
    """Outputs f (n, o) at t = infinity, and dual coefficients a = K^-1 (f - f_0)."""

    f: np.ndarray
    a: np.ndarray


def find_limit(problem: Problem, kernel: Any) -> Limit:
    """The limit of the flow. **Raises:** `ComputationError` where there is none, or the loss alone does not say it."""
    spec = spectrum(kernel)
    dead = int(np.sum(np.asarray(spec.values) <= spec.rounding))
    if dead:
        raise ComputationError(
            f"At t = infinity a loss other than the squared one needs a kernel matrix of full rank, but {dead} of its "
            f"{len(problem.x)} eigenvalues are zero within rounding: what is learned of one example then hangs on "
            "others. Pass a large `t`, or leave out examples that are there twice."
        )
    start, y = jnp.asarray(problem.start), jnp.asarray(problem.y)
    f, there, convex, free = (np.asarray(v) for v in _minimisers(problem.loss, start, y))
    if not convex.all():
        raise ComputationError(
            f"The loss is not convex: example {int(np.argmin(convex))} meets negative curvature. Where the flow ends "
            "then hangs on its path: pass a large `t`."
        )
    if not there.all():
        raise ComputationError(
            f"The loss has no minimum to come to, or none was found: that of example {int(np.argmin(there))} falls on, "
            "however far Newton's method goes, as losses of classification do with labels that are certain. Pass a "
            "large `t`, or labels that are probabilities between 0 and 1."
        )
    if not free.all():
        raise ComputationError(
            f"The loss of example {int(np.argmin(free))} has many minima, and which one the flow ends in hangs on its "
            "path. Pass a large `t`."
        )
    values, vectors = np.asarray(spec.values)[:, None], np.asarray(spec.vectors)
    return Limit(f, vectors @ ((vectors.T @ (f - problem.start)) / values))


@partial(jax.jit, static_argnums=0)
def _minimisers(loss: Loss, start: Float[Array, "n o"], y: Float[Array, "n o"]) -> tuple[Array, Array, Array, Array]:
    """Of each example the minimiser of its loss from `start`; whether it is one, whether all curvatures on the way were
    0 or more, and whether the loss leaves no choice among several."""
    return jax.vmap(partial(_minimiser, loss))(start, y)


def _minimiser(loss: Loss, start: Any, y: Any) -> tuple[Any, Any, Any, Any]:
    slope, eps, scale = jax.grad(loss), jnp.finfo(start.dtype).eps, 1 + jnp.max(jnp.abs(y))
    # Of a loss that falls for ever slope and curvature vanish together: while the slope is well above rounding their
    # ratio, Newton's step, tells it from a minimum. So no direction is followed below the first of these.
    small, rounding = eps ** (2 / 3) * scale, 32 * eps * scale

    def parts(f: Any) -> tuple[Any, Any, Any]:
        """Curvatures, their directions, and the slope along them."""
        values, vectors = jnp.linalg.eigh(jax.hessian(loss)(f, y))
        return values, vectors, vectors.T @ slope(f, y)

    def going_on(state: tuple[Any, ...]) -> Any:
        *_, taken, done = state
        return ~done & (taken < _STEPS)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        f, damping, convex, taken, _ = state
        values, vectors, along = parts(f)
        convex = convex & jnp.all(values >= -jnp.sqrt(eps) * (1 + jnp.max(jnp.abs(values))))
        wanted = jnp.where(jnp.abs(along) > small, along, 0)
        moved = f - vectors @ (wanted / (jnp.maximum(values, 0) + damping))
        better = (loss(moved, y) < loss(f, y)) | (jnp.sum(slope(moved, y) ** 2) < jnp.sum(along**2))
        damping = jnp.maximum(jnp.where(better, damping / 10, damping * 4), eps**4)
        f = jnp.where(better & jnp.all(jnp.isfinite(moved)), moved, f)
        return f, damping, convex, taken + 1, ~jnp.any(wanted != 0)

    f, _, convex, *_ = lax.while_loop(
        going_on, step, (start, jnp.ones_like(small), jnp.array(True), 0, jnp.array(False))
    )
    values, vectors, along = parts(f)
    sloped = jnp.abs(along) > rounding
    last = jnp.where(sloped, along / jnp.where(values > 0, values, 1), 0)
    short = (values > 0) & (jnp.abs(last) <= jnp.sqrt(eps) * (1 + jnp.max(jnp.abs(f))))
    f = f - vectors @ last
    return f, jnp.all(short | ~sloped), convex, _alone(slope, start, f, values, vectors, y)


def _alone(slope: Any, start: Any, f: Any, values: Any, vectors: Any, y: Any) -> Any:
    """Whether the minimum f is the one the flow comes to: along each direction either the loss rises to both sides, or
    it does not change, at the start and half-way as well."""
    eps = jnp.finfo(f.dtype).eps
    width = eps ** (1 / 3) * (1 + jnp.max(jnp.abs(f)))
    above, below = (jax.vmap(lambda v, s=s: v @ slope(f + s * width * v, y))(vectors.T) for s in (1, -1))
    rises = (above > 0.1 * width * values) & (below < -0.1 * width * values)
    flat = values <= _FLAT * jnp.max(values)
    before = jnp.stack([vectors.T @ slope((1 - u) * start + u * f, y) for u in (0.0, 0.5)])
    never = jnp.all(jnp.abs(before) <= jnp.sqrt(eps) * (1 + jnp.max(jnp.abs(y))), axis=0)
    return jnp.all(jnp.where(flat, never, rises))
