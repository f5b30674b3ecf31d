"""The matrix of all examples and outputs, by its products alone: one vjp and one jvp, however large the Jacobian."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkit.linalg.operators import Symmetric


class NTKOperator(Symmetric):
    """v -> J J^T v on arrays (n, o), symmetric and positive semi-definite; solvers of lineax take it.

    Memory: a forward and a backward pass over all examples, and the parameters a few times; the Jacobian never.
    """

    fn: Callable[[Any, Any], Array]
    leaves: list[Any]
    x: Any
    treedef: Any = eqx.field(static=True)
    chosen: tuple[int, ...] = eqx.field(static=True)

    def _of(self, free: list[Array]) -> Float[Array, "n o"]:
        leaves = list(self.leaves)
        for leaf, value in zip(self.chosen, free, strict=True):
            leaves[leaf] = value
        return self.fn(jax.tree.unflatten(self.treedef, leaves), self.x)

    def mv(self, vector: Float[Array, "n o"]) -> Float[Array, "n o"]:
        return _product(self, vector)

    def as_matrix(self) -> Float[Array, "m m"]:
        """J J^T, (n o, n o): by its Jacobian, for small cases."""
        free = [self.leaves[leaf] for leaf in self.chosen]
        jacobian = jax.jit(jax.jacrev(self._of))(free)
        rows = jnp.concatenate([j.reshape(self.out_size(), -1) for j in jacobian], axis=1)
        return rows @ rows.T

    def in_structure(self) -> jax.ShapeDtypeStruct:
        out = jax.eval_shape(self._of, [self.leaves[leaf] for leaf in self.chosen])
        return jax.ShapeDtypeStruct(out.shape, out.dtype)


@eqx.filter_jit
def _product(operator: NTKOperator, vector: Array) -> Array:
    free = [operator.leaves[leaf] for leaf in operator.chosen]
    _, pull = jax.vjp(operator._of, free)
    return jax.jvp(operator._of, (free,), pull(vector))[1]
