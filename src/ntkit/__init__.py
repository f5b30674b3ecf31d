"""ntkit computes, trains and diagnoses neural networks through their Neural Tangent Kernel.

An architecture is a tree of layers (`ntkit.nn`) with two readings: a finite network that runs and trains, and its
infinitely wide limit, whose kernels `NTK` and `NNGP` are ordinary JAX functions of two batches of examples.
`EmpiricalNTK` is the kernel of a network that exists, any JAX function at its parameters.

Everything downstream takes a kernel: `gram` computes matrices that need not fit in memory, `posterior`, `ridge` and
`ensemble` predict with it, `gradient_flow` trains a function with it, `mercer` and `nystrom` take it apart. Doors to
scikit-learn (`ntkit.sklearn`) and the command line are opened by importing them.
"""

import sys

if sys.argv[:1] == ["-m"] and {"ntkit", "ntkit.cli"} & set(sys.orig_argv):  # Python imports this file first
    import ntkit_command

    ntkit_command.hear()

from ntkit import nn
from ntkit.diagnose import alignment, compare_training, drift, feature_study, frequency_study, width_study
from ntkit.empirical import (
    ByJacobian,
    ByVectorProducts,
    EmpiricalNTK,
    Structured,
    linearize,
    project,
    random_features,
    taylor_expand,
)
from ntkit.errors import ComputationError, InputError, NtkitError
from ntkit.gram import gram
from ntkit.kernels import NNGP, NTK, Both, Kernel, Kernels, Together, kernels
from ntkit.linalg import CG, Cholesky, JitterWarning, effective_rank, logdet, top_eigenpairs, trace
from ntkit.nn._masks import Masked, pad
from ntkit.predict import (
    descend,
    ensemble,
    gradient_flow,
    log_marginal_likelihood,
    maximise_likelihood,
    posterior,
    ridge,
    tune,
)
from ntkit.spectral import mercer, nystrom

__version__ = "0.1.0"

__all__ = [
    "CG",
    "NNGP",
    "NTK",
    "Both",
    "ByJacobian",
    "ByVectorProducts",
    "Cholesky",
    "ComputationError",
    "EmpiricalNTK",
    "InputError",
    "JitterWarning",
    "Kernel",
    "Kernels",
    "Masked",
    "NtkitError",
    "Structured",
    "Together",
    "alignment",
    "compare_training",
    "descend",
    "drift",
    "effective_rank",
    "ensemble",
    "feature_study",
    "frequency_study",
    "gradient_flow",
    "gram",
    "kernels",
    "linearize",
    "log_marginal_likelihood",
    "logdet",
    "maximise_likelihood",
    "mercer",
    "nn",
    "nystrom",
    "pad",
    "posterior",
    "project",
    "random_features",
    "ridge",
    "taylor_expand",
    "top_eigenpairs",
    "trace",
    "tune",
    "width_study",
]
