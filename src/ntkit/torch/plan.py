"""What will be done for each parameter, and what it costs."""

import dataclasses

from ntkit._check import format_bytes
from ntkit.torch import costs
from ntkit.torch.structure import Structure
from ntkit.torch.uses import Dense, Lookup


@dataclasses.dataclass(frozen=True)
class Step:
    """One parameter: the method, its multiply-adds, and the bytes that it holds at a time; `why` it falls back, if it
    does."""

    parameter: str
    method: costs.Method
    operations: int
    size: int
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A table of `steps`, printed by `str`. Examples are taken in `blocks`, the network in `segments` from the outputs
    down. `jacobian` is the bytes of the Jacobians, which are formed only where they are small."""

    steps: list[Step]
    blocks: int
    segments: int
    jacobian: int

    @property
    def operations(self) -> int:
        """Multiply-adds of all steps, without the passes through the network."""
        return sum(step.operations for step in self.steps)

    def method(self, parameter: str) -> str:
        return next(step.method for step in self.steps if step.parameter == parameter)

    def __str__(self) -> str:
        rows = [("parameter", "method", "multiply-adds", "bytes")]
        rows += [(s.parameter, s.method, f"{s.operations:.2e}", format_bytes(s.size)) for s in self.steps]
        parts = f"{self.blocks} block(s), {self.segments} segment(s)"
        rows += [("all", parts, f"{self.operations:.2e}", f"{format_bytes(self.jacobian)} Jacobian")]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        lines += [f"{s.parameter} falls back: it {s.why}." for s in self.steps if s.why]
        return "\n".join(lines)


def step(
    name: str, entries: int, s: Structure, n: tuple[int, int], symmetric: bool, o: int, outputs: str, word: int
) -> Step:
    """The way to the kernel of one parameter of `entries` numbers, for n1 and n2 examples, numbers of `word` bytes."""
    examples = n[0] if symmetric else sum(n)
    pairs = costs.pairs_of(*n, symmetric)
    rows = examples * o * entries
    by_rows = costs.contraction(pairs, o, outputs, entries)
    if name in s.missed:
        return Step(name, "fallback", rows + by_rows, rows * word, s.missed[name])
    us = s.uses[name]
    made = sum(examples * o * _product(s.sizes[u]) for u in us)
    if name in s.derived:
        return Step(name, "pulled back", made + by_rows, rows * word)
    if len(us) == 1 and s.kinds[us[0]] is Dense:
        sizes = costs.Sizes(*s.sizes[us[0]])
        method, operations = costs.dense(sizes, examples, pairs, o, outputs)
        factors = examples * sizes.groups * sizes.tokens * (sizes.k + o * sizes.f)
        return Step(name, method, operations, factors * word)
    if len(us) == 1 and s.kinds[us[0]] is Lookup:
        tokens, width = s.sizes[us[0]][1], s.sizes[us[0]][3]
        touched = min(examples * tokens, s.sizes[us[0]][2])
        operations = costs.contraction(pairs, o, outputs, touched * width)
        return Step(name, "lookup", operations, examples * tokens * o * width * word)
    if any(s.kinds[u] in (Dense, Lookup) for u in us):
        return Step(
            name, "sum of uses", made + by_rows, min(rows * word, sum(_factors(s.sizes[u], examples, o) for u in us))
        )
    return Step(name, "entries", made + by_rows, rows * word)


def by_rows(
    name: str, entries: int, s: Structure, n: tuple[int, int], symmetric: bool, o: int, outputs: str, word: int
) -> Step:
    """The same where the gradients by all parameters are kept."""
    examples = n[0] if symmetric else sum(n)
    contraction = costs.contraction(costs.pairs_of(*n, symmetric), o, outputs, entries)
    if name in s.missed:
        return step(name, entries, s, n, symmetric, o, outputs, word)
    made = sum(examples * o * _product(s.sizes[u]) for u in s.uses[name])
    return Step(name, "gradients", made + contraction, examples * o * entries * word)


def _product(sizes: tuple[int, int, int, int]) -> int:
    g, t, k, f = sizes
    return g * t * k * f


def _factors(sizes: tuple[int, int, int, int], n: int, o: int) -> int:
    g, t, k, f = sizes
    return n * g * t * (k + o * f)
