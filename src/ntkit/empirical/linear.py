"""A network as a polynomial in its parameters around where it stands."""

from collections.abc import Callable
from typing import Any

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

    def expanded(theta: Any, x: Any) -> Any:
        if jax.tree.structure(theta) != jax.tree.structure(params):
            raise InputError(
                "The parameters of an expanded function must be a pytree as those it was expanded around; got "
                f"{jax.tree.structure(theta)}, expected {jax.tree.structure(params)}."
            )
        step = jax.tree.map(jnp.subtract, theta, params)

        def derivative(along: Callable[[Any], Any]) -> Callable[[Any], Any]:
            return lambda at: jax.jvp(along, (at,), (step,))[1]

        term = lambda at: fn(at, x)  # noqa: E731
        total, factorial = term(params), 1.0
        for k in range(1, order + 1):
            term, factorial = derivative(term), factorial * k
            total = jax.tree.map(lambda t, d, f=factorial: t + d / f, total, term(params))
        return total

    return expanded
