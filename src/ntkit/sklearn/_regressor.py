"""Regression with the kernel of an infinitely wide network, as a scikit-learn estimator."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ntkit.errors import InputError
from ntkit.predict import posterior
from ntkit.predict._data import parse_dtype
from ntkit.sklearn._build import kernel_of, move_to_host, noise, on_images, rows_of


class NTKRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Kernel ridge regression, and the Gaussian process behind it, with the kernel of an infinitely wide network.

        NTKRegressor(depth=3, activation="gelu", alpha=1e-2).fit(X, y).predict(X_test, return_std=True)

    The mean is f(x) = k(x, X) (k(X, X) + alpha I)^-1 y; with `kernel="ntk"` it is what the infinitely wide network
    predicts after training with the penalty alpha |theta - theta_0|^2, with `kernel="nngp"` the mean of the Bayesian
    network. One Cholesky factorisation per fit; n^2 numbers of memory. Scale the features first, as for a network:
    `StandardScaler`.

    **Parameters:**

    - `depth`: hidden layers, 0 or more (0: linear). `fixed_layers`: how many of the first are frozen, at most `depth`.
    - `activation`: a name (see `ntkit.nn.activations.activation`), an activation such as `nn.Relu()`, or a function.
    - `w_std`, `b_std`: standard deviations of weights and biases, in the NTK parameterization.
    - `alpha`: ridge, the variance of the noise, in the square of the unit of `y`; > 0, one number or one for each
      example.
    - `kernel`: `"ntk"`, `"nngp"`, or a kernel object such as `ntkit.NTK(net)`, which makes the five above (all but
      `alpha`) idle.
    - `normalize_y`: fit to (y - mean) / std, as `GaussianProcessRegressor` has it; `alpha` is then in units of var(y).
    - `dtype`: `"float64"` or `"float32"`, whatever JAX is set to.
    - `memory`: budget of a kernel matrix's tiles beyond the matrix itself, such as `"1GiB"`; None lets ntkit choose.
    - `image_shape`: (height, width, channels) of the image that a row of X is, for a `kernel` object of images, such as
      `ntkit.NTK(nn.presets.cntk(3))`. Not needed where X has that shape itself, (n, height, width, channels).

    **Fitted:** `kernel_`, the kernel; `posterior_`, see `ntkit.posterior` (its leave-one-out, its statistics);
    `log_marginal_likelihood_value_`; `image_shape_`, None for rows; `n_features_in_`, `feature_names_in_`.

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
        normalize_y: Any = False,
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
        self.normalize_y = normalize_y
        self.dtype = dtype
        self.memory = memory
        self.image_shape = image_shape

    def fit(self, X: Any, y: Any) -> "NTKRegressor":
        """Fit to X (n, features), or images, and y (n,) or (n, outputs)."""
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
        X, y = validate_data(self, X, y, dtype=dtype, multi_output=True, y_numeric=True)
        y = np.asarray(y, dtype=dtype)
        self._offset, self._scale = np.zeros(y.shape[1:], dtype), np.ones(y.shape[1:], dtype)
        if self.normalize_y:
            std = y.std(axis=0)
            self._offset, self._scale = y.mean(axis=0), np.where(std > 0, std, np.ones_like(std))
        scaled = (y - self._offset) / self._scale
        post = posterior(kernel, X, scaled, noise=alpha, dtype=dtype, memory=self.memory)
        # The density of y itself: that of the scaled labels, each shrunk by its scale.
        shrunk = len(X) * float(np.sum(np.log(self._scale)))
        self.log_marginal_likelihood_value_ = post.log_marginal_likelihood - shrunk
        move_to_host(post._solver)
        self.kernel_, self.posterior_ = kernel, move_to_host(post)
        return self

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """The mean at X (m, features), (m,) or (m, outputs).

        With `return_std` also the standard deviation of f, of the same shape; with `return_cov` its covariance (m, m),
        or (m, m, outputs). Both leave the noise `alpha` out, as `GaussianProcessRegressor` does.
        """
        if return_std and return_cov:
            raise InputError("At most one of `return_std` and `return_cov` may be asked for.")
        check_is_fitted(self)
        X, _ = rows_of(X, self.image_shape_, self.kernel)
        X = validate_data(self, X, dtype=self.posterior_.dtype, reset=False)
        wanted = "diagonal" if return_std else "full" if return_cov else None
        mean, spread = self.posterior_(X, covariance=wanted)
        mean = self._offset + self._scale * mean
        if spread is None:
            return mean
        spread = np.multiply.outer(spread, self._scale**2)
        return mean, np.sqrt(spread) if return_std else spread
