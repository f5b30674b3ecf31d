"""Kernel matrices as lineax operators: held, or recomputed block by block when they do not fit."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float


class Symmetric(lx.AbstractLinearOperator):
    """A symmetric positive definite A = K + diag(noise), given by products."""

    def transpose(self):
        return self

    def out_structure(self):
        return self.in_structure()


class MatrixOperator(Symmetric):
    """K + diag(noise) for a matrix K held in memory; two products of size n^2 are never formed into a copy."""

    matrix: Float[Array, "n n"]
    noise: Float[Array, ""] | Float[Array, " n"]

    def mv(self, vector):
        return self.matrix @ vector + self.noise * vector

    def as_matrix(self):
        return self.matrix + jnp.diag(jnp.broadcast_to(self.noise, self.matrix.shape[:1]))

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.matrix.shape[:1], self.matrix.dtype)

    def kernel_row(self, index) -> Float[Array, " n"]:
        return self.matrix[index]

    def kernel_diagonal(self) -> Float[Array, " n"]:
        return jnp.diagonal(self.matrix)


class KernelOperator(Symmetric):
    """K(x, x) + diag(noise), where K is recomputed `block` rows at a time for every product and never held.

    Memory: `block` times n numbers, and what the kernel needs for such a block. n is padded to a multiple of `block` by
    repeating the last example.
    """

    kernel: Any
    x: Float[Array, "n ..."]
    noise: Float[Array, ""] | Float[Array, " n"]
    block: int

    def mv(self, vector):
        n = self.x.shape[0]
        count = -(-n // self.block)
        rows = jnp.minimum(jnp.arange(count * self.block), n - 1).reshape(count, self.block)
        product = jax.lax.map(lambda r: self.kernel(self.x[r], self.x) @ vector, rows)
        return product.reshape(-1)[:n] + self.noise * vector

    def as_matrix(self):
        return self.kernel(self.x) + jnp.diag(jnp.broadcast_to(self.noise, self.x.shape[:1]))

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.x.shape[:1], self.x.dtype)

    def kernel_row(self, index) -> Float[Array, " n"]:
        return self.kernel(jax.lax.dynamic_slice_in_dim(self.x, index, 1), self.x)[0]

    def kernel_diagonal(self) -> Float[Array, " n"]:
        return self.kernel.diagonal(self.x)


class Scaled(Symmetric):
    """operator / divisor, for a positive divisor; the operator may be anyone's, as long as it is positive definite."""

    operator: lx.AbstractLinearOperator
    divisor: Float[Array, ""]

    def mv(self, vector):
        return self.operator.mv(vector) / self.divisor

    def as_matrix(self):
        return self.operator.as_matrix() / self.divisor

    def in_structure(self):
        return self.operator.in_structure()


# The queries lineax puts to an operator. `linearise` must be the identity: its default would evaluate the kernel once
# and store every block, which is the n^2 memory that KernelOperator exists to avoid.
@lx.linearise.register(Symmetric)
@lx.materialise.register(Symmetric)
@lx.conj.register(Symmetric)
def _(operator):
    return operator


@lx.is_symmetric.register(Symmetric)
@lx.is_positive_semidefinite.register(Symmetric)
def _(operator):
    return True


@lx.is_diagonal.register(Symmetric)
@lx.is_tridiagonal.register(Symmetric)
@lx.is_lower_triangular.register(Symmetric)
@lx.is_upper_triangular.register(Symmetric)
@lx.is_negative_semidefinite.register(Symmetric)
@lx.has_unit_diagonal.register(Symmetric)
def _(operator):
    return False


@lx.diagonal.register(MatrixOperator)
@lx.diagonal.register(KernelOperator)
def _(operator):
    return operator.kernel_diagonal() + operator.noise


@lx.diagonal.register(Scaled)
def _(operator):
    return lx.diagonal(operator.operator) / operator.divisor
