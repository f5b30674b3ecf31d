"""The fully connected layer."""

import math
import numbers
from typing import Any, Literal

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.errors import InputError
from ntkit.nn._law import Covariance, Scalar, add_constant, is_zero, square
from ntkit.nn._layer import Layer, Params, Shape, Signal

Parameterization = Literal["ntk", "standard"]
Law = Literal["normal", "uniform", "rademacher", "laplace"]

# Laws of mean 0 and variance 1: at infinite width only these two moments matter.
LAWS = {
    "normal": lambda key, shape, dtype: jax.random.normal(key, shape, dtype),
    "uniform": lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -math.sqrt(3), math.sqrt(3)),
    "rademacher": lambda key, shape, dtype: jax.random.rademacher(key, shape, dtype),
    "laplace": lambda key, shape, dtype: jax.random.laplace(key, shape, dtype) * jnp.asarray(math.sqrt(0.5), dtype),
}


def _is_std(value: Any) -> bool:
    """A number, finite and at least 0; of a traced array only that it may be one."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, (jax.Array, np.ndarray)):
        if value.dtype.kind not in "iuf":
            return False
        return isinstance(value, jax.core.Tracer) or bool(np.all(np.isfinite(value) & (np.asarray(value) >= 0)))
    return isinstance(value, numbers.Real) and math.isfinite(value) and float(value) >= 0


class Dense(Layer):
    """z' = (w_std / sqrt(n)) W z + b_std b, with the entries of W and b independent, of mean 0 and variance 1.

    Infinite reading, on the second moments K of the signal before it (Jacot et al. 2018, theorem 1):

        K'     = w_std^2 K + b_std^2
        Theta' = w_std^2 Theta + K'                                            ("ntk" parameterization)
        Theta' = w_std^2 Theta + n K + 1                                       ("standard")

    The standard parameterization draws W ~ w_std / sqrt(n) and b ~ b_std and puts no factor before them: the same
    network, other gradients. Its kernel grows with the fan-in n, and the term 1 of the bias is there only if b_std !=
    0.

    **Arguments:** `width`: number of output channels. `w_std`, `b_std`: leaves, both at least 0; `b_std=0` means no
    bias. `trainable=False` freezes the layer: its own term leaves Theta. `init`: the law of each weight and bias, one
    of "normal", "uniform", "rademacher", "laplace", scaled to variance 1. The infinite reading is the same for all,
    by the central limit theorem over the channels before the layer. Of a first layer these are the d features of the
    data: with another law than "normal" its outputs are Gaussian only as far as x is spread over many features (their
    excess kurtosis is that of the law times sum x_i^4 / (sum x_i^2)^2).
    """

    width: int = eqx.field(static=True)
    w_std: Scalar = 1.0
    b_std: Scalar = 0.0
    trainable: bool = eqx.field(static=True, default=True, kw_only=True)
    parameterization: Parameterization = eqx.field(static=True, default="ntk", kw_only=True)
    law: Law = eqx.field(static=True, default="normal", kw_only=True)

    def __init__(
        self,
        width: int,
        w_std: Scalar = 1.0,
        b_std: Scalar = 0.0,
        *,
        trainable: bool = True,
        parameterization: Parameterization = "ntk",
        init: Law = "normal",
    ):
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise InputError(f"`width` of `Dense` must be a positive whole number; got {width!r}.")
        if parameterization not in ("ntk", "standard"):
            raise InputError(f'`parameterization` must be "ntk" or "standard"; got {parameterization!r}.')
        if init not in LAWS:
            raise InputError(f"`init` must be one of {', '.join(map(repr, LAWS))}; got {init!r}.")
        for name, value in (("w_std", w_std), ("b_std", b_std)):
            if not _is_std(value):
                raise InputError(f"`{name}` of `Dense` must be a finite number >= 0; got {value!r}.")
        self.width, self.w_std, self.b_std = width, w_std, b_std
        self.trainable, self.parameterization, self.law = trainable, parameterization, init

    @property
    def has_bias(self) -> bool:
        return not is_zero(self.b_std)

    def shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.width)

    def init(self, key: PRNGKeyArray, shape: Shape, *, dtype: Any = None) -> Params:
        dtype = jnp.result_type(float) if dtype is None else dtype
        fan_in = shape[-1]
        keys = jax.random.split(key)
        draw = LAWS[self.law]
        standard = self.parameterization == "standard"
        weights = draw(keys[0], (fan_in, self.width), dtype)
        params = {"w": self._w_factor(fan_in, dtype) * weights if standard else weights}
        if self.has_bias:
            bias = draw(keys[1], (self.width,), dtype)
            params["b"] = jnp.asarray(self.b_std, dtype) * bias if standard else bias
        return params

    def apply(
        self, params: Params, x: Float[Array, "... c"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "... o"]:
        if not self.trainable:
            params = jax.lax.stop_gradient(params)
        standard = self.parameterization == "standard"
        w_factor = 1 if standard else self._w_factor(x.shape[-1], x.dtype)
        z = w_factor * (x @ params["w"])
        if self.has_bias:
            b_factor = 1 if standard else jnp.asarray(self.b_std, x.dtype)
            z = z + jnp.broadcast_to(b_factor * params["b"], z.shape)
        return z

    def _w_factor(self, fan_in: int, dtype: Any) -> Array:
        return jnp.asarray(self.w_std, dtype) / jnp.asarray(math.sqrt(fan_in), dtype)

    def propagate(self, cov: Covariance) -> Covariance:
        fan_in, moments = cov.width, cov.xy
        w, b = (square(leaf, moments.dtype) for leaf in (self.w_std, self.b_std))
        cov = add_constant(cov.scale(w, w, w), b).of_width(self.width)
        if not self.trainable:
            return cov
        if self.parameterization == "ntk":
            return cov.replace(ntk=cov.ntk + cov.xy)
        return cov.replace(ntk=cov.ntk + fan_in * moments + (1 if self.has_bias else 0))

    def check(self, signal: Signal) -> Signal:
        return Signal(gaussian=True, zero_mean=True, fresh=True, infinite=True, source=f"`{self.name}`")
