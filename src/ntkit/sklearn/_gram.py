"""A kernel as the callable that scikit-learn's support vector machines take."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from sklearn.gaussian_process.kernels import Kernel

from ntkit._check import check_inputs, check_same_features
from ntkit.errors import InputError
from ntkit.predict._evaluate import check_kernel, evaluate
from ntkit.sklearn._build import on_images, parse_shape


@dataclasses.dataclass(frozen=True)
class GramFunction:
    """`f(X, Y) -> (n, m)`, the matrix of a kernel as a NumPy array in float64: what `gram_function` returns."""

    kernel: Any
    memory: str | int | None = None

    def __call__(self, X: Any, Y: Any = None) -> Float[np.ndarray, "n m"]:
        x1 = np.asarray(check_inputs("X", X, integers="convert"), dtype=np.float64)
        # scikit-learn passes the training examples twice; the diagonal is then computed as a diagonal.
        x2 = None if Y is None or Y is X else np.asarray(check_inputs("Y", Y, integers="convert"), dtype=np.float64)
        if x2 is not None:
            check_same_features("X", x1, "Y", x2)
        with jax.enable_x64(True):
            return np.array(evaluate(self.kernel, x1, x2, memory=self.memory))


def gram_function(
    kernel: Any, *, memory: str | int | None = None, image_shape: tuple[int, ...] | None = None
) -> GramFunction:
    """A callable for `SVC(kernel=...)`, `SVR`, `KernelPCA(kernel=...)` and the like, in float64; it can be pickled.

    SVC(kernel=gram_function(ntkit.NTK(net)), C=10).fit(X, y)

    `image_shape`: (height, width, channels) of the image that a row is, for a kernel of images.
    """
    if isinstance(kernel, Kernel):
        raise InputError(
            "`gram_function` takes a kernel such as `ntkit.NTK(net)`, but got a kernel of scikit-learn's Gaussian "
            f"processes, {type(kernel).__name__}, which is such a callable already: `SVC(kernel={kernel})`."
        )
    check_kernel(kernel)
    shape = None if image_shape is None else parse_shape(image_shape)
    return GramFunction(on_images(kernel, shape, by_name=False), memory)
