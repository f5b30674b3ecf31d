"""The infinite ensemble of infinitely wide networks trained by gradient flow: mean and covariance at any time.

J. Lee, L. Xiao et al., "Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent", NeurIPS
2019, eq. 14 - 16 (Gaussian process behaviour during training), with the learning-rate convention of Jacot et al. 2018.
"""

import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from ntkit.errors import InputError
from ntkit.kernels import settled
from ntkit.linalg import spectrum
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
from ntkit.predict._evaluate import evaluate, evaluate_diagonal
from ntkit.predict._times import SingularKernelWarning, gain, parse_times, time_scales
from ntkit.predict.classify import Calibration, class_probabilities, fit_temperature
from ntkit.predict.posterior import CROSS, draw, nonnegative, parse_matrix


class EnsemblePrediction(NamedTuple):
    """`mean` (*t, m) or (*t, m, o) and the `covariance` that the outputs share: (*t, m, m), or variances (*t, m)."""

    mean: Float[np.ndarray, "..."]
    covariance: Float[np.ndarray, "..."] | None


class Ensemble:
    """Networks f ~ GP(0, NNGP) at t = 0, trained on (x, y) by gradient flow: what `ntkit.ensemble` returns."""

    def __init__(self, both, x, y, flat, rate, noise, spec, rotated_prior, dtype, memory):
        self._both, self.x, self._y, self._flat, self._rate, self._noise = both, x, y, flat, rate, noise
        self._spectrum, self._prior, self.dtype, self._memory = spec, rotated_prior, dtype, memory
        self.statistics = time_scales(spec, rate, noise)

    def __repr__(self) -> str:
        return f"Ensemble(n={self.x.shape[0]}, outputs={self._y.shape[1]}, dtype={self.dtype}; {self.statistics})"

    def __call__(self, x_test: Any, t: Any = None, *, covariance: str | None = "full") -> EnsemblePrediction:
        """Mean and covariance over networks of the outputs at `x_test`, after training for time `t`, in NumPy.

        With A_t = (Theta + noise I)^-1 (I - exp(-learning_rate t (Theta + noise I) / n)) and B = Theta(x_test, x) A_t,

            mean = B y,     cov = K(x_test, x_test) - B K(x, x_test) - K(x_test, x) B^T + B K(x, x) B^T

        where K is the NNGP and Theta the NTK (n^3 was paid once; a time costs m n^2, m n^2 more for the covariance).

        - `x_test`: (m, ...); None for the training examples.
        - `t`: a time >= 0, infinity, or an array of such, whose axis then stands first in the results; None is
          infinity.
        - `covariance`: `"full"` (m, m), `"diagonal"` (m,) or None.

        At infinity without noise, directions whose eigenvalue is zero within rounding are not learned (a
        `SingularKernelWarning` says how many). A variance negative beyond rounding is a `ComputationError`.
        """
        if covariance not in ("diagonal", "full", None):
            raise InputError(f'`covariance` must be "full", "diagonal" or None, but got {covariance!r}.')
        times = parse_times(t)
        x_test = None if x_test is None else parse_test(x_test, self._both, self.x, self.dtype)
        self._warn_if_singular(times)
        m = self.x.shape[0] if x_test is None else x_test.shape[0]
        rows = m if covariance == "full" else max(1, CROSS // (self.dtype.itemsize * self.x.shape[0]))
        with precision(self.dtype):
            parts = [slice(start, start + rows) for start in range(0, m, rows)]
            blocks = [self._block(x_test, part, np.atleast_1d(times), covariance) for part in parts]
        mean = np.concatenate([m for m, _ in blocks], axis=1)
        cov = np.concatenate([c for _, c in blocks if c is not None], axis=1) if covariance else None
        if np.ndim(times) == 0:
            mean, cov = mean[0], None if cov is None else cov[0]
        return EnsemblePrediction(mean, cov)

    def sample(self, key: Array, x_test: Any, t: Any = None, size: int = 1) -> Float[np.ndarray, "..."]:
        """`size` trained networks' outputs at `x_test` and one time `t`: (size, m) or (size, m, o)."""
        if np.ndim(parse_times(t)):
            raise InputError("`t` must be one time for samples, but got an array. Call `sample` once for each.")
        mean, cov = self(x_test, t)
        return draw(key, mean, cov, size, self.dtype)

    def percentiles(self, q: Any, x_test: Any, t: Any = None) -> Float[np.ndarray, "..."]:
        """The `q`-th percentiles of the trained networks' outputs at each of `x_test`: mean + sqrt(variance)
        Phi^-1(q / 100).

        `q`: one number between 0 and 100, or several (such as 10, 50, 90), whose axis (k,) then stands in front of
        (*t, m) or (*t, m, o). Each is of one output at one point; joint statements need `sample`.
        """
        parts = np.asarray(q)
        if parts.dtype.kind not in "iuf" or parts.ndim > 1 or not ((parts > 0) & (parts < 100)).all():
            raise InputError(f"`q` must be percentages between 0 and 100, both excluded, but got {q!r}.")
        mean, variance = self(x_test, t, covariance="diagonal")
        assert variance is not None
        spread = np.sqrt(variance) if self._flat else np.sqrt(variance)[..., None]
        away = scipy.special.ndtri(np.asarray(parts, np.float64) / 100)
        return np.asarray(mean + away.reshape(parts.shape + (1,) * mean.ndim) * spread, mean.dtype)

    def probabilities(self, x_test: Any, t: Any = None, *, temperature: float = 1.0) -> Float[np.ndarray, "..."]:
        """The share of networks whose output c is the largest, (*t, m, c): of networks trained on `one_hot` labels the
        probability of class c.

        Exact up to quadrature, as outputs are independent given the weights' law (`class_probabilities`).
        `temperature` multiplies the variance; `calibrate` finds one. Where all networks agree, it is 0 or 1.
        """
        if self._y.shape[1] < 2:
            raise InputError(
                "`probabilities` need an output for each of two or more classes, but the ensemble was trained on one. "
                "Train on `ntkit.predict.one_hot(labels).y`."
            )
        mean, variance = self(x_test, t, covariance="diagonal")
        assert variance is not None
        shape = mean.shape
        return _largest(mean.reshape(-1, shape[-1]), variance.reshape(-1), temperature).reshape(shape)

    def calibrate(self, x_val: Any, index: Any, t: Any = None) -> Calibration:
        """The temperature with which `probabilities` make the classes of held-out examples most likely.

        `index` (n,): the column of each example's class. One time `t`; `x_val` must not be training examples, which
        networks have learned.
        """
        if np.ndim(parse_times(t)):
            raise InputError(
                "`t` must be one time for a calibration, but got an array. Call `calibrate` once for each."
            )
        mean, variance = self(x_val, t, covariance="diagonal")
        return fit_temperature(mean, np.asarray(variance), index)

    def _block(self, x_test, part, times, covariance) -> tuple[np.ndarray, np.ndarray | None]:
        """Means (t, m, *o) and covariances (t, m, *m) at all times: the kernels are evaluated once."""
        rotated, prior = self._training(part, covariance) if x_test is None else self._test(x_test[part], covariance)
        state = *rotated, _rotate(jnp.asarray(self._y.T), self._spectrum.vectors), self._prior
        rate = self._rate / self.x.shape[0]
        means, covs = [], []
        for time in times:
            factors = gain(self._spectrum.values, self._spectrum.rounding, self._noise, rate, time)
            mean, change = _at(factors, *state, covariance)
            means.append(restore(mean, self._flat))
            if prior is not None:
                covs.append(_posterior_covariance(prior, np.asarray(change)))
        return np.stack(means), None if prior is None else np.stack(covs)

    def _test(self, x_test, covariance):
        """((Theta(x_test, x) V, K(x_test, x) V), the prior covariance): V the eigenvectors of the training NTK."""
        nngp, ntk = evaluate(self._both, x_test, self.x, memory=self._memory, progress=False)
        prior = None
        if covariance == "full":
            prior = np.asarray(evaluate(self._both, x_test, memory=self._memory)[0])
        elif covariance == "diagonal":
            prior = np.asarray(evaluate_diagonal(self._both, x_test)[0])
        return (_rotate(ntk, self._spectrum.vectors), _rotate(nngp, self._spectrum.vectors)), prior

    def _training(self, part, covariance):
        """The same for training examples, from what is held: Theta V = V diag(values), K V = V (V^T K V)."""
        vectors = self._spectrum.vectors[part]
        nngp = _rotate(vectors, self._prior)
        state = vectors * self._spectrum.values[None], nngp
        if covariance is None:
            return state, None
        prior = np.asarray(_rotate(nngp, vectors.T))
        return state, np.diagonal(prior).copy() if covariance == "diagonal" else prior

    def _warn_if_singular(self, times) -> None:
        if self.statistics.null and not self._noise and np.any(np.isinf(times)):
            warnings.warn(
                f"{self.statistics.null} of the {self.x.shape[0]} eigenvalues of the training NTK are zero within "
                f"rounding ({self._spectrum.rounding:.1e}): labels in those directions are not learned at t = "
                "infinity. Duplicate examples do that; pass `noise`, or a finite `t`.",
                SingularKernelWarning,
                stacklevel=3,
            )


def _largest(
    mean: Float[np.ndarray, "m c"], variance: Float[np.ndarray, " m"], temperature: float
) -> Float[np.ndarray, "m c"]:
    """P(output c is the largest); where nothing varies, 1 for the largest mean."""
    varies = variance > 0
    found = (np.arange(mean.shape[1]) == mean.argmax(axis=1)[:, None]).astype(np.float64)
    if varies.any():
        found[varies] = class_probabilities(mean[varies], variance[varies], temperature=temperature)
    return found


@jax.jit
def _rotate(rows, vectors):
    return rows @ vectors


@jax.jit
def _rotate_twice(matrix, vectors):
    return (matrix @ vectors).T @ vectors


@partial(jax.jit, static_argnums=5)
def _at(gain, ntk, nngp, y, prior, covariance):
    """Mean, and the change of the covariance from the prior's, all in the eigenbasis of the training NTK."""
    b = ntk * gain[None]
    mean = b @ y.T
    if covariance is None:
        return mean, None
    # B K B^T - B K_x* - K_*x B^T = (B K - K_*x) B^T - B K_x*: two products, not three.
    left = b @ prior - nngp
    return mean, left @ b.T - b @ nngp.T if covariance == "full" else jnp.sum(left * b - b * nngp, axis=1)


def _posterior_covariance(prior: np.ndarray, change: np.ndarray) -> np.ndarray:
    """prior + change, symmetric, with a diagonal that is not negative."""
    cov = prior + change
    if cov.ndim == 1:
        return nonnegative(cov, prior)
    cov = (cov + cov.T) / 2
    np.fill_diagonal(cov, nonnegative(np.diagonal(cov), np.diagonal(prior)))
    return cov


def ensemble(
    net: Any,
    x: Any,
    y: Any,
    *,
    learning_rate: float = 1.0,
    noise: float = 0.0,
    matrices: Any = None,
    dtype: Any = np.float64,
    memory: str | int | None = None,
    progress: bool = True,
) -> Ensemble:
    """All networks of one architecture, infinitely wide, each trained on (x, y) from its own initialisation.

        ens = ntkit.ensemble(net, x, y, learning_rate=1.0)
        mean, cov = ens(x_test, t=10.0)

    Training is gradient flow, d theta / dt = -learning_rate grad C, on

        C = |f(x) - y|^2 / (2 n) + noise |theta - theta_0|^2 / (2 n)

    so that, without noise, df/dt = -(learning_rate / n) Theta (f - y) on the training set: half the square, summed over
    outputs, averaged over the n examples (Jacot et al. 2018, section 5). One step of gradient descent on C with a small
    step size s is time s. neural-tangents also averages over the o outputs: its time t is t / o here.

    **Arguments:**

    - `net`: a network of `ntkit.nn`; or its pair of kernels, a callable `(x1, x2=None) -> (nngp, ntk)` with
      `.diagonal(x)`.
    - `x`, `y`: examples (n, ...); labels (n,) or (n, outputs).
    - `learning_rate`: positive; only its product with t matters.
    - `noise`: zero or more, in units of the NTK: the pull back to the initial parameters.
    - `matrices`: (nngp(x), ntk(x)) if they are at hand (from `ntkit.gram(ntkit.Both(net), x)`).
    - `dtype`, `memory`, `progress`: as in `ntkit.posterior`.

    **Raises:** `InputError`; `ComputationError` for an NTK not finite or not positive semi-definite.
    """
    dtype = parse_dtype(dtype)
    both, x = without_masks(_pair(net), x)
    x = parse_x("x", x, dtype)
    both = settled(both, x)
    y, flat = parse_y(y, x.shape[0], dtype)
    rate = parse_number(learning_rate, "learning_rate")
    noise = parse_number(noise, "noise", zero=True)
    with precision(dtype):
        _check_pair(both, x)
        nngp, ntk = _training(both, x, matrices, dtype, memory, progress)
        spec = spectrum(ntk, what="NTK")
        rotated = _rotate_twice(nngp, spec.vectors)
    return Ensemble(both, x, y, flat, rate, noise, spec, rotated, dtype, memory)


def _check_pair(both: Any, x: Any) -> None:
    """Refuses one kernel where two are needed, before either is computed."""
    values = jax.eval_shape(both, jnp.asarray(x[:1]))
    if not isinstance(values, tuple) or len(values) != 2:
        raise InputError(
            "`net` must give the pair (nngp, ntk): an ensemble is drawn by the one and trained by the other; but "
            f"{type(both).__name__} is one kernel. Pass the network, or for a kernel alone use `ntkit.ridge`."
        )


def _training(both, x, matrices, dtype, memory, progress):
    """Both kernels of the training examples, computed or as given."""
    if matrices is None:
        return evaluate(both, x, memory=memory, progress=progress)
    if not isinstance(matrices, (tuple, list)) or len(matrices) != 2:
        raise InputError(f"`matrices` must be the pair (nngp(x), ntk(x)), but is {type(matrices).__name__}.")
    return tuple(parse_matrix(both, x, m, dtype, memory, progress, name="matrices") for m in matrices)


def _pair(net: Any) -> Any:
    from ntkit.kernels import Both
    from ntkit.nn import Layer

    if isinstance(net, Layer):
        return Both(net)
    if not callable(net) or not hasattr(net, "diagonal"):
        raise InputError(
            f"`net` must be a network of `ntkit.nn`, or a pair of kernels as `ntkit.kernels.Both(net)`, but got "
            f"{type(net).__name__}."
        )
    return net
