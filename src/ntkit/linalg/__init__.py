"""Solvers and spectra for kernel matrices: factorise once, ask often, and say what it cost."""

from ntkit.linalg.cg import CG as CG
from ntkit.linalg.cg import CGSolver as CGSolver
from ntkit.linalg.cholesky import Cholesky as Cholesky
from ntkit.linalg.cholesky import CholeskySolver as CholeskySolver
from ntkit.linalg.cholesky import JitterWarning as JitterWarning
from ntkit.linalg.eigenpairs import Eigenpairs as Eigenpairs
from ntkit.linalg.eigenpairs import top_eigenpairs as top_eigenpairs
from ntkit.linalg.operators import KernelOperator as KernelOperator
from ntkit.linalg.operators import MatrixOperator as MatrixOperator
from ntkit.linalg.pivoted_cholesky import pivoted_cholesky as pivoted_cholesky
from ntkit.linalg.sketch import Projection as Projection
from ntkit.linalg.spectrum import Spectrum as Spectrum
from ntkit.linalg.spectrum import spectrum as spectrum
from ntkit.linalg.statistics import Statistics as Statistics
from ntkit.linalg.traces import Estimate as Estimate
from ntkit.linalg.traces import effective_rank as effective_rank
from ntkit.linalg.traces import logdet as logdet
from ntkit.linalg.traces import trace as trace
