"""What one parameter adds to the kernel: from activations and cotangents, or from gradients.

At its one use a parameter W (c, f) makes rows Y = X W, (T, f), so that for output a its gradient is X^T G_a. Between
two examples

    <X^T G_a, X'^T G'_b> = sum_tt' (X X'^T)_tt' (G_a G'_b^T)_tt',

either as it stands (pairs of rows; for T = 1 two Gram matrices, multiplied) or by the gradients (c, f). Which is
cheaper depends on T, c, f and the numbers of examples and outputs: it is counted. Of a lookup the rows of X are unit
vectors, and X X'^T says where two tokens are the same.
"""

import enum
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Outputs = Literal["full", "diagonal", "mean"]


class Rule(enum.Enum):
    """How a parameter is treated."""

    ROWS = "pairs of rows"
    TOKENS = "pairs of tokens"
    GRADIENTS = "gradients, from rows"
    AUTODIFF = "gradients, by autodiff"


class Shapes(NamedTuple):
    """Of one parameter's use: T rows, c columns of activations, f of cotangents; 1, 1 and the size for `AUTODIFF`."""

    rows: int
    inputs: int
    columns: int


class Count(NamedTuple):
    """Multiply-adds, and numbers held at once beside the result."""

    operations: int
    numbers: int


class Pairs(NamedTuple):
    """(n, T, c) activations, times the parameter's factor, and (n, o, T, f) cotangents. Of a lookup the activations are
    tokens, (n, T, 1), and the factor is with the cotangents."""

    activations: Array
    cotangents: Array


class Gradients(NamedTuple):
    """(n, o, p)."""

    values: Array


Factor = Pairs | Gradients


def count(rule: Rule, shapes: Shapes, n1: int, n2: int, outputs: int, kind: Outputs, same: bool) -> Count:
    """Of one parameter for n1 x n2 pairs; `same` if both sides are the same examples."""
    t, c, f = shapes
    blocks = outputs * outputs if kind == "full" else outputs
    examples = n1 if same else n1 + n2
    c = 1 if rule is Rule.TOKENS else c
    if rule in (Rule.ROWS, Rule.TOKENS):
        operations = n1 * n2 * t * t * (c + blocks * f + (blocks if t > 1 else 0))
        gram = n1 * n2 * t * t * (blocks + 1) if t > 1 else n1 * n2 * (1 + blocks)
        return Count(operations, examples * t * (c + outputs * f) + gram)
    forming = 0 if rule is Rule.AUTODIFF else examples * outputs * t * c * f
    return Count(forming + n1 * n2 * blocks * c * f, examples * outputs * c * f)


def cheaper(shapes: Shapes, n1: int, n2: int, outputs: int, kind: Outputs, same: bool, tokens: bool = False) -> Rule:
    """The rule of fewer operations for a parameter with rows, or with `tokens`."""
    rules = (Rule.TOKENS if tokens else Rule.ROWS, Rule.GRADIENTS)
    return min(rules, key=lambda rule: count(rule, shapes, n1, n2, outputs, kind, same).operations)


def gradients(activations: Array, cotangents: Array) -> Array:
    """X^T G of one example: (T, c) and (o, T, f) to (o, c f)."""
    made = jnp.einsum("tc,otf->ocf", activations, cotangents)
    return made.reshape(len(made), -1)


def contribution(left: Factor, right: Factor, kind: Outputs) -> Array:
    """(n1, o, n2, o) for "full", (n1, n2, o) for "diagonal", (n1, n2) for "mean" (the sum over outputs)."""
    if isinstance(left, Gradients):
        assert isinstance(right, Gradients)
        return _products(left.values, right.values, kind)
    assert isinstance(right, Pairs)
    (x, g), (y, h) = left, right
    n1, o, t, f = g.shape
    n2, s = len(y), y.shape[1]
    inputs = _inner(x.reshape(n1 * t, -1), y.reshape(n2 * s, -1), g.dtype)
    if t == s == 1:
        products = _products(g.reshape(n1, o, f), h.reshape(n2, -1, f), kind)
        beside = {"full": np.s_[:, None, :, None], "diagonal": np.s_[..., None], "mean": np.s_[:]}[kind]
        return inputs[beside] * products
    inputs = inputs.reshape(n1, t, n2, s)
    letters = {"full": "iatf,jbsf,itjs->iajb", "diagonal": "iatf,jasf,itjs->ija", "mean": "iatf,jasf,itjs->ij"}[kind]
    return jnp.einsum(letters, g, h, inputs, precision="highest", optimize=[(0, 1), (0, 1)])


def _inner(x: Array, y: Array, dtype: Any) -> Array:
    """X Y^T, of tokens as of unit vectors."""
    if jnp.issubdtype(x.dtype, jnp.integer):
        return ((x == y.T) & (x >= 0)).astype(dtype)
    return jnp.matmul(x, y.T, precision="highest")


def _products(g: Array, h: Array, kind: Outputs) -> Array:
    (n1, o, p), n2 = g.shape, len(h)
    if kind == "full":
        return jnp.matmul(g.reshape(n1 * o, p), h.reshape(-1, p).T, precision="highest").reshape(n1, o, n2, -1)
    if kind == "mean":
        return jnp.matmul(g.reshape(n1, o * p), h.reshape(n2, -1).T, precision="highest")
    return jnp.einsum("iap,jap->ija", g, h, precision="highest")


def finished(total: Array, kind: Outputs, outputs: int) -> Array:
    """The sum over parameters in the shape that is promised: (n1, n2, o, o), (n1, n2, o), (n1, n2)."""
    if kind == "full":
        return total.transpose(0, 2, 1, 3)
    return total / outputs if kind == "mean" else total
