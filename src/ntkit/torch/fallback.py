"""Gradients of each example by some parameters, whatever the operations: by torch.func, or one example at a time."""

import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ntkit.torch.contract import entries
from ntkit.torch.target import Target

Tensor = torch.Tensor


def example_rows(target: Target, names: list[str], x: Tensor, outs: slice, *, loop: bool) -> dict[str, Tensor]:
    """(n, o, p) for each parameter in `names`."""
    if loop:
        return _by_loop(target, names, x, outs)
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():  # fused attention has no rule for vmap
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return {name: _by_vmap(target, name, x, outs) for name in names}


def _by_vmap(target: Target, name: str, x: Tensor, outs: slice) -> Tensor:
    def output(value: Tensor, example: Tensor) -> Tensor:
        return target.at({name: value}, example[None])[0, outs]

    jacobian = torch.func.vmap(torch.func.jacrev(output), in_dims=(None, 0))
    return entries(jacobian(target.parameters[name].detach(), x).detach())


def _by_loop(target: Target, names: list[str], x: Tensor, outs: slice) -> dict[str, Tensor]:
    values = [target.parameters[name] for name in names]
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for i in range(len(x)):
        with torch.enable_grad():
            y = target(x[i : i + 1])[0, outs]
        for a in range(len(y)):
            grads = torch.autograd.grad(y[a], values, retain_graph=a + 1 < len(y), allow_unused=True)
            for name, value, grad in zip(names, values, grads):
                found[name].append(torch.zeros_like(value).flatten() if grad is None else grad.flatten())
    return {name: torch.stack(rows).unflatten(0, (len(x), -1)) for name, rows in found.items()}
