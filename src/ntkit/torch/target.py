"""The function whose kernel is asked for: a module or a callable, its parameters, and what must be left as it was."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ntkit.errors import InputError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class Target:
    """f(x) with `parameters`, the tensors themselves, by name."""

    def __init__(self, function: Any, params: Any):
        if not callable(function):
            raise InputError(f"`module` must be a torch module or a callable, but got {type(function).__name__}.")
        self.function: Callable[..., Any] = function
        self.module = function if isinstance(function, nn.Module) else None
        self.parameters = _of_module(self.module, params) if self.module is not None else _of_callable(params)
        for name, value in self.parameters.items():
            _check_parameter(name, value)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x) if self.module is not None else self.function(dict(self.parameters), x)

    def at(self, parameters: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """f(x) with other values of some parameters; buffers are copies."""
        if self.module is None:
            return self.function({**self.parameters, **parameters}, x)
        buffers = {name: value.clone() for name, value in self.module.named_buffers()}
        return torch.func.functional_call(self.module, (dict(parameters), buffers), (x,))

    @property
    def like(self) -> torch.Tensor:
        """A parameter, for its device and dtype."""
        return next(iter(self.parameters.values()))

    def state(self) -> tuple:
        """What a recorded structure depends on beside the input's shape."""
        flags = tuple(m.training for m in self.module.modules()) if self.module is not None else ()
        return flags, tuple((id(p), p.requires_grad) for p in self.parameters.values())

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Puts the buffers back that a forward pass changes."""
        buffers = dict(self.module.named_buffers()) if self.module is not None else {}
        before = {name: value.clone() for name, value in buffers.items()}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in buffers.items():
                    if not torch.equal(value, before[name]):
                        value.copy_(before[name])

    def check_mode(self) -> None:
        """Refuses layers that in their present mode make no function of one example."""
        for path, layer in self.module.named_modules() if self.module is not None else ():
            name = f"`{path}` ({type(layer).__name__})" if path else f"`module` ({type(layer).__name__})"
            if isinstance(layer, BATCH_NORMS) and (layer.training or layer.running_mean is None):
                way = "Call `module.eval()` first." if layer.training else "Give it track_running_stats=True."
                raise InputError(
                    f"{name} normalises by the statistics of the batch, so that no example has a kernel of its own. "
                    f"{way}"
                )
            if isinstance(layer, DROPOUTS) and layer.training and layer.p > 0:
                raise InputError(
                    f"{name} drops out at random (p={layer.p}), so that `module` is not a function of its input. "
                    "Call `module.eval()` first."
                )


def _of_module(module: nn.Module, params: Any) -> dict[str, torch.Tensor]:
    trainable: dict[str, torch.Tensor] = {n: p for n, p in module.named_parameters() if p.requires_grad}
    if not trainable:
        kind = "has no parameters" if not list(module.parameters()) else "has only frozen parameters"
        raise InputError(
            f"`module` {kind}; its kernel would be 0. Set `requires_grad_(True)` on what is to be trained."
        )
    if params is None:
        return trainable
    if isinstance(params, (str, Mapping)) or not isinstance(params, Iterable):
        raise InputError("`params` of a module must be None or a list of names of its parameters.")
    names = list(params)
    unknown = [n for n in names if n not in trainable]
    if unknown or not names:
        raise InputError(
            f"`params` must name trainable parameters of `module`, but has {unknown}. There are {', '.join(trainable)}."
        )
    return {n: trainable[n] for n in names}


def _of_callable(params: Any) -> dict[str, torch.Tensor]:
    if not isinstance(params, Mapping) or not params or not all(isinstance(v, torch.Tensor) for v in params.values()):
        raise InputError("`params` of a callable fn(params, x) must be a dictionary of tensors by name, and not empty.")
    for name, value in params.items():
        _check_parameter(name, value)
    return {str(name): value.detach().requires_grad_() for name, value in params.items()}


def _check_parameter(name: str, value: torch.Tensor) -> None:
    if value.is_complex():
        raise InputError(
            f"Parameter `{name}` is complex ({value.dtype}). Hold its real and imaginary part as two parameters."
        )
    if value.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"Parameter `{name}` has dtype {value.dtype}, whose sums are too coarse for a kernel. Use `module.float()`."
        )
