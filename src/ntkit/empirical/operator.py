"""The matrix of all examples and outputs, by its products alone: one vjp and one jvp, however large the Jacobian."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkit.empirical.linear import pushed
from ntkit.errors import InputError
from ntkit.linalg.operators import Symmetric


class NTKOperator(Symmetric):
    """v -> J J^T v on arrays (n, o), symmetric and positive semi-definite; solvers of lineax take it.

    Memory: a forward and a backward pass over `rows` examples, and the parameters a few times; the Jacobian never. Of
    several blocks J^T v is summed first, and each is run forward once more.
    """

    fn: Callable[[Any, Any], Array]
    leaves: list[Any]
    x: Any
    treedef: Any = eqx.field(static=True)
    chosen: tuple[int, ...] = eqx.field(static=True)
    rows: int = eqx.field(static=True)

    @property
    def free(self) -> list[Array]:
        """The parameters that count."""
        return [self.leaves[leaf] for leaf in self.chosen]

    def of(self, free: list[Array]) -> Float[Array, "n o"]:
        """The outputs at other values of these."""
        leaves = list(self.leaves)
        for leaf, value in zip(self.chosen, free, strict=True):
            leaves[leaf] = value
        return self.fn(jax.tree.unflatten(self.treedef, leaves), self.x)

    def mv(self, vector: Any) -> Float[Array, "n o"]:
        shape = self.in_structure().shape
        if jnp.shape(vector) != shape:
            raise InputError(
                f"The operator's vectors have shape {shape}, (examples, outputs); got {jnp.shape(vector)}."
            )
        if self.rows >= len(vector):
            return _product(self, vector)
        # A loop of the host: XLA for CPU runs convolutions many times slower inside of its own.
        blocks = [slice(i, i + self.rows) for i in range(0, len(vector), self.rows)]
        parts = [eqx.tree_at(lambda op: op.x, self, jax.tree.map(lambda a, b=b: a[b], self.x)) for b in blocks]
        total = [jnp.zeros_like(leaf) for leaf in self.free]
        for part, b in zip(parts, blocks, strict=True):
            total = _pulled(part, vector[b], total)
        return jnp.concatenate([_pushed(part, total) for part in parts])

    def as_matrix(self) -> Float[Array, "m m"]:
        """J J^T, (n o, n o): by its Jacobian, for small cases."""
        jacobian = jax.jit(jax.jacrev(self.of))(self.free)
        rows = jnp.concatenate([j.reshape(self.out_size(), -1) for j in jacobian], axis=1)
        return rows @ rows.T

    def in_structure(self) -> jax.ShapeDtypeStruct:
        out = jax.eval_shape(self.of, self.free)
        return jax.ShapeDtypeStruct(out.shape, out.dtype)


@eqx.filter_jit
def _product(operator: NTKOperator, vector: Array) -> Array:
    _, pull = jax.vjp(operator.of, operator.free)
    return pushed(operator.of, operator.free, pull(vector)[0])


@eqx.filter_jit
def _pulled(operator: NTKOperator, vector: Array, total: list[Array]) -> list[Array]:
    """`total` + J^T v."""
    (slope,) = jax.vjp(operator.of, operator.free)[1](vector)
    return jax.tree.map(jnp.add, total, slope)


@eqx.filter_jit
def _pushed(operator: NTKOperator, slope: list[Array]) -> Array:
    """J w."""
    return pushed(operator.of, operator.free, slope)
