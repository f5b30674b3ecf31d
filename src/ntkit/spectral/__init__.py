"""Eigenvalues and eigenfunctions of kernels: exact on the circle and on spheres, from data anywhere."""

from ntkit.spectral.mercer import Mercer as Mercer
from ntkit.spectral.mercer import mercer as mercer
from ntkit.spectral.nystrom import Nystrom as Nystrom
from ntkit.spectral.nystrom import nystrom as nystrom
