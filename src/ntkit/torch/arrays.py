"""Kernels of torch networks for who has NumPy arrays: the command line."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from ntkit._progress import Meter, Progress
from ntkit.errors import InputError
from ntkit.torch.contract import Outputs
from ntkit.torch.kernel import EmpiricalNTK
from ntkit.torch.plan import Plan
from ntkit.torch.target import BATCH_NORMS, DROPOUTS, Target


def is_module(value: Any) -> bool:
    return isinstance(value, torch.nn.Module)


def holds_tensors(params: Any) -> bool:
    """Whether `params` are the parameters of a callable of torch."""
    return isinstance(params, dict) and any(isinstance(value, torch.Tensor) for value in params.values())


class OnArrays:
    """The kernel of a network, `module` or `fn` with `params`, from arrays to arrays.

    A module in training mode is taken as it predicts, where that makes a difference (`predicts` says so). `only`: names
    of parameters, or beginnings of names that end at a dot. `dtype` None: the parameters' own.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        params: dict[str, Any] | None,
        *,
        outputs: Outputs = "mean",
        only: Iterable[str] | None = None,
        memory: str | int | None = "1GiB",
        dtype: str | None = None,
    ):
        self.predicts = False
        if isinstance(function, torch.nn.Module):
            moody = [m for m in function.modules() if isinstance(m, (*BATCH_NORMS, *DROPOUTS)) and m.training]
            self.predicts = bool(moody)
            function = copy.deepcopy(function).eval() if self.predicts or dtype else function
        if dtype is not None:
            to = getattr(torch, dtype)
            function = function.to(to) if isinstance(function, torch.nn.Module) else function
            params = params if params is None else {name: value.to(to) for name, value in params.items()}
        target = Target(function, params)
        self.names = list(target.parameters)
        self.sizes = {name: value.numel() for name, value in target.parameters.items()}
        wanted = self.names if only is None else _chosen(self.names, tuple(only))
        counted = wanted if params is None else {name: params[name] for name in wanted}
        if params is not None and len(wanted) < len(params):
            inner, rest = function, {name: value for name, value in params.items() if name not in wanted}
            function = lambda some, x: inner({**rest, **some}, x)  # noqa: E731
        self._target, self.wanted = target, wanted
        self.kernel = EmpiricalNTK(function, counted, outputs=outputs, memory=memory)

    @property
    def dtype(self) -> str:
        return str(self._target.like.dtype).removeprefix("torch.")

    def tensor(self, x: np.ndarray, whole: bool = False) -> torch.Tensor:
        """Examples on the parameters' device: in their dtype, or as `whole` numbers."""
        like = self._target.like
        return torch.as_tensor(np.ascontiguousarray(x)).to(like.device, torch.int64 if whole else like.dtype)

    def outputs(self, x: torch.Tensor) -> None:
        """Runs the network once; raises whatever it raises."""
        with torch.no_grad(), self._target.unchanged():
            self._target(x)

    def __call__(self, x: torch.Tensor, *, progress: Progress = False) -> np.ndarray:
        return self._run(x, progress, apart=False)[""]

    def by_layer(self, x: torch.Tensor, *, progress: Progress = False) -> dict[str, np.ndarray]:
        return self._run(x, progress, apart=True)

    def plan(self, x: torch.Tensor) -> Plan:
        return self.kernel.plan(x)

    def _run(self, x: torch.Tensor, progress: Progress, apart: bool) -> dict[str, np.ndarray]:
        meter: list[Meter] = []

        def told(done: int, total: int) -> None:
            if not meter:
                meter.append(Meter(progress, 0, total, "kernel", "steps"))
            meter[0](done)

        try:
            found = self.kernel._kernels(x, None, alone=False, apart=apart, told=told)
        finally:
            for one in meter:
                one.close()
        return {name: value.cpu().numpy() for name, value in found.items()}


def _chosen(names: list[str], only: tuple[str, ...]) -> list[str]:
    for part in only:
        if not any(_begins(name, part) for name in names):
            raise InputError(
                f"`only` names {part!r}, but no parameter begins so. The parameters are "
                f"{', '.join(f'`{name}`' for name in names)}."
            )
    return [name for name in names if any(_begins(name, part) for part in only)]


def _begins(name: str, part: str) -> bool:
    return name == part or name.startswith(part.rstrip(".") + ".")
