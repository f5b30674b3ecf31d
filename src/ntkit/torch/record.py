"""One forward pass, and where in it the parameters are used.

A `Recorder` sees every function of torch that is called on tensors, by modules or directly. Where a tensor that does
not
depend on the examples (a parameter, or something computed from parameters) meets one that does, in an operation it
knows,
it notes a *use* and hands the operation a detached copy. So whatever still reaches the output through the graph of
autograd
is what the recorder did not know.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ntkit.torch.uses import Site, Use

# Marks on tensors: one that depends on the examples; and the tensor that an expanded one was expanded from.
EXAMPLES = "_ntkit_examples"
SOURCE = "_ntkit_source"
# Views that only permute the entries of a matrix: inner products of gradients do not see them.
TRANSPOSED = {"TBackward0", "TransposeBackward0", "PermuteBackward0", "NumpyTBackward0"}


class Stopped(BaseException):
    """Ends a forward pass that has come as far as was asked for, at `out`."""

    def __init__(self, out: torch.Tensor):
        super().__init__()
        self.out = out


class Trail:
    """The calls that made something of the examples: their number, and a `sign` that tells the ways through a network
    apart. It stops behind call `until`, and keeps the `edge` of what call `mark` made; `made` lists what all made."""

    def __init__(self, until: int | None = None, mark: int | None = None, made: list[Any] | None = None):
        self.until, self.mark, self.made = until, mark, made
        self.calls, self.sign, self.sign_at_mark = 0, 0, 0
        self.edge: GradientEdge | None = None

    def add(self, func: Any, out: Any) -> None:
        if not isinstance(out, torch.Tensor):
            return
        self.calls, self.sign = self.calls + 1, hash((self.sign, func))
        if self.made is not None:
            self.made.append((out.grad_fn, self.sign))
        if self.calls == self.mark and out.grad_fn is not None:
            self.edge, self.sign_at_mark = get_gradient_edge(out), self.sign
        if self.calls == self.until and out.grad_fn is not None:
            raise Stopped(out)


class Recorder(TorchFunctionMode):
    """Records the uses of `parameters` (by identity) while it is entered; `sites` holds them in order."""

    def __init__(self, parameters: dict[int, str], rules: dict[Any, Callable], trail: Trail):
        super().__init__()
        self.parameters = parameters
        self.rules = rules
        self.trail = trail
        self.sites: list[Site] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:  # its own steps are recorded, in place of the whole
                return _ATTENTION(*args, **kwargs)
        of_examples = any_examples(args) or any_examples(kwargs)
        rule = self.rules.get(func) if of_examples and torch.is_grad_enabled() else None
        out = func(*args, **kwargs) if rule is None else rule(self, func, *args, **kwargs)
        self._mark(func, args, out, of_examples)
        return out

    def _mark(self, func, args, out, of_examples: bool) -> None:
        if of_examples:
            mark(out)
            self.trail.add(func, out)
            name = getattr(func, "__name__", "")
            if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
                mark(args[0])
        elif func in (torch.Tensor.expand, torch.Tensor.expand_as) and out.requires_grad:
            setattr(out, SOURCE, getattr(args[0], SOURCE, args[0]))

    def wanted(self, weight: Any) -> bool:
        """Whether `weight` is free of examples and leads back to a parameter that is asked for."""
        if not isinstance(weight, torch.Tensor) or not weight.requires_grad or is_examples(weight):
            return False
        return id(weight) in self.parameters or bool(self.behind(weight))

    def behind(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The parameters asked for that the graph behind `tensor` leads to."""
        return [v for v in leaves_behind(tensor) if id(v) in self.parameters]

    @staticmethod
    def examples(x: torch.Tensor) -> torch.Tensor:
        """`x`, marked: what is computed from it depends on the examples."""
        mark(x)
        return x

    def site(self, out: torch.Tensor) -> Site:
        site = Site(get_gradient_edge(out), tuple(out.shape))
        self.sites.append(site)
        return site

    def note(self, site: Site, use: Use) -> None:
        """Adds a use; a matrix that was only transposed is its parameter."""
        site.uses.append(use)
        weight = use.weight
        if id(weight) in self.parameters:
            use.name = self.parameters[id(weight)]
            return
        node = weight.grad_fn
        if weight.ndim == 2 and node is not None and node.name() in TRANSPOSED:
            variable = getattr(node.next_functions[0][0], "variable", None)
            if variable is not None and id(variable) in self.parameters and variable.shape == weight.shape[::-1]:
                use.name, use.transposed = self.parameters[id(variable)], True


def _without_override(function: FunctionType) -> Callable:
    """`function` of torch as written, without its first step, which hands the call to the mode as a whole."""
    names = {**function.__globals__, "has_torch_function": lambda _: False}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_ATTENTION = _without_override(F.multi_head_attention_forward)


def cut(weight: torch.Tensor) -> torch.Tensor:
    """The same numbers, a new leaf: what is computed from it requires grad, and does not lead to the parameter."""
    return weight.detach().requires_grad_()


def is_examples(tensor: torch.Tensor) -> bool:
    return getattr(tensor, EXAMPLES, False)


def any_examples(values: Any) -> bool:
    """Whether a tensor in nested tuples, lists or dictionaries depends on the examples."""
    if isinstance(values, torch.Tensor):
        return is_examples(values)
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (tuple, list)):
        return False
    return any(any_examples(v) for v in values)


def mark(values: Any) -> None:
    """Marks every tensor in `values` as one that depends on the examples."""
    if isinstance(values, torch.Tensor):
        setattr(values, EXAMPLES, True)
    elif isinstance(values, dict):
        mark(tuple(values.values()))
    elif isinstance(values, (tuple, list)):
        for value in values:
            mark(value)


def leaves_behind(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The leaves that require grad and that the graph behind `tensor` leads to."""
    if tensor.grad_fn is None:
        return [tensor] if tensor.requires_grad else []
    found: dict[int, torch.Tensor] = {}
    seen, queue = {tensor.grad_fn}, [tensor.grad_fn]
    while queue:
        node = queue.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                queue.append(after)
    return list(found.values())
