"""Three ways to the same numbers: structured, by the Jacobian, by vector products."""

import abc
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.extend.core as core
import jax.numpy as jnp
from jaxtyping import Array

from ntkit.empirical._rules import (
    Factor,
    Gradients,
    Outputs,
    Pairs,
    Rule,
    Shapes,
    cheaper,
    contribution,
    gradients,
)
from ntkit.empirical._uses import Record, Use, Uses, apply_with_uses, columns, find_uses, slices


class Network(NamedTuple):
    """A function of one example: its program, and how many parameters, inputs and outputs that has."""

    jaxpr: Any
    leaves: int
    wanted: tuple[int, ...]  # parameters that count
    outputs: int


def network(fn: Callable, params: Any, example: Any, wanted: tuple[int, ...]) -> Network:
    """Of fn(params, x) -> (n, o), for an example without the batch axis (arrays or their shapes)."""

    def one(leaves: list[Any], inputs: Any) -> Array:
        return fn(jax.tree.unflatten(treedef, leaves), jax.tree.map(lambda a: a[None], inputs))[0]

    leaves, treedef = jax.tree.flatten(params)
    jaxpr, out = jax.make_jaxpr(one, return_shape=True)(leaves, example)
    return Network(jaxpr, len(leaves), wanted, out.shape[0])


def length(x: Any) -> int:
    """Examples in a batch."""
    return jax.tree.leaves(x)[0].shape[0]


class ByLeaf(NamedTuple):
    """How each parameter that counts is treated."""

    rule: Rule
    shapes: Shapes


@dataclasses.dataclass(frozen=True)
class _ByFactors(abc.ABC):
    """A method that makes a factor of each side for each parameter. `chunk`: examples differentiated at once."""

    chunk: int | None = None

    @abc.abstractmethod
    def treat(self, net: Network, n1: int, n2: int, kind: Outputs, same: bool) -> tuple[Uses, dict[int, ByLeaf]]:
        """The uses that are made use of, and how each parameter that counts is treated."""

    def by_leaf(self, net: Network, leaves: list[Any], x1: Any, x2: Any, kind: Outputs) -> dict[int, Array]:
        """What each parameter adds, as `contribution`; x2 None for x1 again."""
        sizes = length(x1), length(x1 if x2 is None else x2)
        left = self.factors(net, leaves, x1, *sizes, kind, x2 is None)
        right = left if x2 is None else self.factors(net, leaves, x2, *sizes, kind, False)
        return {leaf: contribution(left[leaf], right[leaf], kind) for leaf in net.wanted}

    def factors(
        self, net: Network, leaves: list[Any], x: Any, n1: int, n2: int, kind: Outputs, same: bool
    ) -> dict[int, Factor]:
        """Of some examples, of n1 and n2 on the two sides."""
        uses, how = self.treat(net, n1, n2, kind, same)
        return _over_examples(partial(_factors_of_one, net, leaves, uses, how), x, self.chunk)


@dataclasses.dataclass(frozen=True)
class Structured(_ByFactors):
    """Never the Jacobian: of each parameter activations and cotangents, or its own gradients, whichever is cheaper.

    A dense parameter adds (A1 A2^T) * (G1 G2^T); one with several rows (sequences, convolutions) pairs of rows or
    gradients, by counted operations; a table of tokens their pairs. What is used in two ways, or in another, is left to
    autodiff, for that parameter alone. `chunk`: examples differentiated at once, in a loop; default all. (XLA for CPU
    runs convolutions many times slower inside of loops: there smaller tiles of `ntkit.gram` are the better way.)
    """

    def treat(self, net: Network, n1: int, n2: int, kind: Outputs, same: bool) -> tuple[Uses, dict[int, ByLeaf]]:
        uses, how = find_uses(net.jaxpr, net.leaves, net.wanted), {}
        for leaf in net.wanted:
            if leaf not in uses.by_leaf:
                how[leaf] = _by_autodiff(net, leaf)
                continue
            rows = [_shape_of_columns(use) for use in uses.by_leaf[leaf]]
            t, f = sum(t for t, _ in rows), rows[0][1]
            shapes = Shapes(t, net.jaxpr.jaxpr.invars[leaf].aval.size // f, f)
            tokens = uses.by_leaf[leaf][0].kind == "gather"
            rule = cheaper(shapes, n1, n2, net.outputs, kind, same, tokens)
            how[leaf] = ByLeaf(rule, shapes)
        return uses, how


def _factors_of_one(
    net: Network, leaves: list[Any], uses: Uses, how: dict[int, ByLeaf], example: Any
) -> dict[int, Factor]:
    others = [leaf for leaf in net.wanted if leaf not in uses.by_leaf]

    def run(added: list[list[Array]], free: list[Array]) -> tuple[Array, Any]:
        arrays = list(leaves)
        for leaf, value in zip(others, free, strict=True):
            arrays[leaf] = value
        flat = jax.tree.leaves(example)
        out, records = apply_with_uses(net.jaxpr, [*arrays, *flat], net.leaves, uses, added)
        return out[0], records

    nothing = [[jnp.zeros(use.shape, use.dtype) for use in uses.by_leaf[leaf]] for leaf in uses.leaves]
    out, pull, records = jax.vjp(run, nothing, [leaves[leaf] for leaf in others], has_aux=True)
    at_uses, of_others = jax.vmap(pull)(jnp.eye(len(out), dtype=out.dtype))
    factors: dict[int, Factor] = {}
    for leaf, came, cotangents in zip(uses.leaves, records, at_uses, strict=True):
        each = zip(uses.by_leaf[leaf], came, cotangents, strict=True)
        scaled = [_scaled(use, record, jax.vmap(partial(columns, use))(g)) for use, record, g in each]
        x, g = (jnp.concatenate(parts, axis) for parts, axis in zip(zip(*scaled, strict=True), (0, 1), strict=True))
        factors[leaf] = _factor(uses.by_leaf[leaf][0], x, g, how[leaf].rule)
    for leaf, value in zip(others, of_others, strict=True):
        factors[leaf] = Gradients(value.reshape(len(out), -1))
    return factors


def gradients_of(net: Network, leaves: list[Array], x: Any) -> dict[int, Array]:
    """(n, o, p) of each parameter that counts, its entries in an order of their own that depends on `net` alone."""
    uses, how = Structured().treat(net, 1, 1, "full", True)
    formed = {leaf: known._replace(rule=Rule.GRADIENTS) for leaf, known in how.items()}
    found = jax.vmap(partial(_factors_of_one, net, leaves, uses, formed))(x)
    return {leaf: factor.values for leaf, factor in found.items() if isinstance(factor, Gradients)}


def _scaled(use: Use, record: Record, g: Array) -> tuple[Array, Array]:
    """What came in at one use and its cotangents (o, T, f), one of them times the parameter's factor."""
    scale = jnp.asarray(record.scale, g.dtype)
    # With the activations, so that a weight and its bias share the Gram matrix of their cotangents; tokens bear none.
    return (record.activations, g * scale) if use.kind == "gather" else (record.activations * scale, g)


def _factor(use: Use, x: Array, g: Array, rule: Rule) -> Factor:
    """Of all rows of one parameter, used as `use`."""
    if rule in (Rule.ROWS, Rule.TOKENS):
        return Pairs(x, g)
    x = jax.nn.one_hot(x[:, 0], slices(use), dtype=g.dtype) if use.kind == "gather" else x
    return Gradients(gradients(x, g))


def _shape_of_columns(use: Use) -> tuple[int, ...]:
    return jax.eval_shape(partial(columns, use), jax.ShapeDtypeStruct(use.shape, use.dtype)).shape


def _over_examples(fn: Callable[[Any], Any], x: Any, chunk: int | None) -> Any:
    if chunk is None or chunk >= length(x):
        return jax.vmap(fn)(x)
    return jax.lax.map(fn, x, batch_size=chunk)


@dataclasses.dataclass(frozen=True)
class ByJacobian(_ByFactors):
    """The gradients of all outputs by all parameters, multiplied. `chunk`: examples differentiated at once."""

    def treat(self, net: Network, n1: int, n2: int, kind: Outputs, same: bool) -> tuple[Uses, dict[int, ByLeaf]]:
        return Uses({}), {leaf: _by_autodiff(net, leaf) for leaf in net.wanted}


def _by_autodiff(net: Network, leaf: int) -> ByLeaf:
    return ByLeaf(Rule.AUTODIFF, Shapes(1, 1, net.jaxpr.jaxpr.invars[leaf].aval.size))


@dataclasses.dataclass(frozen=True)
class ByVectorProducts:
    """A vector product for each example and output of x2: one vjp there, one jvp over all x1. It holds no Jacobian, of
    no parameter, and is for networks whose single gradient is large."""

    def by_leaf(self, net: Network, leaves: list[Any], x1: Any, x2: Any, kind: Outputs) -> dict[int, Array]:
        """All parameters together, under the number -1: products do not tell them apart."""
        second = x1 if x2 is None else x2
        chosen = [leaves[leaf] for leaf in net.wanted]

        def of_batch(free: list[Array], x: Any) -> Array:
            arrays = list(leaves)
            for leaf, value in zip(net.wanted, free, strict=True):
                arrays[leaf] = value
            return jax.vmap(lambda one: _outputs(net, arrays, one))(x)

        _, push = jax.linearize(lambda free: of_batch(free, x1), chosen)

        def column(example: Any) -> Array:
            def of_one(free: list[Array]) -> Array:
                return of_batch(free, jax.tree.map(lambda a: a[None], example))[0]

            out, pull = jax.vjp(of_one, chosen)
            return jax.lax.map(lambda e: push(*pull(e)), jnp.eye(len(out), dtype=out.dtype))  # (o, n1, o)

        k = jax.lax.map(column, second)  # (n2, b, n1, a)
        if kind == "full":
            return {-1: k.transpose(2, 3, 0, 1)}
        diagonal = jnp.einsum("jaia->ija", k)
        return {-1: diagonal if kind == "diagonal" else jnp.sum(diagonal, axis=-1)}


def _outputs(net: Network, arrays: list[Any], example: Any) -> Array:
    return core.jaxpr_as_fun(net.jaxpr)(*arrays, *jax.tree.leaves(example))[0]


Method = Structured | ByJacobian | ByVectorProducts
