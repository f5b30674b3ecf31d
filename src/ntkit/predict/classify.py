"""Classification by regression on one-hot labels, with probabilities that mean something."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float, Int

from ntkit.errors import InputError


class OneHot(NamedTuple):
    """`y` (n, c): 1 - 1/c in the column of the example's class, -1/c elsewhere; `classes` (c,), sorted."""

    y: Float[np.ndarray, "n c"]
    classes: np.ndarray


def one_hot(labels: Any, *, classes: Any = None) -> OneHot:
    """Class labels as regression targets with mean zero in each row (Lee et al. 2018, section 3.1).

    `classes`: all classes, if some may be missing from `labels`. **Raises:** `InputError` for fewer than two classes.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0:
        raise InputError(f"`labels` must be one label per example, (n,), but has shape {labels.shape}.")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise InputError("`labels` must be finite, but holds NaN or infinity.")
    known = np.unique(labels if classes is None else np.asarray(classes))
    if known.size < 2:
        raise InputError(f"Classification needs two classes or more, but `labels` holds only {known.tolist()!r}.")
    index = np.searchsorted(known, labels).clip(max=known.size - 1)
    if not np.all(known[index] == labels):
        raise InputError(f"`labels` holds {labels[known[index] != labels][0]!r}, which is not among `classes`.")
    return OneHot(np.eye(known.size)[index] - 1.0 / known.size, known)


def class_probabilities(
    mean: Float[np.ndarray, "m c"], variance: Float[np.ndarray, "m *c"], *, temperature: float = 1.0, log: bool = False
) -> Float[np.ndarray, "m c"]:
    """P(output c is the largest), for independent outputs f_c ~ N(mean_c, temperature variance_c), in NumPy float64.

        P(c) = integral of phi(z) prod_{j != c} Phi((mean_c - mean_j + s_c z) / s_j) dz

    One-dimensional quadrature, no Monte Carlo. `variance` (m,), shared by the outputs as in a Gaussian process:
    Gauss-Hermite with 128 nodes, the integrand being entire. (m, c), one for each: Gauss-Legendre on panels that
    resolve the steepest output. Rows sum to one up to the quadrature's error, below 1e-9; they are not rescaled.
    `log=True` gives logarithms, finite also where the probability underflows. A variance of zero is one point of mass:
    give it a positive one (`InputError`).
    """
    mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    if mean.ndim != 2 or mean.shape[1] < 2:
        raise InputError(f"`mean` must have one column for each of two or more classes, but has shape {mean.shape}.")
    if variance.shape not in (mean.shape[:1], mean.shape):
        raise InputError(f"`variance` must have shape {mean.shape[:1]} or {mean.shape}, but has {variance.shape}.")
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"`temperature` must be a positive number, but got {temperature!r}.")
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance > 0).all()):
        raise InputError(
            "`mean` must be finite and `variance` positive. Add the noise: `post(x_test, observation=True)`."
        )
    with jax.enable_x64(True):
        std = jnp.sqrt(jnp.asarray(variance) * temperature)
        rule = _shared if variance.ndim == 1 else _separate
        result = np.concatenate(
            [np.asarray(rule(jnp.asarray(mean[i : i + 512]), std[i : i + 512])) for i in range(0, len(mean), 512)]
        )
    return result if log else np.exp(result)


@jax.jit
def _shared(mean: Float[Array, "m c"], std: Float[Array, " m"]) -> Float[Array, "m c"]:
    node, weight = (jnp.asarray(a) for a in np.polynomial.hermite_e.hermegauss(128))
    log_weight = jnp.log(weight) - 0.5 * math.log(2 * math.pi)

    def one(mean, std):
        gap = (mean[:, None] - mean[None, :]) / std
        logs = jax.scipy.special.log_ndtr(gap[:, :, None] + node[None, None, :])
        mine = jnp.eye(mean.shape[0], dtype=bool)[:, :, None]
        return jax.scipy.special.logsumexp(jnp.sum(jnp.where(mine, 0.0, logs), axis=1) + log_weight[None, :], axis=1)

    return jax.lax.map(lambda pair: one(*pair), (mean, std), batch_size=32)


@jax.jit
def _separate(mean: Float[Array, "m c"], std: Float[Array, "m c"]) -> Float[Array, "m c"]:
    node, weight = (jnp.asarray(a) for a in np.polynomial.legendre.leggauss(16))
    # Panel ends in standard deviations of each output; between two of them every factor is smooth on the panel's scale.
    ends = jnp.asarray([-38.0, -16.0, -8.0, -5.5, -4.0, -2.5, -1.25, 0.0, 1.25, 2.5, 4.0, 5.5, 8.0, 16.0, 38.0])

    def one(mean, std):
        edge = jnp.sort((mean[:, None] + std[:, None] * ends[None, :]).ravel())
        half = (edge[1:] - edge[:-1]) / 2
        point = ((edge[1:] + edge[:-1]) / 2)[:, None] + half[:, None] * node[None, :]
        log_weight = jnp.log(jnp.maximum(half, jnp.finfo(half.dtype).tiny))[:, None] + jnp.log(weight)[None, :]
        z = (point.ravel()[None, :] - mean[:, None]) / std[:, None]
        below = jax.scipy.special.log_ndtr(z)
        density = -0.5 * z**2 - jnp.log(std)[:, None] - 0.5 * math.log(2 * math.pi)
        others = jnp.sum(below, axis=0)[None, :] - below
        return jax.scipy.special.logsumexp(density + others + log_weight.ravel()[None, :], axis=1)

    return jax.lax.map(lambda pair: one(*pair), (mean, std), batch_size=8)


class Calibration(NamedTuple):
    """`temperature`, the factor on the variance with the lowest negative log likelihood, that value per example, and
    the value at temperature 1."""

    temperature: float
    negative_log_likelihood: float
    uncalibrated: float


def fit_temperature(
    mean: Float[np.ndarray, "n c"], variance: Float[np.ndarray, "n *c"], index: Int[np.ndarray, " n"]
) -> Calibration:
    """The temperature in [1e-4, 1e4] that makes `class_probabilities` of held-out predictions most likely.

    `mean`, `variance`: predictions that have not seen their own labels: `post.leave_one_out()` gives them without a
    hold-out. `index`: the column of each example's class. Brent's method on the logarithm.
    """
    index = np.asarray(index)
    if index.shape != np.shape(mean)[:1] or index.dtype.kind not in "iu":
        raise InputError(
            f"`index` must be one column number per row of `mean`, but has shape {index.shape}, {index.dtype}."
        )

    def loss(log_temperature):
        logs = class_probabilities(mean, variance, temperature=math.exp(log_temperature), log=True)
        return -float(np.mean(logs[np.arange(len(index)), index]))

    found = scipy.optimize.minimize_scalar(loss, bounds=(math.log(1e-4), math.log(1e4)), method="bounded")
    return Calibration(math.exp(found.x), float(found.fun), loss(0.0))


class Classifier:
    """Regression on one-hot labels, a temperature fitted on leave-one-out predictions: what `classify` returns."""

    def __init__(self, posterior, classes, calibration):
        self.posterior, self.classes, self.calibration = posterior, classes, calibration

    def probabilities(self, x_test: Any) -> Float[np.ndarray, "m c"]:
        """P(class | x), columns in the order of `classes`."""
        mean, variance = self.posterior(x_test, observation=True)
        return class_probabilities(mean, variance, temperature=self.calibration.temperature)

    def __call__(self, x_test: Any) -> np.ndarray:
        """The class with the largest mean output, which is also the most probable one."""
        return self.classes[self.posterior(x_test, covariance=None).mean.argmax(axis=1)]


def classify(
    kernel: Any, x: Any, labels: Any, *, noise: float = 1e-2, matrix: Any = None, calibrate: bool = True
) -> Classifier:
    """A classifier from a Gaussian process regression on one-hot labels, calibrated without a hold-out.

        model = ntkit.predict.classify(ntkit.NTK(net), x, labels, noise=1e-2)
        model(x_test), model.probabilities(x_test), model.calibration

    Arguments and errors as in `ntkit.posterior`; `calibrate=False` keeps the temperature at 1.
    """
    from ntkit.predict.posterior import posterior

    target = one_hot(labels)
    post = posterior(kernel, x, target.y, noise=noise, matrix=matrix)
    if not calibrate:
        return Classifier(post, target.classes, Calibration(1.0, math.nan, math.nan))
    left_out = post.leave_one_out()
    return Classifier(post, target.classes, fit_temperature(left_out.mean, left_out.variance, target.y.argmax(axis=1)))
