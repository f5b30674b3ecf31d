"""Classification by regression on one-hot labels, with probabilities that mean something."""

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Float

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
    mean: Float[np.ndarray, "..."], variance: Float[np.ndarray, "..."], *, temperature: float = 1.0, log: bool = False
) -> Float[np.ndarray, "m c"]:
    """P(output c is the largest), for independent outputs f_c ~ N(mean_c, temperature variance_c), in NumPy float64.

        P(c) = integral of phi((u - mean_c) / s_c) / s_c prod_{j != c} Phi((u - mean_j) / s_j) du

    One-dimensional quadrature, no Monte Carlo. `mean` is (m, c). `variance` (m,), shared by the outputs as in a
    Gaussian process: the trapezoidal rule, which converges faster than any power for such integrands; relative error
    below 1e-8 for probabilities above 1e-130. `variance` (m, c): Gauss-Legendre on panels that resolve the steepest
    output; absolute error below 1e-9. Rows sum to one up to that error and are not rescaled. `log=True` gives
    logarithms, which stay finite. A variance of zero is a point mass and an `InputError`: add the noise of the labels.
    """
    mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    if mean.ndim != 2 or mean.shape[1] < 2:
        raise InputError(f"`mean` must have one column for each of two or more classes, but has shape {mean.shape}.")
    if variance.shape not in (mean.shape[:1], mean.shape):
        raise InputError(f"`variance` must have shape {mean.shape[:1]} or {mean.shape}, but has {variance.shape}.")
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"`temperature` must be a positive number, but got {temperature!r}.")
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance > 0).all()):
        raise InputError("`mean` must be finite and `variance` positive. Add the noise: `post(x, observation=True)`.")
    std = np.sqrt(variance * temperature)
    rule = _shared if variance.ndim == 1 else _separate
    rows = max(
        1,
        _POINTS // (mean.shape[1] * (len(_grid(mean.shape[1])[0]) if variance.ndim == 1 else _PANELS * mean.shape[1])),
    )
    logs = np.concatenate([rule(mean[i : i + rows], std[i : i + rows]) for i in range(0, len(mean), rows)])
    return logs if log else np.exp(logs)


# Values of Phi that are held at once.
_POINTS = 1 << 21


def _grid(classes: int) -> tuple[np.ndarray, float]:
    """Points and step of the trapezoidal rule, in standard deviations from the largest mean."""
    # The rule errs by the Fourier transform of the integrand at 2 pi / h. The largest of c outputs is nearly Gumbel of
    # scale 1 / b, b = sqrt(2 log c), whose transform falls like exp(-pi w / (2 b)): this step makes that exp(-24).
    step = math.pi**2 / (24 * math.sqrt(2 * math.log(classes)))
    # Below -26 lies what only probabilities under 1e-130 see.
    return np.arange(-26.0, 9.0, step), step


def _shared(mean: Float[np.ndarray, "m c"], std: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m c"]:
    grid, step = _grid(mean.shape[1])
    below_best = (mean.max(axis=1, keepdims=True) - mean) / std[:, None]
    z = below_best[:, :, None] + grid
    # z >= -26, where Phi is still far from underflow: its plain logarithm is exact enough, and fast.
    logs = np.log(scipy.special.ndtr(z))
    logs = -0.5 * z**2 + (logs.sum(axis=1, keepdims=True) - logs)
    return scipy.special.logsumexp(logs, axis=2) + math.log(step / math.sqrt(2 * math.pi))


# Ends of panels in standard deviations from each output: between two of them every factor is smooth.
_ENDS = np.array([-20.0, -9.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 9.0])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_PANELS = len(_ENDS) * len(_NODES)


def _separate(mean: Float[np.ndarray, "m c"], std: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m c"]:
    ends = np.sort((mean[:, :, None] + std[:, :, None] * _ENDS).reshape(len(mean), -1))
    half = np.diff(ends)[:, :, None] / 2
    point = ends[:, :-1, None] + half * (1 + _NODES)
    weight = np.maximum(half * _WEIGHTS, np.finfo(np.float64).tiny)
    z = (point.reshape(len(mean), 1, -1) - mean[:, :, None]) / std[:, :, None]
    below = scipy.special.log_ndtr(z)
    logs = -0.5 * z**2 + (below.sum(axis=1, keepdims=True) - below) + np.log(weight.reshape(len(mean), 1, -1))
    return scipy.special.logsumexp(logs, axis=2) - np.log(std * math.sqrt(2 * math.pi))


class Calibration(NamedTuple):
    """`temperature`, the factor on the variance with the lowest negative log likelihood, that value per example, and
    the value at temperature 1."""

    temperature: float
    negative_log_likelihood: float
    uncalibrated: float


def fit_temperature(mean: Float[np.ndarray, "..."], variance: Float[np.ndarray, "..."], index: Any) -> Calibration:
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

    bounds = (math.log(1e-4), math.log(1e4))
    found = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
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
