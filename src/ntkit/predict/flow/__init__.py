"""Training in function space, with a kernel that stays as it is: gradient flow, and the steps of optimisers."""

from ntkit.predict.flow.accelerated import AcceleratedFlow as AcceleratedFlow
from ntkit.predict.flow.accelerated import HeavyBallFlow as HeavyBallFlow
from ntkit.predict.flow.accelerated import NesterovFlow as NesterovFlow
from ntkit.predict.flow.descent import SquaredDescent as SquaredDescent
from ntkit.predict.flow.descent import descend as descend
from ntkit.predict.flow.flow import LossFlow as LossFlow
from ntkit.predict.flow.flow import SquaredFlow as SquaredFlow
from ntkit.predict.flow.flow import gradient_flow as gradient_flow
from ntkit.predict.flow.iterated import LossDescent as LossDescent
from ntkit.predict.flow.krylov import Lanczos as Lanczos
from ntkit.predict.flow.krylov import LanczosFlow as LanczosFlow
from ntkit.predict.flow.krylov import LanczosStatistics as LanczosStatistics
from ntkit.predict.flow.losses import CrossEntropy as CrossEntropy
from ntkit.predict.flow.losses import Huber as Huber
from ntkit.predict.flow.losses import Logistic as Logistic
from ntkit.predict.flow.losses import Squared as Squared
from ntkit.predict.flow.ode import ODE as ODE
from ntkit.predict.flow.ode import FlowStatistics as FlowStatistics
from ntkit.predict.flow.optimizers import GradientDescent as GradientDescent
from ntkit.predict.flow.optimizers import HeavyBall as HeavyBall
from ntkit.predict.flow.optimizers import LineSearch as LineSearch
from ntkit.predict.flow.optimizers import Nesterov as Nesterov
from ntkit.predict.flow.spectral import Components as Components
from ntkit.predict.flow.stochastic import SGD as SGD
from ntkit.predict.flow.stopping import BestTime as BestTime
from ntkit.predict.flow.stopping import RidgeMatch as RidgeMatch
