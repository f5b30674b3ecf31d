"""How far training moves the kernel of a torch module."""

from typing import Any

import torch

from ntkit import diagnose
from ntkit.diagnose.drift import Follower
from ntkit.errors import InputError
from ntkit.torch.kernel import EmpiricalNTK


class Drift:
    """Follows a kernel through your training loop: call it at the start, and whenever you want to know.

        recorder = ntkit.torch.Drift(ntkit.torch.EmpiricalNTK(module), x, y)
        recorder()                                   # the start, K_0
        for ...:
            optimizer.step()
            recorder()
        recorder.found.drift                         # |K_t - K_0|_F / |K_0|_F

    Each call computes `kernel(x)` at the parameters as they are then. The numbers are those of `ntkit.drift`, by the
    same arithmetic. A module with BatchNorm or Dropout must be in eval mode while it is called.

    **Arguments:** `kernel`: an `ntkit.torch.EmpiricalNTK` with `outputs="mean"`. `x`: examples. `y`: labels (n,) or (n,
    o) of floats, as for `ntkit.alignment`, or None.

    **Raises:** `ntkit.InputError` for a kernel of other outputs, and for labels that do not fit.
    """

    def __init__(self, kernel: EmpiricalNTK, x: torch.Tensor, y: torch.Tensor | None = None):
        if not isinstance(kernel, EmpiricalNTK):
            raise InputError(f"`kernel` must be an `ntkit.torch.EmpiricalNTK`; got {type(kernel).__name__}.")
        if kernel.outputs != "mean":
            raise InputError(f'`outputs` of `kernel` must be "mean", for one matrix (n, n), but is {kernel.outputs!r}.')
        self._kernel, self._x = kernel, x
        self._follower = Follower(_on_host(y), len(x) if isinstance(x, torch.Tensor) and x.ndim else 0)

    def __call__(self) -> diagnose.Drift:
        """Takes the kernel as it is now; all that was found until now."""
        self._follower.add(_on_host(self._kernel(self._x)))
        return self.found

    @property
    def found(self) -> diagnose.Drift:
        """`ntkit.diagnose.Drift`, a number for each call. **Raises:** `ntkit.InputError` before the first one."""
        return self._follower.found("`Drift` was not called yet: call the recorder at the start, and after some steps.")


def _on_host(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
