"""Count sketches of each example's gradients: features whose inner products estimate the kernel."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit._check import parse_memory
from ntkit._progress import Meter, Progress
from ntkit.empirical import _checks as checks
from ntkit.empirical._rules import Outputs
from ntkit.empirical.kernel import EmpiricalNTK
from ntkit.empirical.methods import Network, gradients_of, length
from ntkit.empirical.plan import rows_within
from ntkit.errors import InputError
from ntkit.linalg.products import check_count, generator
from ntkit.linalg.sketch import Projection, drawn, measured


def project(
    kernel: EmpiricalNTK,
    x: Any,
    dimension: int,
    key: Any,
    *,
    memory: str | int | None = "1GiB",
    check: int = 8,
    progress: Progress = True,
) -> Projection:
    """Features phi (n, dimension) with E phi phi^T = kernel(x): gradients, projected at random by a count sketch.

    Where the kernel's `outputs` are "diagonal" or "full", phi is (n, o, dimension), and phi[i, a] . phi[j, b]
    estimates K_ab(x_i, x_j). For "mean" each output has a sketch of its own, and phi is the sum over them / sqrt(o).
    The same key and kernel give the same projection: batches may be projected one after the other. The standard error
    of an inner product is at most sqrt((k_ii k_jj + k_ij^2) / dimension).

    **Arguments:**

    - `key`: a key of JAX, or a whole number.
    - `memory`: the gradients of as many examples as fit are held at a time; of one, if none does. Neither Jacobian nor
        projection are: bucket and sign of an entry are random bits of its index.
    - `check`: examples on which the error is measured, against the exact kernel.

    **Raises:** `InputError` for a kernel that is not an `EmpiricalNTK`, for `dimension` below 1 and for no key.

    **Source:** Charikar, Chen and Farach-Colton 2002; Weinberger et al. 2009 (feature hashing).
    """
    if not isinstance(kernel, EmpiricalNTK):
        raise InputError(f"`kernel` must be an `ntkit.EmpiricalNTK`, but is {type(kernel).__name__}.")
    check_count("dimension", dimension, 1)
    examples = drawn(generator(key), length(checks.check_batch("x", x)), check)
    key = key if isinstance(key, jax.Array) else jax.random.key(key)
    kernel, x, _ = kernel._checked(x, None)
    net, n = kernel._network(x), length(x)
    rows = _rows(kernel, net, n, parse_memory(memory))
    features = None
    with Meter(progress, 0, n, "project", "examples") as meter:
        for start in range(0, n, rows):
            start = min(start, n - rows)  # the last one overlaps, so that there is one program
            block = jax.tree.map(lambda a, s=start: a[s : s + rows], x)
            part = np.asarray(_projected(kernel, net.wanted, block, key, dimension, kernel.outputs))
            features = np.zeros((n, *part.shape[1:]), part.dtype) if features is None else features
            features[start : start + rows] = part
            meter(start + rows)
    assert features is not None
    few = jax.tree.map(lambda a: a[np.array(examples)], x)
    return measured(jnp.asarray(features), examples, features[list(examples)], np.asarray(kernel(few)))


def _rows(kernel: EmpiricalNTK, net: Network, n: int, budget: int | None) -> int:
    """Examples at a time: gradients, copies of the largest with signs and turned round, activations."""
    if budget is None:
        return n
    known = checks.floats(kernel.params)
    sizes = [known[leaf][1].size * known[leaf][1].dtype.itemsize for leaf in net.wanted]
    most = max(1, budget // 2 // max(1, net.outputs * (sum(sizes) + 2 * max(sizes))))
    return min(-(-n // -(-n // most)), rows_within(net, budget // 2 // (net.outputs + 1), n))


@eqx.filter_jit
def _projected(
    kernel: EmpiricalNTK, wanted: tuple[int, ...], x: Any, key: Array, dimension: int, kind: Outputs
) -> Array:
    found = gradients_of(kernel._network(x), jax.tree.leaves(kernel.params), x)  # (n, o, p) of each
    sketch = _of_sum if kind == "mean" else _of_each
    parts = [sketch(found[leaf], jax.random.fold_in(key, leaf), dimension) for leaf in wanted]
    return jnp.asarray(sum(parts[1:], start=parts[0]))


def _of_each(rows: Array, key: Array, dimension: int) -> Array:
    """(n, o, p) to (n, o, dimension), all alike."""
    return _sketch(rows.reshape(-1, rows.shape[2]), key, dimension).reshape(*rows.shape[:2], dimension)


def _of_sum(rows: Array, key: Array, dimension: int) -> Array:
    """(n, o, p) to (n, dimension): each output by a sketch of its own, for else products of two outputs would count."""
    n, o, _ = rows.shape

    def add(total: Array, output: tuple[Array, Array]) -> tuple[Array, None]:
        number, values = output
        return total + _sketch(values, jax.random.fold_in(key, number), dimension), None

    start = jnp.zeros((n, dimension), rows.dtype)
    return lax.scan(add, start, (jnp.arange(o), rows.transpose(1, 0, 2)))[0] / jnp.sqrt(jnp.asarray(o, rows.dtype))


def _sketch(rows: Array, key: Array, dimension: int) -> Array:
    """(m, p) to (m, dimension). The buckets' probabilities differ by dimension / 2^31 of themselves."""
    bits = jax.random.bits(key, (rows.shape[1],), jnp.uint32)
    signs = 1 - 2 * (bits & 1).astype(rows.dtype)
    buckets = ((bits >> 1) % jnp.asarray(dimension, jnp.uint32)).astype(jnp.int32)
    # Turned round, a bucket's entries of all rows lie side by side: four times as fast.
    return jax.ops.segment_sum((rows * signs[None]).T, buckets, num_segments=dimension).T
