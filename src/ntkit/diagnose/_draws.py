"""Finite networks, drawn many at a time, and the empirical kernel of each, layer by layer."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from ntkit.empirical import EmpiricalNTK
from ntkit.nn import Covariance, Layer, Signal
from ntkit.nn._layer import Params, Shape
from ntkit.nn.widths import map_weighted, weighted_layers, width_groups, with_widths

# Copies of the parameters that live at a time: random bits, numbers, and what is made of them.
COPIES = 4


class Narrowed(Layer):
    """A layer that reads the first channels only: its input times 0 elsewhere, and there times what corrects the
    fan-in. `factor` is repeated where the channels are (`Flatten`, `Concat`)."""

    inner: Layer
    factor: Float[Array, " c"]

    def shape(self, shape: Shape) -> Shape:
        return self.inner.shape(shape)

    def init(self, key: PRNGKeyArray, shape: Shape, *, dtype: Any = None) -> Params:
        return self.inner.init(key, shape, dtype=dtype)

    def apply(self, params: Params, x: Float[Array, "..."], *, key: PRNGKeyArray | None = None) -> Any:
        factor = jnp.tile(self.factor.astype(x.dtype), x.shape[-1] // len(self.factor))
        return self.inner.apply(params, x * factor.reshape(*[1] * (x.ndim - 1), -1), key=key)

    def propagate(self, cov: Covariance) -> Covariance:
        return self.inner.propagate(cov)

    def check(self, signal: Signal) -> Signal:
        return self.inner.check(signal)


def narrowed(net: Layer, widths: Int[Array, " g"]) -> Layer:
    """The network that computes what one of smaller hidden widths does, with the same kernel.

    Of M channels the first m count: a unit that nobody reads adds nothing to the kernel, and sqrt(M / m) corrects the
    fan-in. So networks of many widths are one program.
    """
    groups, layers = width_groups(net), weighted_layers(net)
    wide = {group: layers[i][1].width for i, group in enumerate(groups.own) if group is not None}

    def of(number: int, layer: Layer) -> Layer:
        group = groups.read[number]
        if group is None:
            return layer
        scale = jnp.sqrt(wide[group] / widths[group].astype(jnp.result_type(float)))
        return Narrowed(layer, jnp.where(jnp.arange(wide[group]) < widths[group], scale, 0))

    return map_weighted(of, net)


def kernels_of_draws(
    net: Layer, x: Float[Array, "n ..."], keys: Key[Array, " s"], drawn: Int[np.ndarray, "s g"], memory: int | None
) -> Iterator[Float[np.ndarray, "c l n n"]]:
    """The kernels of networks drawn with these keys and hidden widths, by trainable layer, some networks at a time."""
    most = drawn.max(axis=0)
    net, fixed = with_widths(net, most.tolist()), bool((drawn == most).all())
    count = -(-len(keys) // at_once(net, x, len(keys), memory))
    size = -(-len(keys) // count)
    for start in range(0, len(keys), size):
        # All runs are equally long, or the last one would be compiled for itself.
        rows = np.minimum(np.arange(start, start + size), len(keys) - 1)
        widths = None if fixed else jnp.asarray(drawn[rows])
        values = _kernels(net, x, keys[rows], widths)
        yield np.asarray(values, np.float64)[: len(keys) - start]


@eqx.filter_jit
def _kernels(net: Layer, x: Array, keys: Array, widths: Array | None) -> Array:
    def draw(key: Array) -> Params:
        return net.init(key, x.shape, dtype=x.dtype)

    if len(keys) == 1:  # XLA for CPU is many times slower where the filters of convolutions are batched
        return _by_layer(net, x, draw(keys[0]), None if widths is None else widths[0])[None]
    # Random numbers, batched, would take longer to compile than all else.
    return jax.vmap(partial(_by_layer, net, x), (0, None if widths is None else 0))(lax.map(draw, keys), widths)


def _by_layer(net: Layer, x: Array, params: Params, widths: Array | None) -> Array:
    fn = (net if widths is None else narrowed(net, widths)).apply
    names = trainable(net)
    by_parameter = EmpiricalNTK(fn, params, only=names).by_layer(x)
    own = [[value for key, value in by_parameter.items() if key.startswith(name + ".")] for name in names]
    return jnp.stack([sum(values[1:], values[0]) for values in own])


def trainable(net: Layer) -> list[str]:
    """The paths of the layers that are trained."""
    return [name for name, layer in weighted_layers(net) if layer.trainable]


def at_once(net: Layer, x: Any, draws: int, memory: int | None) -> int:
    """Networks at a time, by what their parameters and signals take."""
    if x.ndim > 2:
        return 1
    shapes = jax.eval_shape(lambda key: net.init(key, x.shape, dtype=x.dtype), jax.random.key(0))
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    n, layers = len(x), weighted_layers(net)
    signals = 2 * n * sum(layer.width for _, layer in layers) + 3 * len(layers) * n * n
    each = x.dtype.itemsize * (COPIES * parameters + COPIES * signals)
    return draws if memory is None else max(1, min(draws, memory // each))
