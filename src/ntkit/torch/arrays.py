"""Kernels of torch networks for who has NumPy arrays: Gram matrices, predictors, the command line."""

import copy
import functools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from ntkit.errors import InputError
from ntkit.gram.identity import array_digest, digest
from ntkit.torch.contract import Outputs
from ntkit.torch.kernel import EmpiricalNTK
from ntkit.torch.plan import Plan
from ntkit.torch.side import Side
from ntkit.torch.target import BATCH_NORMS, DROPOUTS, Target


def is_module(value: Any) -> bool:
    return isinstance(value, torch.nn.Module)


def holds_tensors(params: Any) -> bool:
    """Whether `params` are the parameters of a callable of torch."""
    return isinstance(params, dict) and any(isinstance(value, torch.Tensor) for value in params.values())


class OnArrays:
    """The kernel of a torch network as `ntkit.gram`, `posterior`, the estimators and the command line take kernels:
    from NumPy arrays to NumPy arrays. It is not differentiable, and takes no part in `jit`.

        kernel = ntkit.torch.OnArrays(module)
        ntkit.gram(kernel, x, out="kernel.npy")                   # resumes
        NTKRegressor(kernel=kernel).fit(x, y)

    **Arguments:** `function`, `params`, `outputs` and `memory` as of `ntkit.torch.EmpiricalNTK`. A module in training
    mode is taken as it predicts, where that makes a difference (`predicts` says so).

    - `only`: names of parameters, or beginnings of names that end at a dot; None for all.
    - `dtype`: "float32" or "float64" to compute in; None: the parameters' own.
    - `layout`: a function of the examples, applied first, such as to bring channels to the front.
    - `whole`: the network takes whole numbers, such as tokens.

    **Raises:** as `ntkit.torch.EmpiricalNTK`.
    """

    on_host = True

    def __init__(
        self,
        function: Callable[..., Any],
        params: dict[str, Any] | None = None,
        *,
        outputs: Outputs = "mean",
        only: Iterable[str] | None = None,
        memory: str | int | None = "1GiB",
        dtype: str | None = None,
        layout: Callable[[np.ndarray], np.ndarray] | None = None,
        whole: bool = False,
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
        self._own = function
        target = Target(function, params)
        self.names = list(target.parameters)
        self.sizes = {name: value.numel() for name, value in target.parameters.items()}
        wanted = self.names if only is None else _chosen(self.names, tuple(only))
        counted = wanted if params is None else {name: params[name] for name in wanted}
        if params is not None and len(wanted) < len(params):
            rest = {name: value for name, value in params.items() if name not in wanted}
            function = functools.partial(_with_rest, function, rest)
        self._target, self.wanted = target, wanted
        self._layout, self._whole = layout, whole
        self._latest: weakref.ref[np.ndarray] | None = None
        self._kept: dict[Any, Side] = {}
        self.kernel = EmpiricalNTK(function, counted, outputs=outputs, memory=memory)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_latest": None, "_kept": {}}

    def __repr__(self) -> str:
        """The same in every process, as the record of a job has it."""
        what = f"{type(self._own).__name__}, outputs={self.kernel.outputs!r}, parameters {', '.join(self.wanted)}"
        return f"OnArrays({what}, digest {self.digest})"

    @property
    def dtype(self) -> str:
        return str(self._target.like.dtype).removeprefix("torch.")

    @property
    def digest(self) -> str:
        """Of the values of all parameters and buffers as they are."""
        buffers = {} if self._target.module is None else dict(self._target.module.named_buffers())
        values = {**self._target.parameters, **buffers}
        return digest(*(f"{name} {array_digest(_array(value))}".encode() for name, value in sorted(values.items())))

    def program(self, x: np.ndarray) -> list[Any]:
        """What is known of the function beside its parameters: `ntkit.gram` knows a job by it."""
        module = self._target.module
        if module is None:
            return [self._own, self._layout]
        kinds = sorted({type(m) for m in module.modules()}, key=lambda kind: kind.__qualname__)
        return [str(module), [kind.forward for kind in kinds], self._layout]

    def check_examples(self, x: np.ndarray) -> None:
        """Runs the network on the first examples; raises whatever it raises."""
        with torch.no_grad(), self._target.unchanged():
            self._target(self.tensor(np.asarray(x[:3])))

    def side(self, x: np.ndarray, n: int) -> int:
        """How many of n examples are taken at a time: see `ntkit.gram.host`."""
        return self.kernel._rows_at_once(self.tensor(x), n)

    def tensor(self, x: np.ndarray) -> torch.Tensor:
        """Examples on the parameters' device: in their dtype, or as whole numbers."""
        like, x = self._target.like, x if self._layout is None else self._layout(x)
        # A copy: a tensor that shares its memory would keep the array, and by it what is kept for as long as that is.
        return torch.from_numpy(np.array(x)).to(like.device, torch.int64 if self._whole else like.dtype)

    def __call__(
        self, x1: np.ndarray, x2: np.ndarray | None = None, *, told: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """(n1, n2), (n1, n2, o) or (n1, n2, o, o), as `outputs` says. `told` is called with the steps done and all."""
        return self._run(x1, x2, told, apart=False)[""]

    def by_layer(
        self, x1: np.ndarray, x2: np.ndarray | None = None, *, told: Callable[[int, int], None] | None = None
    ) -> dict[str, np.ndarray]:
        """What each parameter adds, by name."""
        return self._run(x1, x2, told, apart=True)

    def diagonal(self, x: np.ndarray) -> np.ndarray:
        """Of each example with itself."""
        return _array(self.kernel.diagonal(self.tensor(np.asarray(x))))

    def plan(self, x: np.ndarray) -> Plan:
        return self.kernel.plan(self.tensor(x))

    def _run(self, x1: Any, x2: Any, told: Callable[[int, int], None] | None, apart: bool) -> dict[str, np.ndarray]:
        x1, second = np.asarray(x1), None if x2 is None else self.tensor(np.asarray(x2))
        # Only within one job of `ntkit.gram`: between calls of a user's own, x1 and the parameters may change in place.
        kept = None if told is None else self._kept_of(x1)
        found = self.kernel._kernels(self.tensor(x1), second, alone=False, apart=apart, told=told, kept=kept)
        return {name: _array(value) for name, value in found.items()}

    def _kept_of(self, x1: np.ndarray) -> dict[Any, Side]:
        """What an earlier tile left of x1: tiles of one row hand over the same array. When it goes, so does that."""
        if self._latest is None or self._latest() is not x1:
            self._kept.clear()
            self._latest = weakref.ref(x1, lambda _, kept=self._kept: kept.clear())
        return self._kept


def _with_rest(function: Callable[..., Any], rest: dict[str, Any], some: dict[str, Any], x: torch.Tensor) -> Any:
    return function({**rest, **some}, x)


def _array(value: torch.Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


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
