"""Arguments and outputs of torch kernels, checked once and refused by name."""

from typing import Any

import torch

from ntkit.errors import InputError
from ntkit.torch.target import Target

Tensor = torch.Tensor


def tolerance(dtype: torch.dtype) -> float:
    """How far two computations of one number may be apart by rounding, relative to the largest."""
    return 1e-4 if dtype == torch.float32 else 1e-9


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding, relative to the largest entry."""
    if a.shape != b.shape:
        return False
    scale = max(float(a.abs().max()), float(b.abs().max())) if a.numel() else 0.0
    return scale == 0.0 or float((a - b).abs().max()) <= tolerance(a.dtype) * scale


def check_examples(name: str, x: Any, target: Target) -> Tensor:
    """`x` as a batch of examples on the device of the parameters, without a graph."""
    if not isinstance(x, Tensor):
        raise InputError(
            f"`{name}` must be a torch tensor, but is a {type(x).__name__}. Use `torch.as_tensor({name})`."
        )
    if x.ndim < 1 or len(x) == 0 or x.numel() == 0:
        raise InputError(f"`{name}` must hold at least one example along axis 0, but has shape {tuple(x.shape)}.")
    like = target.like
    if x.device != like.device:
        raise InputError(
            f"`{name}` is on {x.device}, but the parameters are on {like.device}. Use "
            f"`{name}.to({str(like.device)!r})`."
        )
    if torch.is_inference_mode_enabled():
        raise InputError("A kernel is made of gradients, which `torch.inference_mode()` forbids: leave it out.")
    if x.is_complex():
        raise InputError(f"`{name}` must be real or integer, but has dtype {x.dtype}.")
    if x.is_floating_point() and x.dtype != like.dtype:
        raise InputError(
            f"`{name}` has dtype {x.dtype}, but the parameters have {like.dtype}. Use `{name}.to({like.dtype})`."
        )
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        where = [int(i) for i in torch.nonzero(~torch.isfinite(x))[0]]
        raise InputError(f"`{name}` must be finite, but `{name}{where}` is {x[tuple(where)].item()}.")
    return x.clone() if x.is_inference() else x.detach()


def passed(target: Target, x: Tensor) -> Any:
    """The outputs at x. **Raises:** `InputError` where the module does not take such examples."""
    try:
        return target(x)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"`module` fails for a batch of shape {tuple(x.shape)} ({x.dtype}), three of these examples: {error}"
        ) from error


def check_outputs(target: Target, x: Tensor, y: Any) -> None:
    """Refuses outputs that are not finite floats (n, o)."""
    n = len(x)
    if not isinstance(y, Tensor):
        raise InputError(
            f"`module` must return a tensor (n, o), but returned a {type(y).__name__}. "
            "Wrap it: `lambda params, x: torch.func.functional_call(module, params, (x,)).logits`, say."
        )
    if y.ndim != 2 or len(y) != n:
        raise InputError(
            f"`module` must return outputs (n, o), but for n = {n} examples it returned shape {tuple(y.shape)}. "
            "Flatten or select outputs: `y.flatten(1)`, `y[:, -1]`, `y[:, None]`."
        )
    if y.dtype != target.like.dtype:
        raise InputError(
            f"`module` returned {y.dtype}, but its parameters are {target.like.dtype}. Leave out autocast."
        )
    if not bool(torch.isfinite(y).all()):
        raise InputError(f"`module` computes NaN or infinity{_first_bad_layer(target, x)}. Look at its weights there.")


def _first_bad_layer(target: Target, x: Tensor) -> str:
    """Which layer's output is the first that is not finite, in words."""
    if target.module is None:
        return ""
    found: list[str] = []

    def hook(path: str, layer: torch.nn.Module):
        def look(_, __, out):
            if isinstance(out, Tensor) and out.is_floating_point() and not bool(torch.isfinite(out).all()):
                found.append(f": first in the output of `{path or 'module'}` ({type(layer).__name__})")

        return look

    handles = [layer.register_forward_hook(hook(path, layer)) for path, layer in target.module.named_modules()]
    try:
        with torch.no_grad():
            target(x)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def check_same_examples(x1: Tensor, x2: Tensor) -> None:
    if x1.shape[1:] != x2.shape[1:] or x1.dtype != x2.dtype:
        raise InputError(
            "`x1` and `x2` must have examples of one shape and dtype, but have "
            f"{tuple(x1.shape)} {x1.dtype} and {tuple(x2.shape)} {x2.dtype}."
        )
