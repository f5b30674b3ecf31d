"""The door to scikit-learn: estimators, a kernel for Gaussian processes, and a callable for support vector machines.

from ntkit.sklearn import NTKRegressor, NTKClassifier, NTKKernel, gram_function
"""

from ntkit.sklearn._classifier import NTKClassifier
from ntkit.sklearn._gp import NTKKernel
from ntkit.sklearn._gram import GramFunction, gram_function
from ntkit.sklearn._regressor import NTKRegressor

__all__ = ["GramFunction", "NTKClassifier", "NTKKernel", "NTKRegressor", "gram_function"]
