"""From a memory budget to blocks of examples and outputs, and the kernel of two blocks."""

import dataclasses

import torch

from ntkit.torch.contract import Gram, chunks, entries, gradients
from ntkit.torch.plan import Step
from ntkit.torch.side import Side, scattered
from ntkit.torch.structure import Structure
from ntkit.torch.target import Target

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Block:
    """Some examples and some outputs."""

    rows: slice
    outs: slice


def held_per_example(s: Structure, entries: dict[str, int], outputs: int, word: int) -> int:
    """Bytes that one example leaves for `outputs` outputs, at all uses and as rows where these are needed."""
    rows = max((entries[n] for n in entries if n in s.missed or n in s.derived), default=0)
    return max(1, word * (sum(s.held(outputs)) + 2 * outputs * rows))


def blocks_of(n: int, o: int, per_output: int, per_example: int, memory: int | None) -> list[Block]:
    """One block where all fits the budget, else blocks of a quarter of it; outputs are cut only where a single
    example does not fit."""
    whole = n * per_example
    budget = whole if memory is None or whole <= memory else memory // 4
    rows = max(1, min(n, budget // per_example))
    parts = -(-n // rows)
    rows = -(-n // parts)
    outs = o if per_example <= budget else max(1, min(o, budget // max(1, per_output)))
    return [
        Block(slice(i, min(i + rows, n)), slice(a, min(a + outs, o)))
        for i in range(0, n, rows)
        for a in range(0, o, outs)
    ]


def gradients_by(target: Target, s: Structure, side: Side, name: str, most: int) -> Tensor:
    """(n, o, p) by the parameter `name`."""
    if name in side.rows:
        return side.rows[name]
    us = s.uses[name]
    if not us:  # it reaches no output
        return target.parameters[name].new_zeros((side.n, side.o, target.parameters[name].numel()))
    if name in s.derived:
        return side.pulled_back(name, us, target.parameters[name], most)
    return entries(sum((side.of_use(u) for u in us[1:]), side.of_use(us[0])))


class Pair:
    """Adds the kernels of two sides, parameter by parameter, to a `Gram`. `alone`: of each example with itself only."""

    def __init__(self, target: Target, s: Structure, side1: Side, side2: Side, alone: bool, most: int):
        self.target, self.s, self.side1, self.side2 = target, s, side1, side2
        self.alone, self.most = alone, most

    def _lift(self, t: Tensor) -> Tensor:
        """The axis of problems: see `contract`."""
        return t[:, None] if self.alone else t[None]

    def _add(self, gram: Gram, rows) -> None:
        """K += the inner products of rows (n, o, p), made by `rows` from a side."""
        rows1 = rows(self.side1)
        rows2 = rows1 if self.side2 is self.side1 else rows(self.side2)
        gram.add(self._lift(rows1), self._lift(rows2))

    def add(self, gram: Gram, step: Step) -> None:
        name = step.parameter
        if name in self.side1.rows or name in self.side2.rows:
            self._add(gram, lambda side: self._whole(side, name))
            return
        us = self.s.uses[name]
        if not us or all(self.side1.cotangents[u] is None or self.side2.cotangents[u] is None for u in us):
            return
        whole = lambda gram, name, _: self._add(gram, lambda side: self._whole(side, name))  # noqa: E731
        {
            "rank one": self._dense,
            "tokens": self._dense,
            "gradients": self._gradients,
            "lookup": self._lookup,
            "entries": whole,
            "pulled back": whole,
            "sum of uses": self._sum_of_uses,
        }[step.method](gram, name, us)

    def _whole(self, side: Side, name: str) -> Tensor:
        return gradients_by(self.target, self.s, side, name, self.most)

    def _factors(self, u: int):
        sides = (self.side1,) if self.side1 is self.side2 else (self.side1, self.side2)
        a, g = [s.activations(u) for s in sides], [s.held(u) for s in sides]
        return a[0], a[-1], g[0], g[-1]

    def _dense(self, gram: Gram, name: str, us: list[int]) -> None:
        a1, a2, g1, g2 = self._factors(us[0])
        for q in range(a1.shape[1]):
            left, right = self._lift(a1[:, q]), self._lift(a2[:, q])
            g1q, g2q = self._lift(g1[:, q]), self._lift(g2[:, q])
            if a1.shape[2] == 1:
                gram.add_dense(left[:, :, 0], right[:, :, 0], g1q[..., 0], g2q[..., 0])
            else:
                gram.add_tokens(left, right, g1q, g2q, self.most)

    def _gradients(self, gram: Gram, name: str, us: list[int]) -> None:
        a1, a2, g1, g2 = self._factors(us[0])
        n, g, o, f = g1.shape[:4]
        size = (n + (0 if self.side1 is self.side2 else len(g2))) * g * o * f * a1.shape[-1]
        for c in chunks(f, size, self.most):
            rows1 = gradients(a1, g1[:, :, :, c]).flatten(2)
            rows2 = rows1 if self.side1 is self.side2 else gradients(a2, g2[:, :, :, c]).flatten(2)
            gram.add(self._lift(rows1), self._lift(rows2))

    def _lookup(self, gram: Gram, name: str, us: list[int]) -> None:
        """Only rows of the table that some example looks up have gradients."""
        u = us[0]
        sides = (self.side1,) if self.side1 is self.side2 else (self.side1, self.side2)
        rows, places = torch.unique(torch.cat([s.index(u).flatten() for s in sides]), return_inverse=True)
        skipped = int((rows < 0).sum())  # sorted, so that they come first
        index = dict(
            zip(
                map(id, sides),
                (p.view(s.n, -1) for p, s in zip(places.split([s.index(u).numel() for s in sides]), sides)),
            )
        )
        width = self.side1.uses[u].weight.shape[1]
        size = sum(s.n for s in sides) * self.side1.o * len(rows) * width
        for c in chunks(width, size, self.most):
            self._add(
                gram,
                lambda s, c=c: scattered(index[id(s)], s.held(u)[..., c], skipped, len(rows)).flatten(2),
            )

    def _sum_of_uses(self, gram: Gram, name: str, us: list[int]) -> None:
        parameter = self.target.parameters[name]
        if parameter.dim() == 0:  # nothing to take a part of
            self._add(gram, lambda side: self._whole(side, name))
            return
        examples = self.side1.n + (0 if self.side1 is self.side2 else self.side2.n)
        cheap = all(self.s.matrices[u] for u in us)
        most = self.most if cheap else 1 << 62
        for r in chunks(len(parameter), examples * self.side1.o * parameter.numel(), most):
            self._add(gram, lambda side, r=r: side.slab(us, r))
