"""Losses of one example: what is minimised, averaged over the examples."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkit.errors import InputError
from ntkit.predict._data import parse_number

Loss = Callable[[Float[Array, " o"], Float[Array, " o"]], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Squared:
    """|f - y|^2 / 2. Equivalent to `optax.l2_loss`, summed over outputs."""

    def __call__(self, f: Float[Array, " o"], y: Float[Array, " o"]) -> Float[Array, ""]:
        return 0.5 * jnp.sum((f - y) ** 2)

    def check(self, y: Float[np.ndarray, "n o"]) -> None:
        """Any labels will do."""


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """-sum_c y_c log softmax(f)_c; labels are one-hot, or probabilities of two or more classes.

    Equivalent to `optax.safe_softmax_cross_entropy`.
    """

    def __call__(self, f: Float[Array, " o"], y: Float[Array, " o"]) -> Float[Array, ""]:
        return jax.scipy.special.logsumexp(f) * jnp.sum(y) - jnp.sum(y * f)

    def check(self, y: Float[np.ndarray, "n o"]) -> None:
        right = (y >= 0).all(axis=1) & (np.abs(y.sum(axis=1) - 1) < np.sqrt(np.finfo(y.dtype).eps))
        if y.shape[1] < 2 or not right.all():
            row = (
                "" if y.shape[1] < 2 else f"; row {int(np.argmin(right))} sums to {y[int(np.argmin(right))].sum():.3g}"
            )
            raise InputError(
                "Cross-entropy needs `y` one-hot (n, classes): probabilities of two or more classes that sum to 1 in "
                f"each row, but `y` has {y.shape[1]} column{'s' if y.shape[1] > 1 else ''}{row}. Of whole-number "
                '`labels` make `np.eye(classes)[labels]`; for one output of two classes use "logistic".'
            )


@dataclasses.dataclass(frozen=True)
class Logistic:
    """log(1 + exp(-y f)), summed over outputs; labels are -1 or 1."""

    def __call__(self, f: Float[Array, " o"], y: Float[Array, " o"]) -> Float[Array, ""]:
        return jnp.sum(jnp.logaddexp(jnp.zeros_like(f), -y * f))

    def check(self, y: Float[np.ndarray, "n o"]) -> None:
        if not (np.abs(y) == 1).all():
            found = float(y[np.abs(y) != 1].flat[0])
            raise InputError(
                f"The logistic loss needs labels `y` of -1 or 1, but `y` holds {found!r}. Of labels 0 and 1 make "
                "`2 * y - 1`."
            )


@dataclasses.dataclass(frozen=True)
class Huber:
    """e^2 / 2 where e = |f - y| is below `delta`, delta (e - delta / 2) beyond; summed over outputs.

    P. Huber, "Robust estimation of a location parameter" (1964). Equivalent to `optax.huber_loss`.
    """

    delta: float = 1.0

    def __post_init__(self):
        parse_number(self.delta, "delta")

    def __call__(self, f: Float[Array, " o"], y: Float[Array, " o"]) -> Float[Array, ""]:
        error = jnp.abs(f - y)
        near = jnp.minimum(error, self.delta)
        return jnp.sum(near * (error - 0.5 * near))

    def check(self, y: Float[np.ndarray, "n o"]) -> None:
        """Any labels will do."""


_WORDS = {"squared": Squared(), "cross-entropy": CrossEntropy(), "logistic": Logistic(), "huber": Huber()}


def parse_loss(loss: Any, y: Float[np.ndarray, "n o"]) -> Any:
    """A loss by its word, or the function itself, once it has been tried on shapes."""
    found = _WORDS.get(loss) if isinstance(loss, str) else loss
    if not callable(found):
        raise InputError(
            f"`loss` must be one of {', '.join(map(repr, _WORDS))}, or a function `loss(f, y)` of the outputs (o,) and "
            f"labels (o,) of one example, written in JAX, but got {loss!r}."
        )
    if hasattr(found, "check"):
        found.check(y)
    row = jax.ShapeDtypeStruct(y.shape[1:], y.dtype)
    value = jax.eval_shape(found, row, row)
    if not (isinstance(value, jax.ShapeDtypeStruct) and value.shape == () and value.dtype == y.dtype):
        raise InputError(
            f"`loss` must give one number of dtype {y.dtype} for the outputs and labels {y.shape[1:]} of an example, "
            f"but gives {value}. Sum over the outputs."
        )
    return found


def mean_loss(loss: Loss, f: Any, y: Any) -> float:
    """The cost C: the mean over examples of `loss`."""
    return float(_mean(loss, jnp.asarray(f), jnp.asarray(y)))


def _mean_of(loss, f, y):
    return jnp.mean(jax.vmap(loss)(f, y))


_mean = jax.jit(_mean_of, static_argnums=0)


def slopes(loss: Loss, f: Float[Array, "n o"], y: Float[Array, "n o"]) -> Float[Array, "n o"]:
    """d loss / d f of each example."""
    return jax.vmap(jax.grad(loss))(f, y)
