"""A network as a polynomial in its parameters around where it stands."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ntkit.errors import InputError


def linearize(fn: Callable[[Any, Any], Any], params: Any) -> Callable[[Any, Any], Any]:
    """f_lin(theta, x) = f(theta_0, x) + J(x) (theta - theta_0) with theta_0 = `params`, by one jvp.

    Its empirical NTK is that of f at theta_0, whatever theta is.
    """
    return taylor_expand(fn, params, 1)


def taylor_expand(fn: Callable[[Any, Any], Any], params: Any, order: int) -> Callable[[Any, Any], Any]:
    """The Taylor polynomial of f(theta, x) in theta around `params` up to `order` >= 0, by nested jvps.

    An order costs about twice the one below.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise InputError(f"`order` must be a whole number >= 0; got {order!r}.")

    free, rest = eqx.partition(params, eqx.is_inexact_array)

    def expanded(theta: Any, x: Any) -> Any:
        if jax.tree.structure(theta) != jax.tree.structure(params):
            raise InputError(
                "The parameters of an expanded function must be a pytree as those it was expanded around; got "
                f"{jax.tree.structure(theta)}, expected {jax.tree.structure(params)}."
            )
        step = jax.tree.map(jnp.subtract, eqx.filter(theta, eqx.is_inexact_array), free)

        def derivative(along: Callable[[Any], Any]) -> Callable[[Any], Any]:
            return lambda at: pushed(along, at, step)

        term = lambda at: fn(eqx.combine(at, rest), x)  # noqa: E731
        total, factorial = term(free), 1.0
        for k in range(1, order + 1):
            term, factorial = derivative(term), factorial * k
            total = jax.tree.map(lambda t, d, f=factorial: t + d / f, total, term(free))
        return total

    return expanded


def pushed(f: Callable[[Any], Any], at: Any, step: Any) -> Any:
    """The derivative of f at a point along a step.

    Where a function has a backward rule only (`jax.custom_vjp`) it is the transpose of the backward pass, which is
    linear.
    """
    if "custom_vjp_call" not in str(jax.make_jaxpr(f)(at)):
        return jax.jvp(f, (at,), (step,))[1]
    out, pull = jax.vjp(f, at)
    return jax.linear_transpose(lambda v: pull(v)[0], out)(step)[0]


class Completed(eqx.Module):
    """A function of the arrays among its parameters; the others, such as functions, it has."""

    fn: Callable[[Any, Any], Any]
    others: Any

    def __call__(self, params: Any, x: Any) -> Any:
        return self.fn(eqx.combine(params, self.others), x)


def completed(fn: Callable[[Any, Any], Any], params: Any) -> tuple[Callable[[Any, Any], Any], Any]:
    """The same function and parameters, of which nothing is left that JAX could not trace."""
    arrays, others = eqx.partition(params, eqx.is_array_like)
    return (Completed(fn, others), arrays) if jax.tree.leaves(others) else (fn, params)
