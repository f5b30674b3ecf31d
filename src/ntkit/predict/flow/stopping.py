"""Early stopping as a regulariser: the ridge that a time matches, leave-one-out at any time, the best time."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Float

from ntkit.errors import InputError
from ntkit.linalg import Spectrum


@dataclasses.dataclass(frozen=True)
class RidgeMatch:
    """Gradient flow for a time beside the ridge regression of as many degrees of freedom.

    Both shrink what is learned of the labels along eigenvector i of the kernel matrix by a factor, `flow` and `ridge`:

        flow_i = 1 - exp(-learning_rate t eigenvalue_i / n),     ridge_i = eigenvalue_i / (eigenvalue_i + alpha)

    - `alpha`: in the units of `ntkit.ridge`: the one whose factors have the sum of the flow's, `degrees`. It lies near
      n / (learning_rate t); infinite at t = 0, zero at infinity.
    - `eigenvalue`, `flow`, `ridge` (k,): for the eigenvalues that are not zero within rounding, descending.
    """

    alpha: float
    degrees: float
    eigenvalue: Float[np.ndarray, " k"]
    flow: Float[np.ndarray, " k"]
    ridge: Float[np.ndarray, " k"]


def match_ridge(values: Float[np.ndarray, " k"], time: float) -> RidgeMatch:
    """The ridge of as many degrees of freedom as the flow for `time` = learning_rate t / n; `values` descend."""
    factors, left = -np.expm1(-time * values), np.exp(-time * values)
    degrees, missing = float(factors.sum()), float(left.sum())

    def excess(log_alpha):
        # Of the two sums the smaller one is compared: near 0 or k the other has no digits left.
        alpha = np.exp(log_alpha)
        if degrees < missing:
            return float(np.sum(values / (values + alpha))) / degrees - 1
        return 1 - float(np.sum(alpha / (values + alpha))) / missing

    if degrees == 0 or missing == 0:
        alpha = np.inf if degrees == 0 else 0.0
    else:
        # sum v / (v + alpha) lies between d for alpha = v_min (k - d) / d, the least, and v_max (k - d) / d.
        ends = np.log(values[[-1, 0]]) + np.log(missing / degrees)
        found = scipy.optimize.root_scalar(excess, bracket=(ends[0] - 1e-6, ends[1] + 1e-6), xtol=1e-13)
        alpha = float(np.exp(found.root))
    ridge = np.zeros_like(values) if np.isinf(alpha) else values / (values + alpha)
    return RidgeMatch(alpha, degrees, values, factors, ridge)


# Half the nodes of the contour. The rule errs by 10^-N for an integrand that is analytic off the negative axis; the
# largest factor of an addend is exp(0.35 N) = 140, which rounding is multiplied by.
_NODES = 14


def leave_one_out_errors(
    spec: Spectrum, rotated: Float[np.ndarray, "n o"], labels: Float[np.ndarray, "n o"], time: float
) -> Float[np.ndarray, "n o"]:
    """y_i - f_i(x_i), where f_i is the flow for `time` = learning_rate t / (n - 1) on all examples but i, from 0.

    It is the inverse Laplace transform of the leave-one-out error of ridge regression as a function of the ridge
    (docs/derivations/flows.md):

        e_i(time) = (1 / 2 pi i) integral exp(w time) / w  [(K + w I)^-1 y]_i / [(K + w I)^-1]_ii dw

    on a contour around the negative axis: a hyperbola, by the midpoint rule. A time costs some 4 N n^2 (o + 1)
    operations.

    **Arguments:** `rotated`, V^T y. J. A. C. Weideman and L. N. Trefethen, "Parabolic and hyperbolic contours for
    computing the Bromwich integral", Mathematics of Computation 76 (2007), section 4.
    """
    if time == 0:
        return np.array(labels)
    w, weight = _contour(time)
    found = _contour_sum(spec.values, spec.vectors, jnp.asarray(rotated), *(jnp.asarray(v) for v in _parts(w, weight)))
    return np.asarray(found)


def _contour(time: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes w_k (k,), and weights such that the integral is Im sum_k weight_k F(w_k) for F(conj w) = conj F(w)."""
    step, scale, angle = 1.081792140 / _NODES, 4.492075287 * _NODES / time, 1.172104229
    u = step * (np.arange(_NODES) + 0.5)
    w = scale * (1 + np.sin(1j * u - angle))
    slope = scale * 1j * np.cos(1j * u - angle)
    return w, step / np.pi * np.exp(w * time) / w * slope


def _parts(w, weight):
    return w.real, w.imag, weight.real, weight.imag


@jax.jit
def _contour_sum(values, vectors, rotated, w, w_imag, weight, weight_imag):
    """Im sum_k weight_k [V (V^T y / (v + w_k))]_i / [V^2 1 / (v + w_k)]_i, real and imaginary parts side by side."""
    n, o = rotated.shape
    shifted = values[:, None] + w[None, :]
    size = shifted**2 + w_imag[None, :] ** 2
    real, imag = shifted / size, -w_imag[None, :] / size
    both = jnp.concatenate([real, imag], axis=1)
    top = (vectors @ (rotated[:, :, None] * both[:, None, :]).reshape(n, -1)).reshape(n, o, 2, -1)
    below = ((vectors * vectors) @ both).reshape(n, 1, 2, -1)
    top = jax.lax.complex(top[:, :, 0], top[:, :, 1])
    below = jax.lax.complex(below[:, :, 0], below[:, :, 1])
    weights = jax.lax.complex(weight, weight_imag)
    return jnp.sum(jnp.imag(top / below * weights[None, None, :]), axis=2)


@dataclasses.dataclass(frozen=True)
class BestTime:
    """The time at which the loss on examples not trained on is smallest.

    - `time`, `loss`: the best, and the mean over examples of the loss there;
    - `times`, `losses` (k,): all that were tried, in order of time;
    - `at_edge`: the best is the first or the last of the grid: a wider one may have a better time.
    """

    time: float
    loss: float
    times: Float[np.ndarray, " k"]
    losses: Float[np.ndarray, " k"]
    at_edge: bool


def minimise(times: Float[np.ndarray, " k"], losses_at: Callable[[np.ndarray], Sequence[float]]) -> BestTime:
    """The best of a grid of times, and of two finer ones around the best."""
    tried: dict[float, float] = {}
    at_edge = False
    for finer in range(3):
        tried.update(zip(times.tolist(), losses_at(times), strict=True))
        order = sorted(tried)
        place = order.index(min(tried, key=lambda t: tried[t]))
        if not finer:
            at_edge = place in (0, len(order) - 1)
        if at_edge:
            break
        times = np.geomspace(order[place - 1], order[place + 1], 13)[1:-1]
    order = sorted(tried)
    best = min(tried, key=lambda t: tried[t])
    return BestTime(best, tried[best], np.array(order), np.array([tried[t] for t in order]), at_edge)


def parse_grid(times) -> np.ndarray:
    grid = np.atleast_1d(np.asarray(times, np.float64))
    if grid.ndim != 1 or grid.size == 0 or not np.isfinite(grid).all() or (grid <= 0).any():
        raise InputError(f"`times` must be one or more positive finite times, but got {times!r}.")
    return np.unique(grid)
