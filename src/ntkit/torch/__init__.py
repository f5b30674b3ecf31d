"""Empirical kernels of torch modules: tensors in, tensors out. Needs the extra `torch`.

import ntkit.torch
kernel = ntkit.torch.EmpiricalNTK(module, outputs="full")
kernel(x1, x2)                 # (n1, n2, o, o)
print(kernel.plan(x1, x2))     # what is done for each parameter
"""

from ntkit.torch.arrays import OnArrays
from ntkit.torch.drift import Drift
from ntkit.torch.kernel import EmpiricalNTK
from ntkit.torch.linear import linearize
from ntkit.torch.operator import Linearized
from ntkit.torch.plan import Plan, Step

__all__ = ["Drift", "EmpiricalNTK", "Linearized", "OnArrays", "Plan", "Step", "linearize"]
