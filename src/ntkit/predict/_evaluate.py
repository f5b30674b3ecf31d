"""From a kernel to its matrix, in tiles when it is large."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ntkit._progress import Progress
from ntkit.errors import ComputationError, InputError
from ntkit.gram import gram
from ntkit.gram.host import on_host
from ntkit.gram.program import is_dynamic, written_in_jax
from ntkit.gram.ranges import warn_of_variances
from ntkit.kernels import check_examples

# Entries of a matrix that is computed in one piece. Beyond, `ntkit.gram` cuts it to a memory budget.
_ONE_PIECE = 1 << 20


class _Static:
    """What of a kernel is not a number, as a key of the compilation cache."""

    def __init__(self, tree: Any):
        leaves, self.treedef = jax.tree.flatten(tree)
        self.leaves = tuple(leaves)

    def __hash__(self):
        return hash((self.treedef, self.leaves))

    def __eq__(self, other):
        return self.treedef == other.treedef and self.leaves == other.leaves


def _split(kernel: Any):
    # Python floats (w_std ...) are traced, so that a new value is not a new compilation; they stay weakly typed. A 0.0
    # is not: a layer without a bias has another structure, and in the standard parameterization another kernel.
    dynamic, static = eqx.partition(kernel, is_dynamic)
    return dynamic, _Static(static)


def _join(dynamic, static: _Static):
    return eqx.combine(dynamic, jax.tree.unflatten(static.treedef, static.leaves))


def _call(dynamic, static, x1, x2):
    return _join(dynamic, static)(x1) if x2 is None else _join(dynamic, static)(x1, x2)


def _call_diagonal(dynamic, static, x):
    return _join(dynamic, static).diagonal(x)


_jit_call = jax.jit(_call, static_argnums=1)
_jit_diagonal = jax.jit(_call_diagonal, static_argnums=1)


def evaluate(
    kernel: Any, x1: np.ndarray, x2: np.ndarray | None = None, *, memory: Any = None, progress: Progress = False
) -> Any:
    """kernel(x1, x2) on the device, checked; a pair of matrices for a kernel that returns two."""
    check_kernel(kernel)
    size = x1.shape[0] * (x1 if x2 is None else x2).shape[0]
    if size > _ONE_PIECE or memory is not None or on_host(kernel):
        result = _tiled(kernel, x1, x2, memory, progress)
    else:
        warn_of_variances(kernel, x1, x2)
        check_examples(kernel, jnp.asarray(x1[:3]))
        with written_in_jax():
            result = _jit_call(*_split(kernel), jnp.asarray(x1), None if x2 is None else jnp.asarray(x2))
    jax.tree.map(lambda k: _check_result(k, x1, x2), result)
    return result


def evaluate_diagonal(kernel: Any, x: np.ndarray) -> Any:
    """kernel.diagonal(x) on the device; a pair for a kernel that returns two."""
    if on_host(kernel):
        return jnp.asarray(np.asarray(kernel.diagonal(x), x.dtype))
    return _jit_diagonal(*_split(kernel), jnp.asarray(x))


def check_kernel(kernel: Any) -> None:
    if not callable(kernel):
        raise InputError(
            f"`kernel` must be callable, `kernel(x1, x2=None) -> (n1, n2)`, but got {type(kernel).__name__}. For a "
            "network pass `ntkit.NTK(net)` or `ntkit.NNGP(net)`."
        )


def _tiled(kernel, x1, x2, memory, progress):
    return jax.tree.map(jnp.asarray, gram(kernel, x1, x2, memory=memory or "1GiB", progress=progress))


def _check_result(k, x1, x2) -> None:
    want = (x1.shape[0], (x1 if x2 is None else x2).shape[0])
    if np.shape(k) != want:
        raise InputError(
            f"`kernel` must return an array of shape {want} for these examples, but returned {np.shape(k)}."
        )
    if not bool(_finite(k)):
        row, column = (int(i) for i in np.unravel_index(int(np.argmin(np.isfinite(np.asarray(k)))), want))
        raise ComputationError(
            f"The kernel matrix has an entry that is not finite: {float(k[row, column])} for examples {row} and "
            f"{column}. Scale the inputs, or work in float64."
        )


@jax.jit
def _finite(k):
    return jnp.all(jnp.isfinite(k))
