"""Formulas that are differences of large numbers, in float64 whatever comes in and goes out.

A clipped function of deviation s is a difference of terms of order s^2: float32 would lose all digits at s = 1000.

JAX makes float64 only within `enable_x64`, so nothing of a formula may be left to be transformed later, outside. It is
elementwise, which makes that easy: to batch it is to give it one more axis, and its derivatives are products with
partial derivatives, formulas themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

T = TypeVar("T")

# Of what comes in and goes out, in units of the dtype: duals grow at most as fast as the variances.
ROUNDING = 4.0


def in_double(formula: Callable[..., T], *arrays: Array) -> T:
    """An elementwise formula in float64, rounded to the dtype of the first array; also while JAX has 64 bits off."""
    ndim = max(x.ndim for x in arrays)
    return _differentiable(formula)(*(x.reshape((1,) * (ndim - x.ndim) + x.shape) for x in arrays))


def _differentiable(formula: Callable[..., T]) -> Callable[..., T]:
    rounded = jax.custom_jvp(_batchable(formula))

    def rule(primals: tuple[Array, ...], tangents: tuple) -> tuple[T, T]:
        moved = {i: t for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero)}
        slopes = in_double(lambda *arrays: _partials(formula, arrays, list(moved)), *primals)
        value = rounded(*primals)
        with jax.enable_x64(True):  # float64 may come in, too
            return value, jax.tree.map(lambda _, *parts: _sum(parts, list(moved.values())), value, *slopes)

    rounded.defjvp(rule, symbolic_zeros=True)
    return rounded


def _batchable(formula: Callable[..., T]) -> Callable[..., T]:
    @custom_vmap
    def rounded(*arrays: Array) -> T:
        dtype = arrays[0].dtype
        with jax.enable_x64(True):
            found = formula(*(x.astype(jnp.float64) for x in arrays))
            return jax.tree.map(lambda x: x.astype(dtype), found)

    @rounded.def_vmap
    def rule(size: int, batched: list[bool], *arrays: Array) -> tuple[T, Any]:
        # What is not batched keeps its own size: the pairs of two sets have the variances of each.
        found = rounded(*(x if has else x[None] for x, has in zip(arrays, batched, strict=True)))
        return found, jax.tree.map(lambda x: True, found)

    return rounded


def _partials(formula: Callable[..., T], arrays: tuple[Array, ...], moved: list[int]) -> list[T]:
    """The derivatives by these arrays, from one program."""

    def along(direction: Array) -> T:
        tangents = [jnp.broadcast_to(direction[i], x.shape) for i, x in enumerate(arrays)]
        return jax.jvp(formula, arrays, tuple(tangents))[1]

    every = jax.vmap(along)(jnp.eye(len(arrays))[jnp.asarray(moved)])
    return [jax.tree.map(lambda x, i=i: x[i], every) for i in range(len(moved))]


def _sum(slopes: Sequence[Array], tangents: Sequence[Array]) -> Array:
    total, *others = (slope * t for slope, t in zip(slopes, tangents, strict=True))
    for other in others:
        total = total + other
    return total
