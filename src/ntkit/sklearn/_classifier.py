"""Classification with the kernel of an infinitely wide network, as a scikit-learn estimator."""

from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ntkit.errors import InputError
from ntkit.predict import one_hot, posterior
from ntkit.predict._data import parse_dtype
from ntkit.sklearn._build import kernel_of, move_to_host, noise, on_images, rows_of


class NTKClassifier(ClassifierMixin, BaseEstimator):
    """Regression on one-hot labels with the kernel of an infinitely wide network, and calibrated probabilities.

        NTKClassifier(depth=3, activation="erf").fit(X, y).predict_proba(X_test)

    The scores f_c(x) are the mean of `NTKRegressor` on labels 1 - 1/c and -1/c; the largest wins. Probabilities are
    softmax(f / T), where the temperature T minimises the negative log likelihood of the leave-one-out scores (closed
    form, from the one Cholesky factorisation), so no data is held out. Guo et al. 2017, "On calibration of modern
    neural networks", section 4; labels smoothed as in Platt 1999.

    **Parameters:** those of `NTKRegressor`.

    **Fitted:** `classes_` (sorted), `kernel_`, `posterior_`, `temperature_`, `image_shape_`, `n_features_in_`,
    `feature_names_in_`.

    **Raises:** in `fit`, `ntkit.InputError`, a ValueError, for a wrong parameter; `ntkit.ComputationError` where the
    kernel matrix cannot be factorised.
    """

    def __init__(
        self,
        depth: Any = 2,
        activation: Any = "relu",
        *,
        w_std: Any = 2**0.5,
        b_std: Any = 0.1,
        alpha: Any = 1e-3,
        fixed_layers: Any = 0,
        kernel: Any = "ntk",
        dtype: Any = "float64",
        memory: Any = None,
        image_shape: Any = None,
    ):
        self.depth = depth
        self.activation = activation
        self.w_std = w_std
        self.b_std = b_std
        self.alpha = alpha
        self.fixed_layers = fixed_layers
        self.kernel = kernel
        self.dtype = dtype
        self.memory = memory
        self.image_shape = image_shape

    def fit(self, X: Any, y: Any) -> "NTKClassifier":
        """Fit to X (n, features), or images, and class labels y (n,), numbers or text."""
        dtype, alpha = parse_dtype(self.dtype), noise("alpha", self.alpha)
        kernel = kernel_of(
            self.kernel,
            depth=self.depth,
            activation=self.activation,
            w_std=self.w_std,
            b_std=self.b_std,
            fixed_layers=self.fixed_layers,
        )
        X, self.image_shape_ = rows_of(X, self.image_shape, kernel)
        kernel = on_images(kernel, self.image_shape_, isinstance(self.kernel, str))
        X, y = validate_data(self, X, y, dtype=dtype)
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(
                f"Classification needs samples of two classes or more, but all labels are one class: {y[0]}."
            )
        post = posterior(kernel, X, one_hot(index).y, noise=alpha, dtype=dtype, memory=self.memory)
        self.temperature_ = fit_temperature(post.leave_one_out().mean, index)
        move_to_host(post._solver)
        self.kernel_, self.posterior_ = kernel, move_to_host(post)
        return self

    def _scores(self, X: Any) -> Float[np.ndarray, "m c"]:
        check_is_fitted(self)
        X, _ = rows_of(X, self.image_shape_, self.kernel)
        X = validate_data(self, X, dtype=self.posterior_.dtype, reset=False)
        return self.posterior_(X, covariance=None).mean

    def decision_function(self, X: Any) -> Float[np.ndarray, "m *c"]:
        """The scores, (m, classes), in the order of `classes_`; of two classes the second's less the first's, (m,)."""
        scores = self._scores(X)
        return scores if len(self.classes_) > 2 else scores[:, 1] - scores[:, 0]

    def predict(self, X: Any) -> np.ndarray:
        """The class with the largest score, (m,)."""
        scores = self._scores(X)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Any) -> Float[np.ndarray, "m c"]:
        """P(class | x), (m, classes), in the order of `classes_`."""
        scores = self._scores(X)
        return scipy.special.softmax(scores / self.temperature_, axis=1)

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "m c"]:
        """The logarithm of `predict_proba`, finite also where that underflows."""
        scores = self._scores(X)
        return scipy.special.log_softmax(scores / self.temperature_, axis=1)


def fit_temperature(scores: Float[np.ndarray, "n c"], index: Int[np.ndarray, " n"]) -> float:
    """The T for which softmax(scores / T) makes the classes most likely; the scores must not have seen the labels.

    The labels are smoothed by one part in n + 2, so that T stays positive where every example is on the right side.
    """
    n, c = scores.shape
    smooth = 1 / (n + 2)
    target = (1 - smooth) * np.eye(c)[index] + smooth / c

    def loss(log_temperature: float) -> float:
        return -float(np.sum(target * scipy.special.log_softmax(scores / np.exp(log_temperature), axis=1)))

    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-9.0, 9.0), method="bounded").x))
