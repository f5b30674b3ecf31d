"""The empirical NTK of a torch module."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import torch

from ntkit._check import parse_memory
from ntkit._progress import Meter, Progress
from ntkit.errors import InputError
from ntkit.linalg.products import check_count, generator
from ntkit.linalg.sketch import Projection, drawn, measured
from ntkit.torch.blocks import Block, Pair, blocks_of, gradients_by, held_per_example
from ntkit.torch.checks import check_examples, check_same_examples
from ntkit.torch.contract import Gram, Outputs
from ntkit.torch.cuts import Segment, segments_within, turns_of
from ntkit.torch.descent import Descent, passing_per_example, side_of
from ntkit.torch.operator import operator_of
from ntkit.torch.plan import Plan, by_rows, step
from ntkit.torch.project import projected
from ntkit.torch.side import Side
from ntkit.torch.structure import Structure, study
from ntkit.torch.target import Target

Tensor = torch.Tensor


class EmpiricalNTK:
    """The empirical Neural Tangent Kernel of a finite network, exactly:

        K[i, j, a, b] = sum over parameters p of  df_a(x1_i)/dtheta_p  df_b(x2_j)/dtheta_p

    Each use of a parameter has activations and cotangents, and the kernel is made of those, per parameter in the way
    that takes the fewest operations (`plan` shows it). The Jacobian is formed only where it is smaller than what passes
    through the network. What has no rule falls back to gradients example by example, for that parameter only. A module
    used twice, tied weights and functional calls are right.

    **Arguments:**

    - `module`: a torch module that maps a batch to (n, o), or a callable `fn(params, x)`. Modes, buffers and `.grad`
      are left as
      they are. Parameters with `requires_grad=False` are left out.
    - `params`: for a module None or the names of the parameters that count; for a callable a dictionary of tensors.
    - `outputs`: "mean" (n1, n2), the mean of the kernels of each output with itself; "diagonal" (n1, n2, o), these
      kernels;
      "full" (n1, n2, o, o).
    - `memory`: about how much may be held at a time beside the result and the module: `"1GiB"`, bytes, or None.

    **Raises:** `InputError` for modules that are not a function of one example each (BatchNorm in train mode,
    Dropout, other
    randomness, statistics over the batch), and for other dtypes than float32 and float64.

    Equivalent to contracting `torch.func.vmap(torch.func.jacrev(f))` with itself. Novak et al. 2022, "Fast finite
    width neural
    tangent kernel", calls the method structured derivatives.
    """

    def __init__(
        self,
        module: torch.nn.Module | Callable[..., Any],
        params: Mapping[str, Tensor] | Iterable[str] | None = None,
        *,
        outputs: Outputs = "mean",
        memory: str | int | None = "1GiB",
    ):
        if outputs not in ("full", "diagonal", "mean"):
            raise InputError(f'`outputs` must be "full", "diagonal" or "mean", but got {outputs!r}.')
        self._target = Target(module, params)
        self._outputs: Outputs = outputs
        self._memory = parse_memory(memory)
        self._studied: dict[tuple, Structure] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_studied": {}}  # known by the addresses of parameters

    @property
    def outputs(self) -> Outputs:
        """What it returns, as given."""
        return self._outputs

    def __call__(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """(n1, n2), (n1, n2, o) or (n1, n2, o, o), as `outputs` says; `x2=None` stands for `x1`, at half the work."""
        return self._kernels(x1, x2, alone=False, apart=False)[""]

    def diagonal(self, x: Tensor) -> Tensor:
        """Of each example with itself: (n,), (n, o) or (n, o, o)."""
        return self._kernels(x, None, alone=True, apart=False)[""]

    def by_layer(self, x1: Tensor, x2: Tensor | None = None) -> dict[str, Tensor]:
        """The kernel of each parameter by name; their sum is the kernel."""
        return self._kernels(x1, x2, alone=False, apart=True)

    def plan(self, x1: Tensor, x2: Tensor | None = None) -> Plan:
        """What is done for each parameter, with multiply-adds and bytes; `str` of it is a table."""
        x1, other = self._checked(x1, x2)
        with self._target.unchanged():
            s = self._structure(x1)
        n, word = (len(x1), len(x1 if other is None else other)), self._target.like.element_size()
        examples = n[0] if other is None else sum(n)
        small = self._is_small(s, examples)
        segments = 1 if small else len(self._segments(s, examples))
        blocks = 1 if segments > 1 else len(self._blocks(s, n[0], memory=SLAB if small else None))
        sizes = {name: p.numel() for name, p in self._target.parameters.items()}
        about = (s, n, other is None, s.outputs, self._outputs, word)
        steps = [(by_rows if small else step)(name, size, *about) for name, size in sizes.items()]
        return Plan(steps, blocks, segments, examples * s.outputs * sum(sizes.values()) * word)

    def to_scipy(self, x: Tensor):
        """The (n o, n o) kernel as a `scipy.sparse.linalg.LinearOperator`: one vjp and one jvp for each product.

        Row i o + a is output a of example i. Whatever `outputs` is, the operator is of the full kernel; nothing of
        the size of the
        Jacobian or of the kernel is formed. For `scipy.sparse.linalg.eigsh`.
        """
        x, _ = self._checked(x, None)
        with self._target.unchanged():
            s = self._structure(x)
            passing = passing_per_example(s, self._target.like.element_size())
            blocks = [b.rows for b in blocks_of(len(x), 1, 0, passing, self._memory)]
        return operator_of(self._target, x, s.outputs, blocks)

    def project(self, x: Tensor, dimension: int, *, key: int, check: int = 8, progress: Progress = True) -> Projection:
        """Features phi (n, dimension) with E phi phi^T = kernel(x): gradients, projected at random by a count sketch.

        Where `outputs` are "diagonal" or "full", phi is (n, o, dimension), and phi[i, a] . phi[j, b] estimates
        K_ab(x_i, x_j). The standard error of an inner product is at most sqrt((k_ii k_jj + k_ij^2) / dimension); it is
        measured on `check` examples, against the exact kernel. Neither Jacobian nor projection is held: of a block of
        examples, as `memory` allows, the gradients of one output by one parameter at a time.

        `key` is a whole number: the same one gives the same projection, also of other batches, so that those may be
        projected one after the other. As `ntkit.project`, which draws other numbers.
        """
        check_count("dimension", dimension, 1)
        rng = generator(key)
        if isinstance(key, jax.Array):
            raise InputError("`key` must be a whole number here, but is a key of JAX.")
        x, _ = self._checked(x, None)
        examples = drawn(rng, len(x), check)
        with self._target.unchanged():
            s = self._structure(x)
            largest = 3 * max(p.numel() for p in self._target.parameters.values())
            rows = self._blocks(s, len(x), outs=1, extra=largest * self._target.like.element_size())
            # One output at a time: a sketch is drawn for each block, so that many examples should share one.
            blocks = [Block(b.rows, slice(a, a + 1)) for b in rows for a in range(s.outputs)]
            with Meter(progress, 0, len(blocks), "project", "blocks") as meter:
                features = projected(self._target, s, x, blocks, dimension, key, self._outputs, meter)
        chosen = torch.tensor(examples, device=x.device)
        few, exact = features[chosen.to(features.device)], self(x[chosen])
        return measured(features, examples, few.cpu().numpy(), exact.cpu().numpy())

    def _checked(self, x1: Any, x2: Any) -> tuple[Tensor, Tensor | None]:
        x1 = check_examples("x1", x1, self._target)
        if x2 is not None:
            x2 = check_examples("x2", x2, self._target)
            check_same_examples(x1, x2)
        self._target.check_mode()
        return x1, x2

    def _structure(self, x: Tensor) -> Structure:
        key = (tuple(x.shape[1:]), x.dtype, *self._target.state())
        if key not in self._studied:
            self._studied[key] = study(self._target, x)
        return self._studied[key]

    def _rows_at_once(self, first: Tensor, n: int) -> int:
        """How many of n examples like the first pass through the network at a time; all where their Jacobian is
        kept."""
        with self._target.unchanged():
            s = self._structure(first)
        if self._is_small(s, n):
            return n
        rows = self._blocks(s, n)[0].rows
        return rows.stop - rows.start

    def _is_small(self, s: Structure, examples: int) -> bool:
        """Whether the Jacobian is less than half of what activations and cotangents would be: few weights that see many
        pixels. Then it is kept in their place."""
        sizes = {name: p.numel() for name, p in self._target.parameters.items()}
        word = self._target.like.element_size()
        jacobian = examples * s.outputs * sum(sizes.values()) * word
        held = examples * held_per_example(s, sizes, s.outputs, word)
        fits = self._memory is None or max(jacobian, SLAB) <= self._memory // 4
        return not s.derived and fits and held > max(SLAB, 2 * jacobian)

    def _segments(self, s: Structure, examples: int) -> list[Segment]:
        """The fewest segments of the network of which each, at all examples, holds a quarter of the memory; one if
        there is no such number."""
        word = self._target.like.element_size()
        held = [examples * word * numbers for numbers in s.held(s.outputs)]
        limit = float("inf") if self._memory is None else self._memory / 4
        return segments_within(s.cuts, s.uses, held, limit) or [Segment(None, None, s.wanted)]

    def _blocks(
        self, s: Structure, n: int, outs: int | None = None, extra: int = 0, memory: int | None = None
    ) -> list[Block]:
        """`extra`: further bytes that an example holds. `memory` if not that of the kernel."""
        memory = self._memory if memory is None else memory
        sizes = {name: p.numel() for name, p in self._target.parameters.items()}
        word, o = self._target.like.element_size(), s.outputs
        most = held_per_example(s, sizes, o if outs is None else outs, word) + extra
        least = held_per_example(s, sizes, 1, word) + extra // o
        blocks = blocks_of(n, o, max(1, (most - least) // max(1, o - 1)), most, memory)
        return blocks if outs is None else [b for b in blocks if b.outs.start == 0]

    def _kernels(
        self,
        x1: Any,
        x2: Any,
        alone: bool,
        apart: bool,
        told: Callable[[int, int], None] | None = None,
        kept: dict[Any, Side] | None = None,
    ) -> dict[str, Tensor]:
        """By name of the parameter, or "" for all. `told` is called with the steps done and all steps.

        `kept`: the last block of `x1` as an earlier call with the same `x1` left it, and as this one leaves it.
        """
        x1, other = self._checked(x1, x2)
        with self._target.unchanged():
            s = self._structure(x1)
            names = list(self._target.parameters) if apart else [""]
            run = _Run(self._target, s, self._outputs, self._memory, alone, apart, told, kept)
            examples = len(x1) + (0 if other is None else len(other))
            small = self._is_small(s, examples)
            segments = [] if small or kept is not None else self._segments(s, examples)
            memory = SLAB if small else None
            blocks1 = self._blocks(s, len(x1), memory=memory)
            blocks2 = blocks1 if other is None else self._blocks(s, len(other), memory=memory)
            shape = {"full": (s.outputs, s.outputs), "diagonal": (s.outputs,), "mean": ()}[self._outputs]
            n = (len(x1),) if alone else (len(x1), len(x1 if other is None else other))
            results = {name: x1.new_zeros((*n, *shape), dtype=self._target.like.dtype) for name in names}
            if len(segments) > 1:
                run.by_segments(results, x1, other, segments)
            else:
                (run.by_rows if small else run.all_blocks)(results, x1, other, blocks1, blocks2)
        if self._outputs == "mean":
            for value in results.values():
                value /= s.outputs
        return results


class _Run:
    """One computation: the blocks in turn."""

    def __init__(
        self,
        target: Target,
        s: Structure,
        outputs: Outputs,
        memory: int | None,
        alone: bool,
        apart: bool,
        told: Callable[[int, int], None] | None,
        kept: dict[Any, Side] | None,
    ):
        self.outputs: Outputs = outputs
        self.target, self.s, self.alone, self.apart = target, s, alone, apart
        self.told, self.done, self.steps, self.kept = told, 0, 0, kept
        self.memory = memory
        budget = 1 << 60 if memory is None else memory
        self.most = max(1, min(budget // 8, CHUNK) // target.like.element_size())

    def all_blocks(self, results, x1: Tensor, other: Tensor | None, blocks1: list[Block], blocks2: list[Block]) -> None:
        x2, symmetric = x1 if other is None else other, other is None
        todo = [self._partners(p, b1, blocks2, symmetric) for p, b1 in enumerate(blocks1)]
        # A step is a side, or a parameter of a pair.
        self.steps = len(todo) + sum(map(len, todo)) * (len(self.target.parameters) + 1)
        self._told(0)
        for p, (b1, partners) in enumerate(zip(blocks1, todo)):
            side1 = self._first(x1, b1)
            self._told(1)
            for q in partners:
                b2, one = blocks2[q], symmetric and p == q
                side2 = side1 if one else side_of(self.target, x2[b2.rows], self.s, b2.outs, self.memory)
                self._told(1)
                self._pair(results, side1, side2, b1, b2, mirrored=symmetric and not one)

    def _first(self, x1: Tensor, b1: Block) -> Side:
        place = (b1.rows.start, b1.rows.stop, b1.outs.start, b1.outs.stop)
        found = None if self.kept is None else self.kept.get(place)
        side = side_of(self.target, x1[b1.rows], self.s, b1.outs, self.memory) if found is None else found
        if self.kept is not None:
            self.kept.clear()
            self.kept[place] = side
        return side

    def by_rows(self, results, x1: Tensor, other: Tensor | None, blocks1: list[Block], blocks2: list[Block]) -> None:
        """The same by the Jacobian of all examples, which is small."""
        self.steps = len(blocks1) + (0 if other is None else len(blocks2)) + len(self.target.parameters)
        self._told(0)
        side1 = self._rows(x1, blocks1)
        side2 = side1 if other is None else self._rows(other, blocks2)
        everything = (Block(slice(0, side.n), slice(0, side.o)) for side in (side1, side2))
        self._pair(results, side1, side2, *everything, mirrored=False)

    def _rows(self, x: Tensor, blocks: list[Block]) -> Side:
        o = self.s.outputs
        rows = {name: p.new_empty((len(x), o, p.numel())) for name, p in self.target.parameters.items()}
        for b in blocks:
            for first in range(b.outs.start, b.outs.stop, OUTPUTS):
                outs = slice(first, min(first + OUTPUTS, b.outs.stop))
                side = side_of(self.target, x[b.rows], self.s, outs, self.memory)
                with torch.no_grad():
                    for name, whole in rows.items():
                        whole[b.rows, outs] = gradients_by(self.target, self.s, side, name, self.most)
                del side  # before the next one is made
            self._told(1)
        return Side(len(x), o, rows)

    def _partners(self, p: int, b1: Block, blocks2: list[Block], symmetric: bool) -> list[int]:
        """The blocks of x2 that are paired with block p of x1."""
        return [
            q
            for q, b2 in enumerate(blocks2)
            if not (symmetric and (q < p or (self.alone and b1.rows != b2.rows)))
            and (self.outputs == "full" or b1.outs == b2.outs)
        ]

    def _told(self, steps: int) -> None:
        self.done += steps
        if self.told is not None:
            self.told(self.done, self.steps)

    def by_segments(self, results, x1: Tensor, other: Tensor | None, segments: list[Segment]) -> None:
        """All examples in one block, segment by segment of the network: a parameter's turn comes where the last of its
        uses has been passed, and then these are let go."""
        every = slice(0, self.s.outputs)
        one = Descent(self.target, x1, self.s, every, self.memory)
        two = one if other is None else Descent(self.target, other, self.s, every, self.memory)
        sides = [one] if two is one else [one, two]
        blocks = (Block(slice(0, d.side.n), every) for d in (one, two))
        total = _Total(self, results, one.side, two.side, *blocks, mirrored=False)
        turns = turns_of(segments, self.s.uses, list(self.target.parameters))
        self.steps = len(segments) * len(sides) + len(self.target.parameters)
        self._told(0)
        for segment, names in zip(segments, turns, strict=True):
            for descent in sides:
                descent.through(segment)
                self._told(1)
            total.add(names)
            for descent in sides:
                descent.side.forget(u for name in names for u in self.s.uses.get(name, ()))
        total.end()

    def _pair(self, results, side1: Side, side2: Side, b1: Block, b2: Block, mirrored: bool) -> None:
        total = _Total(self, results, side1, side2, b1, b2, mirrored)
        total.add(list(self.target.parameters))
        total.end()


class _Total:
    """The kernel of two sides so far, of all parameters together or (`run.apart`) of each."""

    def __init__(self, run: _Run, results, side1: Side, side2: Side, b1: Block, b2: Block, mirrored: bool):
        self._run, self._results, self._place_of = run, results, (b1, b2, mirrored)
        self._pair = Pair(run.target, run.s, side1, side2, run.alone, run.most)
        self._symmetric = side1 is side2 and not run.alone
        self._n, self._b = ((1, 1), side1.n) if run.alone else ((side1.n, side2.n), 1)
        self._o = side1.o, side2.o
        self._gram: Gram | None = None

    @torch.no_grad()
    def add(self, names: list[str]) -> None:
        """What these parameters add."""
        run = self._run
        for name in names:
            p = run.target.parameters[name]
            if self._gram is None or run.apart:
                self._gram = Gram.zeros(run.outputs, self._b, self._n, self._o, self._symmetric, p)
            about = (run.s, self._n, self._symmetric, self._o[0], run.outputs, p.element_size())
            self._pair.add(self._gram, step(name, p.numel(), *about))
            run._told(1)
            if run.apart:
                self._place(self._results[name])

    @torch.no_grad()
    def end(self) -> None:
        if self._gram is not None and not self._run.apart:
            self._place(self._results[""])

    def _place(self, result: Tensor) -> None:
        """Adds the block to where it belongs, and its transpose; blocks of outputs add up in a mean."""
        assert self._gram is not None
        (b1, b2, mirrored), alone, outputs = self._place_of, self._run.alone, self._run.outputs
        part = self._gram.result()
        part = part[:, 0, 0] if alone else part[0]
        rows = (b1.rows,) if alone else (b1.rows, b2.rows)
        outs = {"full": (b1.outs, b2.outs), "diagonal": (b1.outs,), "mean": ()}[outputs]
        result[(*rows, *outs)] += part
        if mirrored:
            outs = {"full": (b2.outs, b1.outs), "diagonal": (b1.outs,), "mean": ()}[outputs]
            part = part if alone else part.transpose(0, 1)
            part = part.transpose(-1, -2) if outputs == "full" else part
            result[(*reversed(rows), *outs)] += part


# Bytes of gradients made at a time: they are read again while they are in the cache.
CHUNK = 1 << 22
# Bytes that pass through the network at a time where the Jacobian is kept: a quarter of it makes a block.
SLAB = 3 << 24
# Outputs whose cotangents are held at a time there. Each lot costs a forward pass.
OUTPUTS = 5
