"""Says when examples are so large that the tables of an activation do not reach: its estimate of the error is known,
but inside a compiled program nobody could ask for it."""

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkit.errors import AccuracyWarning
from ntkit.kernels import OfNetwork
from ntkit.nn import Covariance, Layer
from ntkit.nn.activations import Nonlinearity
from ntkit.nn.activations._base import Diagonal, Dual
from ntkit.nn.activations.series import Tabulated
from ntkit.nn.batch import batch_norms

# Mean squares of the examples, and weights, below which no variance leaves the tables' range of 1e-2 to 1e2 by far.
ORDINARY, WEIGHT = 10.0, 2.0
# Errors, relative to the norms, that are worth a warning.
WORTH = 1e-5


class _Watched(Nonlinearity):
    """An activation that notes the variances it is asked for."""

    inner: Tabulated
    seen: list[tuple[Tabulated, Array]] = eqx.field(static=True)

    @property
    def parity(self) -> Any:
        return self.inner.parity

    def fn(self, x: Array) -> Array:
        return self.inner.fn(x)

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        return self.inner.dual(xx, xy, yy, gap)

    def diagonal(self, q: Array) -> Diagonal:
        self.seen.append((self.inner, q))
        return self.inner.diagonal(q)

    def variance(self, q: Array) -> Array:
        return self.diagonal(q).value

    def mean(self, q: Array) -> Array:
        return self.inner.mean(q)


def warn_of_variances(kernel: Any, *inputs: Any) -> None:
    """Warns (`AccuracyWarning`) of the largest example for which a kernel of a dense network is far from exact."""
    nets = [node.net for node in jax.tree.leaves(kernel, is_leaf=_is_kernel) if _is_kernel(node)]
    nets = [net for net in nets if _tables(net) and not batch_norms(net)]
    rows = [x for x in inputs if x is not None and np.ndim(x) == 2]
    if not nets or not rows:
        return
    largest = max(float(np.max(np.einsum("ij,ij->i", x, x, dtype=np.float64))) / x.shape[1] for x in rows)
    for net in nets:
        scales = [abs(float(w)) for layer in jax.tree.leaves(net, is_leaf=_has_weights) if _has_weights(layer)
                  and np.ndim(w := layer.w_std) == 0]  # fmt: skip
        if not math.isfinite(largest) or (largest <= ORDINARY and max(scales, default=0) <= WEIGHT):
            continue
        for activation, q in _variances(net, largest, rows[0].shape[1]):
            with jax.enable_x64(True):
                error = float(activation.error(jnp.asarray(q, jnp.float64)))
            if not error < WORTH:
                _warn(activation, q, error)
                return


def _is_kernel(node: Any) -> bool:
    return isinstance(node, OfNetwork)


def _has_weights(node: Any) -> bool:
    return isinstance(node, Layer) and hasattr(node, "w_std")


def _is_table(node: Any) -> bool:
    return isinstance(node, Tabulated)


def _tables(net: Layer) -> list[Tabulated]:
    return [node for node in jax.tree.leaves(net, is_leaf=_is_table) if _is_table(node)]


def _variances(net: Layer, q: float, width: int) -> list[tuple[Tabulated, float]]:
    """What each activation is asked for by a row of mean square q."""
    seen: list[tuple[Tabulated, Array]] = []
    watched = jax.tree.map(lambda node: _Watched(node, seen) if _is_table(node) else node, net, is_leaf=_is_table)
    with jax.enable_x64(True):
        watched.propagate(Covariance.of_one(jnp.asarray(q, jnp.float64), width))
    return [(activation, float(value)) for activation, value in seen]


def _warn(activation: Tabulated, q: float, error: float) -> None:
    limit = 10.0 ** math.ceil(math.log10(q))
    warnings.warn(
        f"`{activation.name}` is asked for variances up to {q:.2g}, where its kernel may be wrong by {error:.1g} of "
        f"itself: its tables are made for 0.01 to 100. Scale the examples, such as to mean square 1; or say what it "
        f"must reach, `nn.Activation(fn, variances=(0.01, {limit:.0g}))`, and look at its `error`.",
        AccuracyWarning,
        stacklevel=4,
    )
