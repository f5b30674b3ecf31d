"""Masked images in `gram`: the mask is one more channel, so that tiles, files and identities need not know of it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array

from ntkit._check import HostArray, check_inputs, check_same_features
from ntkit.kernels import settled
from ntkit.nn._masks import Masked, is_full, values_of


class OfPacked(eqx.Module):
    """A kernel of `Masked`, as one of arrays: its last channel is 1 where a pixel exists, and 0 elsewhere."""

    kernel: Any

    def __call__(self, x1: Array, x2: Array | None = None) -> Any:
        return self.kernel(_unpacked(x1), None if x2 is None else _unpacked(x2))

    @property
    def diagonal(self) -> Callable[[Array], Any] | None:
        of_masked = getattr(self.kernel, "diagonal", None)
        return (lambda x: of_masked(_unpacked(x))) if callable(of_masked) else None

    def settled(self, x: HostArray) -> "OfPacked":
        """With these inputs as the reference of `BatchNorm`s: see `ntkit.kernels.settled`."""
        return OfPacked(settled(self.kernel, _unpacked(x)))

    @property
    def weight(self) -> Callable[[tuple[int, ...]], int] | None:
        weigh: Callable[[tuple[int, ...]], int] | None = getattr(self.kernel, "weight", None)
        return None if weigh is None else (lambda shape: weigh((*shape[:-1], shape[-1] - 1)))


def packed(kernel: Any, x1: Any, x2: Any) -> tuple[Any, Any, Any]:
    """The kernel and its inputs without `Masked`: as they are if all pixels exist, else each with the new channel."""
    if is_full(x1) and is_full(x2):
        return kernel, values_of(x1), values_of(x2)
    first, second = pack(kernel, "x1", x1), None if x2 is None else pack(kernel, "x2", x2)
    if second is not None:
        check_same_features("x1", first[..., 1:], "x2", second[..., 1:])  # without the new channel
    return OfPacked(kernel), first, second


def pack(kernel: Any, name: str, x: Any) -> np.ndarray:
    """x as the arrays that `OfPacked(kernel)` takes. **Raises:** what the kernel has against its pixels."""
    check = getattr(kernel, "check_pixels", None)
    if isinstance(x, Masked) and check is not None:
        check(name, x)
    return _packed(name, x)


def _packed(name: str, x: Any) -> np.ndarray:
    values = check_inputs(name, x.filled() if isinstance(x, Masked) else x, min_ndim=3)
    mask = np.asarray(x.mask)[..., None] if isinstance(x, Masked) else np.ones((*values.shape[:-1], 1), bool)
    return np.concatenate([np.asarray(values), mask.astype(values.dtype)], axis=-1)


def _unpacked(x: HostArray) -> Masked:
    return Masked(x[..., :-1], x[..., -1] > 0.5)
