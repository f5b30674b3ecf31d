"""Kernels of finite networks: the empirical NTK of any JAX function, dense, by parts, or as an operator."""

from ntkit.empirical.features import DrawnFeatures as DrawnFeatures
from ntkit.empirical.features import GaussianFeatures as GaussianFeatures
from ntkit.empirical.features import NetworkFeatures as NetworkFeatures
from ntkit.empirical.features import RandomFeatures as RandomFeatures
from ntkit.empirical.features import random_features as random_features
from ntkit.empirical.kernel import EmpiricalNTK as EmpiricalNTK
from ntkit.empirical.linear import linearize as linearize
from ntkit.empirical.linear import taylor_expand as taylor_expand
from ntkit.empirical.methods import ByJacobian as ByJacobian
from ntkit.empirical.methods import ByVectorProducts as ByVectorProducts
from ntkit.empirical.methods import Structured as Structured
from ntkit.empirical.operator import NTKOperator as NTKOperator
from ntkit.empirical.plan import Plan as Plan
from ntkit.empirical.project import project as project
