"""From examples to the gradients at the uses of parameters: forward, and back down the network."""

import torch

from ntkit.errors import InputError
from ntkit.torch.cuts import Segment
from ntkit.torch.fallback import example_rows
from ntkit.torch.record import Trail
from ntkit.torch.side import Recording, Side, differentiate, record
from ntkit.torch.structure import Structure
from ntkit.torch.target import Target
from ntkit.torch.uses import Dense

Tensor = torch.Tensor

# Bytes that pass through the network at a time.
PASSING = 1 << 27


def passing_per_example(s: Structure, word: int) -> int:
    """Bytes that one example holds on its way through the network and back: the graph, and cotangents of one output."""
    # The graph keeps an operation's input, its output and about one thing in between.
    about = zip(s.kinds, s.reads, s.outs)
    return max(1, word * sum(read + 3 * out if kind is Dense else 2 * out for kind, read, out in about))


def passes(n: int, per_example: int, memory: int | None) -> list[slice]:
    """Examples that pass together; never one alone of several, which some modules take for no batch."""
    most = PASSING if memory is None else min(PASSING, memory // 4)
    parts = max(1, n // max(2, most // per_example))
    return [slice(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


def side_of(target: Target, x: Tensor, s: Structure, outs: slice, memory: int | None) -> Side:
    """The gradients of outputs `outs` at the examples `x`, at all uses of parameters."""
    descent = Descent(target, x, s, outs, memory)
    descent.through(Segment(None, None, s.wanted))
    return descent.side


class Descent:
    """Examples on their way through the network and back, in segments from the outputs down, some examples at a time:
    only what they leave at the uses of a segment is held of all, in `side`."""

    def __init__(self, target: Target, x: Tensor, s: Structure, outs: slice, memory: int | None):
        self.side = Side(len(x), outs.stop - outs.start, {})
        self._target, self._x, self._s, self._outs = target, x, s, outs
        self._passes = passes(len(x), passing_per_example(s, target.like.element_size()), memory)
        # Of each pass and output the cotangents where the last segment ended.
        self._above: list[list[Tensor | None]] = [[] for _ in self._passes]

    def through(self, segment: Segment) -> None:
        """Fills in the uses of the next segment. Where the way through the network depends on the data, `side.rows`
        instead, for all parameters."""
        if len(self.side.rows):
            return
        wanted = [u in segment.uses for u in range(len(self._s.kinds))]
        for k, rows in enumerate(self._passes):
            trail = Trail(segment.above and segment.above.call, segment.below and segment.below.call)
            recording = record(self._target, self._x[rows], trail)
            if not self._is_as_studied(recording, segment, rows.stop - rows.start) or not self.side.begin(
                rows, recording.sites, self._s.layouts, wanted
            ):
                self.side.rows = self._by_examples(list(self._target.parameters), loop=True)
                return
            self._above[k] = self._fill(recording, wanted, self._above[k])
            self.side.end()
        if segment.below is None and self._s.missed:
            self.side.rows = self._by_examples(list(self._s.missed), loop=self._s.loop)

    def _by_examples(self, names: list[str], loop: bool) -> dict[str, Tensor]:
        return example_rows(self._target, names, self._x, self._outs, loop=loop)

    def _is_as_studied(self, recording: Recording, segment: Segment, n: int) -> bool:
        above, below, trail = segment.above, segment.below, recording.trail
        if above is None and recording.y.shape[1] != self._s.outputs:
            raise InputError(
                f"`module` returned {self._s.outputs} outputs for one batch and {recording.y.shape[1]} for another."
            )
        if (above and trail.sign != above.sign) or (below and trail.sign_at_mark != below.sign):
            return False
        return self._s.fits(recording, n, whole=above is None)

    def _fill(self, recording: Recording, wanted: list[bool], above: list[Tensor | None]) -> list[Tensor | None]:
        """Takes the gradients at the wanted uses, and returns the cotangents where the segment ends."""
        y, edge, asked, u = recording.y, recording.trail.edge, [], 0
        for site in recording.sites:
            if any(wanted[u : u + len(site.uses)]):
                asked.append(site)
            u += len(site.uses)
        extra = () if edge is None else (edge,)
        below: list[Tensor | None] = []
        for a in range(self.side.o):
            along, last = above[a] if above else _one_of(y, self._outs.start + a), a + 1 == self.side.o
            if along is None:
                below.append(None)
                continue
            grads = differentiate(y, asked, along, not last, extra)
            below += grads[len(asked) :]
            found = dict(zip(map(id, asked), grads))
            with torch.no_grad():
                self.side.fill(a, [found.get(id(site)) for site in recording.sites for _ in site.uses], wanted)
        return below


def _one_of(y: Tensor, output: int) -> Tensor:
    one = torch.zeros_like(y)
    one[:, output] = 1
    return one
