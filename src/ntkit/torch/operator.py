"""The empirical NTK as a linear operator, and the network linearised: one vjp and one jvp, no Jacobian."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ntkit.errors import InputError
from ntkit.torch.target import Target

Tensor = torch.Tensor


def operator_of(target: Target, x: Tensor, o: int, blocks: list[slice]) -> LinearOperator:
    """K v = J (J^T v), examples in `blocks`."""
    like = target.like
    size = len(x) * o

    def product(vector: np.ndarray) -> np.ndarray:
        v = torch.as_tensor(np.ascontiguousarray(vector).reshape(len(x), o)).to(like)
        start = {name: value.detach() for name, value in target.parameters.items()}
        with target.unchanged():
            w = _pulled(target, x, v, blocks)
            parts = [pushed(target, x[b], start, w)[1] for b in blocks]
        return torch.cat(parts).flatten().cpu().numpy()

    dtype = np.dtype(str(like.dtype).removeprefix("torch."))
    return _Products(dtype, (size, size), product)


class _Products(LinearOperator):
    """A symmetric operator given by its products."""

    def __init__(self, dtype: np.dtype, shape: tuple[int, int], product: Callable[[np.ndarray], np.ndarray]):
        super().__init__(dtype, shape)
        self._product = product

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._product(x)

    def _adjoint(self) -> "_Products":
        return self


def _pulled(target: Target, x: Tensor, v: Tensor, blocks: list[slice]) -> dict[str, Tensor]:
    """J^T v by parameter."""
    values = list(target.parameters.values())
    sums = [torch.zeros_like(value) for value in values]
    for b in blocks:
        with torch.enable_grad():
            y = target(x[b])
        grads = torch.autograd.grad(y, values, v[b], allow_unused=True)
        for total, grad in zip(sums, grads):
            if grad is not None:
                total += grad
    return dict(zip(target.parameters, (s.detach() for s in sums)))


def pushed(target: Target, x: Tensor, start: dict[str, Tensor], w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """f(x) at the parameters `start`, and J w there."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():  # fused attention has no forward derivative
        warnings.filterwarnings(
            "ignore", message=".*torch.jit.script.*", category=DeprecationWarning
        )  # torch's own use
        try:
            value, moved = torch.func.jvp(lambda params: target.at(params, x), (start,), (w,))[:2]
        except (NotImplementedError, RuntimeError) as error:
            return _pushed_in_reverse(target, x, start, w, error)
        return value, moved


def _pushed_in_reverse(
    target: Target, x: Tensor, start: dict[str, Tensor], w: dict[str, Tensor], reason: Exception
) -> tuple[Tensor, Tensor]:
    """The same where an operation has no forward derivative: J w is the derivative of (J^T u) . w, which is linear in
    u."""
    held = {name: value.detach().requires_grad_() for name, value in start.items()}
    follow = torch.is_grad_enabled() and any(value.requires_grad for value in w.values())
    try:
        with torch.enable_grad():
            y = target.at(held, x)
            u = torch.zeros_like(y, requires_grad=True)
            back = torch.autograd.grad(y, list(held.values()), u, create_graph=True, allow_unused=True)
            along = sum((g * w[name]).sum() for name, g in zip(held, back) if g is not None)
            moved = torch.autograd.grad(along, u, create_graph=follow)[0] if isinstance(along, Tensor) else 0 * y
    except RuntimeError as error:
        first, second = (str(e).splitlines()[0].rstrip(".") for e in (reason, error))
        raise InputError(
            f"`module` holds an operation that has neither a forward derivative ({first}) nor a second one "
            f"({second}), one of which the operator and the linearisation need. The kernel itself does not."
        ) from error
    return y.detach(), moved


class Linearized(nn.Module):
    """x -> f_0(x) + J(x) (theta - theta_0), a module with the parameters `theta`, which start at theta_0.

    Training it is training in the tangent space: its empirical NTK is that of the network at theta_0, and stays so.
    """

    def __init__(self, target: Target):
        super().__init__()
        self._target = [target]  # in a list, so that the network is no submodule: its parameters do not move
        self._names = list(target.parameters)
        self._start = {name: value.detach().clone() for name, value in target.parameters.items()}
        self.theta = nn.ParameterList([nn.Parameter(value.clone()) for value in self._start.values()])

    def forward(self, x: Tensor) -> Tensor:
        (target,) = self._target
        w = {name: value - self._start[name] for name, value in zip(self._names, self.theta)}
        value, slope = pushed(target, x, self._start, w)
        return value + slope
