"""The log marginal likelihood as a pure function of the kernel and the noise, with its derivative in closed form."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real


def log_marginal_likelihood(
    kernel: Any, x: Float[Array | np.ndarray, "n ..."], y: Real[Array | np.ndarray, "n *outputs"], noise: Any
) -> Float[Array, ""]:
    """log p(y | x) = -tr(y^T C^-1 y)/2 - o log det(C)/2 - o n log(2 pi)/2, with C = kernel(x) + noise I.

    The o columns of `y` are independent outputs with one kernel; (n,) is one output. `noise` is a variance, a number or
    one for each example. Pure JAX, in the dtype of `x`: jit, grad and vmap apply, with respect to `kernel` (its leaves:
    a network's `w_std`, `b_std`), `x`, `y` and `noise`, to any order:

        jax.grad(log_marginal_likelihood, argnums=(0, 3))(ntkit.NNGP(net), x, y, 1e-2)

    NaN if C is not positive definite: no jitter here, it would not be differentiable.
    C. Rasmussen, C. Williams, "Gaussian Processes for Machine Learning" (GPML), eq. 2.30; gradient eq. 5.9.
    """
    x = jnp.asarray(x)
    y = jnp.asarray(y, x.dtype).reshape(x.shape[0], -1)
    matrix = kernel(x)
    n = matrix.shape[0]
    index = jnp.arange(n)
    return gaussian_log_density(matrix.at[index, index].add(jnp.asarray(noise, matrix.dtype)), y)


@jax.custom_jvp
def gaussian_log_density(c: Float[Array, "n n"], y: Float[Array, "n o"]) -> Float[Array, ""]:
    """The sum over the columns of y of log N(column; 0, c)."""
    n, o = y.shape
    lower = jnp.linalg.cholesky(c)
    half = jax.scipy.linalg.solve_triangular(lower, y, lower=True)
    logs = jnp.sum(jnp.log(jnp.diagonal(lower)))
    return -0.5 * jnp.sum(half * half) - o * logs - 0.5 * o * n * math.log(2 * math.pi)


@gaussian_log_density.defjvp
def _(primals, tangents):
    # d log p = tr((a a^T - o C^-1) dC)/2 - tr(a^T dy), a = C^-1 y (GPML eq. 5.9): one triangular inverse in place of
    # the three n^3 passes that differentiating through the factorisation takes, and no loss near a singular C.
    (c, y), (dc, dy) = primals, tangents
    lower = jnp.linalg.cholesky(c)
    a = jax.scipy.linalg.cho_solve((lower, True), y)
    inverse = jax.scipy.linalg.cho_solve((lower, True), jnp.eye(c.shape[0], dtype=c.dtype))
    weight = 0.5 * (a @ a.T - y.shape[1] * inverse)
    return gaussian_log_density(c, y), jnp.sum(weight * dc) - jnp.sum(a * dy)
