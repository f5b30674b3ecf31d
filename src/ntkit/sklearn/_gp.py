"""The kernel of an infinitely wide network for scikit-learn's Gaussian processes, with its gradient."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

from ntkit._check import check_inputs, check_same_features
from ntkit.errors import InputError
from ntkit.kernels import OfNetwork
from ntkit.nn import Dense
from ntkit.predict._evaluate import evaluate, evaluate_diagonal
from ntkit.sklearn._build import kernel_of, real


class NTKKernel(Kernel):
    """A kernel object for `GaussianProcessRegressor(kernel=...)` and `GaussianProcessClassifier`; adds and multiplies.

        GaussianProcessRegressor(NTKKernel(depth=3, activation="erf") + WhiteKernel())

    `w_std` and `b_std` are hyperparameters: the process tunes their logarithms within `w_std_bounds` and
    `b_std_bounds`, by gradients from automatic differentiation; `"fixed"` holds one as it is (and is the way to
    `b_std=0`). `depth`, `activation`, `fixed_layers` and `kernel` (`"ntk"` or `"nngp"`) are as in `NTKRegressor`. A
    kernel object, such as `ntkit.EmpiricalNTK(fn, params)`, makes all the others idle and has no hyperparameters.
    float64, whatever JAX is set to.
    """

    def __init__(
        self,
        depth: int = 2,
        activation: Any = "relu",
        *,
        w_std: float = 2**0.5,
        b_std: float = 0.1,
        w_std_bounds: Any = (1e-2, 1e2),
        b_std_bounds: Any = (1e-3, 1e2),
        fixed_layers: int = 0,
        kernel: Any = "ntk",
    ):
        self.depth = depth
        self.activation = activation
        self.w_std = w_std
        self.b_std = b_std
        self.w_std_bounds = w_std_bounds
        self.b_std_bounds = b_std_bounds
        self.fixed_layers = fixed_layers
        self.kernel = kernel

    @property
    def hyperparameter_w_std(self) -> Hyperparameter:
        return Hyperparameter("w_std", "numeric", self.w_std_bounds if isinstance(self.kernel, str) else "fixed")

    @property
    def hyperparameter_b_std(self) -> Hyperparameter:
        return Hyperparameter("b_std", "numeric", self.b_std_bounds if isinstance(self.kernel, str) else "fixed")

    def _values(self) -> dict[str, float]:
        """Both hyperparameters, checked: one that moves on a logarithmic scale must be positive."""
        found = {}
        for name in ("b_std", "w_std"):
            fixed = getattr(self, f"hyperparameter_{name}").fixed
            if not fixed and getattr(self, name) == 0:
                raise InputError(
                    f'`{name}=0` cannot be tuned on a logarithmic scale. Hold it: `{name}_bounds="fixed"`.'
                )
            found[name] = real(name, getattr(self, name), positive=not fixed)
        return found

    def _ntkit(self, values: dict[str, float]) -> Any:
        rest = {"depth": self.depth, "activation": self.activation, "fixed_layers": self.fixed_layers}
        return kernel_of(self.kernel, **rest, **values)

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """k(X, Y) (n, m), and with `eval_gradient` its derivatives (n, n, p) by `theta`, the logarithms."""
        values = self._values()
        X = _inputs("X", X)
        if Y is not None:
            Y = _inputs("Y", Y)
            check_same_features("X", X, "Y", Y)
            if eval_gradient:
                raise InputError("The gradient is there only for `Y=None`.")
        with jax.enable_x64(True):
            free = tuple(name for name in values if not getattr(self, f"hyperparameter_{name}").fixed)
            if not eval_gradient or not free:
                matrix = np.array(evaluate(self._ntkit(values), X, Y))
                return (matrix, np.empty((len(X), len(X), 0))) if eval_gradient else matrix
            # The template's own values are part of the compilation's key, so they are always the same ones.
            template = self._ntkit({"w_std": 1.0, "b_std": 1.0})
            numbers = {name: jnp.asarray(value) for name, value in values.items()}
            matrix, slopes = _matrix_and_slopes(template, numbers, free, jnp.asarray(X))
            return np.array(matrix), np.stack([*slopes], axis=-1)

    def diag(self, X: Any) -> Float[np.ndarray, " n"]:
        """The diagonal of k(X), (n,)."""
        with jax.enable_x64(True):
            return np.array(evaluate_diagonal(self._ntkit(self._values()), _inputs("X", X)))

    def is_stationary(self) -> bool:
        """False: the kernel sees lengths and angles, not differences."""
        return False

    def __repr__(self) -> str:
        if not isinstance(self.kernel, str):
            return f"NTKKernel(kernel={type(self.kernel).__name__})"
        shape = f"depth={self.depth}, activation={self.activation!r}"
        return f"NTKKernel({shape}, w_std={self.w_std:.3g}, b_std={self.b_std:.3g})"


def _inputs(name: str, x: Any) -> Float[np.ndarray, "n d"]:
    return np.asarray(check_inputs(name, x, integers="convert"), dtype=np.float64)


@eqx.filter_jit
def _matrix_and_slopes(
    template: OfNetwork, values: dict[str, Array], free: tuple[str, ...], x: Float[Array, "n d"]
) -> tuple[Float[Array, "n n"], list[Float[Array, "n n"]]]:
    """The matrix, and its derivative by the logarithm of each free hyperparameter: forwards, one pass each."""

    def matrix(values):
        def leaves(kernel):
            dense = [layer for layer in kernel.net.layers if isinstance(layer, Dense)]
            return [layer.w_std for layer in dense] + [layer.b_std for layer in dense]

        half = len(leaves(template)) // 2
        return eqx.tree_at(leaves, template, [values["w_std"]] * half + [values["b_std"]] * half)(x)

    def slope(name):
        # d / d log v = v d / d v
        direction = {key: value if key == name else jnp.zeros_like(value) for key, value in values.items()}
        return jax.jvp(matrix, (values,), (direction,))[1]

    return matrix(values), [slope(name) for name in free]
