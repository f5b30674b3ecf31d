"""The gradients of one set of examples: activations and cotangents of each use, and rows where a parameter fell
back."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointError

from ntkit.errors import InputError
from ntkit.torch.checks import check_outputs
from ntkit.torch.contract import chunks, gradients
from ntkit.torch.operations import RULES
from ntkit.torch.record import Recorder, Stopped, Trail, leaves_behind
from ntkit.torch.target import Target
from ntkit.torch.uses import Dense, Layout, Lookup, Matrix, Site, Use

Tensor = torch.Tensor


@dataclasses.dataclass
class Recording:
    """A forward pass: its outputs (or what it was stopped at), sites, and the parameters that reach the outputs in ways
    that were not recorded."""

    y: Tensor
    sites: list[Site]
    missed: set[str]
    trail: Trail


def record(target: Target, x: Tensor, trail: Trail | None = None) -> Recording:
    """The pass of x through the network, as far as `trail` asks."""
    names = {id(value): name for name, value in target.parameters.items()}
    recorder = Recorder(names, RULES, Trail() if trail is None else trail)
    with torch.enable_grad():
        x = x.view_as(x)
        try:
            with recorder:
                y = target(recorder.examples(x))
        except Stopped as stopped:
            y = stopped.out
        else:
            check_outputs(target, x, y)
    missed = {names[id(v)] for v in leaves_behind(y) if id(v) in names}
    return Recording(y, [s for s in recorder.sites if s.uses], missed, recorder.trail)


class Side:
    """The gradients of n examples and o outputs, by number of the use: `uses` with the activations of all examples, and
    their `cotangents` (n, g, o, f, T), (n, o, T, w) or (n, o, *weight).

    Examples pass through the network some at a time: `begin`, `fill` for each output, `end`. `rows` holds (n, o, p) of
    parameters that fell back.
    """

    def __init__(self, n: int, o: int, rows: dict[str, Tensor]):
        self.n, self.o, self.rows = n, o, rows
        self.uses: list[Use] = []
        self.layouts: list[Layout | None] = []
        self.cotangents: list[Tensor | None] = []
        self._first: dict[int, int] = {}
        self._passing: tuple[slice, list[Use]] = slice(0, 0), []

    def begin(self, rows: slice, sites: list[Site], layouts: list[Layout | None], wanted: list[bool]) -> bool:
        """Examples `rows` have passed through the sites; of the uses there only the `wanted` ones are taken.

        False if what these share is not what those of the examples before shared.
        """
        uses = [use for site in sites for use in site.uses]
        self._passing, first = (rows, uses), _first_alike(uses, wanted)
        if not self.uses:
            self.layouts = [
                layout if layout is not None and use.allows(layout, len(site.shape)) else None
                for site, layout in zip(sites, layouts)
                for use in site.uses
            ]
            self.uses, self.cotangents = [use.with_examples(None) for use in uses], [None] * len(uses)
        if rows.start == 0:
            self._first = first
            self._make_room(uses, whole=rows.stop == self.n)
        if rows.stop - rows.start < self.n and first == self._first:
            self._copy(rows, uses)
        return first == self._first

    def _make_room(self, uses: list[Use], whole: bool) -> None:
        """For the activations of all examples: those of one pass would lie scattered among what it frees."""
        for u, first in self._first.items():
            examples, layout = uses[u].examples, self.layouts[u]
            if first != u:
                examples = self.uses[first].examples
            elif examples is not None and layout is not None and not whole:
                shape = list(examples.shape)
                shape[layout.axis] = self.n * layout.share
                examples = examples.new_empty(shape)
            self.uses[u] = uses[u].with_examples(examples)

    def _copy(self, rows: slice, uses: list[Use]) -> None:
        for u, first in self._first.items():
            whole, part, layout = self.uses[u].examples, uses[u].examples, self.layouts[u]
            if first == u and layout is not None and part is not None and whole is not None:
                layout.split(whole)[rows] = layout.split(part)

    def fill(self, a: int, grads: list[Tensor | None], wanted: list[bool]) -> None:
        """Takes the gradients of output `a` at the examples that pass, one for each use."""
        rows, uses = self._passing
        for u, (use, layout, grad) in enumerate(zip(uses, self.layouts, grads)):
            if layout is None or not wanted[u]:
                continue
            axis, kept = 2 if isinstance(use, Dense) else 1, self.cotangents[u]
            if grad is None:
                if kept is not None:
                    kept[rows].select(axis, a).zero_()
                continue
            part = use.cotangents(grad, layout)
            if kept is None:
                kept = _room(part, (self.n, *part.shape[1:axis], self.o, *part.shape[axis:]))
                if rows.start or a:  # what came before had no gradient
                    kept.zero_()
                self.cotangents[u] = kept
            kept[rows].select(axis, a).copy_(part)

    def end(self) -> None:
        """Lets go of what only `fill` reads."""
        self._passing = slice(0, 0), []

    def forget(self, us: Iterable[int]) -> None:
        """Lets go of some uses, whose gradients are not asked for again."""
        for u in us:
            if u < len(self.uses):
                self.uses[u], self.cotangents[u] = self.uses[u].with_examples(None), None

    def activations(self, u: int) -> Tensor:
        use, layout = self.uses[u], self.layouts[u]
        assert isinstance(use, Dense)
        assert layout is not None
        return use.activations(layout)

    def held(self, u: int) -> Tensor:
        """The cotangents of a use that are there."""
        cotangents = self.cotangents[u]
        assert cotangents is not None
        return cotangents

    def index(self, u: int) -> Tensor:
        use, layout = self.uses[u], self.layouts[u]
        assert isinstance(use, Lookup)
        assert layout is not None
        return use.rows(layout)

    def of_use(self, u: int) -> Tensor:
        """(n, o, *weight): the gradients by the weight of one use."""
        use, g = self.uses[u], self.cotangents[u]
        shape = use.weight.shape
        if g is None:
            return use.weight.new_zeros((self.n, self.o, *(reversed(shape) if use.transposed else shape)))
        if isinstance(use, Dense):
            return use.oriented(gradients(self.activations(u), g))
        if isinstance(use, Lookup):
            return scattered(self.index(u), g, 0, shape[0])
        return g

    def slab(self, us: list[int], r: slice) -> Tensor:
        """(n, o, p): rows `r` along the first axis of a parameter, summed over its uses."""
        return sum((self._slab(u, r) for u in us[1:]), self._slab(us[0], r)).flatten(2)

    def _slab(self, u: int, r: slice) -> Tensor:
        use, g = self.uses[u], self.cotangents[u]
        if g is not None and isinstance(use, Lookup):
            return scattered(self.index(u), g, r.start, r.stop)
        if g is None or not isinstance(use, Dense) or not isinstance(use.form, Matrix):
            return self.of_use(u)[:, :, r]
        a, first = self.activations(u), use.form.rows_out != use.transposed
        product = gradients(a if first else a[..., r], g[:, :, :, r] if first else g)[:, :, 0]
        return product if first else product.mT

    def pulled_back(self, name: str, us: list[int], parameter: Tensor, most: int) -> Tensor:
        """(n, o, p): the gradients by a parameter from which the weights of some uses are computed."""
        total = parameter.new_zeros((self.n * self.o, parameter.numel()))
        for u in us:
            rows = self.of_use(u).flatten(0, 1)
            if self.uses[u].name == name:
                total += rows.reshape(len(rows), -1)
                continue
            weight = self.uses[u].weight
            for c in chunks(len(rows), len(rows) * (parameter.numel() + weight.numel()), most):
                back = _pull(weight, parameter, rows[c])
                if back is not None:
                    total[c] += back.reshape(len(back), -1)
        return total.unflatten(0, (self.n, self.o))


def _room(part: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Its last two axes in memory as `part` has them: copying in another order is slow."""
    if part.dim() > 1 and part.mT.is_contiguous():
        return part.new_empty((*shape[:-2], shape[-1], shape[-2])).mT
    return part.new_empty(shape)


def _first_alike(uses: list[Use], wanted: list[bool]) -> dict[int, int]:
    """For each wanted use the number of the first that reads the same activations."""
    found: dict[Any, int] = {}
    first: dict[int, int] = {}
    for u, use in enumerate(uses):
        x = use.examples
        if wanted[u]:
            first[u] = u if x is None else found.setdefault((x.data_ptr(), x.shape, x.stride()), u)
    return first


def _pull(weight: Tensor, parameter: Tensor, rows: Tensor) -> Tensor | None:
    """The rows times the derivative of `weight` by `parameter`; one at a time where autograd cannot take several."""
    try:
        return torch.autograd.grad(
            weight, parameter, rows, retain_graph=True, allow_unused=True, is_grads_batched=True
        )[0]
    except RuntimeError:
        parts = [torch.autograd.grad(weight, parameter, row, retain_graph=True, allow_unused=True)[0] for row in rows]
        return None if parts[0] is None else torch.stack(parts)


def scattered(index: Tensor, g: Tensor, start: int, stop: int) -> Tensor:
    """(n, o, stop - start, w): cotangents g (n, o, T, w) added to the rows that `index` (n, T) names."""
    n, o, t, w = g.shape
    height = stop - start
    inside = (index >= start) & (index < stop)
    place = torch.where(inside, index - start, height) + torch.arange(n, device=g.device)[:, None] * (height + 1)
    sums = g.new_zeros((n * (height + 1), o * w))
    sums.index_add_(0, place.flatten(), g.transpose(1, 2).reshape(n * t, o * w))
    return sums.view(n, height + 1, o, w)[:, :height].transpose(1, 2)


def differentiate(y: Tensor, sites: list[Site], cotangent: Tensor, retain: bool, extra: tuple[Any, ...] = ()):
    """Gradients by the outputs of the sites (and by `extra`, tensors or edges): None where there is no way."""
    inputs = [*(site.edge for site in sites), *extra]
    if not inputs or not y.requires_grad:
        return [None] * len(inputs)
    try:
        # Not `grad(y, inputs, cotangent)`, for which torch imports sympy: 45 MiB and a quarter of a second.
        with torch.enable_grad():
            along = (y * cotangent).sum()
        return list(torch.autograd.grad(along, inputs, retain_graph=retain, allow_unused=True))
    except CheckpointError as error:
        raise InputError(
            "`module` computes activations again on the way back (`torch.utils.checkpoint`), where their uses cannot "
            "be recorded. Switch that off: `memory=` bounds what a kernel holds."
        ) from error
    except RuntimeError as error:
        if "inplace" not in str(error):
            raise
        raise InputError(
            f"`module` changes in place what its own gradient needs: {error} Replace the in-place operation."
        ) from error
