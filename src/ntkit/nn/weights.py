"""What layers with weights share: their law, their scale, two parameterizations, and the law of a pair behind them."""

import abc
import math
import numbers
from typing import Any, Literal

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

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


class Weighted(Layer):
    """z' = (w_std / sqrt(fan-in)) W z + b_std b, the entries of W and b independent, of mean 0 and variance 1."""

    width: eqx.AbstractVar[int]
    w_std: eqx.AbstractVar[Scalar]
    b_std: eqx.AbstractVar[Scalar]
    trainable: eqx.AbstractVar[bool]
    parameterization: eqx.AbstractVar[Parameterization]
    law: eqx.AbstractVar[Law]

    @abc.abstractmethod
    def weights_shape(self, shape: Shape) -> Shape:
        """The shape of W for inputs of a shape."""

    @abc.abstractmethod
    def bias_shape(self, shape: Shape) -> Shape:
        """The shape of b for inputs of a shape."""

    @abc.abstractmethod
    def fan_in(self, shape: Shape) -> int:
        """How many products are summed for one output."""

    @property
    def has_bias(self) -> bool:
        return not is_zero(self.b_std)

    def init(self, key: PRNGKeyArray, shape: Shape, *, dtype: Any = None) -> Params:
        self.shape(shape)
        dtype = jnp.result_type(float) if dtype is None else dtype
        keys, draw = jax.random.split(key), LAWS[self.law]
        standard = self.parameterization == "standard"
        weights = draw(keys[0], self.weights_shape(shape), dtype)
        params = {"w": self._w_factor(self.fan_in(shape), dtype) * weights if standard else weights}
        if self.has_bias:
            bias = draw(keys[1], self.bias_shape(shape), dtype)
            params["b"] = jnp.asarray(self.b_std, dtype) * bias if standard else bias
        return params

    def factors(self, params: Params, shape: Shape, dtype: Any) -> tuple[Params, Array | int, Array | int]:
        """The parameters, not to be trained if the layer is frozen, and what stands before W and before b."""
        if not self.trainable:
            params = jax.lax.stop_gradient(params)
        if self.parameterization == "standard":
            return params, 1, 1
        return params, self._w_factor(self.fan_in(shape), dtype), jnp.asarray(self.b_std, dtype)

    def _w_factor(self, fan_in: int, dtype: Any) -> Array:
        return jnp.asarray(self.w_std, dtype) / jnp.asarray(math.sqrt(fan_in), dtype)

    def weighted(self, cov: Covariance, taps: int = 1, groups: int = 1) -> Covariance:
        """The law behind it, where the mean of `cov` over so many taps, each with weights of its own, is taken. An
        output reads one of so many groups of channels."""
        fan_in, moments = cov.width // groups * taps, cov.xy
        w, b = (square(leaf, moments.dtype) for leaf in (self.w_std, self.b_std))
        cov = add_constant(cov.scale(w, w, w), b).of_width(self.width)
        if not self.trainable:
            return cov
        if self.parameterization == "ntk":
            return cov.replace(ntk=cov.ntk + cov.xy)
        return cov.replace(ntk=cov.ntk + fan_in * moments + (1 if self.has_bias else 0))

    def check(self, signal: Signal) -> Signal:
        return Signal(gaussian=True, zero_mean=True, fresh=True, infinite=True, source=f"`{self.name}`")


def checked_weights(
    owner: str, width: Any, w_std: Any, b_std: Any, parameterization: Any, init: Any
) -> tuple[int, Scalar, Scalar, Parameterization, Law]:
    """The arguments that all layers with weights take; raises `ntkit.InputError` by name."""
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise InputError(f"`width` of `{owner}` must be a positive whole number; got {width!r}.")
    if parameterization not in ("ntk", "standard"):
        raise InputError(f'`parameterization` must be "ntk" or "standard"; got {parameterization!r}.')
    if init not in LAWS:
        raise InputError(f"`init` must be one of {', '.join(map(repr, LAWS))}; got {init!r}.")
    for name, value in (("w_std", w_std), ("b_std", b_std)):
        if not _is_std(value):
            raise InputError(f"`{name}` of `{owner}` must be a finite number >= 0; got {value!r}.")
    return width, w_std, b_std, parameterization, init
