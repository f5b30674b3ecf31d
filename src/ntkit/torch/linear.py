"""`linearize`: the network to first order in its parameters."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from ntkit.torch.operator import Linearized
from ntkit.torch.target import Target


def linearize(
    module: torch.nn.Module | Callable[..., Any], params: Mapping[str, torch.Tensor] | Iterable[str] | None = None
) -> Linearized:
    """x -> f_0(x) + J(x) (theta - theta_0), as a module whose parameters theta start at those of `module`, copied.

    **Arguments:** as for `EmpiricalNTK`; parameters that are left out, or frozen, stay where they are.

    Lee et al. 2019, "Wide neural networks of any depth evolve as linear models under gradient descent", equation 3.
    """
    target = Target(module, params)
    target.check_mode()
    return Linearized(target)
