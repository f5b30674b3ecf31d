"""What a kernel will cost, counted before anything is computed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.extend.core as core

from ntkit._check import format_bytes
from ntkit.empirical._rules import Count, Outputs, Rule, Shapes, count
from ntkit.empirical.methods import ByVectorProducts, Method, Network, Structured


@dataclasses.dataclass(frozen=True)
class Line:
    """One parameter: its name, shape, how it is treated, multiply-adds, and bytes held at once."""

    name: str
    shape: tuple[int, ...]
    rule: str
    operations: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A line for each parameter; print it."""

    method: Method
    lines: tuple[Line, ...]

    @property
    def operations(self) -> int:
        """Multiply-adds of all, without the passes through the network."""
        return sum(line.operations for line in self.lines)

    @property
    def bytes(self) -> int:
        """Held at once, without the result."""
        return sum(line.bytes for line in self.lines)

    def __str__(self) -> str:
        rows = [("parameter", "shape", "method", "multiply-adds", "memory")]
        rows += [
            (line.name, str(line.shape), line.rule, f"{line.operations:.3g}", format_bytes(line.bytes))
            for line in self.lines
        ]
        rows.append(("all", "", type(self.method).__name__, f"{self.operations:.3g}", format_bytes(self.bytes)))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def plan_of(
    net: Network, method: Method, names: dict[int, str], n1: int, n2: int, kind: Outputs, same: bool, itemsize: int
) -> Plan:
    """Of a network for n1 x n2 pairs."""
    lines = []
    # Vector products see no uses; what their passes cost is read off those all the same.
    by_factors = Structured() if isinstance(method, ByVectorProducts) else method
    for leaf, (rule, shapes) in by_factors.treat(net, n1, n2, kind, same)[1].items():
        if isinstance(method, ByVectorProducts):
            cost, how = _of_products(net, rule, shapes, n1, n2), "vector products"
        else:
            cost, how = count(rule, shapes, n1, n2, net.outputs, kind, same), rule.value
        shape = net.jaxpr.jaxpr.invars[leaf].aval.shape
        lines.append(Line(names[leaf], shape, how, cost.operations, itemsize * cost.numbers))
    return Plan(method, tuple(lines))


def automatic(net: Network, n1: int, n2: int, kind: Outputs, same: bool) -> Method:
    """`Structured`, unless its parameters that are left to autodiff are so large that vector products are cheaper."""
    how = Structured().treat(net, n1, n2, kind, same)[1].values()
    structured = sum(count(rule, shapes, n1, n2, net.outputs, kind, same).operations for rule, shapes in how)
    products = sum(_of_products(net, *one, n1, n2).operations for one in how)
    return ByVectorProducts() if products < structured / 2 else Structured()


def _of_products(net: Network, rule: Rule, shapes: Shapes, n1: int, n2: int) -> Count:
    """A vjp of one example and a jvp of n1 for each of n2 examples and o outputs; a pass costs about T c f, of a lookup
    its rows, and a tangent of the whole table for all."""
    t, c, f = shapes
    once, whole = (t * f, 2 * c * f) if rule is Rule.TOKENS else (t * c * f, 0)
    return Count(n2 * net.outputs * ((2 * n1 + 2) * once + whole), (n1 + 2) * c * f // max(1, n1) + n1 * t * f)


def rows_within(net: Network, budget: int, n: int) -> int:
    """How many of n examples a forward and a backward pass may take at a time: blocks of nearly one size."""
    jaxpr = net.jaxpr.jaxpr
    data = [False] * net.leaves + [True] * (len(jaxpr.invars) - net.leaves)
    # Each intermediate result, and its cotangent or tangent.
    most = max(1, budget // max(1, 2 * activations(jaxpr, data)))
    return -(-n // -(-n // most))


def activations(jaxpr: Any, data: Sequence[bool]) -> int:
    """Bytes of all that a program computes from those of its inputs that are `data`."""
    total, known = 0, {v for v, is_data in zip(jaxpr.invars, data, strict=True) if is_data}
    for eqn in jaxpr.eqns:
        if not any(isinstance(v, core.Var) and v in known for v in eqn.invars):
            continue
        known.update(eqn.outvars)
        inner = 0
        for program in _programs(eqn.params.values()):
            of_data = [isinstance(v, core.Var) and v in known for v in eqn.invars[-len(program.invars) :]]
            of_data = [True] * (len(program.invars) - len(of_data)) + of_data
            inner += activations(program, of_data[: len(program.invars)])
        own = sum(v.aval.size * v.aval.dtype.itemsize for v in eqn.outvars if hasattr(v.aval, "size"))
        total += max(own, inner * eqn.params.get("length", 1))
    return total


def _programs(values: Any) -> list[Any]:
    """The programs among an equation's parameters: of a call, a loop, the branches of a conditional."""
    flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
    found = [v for v in flat if isinstance(v, core.ClosedJaxpr | core.Jaxpr)]
    return [v.jaxpr if isinstance(v, core.ClosedJaxpr) else v for v in found]
