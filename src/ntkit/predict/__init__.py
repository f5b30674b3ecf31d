"""Prediction: posteriors, kernel ridge, infinite ensembles, gradient flow, and the choice of a kernel.

Factorise once, ask often.
"""

from ntkit.linalg import CG as CG
from ntkit.linalg import Cholesky as Cholesky
from ntkit.linalg import JitterWarning as JitterWarning
from ntkit.linalg import Statistics as Statistics
from ntkit.predict._times import SingularKernelWarning as SingularKernelWarning
from ntkit.predict.classify import Calibration as Calibration
from ntkit.predict.classify import Classifier as Classifier
from ntkit.predict.classify import class_probabilities as class_probabilities
from ntkit.predict.classify import classify as classify
from ntkit.predict.classify import fit_temperature as fit_temperature
from ntkit.predict.classify import one_hot as one_hot
from ntkit.predict.ensemble import Ensemble as Ensemble
from ntkit.predict.ensemble import ensemble as ensemble
from ntkit.predict.flow import ODE as ODE
from ntkit.predict.flow import SGD as SGD
from ntkit.predict.flow import AcceleratedFlow as AcceleratedFlow
from ntkit.predict.flow import BestTime as BestTime
from ntkit.predict.flow import Components as Components
from ntkit.predict.flow import CrossEntropy as CrossEntropy
from ntkit.predict.flow import FlowStatistics as FlowStatistics
from ntkit.predict.flow import GradientDescent as GradientDescent
from ntkit.predict.flow import HeavyBall as HeavyBall
from ntkit.predict.flow import HeavyBallFlow as HeavyBallFlow
from ntkit.predict.flow import Huber as Huber
from ntkit.predict.flow import Lanczos as Lanczos
from ntkit.predict.flow import LanczosFlow as LanczosFlow
from ntkit.predict.flow import LanczosStatistics as LanczosStatistics
from ntkit.predict.flow import LineSearch as LineSearch
from ntkit.predict.flow import Logistic as Logistic
from ntkit.predict.flow import LossDescent as LossDescent
from ntkit.predict.flow import LossFlow as LossFlow
from ntkit.predict.flow import Nesterov as Nesterov
from ntkit.predict.flow import NesterovFlow as NesterovFlow
from ntkit.predict.flow import RidgeMatch as RidgeMatch
from ntkit.predict.flow import Squared as Squared
from ntkit.predict.flow import SquaredDescent as SquaredDescent
from ntkit.predict.flow import SquaredFlow as SquaredFlow
from ntkit.predict.flow import descend as descend
from ntkit.predict.flow import gradient_flow as gradient_flow
from ntkit.predict.likelihood import log_marginal_likelihood as log_marginal_likelihood
from ntkit.predict.maximise import Maximum as Maximum
from ntkit.predict.maximise import NotConvergedWarning as NotConvergedWarning
from ntkit.predict.maximise import maximise_likelihood as maximise_likelihood
from ntkit.predict.posterior import LeaveOneOut as LeaveOneOut
from ntkit.predict.posterior import Posterior as Posterior
from ntkit.predict.posterior import Prediction as Prediction
from ntkit.predict.posterior import posterior as posterior
from ntkit.predict.ridge import Ridge as Ridge
from ntkit.predict.ridge import ridge as ridge
from ntkit.predict.tune import Candidate as Candidate
from ntkit.predict.tune import KFold as KFold
from ntkit.predict.tune import Tuning as Tuning
from ntkit.predict.tune import tune as tune
