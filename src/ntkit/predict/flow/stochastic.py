"""Stochastic gradient descent on the squared loss: its exact covariance, and the largest step for which it is finite.

Derived in docs/derivations/flows.md.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

from ntkit.errors import InputError
from ntkit.predict._data import parse_number
from ntkit.predict.flow.optimizers import Moving


@dataclasses.dataclass(frozen=True)
class SGD(Moving):
    """theta <- theta - step (mean of the gradients of `batch` examples), drawn anew for each step.

    - `replacement`: whether an example may come twice in a batch; without, `batch = n` is gradient descent.
    - `noise`: the variance of noise that is drawn afresh with each label. Streaming: the training set stands for the
      law of the inputs, and no label is seen twice.

    Batches are independent: an epoch may see an example twice. What is computed of it is its mean and covariance.
    """

    step: float
    batch: int = 1
    replacement: bool = True
    noise: float = 0.0

    def __post_init__(self):
        parse_number(self.step, "step")
        parse_number(self.noise, "noise", zero=True)
        if isinstance(self.batch, bool) or not isinstance(self.batch, (int, np.integer)) or self.batch < 1:
            raise InputError(f"`batch` must be a whole number, 1 or more, but got {self.batch!r}.")

    def largest_stable_step(self, spec):
        alive = np.asarray(spec.values) > spec.rounding
        return _largest_stable(self, np.asarray(spec.values)[alive], np.asarray(spec.vectors)[:, alive])

    def surely_stable(self, spec):
        # tr(K^-1 M) of the second moment M falls by tr(M) (2 s / n - s^2 (c max K_ii + e lambda_max)), or more.
        on_diagonal, everywhere = self.moments(spec.values.shape[0])
        diagonal = np.max(np.square(spec.vectors) @ np.asarray(spec.values))
        bound = on_diagonal * diagonal + everywhere * float(spec.values[-1])
        return self.step * bound * spec.values.shape[0] < 2

    def moments(self, n: int) -> tuple[float, float]:
        """(c, e) with E[S M S] = c diag(M) + e M for the mean S of `batch` unit matrices e_b e_b^T."""
        if self.replacement:
            return 1 / (self.batch * n), (self.batch - 1) / (self.batch * n**2)
        both = (self.batch - 1) / (self.batch * n * max(n - 1, 1))
        return 1 / (self.batch * n) - both, both


def covariance_step(sgd: SGD, n: int):
    """The map of (A, r): covariance (n, n) of the dual coefficients, and mean of f - y (n,), of one output.

        A' = A - (s/n) (K A + A K) + s^2 (c diag(M) + e M - r r^T / n^2 + noise / (batch n) I),   M = K A K + r r^T
        r' = r - (s/n) K r

    Two products of n x n matrices (one for a batch of 1 with replacement, where e = 0).
    """
    on_diagonal, everywhere = sgd.moments(n)
    s, fresh = sgd.step, sgd.noise / (sgd.batch * n)

    def step(kernel, state):
        a, r = state
        ka = kernel @ a
        seen = jnp.sum(ka * kernel, axis=1) + r**2  # diag(M)
        spread = (everywhere - 1 / n**2) * jnp.outer(r, r)
        if everywhere:
            spread += everywhere * (ka @ kernel)
        spread += jnp.diag(on_diagonal * seen + fresh)
        a = a - (s / n) * (ka + ka.T) + s**2 * spread
        return (a + a.T) / 2, r - (s / n) * (kernel @ r)

    return step


@partial(jax.jit, static_argnums=0)
def run(sgd: SGD, kernel: Float[Array, "n n"], state, count):
    """`count` steps from a state (A, r)."""
    step = covariance_step(sgd, kernel.shape[0])
    return jax.lax.fori_loop(0, count, lambda _, s: step(kernel, s), state)


def _largest_stable(sgd: SGD, values: Float[np.ndarray, " k"], vectors: Float[np.ndarray, "n k"]) -> float:
    """The step below which the covariance of all outputs stays finite, for eigenpairs that are not null.

    The covariance is stable where d -> step c diag(V (V^T diag(d) V * W) V^T), a map of vectors d >= 0 with

        W_ij = v_i v_j / ((v_i + v_j) / n - step e v_i v_j)

    has a Perron eigenvalue below 1. It grows with the step: found by power iterations within Brent's method. Some 100
    products of n x n matrices.
    """
    n = vectors.shape[0]
    on_diagonal, everywhere = sgd.moments(n)
    if not values.size:
        return np.inf
    mean_only = 2 * n / float(values.max())
    if on_diagonal <= np.finfo(float).eps / n:  # the whole training set in each batch
        return mean_only
    inverse, vector = 1 / values, np.ones(n)

    def excess(step):
        nonlocal vector
        weights = 1 / ((inverse[:, None] + inverse) / n - step * everywhere)
        radius, vector = _perron(step * on_diagonal, vectors, weights, vector)
        return np.log(radius)

    # Where the denominator of the largest eigenvalue vanishes the map is infinite; it cannot be stable beyond.
    pole = 2 / (n * everywhere * values.max()) if everywhere else np.inf
    high = min(mean_only, pole * (1 - 1e-9))
    low = high
    while excess(low) > 0:
        low /= 4
    return scipy.optimize.root_scalar(excess, bracket=(low, high), rtol=1e-10).root if low < high else high


def _perron(scale, vectors, weights, vector) -> tuple[float, np.ndarray]:
    """The largest eigenvalue of the map, and its vector, by power iterations from `vector`."""
    radius = 0.0
    for _ in range(200):
        inner = vectors.T @ (vector[:, None] * vectors) * weights
        new = scale * np.sum((vectors @ inner) * vectors, axis=1)
        # Collatz and Wielandt: the eigenvalue of a positive map lies between these two.
        below, above = np.min(new / vector), np.max(new / vector)
        radius, vector = float(np.sqrt(below * above)), new / new.max()
        if above - below < 1e-10 * above:
            break
    return radius, vector
